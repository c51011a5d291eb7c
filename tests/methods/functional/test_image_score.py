"""The score of an image: the papers' rule on all weights but those of `tiny`."""

from __future__ import annotations

import pytest
import torch

import zsad
from zsad.methods.functional.image_score import image_logits, image_score_for, image_scores


def test_both_is_the_mean_logit():
    generator = torch.Generator().manual_seed(0)
    image, patches = torch.randn(2, generator=generator), torch.randn(2, 3, 40, generator=generator)
    as_probabilities = [
        torch.stack([-each / 2, each / 2], dim=-1).softmax(dim=-1) for each in (image, patches)
    ]
    largest = patches.mean(dim=1).sort(dim=1).values[:, -2:].mean(dim=1)
    expected = (image + largest) / 2
    torch.testing.assert_close(image_logits(image, patches, "both"), expected)
    torch.testing.assert_close(image_scores(*as_probabilities, "both"), expected.sigmoid())
    assert torch.equal(image_scores(*as_probabilities, "class_token"), as_probabilities[0][:, 1])


def test_sure_probabilities_have_finite_logits():
    sure = torch.tensor([[1.0, 0.0]])
    assert torch.isfinite(image_scores(sure, sure[:, None, None], "both")).all()


@pytest.mark.parametrize("name", ["anomalyclip", "glocalclip", "clip_ac", "auto"])
def test_only_tiny_leaves_the_papers_rule(name, make_small_clip):
    method = zsad.load(name, device="cpu").method
    assert method.image_score == method.config.image_score == "both"
    assert zsad.load(name, device="cpu", image_score="class_token").method.image_score == "class_token"
    assert zsad.load(name, make_small_clip(), "fresh", device="cpu").method.image_score == "class_token"
    assert image_score_for(None, None) == "class_token"
