"""The resize of the graph gives Pillow's very levels, for images of any size."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zsad.deploy.pillow_resize import preparing_graph
from zsad.images.preparing import Preparation, prepare

SIDES = (32, 320)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BORDER_CASES = [(1, 1), (1, 4000), (4000, 1), (300, 200), (286, 114), (32, 32), (96, 64), (97, 64), (33, 700)]


@pytest.fixture(scope="module")
def sessions():
    """A session for each side of the network's input."""
    found = {}
    for side in SIDES:
        model = preparing_graph(Preparation(side, MEAN, STD), opset=20, ir_version=10)
        found[side] = onnxruntime.InferenceSession(model.SerializeToString())
    return found


def check(sessions, side, height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if seed % 3 == 0:  # black and white overshoot
        image = np.where(image > 127, np.uint8(255), np.uint8(0))
    images, size = sessions[side].run(["images", "size"], {"image": image})
    np.testing.assert_array_equal(images[0], prepare(Image.fromarray(image), Preparation(side, MEAN, STD)))
    assert size.tolist() == [height, width]


lengths = st.one_of(st.integers(1, 64), st.integers(1, 900))
long_lengths = st.one_of(st.integers(1, 100), st.integers(1, 4000))


@settings(max_examples=20, deadline=None)
@given(height=lengths, width=lengths, seed=st.integers(0, 99))
def test_equals_pillow(sessions, height, width, seed):
    check(sessions, 32, height, width, seed)


@pytest.mark.parametrize("size", BORDER_CASES, ids=str)
def test_border_cases(sessions, size):
    check(sessions, 32, *size, seed=1)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(height=long_lengths, width=long_lengths, seed=st.integers(0, 99), side=st.sampled_from(SIDES))
def test_equals_pillow_on_two_hundred_shapes(sessions, height, width, seed, side):
    check(sessions, side, height, width, seed)


@pytest.mark.parametrize(("installed", "begins"), [("12.2.0", False), ("13.0.0", True)])
def test_the_order_is_that_of_the_installed_pillow(monkeypatch, installed, begins):
    """Columns first needs an image that shrinks far more in height than in width."""
    import PIL

    monkeypatch.setattr(PIL, "__version__", installed)
    model = preparing_graph(Preparation(8, MEAN, STD), opset=20, ir_version=10)
    image = np.random.default_rng(0).integers(0, 256, (200, 20, 3), dtype=np.uint8)
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(["images"], {"image": image})
    rows = Image.fromarray(image).resize((8, 200), Image.Resampling.BICUBIC)
    columns = Image.fromarray(image).resize((20, 8), Image.Resampling.BICUBIC)
    wanted = (columns if begins else rows).resize((8, 8), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(found[0], prepare(wanted, Preparation(8, MEAN, STD)))
