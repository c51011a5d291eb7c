"""The largest values of rows, against PyTorch's topk."""

import pytest
import torch

from zsad.backbones.selection import largest


@pytest.mark.parametrize(("shape", "count"), [((3, 4, 50), 8), ((5,), 5), ((2, 1), 1), ((0, 7), 3)])
def test_equals_topk(shape, count):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).round(decimals=1)  # with ties
    with torch.inference_mode():
        assert torch.equal(largest(values, count), values.topk(count, dim=-1).values)


def test_values_stay_as_they_are():
    values = torch.tensor([[3.0, 1.0, 2.0]])
    largest(values, 2)
    assert values.tolist() == [[3.0, 1.0, 2.0]]


def test_not_a_number_counts_as_the_largest():
    values = torch.tensor([1.0, torch.nan, 2.0])
    torch.testing.assert_close(largest(values, 2), values.topk(2).values, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_keep_their_type(dtype):
    values = torch.tensor([1.0, 3.0, 2.0], dtype=dtype)
    assert torch.equal(largest(values, 2), torch.tensor([3.0, 2.0], dtype=dtype))


def test_gradients_pass():
    values = torch.tensor([1.0, 3.0, 2.0], requires_grad=True)
    largest(values, 2).sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 1.0]
