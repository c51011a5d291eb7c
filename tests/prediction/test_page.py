"""The page of a run: complete, self-contained, safe, and linking to files that exist."""

import base64
import hashlib
import re
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from zsad.prediction import report
from zsad.prediction.records import ResultRecord
from zsad.prediction.report import ReportEntry, histogram_range, relative_url, write_report


class Page(HTMLParser):
    """Start tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def of(self, tag, **wanted):
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in wanted.items())]

    def cards(self):
        return [a for a in self.of("li") if "data-score" in a]


def record(path, score=0.5, error=None):
    size = None if error else 8
    return ResultRecord(str(path), score, None, None, size, size, 0.01, "winclip", "tiny", error)


def entry(folder, name, score):
    picture = folder / "in" / name
    overlay = folder / "out" / "overlays" / f"{name}_overlay.jpg"
    small = folder / "out" / "thumbnails" / f"{name}.jpg"
    for path in (picture, overlay, small):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path, format="JPEG")
    return ReportEntry(record(picture, score), overlay, small)


def page_of(folder, entries, **options):
    path = write_report(folder / "out", entries, title=options.pop("title", "demo"), **options)
    return Page(path.read_text(encoding="utf-8"))


def test_sorted_by_score_with_thumbnails_inside(tmp_path):
    entries = [entry(tmp_path, f"{i}.jpg", score) for i, score in enumerate((0.2, 0.9, 0.5))]
    page = page_of(tmp_path, entries)
    assert [card["data-score"] for card in page.cards()] == ["0.9", "0.5", "0.2"]
    sources = [image["src"] for image in page.of("img") if "src" in image]
    assert len(sources) == 3
    assert all(
        base64.b64decode(s.removeprefix("data:image/jpeg;base64,"))[:2] == b"\xff\xd8" for s in sources
    )
    assert all(image["alt"] for image in page.of("img") if "src" in image)


def test_links_lead_to_the_files(tmp_path):
    names = ["plain.jpg", "a b#c?d%41.jpg", "ü&'\".jpg", "c:d.jpg"]
    entries = [entry(tmp_path, name, 0.5) for name in names]
    page = page_of(tmp_path, entries)
    targets = [a["href"] for a in page.of("a") if "overlays" in a["href"]]
    targets += [card["data-original"] for card in page.cards()]
    assert len(targets) == 8
    for target in targets:
        assert not urllib.parse.urlsplit(target).scheme
        assert (tmp_path / "out" / urllib.parse.unquote(target)).exists()


def test_nothing_comes_from_the_network(tmp_path):
    text = write_report(tmp_path / "out", [entry(tmp_path, "a.jpg", 0.5)], title="demo").read_text()
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text)
    assert "@import" not in text
    assert "{{" not in text


def test_file_names_and_errors_cannot_become_markup(tmp_path):
    evil = "\"><img src=x onerror=alert(1)><script>alert(2)</script>'.jpg"
    entries = [ReportEntry(record(f"in/{evil}", 0.5))]
    failed = [record(f"in/{evil}", None, error=f"in/{evil}: </li><script>alert(3)</script>")]
    page = page_of(tmp_path, entries, title=evil, about=evil, failed=failed, settings={evil: evil})
    assert len(page.of("script")) == 1
    assert [image for image in page.of("img") if "onerror" in image] == []
    assert page.cards()[0]["data-path"] == f"in/{evil}"


def test_the_policy_admits_the_script_of_the_page(tmp_path):
    text = write_report(tmp_path, [], title="demo").read_text(encoding="utf-8")
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text


def test_threshold_and_failures(tmp_path):
    entries = [entry(tmp_path, "a.jpg", 0.2), entry(tmp_path, "b.jpg", 0.9)]
    failed = [record("in/bad.png", None, error="in/bad.png: the file is empty")]
    page = page_of(tmp_path, entries, threshold=0.5, failed=failed)
    assert page.of("input", id="threshold")[0]["value"] == "0.5"
    assert [("over" in card["class"].split()) for card in page.cards()] == [True, False]
    assert "1 file could not be scored" in page.words
    assert "the file is empty" in page.words


def test_many_pictures_keep_the_page_small(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "EMBEDDED_THUMBNAILS", 2)
    page = page_of(tmp_path, [entry(tmp_path, f"{i}.jpg", i / 10) for i in range(3)])
    images = [image for image in page.of("img") if "src" in image]
    assert all((tmp_path / "out" / image["src"]).exists() for image in images)
    assert {image["loading"] for image in images} == {"lazy"}


def test_no_picture_at_all(tmp_path):
    page = page_of(tmp_path, [], failed=[record("x.png", None, error="no")])
    assert page.cards() == []


def test_missing_thumbnail_is_no_error(tmp_path):
    page = page_of(tmp_path, [ReportEntry(record("a.png"), None, tmp_path / "gone.jpg")])
    assert len(page.cards()) == 1


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


def test_relative_url_of_a_name_with_a_colon():
    assert relative_url(Path("out"), Path("out/c:d.png")) == "./c%3Ad.png"
