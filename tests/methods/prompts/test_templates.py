"""The hand-written prompts against the golden lists."""

from __future__ import annotations

import pytest
import torch

from zsad.errors import ConfigError
from zsad.methods.prompts import templates
from zsad.methods.prompts.templates import PROMPT_SETS, TextEnsemble, prompt_set


def test_anomalib_prompts_are_the_golden_ones(golden):
    normal, abnormal = prompt_set("anomalib").for_class("metal nut")
    assert normal == golden("winclip")["prompts.normal"].tolist()
    assert abnormal == golden("winclip")["prompts.anomalous"].tolist()


@pytest.mark.parametrize(
    ("name", "normal", "abnormal"), [("paper", 154, 88), ("anomalib", 147, 84), ("april_gan", 245, 175)]
)
def test_sizes(name, normal, abnormal):
    sentences = prompt_set(name).for_class("screw")
    assert [len(part) for part in sentences] == [normal, abnormal]
    if name != "anomalib":
        assert len(set(sentences[0])) == normal


def test_every_template_and_state_has_one_place():
    for prompts in PROMPT_SETS.values():
        for text in (*prompts.templates, *prompts.normal_states, *prompts.abnormal_states):
            assert text.count("{}") == 1


def test_a_class_name_may_hold_braces():
    assert prompt_set("paper").for_class("{}x{0}")[0][0] == "a cropped photo of a {}x{0}."


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_class_name_is_refused(name):
    with pytest.raises(ConfigError, match="class name"):
        prompt_set("paper").for_class(name)


def test_an_unknown_set():
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        prompt_set("papper")


def test_the_ensemble_averages_and_keeps(small_clip, monkeypatch):
    from zsad.backbones.tokenizer import tokenize

    ensemble = TextEnsemble(small_clip, prompt_set("paper"))
    with torch.inference_mode():
        kept = ensemble.encode(["screw"])
    assert not ensemble.encode(["screw"]).is_inference()
    vectors = small_clip.encode_text(tokenize(prompt_set("paper").for_class("screw")[1]))
    mean = torch.nn.functional.normalize(vectors, dim=-1).mean(0)
    torch.testing.assert_close(kept[0, 1], (mean / mean.norm()).detach())
    monkeypatch.setattr(small_clip, "encode_text", lambda *_: pytest.fail("encoded again"))
    assert torch.equal(ensemble.encode(["screw", "screw"])[1], kept[0])


def test_the_memory_is_bounded(small_clip, monkeypatch):
    monkeypatch.setattr(templates, "MOST_NAMES_KEPT", 2)
    ensemble = TextEnsemble(small_clip, prompt_set("paper"))
    assert ensemble.encode(["a", "b", "c", "a"]).shape == (4, 2, 16)
    assert len(ensemble._kept) == 2
