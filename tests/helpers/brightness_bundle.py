"""A bundle made by hand, whose graph needs no network: the map is the brightness, the score its mean."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from zsad.deploy.bundle import Bundle, Graphs, file_records, write_bundle

SIDE = 16


def brightness_graph(side: int = SIDE, factor: float = 1.0) -> onnx.ModelProto:
    """Images in [0, 1] of (B, 3, S, S) to maps, the mean of the channels, and scores, `factor` times it."""
    nodes = [
        helper.make_node("ReduceMean", ["images", "channels"], ["maps"], keepdims=0),
        helper.make_node("ReduceMean", ["maps", "sides"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "factor"], ["scores"]),
    ]
    constants = [
        helper.make_tensor("channels", TensorProto.INT64, [1], [1]),
        helper.make_tensor("sides", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("factor", TensorProto.FLOAT, [], [factor]),
    ]
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("images", floats, ["batch", 3, side, side])],
        [
            helper.make_tensor_value_info("scores", floats, ["batch"]),
            helper.make_tensor_value_info("maps", floats, ["batch", side, side]),
        ],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def brightness_bundle(folder: Path, *, tiles_factor: float | None = None, **fields) -> Path:
    """Writes the bundle; with `tiles_factor`, tiles have a graph of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(brightness_graph(), folder / "model.onnx")
    if tiles_factor is not None:
        onnx.save(brightness_graph(factor=tiles_factor), folder / "tiles.onnx")
    values = {
        "runner": "onnx",
        "precision": "fp32",
        "method": "clip_ac",
        "backbone": "tiny",
        "weights": "0123456789abcdef",
        "settings": {"method": "clip_ac", "backbone": "tiny", "bits": None, "tile": None},
        "image_size": SIDE,
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "graphs": Graphs("model.onnx", tiles=None if tiles_factor is None else "tiles.onnx"),
        "files": file_records(folder),
    }
    write_bundle(Bundle(**{**values, **fields}), folder)
    return folder
