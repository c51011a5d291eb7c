"""Writes the graphs of a bundle in the format and precision of the program that will run them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.deploy.bundle import ExportPrecision, Graphs, Runner
from zsad.deploy.graphs import batch_graph
from zsad.deploy.onnx_files import write_graphs

if TYPE_CHECKING:
    from zsad.deploy.folding import Part
    from zsad.deploy.parity import ComparedImages
    from zsad.detector.detector import Detector

FILE_NAMES = {"whole": "model", "tiles": "tiles", "image": "image"}


def write_graphs_for(
    parts: Sequence[Part],
    detector: Detector,
    folder: Path,
    runner: Runner,
    precision: ExportPrecision,
    images: ComparedImages,
    tell: Callable[[str, int, int], None],
) -> Graphs:
    """Writes one graph for each part.

    Args:
        parts: what the graphs do.
        detector: says how images are prepared.
        folder: folder to write to.
        runner: program that will run the graphs.
        precision: number format of the weights.
        images: images that quantisation is calibrated on.
        tell: told what is being done.
    """
    models = {}
    for number, part in enumerate(parts):
        tell("Tracing", number, len(parts))
        models[f"{FILE_NAMES[part.kind]}.onnx"] = batch_graph(part.graph(), detector.image_size)
    write_graphs(models, folder)
    names = {part.kind: f"{FILE_NAMES[part.kind]}.onnx" for part in parts}
    return Graphs(names["whole"], names.get("tiles"))
