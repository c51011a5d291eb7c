"""HTML pages: escaped, self-contained, and complete or an error."""

import re
from importlib import resources

import pytest
from jinja2 import UndefinedError

from helpers.html_page import Page
from zsad.files.pages import render_page, script_hash, split_addresses, write_page

EVIL = "\"><img src=x onerror=alert(1)><script>alert(2)</script>'"
TEMPLATES = resources.files("zsad.files").joinpath("templates")
PAGES = sorted(path.name.removesuffix(".js") for path in TEMPLATES.iterdir() if path.name.endswith(".js"))
PREDICTION = {
    "title": EVIL,
    "about": EVIL,
    "gradient": "red, blue",
    "low": "0",
    "high": "1",
    "bars": [],
    "ticks": [],
    "threshold": "",
    "verdict": None,
    "calibration": None,
    "failed": [(EVIL, EVIL)],
    "failures": 1,
    "cards": {"path": [EVIL], "name": [f"</script>{EVIL}"]},
    "settings": [(EVIL, f"https://example.org/{EVIL}")],
    "fixed_scale": True,
    "map_low": "0",
    "map_high": "1",
    "folder_mode": "",
    "decimals": 3,
}


def test_every_text_is_escaped():
    page = Page(render_page("prediction", PREDICTION))
    page.assert_safe()
    assert page.words.count(EVIL) >= 3
    assert page.data("cards") == PREDICTION["cards"]
    links = [link["href"] for link in page.of("a") if "href" in link]
    assert [link for link in links if link.startswith("https:")] == ["https://example.org/"]


@pytest.mark.parametrize("name", ["title", "cards", "map_high"])
def test_a_missing_variable_is_an_error(tmp_path, name):
    values = {key: value for key, value in PREDICTION.items() if key != name}
    with pytest.raises(UndefinedError, match=name):
        write_page(tmp_path / "index.html", "prediction", values)
    assert list(tmp_path.iterdir()) == []


def test_the_policy_admits_only_the_script_of_the_page():
    text = render_page("prediction", PREDICTION)
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)[1]
    assert f"script-src '{script_hash(script)}';" in text
    assert "default-src 'none'" in text
    assert "img-src 'self' file: data:\"" in text  # no host of the network


def test_every_page_extends_the_base():
    assert PAGES == ["evaluation", "prediction"]
    for name in PAGES:
        source = TEMPLATES.joinpath(f"{name}.html").read_text(encoding="utf-8")
        assert '{% extends "base.html" %}' in source
        assert "<style" not in source
        assert "<script" not in source.replace('<script type="application/json"', "")


def test_lone_surrogates_of_file_names_can_be_written(tmp_path):
    write_page(tmp_path / "index.html", "prediction", {**PREDICTION, "title": "a\udce4.png"})
    assert "a\\udce4.png" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_split_addresses_alternates():
    assert split_addresses("plain") == ["plain"]
    assert split_addresses("https://a.org") == ["", "https://a.org", ""]
    assert split_addresses("javascript:alert(1) http://a.org") == ["javascript:alert(1) http://a.org"]
