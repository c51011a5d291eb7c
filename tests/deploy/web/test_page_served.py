"""The page of a real `zsad serve`: the verdicts on it are those of Python."""

import numpy as np
import pytest
from PIL import Image

import zsad
from helpers.browser import open_browser, open_page, wait_until_scored
from helpers.image_bytes import encode
from helpers.server_process import serving

pytestmark = pytest.mark.slow


def part(number, is_scratched=False):
    """A grey ring on a plain ground, a little noise, perhaps a bright scratch."""
    generator = np.random.default_rng(number)
    rows, columns = np.indices((160, 160)) - 80
    distance = np.hypot(rows, columns)[..., None]
    pixels = np.where((distance > 35) & (distance < 60), 170.0, 90.0) + generator.normal(0, 3, (160, 160, 1))
    pixels = np.repeat(pixels, 3, axis=2)
    if is_scratched:
        pixels[76:84, 10:150] = [250, 40, 40]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def file(name, image):
    return {"name": name, "mimeType": "image/png", "buffer": encode(image, "PNG")}


def test_the_verdicts_on_the_page_are_those_of_python():
    good = [part(number) for number in range(6)]
    others = {"good.png": part(7), "bad.png": part(8, is_scratched=True)}
    detector = zsad.load("anomalyclip")
    detector.fit(good)
    expected = {name: detector.predict(image) for name, image in others.items()}
    assert [each.is_anomalous for each in expected.values()] == [False, True]
    with (
        serving("--method", "anomalyclip", "--allow-fit") as server,
        open_browser() as browser,
        open_page(browser, f"{server.url}/") as page,
    ):
        page.set_input_files("#files", [file(name, image) for name, image in others.items()])
        page.set_input_files("#good-files", [file(f"{n}.png", image) for n, image in enumerate(good)])
        wait_until_scored(page, 2)
        assert page.inner_text("#verdict-word") == "No threshold yet"
        page.click("#learn")
        page.wait_for_selector("#learnt:not([hidden])", timeout=300_000)
        wait_until_scored(page, 2)
        for name, prediction in expected.items():
            page.click(f".pick:has-text('{name}')")
            page.wait_for_selector(f"#verdict.{'anomalous' if prediction.is_anomalous else 'normal'}")
            reason = page.inner_text("#verdict-reason")
            assert reason.startswith(name)
            assert float(reason.split("score ")[1].split(" ")[0]) == pytest.approx(prediction.score, abs=1e-4)
        assert f"{detector.threshold:.3f}" in page.inner_text("#learnt")
        assert page.problems == []
        assert all(request.startswith((server.url, "blob:")) for request in page.requests)
