"""Few-shot scoring for every method: the distance of each patch to the nearest patch of known-normal images.

Methods whose paper says how references are used do that (`MethodInfo.references` is "own"). All other methods
follow this general rule, which is WinCLIP+'s: the mean of the method's own answer and of the distance.

Patches are described by several layers, as in APRIL-GAN, and by the levels of a hybrid stem. Measured with
anomalyclip on the backbone "tiny" and 4 references, the 8 sets that this choice of levels was made on: mean
image AUROC 0.746 without references, 0.803 with these levels, 0.749 with the last layer alone.

Shapes: B images, R references, L levels of description, N = G*G patches in row-major order, D_l feature width
of a level, S pixels of one side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zsad.errors import ConfigError
from zsad.methods.functional.maps import to_grid, upsample
from zsad.methods.functional.matching import nearest_similarity
from zsad.methods.functional.patches import comparable_patches, layers_compared
from zsad.types import RawOutput

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from zsad.backbones.vision import VisionTower

IMAGES_AT_ONCE = 8


@dataclass(frozen=True)
class ReferenceMemory:
    """What a method keeps of known-normal images: vectors, and never the images themselves.

    Attributes:
        levels: L tensors (P_l, D_l), the vectors of all references on each level: patches, or windows.
        owners: L tensors (P_l,) int64, the number of the reference that each vector belongs to, from 0 on.
    """

    levels: tuple[Tensor, ...]
    owners: tuple[Tensor, ...]

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

    @property
    def count(self) -> int:
        """Number of references: one more than the largest number of an owner."""
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
        )

    def to(self, device: torch.device) -> ReferenceMemory:
        """The same memory on another device."""
        return ReferenceMemory(
            tuple(level.to(device) for level in self.levels), tuple(owner.to(device) for owner in self.owners)
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


def remember(visual: VisionTower, references: Tensor) -> ReferenceMemory:
    """The patches of known-normal images.

    Args:
        visual: the image encoder.
        references: (R, 3, S, S) resized and normalised images.
    """
    return ReferenceMemory.of(_patches(visual, references))


def reference_distances(visual: VisionTower, images: Tensor, memory: ReferenceMemory) -> Tensor:
    """Distance of each patch to the nearest reference patch, averaged over the levels.

    A(p) = mean over levels l of  min_r (1 - cos(u_l(p), r_l)) / 2

    Source: WinCLIP (2303.14814), section 4.3, equation 6, here for patches of several layers.

    Args:
        visual: the image encoder that the memory was made with.
        images: (B, 3, S, S) resized and normalised images.
        memory: patches of the references.

    Returns:
        (B, G, G) float32 in [0, 1].
    """
    found = []
    for level, known in zip(_patches(visual, images), memory.levels, strict=True):
        similarity = nearest_similarity(level.flatten(0, 1), known[None])[0].float()
        found.append(((1 - similarity) / 2).clamp(0, 1).reshape(level.shape[:2]))
    return to_grid(torch.stack(found).mean(dim=0)[..., None])[:, 0]


def with_references(raw: RawOutput, distances: Tensor, map_range: tuple[float, float]) -> RawOutput:
    """A method's answer, joined with the distances to the references.

    s' = (s + max_p A(p)) / 2,  M' = (M + low + (high - low) upsample(A)) / 2

    Distances are brought to the map's range, so that they count as much as the method's own map.

    Source: WinCLIP (2303.14814), section 4.3, for maps in [0, 1].

    Args:
        raw: scores (B,) and maps (B, S, S) of the method.
        distances: (B, G, G) in [0, 1], from `reference_distances`.
        map_range: smallest and largest value of the method's maps.

    Returns:
        Scores in [0, 1] if the method's are, and maps inside `map_range`.

    Example:
        >>> raw = RawOutput(torch.tensor([0.2]), torch.full((1, 1, 1), 3.0))
        >>> joined = with_references(raw, torch.full((1, 1, 1), 0.5), (0.0, 4.0))
        >>> joined.scores, joined.maps.flatten()
        (tensor([0.3500]), tensor([2.5000]))
    """
    low, high = map_range
    scaled = low + (high - low) * upsample(distances, int(raw.maps.shape[-1]))
    return RawOutput((raw.scores + distances.amax(dim=(1, 2))) / 2, (raw.maps + scaled) / 2)


@torch.no_grad()
def _patches(visual: VisionTower, images: Tensor) -> list[Tensor]:
    """L tensors (B, N, D_l) of unit vectors, from a few images at a time."""
    layers = layers_compared(None, visual.config)
    parts = [
        comparable_patches(visual(part, taps=layers), layers) for part in torch.split(images, IMAGES_AT_ONCE)
    ]
    return [torch.cat(level) for level in zip(*parts, strict=True)]
