"""`Comparison`: the images that others are compared with, as a detector holds them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from zsad.detector.identity import image_fingerprint, learned_versions, scoring_settings
from zsad.detector.inputs import batch_for
from zsad.detector.states import States
from zsad.detector.support import readable
from zsad.detector.tiling import Sources, check_tileable, resized
from zsad.errors import ConfigError
from zsad.images.looking import cut
from zsad.images.preparing import to_array
from zsad.images.tile_scoring import TILES_AT_ONCE, score_images
from zsad.methods.base import DEFAULT_CLASS, Support
from zsad.methods.functional.reference_rule import EDITION, MAP_RANGE
from zsad.types import RawOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from PIL import Image
    from torch import Tensor

    from zsad.detector.fitting.good_images import GoodImages
    from zsad.images.looking import Looking
    from zsad.images.tile_scoring import ImageAnswer
    from zsad.methods.base import Method, State

    Names = Sequence[str | None]
    """Class names of a batch; None stands for "object"."""

GOOD_IMAGES = "good images"


@dataclass(frozen=True, eq=False)
class Comparison:
    """References, companions or good images, and the states of a method that follow from them.

    Other images need another instance, so that a batch that is being scored keeps its own.

    Attributes:
        states: states for whole images.
        sources: references and companions as the user gave them, so that they can be cut into tiles.
        fingerprints: fingerprints of the references, from `image_fingerprint`.
        good: what `Detector.fit` kept of the good images; None for a detector that is not fitted.
    """

    states: States
    sources: Sources = field(default_factory=Sources)
    fingerprints: tuple[str, ...] = ()
    good: GoodImages | None = None
    _tiled: dict[Hashable, States] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of_good(cls, method: Method, good: GoodImages) -> Comparison:
        """Comparison with the references among good images, in place of any other support."""
        support = Support(memory=good.references, answers=good.reference_maps, turned=good.are_turned)
        return cls(States(method, support), fingerprints=good.reference_fingerprints, good=good)

    @property
    def method(self) -> Method:
        """The system that compares."""
        return self.states.method

    @property
    def support(self) -> Support:
        """References and companions, as the method takes them."""
        return self.states.support

    def with_support(self, **changes: Any) -> Comparison:
        """The same with other fields of the support."""
        return replace(self, states=States(self.method, replace(self.support, **changes)))

    def with_references(self, given: tuple[Any, ...], looking: Looking, augment: bool) -> Comparison:
        """The same companions with other references, which replace good images.

        Args:
            given: images that can be read more than once; none for zero-shot scoring.
            looking: how they are read and prepared.
            augment: whether they also count turned and flipped.

        Raises:
            ImageReadError: an image cannot be read.
        """
        found = [looking.read(item)[1] for item in given]
        parts = (cut(image, looking.roi) for image in found)
        normal = batch_for(self.method, parts, looking.preparation) if found else None
        changed = self.with_support(normal=normal, memory=None, answers=None, turned=augment)
        return replace(
            changed,
            sources=replace(self.sources, references=given),
            fingerprints=tuple(image_fingerprint(to_array(image)) for image in found),
            good=None,
        )

    def with_companions(self, given: tuple[Any, ...], looking: Looking) -> tuple[Comparison, list[int]]:
        """The same references with other companions, and the positions of those that could be read.

        Args:
            given: images that can be read more than once; none makes the images of a batch companions.
            looking: how they are read and prepared.
        """
        found = readable(
            given, lambda item: batch_for(self.method, [looking.read_part(item)], looking.preparation)
        )
        changed = self.with_support(unlabelled=torch.cat(list(found.values())) if found else None)
        sources = replace(self.sources, companions=tuple(given[place] for place in found))
        return replace(changed, sources=sources), list(found)

    def without_companions(self) -> Comparison:
        """The same references alone."""
        return replace(self.with_support(unlabelled=None), sources=replace(self.sources, companions=()))

    def to(self, device: torch.device) -> Comparison:
        """The same on another device, to which the method has been moved."""
        good = None if self.good is None else self.good.to(device)
        return replace(self, states=States(self.method, self.support.to(device)), good=good)

    def states_of_tiles(self, looking: Looking, names: Names) -> States:
        """States for tiles of one image, which are compared with tiles.

        Args:
            looking: how references and companions are read and cut.
            names: class names of the tiles, all the same.
        """
        tiles = None if self.good is None else self.good.reference_tiles
        if tiles is not None:
            if GOOD_IMAGES not in self._tiled:
                support = Support(memory=tiles.memory, answers=tiles.maps, turned=self.support.turned)
                self._tiled[GOOD_IMAGES] = States(self.method, support)
            return self._tiled[GOOD_IMAGES]
        if not self.sources:
            return self.states
        name = (names[0] if self.method.INFO.uses_class_names else None) or DEFAULT_CLASS
        roi = None if looking.roi is None else looking.roi.identity
        key = looking.tile, roi, name, learned_versions(self.method)
        if key not in self._tiled:
            support = self.sources.support(
                self.method,
                looking.cutting,
                looking.read_part,
                lambda images: batch_for(self.method, images, looking.preparation),
                name,
                are_turned=self.support.turned,
            )
            self._tiled[key] = States(self.method, support)
        return self._tiled[key]

    def answers(self, images: Sequence[Image.Image], names: Names, looking: Looking) -> list[ImageAnswer]:
        """What the method says of images, some of which are cut into tiles.

        Args:
            images: RGB images, cut to the region of interest.
            names: class name of each image.
            looking: how images are cut and prepared.

        Raises:
            ConfigError: the tile setting is impossible for the method or for an image.
        """
        is_joint = self.scores_jointly(names)
        check_tileable(self.method, looking.tile, is_joint=is_joint)

        def score(some: Iterable[Image.Image], names: Names, is_tile: bool) -> RawOutput:
            states = self.states_of_tiles(looking, names) if is_tile else self.states
            return self.scored(batch_for(self.method, some, looking.preparation), names, states)

        at_once = 1 if is_joint else TILES_AT_ONCE
        return score_images(images, names, score, resized, looking.cutting, at_once)

    def scored(self, images: Tensor, names: Names, states: States) -> RawOutput:
        """Scores (B,) and maps (B, S, S) of a batch, float32.

        Args:
            images: (B, 3, S, S) resized and normalised images on the method's device.
            names: class name of each image.
            states: those for whole images, or for tiles.
        """
        stamp = learned_versions(self.method)
        if self.good is not None and len(images) > 1 and self.compares_a_batch(names):
            return _one_by_one(lambda one, name: states.scored(one, name, stamp), images, names)
        return states.scored(images, names, stamp)

    def shown(self, names: Names) -> State | None:
        """A state that shows what references and companions change; None where the method has none.

        Args:
            names: class names to prepare for, if nothing has been prepared yet.
        """
        return self.states.with_support(names, learned_versions(self.method))

    def map_range(self, names: Names) -> tuple[float, float]:
        """Smallest and largest value that a map can take."""
        if self.states.follows_general_rule:
            return MAP_RANGE
        state = self.shown(names)
        return self.method.map_range if state is None or state.map_range is None else state.map_range

    def scores_jointly(self, names: Names) -> bool:
        """Whether images have to be scored all at once; a fitted detector scores each by itself."""
        return self.good is None and self.compares_a_batch(names)

    def compares_a_batch(self, names: Names) -> bool:
        """Whether the method with its support compares the images of a batch with each other."""
        if self.states.follows_general_rule and self.method.MOST_COMPANIONS:
            return False
        state = self.shown(names)
        joint = None if state is None else state.scores_jointly
        return self.method.scores_jointly if joint is None else joint

    def settings(self, looking: Looking, fingerprint: str) -> dict[str, Any]:
        """Everything that the scores depend on, from `zsad.detector.identity.scoring_settings`.

        Args:
            looking: how images are read, cut and prepared.
            fingerprint: digest of the backbone's weights.
        """
        return scoring_settings(
            self.method,
            looking,
            fingerprint,
            self.fingerprints,
            are_turned=self.support.turned,
            reference_rule=EDITION if self.states.follows_general_rule else None,
            is_lone=self.good is not None,
        )

    def check_looking(self, looking: Looking, before: Looking) -> None:
        """Refuses to read images otherwise than before, when references or companions were read so.

        Raises:
            ConfigError: they were read at another depth, or cut to another region.
        """
        if not self.support:
            return
        if looking.bits != before.bits:
            known = before.bits or "what the files state"
            raise ConfigError(
                f"the references or companions were read at a depth of {known}, got bits={looking.bits}; "
                f"give the depth with them, as in zsad.load(..., bits={looking.bits})"
            )
        if looking.roi != before.roi:
            raise ConfigError(
                "the references or companions were prepared for another region: give the region when the "
                "detector is loaded (zsad.load(..., roi=...)), or set them after with_roi"
            )


def _one_by_one(
    score: Callable[[Tensor, Sequence[str | None]], RawOutput], images: Tensor, names: Sequence[str | None]
) -> RawOutput:
    """Scores the images of a batch as if each came alone.

    Args:
        score: scores (B, 3, S, S) images with their class names.
        images: (B, 3, S, S).
        names: class names, one for each image.
    """
    parts = [score(image[None], [name]) for image, name in zip(images, names, strict=True)]
    return RawOutput(torch.cat([part.scores for part in parts]), torch.cat([part.maps for part in parts]))
