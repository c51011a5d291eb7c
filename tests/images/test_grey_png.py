"""16-bit grey PNG files against Pillow, which reads them back."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from zsad.images import grey_png
from zsad.images.grey_png import write_grey_png


def encoded(values: np.ndarray, **texts: str) -> bytes:
    file = io.BytesIO()
    write_grey_png(file, values, texts)
    return file.getvalue()


def decoded(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "I;16"
        return np.asarray(image)


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint16, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_pillow_reads_the_same_values(values):
    assert np.array_equal(decoded(encoded(values)), values)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_blocks_of_rows_join(rows, monkeypatch):
    monkeypatch.setattr(grey_png, "_ROWS_AT_A_TIME", rows)
    values = np.random.default_rng(rows).integers(0, 65536, (10, 7), dtype=np.uint16)
    assert np.array_equal(decoded(encoded(values)), values)


def test_a_view_that_is_not_contiguous():
    values = np.arange(600, dtype=np.uint16).reshape(20, 30)[::2, ::-3]
    assert np.array_equal(decoded(encoded(values)), values)


def test_texts_stand_before_the_pixels():
    content = encoded(np.zeros((3, 4), np.uint16), first="one", second="0.0 4.0")
    with Image.open(io.BytesIO(content)) as image:  # pixels have not been read
        assert image.info == {"first": "one", "second": "0.0 4.0"}
    assert content.index(b"0.0 4.0") < content.index(b"IDAT")


def test_checksums_hold():
    with Image.open(io.BytesIO(encoded(np.ones((5, 5), np.uint16), key="text"))) as image:
        image.verify()


def test_smooth_maps_are_no_larger_than_pillow_s():
    y, x = np.mgrid[:256, :256] / 256
    values = (20000 * (np.sin(5 * x) + np.cos(7 * y) + 2) / 2).astype(np.uint16)
    pillow = io.BytesIO()
    Image.fromarray(values).save(pillow, format="PNG", compress_level=3)
    assert len(encoded(values)) < 1.1 * len(pillow.getvalue())
