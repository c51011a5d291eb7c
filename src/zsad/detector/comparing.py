"""`Comparing`: base of a detector that compares images with references and companions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from zsad.detector.class_names import Classes, class_names
from zsad.detector.decision import Decided
from zsad.detector.identity import image_fingerprint, learned_versions
from zsad.detector.inputs import read, stack
from zsad.detector.states import States
from zsad.detector.support import again_readable, images_given, methods_with_companions, readable
from zsad.detector.tiling import Sources
from zsad.errors import ConfigError
from zsad.images.preparing import to_array
from zsad.methods.base import Method, Support

if TYPE_CHECKING:
    from zsad.detector.support import Images
    from zsad.images.preparing import Preparation
    from zsad.images.tiles import Tile
    from zsad.methods.base import State


class Comparing(Decided):
    """Base of a detector: holds references and companions, cut like the images that they are compared with.

    Attributes:
        method: system that scores.
        image_size: pixels a side of the network's input.
        reference_fingerprints: fingerprints of the reference images, from `image_fingerprint`.
    """

    def __init__(self, method: Method, image_size: int) -> None:
        self.method = method
        self.image_size = image_size
        self.reference_fingerprints: tuple[str, ...] = ()
        self._sources = Sources()
        self._states = States(method, Support())
        self._tiled_states: dict[Tile, States] = {}  # the same support, cut by other tile settings

    @property
    def preparation(self) -> Preparation:
        """How images become the network's input."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Device that the network is on."""
        return self.method.backbone.text_projection.device

    @property
    def map_range(self) -> tuple[float, float]:
        """Smallest and largest value that a map can take, with the present references and companions."""
        state = self._state_with_support()
        return self.method.map_range if state is None or state.map_range is None else state.map_range

    def set_references(self, references: Images | None) -> None:
        """Gives the detector known-normal images to compare with, in place of those it has.

        A method with a few-shot rule of its own follows it; every other method follows the general rule of
        `zsad.methods.functional.references`. Companions stay as they are. A calibration that was made with
        other references no longer holds and is removed. References are not written into checkpoints.

        Args:
            references: one image as `predict` takes it, a folder, a pattern, or a list of these, all of one
                class; None or an empty list returns to zero-shot scoring.

        Raises:
            ImageReadError: an image cannot be read.
            DataError: a folder or pattern holds no image.
        """
        sources = again_readable(images_given(references))
        found = [read(item)[1] for item in sources]
        self._sources = replace(self._sources, references=sources)
        self._compare_with(normal=self._stack(found) if found else None, memory=None)
        self.reference_fingerprints = tuple(image_fingerprint(to_array(image)) for image in found)
        if self.calibration is not None:
            self.apply_calibration(None)

    def set_companions(self, images: Images | None) -> list[int]:
        """Gives the detector unlabelled images of the folder that it is going to score.

        The method then compares each image with them and scores it by itself. References stay as they are.

        Args:
            images: one image as `predict` takes it, a folder, a pattern, or a list of these; None or an
                empty list makes the images of a batch each other's companions again. An image that cannot be
                read is left out.

        Returns:
            Positions of the images that could be read, in the list that folders and patterns expand to.

        Raises:
            ConfigError: the method takes no companions.
            DataError: a folder or pattern holds no image.
        """
        given = again_readable(images_given(images))
        if given and not self.method.MOST_COMPANIONS:
            able = ", ".join(methods_with_companions())
            raise ConfigError(f"{self.method.INFO.name} takes no companions; methods that do: {able}")
        prepared = readable(given, lambda item: self._stack([read(item)[1]]))
        self._sources = replace(self._sources, companions=tuple(given[place] for place in prepared))
        self._compare_with(unlabelled=torch.cat(list(prepared.values())) if prepared else None)
        return list(prepared)

    @property
    def scores_jointly(self) -> bool:
        """Whether images have to be scored all at once, because each score depends on the other images."""
        state = self._state_with_support()
        if state is None or state.scores_jointly is None:
            return self.method.scores_jointly
        return state.scores_jointly

    @property
    def about_companions(self) -> str:
        """A line on what the companions do to the scores; empty without companions."""
        state = self._state_with_support()
        return "" if state is None else state.about

    def _state_with_support(self) -> State | None:
        """A state that shows what references and companions change; None where the method has none."""
        names = class_names(self._classes(None), 1)
        return self._states.with_support(names, learned_versions(self.method))

    def _compare_with(self, **support: Any) -> None:
        """Replaces the references (`normal` and `memory`) or the companions (`unlabelled`)."""
        self._states = States(self.method, replace(self._states.support, **support))
        self._tiled_states = {}

    def _states_of(self, tile: Tile) -> States:
        """States with references and companions that are cut by a tile setting."""
        # one support for the whole batch, even if another thread replaces it
        whole, tiled, sources = self._states, self._tiled_states, self._sources
        if tile is None or not sources:
            return whole
        if tile not in tiled:
            support = sources.support(
                self.method, tile, self.image_size, lambda source: read(source)[1], self._stack
            )
            tiled[tile] = States(self.method, support)
        return tiled[tile]

    def _classes(self, given: Classes) -> Classes:
        """The class names that are given, or else the class name that the decision is for."""
        return self.decision.class_name if given is None else given

    def _stack(self, images: Sequence[Image.Image]) -> Tensor:
        """Images as the network takes them: (B, 3, S, S) float32 on the detector's device."""
        return stack(images, self.preparation).to(self.device)
