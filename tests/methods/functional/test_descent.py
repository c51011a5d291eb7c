"""The optimiser of test-time adaptation, against torch's."""

from __future__ import annotations

import torch

from zsad.methods.functional.descent import AdamW


def test_equals_torchs_own():
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    target = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    own, reference = AdamW([ours], 0.1), torch.optim.AdamW([theirs], lr=0.1)
    for _ in range(20):
        own.take(torch.autograd.grad((ours - target).square().sum(), [ours]))
        reference.zero_grad()
        (theirs - target).square().sum().backward()
        reference.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert (ours - start).abs().max() > 0.5
