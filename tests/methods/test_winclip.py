"""WinCLIP against anomalib's re-implementation (tests/golden/winclip.npz)."""

from __future__ import annotations

import pytest
import torch

from zsad.errors import ConfigError
from zsad.methods import winclip
from zsad.methods.base import Support
from zsad.methods.winclip import Config, WinCLIP

CLASS = ["metal nut"]


def close(found, expected, atol):
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=0, atol=atol)


def near(found, expected):
    torch.testing.assert_close(
        found, torch.as_tensor(expected), rtol=1e-4, atol=2e-5 * float(abs(expected).max())
    )


def images_of(inputs, size):
    """The golden images, cut to their middle for the native size."""
    border = (inputs["images"].shape[-1] - size) // 2
    return inputs["images"][..., border : border + size, border : border + size]


@pytest.fixture(
    scope="module", params=[("size70", 70, "gelu"), ("size56", 56, "quick_gelu")], ids=lambda p: p[0]
)
def case(request, make_golden_clip):
    prefix, size, activation = request.param
    return prefix, size, WinCLIP(make_golden_clip(activation), Config(prompt_set="anomalib"))


def test_zero_shot(case, golden, golden_inputs):
    prefix, size, method = case
    expected = golden("winclip")
    state = method.prepare(CLASS)
    features = method.features(images_of(golden_inputs, size))
    near(state.text_features[0], expected[f"{prefix}.text_embeddings_raw"])
    near(features.image_features, expected[f"{prefix}.image_embeddings_raw"])
    near(features.patch_tokens, expected[f"{prefix}.patch_embeddings_raw"])
    for scale, windows in zip((2, 3), method._split(features.window_features, size // 14), strict=True):
        near(windows, expected[f"{prefix}.window_embeddings_raw_scale{scale}"])
    raw = method.score(features, state)
    close(raw.scores, expected[f"{prefix}.zero_shot_scores"], 1e-5)
    close(raw.maps, expected[f"{prefix}.zero_shot_map"], 1e-5)


def test_few_shot(case, golden, golden_inputs):
    prefix, size, method = case
    expected = golden("winclip")
    state = method.prepare(CLASS, Support(torch.as_tensor(expected[f"{prefix}.ref_images"])))
    raw = method.score(method.features(images_of(golden_inputs, size)), state)
    close(raw.scores, expected[f"{prefix}.few_shot_scores"], 1e-5)
    close(raw.maps, expected[f"{prefix}.few_shot_map"], 1e-5)


def test_chunks_do_not_change_the_answer(small_clip, monkeypatch):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    method = WinCLIP(small_clip, Config())
    whole = method.features(images).window_features
    monkeypatch.setattr(winclip, "MOST_TOKENS_AT_ONCE", 20)
    torch.testing.assert_close(method.features(images).window_features, whole, rtol=1e-5, atol=1e-6)


def test_a_reference_of_itself_has_no_distance(small_clip):
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    method = WinCLIP(small_clip, Config())
    features = method.features(images)
    plain, compared = (
        method.score(features, method.prepare(CLASS, given)) for given in (None, Support(images))
    )
    torch.testing.assert_close(compared.maps, plain.maps / 2, rtol=0, atol=1e-5)
    torch.testing.assert_close(compared.scores, plain.scores / 2, rtol=0, atol=1e-5)


def test_prompt_sets_differ(small_clip):
    paper, anomalib = (
        WinCLIP(small_clip, Config(prompt_set=name)).prepare(CLASS).text_features
        for name in ("paper", "anomalib")
    )
    torch.testing.assert_close(paper.norm(dim=-1), torch.ones(1, 2))
    assert not torch.allclose(paper, torch.nn.functional.normalize(anomalib, dim=-1))


def test_each_image_may_have_its_class(small_clip):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    method = WinCLIP(small_clip, Config())
    features = method.features(images)
    both = method.score(features, method.prepare(["screw", "carpet"])).scores
    for index, name in enumerate(("screw", "carpet")):
        alone = method.score(features, method.prepare([name])).scores
        torch.testing.assert_close(both[index], alone[index])


def test_a_window_larger_than_the_grid_is_refused(small_clip):
    with pytest.raises(ConfigError, match="grid of 4"):
        WinCLIP(small_clip, Config(scales=(5,))).features(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("settings", [{"scales": (0,)}, {"temperature": 0.0}, {"prompt_set": "papr"}])
def test_impossible_settings(small_clip, settings):
    with pytest.raises(ConfigError):
        WinCLIP(small_clip, Config(**settings))
