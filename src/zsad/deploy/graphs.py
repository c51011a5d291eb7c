"""Turns a prepared detector into graphs: images in, scores and maps out, everything else folded in."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zsad.errors import ConfigError, one_line

if TYPE_CHECKING:
    import onnx_ir

    from zsad.methods.base import Method
    from zsad.types import RawOutput

MOST_AT_ONCE = 64
TRACED_AT_ONCE = 2  # a batch of one would become a constant of the graph
_ANY_SIZE = 2**40  # bytes of a constant; slices of weights are among them


class BatchGraph(nn.Module):
    """A prepared detector as a module of images alone, which exporters can follow.

    Attributes:
        method: method whose weights become constants of the graph.
    """

    def __init__(self, method: Method, folded: Callable[[Tensor], RawOutput]) -> None:
        """A module of a prepared detector.

        Args:
            method: the method.
            folded: scores images, from `zsad.detector.states.States.folded`.
        """
        super().__init__()
        self.method = method
        self._folded = folded

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,) and maps (B, S, S), float32, of images (B, 3, S, S), resized and normalised."""
        raw = self._folded(images)
        return raw.scores.float(), raw.maps.float()


def batch_graph(graph: BatchGraph, image_size: int) -> onnx_ir.Model:
    """The ONNX graph of a batch of any size up to `MOST_AT_ONCE`.

    Args:
        graph: the detector.
        image_size: S, side of the images in pixels.

    Returns:
        Model with the input `images` (batch, 3, S, S), and the outputs `scores` and `maps`.

    Raises:
        ConfigError: the method does something that no graph can hold.
    """
    device = graph.method.backbone.text_projection.device
    images = torch.zeros(TRACED_AT_ONCE, 3, image_size, image_size, device=device)
    batch = torch.export.Dim("batch", min=1, max=MOST_AT_ONCE)
    model = _traced(graph, images, {0: batch}, ["images"], ["scores", "maps"])
    _name_the_batch(model)
    return model


def _name_the_batch(model: onnx_ir.Model) -> None:
    """Calls the open dimension of inputs and outputs "batch"; the exporter gives it a number of its own."""
    import onnx_ir

    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            value.shape = onnx_ir.Shape(["batch", *value.shape[1:]])


def _traced(
    module: nn.Module, example: Tensor, dynamic: dict[int, object], inputs: list[str], outputs: list[str]
) -> onnx_ir.Model:
    """The ONNX graph of a module with one input, everything that is constant computed."""
    with _quietly(), torch.no_grad():
        module(example)  # what is computed once and kept becomes a constant
        try:
            program = torch.export.export(module, (example,), dynamic_shapes=(dynamic,), strict=False)
            found = torch.onnx.export(
                program, dynamo=True, input_names=inputs, output_names=outputs, verbose=False
            )
        except Exception as error:  # the exporter raises anything
            raise ConfigError(f"this detector cannot be exported as a graph: {one_line(error)}") from error
    if found is None:
        raise ConfigError("this detector cannot be exported as a graph: the exporter gave no model")
    from onnxscript import optimizer

    optimizer.fold_constants(found.model, input_size_limit=_ANY_SIZE, output_size_limit=_ANY_SIZE)
    optimizer.remove_unused_nodes(found.model)
    return found.model


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps the exporter's remarks about its own work from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
