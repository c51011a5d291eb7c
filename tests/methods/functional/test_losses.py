"""Loss terms against closed forms; their values inside AnomalyCLIP are compared in tests/methods."""

from __future__ import annotations

import math

import pytest
import torch

from zsad.methods.functional.losses import dice_loss, focal_loss


def two_channels(abnormal):
    return torch.stack([1 - abnormal, abnormal], dim=1)


def test_a_perfect_answer_costs_almost_nothing():
    masks = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    assert float(focal_loss(two_channels(masks), masks)) == pytest.approx(0, abs=1e-8)
    assert float(dice_loss(masks, masks)) == pytest.approx(0, abs=1e-6)


def test_focal_loss_of_one_pixel():
    found = focal_loss(two_channels(torch.tensor([[[0.3]]])), torch.tensor([[[1.0]]]))
    right = (1 - 1e-5) * 0.3 + 1e-5 * 0.7 + 1e-5
    assert float(found) == pytest.approx(-((1 - right) ** 2) * math.log(right), rel=1e-5)


def test_a_wrong_certain_answer_stays_finite():
    masks = torch.ones(1, 2, 2)
    certain = two_channels(torch.zeros(1, 2, 2)).requires_grad_()
    focal_loss(certain, masks).backward()
    assert torch.isfinite(certain.grad).all()


def test_dice_is_averaged_over_images_not_pixels():
    probabilities = torch.stack([torch.ones(3, 3), torch.zeros(3, 3)])
    masks = torch.stack([torch.ones(3, 3), torch.ones(3, 3)])
    single = [float(dice_loss(probabilities[i : i + 1], masks[i : i + 1])) for i in (0, 1)]
    assert float(dice_loss(probabilities, masks)) == pytest.approx(sum(single) / 2)
    assert single == pytest.approx([0, 1 - 1 / 10])


def test_masks_of_any_type():
    probabilities = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    masks = probabilities > 0.5
    expected = dice_loss(probabilities, masks.float()), focal_loss(two_channels(probabilities), masks.float())
    assert (
        dice_loss(probabilities, masks),
        focal_loss(two_channels(probabilities), masks.long()),
    ) == expected
