"""Colours, overlays, masks, contours and the files of a prediction."""

import numpy as np
import pytest
from PIL import Image

from zsad.errors import ConfigError, ImageReadError
from zsad.images.colours import colour_table, map_from_uint16, map_to_uint16
from zsad.images.drawing import draw_contour, draw_mask, heat_map, mask_image, overlay, thumbnail
from zsad.images.saving import read_map
from zsad.types import Prediction


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def anomaly_map():
    return np.linspace(0, 1, 2400, dtype=np.float32).reshape(40, 60)


def lightness(colours):
    """Returns the CIELAB lightness of (N, 3) uint8 sRGB colours, written independently of the module."""
    unit = colours / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return 116 * np.cbrt(np.maximum(luminance, 0.008856)) - 16


def test_lightness_of_the_colours_rises_steadily():
    steps = np.diff(lightness(colour_table()))
    assert steps.min() > -0.1  # rounding to 8 bits may lose a little
    assert lightness(colour_table())[-1] - lightness(colour_table())[0] > 70
    assert steps.max() < 1.0  # no step that would look like an edge in the map


def test_colour_table_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        colour_table()[0] = 0


def test_heat_map_clips_to_its_range():
    values = np.array([[-5.0, 0.0, 2.0, 4.0, 99.0, np.nan]])
    colours = heat_map(values, (0, 4))
    table = colour_table()
    np.testing.assert_array_equal(colours[0], table[[0, 0, 128, 255, 255, 0]])


def test_overlay_leaves_normal_areas_as_they_are(image):
    drawn = np.asarray(overlay(image, np.zeros((40, 60), np.float32)))
    np.testing.assert_array_equal(drawn, image)


def test_overlay_grows_with_the_value():
    black = np.zeros((1, 5, 3), np.uint8)
    grey = np.asarray(overlay(black, np.array([[0, 0.25, 0.5, 0.75, 1.0]], np.float32))).sum(axis=2)[0]
    assert (np.diff(grey.astype(int)) > 0).all()


def test_overlay_has_a_fixed_scale_by_default(image):
    """A value looks the same in an image full of high values and in one without any."""
    low = np.full((40, 60), 0.3, np.float32)
    high = low.copy()
    high[20:] = 0.9
    first, second = np.asarray(overlay(image, low)), np.asarray(overlay(image, high))
    np.testing.assert_array_equal(first[:20], second[:20])


def test_overlay_at_full_strength_is_the_heat_map(image, anomaly_map):
    top = np.full_like(anomaly_map, 1.0)
    np.testing.assert_array_equal(np.asarray(overlay(image, top, strength=1.0)), heat_map(top))


def test_own_scale_is_printed_into_the_image():
    image = np.zeros((200, 300, 3), np.uint8)
    flat = np.full((200, 300), 0.2, np.float32)
    flat[:50, :50] = 0.3
    drawn = np.asarray(overlay(image, flat, scale="image"))
    assert (drawn[-8:, :100] == 255).any()  # white letters
    assert drawn[:50, :50].mean() > 60  # the small difference is stretched


def test_overlay_works_in_bands_of_rows_without_seams():
    tall = np.random.default_rng(0).integers(0, 256, (600, 3, 3), dtype=np.uint8)
    values = np.random.default_rng(1).random((600, 3), dtype=np.float32)
    whole = np.asarray(overlay(tall, values))
    for top in (250, 255, 256, 511):
        rows = slice(top, top + 3)
        np.testing.assert_array_equal(whole[rows], np.asarray(overlay(tall[rows], values[rows])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anomaly_map": np.zeros((5, 5))}, "not aligned"),
        ({"image": np.zeros((40, 60), np.uint8)}, r"\(H, W, 3\) uint8"),
        ({"image": np.zeros((40, 60, 3), np.float32)}, "float32"),
        ({"map_range": (1.0, 1.0)}, "second larger"),
        ({"map_range": (0.0, float("nan"))}, "finite"),
        ({"scale": "auto"}, "unknown scale 'auto'"),
        ({"strength": 1.5}, "between 0 and 1"),
    ],
)
def test_overlay_refuses(image, anomaly_map, change, message):
    arguments = {"image": image, "anomaly_map": anomaly_map, **change}
    with pytest.raises(ConfigError, match=message):
        overlay(**arguments)


def test_mask_tints_only_the_mask(image):
    mask = np.zeros((40, 60), bool)
    mask[5:10, 5:10] = True
    drawn = np.asarray(draw_mask(image, mask, colour=(255, 0, 0), alpha=1.0))
    assert (drawn[mask] == (255, 0, 0)).all()
    np.testing.assert_array_equal(drawn[~mask], image[~mask])
    assert set(np.unique(np.asarray(mask_image(mask)))) == {0, 255}


def test_contour_surrounds_the_mask_and_leaves_its_inside(image):
    mask = np.zeros((40, 60), bool)
    mask[15:25, 20:40] = True
    drawn = np.asarray(draw_contour(image, mask, colour=(1, 2, 3), width=2))
    np.testing.assert_array_equal(drawn[mask], image[mask])
    line = (drawn == (1, 2, 3)).all(axis=2)
    assert line.any()
    rows, columns = np.nonzero(line)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 27, 17, 42)
    np.testing.assert_array_equal(np.asarray(draw_contour(image, np.zeros_like(mask))), image)
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        draw_contour(image, mask, width=0)


