"""Writes ONNX graphs that share one file of weights, so that a second graph costs next to nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.files.atomic import atomic_file

if TYPE_CHECKING:
    import onnx_ir

WEIGHTS_FILE = "weights.bin"
SMALLEST_SHARED = 1024  # bytes; smaller tensors stay in the graph
ALIGNMENT = 4096  # bytes, of a page of memory, so that runners can map the file


def _forget_origin(model: onnx_ir.Model) -> None:
    """Removes the exporter's notes on where each operator comes from, which name files of this machine."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()


def write_graphs(models: Mapping[str, onnx_ir.Model], folder: Path) -> None:
    """Writes graphs, and beside them one file with the large tensors of all, each of them once.

    Args:
        models: models by file name; their large tensors are replaced by references to the file.
        folder: folder to write to.

    Raises:
        OSError: the folder cannot be written.
    """
    import onnx_ir

    places: dict[tuple[str, str], tuple[int, int]] = {}  # type and digest of a tensor -> offset and length
    references: list[tuple[onnx_ir.Value, int, int]] = []
    with atomic_file(folder / WEIGHTS_FILE) as file:
        for model in models.values():
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < SMALLEST_SHARED:
                    continue
                content = tensor.tobytes()
                key = str(tensor.dtype), hashlib.sha256(content).hexdigest()
                if key not in places:
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    places[key] = file.tell(), len(content)
                    file.write(content)
                references.append((value, *places[key]))
    for value, offset, length in references:
        tensor = value.const_value
        assert tensor is not None  # noqa: S101 - only values with tensors are in the list
        value.const_value = onnx_ir.ExternalTensor(
            WEIGHTS_FILE,
            offset,
            length,
            tensor.dtype,
            shape=onnx_ir.Shape(tensor.shape.numpy()),
            name=value.name or "",
            base_dir=folder,
        )
    for name, model in models.items():
        _forget_origin(model)
        onnx_ir.save(model, folder / name)
