"""Noise from which samples of prompt distributions are made.

Shapes: B images, R draws, D width of the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zsad.errors import ConfigError


@dataclass(frozen=True)
class Draws:
    """Noise of the three distributions of Bayes-PFL, standard normal.

    Attributes:
        context: (1 or B, R, D), one row for all images or one for each.
        states: (2, R, D), for the normal and the abnormal state.
    """

    context: Tensor
    states: Tensor

    @classmethod
    def once(cls, draws: int, width: int, seed: int) -> Draws:
        """Noise that is the same for all images and in every run.

        Args:
            draws: R; 0 for one draw without noise.
            width: D.
            seed: seed of the noise.
        """
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(3, max(1, draws), width, generator=generator)
        return cls.split(noise if draws else torch.zeros_like(noise))

    @classmethod
    def split(cls, noise: Tensor) -> Draws:
        """Noise (2 + n, R, D) of the two states and of n rows of the context."""
        return cls(noise[2:], noise[:2])

    @classmethod
    def given(cls, context: Tensor, normal: Tensor, abnormal: Tensor, width: int) -> Draws:
        """Noise from outside.

        Args:
            context: (R, D) or (B, R, D).
            normal: (R, D).
            abnormal: (R, D).
            width: D.

        Raises:
            ConfigError: the shapes do not fit together, or not to the width.
        """
        shape = (*normal.shape[:1], width)
        if context.ndim not in (2, 3) or not context.shape[-2:] == normal.shape == abnormal.shape == shape:
            raise ConfigError(
                f"draws must be context (R, {width}) or (B, R, {width}), normal and abnormal (R, {width}), "
                "got "
                f"{', '.join(str(tuple(each.shape)) for each in (context, normal, abnormal))}"
            )
        return cls(context if context.ndim == 3 else context[None], torch.stack([normal, abnormal]))

    def first(self) -> Draws:
        """The first draw of each distribution."""
        return Draws(self.context[:, :1], self.states[:, :1])

    def rows(self, images: slice) -> Draws:
        """The draws of some images of the batch."""
        return self if self.context.shape[0] == 1 else Draws(self.context[images], self.states)
