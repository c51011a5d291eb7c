"""The page of a run in a real browser: drawn as one scrolls, sorted, filtered, judged and looked at."""

import shutil

import pytest
from PIL import Image

from helpers.browser import open_browser
from zsad.prediction import page as page_module
from zsad.prediction.layout import RunLayout
from zsad.prediction.page import write_prediction_page
from zsad.prediction.records import ResultRecord

pytestmark = pytest.mark.slow
IMAGES = 1000
SETTINGS = {"method": "auto", "backbone": "tiny", "formats": ["overlay"], "threshold": 0.9, "scale": "fixed"}


@pytest.fixture(scope="module")
def browser():
    with open_browser() as found:
        yield found


def written(folder, count):
    """The page of a run whose image `i` has the score i / count."""
    records = [
        ResultRecord(f"{folder}/in/{i % 3}/part_{i}.jpg", i / count, None, 0.9, 8, 8, 0.1, "auto", "tiny")
        for i in range(count)
    ]
    layout = RunLayout.plan(folder / "out", [record.path for record in records])
    for record in records[-50:]:
        for file in (layout.thumbnail(record.path), layout.file(record.path, "overlay")):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(file)
    return write_prediction_page(layout, records, SETTINGS, (0.0, 1.0), None)


@pytest.fixture
def page(browser, tmp_path):
    """The page of a large run."""
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if "Security" in line.text else None)
    page.goto(written(tmp_path, IMAGES).as_uri())
    yield page
    page.close()
    assert problems == []


def names(page):
    return page.locator("#grid .name").all_text_contents()


def test_draws_what_one_scrolls_to(page):
    first = names(page)
    assert first[:2] == ["part_999.jpg", "part_998.jpg"]
    assert 120 <= len(first) < IMAGES / 2
    page.locator("#end").scroll_into_view_if_needed()
    page.wait_for_function("count => document.querySelectorAll('#grid li').length > count", arg=len(first))
    assert names(page)[: len(first)] == first
    page.wait_for_function("document.querySelector('#grid img').naturalWidth > 0")


def test_threshold_filter_search_and_order(page):
    assert page.locator("#flagged").inner_text() == "100 of 1000 anomalous"
    page.fill("#threshold", "0.5")
    assert page.locator("#flagged").inner_text() == "500 of 1000 anomalous"
    page.locator("input[value=under]").check(force=True)
    assert page.locator("#shown").inner_text() == "500 of 1000 images"
    assert names(page)[0] == "part_499.jpg"
    assert page.locator("#grid .badge.over").count() == 0
    page.select_option("#order", "name")
    assert names(page)[:2] == ["part_0.jpg", "part_3.jpg"]
    page.fill("#search", "/2/ part_12")
    assert names(page) == ["part_122.jpg", "part_125.jpg", "part_128.jpg"]
    page.fill("#search", "nothing")
    assert page.locator("#nothing").is_visible()
    page.click("#clear")
    page.fill("#search", "")
    page.select_option("#order", "low")
    assert page.locator("#shown").inner_text() == "1000 images"
    assert names(page)[0] == "part_0.jpg"


def test_the_viewer_goes_beyond_what_is_drawn(page):
    page.locator("#grid a").first.click()
    assert page.locator("#viewer-name").inner_text().endswith("part_999.jpg")
    assert "score 0.999, anomalous" in page.locator("#viewer-text").inner_text()
    page.wait_for_function("document.getElementById('viewer-image').naturalWidth > 0")
    count = len(names(page))
    for _ in range(count):
        page.keyboard.press("ArrowRight")
    assert f"{count + 1} of 1000" in page.locator("#viewer-text").inner_text()
    page.keyboard.press("Escape")
    page.wait_for_function(
        "name => document.activeElement.textContent.includes(name)", arg=f"part_{999 - count}.jpg"
    )


def test_a_small_run_shows_the_thumbnails_inside_the_page(browser, tmp_path):
    assert page_module.EMBEDDED_THUMBNAILS > 40
    file = written(tmp_path, 40)
    shutil.rmtree(tmp_path / "out" / "thumbnails")
    page = browser.new_page()
    page.goto(file.as_uri())
    page.wait_for_function("document.querySelector('#grid img').naturalWidth > 0")
    assert page.locator("#grid li").count() == 40
    page.close()
