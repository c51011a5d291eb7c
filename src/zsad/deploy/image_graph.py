"""Joins resize, network and enlarged map to one graph: pixels of any size in, score and map out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zsad.deploy.pillow_resize import preparing_graph

if TYPE_CHECKING:
    from onnx import ModelProto

    from zsad.images.preparing import Preparation

_ENLARGE = """
<ir_version: {ir}, opset_import: ["" : {opset}]>
enlarge (float[1] scores, float[1, {side}, {side}] maps, int64[2] size)
   => (float score, float[height, width] map)
{{
   first = Constant <value = int64[1] {{0}}> ()
   both = Constant <value = int64[2] {{0, 1}}> ()
   ones = Constant <value = int64[2] {{1, 1}}> ()
   sizes = Concat <axis = 0> (ones, size)
   planes = Unsqueeze (maps, first)
   enlarged = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (planes, , , sizes)
   map = Squeeze (enlarged, both)
   score = Squeeze (scores, first)
}}
"""


def write_image_graph(batch_graph: Path, target: Path, preparation: Preparation) -> None:
    """Writes the graph from the pixels of one image to its score and map.

    It shares the file of weights with the graph that it is made from.

    Args:
        batch_graph: graph of resized and normalised images, in the folder of `target`.
        target: file to write; its input is `image`, (H, W, 3) uint8 RGB, its outputs are `score`, a scalar,
            and `map`, (H, W), both float32.
        preparation: how images become the input of that graph.
    """
    import onnx

    core = onnx.load(batch_graph, load_external_data=False)
    onnx.save(joined(core, preparation), target)


def joined(core: ModelProto, preparation: Preparation) -> ModelProto:
    """The graph of one image of any size, around a graph of resized and normalised images."""
    from onnx import compose, parser

    opset = next(each.version for each in core.opset_import if each.domain in ("", "ai.onnx"))
    before = preparing_graph(preparation, opset, core.ir_version)
    after = parser.parse_model(_ENLARGE.format(ir=core.ir_version, opset=opset, side=preparation.size))
    before = compose.add_prefix(before, "before/", rename_inputs=False, rename_outputs=False)
    after = compose.add_prefix(after, "after/", rename_inputs=False, rename_outputs=False)
    first = compose.merge_graphs(
        before.graph, core.graph, [("images", "images")], outputs=["scores", "maps", "size"]
    )
    names = ("scores", "maps", "size")
    whole = compose.merge_graphs(first, after.graph, [(name, name) for name in names])
    del core.graph.value_info[:], whole.value_info[:]  # of a batch of any size, and of no other
    core.graph.CopyFrom(whole)
    return core
