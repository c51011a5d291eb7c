"""How often the text encoder runs, for every registered method: text is encoded once, not once per image."""

from __future__ import annotations

import pytest
import torch

import zsad
from zsad.backbones.clip import CLIP
from zsad.methods import _registry as registry

IMAGE_DEPENDENT = {
    "adaclip",
    "bayes_pfl",
    "faprompt",
    "genclip",
}  # their prompts depend on the image, by design


@pytest.fixture
def text_runs(monkeypatch):
    """A list that grows by the number of sentences whenever a text encoder runs."""
    runs = []
    encode = CLIP.encode_embeddings

    def counting(clip, embeddings, *args, **kwargs):
        runs.append(len(embeddings))
        return encode(clip, embeddings, *args, **kwargs)

    monkeypatch.setattr(CLIP, "encode_embeddings", counting)
    return runs


@pytest.mark.parametrize("name", [name for name in zsad.list_methods() if name not in IMAGE_DEPENDENT])
def test_text_is_encoded_once_for_many_images(name, make_small_clip, text_runs):
    torch.manual_seed(0)
    detector = zsad.load(name, make_small_clip(), "fresh", device="cpu")
    uses_names = registry.method_class(name).INFO.uses_class_names
    images = torch.randn(2, 3, 32, 32)
    detector.score_tensors(images, "screw" if uses_names else None)
    first = list(text_runs)
    for _ in range(3):
        detector.score_tensors(images.flip(0), "screw" if uses_names else None)
    assert text_runs == first
    detector.score_tensors(images, "metal nut")
    assert (len(text_runs) > len(first)) == uses_names


def test_a_step_of_training_outdates_the_text(make_small_clip, text_runs):
    detector = zsad.load("anomalyclip", make_small_clip(), "fresh", device="cpu")
    images = torch.randn(1, 3, 32, 32)
    detector.score_tensors(images)
    _, parameter = next(iter(detector.method.trainable()))
    with torch.no_grad():
        parameter.add_(0.1)
    detector.score_tensors(images)
    assert text_runs == [2, 2]
