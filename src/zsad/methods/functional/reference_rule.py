"""The general rule for known-normal images: distance to the nearest one of their patches, and the own answer.

Methods whose paper says how references are used do that (`MethodInfo.references` is "own"). All others follow
this rule. On each level of description, the distance of a patch to the nearest reference patch is measured
against what this distance is between the references, each without its own patches: 0 is their mean, 1 the
mean of their largest 1/128. So all levels count by what normal images of this product leave unexplained, and
1 means "as different as the most different patches of normal images are". The method's own map is added as a
logit, measured in the same way by its values on the references: what the method says of every normal image of
the product is no news, and where it varies much among normal images it says little. Distances to companions,
if the method takes them, are added in units of their own.

Chosen on `tiny` on validation data, and measured on the same data, so these figures are somewhat better
than those of products that nothing was chosen on: mean image AUROC over the real products that have so many
known-normal images (8, 8 and 5) and six draws of references, from `benchmarks/reference_rules.py --data
../shared/data/validation`. In brackets the mean difference to the first row and its standard error over the
products. These figures are of the levels by which unlabelled images are compared (`comparable_patches`), the
middle one of three counting double; references have other levels since (`reference_patches`, with figures),
which count the same:

    rule                                1 reference            4                      16
    units that are means, own 0.4       0.804                  0.851                  0.841
    this rule, own answer 0.8           0.821 (0.017 ± 0.011)  0.862 (0.011 ± 0.006)  0.852 (0.010 ± 0.014)
    own answer 0.6                      0.819 (0.015 ± 0.015)  0.862 (0.012 ± 0.010)  0.852 (0.011 ± 0.008)
    own answer 0.4                      0.816 (0.013 ± 0.021)  0.861 (0.010 ± 0.014)  0.852 (0.011 ± 0.010)
    distances alone                     0.785                  0.841                  0.827
    all levels count the same           0.816 (0.012 ± 0.010)  0.855 (0.004 ± 0.004)  0.851 (0.009 ± 0.013)
    deviations in place of the largest  0.807 (0.003 ± 0.006)  0.855 (0.004 ± 0.004)  0.848 (0.007 ± 0.006)

So the gain is small, and about as large as its uncertainty. On synthetic products (`--synthetic 8`) the rule
makes no difference: 0.945, 0.966 and 0.984 against 0.947, 0.965 and 0.985, standard errors 0.002 to 0.003. On
the evaluation images, which it was not chosen on, it is ahead with 1 and 4 references and behind with 8
(the card of `tiny`).

What else was tried, on subsets of the same data:

* no gain: distances divided by those of the reference's patch itself (local density), mean of the three
  nearest patches, patches centred or whitened by the references (three products; with 16 references two
  gained, 1 and 4 lost), means over 3 x 3 patches, the coarse level of the stem, smoothed distances, the
  patches at the same place alone, units for each place, the image's own logit beside its patches, a weight
  of the own answer that follows how the largest values vary between references;
* the largest patch alone instead of the largest 1/128: within 0.01; the largest 1/40: 0.009 to 0.014 less;
* half of an image's median distance taken off all its patches: pixel AUROC 0.01 to 0.05 more where the
  products differ as a whole (fabrics), image AUROC 0.00 to 0.003 less; not followed, because it hides faults
  of the whole image;
* patches whitened by how normal patches of the seven other products differ: no gain (0.831, 0.856, 0.852 with
  the middle level alone, 0.831, 0.864, 0.854 without), and a loss on the finest level;
* a weight of the own answer for each product, from four synthetic defects on each reference: 0.857 against
  0.855 with 4 references, 0.862 against 0.838 with 16 (four products); the best weight of each product would
  give 0.884 and 0.876. The synthetic defects are nearly all found with any weight, so they choose badly;
* by an earlier form of this rule, companions of the folder with a weight of 1 (seven products, two draws):
  0.866, 0.895, 0.900 with 1, 4 and 16 references against 0.852, 0.893, 0.904 without; with 1/2: 0.860, 0.895,
  0.901. Hence 1 / sqrt(R). The smaller of both distances: 0.872, 0.894, 0.883.

Shapes: B images, R references, L levels, N = G*G patches in row-major order, S pixels of one side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.methods.functional.maps import grid_side, upsample
from zsad.methods.functional.matching import SIMILARITIES_AT_ONCE, nearest_similarity
from zsad.methods.functional.usual import Usual, largest_mean
from zsad.types import RawOutput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsad.methods.functional.references import ReferenceMemory

MAP_RANGE = (0.0, 1.0)
MOST_VECTORS = 16_384  # on each level: 40 references at 320 pixels on `tiny`; at most 40 MB there
MOST_MEASURED = 2_048  # patches that say what is usual between references
EDITION = 3  # of the rule: a threshold holds for the edition that it was made with
OWN_WEIGHT = 0.8
HALF = 2.0  # times what the largest patches of normal images reach, for a score of one half
NEIGHBOURS = 9  # a patch and those around it, which show the same place
SMALLEST_EXCESS = 1e-4  # of distances: two files of one image differ by less
SMALLEST_PROBABILITY = 1e-4


@dataclass(frozen=True)
class ReferenceRule:
    """The references, and what is usual between them.

    Attributes:
        memory: patches of the references, thinned to `MOST_VECTORS` on each level.
        usual: (L, 1) distance of a reference's patch to the nearest patch of the other references.
    """

    memory: ReferenceMemory
    usual: Usual

    @classmethod
    def of(cls, memory: ReferenceMemory, most: int = MOST_VECTORS) -> ReferenceRule:
        """The rule for a memory of patches.

        Args:
            memory: patches of one or more references.
            most: largest number of vectors to compare with on each level.
        """
        kept = memory.thinned(most)
        between = [
            distances_between(*asked_and_known)
            for asked_and_known in zip(memory.levels, memory.owners, kept.levels, kept.owners, strict=True)
        ]
        return cls(kept, usual_distances(between))

    def distances(self, levels: Sequence[Tensor]) -> Tensor:
        """Distance of each patch to the nearest reference patch, above what is usual, mean over levels.

        z(p) = mean over levels l of  (min_r (1 - cos(u_l(p), r_l)) / 2 - mean_l) / excess_l

        Source: WinCLIP (2303.14814), section 4.3, equation 6, for the distance on a level.

        Args:
            levels: L tensors (B, N, D_l) of unit vectors.

        Returns:
            (B, N) float32; 0 is usual, 1 the mean of the most distant 1/128 of normal patches.
        """
        found = [
            half_cosine(nearest_similarity(level.flatten(0, 1), known[None])[0].float())
            for level, known in zip(levels, self.memory.levels, strict=True)
        ]
        return self.usual.above(torch.stack(found)).mean(dim=0).reshape(levels[0].shape[:2])

    def joined(
        self,
        raw: RawOutput,
        levels: Sequence[Tensor],
        usual: Usual | None,
        map_range: tuple[float, float],
        companions: Tensor | None = None,
    ) -> RawOutput:
        """The answer to images, from their distances to the references and the method's own answer.

        f(p) = z(p) + 0.8 (logit M(p) - mean) / excess + c(p) / sqrt(R)
        M' = (1 + t / (1 + |t|)) / 2  with  t = f - 2

        The score is the same function of the mean of the largest 1/128 of f. Companions count the less the
        more references there are, because they may share a fault.

        Args:
            raw: scores (B,) and maps (B, S, S) of the method.
            levels: L tensors (B, N, D_l) of unit vectors, patches of the same images.
            usual: what the method's own logits are on the references, scalars or (B, 1), from `usual_logits`;
                None for distances alone.
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
        usual: Usual | None,
        map_range: tuple[float, float],
        companions: Tensor | None = None,
    ) -> RawOutput:
        """`joined`, from distances (B, N) that `distances` has given."""
        if companions is not None:
            fused = fused + companions / self.memory.count**0.5
        side = grid_side(fused.shape[1])
        if usual is not None:
            fused = fused + OWN_WEIGHT * usual.above(own_logits(raw.maps, side, map_range))
        maps = upsample(fused.reshape(-1, side, side), int(raw.maps.shape[-1]))
        return RawOutput(between_0_and_1(largest_mean(fused)), between_0_and_1(maps))


