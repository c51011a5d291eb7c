"""Scores each good image with references that it is not among."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from zsad.methods.base import Support
from zsad.methods.functional.matching import SIMILARITIES_AT_ONCE
from zsad.methods.functional.reference_rule import (
    MOST_MEASURED,
    MOST_VECTORS,
    ReferenceRule,
    half_cosine,
    usual_distances,
    usual_logits,
)

if TYPE_CHECKING:
    from torch import Tensor

    from zsad.detector.fitting.good_images import GoodImages
    from zsad.methods.base import Method
    from zsad.methods.functional.references import ReferenceMemory
    from zsad.types import RawOutput


@torch.inference_mode()
def scores_left_out(
    method: Method, good: GoodImages, left_out: Sequence[Sequence[int]], class_name: str
) -> Iterator[tuple[int, float, Tensor]]:
    """Scores good images without the references of their fold.

    Args:
        method: the system.
        good: the images; those that are held out are references of none.
        left_out: numbers of the images of each fold, which are scored without each other.
        class_name: name of what the images show.

    Yields:
        Number, score and (S, S) map of each image, fold by fold.

    Raises:
        ConfigError: no reference is left for a fold.
    """
    is_own = method.INFO.references == "own"
    rules = None if is_own else _Rules(good.references)
    for fold in left_out:
        absent = {*fold, *good.held_out}
        if rules is None:
            state = method.prepare((class_name,), Support(memory=good.memory.without(absent)))
            raws = [method.score(good.answer(number), state) for number in fold]
        else:
            rule = rules.without(absent)
            raws = [_compared(method, good, number, rule, absent) for number in fold]
        for number, raw in zip(fold, raws, strict=True):
            yield number, float(raw.scores[0]), raw.maps[0].float()


class _Rules:
    """The general rule for all references but some; what the folds share is computed once.

    Vectors are thinned together with those that are left out later: thinning again for each fold would
    take minutes. A vector that stood for others and is left out with its image leaves a gap, so that scores
    can only be a little higher.
    """

    def __init__(self, references: ReferenceMemory) -> None:
        self._thinned = references.thinned(MOST_VECTORS)
        self._askers: list[Tensor] = []
        self._nearest: list[Tensor] = []  # L tensors (P, R), similarity of a vector to each reference
        for level, owners, known, known_owners in zip(
            references.levels, references.owners, self._thinned.levels, self._thinned.owners, strict=True
        ):
            count = min(len(level), MOST_MEASURED)
            rows = torch.arange(count, device=level.device) * len(level) // count
            self._askers.append(owners[rows])
            self._nearest.append(_nearest_by_owner(level[rows], known, known_owners, references.count))

    def without(self, absent: Collection[int]) -> ReferenceRule:
        """The rule for the references that are left, with what is usual between these."""
        between = []
        for askers, nearest in zip(self._askers, self._nearest, strict=True):
            gone = [number for number in absent if number < nearest.shape[1]]
            similarity = nearest.scatter(1, askers[:, None], -1.0)
            similarity[:, gone] = -1.0
            asked = ~torch.isin(askers, torch.tensor(gone, dtype=askers.dtype, device=askers.device))
            between.append(half_cosine(similarity[asked].amax(dim=1)))
        return ReferenceRule(self._thinned.without(absent), usual_distances(between))


def _nearest_by_owner(asked: Tensor, known: Tensor, owners: Tensor, count: int) -> Tensor:
    """(P, R) similarity of each vector (P, D) to the most similar of (K, D) vectors of each of R owners."""
    found = []
    for part in torch.split(asked, max(1, SIMILARITIES_AT_ONCE // len(known))):
        similarity = (part @ known.T).float()
        nearest = similarity.new_full((len(part), count), -1.0)
        found.append(nearest.scatter_reduce(1, owners.expand_as(similarity), similarity, "amax"))
    return torch.cat(found)


def _compared(
    method: Method, good: GoodImages, number: int, rule: ReferenceRule, absent: set[int]
) -> RawOutput:
    """The answer to one image by the general rule, with what is usual for the references that are left."""
    raw, maps = good.answer(number), good.maps_without(absent)
    side = raw.maps.shape[-1] // method.backbone.config.vision.patch_size
    usual = None if maps is None else usual_logits(maps, side, method.map_range)
    levels = [level[None] for level in good.levels(number)]
    joined: RawOutput = rule.joined(raw, levels, usual, method.map_range)
    return joined
