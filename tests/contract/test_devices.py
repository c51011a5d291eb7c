"""Every method makes all its tensors on the device of its network, and never waits for their values.

torch's FakeTensorMode holds tensors on a "cuda" device that is not there: an operation that mixes devices, or
that reads a value on the host, is an error.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import zsad
from zsad.methods import _registry as registry
from zsad.methods.base import Support

METHODS = zsad.list_methods()
LEARNED = [name for name in METHODS if registry.method_class(name).INFO.needs_training]


def on_pretended_gpu(method, mode):
    """Replaces all tensors of a module by pretended ones on a GPU; call it outside the mode."""
    for module in method.modules():
        for kept in (module._parameters, module._buffers):
            for name, tensor in list(kept.items()):
                if tensor is None:
                    continue
                fake = mode.from_tensor(tensor.detach())
                with mode:
                    moved = fake.to("cuda")
                    if isinstance(tensor, torch.nn.Parameter):
                        moved = torch.nn.Parameter(moved, requires_grad=tensor.requires_grad)
                kept[name] = moved
    return method


@pytest.fixture
def pretended(make_small_clip):
    """Makes a method on a pretended GPU, and images there."""

    def build(name):
        torch.manual_seed(3)
        method = zsad.load(name, make_small_clip(), "fresh", device="cpu").method
        mode = FakeTensorMode()
        on_pretended_gpu(method, mode)
        with mode:
            images = torch.randn(4, 3, 32, 32, device="cuda")
        return method, images, mode

    return build


def names_if_used(name):
    return (
        ("carpet", "screw", "carpet", "nut")
        if registry.method_class(name).INFO.uses_class_names
        else ("object",)
    )


@pytest.mark.parametrize("name", METHODS)
def test_scoring_on_a_pretended_gpu(name, pretended):
    method, images, mode = pretended(name)
    with mode, torch.no_grad():
        raw = method.score(method.features(images), method.prepare(names_if_used(name)))
    assert raw.scores.device.type == raw.maps.device.type == "cuda"
    assert raw.scores.shape == (4,)


@pytest.mark.parametrize("name", METHODS)
def test_support_on_a_pretended_gpu(name, pretended):
    method, images, mode = pretended(name)
    info = method.INFO
    support = Support(
        normal=images if info.references == "own" else None,
        unlabelled=images if method.MOST_COMPANIONS else None,
    )
    with mode, torch.no_grad():
        raw = method.score(method.features(images), method.prepare(names_if_used(name), support))
    assert raw.maps.device.type == "cuda"


@pytest.mark.parametrize("name", LEARNED)
def test_loss_on_a_pretended_gpu(name, pretended):
    method, images, mode = pretended(name)
    with mode:
        masks = torch.zeros(4, 32, 32, device="cuda")
        labels = torch.zeros(4, dtype=torch.int64, device="cuda")
        classes = names_if_used(name) if len(names_if_used(name)) > 1 else None
        terms = method.loss(images, masks, labels, classes)
    assert all(term.device.type == "cuda" for term in terms.values())
