"""Distributions of prompt vectors: a learnt Gaussian whose samples pass through planar flows.

Parameter names are those of the files of Bayes-PFL's authors.

Source: Bayes-PFL (2503.10080), sections 3.2 and 3.3; planar flows: Rezende and Mohamed 2015 (1505.05770).

Shapes: n rows (images, or 1 where the distribution does not depend on the image), R draws, F width of what a
distribution is computed from, D width of the vectors, H inner width, K flows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

DETERMINANT_SMOOTHING = 1e-5


@dataclass(frozen=True)
class FlowSample:
    """Samples of a distribution.

    Attributes:
        vectors: (n, R, D).
        log_ratio: (n, R) log q(z_0) - log p(z_K), both without their constants; p is the standard normal.
        log_determinant: (n, R) logarithms of the volume changes, summed over the flows.
    """

    vectors: Tensor
    log_ratio: Tensor
    log_determinant: Tensor

    def divergence(self, images: int) -> Tensor:
        """Scalar estimate of the Kullback-Leibler divergence from p.

        KL = mean( log q - log p ) - (1/B) sum( log |det| )

        The authors divide by the number of images B also where a distribution has a single row.

        Args:
            images: B.
        """
        return self.log_ratio.mean() - self.log_determinant.sum() / images


class ThreeLayers(nn.Module):
    """Three linear layers with Softplus between them, F -> H -> H -> D."""

    def __init__(self, inputs: int, inner: int, outputs: int) -> None:
        super().__init__()
        self.module = nn.Sequential(
            nn.Linear(inputs, inner),
            nn.Softplus(),
            nn.Linear(inner, inner),
            nn.Softplus(),
            nn.Linear(inner, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, F) -> (n, D)."""
        out: Tensor = self.module(x)
        return out


class GaussianEncoder(nn.Module):
    """Mean and spread of a Gaussian with independent entries, from a vector."""

    def __init__(self, inputs: int, inner: int, outputs: int) -> None:
        super().__init__()
        self.weight_mean = ThreeLayers(inputs, inner, outputs)
        self.weight_log_variance = ThreeLayers(inputs, inner, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, F) to mean and logarithm of the variance, both (n, D).

        The authors' encoder returns exp(v / 2) of its output v, which would be the standard deviation, and
        their sampler takes it for the variance. The logarithm of that variance is v / 2.
        """
        return self.weight_mean(x), self.weight_log_variance(x) / 2


class AmortisedFlows(nn.Module):
    """Planar flows whose parameters are computed from a vector, for each row its own."""

    def __init__(self, inputs: int, width: int, flows: int) -> None:
        super().__init__()
        self.amor_u = nn.Linear(inputs, flows * width)
        self.amor_w = nn.Linear(inputs, flows * width)
        self.amor_b = nn.Linear(inputs, flows)

    def forward(self, x: Tensor, encoder: GaussianEncoder, noise: Tensor) -> FlowSample:
        """Samples for rows.

        Args:
            x: (n, F).
            encoder: the Gaussian before the flows.
            noise: (1 or n, R, D) standard normal numbers; zeros for the mean.
        """
        shape = (x.shape[0], self.amor_b.out_features, -1)
        u, w = (layer(x).reshape(shape) for layer in (self.amor_u, self.amor_w))
        mean, log_variance = encoder(x)
        return flow_sample(mean, log_variance, noise, u, w, self.amor_b(x))


class FreeFlows(nn.Module):
    """Planar flows with learnt parameters, and the learnt vector that the Gaussian is computed from.

    Attributes:
        state: (1, D) the vector; normal with standard deviation 1 at first, like the other parameters.
    """

    def __init__(self, width: int, flows: int) -> None:
        super().__init__()
        self.amor_u = nn.Parameter(torch.randn(1, flows, width, 1))
        self.amor_w = nn.Parameter(torch.randn(1, flows, 1, width))
        self.amor_b = nn.Parameter(torch.randn(1, flows, 1, 1))
        self.state = nn.Parameter(torch.randn(1, width))

    def forward(self, encoder: GaussianEncoder, noise: Tensor) -> FlowSample:
        """Samples of one row.

        Args:
            encoder: the Gaussian before the flows.
            noise: (1, R, D) standard normal numbers; zeros for the mean.
        """
        u, w, b = self.amor_u[..., 0], self.amor_w[..., 0, :], self.amor_b[..., 0, 0]
        mean, log_variance = encoder(self.state)
        return flow_sample(mean, log_variance, noise, u, w, b)


def flow_sample(
    mean: Tensor, log_variance: Tensor, noise: Tensor, u: Tensor, w: Tensor, b: Tensor
) -> FlowSample:
    """A Gaussian sample, sent through planar flows one after the other.

    z_0 = mean + exp(log_variance / 2) noise,   z <- z + u tanh(w . z + b)
    log |det| = log( |1 + (1 - tanh^2) w . u| + 1e-5 )

    Args:
        mean: (n, D).
        log_variance: (n, D).
        noise: (1 or n, R, D).
        u: (n, K, D).
        w: (n, K, D).
        b: (n, K).

    Example:
        >>> one, none = torch.ones(1, 1, 1), torch.zeros(1, 0, 1)
        >>> flow_sample(one[0], 0 * one[0], 2 * one, none, none, none[..., 0]).vectors.flatten()
        tensor([3.])
    """
    variance = log_variance[:, None]
    z = mean[:, None] + torch.exp(variance / 2) * noise
    log_q = -0.5 * (variance + (z - mean[:, None]) ** 2 * torch.exp(-variance)).sum(dim=-1)
    log_determinant = torch.zeros_like(log_q)
    for outward, inward, shift in zip(u.unbind(1), w.unbind(1), b.unbind(1), strict=True):
        bend = torch.tanh((z * inward[:, None]).sum(dim=-1) + shift[:, None])  # (n, R)
        z = z + outward[:, None] * bend[..., None]
        change = 1 + (1 - bend**2) * (inward * outward).sum(dim=-1)[:, None]
        log_determinant = log_determinant + torch.log(change.abs() + DETERMINANT_SMOOTHING)
    return FlowSample(z, log_q + 0.5 * (z**2).sum(dim=-1), log_determinant)
