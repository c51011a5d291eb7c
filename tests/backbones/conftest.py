"""The small random CLIP of the golden data, as a network of this project."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.backbones.clip import CLIP, ClipConfig, TextConfig, VisionConfig

if TYPE_CHECKING:
    from zsad.types import Activation

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def tiny_state_dict() -> Mapping[str, Tensor]:
    """The golden data's weights, under OpenAI's names."""
    spec = importlib.util.spec_from_file_location("tiny_clip", GOLDEN / "tiny_clip.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.tiny_clip_state_dict()


@pytest.fixture(scope="session")
def golden_clip(tiny_state_dict: Mapping[str, Tensor]) -> Callable[..., CLIP]:
    """Builds the golden network with an activation; made on the meta device, as the loaders do."""

    def build(activation: Activation = "quick_gelu") -> CLIP:
        config = ClipConfig(VisionConfig(56, 14, 128, 24, 2), TextConfig(64, 12, 1), 64, activation)
        with torch.device("meta"):
            clip = CLIP(config)
        clip.load_state_dict(tiny_state_dict, assign=True)
        return clip.eval().requires_grad_(False)

    return build


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Mapping[str, NDArray[np.generic]]]:
    """Opens one file of golden arrays by its name."""
    return lambda name: np.load(GOLDEN / name)


@pytest.fixture
def small_clip() -> CLIP:
    """A CLIP of some thousand weights: 3 image blocks, patch 8, 32 pixels; 2 text blocks, 64 tokens."""
    torch.manual_seed(0)
    config = ClipConfig(VisionConfig(32, 8, 32, 3, 2), TextConfig(24, 2, 2, 12, 64), 16, "quick_gelu")
    return CLIP(config).eval().requires_grad_(False)
