"""Attention head by head, in bfloat16, against the formula in double precision and the fused kernel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zsad.backbones import scaled_dot_product
from zsad.backbones.scaled_dot_product import attend


@pytest.fixture(autouse=True)
def native_bfloat16(monkeypatch):
    """Takes the processor for one that multiplies bfloat16; the products are right on every processor."""
    monkeypatch.setattr(scaled_dot_product, "_multiplies_bfloat16", lambda: True)


@pytest.fixture
def fused_calls(monkeypatch) -> list[Tensor]:
    """The queries that the fused kernel has been given."""
    calls: list[Tensor] = []
    fused = F.scaled_dot_product_attention

    def recorded(query, *rest, **named):
        calls.append(query)
        return fused(query, *rest, **named)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    return calls


def random_heads(rows: int, tokens: int, width: int = 48, value_width: int | None = None) -> list[Tensor]:
    """Query, key and value of two images and three heads, in bfloat16."""
    random = torch.Generator().manual_seed(rows)
    shapes = ((rows, width), (tokens, width), (tokens, value_width or width))
    return [torch.randn(2, 3, *shape, generator=random).bfloat16() for shape in shapes]


def exact(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = query.double(), key.double(), value.double()
    return torch.softmax(query @ key.mT / math.sqrt(query.shape[-1]), dim=-1) @ value


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).square().mean().sqrt() / expected.std())


@pytest.mark.parametrize(
    ("rows", "tokens", "value_width"), [(200, 200, None), (130, 200, None), (200, 200, 16)]
)
def test_error_in_bfloat16_is_as_stated(rows, tokens, value_width, fused_calls):
    heads = random_heads(rows, tokens, value_width=value_width)
    with torch.inference_mode():
        found = attend(*heads)
    assert not fused_calls
    assert found.dtype == torch.bfloat16
    assert 1e-4 < relative_error(found, exact(*heads)) < 0.006


def test_joining_the_heads_moves_nothing():
    with torch.inference_mode():
        attended = attend(*random_heads(200, 200))
    assert attended.transpose(1, 2).is_contiguous()


def test_large_logits_stay_finite():
    query, key, value = random_heads(200, 200)
    with torch.inference_mode():
        found = attend(100 * query, 100 * key, value)
    assert torch.isfinite(found).all()
    assert relative_error(found, exact(100 * query, 100 * key, value)) < 0.1


def test_an_image_does_not_depend_on_its_batch():
    heads = random_heads(200, 200)
    with torch.inference_mode():
        both, second = attend(*heads), attend(*(part[1:] for part in heads))
    assert torch.equal(both[1:], second)


@pytest.mark.parametrize("why", ["float32", "training", "causal", "few tokens", "other processor"])
def test_all_else_goes_through_the_fused_kernel(why, fused_calls, monkeypatch):
    heads = random_heads(100 if why == "few tokens" else 200, 200)
    if why == "float32":
        heads = [part.float() for part in heads]
    if why == "other processor":
        monkeypatch.setattr(scaled_dot_product, "_multiplies_bfloat16", lambda: False)
    with torch.inference_mode(why != "training"):
        found = attend(*heads, causal=why == "causal")
        expected = F.scaled_dot_product_attention(*heads, is_causal=why == "causal")
    assert len(fused_calls) == 2
    assert torch.equal(found, expected)


def test_gradients_reach_the_query():
    query, key, value = random_heads(200, 200)
    query.requires_grad_(True)
    attend(query, key, value).float().sum().backward()
    assert query.grad is not None
    assert query.grad.abs().sum() > 0
