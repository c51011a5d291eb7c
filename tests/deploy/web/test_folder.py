"""`--format web`: what is refused, and the scores of a real browser over a plain file server."""

import base64
import contextlib
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import zsad
from helpers.browser import node_module, open_browser, open_page, serious_findings, wait_until_scored
from helpers.image_bytes import encode
from zsad.deploy.web.folder import SCORE_LIMIT, export_web
from zsad.detector.calibration.statistics import threshold_above
from zsad.errors import ConfigError

PATH = "() => document.body.dataset.ready === 'true'"


def test_what_cannot_be_a_page_is_refused_before_anything_is_done(tmp_path):
    detector = zsad.load("anomalyclip")
    with pytest.raises(ConfigError, match="unknown precision 'fp8'"):
        export_web(detector, tmp_path / "out", "fp8")
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is no page: choose another folder"):
        export_web(detector, tmp_path)
    with pytest.raises(ConfigError, match=r"tiles \(tile='auto'\): load it without"):
        export_web(detector.with_tile("auto"), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"to a region of interest \(roi\): load it without"):
        export_web(detector.with_roi((4, 4, 40, 40)), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"tiles \(tile=512\) and a region of interest \(roi\)"):
        export_web(detector.with_tile(512).with_roi((4, 4, 40, 40)), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"holds no ort\.wasm\.min\.mjs"):
        export_web(detector, tmp_path / "out", onnxruntime_web=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def noise(number, size=(120, 90)):
    """A smooth image with a little noise."""
    generator = np.random.default_rng(number)
    small = Image.fromarray(generator.integers(60, 190, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize(size, Image.Resampling.BICUBIC)).astype(float)
    return Image.fromarray((smooth + generator.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8))


def turned_jpeg():
    """A JPEG whose EXIF says that the camera was held upright."""
    image = noise(3, (200, 100))
    exif = image.getexif()
    exif[0x0112] = 6
    return encode(image, "JPEG", quality=90, exif=exif)


def see_through():
    image = noise(4).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return encode(image, "PNG")


IMAGES = {
    "portrait.png": encode(noise(0, (90, 400)), "PNG"),
    "landscape.png": encode(noise(1, (700, 333)), "PNG"),
    "photo.jpg": encode(noise(2, (512, 341)), "JPEG", quality=92),
    "chroma.jpg": encode(noise(5, (301, 203)), "JPEG", quality=60, subsampling=2),
    "grey.jpg": encode(noise(6).convert("L"), "JPEG"),
    "turned.jpg": turned_jpeg(),
    "palette.gif": encode(noise(7).convert("P"), "GIF"),
    "bitmap.bmp": encode(noise(8), "BMP"),
    "lossless.webp": encode(noise(9), "WEBP", lossless=True),
    "tiny.png": encode(noise(10, (1, 1)), "PNG"),
}


@contextlib.contextmanager
def plain_server(folder):
    """`python -m http.server`, as anybody has it."""
    command = [
        sys.executable,
        "-u",
        "-m",
        "http.server",
        "0",
        "--bind",
        "127.0.0.1",
        "--directory",
        str(folder),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        port = re.search(r"port (\d+)", process.stdout.readline())[1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that the command line has written."""
    runtime = node_module("onnxruntime-web")
    pytest.importorskip("onnxscript", reason='pip install "zsad[export]"')
    out = tmp_path_factory.mktemp("web") / "demo"
    arguments = ["--format", "web", "--method", "anomalyclip", "--out", str(out)]
    command = [sys.executable, "-m", "zsad", "export", *arguments, "--onnxruntime-web", str(runtime)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "python -m http.server --directory" in done.stdout
    return out


@pytest.mark.slow
def test_a_plain_file_server_is_enough_and_the_scores_are_those_of_python(folder):
    detector = zsad.load("anomalyclip")
    with plain_server(folder) as address, open_browser() as browser, open_page(browser, address) as page:
        page.wait_for_function(PATH, timeout=180_000)
        for name, content in {**IMAGES, "see_through.png": see_through()}.items():
            found = page.evaluate(
                """async text => {
                  const bytes = Uint8Array.from(atob(text), character => character.charCodeAt(0));
                  return window.zsadScore(new Blob([bytes]));
                }""",
                base64.b64encode(content).decode(),
            )
            expected = detector.predict(io.BytesIO(content))
            assert (found["height"], found["width"]) == expected.anomaly_map.shape, name
            # Blending with white rounds otherwise in a browser than in Pillow.
            limit = 5e-3 if name == "see_through.png" else SCORE_LIMIT / 10
            assert found["score"] == pytest.approx(expected.score, abs=limit), name
        assert serious_findings(page) == []
        with pytest.raises(Exception, match="cannot read the file as an image"):
            page.evaluate("() => window.zsadScore(new Blob(['words']))")
        assert page.problems == []
        assert all(request.startswith((address, "blob:")) for request in page.requests)


@pytest.mark.slow
def test_good_images_set_a_threshold_inside_the_browser(folder):
    good = {f"good_{number}.png": encode(noise(20 + number), "PNG") for number in range(5)}
    detector = zsad.load("anomalyclip")
    scores = [detector.predict(io.BytesIO(content)).score for content in good.values()]

    def files(contents):
        return [{"name": n, "mimeType": "image/png", "buffer": c} for n, c in contents.items()]

    with plain_server(folder) as address, open_browser() as browser, open_page(browser, address) as page:
        page.wait_for_function(PATH, timeout=180_000)
        page.set_input_files("#files", files({"photo.png": IMAGES["landscape.png"]}))
        wait_until_scored(page, 1, timeout=180_000)
        page.set_input_files("#good-files", files(good))
        page.click("#learn")
        page.wait_for_selector("#learnt:not([hidden])", timeout=180_000)
        with page.expect_download() as download:
            page.click("#save-json")
        results = json.loads(download.value.path().read_text(encoding="utf-8"))
        assert results["threshold"] == pytest.approx(threshold_above(scores, 0), abs=1e-4)
        expected = detector.predict(io.BytesIO(IMAGES["landscape.png"])).score
        assert results["results"][0]["is_anomalous"] is (expected >= results["threshold"])
        assert not [request for request in page.requests if "v1" in request]


@pytest.mark.slow
def test_the_folder_says_what_it_is(folder):
    about = json.loads((folder / "web.json").read_text(encoding="utf-8"))
    assert (about["method"], about["backbone"], about["precision"]) == ("anomalyclip", "tiny", "fp16")
    assert about["parity"]["images"] >= 8
    assert about["parity"]["score"] <= SCORE_LIMIT
    assert any(line.startswith("onnxruntime-web: MIT") for line in about["licences"])
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "python -m http.server" in readme
    assert "Compared with Python on 8 synthetic images" in readme
    assert 15e6 < (folder / "model.onnx").stat().st_size < 28e6
