"""Upsampling, smoothing and scaling of maps: pure tensor functions that the methods share.

Shapes: B images, N = G*G patches of a square grid in row-major order, E feature width, K text classes
(0 normal, 1 abnormal), C rows of class names (1 or B), S pixels of one side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.errors import ConfigError


def grid_side(patches: int) -> int:
    """Patches along one side of a square grid.

    Raises:
        ConfigError: the number of patches is not a square.

    Example:
        >>> grid_side(1369)
        37
    """
    side = math.isqrt(patches)
    if side * side != patches:
        raise ConfigError(f"{patches} patches do not form a square grid; give the network square images")
    return side


def to_grid(patch_values: Tensor) -> Tensor:
    """Lays patch values out as channels of a square image.

    Args:
        patch_values: (..., N, K), patches in row-major order.

    Returns:
        (..., K, G, G).

    Example:
        >>> to_grid(torch.arange(4.0).reshape(1, 4, 1))
        tensor([[[[0., 1.],
                  [2., 3.]]]])
    """
    side = grid_side(patch_values.shape[-2])
    channels_first = patch_values.transpose(-1, -2)
    return channels_first.reshape(*channels_first.shape[:-1], side, side)


def upsample(maps: Tensor, size: int | tuple[int, int], align_corners: bool = False) -> Tensor:
    """Bilinear resizing of maps, without antialiasing.

    Args:
        maps: (..., h, w).
        size: pixels of one side, or (height, width).
        align_corners: True puts the outermost values on the outermost pixels (APRIL-GAN, AdaCLIP, AA-CLIP);
            False treats values as areas (the AnomalyCLIP family, WinCLIP).

    Returns:
        (..., height, width).

    Example:
        >>> upsample(torch.tensor([[[0.0, 1.0]]]), (1, 4))
        tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
    """
    height, width = (size, size) if isinstance(size, int) else size
    planes = maps.reshape(-1, 1, *maps.shape[-2:])
    resized = F.interpolate(planes, size=(height, width), mode="bilinear", align_corners=align_corners)
    return resized.reshape(*maps.shape[:-2], height, width)


def gaussian_filter(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of each map, equal to `scipy.ndimage.gaussian_filter` with its defaults.

    The kernel ends at int(4 sigma + 0.5) pixels and the border is mirrored ("reflect": d c b a | a b c d).
    Each axis is one matrix product with a matrix that holds kernel and border, which takes maps of any size,
    however small beside the kernel, and exports as a plain product.

    Args:
        maps: (..., H, W) of a floating type.
        sigma: standard deviation in pixels; 0 changes nothing.

    Returns:
        (..., H, W).

    Raises:
        ConfigError: sigma is negative or not finite.

    Example:
        >>> gaussian_filter(torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]]), sigma=1.0).round(decimals=4)
        tensor([[0.0584, 0.2421, 0.3989, 0.2421, 0.0584]])
    """
    if sigma == 0:
        return maps
    matrices = {
        side: _gaussian_matrix(side, float(sigma)).to(device=maps.device, dtype=maps.dtype)
        for side in set(maps.shape[-2:])
    }
    return matrices[maps.shape[-2]] @ maps @ matrices[maps.shape[-1]].T


