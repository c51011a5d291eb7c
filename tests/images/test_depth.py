"""Values of 10 or 12 bits in 16-bit containers are never shown dark in silence."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.image_bytes import encode, grey_tiff
from zsad.errors import ConfigError, ImageWarning
from zsad.images.preparing import to_array
from zsad.images.reading import common_bits, read_image

RAMP = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
SHOWN = np.rint(RAMP / 4095 * 255).astype(np.uint8)


def _dicom(values: np.ndarray, *, signed: bool = False, stored: int = 16) -> bytes:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.Rows, dataset.Columns = values.shape[:2]
    is_grey = values.ndim == 2
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (1, "MONOCHROME2") if is_grey else (3, "RGB")
    if not is_grey:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored = 16, stored
    dataset.HighBit, dataset.PixelRepresentation = stored - 1, int(signed)
    dataset.PixelData = values.astype("<i2" if signed else "<u2").tobytes()
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


SOURCES = {
    "png": encode(Image.fromarray(RAMP), "PNG"),
    "tiff": grey_tiff(RAMP, order="<"),
    "tiff of another byte order": grey_tiff(RAMP, order=">"),
    "array": RAMP,
    "Pillow": Image.fromarray(RAMP),
    "colour array": np.repeat(RAMP[..., None], 3, axis=2),
}


@pytest.mark.parametrize("name", SOURCES)
def test_depth_is_told_and_can_be_given(name: str) -> None:
    with pytest.warns(ImageWarning, match=r"uses 12 bits of 16.*0 to 65535.*--bits 12 or bits=12"):
        assert to_array(read_image(SOURCES[name])).max() == 16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for bits in (12, "12", "auto"):
            assert (to_array(read_image(SOURCES[name], bits=bits))[..., 0] == SHOWN).all()


def test_dicom_without_a_window() -> None:
    content = _dicom(RAMP)
    with pytest.warns(ImageWarning, match="uses 12 bits of 16"):
        read_image(content)
    assert (to_array(read_image(content, bits=12))[..., 0] == SHOWN).all()
    signed = _dicom(RAMP.astype(int) - 2048, signed=True)
    with pytest.warns(ImageWarning, match="uses 12 bits of 16"):
        read_image(signed)
    assert (to_array(read_image(signed, bits="auto"))[..., 0] == SHOWN).all()


def test_colour_dicom() -> None:
    colours = np.stack([RAMP, RAMP.T, RAMP[::-1]], axis=2)
    shown = np.stack([SHOWN, SHOWN.T, SHOWN[::-1]], axis=2)
    with pytest.warns(ImageWarning, match="uses 12 bits of 16"):
        read_image(_dicom(colours))
    for bits in (12, "auto"):
        assert (to_array(read_image(_dicom(colours), bits=bits)) == shown).all()
    assert (to_array(read_image(_dicom(colours, stored=12))) == shown).all()


def test_colours_of_few_bits() -> None:
    few = np.repeat((np.arange(64, dtype=np.uint16).reshape(8, 8))[..., None], 3, axis=2)
    content = _dicom(few, stored=6)
    assert to_array(read_image(content)).max() == 255


@pytest.mark.parametrize("plain", [False, True])
def test_portable_maps_that_state_16_bits(plain: bool) -> None:
    colours = np.stack([RAMP, RAMP.T, RAMP[::-1]], axis=2)
    shown = np.stack([SHOWN, SHOWN.T, SHOWN[::-1]], axis=2)
    for values, expected, kind in ((RAMP, SHOWN[..., None], 2), (colours, shown, 3)):
        text = " ".join(map(str, values.ravel())).encode()
        body = text if plain else values.astype(">u2").tobytes()
        content = b"P%d 8 8 65535\n" % (kind if plain else kind + 3) + body
        with pytest.warns(ImageWarning, match="uses 12 bits of 16"):
            assert to_array(read_image(content)).max() == 16
        for bits in (12, "auto"):
            assert (to_array(read_image(content, bits=bits)) == expected).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stated", [12, 16])
def test_jpeg_2000(channels: int, stated: int) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    values = RAMP if channels == 1 else np.stack([RAMP, RAMP.T, RAMP[::-1]], axis=2)
    expected = SHOWN[..., None] if channels == 1 else np.stack([SHOWN, SHOWN.T, SHOWN[::-1]], axis=2)
    content = imagecodecs.jpeg2k_encode(values, level=0, bitspersample=stated, codecformat="jp2")
    for bits in (12, "auto"):
        assert (to_array(read_image(content, bits=bits)) == expected).all()
    if stated == 16:
        with pytest.warns(ImageWarning, match="uses 12 bits of 16"):
            read_image(content)
    else:
        assert np.abs(to_array(read_image(content)).astype(int) - expected).max() <= 1


def test_whole_range_and_eight_bits_need_no_word(recwarn: pytest.WarningsRecorder) -> None:
    full = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    read_image(full)
    read_image(np.zeros((8, 8), np.uint16))
    assert to_array(read_image(SHOWN, bits=10)).max() == 255
    assert not recwarn


def test_pgm_states_its_depth(recwarn: pytest.WarningsRecorder) -> None:
    content = b"P5 8 8 4095\n" + RAMP.astype(">u2").tobytes()
    for bits in (None, 12):
        assert np.abs(to_array(read_image(content, bits=bits))[..., 0].astype(int) - SHOWN).max() <= 1
    assert not recwarn


def test_values_above_the_wished_depth_are_told() -> None:
    with pytest.warns(ImageWarning, match="above 1023 are shown white"):
        read_image(RAMP, bits=10)


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSAD_BITS", "12")
    assert (to_array(read_image(RAMP))[..., 0] == SHOWN).all()


@pytest.mark.parametrize("bits", [0, 17, -1, "many", True, 1.5, "²"])
def test_wrong_depth(bits: object) -> None:
    with pytest.raises(ConfigError, match="1 to 16, or auto"):
        read_image(RAMP, bits=bits)  # type: ignore[arg-type]


def test_one_depth_for_all(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert common_bits([RAMP // 8, RAMP, SHOWN, tmp_path / "broken.png"]) == 12
    assert common_bits([SHOWN]) is None


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_png(channels: int) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    values = np.repeat(RAMP[..., None], channels, axis=2)
    values[..., 3:] = 65535
    content = imagecodecs.png_encode(values)
    with pytest.warns(ImageWarning, match="uses 12 bits of 16"):
        read_image(content)
    for bits in (12, "auto"):
        assert (to_array(read_image(content, bits=bits))[..., 0] == SHOWN).all()
