"""Listens to passes through an image encoder, so that two readers of the same images share one pass.

A method reads its own features from the encoder; the comparison with references reads the patches of other
blocks. The comparison opens a recording, the method runs, and the encoder hands both what they want.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from zsad.backbones.stems import StemOutput


class Recording:
    """Tokens of some blocks and the stem's patches, for images that a method passes through the encoder.

    A pass counts if its images are rows of `images` in memory, so that altered copies are never taken for
    the images themselves.

    Attributes:
        images: (B, 3, S, S) images that are waited for.
        taps: 1-based blocks whose tokens are wanted.
    """

    def __init__(self, images: Tensor, taps: Sequence[int]) -> None:
        self.images = images
        self.taps = tuple(taps)
        self._parts: dict[int, tuple[Tensor, ...]] = {}

    def first_row(self, images: Tensor) -> int | None:
        """Row of `self.images` that the first of some images is; None for other images."""
        whole = self.images
        if torch.compiler.is_compiling():  # a tracer's tensors are nowhere in memory
            return 0 if images is whole else None
        is_part = images.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
        if not is_part or images.shape[1:] != whole.shape[1:] or images.stride() != whole.stride():
            return None
        row, rest = divmod(int(images.storage_offset() - whole.storage_offset()), max(1, whole.stride(0)))
        return row if rest == 0 and 0 <= row <= whole.shape[0] - images.shape[0] else None

    def take(self, images: Tensor, tokens: Mapping[int, Tensor], stem: StemOutput | None) -> None:
        """Keeps the result of a pass, if it is one of the images that are waited for."""
        row = self.first_row(images)
        if row is not None:
            on_grid = () if stem is None else stem.on_patch_grid
            self._parts[row] = (*(tokens[tap] for tap in self.taps), *on_grid)

    def result(self) -> tuple[Sequence[Tensor], Sequence[Tensor]] | None:
        """Tokens (B, 1 + N, D) of each block and a stem's patches; None if an image has not passed."""
        rows, parts = 0, []
        for row, part in sorted(self._parts.items(), key=lambda item: item[0]):
            if row == rows:
                parts.append(part)
                rows += part[0].shape[0]
        if rows < self.images.shape[0]:
            return None
        joined = tuple(torch.cat(each) if len(each) > 1 else each[0] for each in zip(*parts, strict=True))
        return joined[: len(self.taps)], joined[len(self.taps) :]


_RECORDING: ContextVar[Recording | None] = ContextVar("recording", default=None)


def listener() -> Recording | None:
    """The recording that is open in this thread; None without one."""
    return _RECORDING.get()


@contextmanager
def recorded(images: Tensor, taps: Sequence[int]) -> Iterator[Recording]:
    """Opens a recording in this thread.

    Args:
        images: (B, 3, S, S) resized and normalised images.
        taps: 1-based blocks whose tokens are wanted.
    """
    recording = Recording(images, taps)
    token = _RECORDING.set(recording)
    try:
        yield recording
    finally:
        _RECORDING.reset(token)
