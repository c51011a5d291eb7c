"""`ReferenceTiles`: what is kept of the tiles of known-normal images, by image and not by tile."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from zsad.methods.functional.reference_rule import MOST_VECTORS
from zsad.methods.functional.references import ReferenceMemory

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "tiles."


@dataclass(frozen=True)
class ReferenceTiles:
    """Tiles of references; an image is left out with all its tiles.

    Attributes:
        memory: vectors of the tiles; the owner of a vector is the number of its image.
        maps: (T, G, G) the method's own map of each tile, its means over patches; None for a method with a
            rule of its own.
        owners: (T,) int64, number of the image of each tile.
    """

    memory: ReferenceMemory
    maps: Tensor | None
    owners: Tensor

    def joined_with(self, other: ReferenceTiles) -> ReferenceTiles:
        """The tiles of both; the images of `other` are numbered on."""
        maps = None if self.maps is None or other.maps is None else torch.cat([self.maps, other.maps])
        owners = torch.cat([self.owners, self.memory.count + other.owners])
        return ReferenceTiles(self.memory.joined_with(other.memory), maps, owners)

    def bounded(self) -> ReferenceTiles:
        """At most `MOST_VECTORS` vectors on each level for the general rule, drawn with a fixed seed.

        A chosen spread (`ReferenceMemory.thinned`) would take minutes for the vectors of hundreds of tiles.
        """
        if self.maps is None:
            return self
        rows = [_drawn(len(level), level.device) for level in self.memory.levels]
        memory = ReferenceMemory(
            tuple(level[kept] for level, kept in zip(self.memory.levels, rows, strict=True)),
            tuple(owner[kept] for owner, kept in zip(self.memory.owners, rows, strict=True)),
        )
        return replace(self, memory=memory)

    def without(self, images: Collection[int]) -> ReferenceTiles:
        """The tiles of all images but some, whose numbers stay free.

        Raises:
            ConfigError: no tile would be left.
        """
        if not images:
            return self
        kept = ~torch.isin(self.owners, torch.tensor(sorted(images), device=self.owners.device))
        maps = None if self.maps is None else self.maps[kept]
        return ReferenceTiles(self.memory.without(images), maps, self.owners[kept])

    def only(self, images: Sequence[int]) -> ReferenceTiles:
        """The tiles of some images, numbered from 0 on."""
        count = 1 + int(self.owners.max())
        left = self.without([number for number in range(count) if number not in images])
        place = torch.zeros(count, dtype=torch.int64, device=self.owners.device)
        place[list(images)] = torch.arange(len(images), device=place.device)
        memory = replace(left.memory, owners=tuple(place[owner] for owner in left.memory.owners))
        return ReferenceTiles(memory, left.maps, place[left.owners])

    def to(self, device: torch.device) -> ReferenceTiles:
        """The same tiles on another device."""
        maps = None if self.maps is None else self.maps.to(device)
        return ReferenceTiles(self.memory.to(device), maps, self.owners.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, as a checkpoint keeps them."""
        named = {f"{PREFIX}levels.{number}": level for number, level in enumerate(self.memory.levels)}
        named |= {f"{PREFIX}owners.{number}": owner for number, owner in enumerate(self.memory.owners)}
        named |= {f"{PREFIX}images": self.owners}
        return named if self.maps is None else {**named, f"{PREFIX}maps": self.maps}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ReferenceTiles | None:
        """The tiles from what `tensors` gave; None if there are none."""
        if f"{PREFIX}images" not in tensors:
            return None
        count = sum(name.startswith(f"{PREFIX}levels.") for name in tensors)
        memory = ReferenceMemory(
            tuple(tensors[f"{PREFIX}levels.{number}"] for number in range(count)),
            tuple(tensors[f"{PREFIX}owners.{number}"] for number in range(count)),
        )
        return cls(memory, tensors.get(f"{PREFIX}maps"), tensors[f"{PREFIX}images"])


def _drawn(count: int, device: torch.device) -> Tensor:
    """At most `MOST_VECTORS` of so many rows, ascending, always the same."""
    if count <= MOST_VECTORS:
        return torch.arange(count, device=device)
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:MOST_VECTORS]
    return drawn.sort().values.to(device)
