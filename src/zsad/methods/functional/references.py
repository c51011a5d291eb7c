"""The memory of known-normal images: patches on several levels, as APRIL-GAN keeps them, or windows.

Levels are layers of the image encoder, or the widened patches of a hybrid stem (`reference_patches`).

Shapes: B images, R references, L levels of description, N = G*G patches in row-major order, P_l vectors on a
level, D_l their width, S pixels of one side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zsad.errors import ConfigError
from zsad.methods.functional.coreset import most_spread
from zsad.methods.functional.maps import in_parts
from zsad.methods.functional.patches import reference_layers, reference_patches

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from zsad.backbones.vision import VisionTower

IMAGES_AT_ONCE = 8
WAYS_TO_TURN = 8


@dataclass(frozen=True)
class ReferenceMemory:
    """What a method keeps of known-normal images: vectors, and never the images themselves.

    Attributes:
        levels: L tensors (P_l, D_l), the vectors of all references on each level: patches, or windows.
        owners: L tensors (P_l,) int64, the number of the reference that each vector belongs to, from 0 on.
        chosen: L tensors of int64, the rows that `thinned` keeps, from `choice`; empty to choose them then.
    """

    levels: tuple[Tensor, ...]
    owners: tuple[Tensor, ...]
    chosen: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, levels: Sequence[Tensor]) -> ReferenceMemory:
        """The memory of some references.

        Args:
            levels: L tensors (R, N_l, D_l); N_l may differ between levels.
        """
        owners = tuple(
            torch.arange(len(level), device=level.device).repeat_interleave(level.shape[1])
            for level in levels
        )
        return cls(tuple(level.flatten(0, 1) for level in levels), owners)

    @cached_property
    def count(self) -> int:
        """Number of references: one more than the largest number of an owner.

        It is read from a tensor once, which a GPU and an exporter would otherwise have to wait for.
        """
        return 1 + max(int(owner.max()) for owner in self.owners)

    def without(self, images: Collection[int]) -> ReferenceMemory:
        """The memory without the vectors of some references, whose numbers stay free.

        Args:
            images: numbers of the references to leave out.

        Raises:
            ConfigError: no reference would be left.

        Example:
            >>> memory = ReferenceMemory.of([torch.tensor([[[1.0]], [[2.0]], [[3.0]]])])
            >>> memory.without({1}).levels[0].flatten(), memory.without({1}).owners[0]
            (tensor([1., 3.]), tensor([0, 2]))
        """
        kept = [
            ~torch.isin(owner, torch.tensor(sorted(images), dtype=owner.dtype, device=owner.device))
            for owner in self.owners
        ]
        if not all(bool(rows.any()) for rows in kept):
            raise ConfigError(
                f"no reference is left of {self.count} without number {', '.join(map(str, sorted(images)))}: "
                "give at least one more known-normal image"
            )
        return ReferenceMemory(
            tuple(level[rows] for level, rows in zip(self.levels, kept, strict=True)),
            tuple(owner[rows] for owner, rows in zip(self.owners, kept, strict=True)),
            tuple(
                (rows.cumsum(0) - 1)[chosen[rows[chosen]]]
                for chosen, rows in zip(self.chosen, kept, strict=False)
            ),
        )

    def to(self, device: torch.device) -> ReferenceMemory:
        """The same memory on another device."""
        return ReferenceMemory(
            tuple(level.to(device) for level in self.levels),
            tuple(owner.to(device) for owner in self.owners),
            tuple(rows.to(device) for rows in self.chosen),
        )

    def joined_with(self, other: ReferenceMemory) -> ReferenceMemory:
        """The references of both; those of `other` are numbered on from `count`.

        Raises:
            ConfigError: the levels differ in number or width, because another method or backbone made them.
        """
        ours, theirs = ([level.shape[-1] for level in memory.levels] for memory in (self, other))
        if ours != theirs:
            raise ConfigError(
                f"references of another method or backbone: their vectors have the lengths {theirs}, "
                f"expected {ours}; make both with the same settings"
            )
        first = self.count
        return ReferenceMemory(
            tuple(torch.cat(pair) for pair in zip(self.levels, other.levels, strict=True)),
            tuple(
                torch.cat([own, first + more]) for own, more in zip(self.owners, other.owners, strict=True)
            ),
        )

    def thinned(self, most: int) -> ReferenceMemory:
        """At most so many vectors on each level: those of `chosen`, or else of `choice`.

        Args:
            most: largest number of vectors on a level, at least the number of references.

        Raises:
            ConfigError: there are more references than that.
        """
        rows = self.chosen or self.choice(most)
        if not rows:
            return self
        return ReferenceMemory(
            tuple(level[kept] for level, kept in zip(self.levels, rows, strict=True)),
            tuple(owner[kept] for owner, kept in zip(self.owners, rows, strict=True)),
        )

    def choice(self, most: int) -> tuple[Tensor, ...]:
        """Rows of at most so many vectors on each level, by `zsad.methods.functional.coreset.most_spread`.

        The first vector of each reference stays, so that none is lost. The distance of any vector to the
        nearest one that is left, as the length of the difference of unit vectors, is at most the radius of
        `most_spread` above the distance to the nearest of all.

        Args:
            most: largest number of vectors on a level, at least the number of references.

        Returns:
            L tensors of int64, ascending; empty if no level has more than `most` vectors.

        Raises:
            ConfigError: there are more references than that.
        """
        if max(len(level) for level in self.levels) <= most:
            return ()
        if self.count > most:
            raise ConfigError(f"{self.count} references need at least {self.count} vectors, got {most}")
        rows = []
        for level, owner in zip(self.levels, self.owners, strict=True):
            numbers = [number for number in range(self.count) if bool((owner == number).any())]
            first = torch.stack([(owner == number).nonzero()[0, 0] for number in numbers])
            rows.append(most_spread(level, most, first)[0])
        return tuple(rows)


def remember(visual: VisionTower, references: Tensor) -> ReferenceMemory:
    """The patches of known-normal images.

    Args:
        visual: the image encoder.
        references: (R, 3, S, S) resized and normalised images.
    """
    return ReferenceMemory.of(patches(visual, references))


def turned(images: Tensor) -> Tensor:
    """Each image in the eight ways that quarter turns and a flip give, for parts that lie in any direction.

    Args:
        images: (R, 3, S, S).

    Returns:
        (8 R, 3, S, S); the images 8 r to 8 r + 7 show image r.
    """
    ways = [torch.rot90(each, turns, (2, 3)) for each in (images, images.flip(3)) for turns in range(4)]
    return torch.stack(ways, dim=1).flatten(0, 1)


def remember_turned(remember: Callable[[Tensor], ReferenceMemory], images: Tensor) -> ReferenceMemory:
    """What `Method.remember` keeps of images (R, 3, S, S) and of each turned and flipped, by image."""
    memory = remember(turned(images))
    return replace(memory, owners=tuple(owner // WAYS_TO_TURN for owner in memory.owners))


@torch.no_grad()
def patches(visual: VisionTower, images: Tensor) -> list[Tensor]:
    """L tensors (B, N, D_l) of unit vectors, from a few images at a time.

    Args:
        visual: the image encoder.
        images: (B, 3, S, S) resized and normalised images.
    """
    layers = reference_layers(visual.config)
    return list(
        in_parts(lambda part: reference_patches(visual(part, taps=layers), layers), images, IMAGES_AT_ONCE)
    )