@pytest.mark.parametrize("map_range", [(0.0, 1.0), (-2.0, 7.5)])
def test_sixteen_bits_keep_the_map(map_range):
    low, high = map_range
    values = np.random.default_rng(0).uniform(low, high, (30, 20)).astype(np.float32)
    packed = map_to_uint16(values, map_range)
    assert packed.dtype == np.uint16
    half_step = (high - low) / 65535 / 2
    assert np.abs(map_from_uint16(packed, map_range) - values).max() <= half_step * 1.01
    assert map_to_uint16(np.array([[low, high]]), map_range).tolist() == [[0, 65535]]


@pytest.fixture
def prediction(image, anomaly_map, tmp_path):
    return Prediction(0.7, anomaly_map * 3, image, tmp_path / "part.7.png", map_range=(0.0, 4.0))


def test_save_writes_overlay_and_map(prediction, tmp_path):
    files = prediction.save(tmp_path / "new" / "folder")
    assert [file.name for file in files] == ["part.7_overlay.jpg", "part.7_map.png"]
    assert Image.open(files[0]).size == Image.open(files[1]).size == (60, 40)
    assert Image.open(files[1]).mode == "I;16"
    assert np.abs(read_map(files[1]) - prediction.anomaly_map).max() < 4 / 65535


def test_save_writes_the_mask_when_there_is_a_threshold(prediction, image, tmp_path):
    calibrated = Prediction(0.7, prediction.anomaly_map, image, map_threshold=1.5)
    files = calibrated.save(tmp_path)
    assert [file.name for file in files] == ["image_overlay.jpg", "image_map.png", "image_mask.png"]
    mask = np.asarray(Image.open(files[2]))
    assert set(np.unique(mask)) == {0, 255}
    np.testing.assert_array_equal(mask == 255, calibrated.mask())


def test_save_writes_what_is_asked_for(prediction, tmp_path):
    (file,) = prediction.save(tmp_path, name="x", kinds=["npy"])
    np.testing.assert_array_equal(read_map(file), prediction.anomaly_map)
    with pytest.raises(ConfigError, match="unknown file kind 'maks', did you mean 'mask'"):
        prediction.save(tmp_path, kinds=["maks"])
    with pytest.raises(ConfigError, match="--map-threshold"):
        prediction.save(tmp_path, kinds=["mask"])


def test_contour_file(prediction, tmp_path):
    flat = np.full((40, 60, 3), 120, np.uint8)
    calibrated = Prediction(0.7, prediction.anomaly_map, flat, map_threshold=1.5)
    file = calibrated.write("contour", tmp_path / "c.jpg")
    drawn = np.asarray(draw_contour(flat, calibrated.mask())).astype(int)
    assert np.abs(drawn - flat).mean() > 6
    assert np.abs(drawn - np.asarray(Image.open(file))).mean() < 2


def test_a_image_too_large_for_jpeg_becomes_png(tmp_path):
    long = np.zeros((1, 65_600, 3), np.uint8)
    file = Prediction(0.1, np.zeros((1, 65_600), np.float32), long).write("overlay", tmp_path / "a.jpg")
    assert file.name == "a.png"
    with Image.open(file) as stored:
        assert (stored.format, stored.size) == ("PNG", (65_600, 1))


def test_one_pixel(tmp_path):
    tiny = Prediction(0.5, np.full((1, 1), 0.5, np.float32), np.zeros((1, 1, 3), np.uint8), map_threshold=0.1)
    kinds = ["overlay", "map", "npy", "mask", "contour"]
    assert len(tiny.save(tmp_path, kinds=kinds, scale="image")) == 5


def test_read_map_refuses_other_files(tmp_path):
    Image.new("L", (3, 3)).save(tmp_path / "a.png")
    (tmp_path / "b.npy").write_bytes(b"nothing")
    for name, message in (
        ("a.png", "no map of zsad"),
        ("b.npy", "cannot be read"),
        ("c.png", "No such file"),
    ):
        with pytest.raises(ImageReadError, match=message):
            read_map(tmp_path / name)


def test_thumbnail_never_enlarges():
    assert thumbnail(Image.new("RGB", (1000, 500)), 320).size == (320, 160)
    assert thumbnail(Image.new("L", (10, 20)), 320).size == (10, 20)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_every_blend_follows_the_formula(strength):
    image = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(256, axis=0)
    levels = np.arange(256).repeat(256).reshape(256, 256)  # each map level over each image level
    drawn = np.asarray(overlay(image, levels / 255, strength=strength))
    share = np.arange(256) / 255
    alpha = np.round(256 * strength * share**2 * (3 - 2 * share)).astype(int)[levels][..., None]
    expected = (image.astype(int) * (256 - alpha) + colour_table()[levels].astype(int) * alpha) // 256
    np.testing.assert_array_equal(drawn, expected)
