"""Views of a network: the same weights in memory, everything else apart."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from zsad.backbones.loading import backbone_fingerprint
from zsad.errors import ConfigError


@pytest.fixture
def images():
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def test_weights_exist_once(small_clip):
    view = small_clip.view()
    pairs = zip(small_clip.named_parameters(), view.named_parameters(), strict=True)
    for (name, own), (same, seen) in pairs:
        assert name == same
        assert own is not seen
        assert own.data_ptr() == seen.data_ptr()


def test_each_runs_its_own_way(small_clip, images):
    expected = small_clip.encode_image(images)
    changed = small_clip.view("gelu", "bilinear")
    assert not torch.equal(changed.encode_image(images), expected)
    assert torch.equal(small_clip.encode_image(images), expected)
    assert torch.equal(small_clip.view().encode_image(images), expected)
    assert changed.view("quick_gelu", "bicubic_antialias").encode_image(images).equal(expected)


def test_moving_freezing_and_hooks_do_not_reach_the_other(small_clip):
    small_clip.requires_grad_(True)
    view = small_clip.view().requires_grad_(False).to(torch.bfloat16).train()
    view.visual.register_forward_hook(lambda *_: pytest.fail("the hook of another network ran"))
    assert all(p.dtype == torch.float32 and p.requires_grad for p in small_clip.parameters())
    assert not small_clip.training
    small_clip.visual(torch.zeros(1, 3, 32, 32))


def test_new_weights_are_seen_also_in_resized_positions(small_clip, images):
    view = small_clip.view().requires_grad_(False)
    before = view.encode_image(images)
    with torch.no_grad():
        small_clip.visual.positional_embedding.mul_(2)
    assert not torch.equal(view.encode_image(images), before)
    assert torch.equal(view.encode_image(images), small_clip.encode_image(images))


def test_views_are_copied_and_pickled_whole(small_clip, images):
    view = small_clip.view("quick_gelu", "bilinear").requires_grad_(False)
    for again in (copy.deepcopy(view), pickle.loads(pickle.dumps(view))):
        assert torch.equal(again.encode_image(images), view.encode_image(images))


def test_the_fingerprint_stays(small_clip):
    small_clip.exact_fingerprint = "before rounding"
    assert backbone_fingerprint(small_clip.view()) == "before rounding"


def test_unknown_names(small_clip):
    with pytest.raises(ConfigError, match="did you mean 'quick_gelu'"):
        small_clip.view("quick_gelo")
    with pytest.raises(ConfigError, match="did you mean 'bilinear'"):
        small_clip.view(position_interpolation="bilinaer")
