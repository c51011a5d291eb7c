"""Finds the images that `zsad calibrate` uses, and writes its calibration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.detector.calibration.measuring import Example
from zsad.detector.checkpoints import read
from zsad.detector.thresholds import Calibration, read_calibration, write_calibration
from zsad.errors import ConfigError, DataError, ZsadError
from zsad.images.finding import find_images

if TYPE_CHECKING:
    from zsad.detector.detector import Detector

CALIBRATION_SUFFIX = ".json"
CHECKPOINT_SUFFIX = ".safetensors"
_CATEGORIES_SHOWN = 5


def find_examples(
    normal: Sequence[str],
    anomalous: Sequence[str],
    *,
    data: str | None = None,
    split: str = "test",
    class_name: str | None = None,
) -> tuple[list[Example], str | None]:
    """The images of a calibration with their labels: from two lists, or from a labelled dataset.

    Args:
        normal: files, folders and patterns of normal images; may be empty.
        anomalous: files, folders and patterns of anomalous images; may be empty.
        data: dataset in place of the two lists, "mvtec:PATH" or a folder, as
            `zsad.data.folder.open_dataset` takes it.
        split: part of the dataset, "test", "train" or "all".
        class_name: name of what the images show, which chooses the category of a dataset; None: the only
            category.

    Returns:
        The examples, and the class name.

    Raises:
        ConfigError: both lists and a dataset are given, or neither; a file is in both lists; none of the
            files exists; the split is unknown.
        DataError: no image is found, or the dataset has no category of that name, or has several and none is
            named.
    """
    if (data is None) == (not normal and not anomalous):
        raise ConfigError(
            "give normal images (zsad calibrate good/) or a labelled dataset (--data), and not both"
        )
    if data is not None:
        return _labelled(data, split, class_name)
    return _listed(normal, anomalous), class_name


def check_out(out: Path, checkpoint: str | None) -> None:
    """Refuses a file that must not be replaced, before any image is scored.

    Args:
        out: file that the calibration is to be written to.
        checkpoint: file of the weights in use, which may be replaced by itself with the calibration added.

    Raises:
        ConfigError: the suffix is another one, or the file exists and holds no calibration.
    """
    if out.suffix not in (CALIBRATION_SUFFIX, CHECKPOINT_SUFFIX):
        raise ConfigError(
            f"--out {out} must end in {CALIBRATION_SUFFIX} (the calibration alone) or {CHECKPOINT_SUFFIX} "
            "(with the learnt weights)"
        )
    if not out.exists():
        return
    try:
        if checkpoint is not None and Path(checkpoint).exists() and out.samefile(checkpoint):
            is_free = read(out).info is not None
        else:
            is_free = read_calibration(out) is not None
    except (ZsadError, OSError):
        is_free = False
    if not is_free:
        raise ConfigError(f"{out} exists and holds no calibration: choose another --out")


def save(calibration: Calibration, detector: Detector, out: Path) -> None:
    """Writes a calibration alone (".json"), or together with the learnt weights (".safetensors").

    Raises:
        WeightsError: the checkpoint cannot be written.
        OSError: the file cannot be written.
    """
    if out.suffix == CALIBRATION_SUFFIX:
        write_calibration(calibration, out)
    else:
        detector.apply_calibration(calibration).save(out)


def _listed(normal: Sequence[str], anomalous: Sequence[str]) -> list[Example]:
    """Images from two lists of files, folders and patterns."""
    good, bad = (find_images(inputs) if inputs else [] for inputs in (normal, anomalous))
    if not any(os.path.lexists(path) for path in (*good, *bad)):
        raise ConfigError(f"no such file or folder, and no match: {(*good, *bad)[0]}")
    both = {os.path.abspath(path) for path in good} & {os.path.abspath(path) for path in bad}
    if both:
        raise ConfigError(
            f"{min(both)} is given as normal and as anomalous ({len(both)} of the files are): name "
            "folders that do not overlap"
        )
    return [Example(path) for path in good] + [Example(path, True) for path in bad]


def _labelled(spec: str, split: str, class_name: str | None) -> tuple[list[Example], str]:
    """Images, labels and masks of one category of a dataset, and the category's name."""
    from zsad.data.folder import open_dataset

    categories = open_dataset(spec, split).by_category()  # type: ignore[arg-type] # refuses other names
    names = sorted(categories)
    if class_name is None and len(names) == 1:
        class_name = names[0]
    if class_name is None or (class_name not in categories and len(names) > 1):
        shown = ", ".join(names[:_CATEGORIES_SHOWN]) + (", ..." if len(names) > _CATEGORIES_SHOWN else "")
        given = "none is named" if class_name is None else f"none is {class_name!r}"
        raise DataError(
            f"{spec} has {len(names)} categories ({shown}) and {given}: a threshold belongs to one kind of "
            "image, give --class-name NAME"
        )
    samples = categories[class_name if class_name in categories else names[0]]
    return [Example(one.path, one.label == 1, one.mask_path) for one in samples], class_name
