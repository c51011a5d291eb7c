"""Applies the general rule for references to a method that has no rule of its own for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from zsad.backbones.recording import recorded
from zsad.methods.functional.patches import recorded_patches, reference_layers
from zsad.methods.functional.reference_rule import ReferenceRule, usual_logits
from zsad.methods.functional.references import IMAGES_AT_ONCE, ReferenceMemory, patches, remember_turned
from zsad.methods.functional.usual import Usual
from zsad.types import RawOutput

if TYPE_CHECKING:
    from torch import Tensor

    from zsad.methods.base import Method, State, Support

    LoneState = Callable[[Sequence[str]], State]
    """The state of a method without support, for the class names of a batch."""


@torch.inference_mode()
def remembered(
    method: Method, images: Tensor, class_name: str, are_turned: bool = False
) -> tuple[ReferenceMemory, Any]:
    """Memory of known-normal images, and the method's own side of them, from one pass through the network.

    Args:
        method: the system.
        images: (B, 3, S, S) resized and normalised images.
        class_name: name of what the images show.
        are_turned: whether the memory also holds the images turned and flipped.

    Returns:
        The memory, and the method's own answer to the images (`RawOutput`), or for a method with a rule of
        its own its features of them.

    Raises:
        ConfigError: the method cannot score a single image.
    """
    if method.INFO.references == "own":
        memory = remember_turned(method.remember, images) if are_turned else method.remember(images)
        return memory, method.features(images)
    visual, state = method.backbone.visual, method.prepare((class_name,))
    raws, levels = [], []
    for part in torch.split(images, 1 if method.scores_jointly else len(images)):
        with recorded(part, reference_layers(visual.config)) as recording:
            raws.append(method.score_beside_references(method.features(part), state))
        levels.append(recorded_patches(recording) or patches(visual, part))
    raw = RawOutput(*(torch.cat([getattr(one, name) for one in raws]).float() for name in ("scores", "maps")))
    if are_turned:
        return remember_turned(method.remember, images), raw
    return ReferenceMemory.of([torch.cat(level) for level in zip(*levels, strict=True)]), raw


class GeneralRule:
    """Scores images by the distance to references, by the method's lone answer, and by companions.

    Attributes:
        method: system whose answer is joined.
        support: references, and companions if there are any.
        rule: the references, and what is usual between them.
    """

    def __init__(self, method: Method, support: Support, memory: ReferenceMemory) -> None:
        self.method = method
        self.support = support
        self.rule = ReferenceRule.of(memory)
        self._usual: dict[object, Usual | None] = {}

    @property
    def scores_jointly(self) -> bool:
        """Whether the method's answer to an image depends on the other images of its batch.

        A method that takes companions answers each image by itself, and is told of companions separately.
        """
        return self.method.scores_jointly and not self.method.MOST_COMPANIONS

    def scored(
        self,
        images: Tensor,
        classes: Sequence[str],
        lone: LoneState,
        companions: State | None,
        stamp: object,
    ) -> RawOutput:
        """The joined answer; one pass through the image encoder serves both sides.

        Args:
            images: (B, 3, S, S) resized and normalised images.
            classes: class names, one for all images or one for each.
            lone: the method's states without support.
            companions: state with companions; None without any.
            stamp: anything that changes whenever the method's answers do.

        Returns:
            Scores (B,) and maps (B, S, S) in [0, 1], float32.
        """
        method, state = self.method, lone(classes)
        with recorded(images, reference_layers(method.backbone.visual.config)) as recording:
            features = method.features(images)
            raw = method.score_beside_references(features, state)
        raw = RawOutput(raw.scores.float(), raw.maps.float())
        levels = recorded_patches(recording) or patches(method.backbone.visual, images)
        side = images.shape[-1] // method.backbone.config.vision.patch_size
        if self.support.answers is None and self.scores_jointly:
            usual: Usual | None = self._usual_in(raw.maps, side)
        else:
            usual = self._usual_of(classes, lone, stamp, side)
        distances = None if companions is None else method.companion_distances(features, companions)
        return self.rule.joined(raw, levels, usual, method.map_range, distances)

    def _usual_of(self, classes: Sequence[str], lone: LoneState, stamp: object, side: int) -> Usual | None:
        """What the method usually says of the references, a row for each class name; None if unknown."""
        found = []
        for name in classes:
            key = (name, stamp)
            if key not in self._usual:
                maps = self.support.answers
                if maps is None and self.support.normal is not None:
                    maps = self._maps(self.support.normal, lone((name,)))
                self._usual[key] = None if maps is None else self._usual_in(maps, side)
            found.append(self._usual[key])
        known = [each for each in found if each is not None]
        return Usual.stacked(known) if len(known) == len(found) else None

    def _usual_in(self, maps: Tensor, side: int) -> Usual:
        """The method's own logits in maps (R, S, S), or in their means (R, G, G)."""
        return usual_logits(maps, side, self.method.map_range)

    def _maps(self, images: Tensor, state: State) -> Tensor:
        """The method's own maps (R, S, S) of images (R, 3, S, S)."""
        at_once = 1 if self.method.scores_jointly else IMAGES_AT_ONCE
        parts = map(self.method.features, torch.split(images, at_once))
        return torch.cat([self.method.score_beside_references(part, state).maps for part in parts])
