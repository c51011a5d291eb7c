"""Encodes good images, and scores each of them with references that it is not among."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from zsad.backbones.recording import recorded
from zsad.methods.base import Support
from zsad.methods.functional.patches import layers_compared, recorded_patches
from zsad.methods.functional.reference_rule import (
    MOST_VECTORS,
    SMALLEST_UNIT,
    ReferenceRule,
    usual_distance,
    usual_logits,
)
from zsad.methods.functional.references import ReferenceMemory, patches
from zsad.types import RawOutput

if TYPE_CHECKING:
    from torch import Tensor

    from zsad.detector.fitting.good_images import GoodImages
    from zsad.methods.base import Method


@torch.inference_mode()
def remembered(method: Method, images: Tensor, class_name: str) -> tuple[ReferenceMemory, Any]:
    """Memory of good images, and what else their scores are computed from, see `GoodImages.answers`.

    Args:
        method: the system.
        images: (B, 3, S, S) resized and normalised images.
        class_name: name of what the images show.

    Raises:
        ConfigError: the method cannot score a single image.
    """
    if method.INFO.references == "own":
        return method.remember(images), method.features(images)
    visual, state = method.backbone.visual, method.prepare((class_name,))
    raws, levels = [], []
    for part in torch.split(images, 1 if method.scores_jointly else len(images)):
        with recorded(part, layers_compared(None, visual.config)) as recording:
            raws.append(method.score(method.features(part), state))
        levels.append(recorded_patches(recording) or patches(visual, part))
    scores, maps = (torch.cat([getattr(raw, name) for raw in raws]).float() for name in ("scores", "maps"))
    memory = ReferenceMemory.of([torch.cat(level) for level in zip(*levels, strict=True)])
    return memory, RawOutput(scores, maps)


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
    thinned = good.memory if is_own else good.references.thinned(MOST_VECTORS)
    for fold in left_out:
        absent = {*fold, *good.held_out}
        memory = good.memory.without(absent)
        state = method.prepare((class_name,), Support(memory=memory)) if is_own else None
        rule = None if is_own else _rule_of(memory, thinned.without(absent))
        for number in fold:
            if rule is None:
                raw = method.score(good.answer(number), state)
            else:
                raw = _compared(method, good, number, rule, absent)
            yield number, float(raw.scores[0]), raw.maps[0].float()


def _rule_of(memory: ReferenceMemory, thinned: ReferenceMemory) -> ReferenceRule:
    """The general rule for some references, whose vectors were thinned together with those left out.

    Thinning again for each fold would take minutes. A vector that stood for others and is left out with its
    image leaves a gap, so that scores can only be a little higher.
    """
    units = [
        usual_distance(*level)
        for level in zip(memory.levels, memory.owners, thinned.levels, thinned.owners, strict=True)
    ]
    return ReferenceRule(thinned, torch.stack(units).clamp(min=SMALLEST_UNIT))


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
