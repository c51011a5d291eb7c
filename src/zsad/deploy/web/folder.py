"""`zsad export --format web`: a folder for any file server, whose page scores images inside the browser.

The folder holds the page of `zsad serve`, the graph of a whole image, and onnxruntime-web. Nothing is
uploaded, and no program runs on the server.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from zsad.deploy.export import export_detector
from zsad.deploy.folders import check_target, hidden_folder, take_name
from zsad.deploy.parity import LEAST_IMAGES, ComparedImages, compared_images
from zsad.deploy.web.half_weights import with_half_weights
from zsad.deploy.web.onnxruntime import LICENCE, runtime_files
from zsad.deploy.web.page import BrowserModel, page_files
from zsad.detector.support import images_given
from zsad.errors import ConfigError, DataError, unknown_name
from zsad.files.pages import render_file
from zsad.files.plain import to_plain, write_json

if TYPE_CHECKING:
    from onnx import ModelProto

    from zsad.deploy.bundle import Bundle
    from zsad.deploy.export import Progress
    from zsad.detector.detector import Detector
    from zsad.detector.support import Images

WebPrecision = Literal["fp16", "fp32"]

WEB_FILE = "web.json"
GRAPH_FILE = "model.onnx"
RUNTIME_FOLDER = "onnxruntime"
README_FILE = "README.md"
FORMAT = 1

SCORE_LIMIT = 1e-3
MAP_LIMIT = 1e-2
"""Largest differences to Python that weights in half precision may make: of a score, and of a map value as a
share of the width of the range."""


@dataclass(frozen=True)
class WebParity:
    """How far the graph is from Python, measured when the folder was made.

    Attributes:
        images: number of images that were compared.
        source: where the images come from, in words.
        score: largest absolute difference of a score.
        map: largest absolute difference of a map value, as a share of the width of the range.
    """

    images: int
    source: str
    score: float
    map: float

    def sentence(self) -> str:
        """The report without the full stop."""
        return (
            f"Compared with Python on {self.source}: scores differ by at most {self.score:.2g}, maps by at "
            f"most {self.map:.2g} of their range"
        )


@dataclass(frozen=True)
class WebResult:
    """What an export for browsers made.

    Attributes:
        folder: folder to hand out.
        parity: how far its scores are from Python's.
        lines: sentences for the user: the parity, and what became of thresholds.
    """

    folder: Path
    parity: WebParity
    lines: tuple[str, ...]


def export_web(
    detector: Detector,
    out: str | Path,
    precision: WebPrecision = "fp16",
    *,
    images: Images | None = None,
    good: Images | None = None,
    class_name: str | None = None,
    onnxruntime_web: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> WebResult:
    """Writes a folder with a page that scores images inside the browser.

    Args:
        detector: a trained or fitted detector that scores whole images.
        out: folder to write.
        precision: how weights are stored: "fp16" makes the download half as large, "fp32" keeps all digits.
            Browsers compute in single precision with both.
        images: images to compare with Python on, at least 8; None for synthetic ones.
        good: known-normal images that are no references, from which the thresholds are made again by the
            graph; None keeps the thresholds.
        class_name: class name that becomes part of the graph; None for that of the calibration, or "object".
        onnxruntime_web: folder of the npm package onnxruntime-web; None downloads it once.
        overwrite: whether to replace an earlier folder of this kind.
        progress: told what is being done.

    Returns:
        The folder, how far its scores are from Python's, and lines for the user.

    Raises:
        ConfigError: an argument is unknown, the folder exists, or the detector cannot be exported for
            browsers; the message says why.
        DataError: the graph does not answer as Python does; nothing is written then.
        MissingExtraError: a package for exporting is not installed.
        WeightsError: onnxruntime-web cannot be downloaded.
        OSError: the folder cannot be written.

    Example:
        export_web(zsad.load("anomalyclip"), "demo")
    """
    if precision not in get_args(WebPrecision):
        raise unknown_name("precision", str(precision), get_args(WebPrecision))
    if detector.tile is not None or detector.roi is not None:
        cuts = {f"tiles (tile={detector.tile!r})": detector.tile, "a region of interest (roi)": detector.roi}
        given = " and ".join(name for name, value in cuts.items() if value is not None)
        raise ConfigError(
            f"a page scores whole images, and this detector cuts them to {given}: load it without, or serve "
            "it with zsad serve"
        )
    target = Path(out).expanduser()
    check_target(target, WEB_FILE, "page", overwrite=overwrite)
    tell = progress or (lambda what, done, total: None)
    tell("Fetching onnxruntime-web", 0, 0)
    runtime = runtime_files(onnxruntime_web)
    with tempfile.TemporaryDirectory() as made:
        exported = export_detector(
            detector,
            Path(made) / "bundle",
            images=images,
            good=good,
            class_name=class_name,
            progress=progress,
        )
        bundle = exported.bundle
        graph = _image_graph(bundle, exported.folder)
    if precision == "fp16":
        graph = with_half_weights(graph)
    content = graph.SerializeToString()
    compared = compared_images(detector, images_given(images))
    parity = _parity(
        detector, content, bundle, compared, lambda done: tell("Comparing", done, len(compared.images))
    )
    with hidden_folder(target) as folder:
        described = BrowserModel(model_entry(bundle), f"{RUNTIME_FOLDER}/")
        files = {**page_files(described), GRAPH_FILE: content}
        files |= {f"{RUNTIME_FOLDER}/{name}": file for name, file in runtime.items()}
        for name, file in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(file)
        licences = (*bundle.licences, LICENCE)
        values = {"bundle": bundle, "parity": parity.sentence(), "licences": licences, "precision": precision}
        (folder / README_FILE).write_text(render_file("web_readme.md", values), encoding="utf-8")
        write_json(
            folder / WEB_FILE,
            {
                "zsad_web": FORMAT,
                "method": bundle.method,
                "backbone": bundle.backbone,
                "weights": bundle.weights,
                "class_name": bundle.class_name,
                "precision": precision,
                "parity": to_plain(parity),
                "licences": list(licences),
                "versions": dict(bundle.versions),
                "created": bundle.created,
            },
        )
        check_target(target, WEB_FILE, "page", overwrite=overwrite)  # another may have been quicker
        take_name(folder, target)
    return WebResult(target, parity, (parity.sentence(), *exported.lines[1:]))


def model_entry(bundle: Bundle) -> dict[str, Any]:
    """What the page says of the model: the names of `GET /v1/models`, and the address of the graph."""
    calibration = bundle.calibration or {}
    return {
        "name": "default",
        "method": bundle.method,
        "backbone": bundle.backbone,
        "class_name": bundle.class_name if bundle.uses_class_names else None,
        "references": bundle.references,
        "threshold": bundle.threshold,
        "map_range": list(bundle.map_range),
        "normal_scores": list(calibration.get("normal_scores", ())),
        "left_out": calibration.get("left_out", 0),
        "confidence": calibration.get("confidence"),
        "cannot_fit": None,
        "graph": GRAPH_FILE,
    }


def _image_graph(bundle: Bundle, folder: Path) -> ModelProto:
    """The graph from pixels to score and map, with its weights inside."""
    import onnx

    assert bundle.graphs.image is not None  # noqa: S101 - only tiles and regions of interest have none
    return onnx.load(folder / bundle.graphs.image)


def _parity(
    detector: Detector, graph: bytes, bundle: Bundle, images: ComparedImages, tell: Callable[[int], None]
) -> WebParity:
    """Compares the whole way, from pixels to score and map, with `Detector.predict`.

    Raises:
        DataError: a limit does not hold.
    """
    import onnxruntime

    assert len(images.images) >= LEAST_IMAGES  # noqa: S101 - `compared_images` sees to that
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    width = bundle.map_range[1] - bundle.map_range[0]
    furthest_score = furthest_map = 0.0
    for number, image in enumerate(images.images):
        score, anomaly_map = session.run(["score", "map"], {"image": np.asarray(image)})
        expected = detector.predict(image, classes=bundle.class_name)
        furthest_score = max(furthest_score, abs(float(score) - expected.score))
        furthest_map = max(furthest_map, float(np.abs(anomaly_map - expected.anomaly_map).max()) / width)
        tell(number + 1)
    if not (furthest_score <= SCORE_LIMIT and furthest_map <= MAP_LIMIT):
        raise DataError(
            f"the graph for browsers does not answer as Python does, so nothing was written: on "
            f"{images.source} scores differ by up to {furthest_score:.2g} (limit {SCORE_LIMIT:g}) and maps "
            f"by up to {furthest_map:.2g} of their range (limit {MAP_LIMIT:g}); --precision fp32 keeps all "
            "digits"
        )
    return WebParity(len(images.images), images.source, furthest_score, furthest_map)
