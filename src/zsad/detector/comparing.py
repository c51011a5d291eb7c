"""`Comparing`, the base of `Detector`: the images that others are compared with, and the depth of all."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from zsad.detector.identity import image_fingerprint, learned_versions
from zsad.detector.looking import Looking
from zsad.detector.states import States
from zsad.detector.support import again_readable, check_companions, images_given, readable
from zsad.errors import ConfigError
from zsad.images.class_names import class_names
from zsad.images.limits import Bits, common_depth
from zsad.images.looking import cut
from zsad.images.preparing import Preparation, to_array
from zsad.images.reading import depth_of
from zsad.images.tile_scoring import Cutting
from zsad.images.tiles import setting_of
from zsad.methods.base import DEFAULT_CLASS, Method
from zsad.methods.functional.reference_rule import MAP_RANGE

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence
    from typing import TypeVar

    from PIL import Image
    from torch import Tensor

    from zsad.detector.support import Images
    from zsad.detector.tiling import Sources
    from zsad.images.streams import ReadImage
    from zsad.images.tiles import Tile
    from zsad.methods.base import Method, State

    SelfT = TypeVar("SelfT", bound="Comparing")


class Comparing(Looking):
    """References, companions, and what they change; all images are read at one depth.

    Attributes:
        method: system that scores.
        bits: depth of the values in 16-bit files, of all images; None for what each file states.
        tile: how large images are cut into tiles, references too; None for whole images.
        image_size: pixels a side of the network's input.
        reference_fingerprints: fingerprints of the reference images, from `image_fingerprint`.
    """

    method: Method
    bits: int | None
    tile: Tile
    image_size: int
    reference_fingerprints: tuple[str, ...]
    _states: States
    _tiled_states: dict[Hashable, States]  # the same support for tiles, by all that it depends on
    _sources: Sources

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
        if self._states.follows_general_rule:
            return MAP_RANGE
        state = self._state_with_support()
        return self.method.map_range if state is None or state.map_range is None else state.map_range

    def at_depth(self: SelfT, bits: Bits) -> SelfT:
        """This detector, or a copy on the same network that reads 16-bit files at another depth.

        The copy keeps no calibration that was made at another depth.

        Args:
            bits: depth of the values, 1 to 16; None keeps the depth.

        Raises:
            ConfigError: the depth is impossible, or the references or companions were read at another one.
        """
        if bits is None or (depth := common_depth(bits)) == self.bits:
            return self
        if self._states.support:
            known = self.bits or "what the files state"
            raise ConfigError(
                f"the references or companions were read at a depth of {known}, "
                f"got bits={depth}; give the depth with them, as in zsad.load(..., bits={depth})"
            )
        other = copy.copy(self)
        other.bits = depth
        other.decision = self.decision.valid_for(other.scoring_settings())
        return other

    def with_tile(self: SelfT, tile: Tile) -> SelfT:
        """This detector, or a copy on the same network that cuts large images otherwise.

        A large image is scored by overlapping tiles and as a whole (`zsad.images.tile_scoring`). References
        and companions are cut in the same way.

        Args:
            tile: side of the tiles in pixels; "auto" cuts large and long images only, into tiles of a size
                that it chooses (`zsad.images.tiles.tile_side`); "none" cuts none; None keeps the setting.

        Raises:
            ConfigError: the setting is impossible, or the calibration was made with another one.
        """
        if tile is None or (setting := setting_of(tile)) == self.tile:
            return self
        other = copy.copy(self)
        other.tile = setting
        if self.calibration is not None:
            self.calibration.check_fits(other.scoring_settings())
        return other

    def set_references(self, references: Images | None, *, augment: bool = False, bits: Bits = None) -> None:
        """Gives the detector known-normal images to compare with, in place of those it has.

        A method with a few-shot rule of its own follows it; every other method follows the general rule of
        `zsad.methods.functional.reference_rule`. Companions stay as they are, unless the depth changes. A
        calibration that was made with other references no longer holds and is removed.

        Args:
            references: one image as `predict` takes it, a folder, a pattern, or a list of these, all of one
                class; None or an empty list returns to zero-shot scoring.
            augment: whether references also count turned and flipped, for parts that lie in any direction.
            bits: depth of 16-bit files, or "auto" for one that all references fit in, which then holds for
                all images of this detector; None keeps the depth.

        Raises:
            ImageReadError: an image cannot be read.
            DataError: a folder or pattern holds no image.
            ConfigError: `augment` without references.
        """
        given = again_readable(images_given(references))
        if augment and not given:
            raise ConfigError(
                "there are no references to turn and flip: give some (references=, --references good/) or "
                "leave augment_references out"
            )
        if bits is not None and (depth := depth_of(bits, given)) != self.bits:
            self.bits = depth
            self._compare_with(unlabelled=None)
        found = [self._read(item)[1] for item in given]
        self._sources = replace(self._sources, references=given)
        normal = self._stack(found) if found else None
        self._compare_with(normal=normal, memory=None, answers=None, turned=augment)
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
        check_companions(given, self.method)
        prepared = readable(given, lambda item: self._stack([self._read(item)[1]]))
        self._sources = replace(self._sources, companions=tuple(given[place] for place in prepared))
        self._compare_with(unlabelled=torch.cat(list(prepared.values())) if prepared else None)
        return list(prepared)

    @property
    def scores_jointly(self) -> bool:
        """Whether images have to be scored all at once, because each score depends on the other images."""
        if self._states.follows_general_rule and self.method.MOST_COMPANIONS:
            return False
        state = self._state_with_support()
        joint = None if state is None else state.scores_jointly
        return self.method.scores_jointly if joint is None else joint

    @property
    def about_companions(self) -> str:
        """A line on what the companions do to the scores; empty without companions."""
        state = self._state_with_support()
        return "" if state is None else state.about

    def _state_with_support(self) -> State | None:
        """A state that shows what references and companions change; None where the method has none."""
        return self._states.with_support(
            class_names(self.decision.class_name, 1), learned_versions(self.method)
        )

    def _compare_with(self, **support: Any) -> None:
        """Replaces the references (`normal` and `memory`) or the companions (`unlabelled`)."""
        self._states, self._tiled_states = States(self.method, replace(self._states.support, **support)), {}

    def _states_of(self, is_tile: bool, names: Sequence[str | None]) -> States:
        """States for whole images, or for tiles of one image, into which its support is cut as well."""
        # one support for the whole batch, even if another thread replaces it
        whole, tiled, sources = self._states, self._tiled_states, self._sources
        if not (is_tile and sources):
            return whole
        name = (names[0] if self.method.INFO.uses_class_names else None) or DEFAULT_CLASS
        learned = learned_versions(self.method)
        key = self.tile, None if self.roi is None else self.roi.identity, name, learned
        if key not in tiled:
            cutting = Cutting(self.tile, self.image_size)
            support = sources.support(
                self.method,
                cutting,
                lambda item: cut(self._read(item)[1], self.roi),
                self._prepared,
                name,
                are_turned=whole.support.turned,
            )
            tiled[key] = States(self.method, support)
        return tiled[key]

    def _read(self, source: Any) -> ReadImage:
        """An image at the detector's depth; one that will be cut may be larger."""
        from zsad.images.streams import read

        return read(source, self.roi, self.bits, for_tiles=self.tile is not None)

    def _stack(self, images: Iterable[Image.Image]) -> Tensor:
        """Images, cut to the region of interest, for the network: (B, 3, S, S) float32 on its device."""
        return self._prepared(cut(image, self.roi) for image in images)

    def _prepared(self, images: Iterable[Image.Image]) -> Tensor:
        """Images or tiles as they are, for the network: (B, 3, S, S) float32 on its device."""
        from zsad.detector.inputs import stack

        return stack(images, self.preparation).to(self.device)
