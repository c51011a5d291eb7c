"""The page in a real browser, over a server whose scores are foretold."""

import csv
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from helpers.browser import open_browser, open_page, serious_findings, wait_until_scored
from helpers.image_bytes import encode
from helpers.page_server import Behaviour, page_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    with open_browser() as found:
        yield found


def image(red, kind="PNG"):
    return encode(Image.new("RGB", (40, 30), (red, 90, 90)), kind)


def files(**reds):
    return [file(f"{name}.png", image(red)) for name, red in reds.items()]


def file(name, content):
    return {"name": name, "mimeType": "image/png", "buffer": content}


def drop(page, given, onto="body"):
    """Drops files, as a person does."""
    held = page.evaluate_handle(
        """files => {
          const transfer = new DataTransfer();
          for (const { name, bytes } of files) transfer.items.add(new File([new Uint8Array(bytes)], name));
          return transfer;
        }""",
        [{"name": each["name"], "bytes": list(each["buffer"])} for each in given],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event(onto, event, {"dataTransfer": held})


def words(page, selector):
    return page.locator(selector).inner_text()


def saved(page, button):
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, download.value.path().read_bytes()


GOOD = files(g1=20, g2=26, g3=30, g4=34)


def test_from_a_drop_to_a_download(browser):
    behaviour = Behaviour()
    with page_server(behaviour) as address, open_page(browser, address) as page:
        drop(page, files(dark=10, light=220))
        wait_until_scored(page, 2)
        assert words(page, "#verdict-word") == "No threshold yet"
        assert page.locator("#to-learning").is_visible()

        drop(page, GOOD, onto="#learning")
        assert words(page, "#learn") == "Learn from 4 images"
        page.click("#learn")
        page.wait_for_selector("#learnt:not([hidden])")
        wait_until_scored(page, 2)
        assert "Learnt from 4 good images; the threshold is now 0.1433" in words(page, "#learnt")
        assert words(page, "#verdict-word") == "Normal"
        assert words(page, "#flagged") == "1 of 2 images anomalous"
        assert "0 of 4 good images reach this threshold" in words(page, "#promise")
        assert "on average at most 20\u00a0% are called anomalous" in words(page, "#promise")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("() => document.getElementById('verdict-word').textContent === 'Anomalous'")
        assert "light.png · score 0.8627 · threshold 0.1433" in words(page, "#verdict-reason")

        page.fill("#threshold", "0.03")
        page.wait_for_function("() => document.getElementById('flagged').textContent.startsWith('2 of 2')")
        assert "4 of 4 good images reach this threshold" in words(page, "#promise")
        page.click("#reset")
        page.wait_for_function("() => document.getElementById('flagged').textContent.startsWith('1 of 2')")

        name, content = saved(page, "#save-csv")
        assert name == "results.csv"
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
        assert [(row["name"], row["is_anomalous"]) for row in rows] == [
            ("dark.png", "false"),
            ("light.png", "true"),
        ]
        assert float(rows[1]["score"]) == pytest.approx(220 / 255)
        results = json.loads(saved(page, "#save-json")[1])
        assert results["threshold"] == pytest.approx(34 / 255 + 0.01)
        assert [row["width"] for row in results["results"]] == [40, 40]
        name, content = saved(page, "#save-overlays")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.namelist() == ["dark_overlay.jpg", "light_overlay.jpg"]
            dark, light = (np.asarray(Image.open(archive.open(each))) for each in archive.namelist())
        assert dark.shape == light.shape == (30, 40, 3)
        assert abs(dark[15, 20].astype(int) - [10, 90, 90]).max() < 12  # hardly any heat
        assert abs(light[15, 20].astype(int) - [220, 90, 90]).max() > 40
        assert page.problems == []
        assert all(request.startswith((address, "blob:")) for request in page.requests)


def test_a_bad_file_says_why_and_stops_no_other(browser):
    with page_server(Behaviour()) as address, open_page(browser, address) as page:
        drop(page, [file("notes.txt", b"words"), *files(dark=10)])
        wait_until_scored(page, 2)
        page.click(".item.failed .pick")
        page.wait_for_selector("#verdict.failed")
        assert words(page, "#verdict-word") == "Could not be scored"
        assert words(page, "#verdict-reason") == "notes.txt · is not an image"
        assert page.locator(".item:not(.failed)").count() == 1
        rows = json.loads(saved(page, "#save-json")[1])["results"]
        assert {row["name"]: row["error"] for row in rows} == {
            "notes.txt": "is not an image",
            "dark.png": None,
        }


def test_a_file_that_changes_is_named(browser, tmp_path):
    path = tmp_path / "part.png"
    path.write_bytes(image(10))
    with page_server(Behaviour()) as address, open_page(browser, address) as page:
        page.wait_for_selector("body[data-ready]")
        page.set_input_files("#good-files", path)
        page.set_input_files("#files", path)
        wait_until_scored(page, 1)
        path.write_bytes(image(200) + b"more")
        page.click("#clear")
        drop(page, files(a=10, b=20))
        wait_until_scored(page, 2)
        for mark in page.locator(".mark").all():
            mark.click()
        page.click("#learn")
        page.wait_for_selector("#learnt.failed")
        assert words(page, "#learnt") == "part.png has changed or is gone since it was added: add it again"


def test_names_are_shown_as_text(browser):
    evil = "<img src=x onerror=document.title='hit'>.png"
    with page_server(Behaviour()) as address, open_page(browser, address) as page:
        drop(page, [file(evil, image(10))])
        wait_until_scored(page, 1)
        assert words(page, ".name") == evil
        assert page.locator(".name img, .reason img").count() == 0
        assert "hit" not in page.title()


def test_a_token_is_asked_for_until_it_is_right(browser):
    with page_server(Behaviour(token="secret")) as address, open_page(browser, address) as page:
        page.fill("#token-field", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_function(
            "() => document.getElementById('token-text').textContent.includes('not accept')"
        )
        page.fill("#token-field", "secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("body[data-ready]")
        drop(page, files(dark=10))
        wait_until_scored(page, 1)
        assert page.locator(".item.failed").count() == 0


def test_a_busy_server_is_asked_again(browser):
    with page_server(Behaviour(busy=3)) as address, open_page(browser, address) as page:
        drop(page, files(a=10, b=20))
        wait_until_scored(page, 2)
        assert page.locator(".item.failed").count() == 0


def test_many_images_can_be_cancelled_and_continued(browser):
    behaviour = Behaviour(seconds=0.3)
    with page_server(behaviour) as address, open_page(browser, address) as page:
        page.wait_for_selector("body[data-ready]")
        drop(page, files(**{f"n{number}": number for number in range(12)}))
        page.wait_for_function("() => document.querySelectorAll('.item img').length >= 2")
        page.click("#cancel")
        page.wait_for_selector("#stopped:not([hidden])")
        scored = page.locator(".item img").count()
        assert 2 <= scored < 12
        assert words(page, "#stopped-text") == f"{12 - scored} images are not scored"
        behaviour.seconds = 0
        page.click("#continue")
        wait_until_scored(page, 12)
        assert page.locator(".item img").count() == 12


def test_two_images_on_one_colour_scale(browser):
    with page_server(Behaviour()) as address, open_page(browser, address) as page:
        drop(page, files(dark=51, light=204))
        wait_until_scored(page, 2)
        page.keyboard.press("c")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("() => document.querySelectorAll('.view').length === 2")
        page.select_option("#scale", "shown")
        page.wait_for_function("() => document.getElementById('legend-low').textContent === '0.2 normal'")
        assert words(page, "#legend-high") == "anomalous 0.8"
        opaque = page.eval_on_selector_all(
            ".heat", "all => all.map(heat => heat.getContext('2d').getImageData(9, 9, 1, 1).data[3])"
        )
        assert opaque == [0, 255]  # the ends of the common scale
        page.keyboard.press("Escape")
        page.wait_for_function("() => document.querySelectorAll('.view').length === 1")


def test_the_keyboard(browser):
    with page_server(Behaviour()) as address, open_page(browser, address) as page:
        drop(page, files(a=10, b=20, c=30))
        wait_until_scored(page, 3)
        heat = "() => document.querySelector('.heat').style.opacity"
        page.wait_for_selector(".heat")
        assert page.evaluate(heat) == "0.78"
        page.keyboard.press("Space")
        assert page.evaluate(heat) == "0"
        for _ in range(2):
            page.keyboard.press("ArrowRight")
        page.wait_for_selector(".item:nth-child(3).current")
        page.keyboard.press("g")
        page.wait_for_selector(".item:nth-child(3) .mark[aria-pressed=true]")
        page.keyboard.press("Delete")
        page.wait_for_function("() => document.querySelectorAll('.item').length === 2")
        page.keyboard.press("?")
        assert page.locator("#help").is_visible()
        page.keyboard.press("Escape")
        assert not page.locator("#help").is_visible()


def test_a_kind_that_browsers_cannot_show_is_drawn_by_the_server(browser):
    with page_server(Behaviour()) as address, open_page(browser, address) as page:
        drop(page, [file("scan.tif", image(90, "TIFF"))])
        wait_until_scored(page, 1)
        page.wait_for_selector(".view canvas")
        assert "drawn by the server" in words(page, ".view figcaption")


def test_the_camera_gives_an_image(browser):
    with page_server(Behaviour()) as address, open_page(browser, address) as page:
        page.click("#camera-open")
        page.wait_for_selector("#camera-shutter:not([disabled])")
        page.click("#camera-shutter")
        page.click("#camera-close")
        wait_until_scored(page, 1)
        assert words(page, ".name") == "camera-1.png"
        assert page.eval_on_selector("video", "video => video.srcObject") is None  # the camera is off


def test_a_pasted_image(browser):
    with page_server(Behaviour()) as address, open_page(browser, address) as page:
        page.evaluate(
            """bytes => {
              const clipboardData = new DataTransfer();
              clipboardData.items.add(new File([new Uint8Array(bytes)], "image.png", { type: "image/png" }));
              document.dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
            }""",
            list(image(10)),
        )
        wait_until_scored(page, 1)
        assert words(page, ".name") == "image.png"


def test_models_are_chosen_by_name(browser):
    with page_server(Behaviour(names=["line1", "line2"])) as address, open_page(browser, address) as page:
        drop(page, files(a=10))
        wait_until_scored(page, 1)
        page.select_option("#model", "line2")
        wait_until_scored(page, 1)
        assert sum("model=line2" in request for request in page.requests) == 1


def test_learning_that_is_off_is_explained(browser):
    with (
        page_server(Behaviour(cannot_fit="Start it with zsad serve --allow-fit.")) as address,
        open_page(browser, address) as page,
    ):
        page.wait_for_selector("#learning-off:not([hidden])")
        assert "zsad serve --allow-fit" in words(page, "#learning-off")
        assert not page.locator("#learn").is_visible()
        drop(page, files(a=10))
        wait_until_scored(page, 1)
        assert words(page, "#verdict-word") == "No threshold yet"
        assert not page.locator("#to-learning").is_visible()


@pytest.mark.parametrize(
    "look",
    [{}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 844}}],
    ids=["light", "dark", "phone"],
)
def test_accessible_and_as_wide_as_the_screen(browser, look):
    with page_server(Behaviour()) as address, open_page(browser, address, **look) as page:
        page.wait_for_selector("body[data-ready]")
        assert serious_findings(page) == []
        drop(page, [*files(dark=10, light=220), file("notes.txt", b"words")])
        drop(page, GOOD, onto="#learning")
        page.click("#learn")
        page.wait_for_selector("#learnt:not([hidden])")
        wait_until_scored(page, 3)
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        assert serious_findings(page) == []
        page.click("#help-open")
        assert serious_findings(page) == []


def test_the_theme_is_switched_and_kept(browser):
    with page_server(Behaviour()) as address, open_page(browser, address) as page:
        shade = "() => getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(shade)
        page.click("#theme-switch")
        dark = page.evaluate(shade)
        page.reload()
        assert page.evaluate(shade) == dark != light
