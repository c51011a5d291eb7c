"""The memory of references: parts of it, joined, thinned."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from zsad.errors import ConfigError
from zsad.methods.functional.coreset import most_spread
from zsad.methods.functional.references import ReferenceMemory, remember, turned


@pytest.fixture
def images():
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(4))


def test_memory_without_some_references_is_that_of_the_others(small_clip, images):
    memory = remember(small_clip.visual, images)
    assert memory.count == 5
    left, expected = memory.without({1, 4}), remember(small_clip.visual, images[[0, 2, 3]])
    assert left.owners[0].unique().tolist() == [0, 2, 3]
    for level, other in zip(left.levels, expected.levels, strict=True):
        assert torch.allclose(level, other, atol=1e-5)
    with pytest.raises(ConfigError, match="no reference is left of 5 without number 0, 1, 2, 3, 4"):
        memory.without(range(5))


def test_memories_join(small_clip, images):
    whole, parts = remember(small_clip.visual, images), images.split([2, 3])
    joined = remember(small_clip.visual, parts[0]).joined_with(remember(small_clip.visual, parts[1]))
    assert joined.count == 5
    for level, other in zip((*joined.levels, *joined.owners), (*whole.levels, *whole.owners), strict=True):
        assert torch.allclose(level, other, atol=1e-5)
    with pytest.raises(ConfigError, match=r"lengths \[3\], expected \[32"):
        whole.joined_with(ReferenceMemory.of([torch.ones(1, 4, 3)]))


def test_a_thinned_memory_is_within_its_radius(images):
    """40 vectors of 5 references on one level stand for 320."""
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(5, 64, 6, generator=generator), dim=-1)
    memory = ReferenceMemory.of([vectors])
    assert memory.thinned(320) is memory
    thinned = memory.thinned(40)
    assert len(thinned.levels[0]) == 40
    assert thinned.owners[0].unique().tolist() == [0, 1, 2, 3, 4]
    first = torch.arange(5) * 64
    rows, radius = most_spread(memory.levels[0], 40, first)
    assert torch.equal(memory.levels[0][rows], thinned.levels[0])
    asked = F.normalize(torch.randn(200, 6, generator=generator), dim=-1)
    whole, few = (torch.cdist(asked, each.levels[0]).amin(1) for each in (memory, thinned))
    assert 0 < radius < 1
    assert ((few - whole) >= -1e-6).all()
    assert ((few - whole) <= radius + 1e-5).all()
    left = torch.cdist(memory.levels[0], thinned.levels[0]).amin(1).max()
    assert float(left) == pytest.approx(radius, abs=1e-3)
    with pytest.raises(ConfigError, match="5 references need at least 5 vectors, got 4"):
        memory.thinned(4)


def test_eight_ways_to_turn_an_image(images):
    copies = turned(images)
    assert torch.equal(copies[8], images[1])
    assert torch.equal(copies[9], images[1].rot90(1, (1, 2)))
    assert len({tuple(copy.flatten()[:4].tolist()) for copy in copies[:8]}) == 8
