"""Learnt prompts: where the vectors go and how gradients come back."""

from __future__ import annotations

import pytest
import torch

from zsad.errors import ConfigError
from zsad.methods.prompts.learners import PromptPairLearner, placeholder_tokens, round_to_half, splice_context


def build(clip, **settings):
    defaults = {"n_ctx": 3, "depth": 2, "t_n_ctx": 2, "round_prompts_to_half": True}
    return PromptPairLearner(clip, **{**defaults, **settings})


def test_splice_keeps_start_and_ending():
    embeddings = torch.arange(12.0).reshape(1, 6, 2)
    spliced = splice_context(embeddings, -torch.ones(1, 2, 2))
    assert torch.equal(spliced[:, 0], embeddings[:, 0])
    assert torch.equal(spliced[:, 3:], embeddings[:, 3:])
    assert (spliced[:, 1:3] == -1).all()


@pytest.mark.parametrize("length", [1, 12, 72])
def test_placeholders_put_the_ending_after_the_context(length):
    ids = placeholder_tokens(length, "object.", 77)[0]
    assert ids[1 + length : 4 + length].tolist() == [14115, 269, 49407]


@pytest.mark.parametrize("length", [0, 74, 1000])
def test_placeholders_that_do_not_fit(length):
    with pytest.raises(ConfigError, match="use 1 to 73"):
        placeholder_tokens(length, "object.", 77)


def test_rounding_reaches_values_and_gradients():
    prompts = torch.tensor([[1.0001, 0.1]], requires_grad=True)
    rounded = round_to_half(prompts, 2)
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded[0], prompts.half().float())
    (rounded * 1.0001).sum().backward()
    assert (prompts.grad == 2).all()


def test_the_first_block_has_no_deep_prompt(small_clip):
    learner = build(small_clip, depth=1)
    assert len(learner.compound_prompts_text) == 0
    assert learner.encode(small_clip).shape == (2, 16)


def test_a_generator_fixes_the_numbers(small_clip):
    first, second = (build(small_clip, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_every_parameter_matters(small_clip):
    learner = build(small_clip.requires_grad_(False), round_prompts_to_half=False)
    learner.encode(small_clip).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in learner.parameters())


def test_token_ids_are_not_saved(small_clip):
    assert set(build(small_clip).state_dict()) == {"ctx_pos", "ctx_neg", "compound_prompts_text.0"}
