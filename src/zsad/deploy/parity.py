"""Compares the graphs of a bundle with Python, on real images and in the runner that will run them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from zsad.deploy.bundle import Bundle, Parity
from zsad.deploy.sessions import Engine, open_session
from zsad.detector.inputs import stack
from zsad.errors import DataError
from zsad.methods.functional.maps import upsample

if TYPE_CHECKING:
    from zsad.deploy.folding import Part
    from zsad.detector.detector import Detector
    from zsad.types import RawOutput

LEAST_IMAGES = 8
MOST_IMAGES = 16
SCORE_LIMIT = 1e-5
MAP_LIMIT = 1e-4
"""Largest differences in float32: of a score, and of a map value as a share of the width of the range."""

_SYNTHETIC_SIZE = 320


@dataclass(frozen=True)
class ComparedImages:
    """Images that graphs and Python are compared on.

    Attributes:
        images: RGB images, cut to the region of interest.
        source: where they come from, in words.
    """

    images: tuple[Image.Image, ...]
    source: str


@dataclass(frozen=True)
class Difference:
    """How far a graph is from Python, image by image.

    Attributes:
        scores: (n, 2) scores of Python and of the graph.
        map: largest difference of a map value, as a share of the width of the range.
    """

    scores: NDArray[np.float64]
    map: float

    @property
    def score(self) -> float:
        """Largest difference of a score."""
        return float(np.abs(self.scores[:, 0] - self.scores[:, 1]).max())


def compared_images(detector: Detector, given: Sequence[Any], most: int = MOST_IMAGES) -> ComparedImages:
    """The images that are given, evenly spread, and synthetic ones where these are too few.

    Args:
        detector: reads the images as it would to score them.
        given: images as `Detector.predict` takes them.
        most: largest number of them to take.

    Raises:
        ImageReadError: an image cannot be read.
    """
    count = min(len(given), most)
    chosen = [given[number * len(given) // count] for number in range(count)]
    read_images = [detector.looking.read_part(item) for item in chosen]
    missing = max(0, LEAST_IMAGES - len(read_images))
    drawn = list(_synthetic(missing))
    words = [
        f"{count} {kind} image{'' if count == 1 else 's'}"
        for count, kind in ((len(read_images), "given"), (len(drawn), "synthetic"))
        if count
    ]
    return ComparedImages((*read_images, *drawn), " and ".join(words))


def _synthetic(count: int) -> Iterator[Image.Image]:
    """Drawn products and surfaces, some of them with a defect."""
    from zsad.data.synthetic import Materials, SyntheticConfig, generate  # scenes take a moment to import

    materials = Materials.procedural() if count else None
    for number in range(count):
        assert materials is not None  # noqa: S101 - for type checkers
        drawn = generate(number, materials, SyntheticConfig(size=_SYNTHETIC_SIZE), seed=0).image
        wide = _SYNTHETIC_SIZE - 8 * number  # of different shapes
        yield Image.fromarray(drawn[:, :wide] if number % 2 else drawn[:wide])


def differences(
    detector: Detector,
    parts: Sequence[Part],
    bundle: Bundle,
    folder: Path,
    images: ComparedImages,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Difference]:
    """How far each graph is from Python, over all images, one at a time and all at once.

    Args:
        detector: the detector that was exported.
        parts: what the graphs do.
        bundle: what the folder holds.
        folder: folder of the graphs.
        images: images to compare on.
        progress: called with the number of comparisons done and the total.
    """
    names = {"whole": bundle.graphs.whole, "tiles": bundle.graphs.tiles}
    prepared = stack(images.images, detector.preparation)
    width = bundle.map_range[1] - bundle.map_range[0]
    found: dict[str, Difference] = {}
    answers: list[RawOutput] = []  # of Python to whole images
    total, done = len(parts) * len(prepared), 0
    for part in parts:
        session = open_session(
            folder / str(names[part.kind]), bundle.runner, bundle.precision, Engine(providers=("cpu",))
        )
        together = session(prepared.numpy())
        scores, furthest = [], 0.0
        for number, image in enumerate(prepared):
            with torch.inference_mode():
                python = part.scored(image[None])
            if part.kind == "whole":
                answers.append(python)
            alone = session(image[None].numpy())
            expected_map = python.maps[0].numpy()
            for score, anomaly_map in (
                (alone.scores[0], alone.maps[0]),
                (together.scores[number], together.maps[number]),
            ):
                scores.append((float(python.scores[0]), float(score)))
                furthest = max(furthest, float(np.abs(anomaly_map - expected_map).max()) / width)
            done += 1
            if progress is not None:
                progress(done, total)
        found[part.kind] = Difference(np.array(scores), furthest)
    if bundle.graphs.image is not None:
        found["image"] = _image_difference(answers, folder / bundle.graphs.image, images, width)
    return found


def _image_difference(
    answers: Sequence[RawOutput], path: Path, images: ComparedImages, width: float
) -> Difference:
    """How far the graph from pixels to score and map is from Python."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    scores, furthest = [], 0.0
    for image, python in zip(images.images, answers, strict=True):
        expected = upsample(python.maps[0], (image.height, image.width)).numpy()
        score, anomaly_map = session.run(["score", "map"], {"image": np.asarray(image)})
        scores.append((float(python.scores[0]), float(score)))
        furthest = max(furthest, float(np.abs(anomaly_map - expected).max()) / width)
    return Difference(np.array(scores), furthest)


def parity(found: Mapping[str, Difference], images: ComparedImages, *, is_exact: bool) -> Parity:
    """The report that stands in the bundle.

    Args:
        found: differences by graph.
        images: images that were compared.
        is_exact: whether the limits of float32 hold.

    Raises:
        DataError: a limit does not hold.
    """
    report = Parity(
        images=len(images.images),
        source=images.source,
        batch_sizes=(1, len(images.images)),
        score=max(each.score for each in found.values()),
        map=max(each.map for each in found.values()),
        score_limit=SCORE_LIMIT if is_exact else None,
        map_limit=MAP_LIMIT if is_exact else None,
        per_graph={name: (each.score, each.map) for name, each in found.items()},
    )
    if is_exact and not (report.score <= SCORE_LIMIT and report.map <= MAP_LIMIT):
        raise DataError(
            f"the exported graph does not answer as Python does, so nothing was written: on {images.source} "
            f"scores differ by up to {report.score:.2g} (limit {SCORE_LIMIT:g}) and maps by up to "
            f"{report.map:.2g} of their range (limit {MAP_LIMIT:g}); please report this detector as an issue"
        )
    return report
