"""The general rule for known-normal images: distance to the nearest one of their patches, and the own answer.

Methods whose paper says how references are used do that (`MethodInfo.references` is "own"). All others follow
this rule. On each level of description, the distance of a patch to the nearest reference patch is divided by
what this distance usually is between the references, each without its own patches. So all levels count the
same, and 1 means "as different as two normal images are". The method's own map is added as a logit,
standardised by its values on the references: what the method says of every normal image of the product is no
news. Distances to companions, if the method takes them, are added in units of their own.

Chosen on `tiny` on validation data, and measured on the same data: real products, at most 30 normal and 30
anomalous images of each. So these figures are somewhat better than those of products that nothing was chosen
on. The result, as mean image AUROC over seven products and two draws of references: 0.852, 0.893 and 0.904
with 1, 4 and 16 references. What was compared on the way, with anomalyclip, eight products and three draws
unless it says otherwise:

* distances alone, largest patch: 0.811, 0.850, 0.874. Own answer with weights from 0.25 to 0.5: differences
  of 0.002;
* the own answer not standardised: up to 0.06 less at larger weights, and at most 0.01 more; standardised
  within each image: up to 0.15 less;
* units that are medians instead of means: 0.003 to 0.006 less; single levels: 0.01 to 0.1 less; lengths of
  differences instead of cosine distances: no change;
* mean of the largest 2 or 3 of 400 patches instead of the largest one: 0.01 more with 1 reference, no change
  from 4 on; of the largest 5 %: 0.02 to 0.03 less;
* no gain: the class token beside the patches, smoothed distances. Units for each place: 0.02 more with
  1 reference, 0.01 less from 4 on;
* companions of the folder as well, with a weight of 1 (seven products, two draws): 0.866, 0.895, 0.900
  against 0.852, 0.893, 0.904 without; with a weight of 1/2: 0.860, 0.895, 0.901. Hence 1 / sqrt(R). The
  smaller of both distances: 0.872, 0.894, 0.883. With folder mode's answer in place of the lone one: 0.856,
  0.879, 0.881.

Shapes: B images, R references, L levels, N = G*G patches in row-major order, S pixels of one side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.methods.functional.joining import Spread
from zsad.methods.functional.maps import grid_side, upsample
from zsad.methods.functional.matching import SIMILARITIES_AT_ONCE, nearest_similarity
from zsad.types import RawOutput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsad.methods.functional.references import ReferenceMemory

MAP_RANGE = (0.0, 1.0)
MOST_VECTORS = 16_384  # on each level: 40 references at 320 pixels on `tiny`; at most 40 MB there
MOST_MEASURED = 2_048  # patches that say what is usual between references
OWN_WEIGHT = 0.4
LARGEST_SHARE = 1 / 128
HALF = 2.0  # times the usual distance, for a score of one half
NEIGHBOURS = 9  # a patch and those around it, which show the same place
SMALLEST_UNIT = 1e-4
SMALLEST_PROBABILITY = 1e-4


@dataclass(frozen=True)
class ReferenceRule:
    """The references, and what is usual between them.

    Attributes:
        memory: patches of the references, thinned to `MOST_VECTORS` on each level.
        units: (L,) mean distance of a reference's patch to the nearest patch of the other references.
    """

    memory: ReferenceMemory
    units: Tensor

    @classmethod
    def of(cls, memory: ReferenceMemory, most: int = MOST_VECTORS) -> ReferenceRule:
        """The rule for a memory of patches.

        Args:
            memory: patches of one or more references.
            most: largest number of vectors to compare with on each level.
        """
        kept = memory.thinned(most)
        units = [
            usual_distance(*asked_and_known)
            for asked_and_known in zip(memory.levels, memory.owners, kept.levels, kept.owners, strict=True)
        ]
        return cls(kept, torch.stack(units).clamp(min=SMALLEST_UNIT))

    def distances(self, levels: Sequence[Tensor]) -> Tensor:
        """Distance of each patch to the nearest reference patch, in units of what is usual, mean over levels.

        z(p) = mean over levels l of  min_r (1 - cos(u_l(p), r_l)) / 2 / unit_l

        Source: WinCLIP (2303.14814), section 4.3, equation 6, for the distance on a level.

        Args:
            levels: L tensors (B, N, D_l) of unit vectors.

        Returns:
            (B, N) float32, at least 0.
        """
        total = torch.zeros(levels[0].shape[:2], device=levels[0].device)
        for level, known, unit in zip(levels, self.memory.levels, self.units, strict=True):
            nearest = nearest_similarity(level.flatten(0, 1), known[None])[0].float()
            total += half_cosine(nearest).reshape(level.shape[:2]) / unit
        return total / len(levels)

    def joined(
        self,
        raw: RawOutput,
        levels: Sequence[Tensor],
        usual: Spread | None,
        map_range: tuple[float, float],
        companions: Tensor | None = None,
    ) -> RawOutput:
        """The answer to images, from their distances to the references and the method's own answer.

        f(p) = z(p) + 0.4 (logit M(p) - mean) / deviation + c(p) / sqrt(R)
        M' = (1 + t / (1 + |t|)) / 2  with  t = f - 2

        The score is the same function of the mean of the largest 1/128 of f. Companions count the less the
        more references there are, because they may share a fault.

        Args:
            raw: scores (B,) and maps (B, S, S) of the method.
            levels: L tensors (B, N, D_l) of unit vectors, patches of the same images.
            usual: mean and deviation of the method's own logits on the references, scalars or (B, 1), from
                `usual_logits`; None for distances alone.
            map_range: smallest and largest value of the method's maps.
            companions: (B, N) distances c to unlabelled images, from `Method.companion_distances`; None
                without any.

        Returns:
            Scores and maps in [0, 1].
        """
        return self.with_distances(self.distances(levels), raw, usual, map_range, companions)

    def with_distances(
        self,
        fused: Tensor,
        raw: RawOutput,
        usual: Spread | None,
        map_range: tuple[float, float],
        companions: Tensor | None = None,
    ) -> RawOutput:
        """`joined`, from distances (B, N) that `distances` has given."""
        if companions is not None:
            fused = fused + companions / self.memory.count**0.5
        side = grid_side(fused.shape[1])
        if usual is not None:
            fused = fused + OWN_WEIGHT * usual.standardised(own_logits(raw.maps, side, map_range))
        largest = fused.topk(max(1, round(fused.shape[1] * LARGEST_SHARE)), dim=1).values.mean(dim=1)
        maps = upsample(fused.reshape(-1, side, side), int(raw.maps.shape[-1]))
        return RawOutput(between_0_and_1(largest), between_0_and_1(maps))


def usual_distance(asked: Tensor, askers: Tensor, known: Tensor, owners: Tensor) -> Tensor:
    """Mean distance of the references' vectors to the nearest vector of another reference, on one level.

    A single reference is compared with itself, and each vector with the ninth nearest one, because the
    nearest ones are the vector itself and its neighbours, which show the same place.

    Args:
        asked: (P, D) unit vectors of all references; at most `MOST_MEASURED`, evenly spread, are used.
        askers: (P,) the reference that each belongs to.
        known: (K, D) unit vectors to compare with.
        owners: (K,) the reference that each of these belongs to.

    Returns:
        Scalar in [0, 1].
    """
    count = min(len(asked), MOST_MEASURED)
    rows = torch.arange(count, device=asked.device) * len(asked) // count
    is_single = bool((owners == askers[0]).all())
    found = []
    for part in torch.split(rows, max(1, SIMILARITIES_AT_ONCE // len(known))):
        similarity = asked[part] @ known.T
        if is_single:
            found.append(similarity.topk(min(NEIGHBOURS, len(known)), dim=1).values[:, -1])
        else:
            similarity.masked_fill_(askers[part, None] == owners, -1.0)
            found.append(similarity.amax(dim=1))
    return half_cosine(torch.cat(found).float()).mean()


def own_logits(maps: Tensor, side: int, map_range: tuple[float, float]) -> Tensor:
    """A method's own maps, patch by patch, as logits of their place in the range.

    Args:
        maps: (B, S, S) in `map_range`.
        side: G, patches of one side; S is a multiple of it.
        map_range: smallest and largest value of the maps.

    Returns:
        (B, N) float32, finite.

    Example:
        >>> own_logits(torch.tensor([[[0.0, 1.0], [1.0, 2.0]]]), 1, (0.0, 2.0))
        tensor([[0.]])
    """
    low, high = map_range
    means = F.avg_pool2d(maps.float()[:, None], maps.shape[-1] // side).flatten(1)
    return ((means - low) / (high - low)).logit(eps=SMALLEST_PROBABILITY)


def usual_logits(maps: Tensor, side: int, map_range: tuple[float, float]) -> Spread:
    """Mean and deviation, each (1, 1), of a method's own logits over all patches of normal images.

    Args:
        maps: (R, S, S) maps of the images, in `map_range`.
        side: G, patches of one side.
        map_range: smallest and largest value of the maps.
    """
    return Spread.of(own_logits(maps, side, map_range), (0, 1))


def half_cosine(similarity: Tensor) -> Tensor:
    """Half the cosine distance, in [0, 1], for any shape."""
    return ((1 - similarity) / 2).clamp(0, 1)


def between_0_and_1(fused: Tensor) -> Tensor:
    """Brings joined evidence to [0, 1]; strictly rising, also where a logistic function has long been 1.

    Example:
        >>> between_0_and_1(torch.tensor([1.0, 2.0, 32.0]))
        tensor([0.2500, 0.5000, 0.9839])
    """
    ahead = fused - HALF
    return (1 + ahead / (1 + ahead.abs())) / 2
