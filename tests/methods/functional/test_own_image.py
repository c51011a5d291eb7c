"""Rarity within an image: against a naive loop, what it does to logits, and where it counts."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

import zsad
from zsad.methods.functional import own_image
from zsad.methods.functional.folder import Logits
from zsad.methods.functional.image_score import by_weights
from zsad.methods.functional.own_image import (
    TINY_WEIGHT,
    USUAL_LARGEST,
    USUAL_RARITY,
    rarity,
    with_own_image,
)


def naive_rarity(vectors, side, neighbours=4):
    found = []
    for here in range(side * side):
        similar = [
            float(vectors[here] @ vectors[there])
            for there in range(side * side)
            if max(abs(here // side - there // side), abs(here % side - there % side)) > 1
        ]
        found.append(1 - sum(sorted(similar)[-neighbours:]) / neighbours)
    return torch.tensor(found)


def test_rarity_equals_a_naive_loop():
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(2, 25, 7), dim=-1)
    expected = torch.stack([naive_rarity(image, 5) for image in vectors])
    torch.testing.assert_close(rarity(vectors), expected, atol=1e-5, rtol=1e-5)


def test_the_odd_patch_is_the_rarest():
    torch.manual_seed(0)
    vectors = torch.randn(1, 1, 16) + 0.1 * torch.randn(1, 64, 16)
    vectors[0, 29] = torch.randn(16)
    assert rarity(F.normalize(vectors, dim=-1)).argmax() == 29


@pytest.fixture
def rare(monkeypatch):
    """Rarity of 20 patches of one image, as a test sets it."""
    values = torch.full((1, 20), USUAL_RARITY)
    monkeypatch.setattr(own_image, "rarity", lambda own: values)
    return values


def test_usual_rarity_leaves_logits_where_they_are(rare):
    logits = Logits(torch.tensor([1.0]), torch.tensor([[[0.5] * 20]]))
    torch.testing.assert_close(with_own_image(logits, torch.ones(()), 25.0).patches, logits.patches)
    rare[0, 3] = USUAL_LARGEST  # one of twenty patches is the largest 5 %
    torch.testing.assert_close(with_own_image(logits, torch.ones(()), 25.0).images, logits.images)


def test_a_rare_patch_raises_its_own_logit_on_every_layer_and_the_image(rare):
    logits = Logits(torch.zeros(1), torch.zeros(1, 2, 20))
    rare[0, 7] = 1.0
    moved = with_own_image(logits, torch.ones(()), 10.0)
    assert moved.patches[0, :, 7].tolist() == pytest.approx([8.4, 8.4])
    assert moved.images.item() == pytest.approx(7.2)
    assert with_own_image(logits, torch.ones(()), 0.0) is logits


def test_it_counts_on_tiny_alone_unless_chosen():
    tiny = zsad.load("auto", device="cpu").record
    other = dataclasses.replace(tiny, name="vit-l-14-336")
    assert zsad.load("auto", device="cpu").method.own_image_weight == TINY_WEIGHT
    given = {"on_tiny": TINY_WEIGHT, "elsewhere": 0.0}
    assert by_weights(None, tiny, **given) == TINY_WEIGHT
    assert by_weights(None, other, **given) == by_weights(None, None, **given) == 0.0
    assert by_weights(3.0, other, **given) == by_weights(3.0, tiny, **given) == 3.0


def test_auto_without_it_gives_the_answer_of_the_prompts():
    torch.manual_seed(0)
    images = torch.randn(2, 3, 320, 320)
    with torch.inference_mode():
        raw = [
            (detector.method.features(images), detector.method.prepare(["object"]), detector.method)
            for detector in (
                zsad.load("auto", device="cpu"),
                zsad.load("auto", device="cpu", own_image_weight=0.0),
            )
        ]
        maps = [method.score(features, state).maps for features, state, method in raw]
    assert (raw[0][0].own.shape[-1], raw[1][0].own.shape[-1]) == (720, 0)
    assert (maps[0] - maps[1]).abs().amax() > 1e-3
