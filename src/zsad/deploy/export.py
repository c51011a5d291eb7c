"""`zsad.export_detector`: from a detector to a folder that runs without Python's torch, or without Python.

Everything is written into a hidden folder beside the target, compared with Python there, and renamed at the
end, so that a bundle that fails is never left behind.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from zsad._version import __version__
from zsad.deploy.bundle import (
    BUNDLE_FILE,
    Bundle,
    ExportPrecision,
    Graphs,
    Runner,
    file_records,
    region_record,
    write_bundle,
)
from zsad.deploy.folders import check_target, hidden_folder, take_name
from zsad.deploy.folding import check_exportable, folded_class, in_half_precision, parts
from zsad.deploy.graphs import MOST_AT_ONCE
from zsad.deploy.parity import compared_images, differences, parity
from zsad.deploy.readme import parity_sentence, write_readme
from zsad.deploy.runners import Target, check_installed, write_graphs_for
from zsad.deploy.thresholds import decided_again, promise_of
from zsad.detector.support import images_given
from zsad.detector.thresholds import still_valid
from zsad.errors import ConfigError, unknown_name
from zsad.images.preparing import prepare
from zsad.methods.base import DEFAULT_CLASS

if TYPE_CHECKING:
    from zsad.deploy.folding import Part
    from zsad.detector.decision import Decision
    from zsad.detector.detector import Detector
    from zsad.detector.support import Images
    from zsad.detector.thresholds import Calibration

WEB = "web"
"""What `zsad export --format` takes besides the formats of bundles."""

MOST_FOR_SCALES = 64
"""Largest number of images that quantisation takes its scales from."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how much of how much is done; (text, 0, 0) where nobody knows."""


@dataclass(frozen=True)
class ExportResult:
    """What an export made.

    Attributes:
        folder: folder of the bundle.
        bundle: what it holds.
        lines: sentences for the user: how far the graphs are from Python, and what became of thresholds.
    """

    folder: Path
    bundle: Bundle
    lines: tuple[str, ...]


