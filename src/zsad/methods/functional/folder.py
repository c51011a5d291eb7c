"""What the images of a folder have in common, and how far they move the answer of the prompts.

Shapes: B images, M companions, K of them compared with an image, L levels of description, T layers that are
compared with the prompts, N patches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from zsad.methods.functional.comparison import CompanionPatches, Comparison, compare
from zsad.methods.functional.joining import Levels, Spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

LEAST_COMPANIONS = 7
ALIKE, UNLIKE = 1.0, 1.1
# Quantile that counts as rare, and the logits that the median and that quantile become.
IMAGE_LEVELS = (0.95, -3.0, 3.0)
PATCH_LEVELS = (0.975, -4.0, 0.0)
SCALE_NOTE = (
    "Scores rank the images of this folder only: their scale is set so that about 5 % of the images exceed "
    "0.95, even if none is anomalous"
)


@dataclass(frozen=True)
class Logits:
    """How far abnormal is ahead of normal.

    Attributes:
        images: (B,).
        patches: (B, T, N).
    """

    images: Tensor
    patches: Tensor


@dataclass(frozen=True)
class Weighting:
    """How a comparison with companions is done and how much it counts.

    Attributes:
        companions: number of most alike companions that an image is compared with.
        best_share: share of these that counts for a patch, from the best match on, at least one.
        visual_weight: weight of the comparison against the prompts, in standard deviations.
    """

    companions: int
    best_share: float
    visual_weight: float


@dataclass(frozen=True)
class Companions:
    """Companions of an image, and how values spread over them.

    Attributes:
        patches: patches of the companions.
        weighting: how images are compared with them.
        unlikeness: (M,) unlikeness of each companion, see `Comparison`.
        level_means: (L, 1) mean distance on each level.
        image_distances: spread of the largest patch distance of an image.
        patch_distances: spread of the patch distances.
        image_logits: spread of the images' logits from the prompts.
        patch_logits: spread of the patches' logits from the prompts, (1, T, 1).
        alike: scalar in [0, 1], how far the comparison is trusted in the whole folder.
        copies: scalar, number of companions that are copies of others.
        image_levels: common and rare values of the images' joined logits.
        patch_levels: common and rare values of the patches' joined logits, (1, T, 1).
    """

    patches: CompanionPatches
    weighting: Weighting
    unlikeness: Tensor
    level_means: Tensor
    image_distances: Spread
    patch_distances: Spread
    image_logits: Spread
    patch_logits: Spread
    alike: Tensor
    copies: Tensor
    image_levels: Levels | None = None
    patch_levels: Levels | None = None

    @classmethod
    def of(
        cls, levels: Sequence[Tensor], logits: Logits, weighting: Weighting
    ) -> tuple[Companions, Comparison]:
        """Images as companions of others, and how they compare with each other.

        Args:
            levels: L tensors (M, N, D_l) of unit vectors.
            logits: logits of the same images from the prompts.
            weighting: how images are compared with them.
        """
        patches = CompanionPatches.of(levels)
        comparison = compare(levels, patches, weighting.companions, weighting.best_share)
        level_means = comparison.distances.mean(dim=(0, 2)).clamp(min=1e-6)[:, None]
        distances = (comparison.distances / level_means).mean(dim=1)
        found = cls(
            patches,
            weighting,
            comparison.unlikeness,
            level_means,
            image_distances=Spread.of(distances.amax(dim=1), (0,)),
            patch_distances=Spread.of(distances, (0, 1)),
            image_logits=Spread.of(logits.images, (0,)),
            patch_logits=Spread.of(logits.patches, (0, 2)),
            alike=comparison.unlikeness.new_zeros(()),
            # Of the K most alike companions only the image itself, or one too many, does not count.
            copies=(comparison.counted.sum(dim=1) < comparison.counted.shape[1] - 1).sum(),
        )
        joined = found.joined(logits, comparison)
        used = weighting.visual_weight > 0
        found = replace(
            found,
            alike=found.likeness(comparison).median() * used,
            image_levels=Levels.of(joined.images, (0,), *IMAGE_LEVELS),
            patch_levels=Levels.of(joined.patches, (0, 2), *PATCH_LEVELS),
        )
        return found, comparison

    def compared(self, levels: Sequence[Tensor]) -> Comparison:
        """How images, given by their L tensors (B, N, D_l), match the companions."""
        return compare(levels, self.patches, self.weighting.companions, self.weighting.best_share)

    def patch_distances_of(self, comparison: Comparison) -> Tensor:
        """(B, N) distances of the patches of B images, in units of the companions' mean on each level."""
        return (comparison.distances / self.level_means).mean(dim=1)

    def likeness(self, comparison: Comparison) -> Tensor:
        """How far the comparison of each image can be trusted.

        It is the likeness of the companions, not of the image: an image that is anomalous all over must not
        be excused for being unlike all others.

        Args:
            comparison: comparison of B images.

        Returns:
            (B,) in [0, 1]; 0 with fewer than 7 companions that are no copies.
        """
        counts = comparison.counted.sum(dim=1)
        ratios = self.unlikeness[comparison.companions].masked_fill(~comparison.counted, torch.inf)
        middle = (counts - 1).clamp(min=0) // 2  # as torch's medians; no exporter knows the one without NaN
        median = ratios.sort(dim=1).values.gather(1, middle[:, None])[:, 0]
        return torch.where(counts >= LEAST_COMPANIONS, trusted(median), 0.0)

    def joined(self, logits: Logits, comparison: Comparison) -> Logits:
        """Logits from the prompts, moved by the comparison with the companions.

        Args:
            logits: logits of B images.
            comparison: comparison of the same images.
        """
        weight = self.weighting.visual_weight * self.likeness(comparison)  # (B,)
        distances = self.patch_distances_of(comparison)
        by_image = self.image_distances.standardised(distances.amax(dim=1))
        by_patch = self.patch_distances.standardised(distances)
        moved = (weight[:, None] * by_patch)[:, None] * self.patch_logits.deviation
        images = logits.images + weight * by_image * self.image_logits.deviation
        return Logits(images, logits.patches + moved)

    def rescaled(self, logits: Logits) -> Logits:
        """Joined logits on a scale that shows the differences within the folder; their order stays."""
        if self.image_levels is None or self.patch_levels is None:
            return logits
        return Logits(
            self.image_levels.rescaled(logits.images, self.alike),
            self.patch_levels.rescaled(logits.patches, self.alike),
        )

    def described(self) -> str:
        """A line for the user: what was compared, how far it counts, and what the scores mean."""
        drawn, copies = len(self.patches), int(self.copies)
        ratio, trust = float(self.unlikeness.median()), float(self.alike)
        prompts_only = "scores come from the text prompts only"
        if self.weighting.visual_weight == 0:
            return f"visual_weight is 0, so images are not compared with each other: {prompts_only}"
        if trust == 0 and drawn - copies < LEAST_COMPANIONS:
            return (
                f"{copies} of the {drawn} images drawn from the folder are copies of others, which leaves "
                f"too few to compare with: {prompts_only}"
            )
        found = f"each image was compared with others of the folder ({drawn} drawn"
        found += f", {copies} of them copies of others, which do not count)" if copies else ")"
        if trust == 0:
            return (
                f"{found}, but they differ too much ({ratio:.2f}; alike is below {UNLIKE}) to tell what is "
                f"unusual: {prompts_only}"
            )
        likeness, amount = ("alike", "in full") if trust == 1 else ("partly alike", f"{trust:.0%}")
        return (
            f"{found}; they are {likeness} ({ratio:.2f}), so the comparison counts {amount} beside the text "
            f"prompts. {SCALE_NOTE}"
        )


def trusted(unlikeness: Tensor) -> Tensor:
    """How much a comparison counts, from 1 (alike) down to 0 (unlike), of any shape."""
    return ((UNLIKE - unlikeness) / (UNLIKE - ALIKE)).clamp(0, 1)
