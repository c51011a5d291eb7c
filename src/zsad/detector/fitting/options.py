"""Options of `Detector.fit`; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.detector.calibration.options import Aim, CalibrateOptions
from zsad.errors import ConfigError
from zsad.files.settings import build_config

if TYPE_CHECKING:
    from zsad.detector.thresholds import Calibration


@dataclass(frozen=True, kw_only=True)
class FitOptions(CalibrateOptions):
    """What the verdicts are to achieve, and what becomes of the good images.

    Attributes:
        split: whether every second image is held out for the threshold and is no reference, which gives the
            exact promise of held-out images; otherwise every image is both.
        drop_outliers: whether to leave out images that stand out from the others; otherwise they are named
            and kept.
        augment_references: whether each reference also counts in the other seven ways that quarter turns and
            a flip give; an image is left out in all of them.
    """

    split: bool = False
    drop_outliers: bool = False
    augment_references: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule != "rate":
            raise ConfigError(
                f'fit has good images only and chooses by "rate", not by "{self.rule}": use calibrate with '
                "references for labelled images"
            )


def fit_options(earlier: Calibration | None, rate: float | None, given: Mapping[str, Any]) -> FitOptions:
    """The options of a fit.

    Args:
        earlier: calibration of the fit that is extended, whose options hold where none are given; None to
            begin, and after its thresholds were set by hand.
        rate: `false_alarm_rate`; None if it is not given.
        given: other fields of `FitOptions` by name.

    Raises:
        ConfigError: an option is unknown or impossible.
    """
    kept: dict[str, Any] = {}
    if earlier is not None:
        kept = {field.name: getattr(earlier, field.name) for field in fields(Aim)}
        kept |= {"class_name": earlier.class_name, "split": earlier.left_out == 0}
    rates = {} if rate is None else {"false_alarm_rate": rate}
    return build_config(FitOptions, {**kept, **given, **rates}, "fit")


def to_extend(
    add: Path | None, good: Sequence[str] | None, out: Path | None
) -> tuple[Path | None, list[str]]:
    """What `--add` means: the file of an earlier fit, or good images that extend the file of `--out`.

    Args:
        add: file of an earlier fit (.safetensors), or images: a file, a folder or a pattern; None to begin.
        good: good images that are named besides.
        out: file to write.

    Returns:
        File of an earlier fit, None to begin; and all good images.

    Raises:
        ConfigError: images are to be added, and there is no file to add them to.
    """
    if add is None or add.suffix == ".safetensors":
        return add, list(good or ())
    if out is None or not out.is_file():
        where = "there is no --out" if out is None else f"--out {out} does not exist"
        raise ConfigError(
            f"--add {add} extends the file of an earlier fit, and {where}: type zsad fit --add {add} --out "
            "line3.safetensors with the file that is there"
        )
    return out, [*(good or ()), str(add)]


def check_files(
    out: Path, *, add: Path | None, checkpoint: Sequence[str] | None, has_good: bool, has_false_alarms: bool
) -> None:
    """Refuses files that `zsad fit` cannot work with, before anything is loaded.

    Args:
        out: file to write.
        add: file of an earlier fit; None to begin.
        checkpoint: learnt weights to begin with; None for those that zsad ships.
        has_good: whether good images are named.
        has_false_alarms: whether images that were wrongly called anomalous are named.

    Raises:
        ConfigError: the files do not go together; the message says what to type.
    """
    if add is None:
        if has_false_alarms:
            raise ConfigError(
                "--false-alarm needs the detector that raised it: zsad fit --add line3.safetensors "
                "--false-alarm image.png"
            )
        if not has_good:
            raise ConfigError("give good images: zsad fit good/ --out line3.safetensors")
    elif checkpoint is not None:
        raise ConfigError(
            "--add names the file to begin with, and --checkpoint another one: give one of them"
        )
    elif not add.is_file():
        raise ConfigError(
            f"--add {add} does not exist: it takes the file of an earlier fit, as in zsad fit more_good/ "
            "--add line3.safetensors"
        )
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {out} must end in .safetensors: it holds features, thresholds and weights")
