"""`GoodImages`: what a fitted detector keeps of its known-normal images: features, and never pixels."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.detector.reference_tiles import ReferenceTiles
from zsad.errors import ConfigError, WeightsError
from zsad.files.fields import Count  # noqa: TC001 - read by from_plain
from zsad.methods.functional.reference_rule import MOST_VECTORS
from zsad.methods.functional.references import WAYS_TO_TURN, ReferenceMemory
from zsad.types import RawOutput

if TYPE_CHECKING:
    from zsad.methods.base import Method


DAMAGED = "the features of its good images are damaged: fit again with zsad fit"


@dataclass(frozen=True)
class GoodImage:
    """A known-normal image as a checkpoint names it.

    Attributes:
        name: file of the image as it was given, or its place in the list.
        fingerprint: digest of the content, from `zsad.detector.identity.image_fingerprint`.
        height: height in pixels.
        width: width in pixels.
        is_held_out: whether the image serves the threshold alone and is no reference.
    """

    name: str
    fingerprint: str
    height: Count
    width: Count
    is_held_out: bool = False


@dataclass(frozen=True)
class GoodImages:
    """Known-normal images, all that is needed to score each of them without itself.

    Attributes:
        images: the n images; an image's place is its number in the memory.
        memory: vectors of all n images, those that are held out included.
        answers: dataclass of (n, ...) tensors that the score of an image is computed from, besides the
            memory: the method's own answer (`RawOutput`) under the general rule, the method's features under
            a rule of its own.
        tiles: tiles of the references; None where no image is cut.
        are_turned: whether the memory also holds each image turned and flipped, after its own vectors.
        chosen: L tensors of int64, the rows of `references` that the general rule compares with, from
            `thinned`; empty for all.
    """

    images: tuple[GoodImage, ...]
    memory: ReferenceMemory = field(repr=False)
    answers: Any = field(repr=False)
    tiles: ReferenceTiles | None = field(default=None, repr=False)
    are_turned: bool = False
    chosen: tuple[Tensor, ...] = field(default=(), repr=False)

    @property
    def held_out(self) -> list[int]:
        """Numbers of the images that are no references."""
        return [number for number, image in enumerate(self.images) if image.is_held_out]

    @property
    def references(self) -> ReferenceMemory:
        """The memory that new images are compared with."""
        memory = self.memory.without(self.held_out) if self.held_out else self.memory
        return replace(memory, chosen=self.chosen)

    def thinned(self) -> GoodImages:
        """The same images, with what the general rule compares with chosen once and for all."""
        if not isinstance(self.answers, RawOutput):
            return self
        return replace(self, chosen=replace(self.references, chosen=()).choice(MOST_VECTORS))

    @property
    def reference_tiles(self) -> ReferenceTiles | None:
        """The tiles that tiles of new images are compared with; None where no image is cut."""
        return None if self.tiles is None else self.tiles.without(self.held_out)

    @property
    def reference_maps(self) -> Tensor | None:
        """(R, S, S) the method's own maps of the references; None for a method with a rule of its own."""
        return self.maps_without(self.held_out)

    @property
    def reference_fingerprints(self) -> tuple[str, ...]:
        """Fingerprints of the references."""
        return tuple(image.fingerprint for image in self.images if not image.is_held_out)

    def maps_without(self, numbers: Collection[int]) -> Tensor | None:
        """The method's own maps (n - m, S, S) of all but m images; None for a rule of the method's own."""
        if not isinstance(self.answers, RawOutput):
            return None
        kept = [number for number in range(len(self.images)) if number not in numbers]
        return self.answers.maps[kept]

    def answer(self, number: int) -> Any:
        """The answer of one image, (1, ...) tensors."""
        return _mapped(lambda parts: parts[0][number : number + 1], [self.answers])

    def levels(self, number: int) -> list[Tensor]:
        """L tensors (N_l, D_l), the vectors of one image in the order of its patches."""
        pairs = zip(self.memory.levels, self.memory.owners, strict=True)
        found = [level[owner == number] for level, owner in pairs]
        return [level[: len(level) // WAYS_TO_TURN] for level in found] if self.are_turned else found

    def only(self, numbers: Sequence[int]) -> GoodImages:
        """Some of the images, numbered from 0 on."""
        place = torch.full((len(self.images),), -1, device=self.memory.levels[0].device)
        place[list(numbers)] = torch.arange(len(numbers), device=place.device)
        owners = [place[owner] for owner in self.memory.owners]
        kept = [owner >= 0 for owner in owners]
        memory = ReferenceMemory(
            tuple(level[rows] for level, rows in zip(self.memory.levels, kept, strict=True)),
            tuple(owner[rows] for owner, rows in zip(owners, kept, strict=True)),
        )
        answers = _mapped(lambda parts: parts[0][list(numbers)], [self.answers])
        tiles = None if self.tiles is None else self.tiles.only(numbers)
        chosen: tuple[Tensor, ...] = ()
        if self.chosen and not set(numbers) & set(self.held_out):
            left = [number for number, image in enumerate(self.images) if not image.is_held_out]
            chosen = self.references.without(set(left) - set(numbers)).chosen
        images = tuple(self.images[number] for number in numbers)
        return GoodImages(images, memory, answers, tiles, self.are_turned, chosen)

    def without(self, numbers: Collection[int]) -> GoodImages:
        """All images but some, numbered from 0 on."""
        return self.only([number for number in range(len(self.images)) if number not in numbers])

    def with_held_out(self, numbers: Collection[int]) -> GoodImages:
        """The same images, some of which are no references."""
        images = tuple(
            replace(image, is_held_out=number in numbers) for number, image in enumerate(self.images)
        )
        return replace(self, images=images, chosen=())

    def to(self, device: torch.device) -> GoodImages:
        """The same images on another device."""
        answers = _mapped(lambda parts: parts[0].to(device), [self.answers])
        return replace(
            self,
            memory=self.memory.to(device),
            answers=answers,
            tiles=None if self.tiles is None else self.tiles.to(device),
            chosen=tuple(rows.to(device) for rows in self.chosen),
        )

    def unlikeness(self) -> Tensor:
        """(n, n) mean cosine distance of the vectors at the same place, in [0, 2]."""
        total = torch.zeros(len(self.images), len(self.images))
        for number_of_level in range(len(self.memory.levels)):
            vectors = [self.levels(image)[number_of_level] for image in range(len(self.images))]
            flat = F.normalize(torch.stack(vectors).float(), dim=-1).flatten(1).cpu()
            total += 1 - flat @ flat.T / vectors[0].shape[0]
        return total / len(self.memory.levels)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, as a checkpoint keeps them."""
        named = {f"levels.{number}": level for number, level in enumerate(self.memory.levels)}
        named |= {f"owners.{number}": owner for number, owner in enumerate(self.memory.owners)}
        named |= {f"chosen.{number}": rows for number, rows in enumerate(self.chosen)}
        named |= {} if self.tiles is None else self.tiles.tensors()
        for entry in fields(self.answers):
            value = getattr(self.answers, entry.name)
            if isinstance(value, Tensor):
                named[f"answers.{entry.name}"] = value
            else:
                named |= {f"answers.{entry.name}.{number}": part for number, part in enumerate(value)}
        return named

    @classmethod
    def from_tensors(
        cls,
        images: Sequence[GoodImage],
        tensors: Mapping[str, Tensor],
        method: Method,
        are_turned: bool = False,
    ) -> GoodImages:
        """The images from what `tensors` gave.

        Args:
            images: the n images.
            tensors: tensors by name.
            method: method that made them.
            are_turned: see the class.

        Raises:
            WeightsError: tensors are missing, or are not about n images.
        """
        kind = answer_class(method)
        values = {
            entry.name: tensors.get(f"answers.{entry.name}", _listed(tensors, f"answers.{entry.name}"))
            for entry in fields(kind)
        }
        memory = ReferenceMemory(_listed(tensors, "levels"), _listed(tensors, "owners"))
        chosen = _listed(tensors, "chosen")
        is_whole = (
            0 < len(memory.levels) == len(memory.owners)
            and all(
                len(level) == len(owner) for level, owner in zip(memory.levels, memory.owners, strict=True)
            )
            and all(torch.unique(owner).tolist() == list(range(len(images))) for owner in memory.owners)
            and all(len(part) == len(images) for part in _tensors_in(tuple(values.values())))
            and () not in values.values()
            and len(chosen) in (0, len(memory.levels))
            and all(
                int(rows.min()) >= 0 and int(rows.max()) < len(level)
                for rows, level in zip(chosen, memory.levels, strict=False)
            )
        )
        if not is_whole:
            raise WeightsError(DAMAGED)
        try:
            tiles = ReferenceTiles.from_tensors(tensors)
        except KeyError as error:
            raise WeightsError(DAMAGED) from error
        return cls(tuple(images), memory, kind(**values), tiles, are_turned, chosen)


def joined(parts: Sequence[GoodImages]) -> GoodImages:
    """Several sets of good images as one, in order.

    Raises:
        ConfigError: another method or backbone made one of them.
    """
    images = tuple(image for part in parts for image in part.images)
    widths = {tuple(level.shape[-1] for level in part.memory.levels) for part in parts}
    if len(widths) > 1:
        raise ConfigError(
            f"good images of several methods or backbones: their vectors have the lengths {sorted(widths)}; "
            "use the method and backbone that the detector was fitted with"
        )
    firsts = [0, *itertools.accumulate(len(part.images) for part in parts)]
    memories = [part.memory for part in parts]
    levels = zip(*(memory.levels for memory in memories), strict=True)
    owners = zip(*(memory.owners for memory in memories), strict=True)
    memory = ReferenceMemory(
        tuple(torch.cat(level) for level in levels),
        tuple(
            torch.cat([owner + first for owner, first in zip(level, firsts, strict=False)])
            for level in owners
        ),
    )
    answers = _mapped(torch.cat, [part.answers for part in parts])
    return GoodImages(images, memory, answers, are_turned=parts[0].are_turned)


def answer_class(method: Method) -> Any:
    """The dataclass of a method's answers, see `GoodImages.answers`."""
    if method.INFO.references != "own":
        return RawOutput
    generic = next(base for base in type(method).__orig_bases__ if get_args(base))  # type: ignore[attr-defined]
    return get_args(generic)[1]  # Method[Config, Features, State]


def _listed(tensors: Mapping[str, Tensor], name: str) -> tuple[Tensor, ...]:
    """The tensors NAME.0, NAME.1, ... in order."""
    count = sum(key.startswith(f"{name}.") for key in tensors)
    return tuple(tensors[f"{name}.{number}"] for number in range(count))


def _tensors_in(values: Sequence[Any]) -> list[Tensor]:
    """All tensors in a list of tensors and tuples of tensors."""
    return [each for value in values for each in ([value] if isinstance(value, Tensor) else value)]


def _mapped(function: Any, values: Sequence[Any]) -> Any:
    """Applies a function to the tensors at the same place of several dataclasses of tensors."""
    first = values[0]
    if isinstance(first, Tensor):
        return function(values)
    if is_dataclass(first):
        parts = {
            each.name: _mapped(function, [getattr(value, each.name) for value in values])
            for each in fields(first)
        }
        return type(first)(**parts)  # type: ignore[misc]
    return tuple(_mapped(function, part) for part in zip(*values, strict=True))
