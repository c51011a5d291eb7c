"""Test-time adaptation against the same training written out."""

from __future__ import annotations

import pytest
import torch

from zsad.methods.functional.adaptation import (
    Adaptation,
    Spoiled,
    TrainingSet,
    adapt_patches,
    spoiled_copies,
)


def close(found, expected, atol=1e-5):
    torch.testing.assert_close(found.double(), torch.as_tensor(expected).double(), rtol=0, atol=atol)


def unit_vectors(*shape, seed=0):
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return vectors / vectors.norm(dim=-1, keepdim=True)


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def naive_adaptation(patches, text, training, settings):
    """The same training with the losses and AdamW written out."""
    own, text, tokens = (tensor.double() for tensor in (patches, text, training.patch_features))
    width = own.shape[1]
    learnt = [torch.eye(width).double(), torch.zeros(width).double()]
    moments = [[torch.zeros_like(value), torch.zeros_like(value)] for value in learnt]
    for step in range(1, settings.steps + 1):
        weight, bias = (value.clone().requires_grad_() for value in learnt)
        focal, overlaps = [], []
        for copy in range(len(tokens)):
            sums = {"abnormal": [0, 0, 0], "normal": [0, 0, 0]}
            for p in range(tokens.shape[1]):
                if not training.trusted[copy, p]:
                    continue
                z = (tokens[copy, p] + weight @ tokens[copy, p] + bias) / 2
                chance = torch.softmax(text @ (z / z.norm()) / settings.temperature, dim=0)
                label = float(training.labels[copy, p])
                soft = min(max(label, 1e-5), 1 - 1e-5)
                right = (1 - soft) * chance[0] + soft * chance[1] + 1e-5
                focal.append(-((1 - right) ** 2) * torch.log(right))
                for name, guess, truth in (("abnormal", chance[1], label), ("normal", chance[0], 1 - label)):
                    sums[name] = [
                        old + new for old, new in zip(sums[name], (guess * truth, guess, truth), strict=True)
                    ]
            overlaps.append([(2 * both + 1) / (a + b + 1) for both, a, b in sums.values()])
        loss = sum(focal) / len(focal)
        for number in range(2):
            loss = loss + 1 - sum(pair[number] for pair in overlaps) / len(overlaps)
        for number, gradient in enumerate(torch.autograd.grad(loss, [weight, bias])):
            first = moments[number][0] = 0.9 * moments[number][0] + 0.1 * gradient
            second = moments[number][1] = 0.999 * moments[number][1] + 0.001 * gradient**2
            root = (second / (1 - 0.999**step)).sqrt() + 1e-8
            decayed = learnt[number] * (1 - 0.01 * settings.learning_rate)
            learnt[number] = decayed - settings.learning_rate * first / (1 - 0.9**step) / root
    return torch.stack([(z + learnt[0] @ z + learnt[1]) / 2 for z in own])


def test_adaptation():
    settings = Adaptation(steps=3, learning_rate=1e-2, temperature=0.07)
    generator = torch.Generator().manual_seed(2)
    labels = (torch.rand(3, 9, generator=generator) > 0.7).float()
    trusted = (torch.rand(3, 9, generator=generator) > 0.3) | (labels > 0)
    training = TrainingSet(unit_vectors(3, 9, 6), labels, trusted)
    patches, text = unit_vectors(4, 6, seed=3), unit_vectors(2, 6, seed=4)
    found = adapt_patches(patches, text, training, settings)
    close(found, naive_adaptation(patches, text, training, settings), atol=1e-4)
    with torch.inference_mode():
        inside = adapt_patches(patches.clone(), text.clone(), training, settings)
    assert torch.equal(inside, found)


def test_spoiled_copies(small_clip, images):
    record = small_clip.record
    image = images[0].clamp(-1.5, 1.5)
    copies, masks = spoiled_copies(image, record, 3, seed=1)
    again, _ = spoiled_copies(image, record, 3, seed=1)
    assert torch.equal(copies, again)
    assert copies.shape == (3, 3, 32, 32)
    assert masks.flatten(1).any(dim=1).all()
    assert not torch.equal(masks[0], masks[1])
    changed = (copies - image).abs().amax(dim=1) > 0.05  # more than rounding to bytes
    assert changed.flatten(1).any(dim=1).all()
    assert (changed & (masks > 0)).flatten(1).any(dim=1).all()


def test_trusted_patches():
    """Outside the drawn anomaly only what the joint map finds unsuspicious is taught to be normal."""
    labels = torch.zeros(2, 1, 10)
    labels[0, 0, 9] = 1
    spoiled = Spoiled(unit_vectors(2, 1, 10, 4), labels)
    maps = torch.stack([torch.arange(10.0), torch.arange(10.0).flip(0)])
    training = spoiled.training_set([1, 0], maps)
    assert training.trusted.tolist() == [[False] * 2 + [True] * 8, [True] * 8 + [False, True]]
    assert torch.equal(training.patch_features, spoiled.patch_features[[1, 0], 0])
    assert training.labels.tolist() == [[0] * 10, [0] * 9 + [1]]
