"""Cuts boxes out of square images, and puts maps of such crops back: pure tensor functions without branches.

Each axis is one matrix product with a matrix of bilinear weights, so that every image of a batch has a box
of its own, nothing is read on the host, and the box of the whole image changes no value.

Shapes: B images, C channels, S pixels of one side; boxes are (B, 4): left, top, right, bottom in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def whole_pixels(boxes: Tensor, size: int) -> Tensor:
    """Boxes widened to whole pixels and cut at the border; the whole image where there is no box.

    Args:
        boxes: (B, 4) in pixels; one that is not finite, or empty within the image, is none.
        size: S.

    Returns:
        (B, 4) float32 whole numbers in [0, S].

    Example:
        >>> whole_pixels(torch.tensor([[1.5, -3.0, 4.2, 2.0], [float("nan")] * 4]), 8)
        tensor([[1., 0., 5., 2.],
                [0., 0., 8., 8.]])
    """
    boxes = boxes.float()
    low, high = boxes[:, :2].floor().clamp(0, size), boxes[:, 2:].ceil().clamp(0, size)
    is_box = boxes.isfinite().all(dim=1, keepdim=True) & (high > low).all(dim=1, keepdim=True)
    return torch.cat([torch.where(is_box, low, 0.0), torch.where(is_box, high, float(size))], dim=1)


def crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Boxes of images, each resized to the size of the images without antialiasing.

    Args:
        images: (B, C, S, S).
        boxes: (B, 4) from `whole_pixels`.

    Returns:
        (B, C, S, S) of the images' type.
    """
    size = images.shape[-1]
    pixels = torch.arange(size, device=images.device, dtype=torch.float32)
    start, side = boxes[:, :2, None], (boxes[:, 2:] - boxes[:, :2])[:, :, None]
    within = ((pixels + 0.5) * side / size - 0.5).clamp_min(0).minimum(side - 1)
    along, down = _weights(start + within, size).unbind(dim=1)
    return _resampled(images.float(), down, along).to(images.dtype)


def put_back(maps: Tensor, boxes: Tensor) -> Tensor:
    """Maps of crops inside their boxes; outside of a box, the lowest value of its map.

    Args:
        maps: (B, S, S) maps of what `crop` returned.
        boxes: (B, 4) from `whole_pixels`.

    Returns:
        (B, S, S) float32.

    Example:
        >>> half = torch.tensor([[0.0, 0.0, 1.0, 2.0]])
        >>> put_back(torch.tensor([[[0.2, 0.4], [0.6, 0.8]]]), half).round(decimals=4)
        tensor([[[0.3000, 0.3000],
                 [0.7000, 0.3000]]])
    """
    size = maps.shape[-1]
    pixels = torch.arange(size, device=maps.device, dtype=torch.float32)
    start, end = boxes[:, :2, None], boxes[:, 2:, None]
    places = ((pixels + 0.5 - start) * size / (end - start) - 0.5).clamp(0, size - 1)
    along, down = _weights(places, size).unbind(dim=1)
    found = _resampled(maps.float()[:, None], down, along)[:, 0]
    columns, rows = ((pixels >= start) & (pixels < end)).unbind(dim=1)
    is_inside = rows[:, :, None] & columns[:, None, :]
    lowest = torch.where(is_inside, found, torch.inf).amin(dim=(1, 2), keepdim=True)
    return torch.where(is_inside, found, lowest)


def _weights(places: Tensor, size: int) -> Tensor:
    """Bilinear weights (..., N, size) of the pixels at N places (..., N) of an axis."""
    pixels = torch.arange(size, device=places.device, dtype=places.dtype)
    return (1 - (places[..., None] - pixels).abs()).clamp_min(0)


def _resampled(planes: Tensor, down: Tensor, along: Tensor) -> Tensor:
    """Planes (B, C, S, S) under weights (B, S, S) of each axis, in full precision under autocast too."""
    with torch.autocast(planes.device.type, enabled=False):
        return down[:, None] @ planes @ along[:, None].transpose(-1, -2)