def small_gaussian_filter(maps: Tensor, side: int, sigma: float) -> Tensor:
    """Gaussian smoothing with a kernel of a few pixels, equal to kornia's `gaussian_blur2d`.

    The border is mirrored without its outermost pixels ("reflect" in torch: c b | a b c d).

    Args:
        maps: (..., H, W) of a floating type.
        side: side of the kernel in pixels, odd.
        sigma: standard deviation in pixels, above 0.

    Returns:
        (..., H, W).

    Example:
        >>> small_gaussian_filter(torch.tensor([[0.0, 1.0, 0.0]]), side=3, sigma=1.0).round(decimals=4)
        tensor([[0.5481, 0.4519, 0.5481]])
    """
    matrices = {
        pixels: _smoothing_matrix(pixels, float(sigma), side // 2, repeats_edge=False).to(maps)
        for pixels in set(maps.shape[-2:])
    }
    return matrices[maps.shape[-2]] @ maps @ matrices[maps.shape[-1]].T


def abnormal_map(probabilities: Tensor, weights: Sequence[float], size: int, sigma: float) -> Tensor:
    """One smoothed map from the patch probabilities of several layers.

    M = G_sigma * upsample( sum_t w_t (p_abnormal,t + 1 - p_normal,t) / 2 )

    Source: the evaluation code of AnomalyCLIP and of what derives from it.

    Args:
        probabilities: (B, T, N, 2) of T layers, normal then abnormal.
        weights: T factors.
        size: pixels of one side of the map.
        sigma: standard deviation of the Gaussian filter, in pixels; 0 switches it off.

    Returns:
        (B, size, size) in [0, sum of the weights].

    Example:
        >>> abnormal_map(torch.tensor([[[[0.2, 0.8]]]]), [2.0], size=1, sigma=0)
        tensor([[[1.6000]]])
    """
    grids = to_grid(probabilities)
    layers = ((grids[:, :, 1] + 1 - grids[:, :, 0]) / 2).unbind(dim=1)
    # Upsampling is linear, so the layers can be added up before it.
    weighted = torch.stack([weight * layer for weight, layer in zip(weights, layers, strict=True)])
    return gaussian_filter(upsample(weighted.sum(dim=0), size), sigma)


def _gaussian_matrix(side: int, sigma: float) -> Tensor:
    """(side, side) matrix that smooths a column as `gaussian_filter` does."""
    if not 0 < sigma < float("inf"):
        raise ConfigError(f"sigma of the Gaussian filter must be a number of pixels >= 0, got {sigma}")
    return _smoothing_matrix(side, sigma, int(4 * sigma + 0.5), repeats_edge=True)


def _smoothing_matrix(side: int, sigma: float, radius: int, *, repeats_edge: bool) -> Tensor:
    """(side, side) matrix that smooths a column; row i holds the mirrored kernel around pixel i."""
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    kernel /= kernel.sum()
    # Mirroring is periodic; the second half of a period runs backwards, with or without both ends.
    period = 2 * side if repeats_edge else max(2 * side - 2, 1)
    position = (torch.arange(side)[:, None] + offsets) % period
    source = torch.where(position < side, position, period - int(repeats_edge) - position)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add(1, source, kernel.expand(side, -1))


def min_max(values: Tensor) -> Tensor:
    """Shifts and stretches values so that the smallest becomes 0 and the largest 1.

    Args:
        values: values of any shape, at least one.

    Returns:
        The same shape, in [0, 1]; all 0 if all values are equal.

    Example:
        >>> min_max(torch.tensor([3.0, 1.0, 2.0]))
        tensor([1.0000, 0.0000, 0.5000])
    """
    lowest = values.min()
    spread = values.max() - lowest
    return torch.where(spread > 0, (values - lowest) / spread, 0.0)


def mean_of_largest(maps: Tensor, count: int) -> Tensor:
    """Mean of the largest values of each map.

    Args:
        maps: (B, H, W).
        count: number of values; all of them if a map has fewer.

    Returns:
        (B,).

    Example:
        >>> mean_of_largest(torch.tensor([[[1.0, 4.0], [2.0, 3.0]]]), 2)
        tensor([3.5000])
    """
    values = maps.flatten(1)
    return values.topk(min(count, values.shape[1]), dim=1).values.mean(dim=1)


def in_parts(
    function: Callable[[Tensor], tuple[Tensor, ...]], batch: Tensor, at_once: int
) -> tuple[Tensor, ...]:
    """Applies a function to a few elements of a batch at a time.

    Results are written into their final place, so that they are in memory once, not twice as with
    `torch.cat`. An exporter gets the whole batch, because the number of parts would become part of its graph.

    Args:
        function: maps (M, ...) to tensors (M, ...).
        batch: (B, ...), B of 1 or more.
        at_once: M, number of elements at a time; the last call may have fewer.

    Returns:
        Tensors (B, ...).

    Example:
        >>> in_parts(lambda part: (part, 2 * part), torch.arange(3), at_once=2)
        (tensor([0, 1, 2]), tensor([0, 2, 4]))
    """
    if torch.compiler.is_compiling():
        return function(batch)
    first = function(batch[:at_once])
    if len(batch) <= at_once:
        return first
    whole = tuple(part.new_empty(len(batch), *part.shape[1:]) for part in first)
    for start in range(0, len(batch), at_once):
        rows = slice(start, start + at_once)
        for kept, part in zip(whole, function(batch[rows]) if start else first, strict=True):
            kept[rows] = part
    return whole
