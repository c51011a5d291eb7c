"""Crops and maps of crops against `torch.nn.functional.interpolate` on slices."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from zsad.methods.functional.crops import crop, put_back, whole_pixels

BOXES = [(0, 0, 20, 40), (7, 3, 31, 40), (12, 12, 13, 13), (0, 0, 40, 40)]


@pytest.fixture
def images():
    return torch.rand(len(BOXES), 3, 40, 40, generator=torch.Generator().manual_seed(0))


def resized(planes, size):
    return F.interpolate(planes, size, mode="bilinear")


def test_crops_are_resized_slices(images):
    found = crop(images, torch.tensor(BOXES).float())
    for image, part, (left, top, right, bottom) in zip(images, found, BOXES, strict=True):
        torch.testing.assert_close(part[None], resized(image[None, :, top:bottom, left:right], (40, 40)))


def test_the_whole_image_stays_to_the_bit(images):
    boxes = whole_pixels(torch.full((len(BOXES), 4), torch.nan), 40)
    assert torch.equal(crop(images, boxes), images)
    assert torch.equal(put_back(images[:, 0], boxes), images[:, 0])


def test_maps_are_resized_into_their_boxes(images):
    found = put_back(images[:, 0], torch.tensor(BOXES).float())
    for plane, whole, (left, top, right, bottom) in zip(images[:, :1], found, BOXES, strict=True):
        inside = resized(plane[None], (bottom - top, right - left))[0, 0]
        torch.testing.assert_close(whole[top:bottom, left:right], inside)
        outside = torch.ones(40, 40, dtype=torch.bool)
        outside[top:bottom, left:right] = False
        assert (whole[outside] == whole[top:bottom, left:right].min()).all()


@pytest.mark.parametrize(
    "box", [(torch.nan, 0, 1, 1), (0, 0, torch.inf, 5), (5, 5, 5, 9), (9, 0, 3, 9), (50, 50, 60, 60)]
)
def test_what_is_no_box_is_the_whole_image(box):
    assert whole_pixels(torch.tensor([box]), 40).tolist() == [[0, 0, 40, 40]]
