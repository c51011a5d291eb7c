"""Comparisons with the golden data, at the tolerances that come with them."""

from __future__ import annotations

import torch

LEARNING_RATE = 1e-3


def close(found, expected, rtol=0.0, atol=0.0):
    torch.testing.assert_close(found.detach(), torch.as_tensor(expected), rtol=rtol, atol=atol)


def near(found, expected):
    """The tolerance for features: relative 1e-4, absolute 2e-5 of the largest value."""
    close(found, expected, rtol=1e-4, atol=2e-5 * float(abs(expected).max()))


def adam(parameters):
    """The optimiser of the AnomalyCLIP family."""
    return torch.optim.Adam(parameters.values(), lr=LEARNING_RATE, betas=(0.5, 0.999))


def check_gradients(parameters, expected, prefix, half):
    """Gradients that pass through half precision are wider of the mark."""
    for name, parameter in parameters.items():
        gradient = expected[f"{prefix}.{name}"]
        through_half = half and name.startswith("compound")
        close(parameter.grad, gradient, atol=(2e-3 if through_half else 1e-4) * abs(gradient).max())


def check_parameters(parameters, expected, prefix, steps):
    """After Adam steps, one entry in a hundred may be out: there the gradient was rounding noise."""
    found = torch.cat([parameter.detach().flatten() for parameter in parameters.values()])
    right = torch.cat([torch.as_tensor(expected[f"{prefix}.{name}"]).flatten() for name in parameters])
    differences = (found - right).abs()
    assert (differences > (1e-5 if steps == 1 else 1e-4)).float().mean() <= 0.01
    assert differences.max() <= 2 * steps * LEARNING_RATE
