"""The page of a prediction run: complete, self-contained, safe, and linking to files that exist."""

import base64
import re
import urllib.parse
from pathlib import Path

import pytest
from PIL import Image

from helpers.html_page import Page
from zsad.detector.calibration.wording import percent
from zsad.files.pages import relative_url
from zsad.files.run_settings import write_settings
from zsad.prediction import page as page_module
from zsad.prediction.layout import RunLayout
from zsad.prediction.page import (
    PAGE_KEY,
    histogram_bars,
    histogram_range,
    page_settings,
    rebuild_page,
    write_prediction_page,
)
from zsad.prediction.records import ResultRecord

SETTINGS = {
    "method": "winclip",
    "backbone": "tiny",
    "formats": ["overlay"],
    "threshold": None,
    "scale": "fixed",
}


def record(path, score=0.5, error=None, **changes):
    size = None if error else 8
    fields = {"width": size, "height": size, "error": error, **changes}
    return ResultRecord(
        str(path), score, None, None, seconds=0.01, method="winclip", backbone="tiny", **fields
    )


def written(folder, records, **settings):
    """Text of the page of a run in `folder`/out."""
    layout = RunLayout.plan(folder / "out", [each.path for each in records])
    path = write_prediction_page(layout, records, {**SETTINGS, **settings}, (0.0, 1.0), None)
    return path.read_text(encoding="utf-8")


def page_of(folder, scores, failed=(), **settings):
    """The page of images whose overlays and thumbnails exist, by file name and score."""
    records = [record(folder / "in" / name, score) for name, score in scores.items()]
    layout = RunLayout.plan(folder / "out", [each.path for each in (*records, *failed)])
    for each in records:
        for path in (Path(each.path), layout.file(each.path, "overlay"), layout.thumbnail(each.path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(path, format="JPEG")
    return Page(written(folder, [*records, *failed], **settings))


def cards(page):
    """What the script draws from, one dictionary for each image."""
    columns = page.data("cards")
    assert len({len(column) for column in columns.values()}) == 1
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_sorted_by_score_with_thumbnails_inside(tmp_path):
    page = page_of(tmp_path, {"0.jpg": 0.2, "1.jpg": 0.9, "2.jpg": 0.5})
    assert [card["score"] for card in cards(page)] == [0.9, 0.5, 0.2]
    sources = [card["thumbnail"] for card in cards(page)]
    assert all(
        base64.b64decode(s.removeprefix("data:image/jpeg;base64,"))[:2] == b"\xff\xd8" for s in sources
    )
    page.assert_safe()


def test_scores_can_be_told_apart_and_ranked(tmp_path):
    page = page_of(tmp_path, {"0.jpg": 0.99991, "1.jpg": 0.99994, "2.jpg": 0.2, "3.jpg": 0.2})
    assert page.of("ol")[0]["data-decimals"] == "5"
    assert [card["rank"] for card in cards(page)] == [1, 2, 3, 3]


def test_natural_order_of_the_names(tmp_path):
    page = page_of(tmp_path, {"10.jpg": 0.9, "9.jpg": 0.1, "1.jpg": 0.5})
    assert [(card["name"], card["by_name"]) for card in cards(page)] == [
        ("10.jpg", 2),
        ("1.jpg", 0),
        ("9.jpg", 1),
    ]


def test_links_lead_to_the_files(tmp_path):
    names = ["plain.jpg", "a b#c?d%41.jpg", "ü&'\".jpg", "c:d.jpg", "sub/e.jpg"]
    page = page_of(tmp_path, dict.fromkeys(names, 0.5))
    targets = [f"./overlays/{card['stem']}_overlay{card['overlay']}" for card in cards(page)]
    targets += [f"./thumbnails/{card['stem']}.jpg" for card in cards(page)]
    targets += [card["original"] for card in cards(page)]
    assert len(set(targets)) == 15
    for target in targets:
        assert not urllib.parse.urlsplit(target).scheme
        assert (tmp_path / "out" / urllib.parse.unquote(target)).exists()


def test_nothing_comes_from_the_network(tmp_path):
    text = written(tmp_path, [record(tmp_path / "a.jpg")])
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text)
    assert "@import" not in text
    assert "{{" not in text
    assert "{%" not in text


EVIL = "\"><img src=x onerror=alert(1)><script>alert(2)</script>'"


def test_file_names_settings_and_errors_cannot_become_markup(tmp_path):
    name = "<img src=x onerror=alert(1)>.png"
    failed = record(f"in/{EVIL}.jpg", None, error=f"in/{EVIL}.jpg: </li><script>alert(3)</script>")
    texts = {"class_name": EVIL, "folder_mode": EVIL, EVIL: EVIL, "config": {EVIL: [EVIL]}}
    page = Page(
        written(tmp_path, [record(f"in/{name}"), failed], **{**texts, "method": EVIL, "backbone": EVIL})
    )
    page.assert_safe()
    assert [image for image in page.of("img") if "onerror" in image] == []
    assert cards(page)[0]["path"] == f"in/{name}"
    assert EVIL in page.words


def test_sizes_of_a_damaged_table_cannot_become_markup(tmp_path):
    page = Page(written(tmp_path, [record("in/a.png", width=EVIL, height=EVIL)]))
    page.assert_safe()
    assert cards(page)[0]["width"] == EVIL


def test_threshold_and_failures(tmp_path):
    failed = [record("in/bad.png", None, error="in/bad.png: the file is empty")]
    page = page_of(tmp_path, {"a.jpg": 0.2, "b.jpg": 0.9}, failed, threshold=0.5)
    assert page.of("input", id="threshold")[0]["value"] == "0.5"
    assert "1 file could not be scored" in page.words
    assert "the file is empty" in page.words


def test_many_images_keep_the_page_small(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "EMBEDDED_THUMBNAILS", 2)
    page = page_of(tmp_path, {f"{i}.jpg": i / 10 for i in range(3)})
    assert len(cards(page)) == 3
    assert "thumbnail" not in page.data("cards")


def test_a_hundred_thousand_images_take_a_third_of_a_kilobyte_each(tmp_path):
    records = [record(f"parts/line-{i % 7}/left_{i:06d}.jpg", i / 3000) for i in range(3000)]
    text = written(tmp_path, records)
    assert len(text) < 3000 * 333


def test_many_failures_are_counted_and_not_all_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "LISTED_FAILURES", 2)
    failed = [record(f"in/bad{i}.png", None, error=f"in/bad{i}.png: empty") for i in range(5)]
    page = page_of(tmp_path, {"a.jpg": 0.2}, failed)
    text = " ".join(page.words)
    assert "5 files could not be scored" in text
    assert "in/bad1.png" in text
    assert "in/bad2.png" not in text
    assert "and 3 more" in text


