"""DINOv2 through transformers, as a small random network of the real layout."""

from __future__ import annotations

import builtins

import pytest
import torch

from zsad.errors import MissingExtraError, WeightsError
from zsad.methods.functional import dinov2


@pytest.fixture
def small_network(tmp_path, monkeypatch):
    """A folder with a small random DINOv2, in the place of the real one."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    network = transformers.Dinov2WithRegistersModel(config).eval()
    network.save_pretrained(tmp_path)
    monkeypatch.setattr(dinov2, "REPOSITORY", str(tmp_path))
    return network


@pytest.mark.usefixtures("no_network")
def test_patches_follow_the_final_norm(small_network):
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = dinov2.DinoV2(14)(images)
        tokens = small_network(pixel_values=images).last_hidden_state
    assert found.shape == (2, 24, 4, 4)
    torch.testing.assert_close(found.flatten(2).mT, tokens[:, 1 + small_network.config.num_register_tokens :])


def test_another_patch_size_gives_as_many_patches(small_network):
    with torch.no_grad():
        assert dinov2.DinoV2(16)(torch.zeros(1, 3, 80, 80)).shape == (1, 24, 5, 5)


def test_the_network_is_loaded_once_and_is_no_part_of_the_method(small_network, monkeypatch):
    loads = []
    load = dinov2.load_network
    monkeypatch.setattr(dinov2, "load_network", lambda: loads.append(1) or load())
    network = dinov2.DinoV2(14)
    assert not loads
    for _ in range(2):
        network(torch.zeros(1, 3, 28, 28))
    assert len(loads) == 1
    assert not isinstance(network, torch.nn.Module)


def test_a_network_that_is_not_there_is_named(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setenv("ZSAD_OFFLINE", "1")
    monkeypatch.setattr(dinov2, "REPOSITORY", "nobody/nothing")
    with pytest.raises(WeightsError, match=r"DINOv2 from hf-hub:nobody/nothing.*detector\.method\.vfm"):
        dinov2.load_network()


def test_transformers_is_named_where_it_is_missing(monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name == "transformers":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install 'zsad\[transformers\]'"):
        dinov2.load_network()