def export_detector(
    detector: Detector,
    out: str | Path,
    format: Runner = "onnx",
    precision: ExportPrecision = "fp32",
    *,
    images: Images | None = None,
    good: Images | None = None,
    class_name: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Writes a detector as a bundle: graphs, and everything that a program needs to run them.

    Text features, the memory of references and companions become constants of the graphs, which score each
    image by itself. The graphs are compared with Python before the folder gets its name.

    Args:
        detector: a trained or fitted detector, on any device.
        out: folder to write.
        format: "onnx" for ONNX Runtime, TensorRT, browsers and most other programs, "openvino" for Intel's.
        precision: "fp32"; "fp16", half the size, for GPUs; "int8", a quarter, for CPUs. Only "fp32" promises
            Python's scores; see the report in the README of the bundle.
        images: images to compare on, and for "int8" with OpenVINO to calibrate on: a folder, a pattern or a
            list, of the kind that will be scored, at least 8; None for synthetic ones.
        good: known-normal images that are no references, from which the thresholds are made again by the
            graphs; None keeps the thresholds where the graphs answer as Python does, and drops them
            otherwise.
        class_name: class name that becomes part of the graphs; None for that of the calibration, or "object".
        overwrite: whether to replace an earlier bundle.
        progress: told what is being done.

    Returns:
        The folder, what it holds, and lines for the user.

    Raises:
        ConfigError: an argument is unknown, the folder exists, or the detector cannot be exported; the
            message says why.
        DataError: the graphs do not answer as Python does; nothing is written then.
        MissingExtraError: a package for exporting or running is not installed.
        ImageReadError: an image cannot be read.
        OSError: the folder cannot be written.

    Example:
        zsad.export_detector(zsad.load(checkpoint="line3.safetensors"), "line3-onnx")
    """
    if str(format) == WEB:
        raise ConfigError(
            'format="web" is a page and no bundle: type zsad export --format web, or call '
            "zsad.deploy.export_web(detector, out)"
        )
    formats = (*get_args(Runner), WEB)
    for kind, value, known in (
        ("format", format, formats),
        ("precision", precision, get_args(ExportPrecision)),
    ):
        if value not in known:
            raise unknown_name(kind, str(value), known)
    check_exportable(detector)
    check_installed(format, precision)
    target = Path(out).expanduser()
    check_target(target, BUNDLE_FILE, "bundle", overwrite=overwrite)
    tell = progress or (lambda what, done, total: None)
    name = folded_class(detector, class_name)
    given = images_given(images)
    compared = compared_images(detector, given)
    with _on_the_cpu(detector), hidden_folder(target) as folder:
        exact = parts(detector, name)
        traced = [in_half_precision(part) for part in exact] if precision == "fp16" else exact
        wanted = Target(format, precision, has_image_graph=detector.roi is None and detector.tile is None)
        scales = _calibration(detector, given) if (format, precision) == ("openvino", "int8") else ()
        graphs = write_graphs_for(traced, detector.preparation, folder, wanted, scales, tell)
        bundle = _described(detector, exact[0], name, format, precision, graphs, folder)
        found = differences(
            detector, exact, bundle, folder, compared, lambda done, total: tell("Comparing", done, total)
        )
        is_exact = precision == "fp32"
        bundle = replace(bundle, parity=parity(found, compared, is_exact=is_exact))
        lines = [parity_sentence(bundle)]
        if not is_exact or good is not None:
            bundle, more = decided_again(bundle, folder, detector, found["whole"], good, tell)
            lines += more
        lines += _dropped(detector, bundle)
        write_readme(bundle, folder)
        write_bundle(bundle, folder)
        check_target(target, BUNDLE_FILE, "bundle", overwrite=overwrite)  # another may have been quicker
        take_name(folder, target)
    return ExportResult(target, bundle, tuple(lines))


def _calibration(detector: Detector, given: Sequence[Any]) -> list[NDArray[np.float32]]:
    """Images that quantisation takes its scales from, (1, 3, S, S) each."""
    images = compared_images(detector, given, MOST_FOR_SCALES).images
    return [prepare(image, detector.preparation)[None] for image in images]


def _described(
    detector: Detector,
    whole: Part,
    class_name: str | None,
    runner: Runner,
    precision: ExportPrecision,
    graphs: Graphs,
    folder: Path,
) -> Bundle:
    """What the folder holds, before anything is compared."""
    settings = _settings(detector)
    decision = _decision(detector, settings, class_name)
    method, record, support = detector.method, detector.record, whole.states.support
    return Bundle(
        runner=runner,
        precision=precision,
        method=method.INFO.name,
        backbone=record.name,
        weights=settings["weights"],
        settings=settings,
        image_size=detector.image_size,
        mean=record.mean,
        std=record.std,
        bits=detector.bits,
        uses_class_names=method.INFO.uses_class_names,
        class_name=class_name,
        decision_class_name=decision.class_name,
        map_range=detector.map_range,
        threshold=decision.threshold,
        map_threshold=decision.map_threshold,
        score_scale=decision.scale,
        promise=promise_of(decision),
        calibration=None if decision.calibration is None else decision.calibration.to_dict(),
        tile=detector.tile,
        roi=None if detector.roi is None else region_record(detector.roi, folder),
        references=len(detector.reference_fingerprints),
        companions=0 if support.unlabelled is None else len(support.unlabelled),
        # scales of ONNX Runtime's eight bits follow a whole batch: its images would move each other's scores
        most_at_once=1 if (runner, precision) == ("onnx", "int8") else MOST_AT_ONCE,
        graphs=graphs,
        notes=method.notes,
        licences=_licences(detector),
        files=file_records(folder),
        versions=_versions(runner),
        created=time.strftime("%Y-%m-%d"),
    )


def _settings(detector: Detector) -> dict[str, Any]:
    """Everything that scores depend on; a graph scores each image by itself."""
    settings = detector.scoring_settings()
    return {**settings, "companions": "none"} if detector.scores_jointly else settings


def _decision(
    detector: Detector, settings: Mapping[str, Any], class_name: str | None
) -> Decision[Calibration]:
    """The decision on what the graphs score."""
    return still_valid(detector.decision, settings).for_class(class_name or DEFAULT_CLASS)


def _dropped(detector: Detector, bundle: Bundle) -> list[str]:
    """What the user has to know about joint scores and about thresholds for something else."""
    lines = []
    if detector.scores_jointly:
        lines.append(
            f"The bundle scores each image by itself, while {bundle.method} in Python compares the images of "
            "a folder with each other: fit it to good images (zsad fit), or give it references to compare "
            "with"
        )
    if detector.threshold is not None and bundle.threshold is None and bundle.precision == "fp32":
        lines.append(
            "The threshold of the detector is for other scores (another class name, or images scored "
            "together) and was left out: --good makes one for the bundle"
        )
    return lines


def _licences(detector: Detector) -> tuple[str, ...]:
    """A line for each licence that the weights come under."""
    record, info = detector.record, detector.method.INFO
    lines = [f"backbone {record.name}: {record.licence}"]
    if detector.auxiliary_data:
        lines.append(f"what {info.name} learnt: from {detector.auxiliary_data}")
    if info.code:
        lines.append(f"{info.title}: {info.paper}, {info.code}")
    return tuple(lines)


def _versions(runner: Runner) -> dict[str, str]:
    """Versions of the programs that made the bundle."""
    packages = ("torch", "onnx", "onnxscript", "onnxruntime" if runner == "onnx" else "openvino")
    found = {"zsad": __version__, "python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


@contextlib.contextmanager
def _on_the_cpu(detector: Detector) -> Iterator[None]:
    """Moves a detector to the CPU, where graphs are traced and compared, and back at the end."""
    place = detector.device
    if place.type == "cpu":
        yield
        return
    detector.to("cpu")
    try:
        yield
    finally:
        detector.to(place)
