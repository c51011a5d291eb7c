"""Stores the weights of an ONNX graph as half floats, which makes the file half as large; the rest stays.

Only the storage changes: the runner converts the weights to single precision once, when it opens the graph,
and computes as before. Browsers compute on the processor, where half floats would be slower. needs `onnx`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto

FEWEST_VALUES = 256
"""Smaller tensors keep their precision: scales and offsets, which weigh nothing."""

_SUFFIX = "_half"


def with_half_weights(model: ModelProto) -> ModelProto:
    """A graph with the same nodes whose large weights are stored as half floats.

    Args:
        model: graph in single precision, with its weights inside.

    Returns:
        A new graph. Weights that a half float cannot hold, above 65504, keep their precision.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    casts = []
    for tensor in halved.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < FEWEST_VALUES or not np.abs(values).max() <= np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name + _SUFFIX))
        casts.append(helper.make_node("Cast", [name + _SUFFIX], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *halved.graph.node]
    del halved.graph.node[:]
    halved.graph.node.extend(nodes)
    return halved
