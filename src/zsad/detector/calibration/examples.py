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
from zsad.images.finding import ImageSearch, search_images
from zsad.types import UNLABELLED

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
    include_results: bool = False,
    normal_labels: Sequence[str] | None = None,
) -> tuple[list[Example], str | None, tuple[str, ...]]:
    """The images of a calibration with their labels: from two lists, or from a labelled dataset.

    Args:
        normal: files, folders and patterns of normal images; may be empty.
        anomalous: files, folders and patterns of anomalous images; may be empty.
        data: dataset in place of the two lists, "mvtec:PATH" or a folder, as
            `zsad.data.folder.open_dataset` takes it.
        split: part of the dataset, "test", "train" or "all".
        class_name: name of what the images show, which chooses the category of a dataset; None: the only
            category.
        normal_labels: labels of the dataset that alone mean "normal"; None: known words.
        include_results: whether to take images of folders that zsad wrote itself, and masks.

    Returns:
        The examples, the class name, and one line on each kind of input whose images are left out.

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
        return _labelled(data, split, class_name, normal_labels, include_results)
    examples, left_out = _listed(normal, anomalous, include_results)
    return examples, class_name, left_out


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


def _listed(
    normal: Sequence[str], anomalous: Sequence[str], include_results: bool
) -> tuple[list[Example], tuple[str, ...]]:
    """Images from two lists of files, folders and patterns, and one line on those that are left out."""
    searches = [
        search_images(inputs, include_results=include_results) if inputs else ImageSearch([])
        for inputs in (normal, anomalous)
    ]
    good, bad = (search.images for search in searches)
    left_out = tuple(text for search in searches if (text := str(search.left_out)))
    if not any(os.path.lexists(path) for path in (*good, *bad)):
        raise ConfigError(f"no such file or folder, and no match: {(*good, *bad)[0]}")
    both = {os.path.abspath(path) for path in good} & {os.path.abspath(path) for path in bad}
    if both:
        raise ConfigError(
            f"{min(both)} is given as normal and as anomalous ({len(both)} of the files are): name "
            "folders that do not overlap"
        )
    return [Example(path) for path in good] + [Example(path, True) for path in bad], left_out


def _labelled(
    spec: str,
    split: str,
    class_name: str | None,
    normal_labels: Sequence[str] | None,
    include_results: bool,
) -> tuple[list[Example], str, tuple[str, ...]]:
    """Images, labels and masks of one category of a dataset, its name, and notes on what is left out."""
    from zsad.data.folder import open_dataset

    dataset = open_dataset(
        spec,
        split,  # type: ignore[arg-type] # refuses others
        normal_labels=normal_labels,
        include_results=include_results,
    )
    categories = dataset.by_category()
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
    examples = [
        Example(one.path, one.label == 1, one.mask_path) for one in samples if one.label != UNLABELLED
    ]
    if not examples:
        dataset.require_labels()
    without = len(samples) - len(examples)
    notes = [f"left out: {without} images without a label"] if without else []
    return examples, class_name, (*dataset.left_out, *notes, *dataset.problems)
