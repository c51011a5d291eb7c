"""Patches that images are compared by: of a hybrid stem, of chosen layers, and in lower precision."""

import pytest
import torch
from torch.nn import functional as F

import zsad
from zsad.methods.functional.patches import (
    comparable_patches,
    layers_compared,
    reference_layers,
    reference_patches,
)


@pytest.fixture(scope="module")
def tiny():
    return zsad.load("clip_ac", device="cpu").backbone.visual


@torch.inference_mode()
def test_references_are_compared_by_two_levels_of_a_hybrid_stem(tiny):
    output = tiny(torch.randn(2, 3, 320, 320, generator=torch.Generator().manual_seed(0)))
    middle, roots = reference_patches(output, reference_layers(tiny.config))
    assert (middle.shape, roots.shape) == ((2, 400, 120), (2, 400, 720))
    expected = output.stem.on_patch_grid[1][1, :, 3, 7].sqrt()
    torch.testing.assert_close(roots[1, 3 * 20 + 7], F.normalize(expected, dim=0))
    torch.testing.assert_close(middle.norm(dim=-1), torch.ones(2, 400))


@torch.inference_mode()
def test_unlabelled_images_are_compared_by_finer_levels_and_a_block(tiny):
    layers = layers_compared(None, tiny.config)
    output = tiny(torch.randn(1, 3, 320, 320), taps=layers)
    assert layers == (1,)
    assert [level.shape[-1] for level in comparable_patches(output, layers)] == [4 * 48, 120, 256]


@torch.inference_mode()
def test_plain_encoders_are_compared_by_the_ends_of_their_quarters(small_clip):
    layers = reference_layers(small_clip.config.vision)
    images = torch.randn(1, 3, 32, 32)
    output = small_clip.visual(images, taps=layers)
    levels = reference_patches(output, layers)
    assert len(levels) == len(layers) == len(comparable_patches(output, layers))
    lower = reference_patches(small_clip.to(torch.bfloat16).visual(images, taps=layers), layers)
    assert {level.dtype for level in lower} == {torch.float16}
