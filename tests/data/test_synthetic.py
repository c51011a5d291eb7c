"""Synthetic images depend on seed and index only, have exact masks, and need no files."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from zsad.data.synthetic import (
    CAPTIONS,
    DEFECTS,
    SCENES,
    Materials,
    SyntheticConfig,
    add_defect,
    generate,
)
from zsad.data.synthetic.noise import blur_field, fractal_noise, grow
from zsad.errors import ConfigError, DataError, ZsadError

SMALL = SyntheticConfig(size=96)
OVERFLOWING = frozenset({"fibre", "powder", "droplet"})  # they may lie across the edge of their region
TOOL = Path(__file__).parents[2] / "tools" / "collect_materials.py"


@pytest.fixture(scope="module")
def materials() -> Materials:
    return Materials.procedural()


def surface(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = 128 + 10 * fractal_noise(rng, height, width, 12)
    return np.repeat(np.clip(field, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_same_seed_and_index_give_the_same_image(materials):
    for index in range(8):
        first = generate(index, materials, SMALL, seed=3)
        generate(index + 100, materials, SMALL, seed=3)
        again = generate(index, Materials.procedural(), SMALL, seed=3)
        assert np.array_equal(first.image, again.image)
        assert np.array_equal(first.mask, again.mask)
        assert (first.caption, first.object_name) == (again.caption, again.object_name)
        assert first.defect == again.defect


def test_other_seeds_and_indices_give_other_images(materials):
    image = generate(0, materials, SMALL, seed=3).image
    assert not np.array_equal(image, generate(1, materials, SMALL, seed=3).image)
    assert not np.array_equal(image, generate(0, materials, SMALL, seed=4).image)


@pytest.mark.parametrize("scene", sorted(SCENES))
def test_label_mask_and_words_agree(materials, scene):
    config = SyntheticConfig(size=80, scenes={scene: 1.0})
    labels = []
    for index in range(12):
        image = generate(index, materials, config, seed=5)
        labels.append(image.label)
        assert image.image.shape == (80, 80, 3)
        assert image.image.dtype == np.uint8
        assert image.mask.shape == (80, 80)
        assert image.mask.dtype == np.bool_
        assert image.label == int(image.mask.any())
        assert (image.defect == "good") == (image.label == 0)
        assert image.defect == "good" or image.defect in CAPTIONS
        assert image.object_name in image.caption
    assert set(labels) == {0, 1}


def test_fractions_of_anomalous_images(materials):
    for fraction in (0.0, 1.0):
        config = SyntheticConfig(size=48, anomalous_fraction=fraction)
        labels = [generate(index, materials, config, seed=1).label for index in range(10)]
        assert labels == [int(fraction)] * 10


def test_masks_are_small_and_large(materials):
    config = SyntheticConfig(size=96, anomalous_fraction=1.0)
    areas = np.array([generate(index, materials, config, seed=2).mask.mean() for index in range(60)])
    assert areas.min() < 0.004
    assert areas.max() > 0.05
    assert 0.001 < np.median(areas) < 0.06


@pytest.mark.parametrize("kind", sorted(DEFECTS))
def test_defect_changes_pixels_inside_its_mask_only(kind):
    image = surface(160, 144)
    before = image.copy()
    leaks = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        result, mask, name = add_defect(image, rng, kind=kind, fraction=0.01)
        assert name == kind
        assert mask.any()
        assert np.array_equal(image, before)
        change = np.abs(result.astype(int) - image.astype(int)).max(axis=2)
        assert change[mask].mean() >= 8
        far = ~grow(mask, 6)
        leaks.append(change[far].sum() / change.sum())
    assert np.mean(leaks) < (0.1 if kind in OVERFLOWING else 0.01)


@pytest.mark.parametrize("kind", sorted(DEFECTS))
def test_defect_stays_in_its_region(kind):
    image = surface(128, 128)
    region = np.zeros((128, 128), dtype=bool)
    region[30:90, 40:100] = True
    for seed in range(3):
        rng = np.random.default_rng(seed)
        result, mask, _ = add_defect(image, rng, kind=kind, region=region, fraction=0.02)
        assert mask.any()
        if kind not in OVERFLOWING:
            assert not mask[~region].any()
            assert np.array_equal(result[~region], image[~region])


@pytest.mark.parametrize("kind", sorted(DEFECTS))
@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (9, 3), (33, 61)])
def test_no_kind_fails_on_tiny_and_odd_images(kind, shape):
    rng = np.random.default_rng(0)
    for image in (surface(*shape), np.zeros((*shape, 3), np.uint8), np.full((*shape, 3), 255, np.uint8)):
        result, mask, _ = add_defect(image, rng, kind=kind)
        assert result.shape == image.shape
        assert result.dtype == np.uint8
        assert mask.shape == shape
        assert mask.any()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 2**32 - 1))
def test_add_defect_on_any_size(height, width, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    region = rng.random((height, width)) < 0.5
    result, mask, kind = add_defect(image, rng, region=region)
    assert kind in DEFECTS
    assert result.shape == image.shape
    assert mask.any()
    assert (result != image).any(axis=2)[mask].any()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(size=st.integers(32, 130), seed=st.integers(0, 2**32 - 1), index=st.integers(0, 10**9))
def test_generate_at_any_size(size, seed, index):
    image = generate(index, Materials.procedural(), SyntheticConfig(size=size), seed)
    assert image.image.shape == (size, size, 3)
    assert image.label == int(image.mask.any())


def test_foreign_image_shows_through():
    image = np.full((64, 64, 3), 40, np.uint8)
    for seed in range(8):
        bright, dark = (
            add_defect(
                image,
                np.random.default_rng(seed),
                kind="foreign_texture",
                foreign=np.full_like(image, level),
                fraction=0.1,
            )
            for level in (220, 0)
        )
        assert bright[0][bright[1]].mean() - dark[0][dark[1]].mean() > 40


def test_every_kind_has_words():
    assert set(DEFECTS) <= set(CAPTIONS)
    assert all(words for words in CAPTIONS.values())


def test_hard_normal_images_look_different_and_have_no_defect(materials):
    plain = SyntheticConfig(size=96, anomalous_fraction=0.0, camera=False)
    changed = 0
    for index in range(30):
        hard = generate(index, materials, replace(plain, hard_normals=1.0), seed=5)
        assert not hard.mask.any()
        assert hard.label == 0
        changed += not np.array_equal(hard.image, generate(index, materials, plain, seed=5).image)
    assert changed == 30


def test_wrong_arguments_are_named():
    image, rng = surface(20, 20), np.random.default_rng(0)
    with pytest.raises(ConfigError, match="did you mean 'scratch'"):
        add_defect(image, rng, kind="scrach")
    with pytest.raises(ConfigError, match="uint8"):
        add_defect(image.astype(np.float32), rng)
    with pytest.raises(ConfigError, match="region"):
        add_defect(image, rng, region=np.ones((3, 3), dtype=bool))
    with pytest.raises(ConfigError, match="foreign"):
        add_defect(image, rng, foreign=surface(3, 3))
    with pytest.raises(ConfigError, match="size"):
        SyntheticConfig(size=8)
    with pytest.raises(ConfigError, match="anomalous_fraction"):
        SyntheticConfig(anomalous_fraction=1.5)
    with pytest.raises(ConfigError, match=r"hard_normals lies in \[0, 1\]; got 2"):
        SyntheticConfig(hard_normals=2)
    with pytest.raises(ConfigError, match="did you mean 'surface'"):
        SyntheticConfig(scenes={"surfaces": 1.0})


def _folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part in ("textures", "objects", "scenes"):
        (tmp_path / part).mkdir()
    for number in range(3):
        Image.fromarray(surface(300, 280, number)).save(tmp_path / "textures" / f"metal__{number}.jpg")
        Image.fromarray(surface(128, 190, number)).save(tmp_path / "scenes" / f"scene__{number}.png")
        pixels = rng.integers(0, 256, (90, 70, 4), dtype=np.uint8)
        pixels[..., 3] = 0
        pixels[10:80, 10:60, 3] = 255
        Image.fromarray(pixels).save(tmp_path / "objects" / f"red-key__{number}.png")
    return tmp_path


def test_materials_from_a_folder(tmp_path):
    stock = Materials.from_folder(_folder(tmp_path))
    assert (len(stock.textures), len(stock.objects), len(stock.scenes)) == (3, 3, 3)
    names = {generate(index, stock, SMALL, seed=0).object_name for index in range(40)}
    assert {"metal", "red key"} <= names
    tight = Materials.from_folder(tmp_path, cache_bytes=1)
    for index in range(6):
        first, again = generate(index, stock, SMALL, seed=0), generate(index, tight, SMALL, seed=0)
        assert np.array_equal(first.image, again.image)


def test_materials_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="collect_materials"):
        Materials.from_folder(tmp_path)
    (tmp_path / "textures").mkdir()
    (tmp_path / "textures" / "broken__1.png").write_bytes(b"no image")
    stock = Materials.from_folder(tmp_path)
    only_photos = [np.random.default_rng(seed) for seed in range(9)]
    with pytest.raises(ZsadError, match="broken__1"):
        [stock.texture(rng, 64) for rng in only_photos]


def test_no_torch_is_imported():
    code = "import sys, zsad.data.synthetic; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_filters():
    rng = np.random.default_rng(0)
    mask = np.zeros((31, 31), dtype=bool)
    mask[15, 15] = True
    for pixels in range(8):
        assert grow(mask, pixels).sum() == (2 * pixels + 1) ** 2
        assert np.array_equal(grow(grow(mask, pixels), -pixels), mask)
    field = rng.random((60, 60), dtype=np.float32)
    for sigma in (0.7, 1.5, 4.0):
        blurred = blur_field(field, sigma)
        assert float(blurred.mean()) == pytest.approx(float(field.mean()), abs=0.005)
        expected = field.std() / (2 * sigma * np.sqrt(np.pi))  # a Gaussian filter on white noise
        assert float(blurred.std()) == pytest.approx(expected, rel=0.35)  # wide filters are approximations
    impulse = np.zeros((31, 31), dtype=np.float32)
    impulse[15, 15] = 1
    profile = blur_field(impulse, 1.5).sum(axis=0)
    assert profile.sum() == pytest.approx(1)
    assert np.sqrt(profile @ (np.arange(31) - 15.0) ** 2) == pytest.approx(1.5, rel=0.02)


def test_collecting_tool(tmp_path):
    package = tmp_path / "some-package" / "usr" / "share"
    (package / "doc").mkdir(parents=True)
    (package / "doc" / "copyright").write_text("free")
    rng = np.random.default_rng(0)
    for number, name in enumerate(["rusty_metal", "rusty_metal_norm", "twin"]):
        field = 120 + 25 * fractal_noise(np.random.default_rng(number % 2), 300, 300, 20)
        image = np.clip(field[..., None] * [1.0, 0.9, 0.8] + rng.normal(0, 3, (300, 300, 3)), 0, 255)
        Image.fromarray(image.astype(np.uint8)).save(package / f"{name}.png")
    Image.new("RGB", (300, 300), "red").save(package / "plain.png")
    for out in ("one", "two"):
        command = [sys.executable, str(TOOL), "--out", str(tmp_path / out), str(tmp_path / "some-package")]
        subprocess.run(command, check=True, capture_output=True)
    records = json.loads((tmp_path / "one" / "sources.json").read_text())
    assert [record["source"] for record in records] == ["usr/share/rusty_metal.png"]
    assert records[0]["file"].startswith("textures/metal__")
    assert records[0]["licence"] == "usr/share/doc/copyright"
    assert (tmp_path / "one" / "sources.json").read_text() == (tmp_path / "two" / "sources.json").read_text()
