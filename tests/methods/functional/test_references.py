"""The general rule for references, against plain loops."""

from __future__ import annotations

import pytest
import torch

from zsad.errors import ConfigError
from zsad.methods.functional.patches import comparable_patches, layers_compared
from zsad.methods.functional.references import (
    ReferenceMemory,
    reference_distances,
    remember,
    with_references,
)
from zsad.types import RawOutput


@pytest.fixture
def images():
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(4))


def test_distances_equal_plain_loops(small_clip, images):
    visual, references = small_clip.visual, images[:2]
    found = reference_distances(visual, images[2:], remember(visual, references))
    assert found.shape == (3, 4, 4)
    layers = layers_compared(None, visual.config)
    with torch.no_grad():
        known, asked = (
            comparable_patches(visual(each, taps=layers), layers) for each in (references, images[2:])
        )
    for image in range(3):
        for patch in range(16):
            nearest = [
                min((1 - float(level[image, patch] @ row)) / 2 for row in memory.flatten(0, 1))
                for level, memory in zip(asked, known, strict=True)
            ]
            assert float(found[image].flatten()[patch]) == pytest.approx(sum(nearest) / len(layers), abs=1e-5)


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


def test_a_reference_has_no_distance_to_itself(small_clip, images):
    distances = reference_distances(small_clip.visual, images, remember(small_clip.visual, images))
    assert distances.max() < 1e-5


def test_maps_stay_in_their_range():
    raw = RawOutput(torch.tensor([1.0, 0.0]), torch.tensor([-2.0, 6.0]).reshape(2, 1, 1).expand(2, 4, 4))
    distances = torch.tensor([0.0, 1.0]).reshape(2, 1, 1).expand(2, 2, 2)
    joined = with_references(raw, distances, (-2.0, 6.0))
    assert joined.scores.tolist() == [0.5, 0.5]
    assert joined.maps[0].unique().tolist() == [-2.0]
    assert joined.maps[1].unique().tolist() == [6.0]
