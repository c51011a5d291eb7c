"""Finds the product in front of an even background, with tensor operations alone.

Shapes: B images, S pixels of one side; boxes are (B, 4): left, top, right, bottom in pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 64
BORDER = 3  # pixels of 64, about 5 %
LEVELS = 256
SMALLEST, LARGEST = 0.05, 0.9
"""Shares of the image between which a region counts as the product."""


def foreground_boxes(images: Tensor) -> Tensor:
    """The box around the largest region whose colour differs from the border of the image.

    On a copy of 64 x 64 pixels: colour distance to the median of the border, Otsu's threshold, largest region
    of pixels that touch by sides or corners.

    Args:
        images: (B, 3, S, S) RGB in [0, 1].

    Returns:
        (B, 4) float32 in pixels; NaN where the box covers less than 5 % or more than 90 % of the image or
        touches all four borders, as on textures.
    """
    small = F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
    sides = (small[..., :BORDER, :], small[..., -BORDER:, :])
    flanks = (small[..., BORDER:-BORDER, :BORDER], small[..., BORDER:-BORDER, -BORDER:])
    border = torch.cat([part.flatten(2) for part in (*sides, *flanks)], dim=2)
    background = border.quantile(0.5, dim=2)[:, :, None, None]
    region = largest_region(above_otsu((small - background).square().sum(dim=1).sqrt()))
    places = torch.arange(SIDE, device=images.device)
    spans = [_span(region.any(dim=axis), places) for axis in (1, 2)]
    low, high = (torch.stack(ends, dim=1).float() for ends in zip(*spans, strict=True))
    share = (high - low).prod(dim=1) / SIDE**2
    touches_all = ((low == 0) & (high == SIDE)).all(dim=1)
    is_product = (share >= SMALLEST) & (share <= LARGEST) & ~touches_all
    boxes = torch.cat([low, high], dim=1) * (images.shape[-1] / SIDE)
    return torch.where(is_product[:, None], boxes, torch.nan)


def enlarged(boxes: Tensor, margin: float) -> Tensor:
    """Boxes that are wider by a share of their size at each side.

    Example:
        >>> enlarged(torch.tensor([[10.0, 10.0, 30.0, 20.0]]), 0.1)
        tensor([[ 8.,  9., 32., 21.]])
    """
    more = (boxes[:, 2:] - boxes[:, :2]) * margin
    return torch.cat([boxes[:, :2] - more, boxes[:, 2:] + more], dim=1)


def above_otsu(values: Tensor) -> Tensor:
    """The pixels above the threshold that separates the values of an image best into two groups.

    Source: Otsu, "A threshold selection method from gray-level histograms" (1979), on 256 levels.

    Args:
        values: (B, H, W), 0 or more.

    Returns:
        (B, H, W) bool; nowhere True in an image of one value.
    """
    flat = values.flatten(1)
    highest = flat.amax(dim=1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    levels = (flat / highest * (LEVELS - 1)).long()
    counts = flat.new_zeros(flat.shape[0], LEVELS).scatter_add(1, levels, torch.ones_like(flat))
    steps = torch.arange(LEVELS, device=values.device, dtype=flat.dtype)
    below, sums = counts.cumsum(dim=1), (counts * steps).cumsum(dim=1)
    total, whole = below[:, -1:], sums[:, -1:]
    spread = (whole / total * below - sums).square() / (below * (total - below)).clamp_min(1)
    return (levels > spread.argmax(dim=1, keepdim=True)).reshape(values.shape)


def largest_region(mask: Tensor) -> Tensor:
    """The largest region of pixels that touch by sides or corners; of two that are equal, the lower one.

    Each label takes the highest one beside it, and all that lead to it follow. A round at least halves the
    labels of a region, so that a fixed number of rounds is enough, and no value is read on the host.

    Args:
        mask: (B, H, W) bool.

    Returns:
        (B, H, W) bool; nowhere True in an empty mask.
    """
    flat = mask.flatten(1)
    count = flat.shape[1]
    names = torch.arange(count + 1, device=mask.device).expand(mask.shape[0], -1)
    labels = names[:, 1:] * flat
    rounds = math.ceil(math.log2(count))
    for _ in range(rounds):
        near = (
            F.max_pool2d(labels.reshape(mask.shape).float(), 3, stride=1, padding=1).flatten(1).long() * flat
        )
        leads_to = names.scatter_reduce(1, labels, near, "amax")
        for _ in range(rounds):
            leads_to = leads_to.gather(1, leads_to)
        labels = leads_to.gather(1, labels)
    sizes = torch.zeros_like(names).scatter_add(1, labels, flat.long())
    return (labels == sizes.argmax(dim=1, keepdim=True)).logical_and(flat).reshape(mask.shape)


def _span(is_there: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """First place, and the place after the last one, of each row of (B, N) bool."""
    return (
        torch.where(is_there, places, places.shape[0]).amin(dim=1),
        torch.where(is_there, places + 1, 0).amax(dim=1),
    )
