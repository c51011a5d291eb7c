"""Pillow's bicubic resize as ONNX operators, level for level, for images of any size.

Every published system resizes with Pillow. Other resizers differ from it by several levels, which moves
scores. So a graph that takes pixels does what Pillow's C code does: filter weights in double precision,
rounded to 22 bits, products and sums in 32-bit whole numbers, and rounding to whole levels after each of the
two directions.

Source: `src/libImaging/Resample.c` of Pillow 13. Older versions always resize rows first; Pillow 13 begins
with columns where the height shrinks by more than twice as many pixels as the width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto

    from zsad.images.preparing import Preparation

BEGINS_WITH_COLUMNS = 13
"""First version of Pillow that may begin with columns; the graph does what the present version does."""

_ALONG_ROWS = """
<domain: "zsad", opset_import: ["" : {opset}]>
along_rows (planes, places) => (resized)
{
   zero = Constant <value = int64[1] {0}> ()
   one = Constant <value = int64[1] {1}> ()
   two = Constant <value = int64[1] {2}> ()
   three = Constant <value = int64[1] {3}> ()
   no_row = Constant <value = int64 {0}> ()
   each_row = Constant <value = int64 {1}> ()
   nothing = Constant <value = double {0.0}> ()
   half = Constant <value = double {0.5}> ()
   whole = Constant <value = double {1.0}> ()
   double = Constant <value = double {2.0}> ()

   shape = Shape (planes)
   width = Slice (shape, two, three)
   side = Shape (places)
   width_d = Cast <to = 11> (width)
   side_d = Cast <to = 11> (side)
   scale = Div (width_d, side_d)
   stretch = Max (scale, whole)
   reach = Mul (stretch, double)
   reach_up = Ceil (reach)
   reach_i = Cast <to = 7> (reach_up)
   reaches = Mul (reach_i, two)
   taps = Add (reaches, one)

   middle = Mul (places, scale)
   left = Sub (middle, reach)
   left_rounded = Add (left, half)
   left_i = Cast <to = 7> (left_rounded)
   first = Max (left_i, zero)
   right = Add (middle, reach)
   right_rounded = Add (right, half)
   right_i = Cast <to = 7> (right_rounded)
   end = Min (right_i, width)

   taps_0 = Squeeze (taps)
   offsets = Range (no_row, taps_0, each_row)
   first_2 = Unsqueeze (first, one)
   end_2 = Unsqueeze (end, one)
   middle_2 = Unsqueeze (middle, one)
   index = Add (first_2, offsets)
   is_inside = Less (index, end_2)
   index_d = Cast <to = 11> (index)
   from_middle = Sub (index_d, middle_2)
   from_centre = Add (from_middle, half)
   shrink = Div (whole, stretch)
   signed = Mul (from_centre, shrink)
   x = Abs (signed)

   near_a = Constant <value = double {1.5}> ()
   near_b = Constant <value = double {2.5}> ()
   near_1 = Mul (near_a, x)
   near_2 = Sub (near_1, near_b)
   near_3 = Mul (near_2, x)
   near_4 = Mul (near_3, x)
   near = Add (near_4, whole)
   far_a = Constant <value = double {5.0}> ()
   far_b = Constant <value = double {8.0}> ()
   far_c = Constant <value = double {4.0}> ()
   far_d = Constant <value = double {-0.5}> ()
   far_1 = Sub (x, far_a)
   far_2 = Mul (far_1, x)
   far_3 = Add (far_2, far_b)
   far_4 = Mul (far_3, x)
   far_5 = Sub (far_4, far_c)
   far = Mul (far_5, far_d)
   is_near = Less (x, whole)
   is_far = Less (x, double)
   curve = Where (is_near, near, far)
   counts = And (is_inside, is_far)
   weights = Where (counts, curve, nothing)
   total = ReduceSum (weights, one)
   shares = Div (weights, total)
   bits = Constant <value = double {4194304.0}> ()
   scaled = Mul (shares, bits)
   is_negative = Less (scaled, nothing)
   down = Constant <value = double {-0.5}> ()
   rounding = Where (is_negative, down, half)
   rounded = Add (rounding, scaled)
   factors = Cast <to = 6> (rounded)

   last = Sub (width, one)
   index_inside = Min (index, last)
   every = Constant <value = int64[1] {-1}> ()
   index_flat = Reshape (index_inside, every)
   taken = Gather <axis = 2> (planes, index_flat)
   outer = Slice (shape, zero, two)
   index_shape = Shape (index)
   taken_shape = Concat <axis = 0> (outer, index_shape)
   taken_4 = Reshape (taken, taken_shape)
   levels = Cast <to = 6> (taken_4)
   products = Mul (levels, factors)
   sums = ReduceSum <keepdims = 0> (products, three)
   half_level = Constant <value = int32 {2097152}> ()
   level = Constant <value = int32 {4194304}> ()
   darkest = Constant <value = int32 {0}> ()
   brightest = Constant <value = int32 {255}> ()
   raised = Add (sums, half_level)
   at_least = Max (raised, darkest)
   divided = Div (at_least, level)
   at_most = Min (divided, brightest)
   resized = Cast <to = 2> (at_most)
}
"""

_PREPARE = """
<ir_version: {ir}, opset_import: ["" : {opset}, "zsad" : 1]>
prepare (uint8[height, width, 3] image) => (float[1, 3, {side}, {side}] images, int64[2] size)
{{
   zero = Constant <value = int64[1] {{0}}> ()
   one = Constant <value = int64[1] {{1}}> ()
   two = Constant <value = int64[1] {{2}}> ()
   side = Constant <value = int64[1] {{{side}}}> ()
   shape = Shape (image)
   size = Slice (shape, zero, two)
   height = Slice (shape, zero, one)
   width = Slice (shape, one, two)
   lower = Sub (height, side)
   narrower = Sub (width, side)
   twice = Mul (narrower, two)
   is_lower = Greater (lower, zero)
   is_much_lower = Greater (lower, twice)
   pillow_may = Constant <value = bool {{{may_begin_with_columns}}}> ()
   columns_shrink = And (is_lower, is_much_lower)
   columns_first_1 = And (columns_shrink, pillow_may)
   columns_first = Squeeze (columns_first_1)

   start = Constant <value = double {{0.5}}> ()
   step = Constant <value = double {{1.0}}> ()
   end = Constant <value = double {{{side}.5}}> ()
   places = Range (start, end, step)

   planes = If (columns_first) <
      then_branch = then_graph () => (turned) {{ turned = Transpose <perm = [2, 1, 0]> (image) }},
      else_branch = else_graph () => (upright) {{ upright = Transpose <perm = [2, 0, 1]> (image) }}
   >
   first = zsad.along_rows (planes, places)
   crossed = Transpose <perm = [0, 2, 1]> (first)
   second = zsad.along_rows (crossed, places)
   square = If (columns_first) <
      then_branch = same_graph () => (same) {{ same = Identity (second) }},
      else_branch = back_graph () => (back) {{ back = Transpose <perm = [0, 2, 1]> (second) }}
   >
   levels = Cast <to = 1> (square)
   brightest = Constant <value = float {{255.0}}> ()
   colours = Div (levels, brightest)
   mean = Constant <value = float[3, 1, 1] {{{mean}}}> ()
   std = Constant <value = float[3, 1, 1] {{{std}}}> ()
   centred = Sub (colours, mean)
   normal = Div (centred, std)
   images = Unsqueeze (normal, zero)
}}
"""


def preparing_graph(preparation: Preparation, opset: int, ir_version: int) -> ModelProto:
    """The graph from pixels to the network's input.

    Args:
        preparation: size and normalisation of the network's input.
        opset: version of ONNX's operators, 18 or later.
        ir_version: version of ONNX's file format.

    Returns:
        Model with the input `image`, (H, W, 3) uint8 RGB of any size, and the outputs `images`, (1, 3, S, S)
        float32, equal to `zsad.images.preparing.prepare`, and `size`, (2,) int64, height and width.
    """
    import onnx
    import PIL
    from onnx import inliner, parser

    may_begin_with_columns = int(PIL.__version__.partition(".")[0]) >= BEGINS_WITH_COLUMNS
    text = _PREPARE.format(
        ir=ir_version,
        opset=opset,
        side=preparation.size,
        may_begin_with_columns=int(may_begin_with_columns),
        mean=", ".join(map(repr, map(float, preparation.mean))),
        std=", ".join(map(repr, map(float, preparation.std))),
    )
    model = parser.parse_model(text)
    model.functions.append(parser.parse_function(_ALONG_ROWS.replace("{opset}", str(opset))))
    found = inliner.inline_local_functions(model)
    onnx.checker.check_model(found)
    return found