def distances_between(asked: Tensor, askers: Tensor, known: Tensor, owners: Tensor) -> Tensor:
    """Distance of each of the references' vectors to the nearest vector of another reference, on one level.

    A single reference is compared with itself, and each vector with the ninth nearest one, because the
    nearest ones are the vector itself and its neighbours, which show the same place.

    Args:
        asked: (P, D) unit vectors of all references; at most `MOST_MEASURED`, evenly spread, are used.
        askers: (P,) the reference that each belongs to.
        known: (K, D) unit vectors to compare with.
        owners: (K,) the reference that each of these belongs to.

    Returns:
        (min(P, `MOST_MEASURED`),) float32 in [0, 1].
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
    return half_cosine(torch.cat(found).float())


def usual_distances(between: Sequence[Tensor]) -> Usual:
    """What is usual between references, (L, 1), such that 1 is usual for the largest means over the levels.

    Args:
        between: L tensors (P,), distances of the same patches on each level, from `distances_between`.
    """
    levels = Usual.stacked([Usual.of(level, SMALLEST_EXCESS) for level in between])
    joined = Usual.of(levels.above(torch.stack(list(between))).mean(dim=0), 1 / len(between))
    return Usual(levels.mean, levels.excess * joined.excess)


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


def usual_logits(maps: Tensor, side: int, map_range: tuple[float, float]) -> Usual:
    """What a method's own logits are over all patches of normal images.

    Args:
        maps: (R, S, S) maps of the images, in `map_range`.
        side: G, patches of one side.
        map_range: smallest and largest value of the maps.
    """
    return Usual.of(own_logits(maps, side, map_range))


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
