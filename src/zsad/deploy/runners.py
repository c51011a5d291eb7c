"""Writes the graphs of a bundle in the format and precision of the program that will run them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zsad.deploy.bundle import ExportPrecision, Graphs, Runner
from zsad.deploy.graphs import batch_graph
from zsad.deploy.image_graph import write_image_graph
from zsad.deploy.onnx_files import write_graphs
from zsad.deploy.quantizing import quantized_onnx, quantized_openvino
from zsad.errors import MissingExtraError

if TYPE_CHECKING:
    import onnx_ir

    from zsad.deploy.folding import Part
    from zsad.images.preparing import Preparation

FILE_NAMES = {"whole": "model", "tiles": "tiles", "image": "image"}

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Target:
    """What graphs are written for.

    Attributes:
        runner: program that will run them.
        precision: number format of the weights.
        has_image_graph: whether there is a graph from pixels to score and map, too; with ONNX only.
    """

    runner: Runner
    precision: ExportPrecision
    has_image_graph: bool


def check_installed(runner: Runner, precision: ExportPrecision) -> None:
    """Refuses to begin where a package is missing that the end needs.

    Raises:
        MissingExtraError: the package is not installed.
    """
    extra = "openvino" if runner == "openvino" else "export"
    needed = {"onnx": ["onnx", "onnxscript", "onnxruntime"], "openvino": ["onnx", "onnxscript", "openvino"]}
    quantiser = ["nncf"] if (runner, precision) == ("openvino", "int8") else []
    for package in (*needed[runner], *quantiser):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra, f"exporting for {runner} in {precision}")


def write_graphs_for(
    parts: Sequence[Part],
    preparation: Preparation,
    folder: Path,
    target: Target,
    calibration: Sequence[NDArray[np.float32]],
    tell: Tell,
) -> Graphs:
    """Writes one graph for each part.

    Args:
        parts: what the graphs do.
        preparation: how images become the graphs' input.
        folder: folder to write to.
        target: what the graphs are written for.
        calibration: images that OpenVINO's quantisation takes its scales from, (1, 3, S, S) each.
        tell: told what is being done.

    Raises:
        ConfigError: the detector does something that no graph can hold.
    """
    models: dict[str, onnx_ir.Model] = {}
    for number, part in enumerate(parts):
        tell("Tracing", number, len(parts))
        models[FILE_NAMES[part.kind]] = batch_graph(part.graph(), preparation.size)
    if target.runner == "openvino":
        return _write_openvino(models, folder, target.precision, calibration, tell)
    if target.precision == "int8":
        tell("Quantising", 0, 0)
        for name, model in models.items():
            with tempfile.TemporaryDirectory() as scratch, _silence():
                models[name] = quantized_onnx(model, Path(scratch))
    tell("Writing", 0, 0)
    write_graphs({f"{name}.onnx": model for name, model in models.items()}, folder)
    image = None
    if target.has_image_graph:
        image = f"{FILE_NAMES['image']}.onnx"
        write_image_graph(folder / f"{FILE_NAMES['whole']}.onnx", folder / image, preparation)
    return _named(models, ".onnx", image)


def _write_openvino(
    models: Mapping[str, onnx_ir.Model],
    folder: Path,
    precision: ExportPrecision,
    calibration: Sequence[NDArray[np.float32]],
    tell: Tell,
) -> Graphs:
    """Writes OpenVINO's files, by way of ONNX."""
    import openvino

    for name, model in models.items():
        with tempfile.TemporaryDirectory() as scratch, _silence():
            write_graphs({"model.onnx": model}, Path(scratch))
            found = openvino.Core().read_model(Path(scratch) / "model.onnx")
            if precision == "int8":
                tell("Quantising", 0, 0)
                found = quantized_openvino(found, calibration)
            tell("Writing", 0, 0)
            openvino.save_model(found, folder / f"{name}.xml", compress_to_fp16=precision == "fp16")
    return _named(models, ".xml", None)


def _named(models: Mapping[str, object], suffix: str, image: str | None) -> Graphs:
    """The file names of the graphs."""
    tiles = FILE_NAMES["tiles"]
    return Graphs(f"{FILE_NAMES['whole']}{suffix}", f"{tiles}{suffix}" if tiles in models else None, image)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps progress bars and remarks of quantisers from the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