def test_no_image_at_all(tmp_path):
    page = page_of(tmp_path, {}, failed=[record("x.png", None, error="no")])
    assert page.data("cards")["path"] == []
    assert "hidden" in page.of("section")[0]


def test_missing_thumbnail_leaves_an_empty_frame(tmp_path):
    page = Page(written(tmp_path, [record("a.png")]))
    assert cards(page)[0]["thumbnail"] is None
    assert cards(page)[0]["overlay"] == ""


def test_a_rebuilt_page_does_not_list_what_a_resumed_run_needs(tmp_path):
    from zsad.prediction.companions import COMPANIONS_KEY

    (tmp_path / "results.jsonl").write_text(record("in/a.png").to_json() + "\n")
    kept = {"root": "in", PAGE_KEY: page_settings((0.0, 1.0), None), COMPANIONS_KEY: ["in/other.png"]}
    write_settings(tmp_path, {**SETTINGS, **kept})
    assert "in/other.png" not in rebuild_page(tmp_path).read_text(encoding="utf-8")


def test_histogram_bars_count_every_score():
    bars = histogram_bars([0.0, 0.5, 0.5, 0.501, 2.0], 0.0, 1.0)
    assert sum(count for count, _ in bars) == 5
    assert [height for count, height in bars if count == 3] == [100.0]
    assert bars[-1] == (1, pytest.approx(100 / 3))
    assert {height for count, height in bars if not count} == {0.0}


@pytest.mark.parametrize(
    ("scores", "inside"),
    [([], True), ([0.5], True), ([0.0, 1.0], True), ([0.50001, 0.50002], True), ([-1.0, 3.0], False)],
)
def test_histogram_range_covers_the_scores(scores, inside):
    low, high = histogram_range(scores)
    assert low < high
    assert all(low <= score <= high for score in scores)
    if inside:
        assert 0 <= low < high <= 1


def test_columns_of_a_calibrated_and_explained_run(tmp_path):
    calibrated = {"relative_score": 0.75, "p_value": 0.25, "in_calibration": True}
    records = [
        record("in/a.png", 0.9, **calibrated, phrase="a scratch", phrase_share=0.6),
        record("in/b.png", 0.1, relative_score=0.25),
    ]
    first, second = cards(Page(written(tmp_path, records)))
    assert (first["relative"], first["p_value"], first["in_calibration"]) == (0.75, percent(0.25), True)
    assert first["explanation"] == "a scratch (60%)"
    assert (second["relative"], second["p_value"], second["explanation"]) == (0.25, "", "")


def test_relative_url_of_a_name_with_a_colon():
    assert relative_url(Path("out"), Path("out/c:d.png")) == "./c%3Ad.png"


@pytest.mark.parametrize("scores", [[1e5], [-1e5], [1e6, 1e6], [0.5], [0.0], [1.0], [-1e6, 1e6]])
def test_the_bins_have_a_width_whatever_the_scores(scores):
    low, high = histogram_range(scores)
    assert low < high
    assert sum(count for count, _ in histogram_bars(scores, low, high)) == len(scores)
