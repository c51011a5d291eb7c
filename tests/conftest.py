"""Fixtures for the whole suite: small CLIPs with random weights, and the numbers of the authors' own code."""

from __future__ import annotations

import importlib.util
import os
import socket
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from zsad.backbones.clip import CLIP, ClipConfig, TextConfig, VisionConfig
from zsad.types import WeightRecord

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # threads of several workers on the same cores wait for each other

collect_ignore = ["helpers"]  # imported by tests, none themselves
GOLDEN = Path(__file__).parent / "golden"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@lru_cache(maxsize=1)
def _golden_weights():
    """The random weights on which the golden data were made; the module is data from elsewhere, not ours."""
    spec = importlib.util.spec_from_file_location("golden_tiny_clip", GOLDEN / "tiny_clip.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.tiny_clip_state_dict()


def build_golden_clip(activation="quick_gelu"):
    """CLIP with the weights of tests/golden/tiny_clip.py: 24 + 12 blocks, 56 pixels, patch 14."""
    module, state = _golden_weights()
    config = ClipConfig(
        VisionConfig(
            module.RESOLUTION, module.PATCH, module.VISION_WIDTH, module.VISION_LAYERS, module.VISION_HEADS
        ),
        TextConfig(module.TEXT_WIDTH, module.TEXT_LAYERS, module.TEXT_HEADS),
        module.EMBED,
        activation,
    )
    record = WeightRecord("golden", "tests", module.RESOLUTION, CLIP_MEAN, CLIP_STD, activation, "none")
    clip = CLIP(config, record)
    clip.load_state_dict(state)
    return clip.eval()


def build_small_clip(seed=0, width=32, layers=3, text_layers=2, embed_dim=16, image_size=32, name="small"):
    """A random CLIP that costs next to nothing: patches of 8 pixels, a factorised token table."""
    config = ClipConfig(
        VisionConfig(image_size, 8, width, layers, 2),
        TextConfig(width, text_layers, 2, embedding_rank=8),
        embed_dim,
        "gelu",
    )
    record = WeightRecord(name, "tests", image_size, CLIP_MEAN, CLIP_STD, "gelu", "none")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CLIP(config, record).eval()


@pytest.fixture(scope="session")
def golden_inputs():
    """images (3, 3, 70, 70), masks (3, 1, 70, 70) and labels (3,) of the golden data."""
    return _golden_weights()[0].tiny_inputs()


@pytest.fixture(scope="session")
def make_golden_clip():
    """The function `build_golden_clip`."""
    return build_golden_clip


@pytest.fixture(scope="session")
def make_small_clip():
    """The function `build_small_clip`."""
    return build_small_clip


@pytest.fixture
def golden_clip():
    """A fresh copy for each test."""
    return build_golden_clip()


@pytest.fixture
def small_clip():
    """A fresh random CLIP, the same in each test."""
    return build_small_clip()


@pytest.fixture(scope="session")
def golden_path():
    """The folder of the golden files."""
    return GOLDEN


@pytest.fixture(scope="session")
def golden():
    """Reads a golden file by name: golden("winclip") is a mapping of arrays."""
    return lambda name: np.load(GOLDEN / f"{name}.npz")


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to open a socket fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def uint8_images():
    """Three uint8 images of different, odd sizes."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((40, 33), (32, 32), (17, 61))]
