"""Prompts that are the same for every image, made for each, or both."""

from __future__ import annotations

import pytest
import torch

from zsad.backbones.tokenizer import tokenize
from zsad.errors import ConfigError
from zsad.methods.prompts.hybrid import HybridPrompter, LinearHeads, encode_prompted, prompt_tokens
from zsad.methods.prompts.templates import PromptSet, TextEnsemble

PROMPTS = PromptSet(("{}", "perfect {}"), ("broken {}",), ("a photo of a {}.",))


def prompter(static=True, round_to_half=False):
    return HybridPrompter((2, 3), 4, 8, static=static, round_to_half=round_to_half)


def test_static_and_dynamic_are_added():
    made = prompter()
    dynamic = torch.randn(2, 4, 8)
    prompts = made(dynamic, rows=6).tokens
    assert prompts.keys() == {2, 3}
    for block, found in prompts.items():
        expected = [made.static_prompts[str(block - 1)] + dynamic[row // 3] for row in range(6)]
        assert torch.equal(found, torch.stack(expected))


def test_one_kind_alone():
    made, dynamic = prompter(), torch.randn(2, 4, 8)
    assert torch.equal(made(None, rows=5).tokens[3], made.static_prompts["2"].expand(5, -1, -1))
    assert len(prompter(static=False).static_prompts) == 0
    assert torch.equal(prompter(static=False)(dynamic, rows=2).tokens[2], dynamic)


def test_rounding_comes_after_the_sum():
    made, dynamic = prompter(round_to_half=True), torch.randn(1, 4, 8)
    expected = (made.static_prompts["1"] + dynamic).half().float()
    assert torch.equal(made(dynamic, rows=1).tokens[2], expected)


def test_heads_on_one_input_and_on_their_own():
    heads, x = LinearHeads(3, 5, 2), torch.randn(4, 3)
    assert torch.equal(heads(x)[:, 1], heads.head[1](x))
    own = [torch.randn(4, 7, 3) for _ in range(2)]
    assert heads.each(own).shape == (4, 2, 7, 5)
    assert torch.equal(heads.each(own)[:, 1], heads.head[1](own[1]))


def test_tokens_are_cut_after_the_longest_prompt():
    names = ["nut", "a rather long class name"]
    found = prompt_tokens(PROMPTS, names, 77)
    for row, name in zip(found, names, strict=True):
        normal, abnormal = PROMPTS.for_class(name)
        full = tokenize(normal + abnormal)
        assert torch.equal(row, full[:, : found.shape[2]])
        assert (full[:, found.shape[2] :] == 0).all()
    assert found[1, 1].max() == found[1, 1, -1]  # "perfect" makes the longest
    with pytest.raises(ConfigError, match="empty"):
        prompt_tokens(PROMPTS, [" "], 77)


def test_without_prompts_it_is_the_plain_ensemble(small_clip):
    names = ["nut", "a rather long class name"]
    found = encode_prompted(small_clip, prompt_tokens(PROMPTS, names, 77), 2, None)
    torch.testing.assert_close(
        found.detach(), TextEnsemble(small_clip, PROMPTS).encode(names), rtol=1e-4, atol=1e-5
    )


def test_each_image_has_its_own_text(small_clip):
    made = HybridPrompter((2,), 3, 32, static=True, round_to_half=False)
    dynamic = torch.randn(2, 3, 32)
    token_ids = prompt_tokens(PROMPTS, ["nut"], 77)
    together = encode_prompted(small_clip, token_ids, 2, made, dynamic)
    assert together.shape == (2, 2, 16)
    for row in range(2):
        alone = encode_prompted(small_clip, token_ids, 2, made, dynamic[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)
