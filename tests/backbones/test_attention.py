"""Attention, the value-value stream and position tables against loops that follow the formulas."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from zsad.backbones.attention import Attention, DeepPrompts, resize_positions
from zsad.backbones.transformer import Mlp
from zsad.errors import ConfigError
from zsad.types import Activation


def naive_heads(attention: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key, value (H, L, d) of one item's tokens (L, D)."""
    width = x.shape[-1]
    joint = x @ attention.in_proj_weight.T + attention.in_proj_bias
    return tuple(
        part.reshape(len(x), attention.heads, -1).permute(1, 0, 2) for part in joint.split(width, dim=-1)
    )


def naive_attention(
    attention: Attention, query: Tensor, key: Tensor, value: Tensor, causal: bool = False
) -> Tensor:
    """W_o softmax(Q K^T / sqrt(d)) V + b_o, head by head and row by row."""
    rows = []
    for position in range(query.shape[1]):
        heads = []
        for head in range(attention.heads):
            seen = position + 1 if causal else key.shape[1]
            scores = key[head, :seen] @ query[head, position] / math.sqrt(query.shape[-1])
            heads.append(torch.softmax(scores, dim=0) @ value[head, :seen])
        rows.append(torch.cat(heads))
    return torch.stack(rows) @ attention.out_proj.weight.T + attention.out_proj.bias


@pytest.fixture
def attention() -> Attention:
    torch.manual_seed(0)
    layer = Attention(12, 3).requires_grad_(False)
    for parameter in layer.parameters():
        parameter.normal_(std=0.5)
    return layer


@pytest.mark.parametrize("causal", [False, True])
def test_attention(attention, causal):
    x = torch.randn(2, 7, 12)
    expected = [naive_attention(attention, *naive_heads(attention, item), causal) for item in x]
    torch.testing.assert_close(attention(x, causal), torch.stack(expected))


def test_dual_attention(attention):
    x = torch.randn(2, 7, 12)
    original, value_value = attention.forward_dual(x)
    torch.testing.assert_close(original, attention(x))
    values = [naive_heads(attention, item)[2] for item in x]
    expected = [naive_attention(attention, value, value, value) for value in values]
    torch.testing.assert_close(value_value, torch.stack(expected))


@pytest.mark.parametrize("rows", [1, 3])
def test_only_the_first_tokens(attention, rows):
    x = torch.randn(2, 7, 12)
    original, value_value = attention.forward_dual(x, rows)
    whole, whole_value_value = attention.forward_dual(x)
    torch.testing.assert_close(original, whole[:, :rows])
    torch.testing.assert_close(value_value, whole_value_value)
    torch.testing.assert_close(attention(x, rows=rows), whole[:, :rows])


@pytest.mark.parametrize("activation", get_args(Activation))
@pytest.mark.parametrize("learns", [False, True])
def test_mlp(activation, learns):
    torch.manual_seed(0)
    mlp, x = Mlp(6, activation), torch.randn(2, 5, 6, requires_grad=learns)
    hidden = x @ mlp.c_fc.weight.T + mlp.c_fc.bias
    gate = torch.sigmoid(1.702 * hidden) if activation == "quick_gelu" else torch.special.ndtr(hidden)
    expected = (hidden * gate) @ mlp.c_proj.weight.T + mlp.c_proj.bias
    with torch.set_grad_enabled(learns):
        found = mlp(x)
    torch.testing.assert_close(found, expected)
    if learns:
        inputs = (x, *mlp.parameters())
        torch.testing.assert_close(
            torch.autograd.grad(found.square().sum(), inputs),
            torch.autograd.grad(expected.square().sum(), inputs),
        )


@pytest.mark.parametrize("start", [1, 2, 3])
def test_value_value_stream(small_clip, start):
    tower, images = small_clip.visual, torch.randn(2, 3, 40, 40)
    output = tower(images, (1, 2, 3), value_value_from=start)
    plain = tower(images, (1, 2, 3))
    stream = tower.ln_pre(tower.embed(images))
    value = stream
    added = []
    for number, block in enumerate(tower.transformer.blocks(), start=1):
        if number >= start:
            normed = block.ln_1(stream)
            values = [naive_heads(block.attn, item)[2] for item in normed]
            added.append(
                torch.stack([naive_attention(block.attn, value_, value_, value_) for value_ in values])
            )
            value = value + added[-1]
        stream = block(stream)
        if number < start:
            value = stream
        torch.testing.assert_close(output.tokens[number], plain.tokens[number])
        torch.testing.assert_close(output.tokens[number], stream)
        torch.testing.assert_close(output.value_tokens[number], value)
    before = plain.tokens[start - 1] if start > 1 else tower.ln_pre(tower.embed(images))
    torch.testing.assert_close(output.value_tokens[3] - before, sum(added), rtol=1e-4, atol=1e-5)


def test_tapped_tokens_are_not_references_to_one_tensor(small_clip):
    output = small_clip.visual(torch.randn(1, 3, 32, 32), (1, 2, 3), value_value_from=1)
    pointers = {tokens.data_ptr() for tokens in (*output.tokens.values(), *output.value_tokens.values())}
    assert len(pointers) == 6


def test_heads_that_do_not_divide():
    with pytest.raises(ConfigError, match=r"width 10 .* 3 heads"):
        Attention(10, 3)


def test_deep_prompts():
    prompts = DeepPrompts({2: torch.ones(3, 4, dtype=torch.float64), 3: torch.ones(2, 3, 4)})
    like = torch.zeros(2, 1, 4)
    assert prompts.before(1, 2, like) is None
    assert prompts.before(2, 2, like).shape == prompts.before(3, 2, like).shape == (2, 3, 4)
    assert prompts.before(2, 2, like).dtype == torch.float32
    prompts.check(3)
    with pytest.raises(ConfigError, match=r"blocks \[3\].* 1 to 2"):
        prompts.check(2)


class TestResizePositions:
    def test_same_grid_is_the_same_tensor(self):
        table = torch.randn(10, 4)
        assert resize_positions(table, 3, "bilinear") is table

    @pytest.mark.parametrize("mode", ["bilinear", "bicubic", "bicubic_antialias"])
    @pytest.mark.parametrize("grid", [2, 5, 7])
    def test_class_row_and_constant_planes(self, mode, grid):
        table = torch.randn(1, 4).expand(17, 4).contiguous()
        table[0] = 9
        resized = resize_positions(table, grid, mode)
        assert resized.shape == (1 + grid * grid, 4)
        assert torch.equal(resized[0], table[0])
        torch.testing.assert_close(resized[1:], table[1:2].expand(grid * grid, 4))

    def test_rows_run_along_the_image_s_rows(self):
        plane = torch.arange(4.0).repeat(4)  # value = column
        table = torch.cat([torch.zeros(1), plane])[:, None]
        resized = resize_positions(table, 8, "bilinear")[1:].reshape(8, 8)
        assert (resized[0, 1:] >= resized[0, :-1]).all()
        assert torch.equal(resized[0], resized[7])

    def test_half_precision_keeps_its_type(self):
        assert resize_positions(torch.randn(10, 4).half(), 5, "bicubic_antialias").dtype == torch.float16

    def test_refusals(self):
        with pytest.raises(ConfigError, match="did you mean 'bilinear'"):
            resize_positions(torch.zeros(10, 4), 5, "bilineer")
        with pytest.raises(ConfigError, match="1 \\+ 10 rows"):
            resize_positions(torch.zeros(11, 4), 5, "bilinear")
