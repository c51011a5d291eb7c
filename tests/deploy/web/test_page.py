"""The page that scores images: all its files, its policy, and its scripts against Python's formulas."""

import base64
import io
import math
import re
import zipfile
from pathlib import PurePosixPath

import numpy as np
import pytest

from helpers.html_page import Page
from helpers.image_bytes import png
from helpers.javascript import needs_node, run_script
from zsad.deploy.web.page import BROWSER_POLICY, PAGE_FOLDER, SERVER_POLICY, BrowserModel, page_files
from zsad.detector.calibration.statistics import (
    alarms_allowed,
    promised_confidence,
    promised_rate,
    threshold_above,
)
from zsad.detector.calibration.wording import percent
from zsad.detector.fitting.statistics import left_out_rate
from zsad.files.csv_tables import csv_text
from zsad.files.pages import PAGE_FILE
from zsad.images.saving import read_map, write_file

IN_BROWSER = BrowserModel({"name": "\"><img src=x onerror=alert(1)>'", "graph": "graph.onnx"}, "runtime/")
MOST_LINES = 400


def scripts():
    folder = f"{PAGE_FOLDER}/"
    return {
        path.removeprefix(folder): content for path, content in page_files().items() if path.endswith(".js")
    }


@pytest.mark.parametrize("browser", [None, IN_BROWSER], ids=["server", "browser"])
def test_everything_comes_from_the_page_itself(browser):
    files = page_files(browser)
    page = Page(files[PAGE_FILE].decode())
    links = [tag["href"] for tag in page.of("link")] + [tag["src"] for tag in page.of("script")]
    assert len(links) == 3
    for name, content in files.items():
        if name.endswith(".js"):
            imported = re.findall(rb'(?:from|import\() ?"\./([\w.]+)"', content)
            links += [f"{PAGE_FOLDER}/{each.decode()}" for each in imported]
    assert set(links) <= set(files)
    without_names = b"".join(files.values()).replace(b"http://www.w3.org/2000/svg", b"")
    assert not re.search(rb"https?://", without_names)


@pytest.mark.parametrize("browser", [None, IN_BROWSER], ids=["server", "browser"])
def test_no_inline_script_or_style_and_every_text_escaped(browser):
    page = Page(page_files(browser)[PAGE_FILE].decode())
    assert page.unclosed == page.open == []
    assert page.of("script") == [{"type": "module", "src": f"{PAGE_FOLDER}/app.js"}]
    assert not page.of("style")
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
    policy = page.of("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy == (SERVER_POLICY if browser is None else BROWSER_POLICY)
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy
    assert "'unsafe-eval'" not in policy
    assert not [tag for tag in page.of("img") if "onerror" in tag]


def test_every_name_that_a_script_looks_up_exists():
    page = Page(page_files()[PAGE_FILE].decode())
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'find\("([\w-]+)"\)', b"".join(scripts().values()).decode()))
    assert len(wanted) > 40
    assert wanted <= set(ids)


def test_scripts_are_short():
    assert len(scripts()) >= 10
    assert max(content.count(b"\n") for content in scripts().values()) <= MOST_LINES


@needs_node
def test_promises_are_those_of_python(tmp_path):
    cases = [(n, k) for n in (3, 20, 59, 93, 400) for k in (0, 1, 2) if k < n]
    code = """import * as promise from "./promise.js";
---
return given.map(([n, k]) => [
  promise.promisedConfidence(n, k, 0.05), promise.promisedRate(n, k, 0.95),
  promise.alarmsAllowed(n, 0.05, 0.95), promise.averageRate(n, k, 0), promise.averageRate(n, k, 2),
  promise.percent(promise.promisedRate(n, k, 0.95)),
]);"""
    found = run_script(tmp_path, scripts(), code, cases)
    for (n, k), (confidence, rate, allowed, average, left_out, words) in zip(cases, found, strict=True):
        assert confidence == pytest.approx(promised_confidence(n, k, 0.05), abs=1e-12)
        assert rate == pytest.approx(promised_rate(n, k, 0.95), rel=1e-9)
        assert allowed == alarms_allowed(n, 0.05, 0.95)
        assert average == pytest.approx((k + 1) / (n + 1))
        assert left_out == pytest.approx(left_out_rate(n, k, 2))
        assert words.replace("\u00a0", " ") == percent(promised_rate(n, k, 0.95))


@needs_node
def test_thresholds_are_those_of_python(tmp_path):
    generator = np.random.default_rng(3)
    cases = [generator.random(count).tolist() for count in (3, 4, 20, 60)]
    cases += [[0.5] * 5, [0.1, 0.2, 0.2, 0.2], [0.3, 0.3 + 1e-7, 0.30001], (-generator.random(9)).tolist()]
    code = """import { thresholdAbove } from "./promise.js";
---
return given.flatMap((scores) => [0, 1, 2].map((alarms) => thresholdAbove(scores, alarms)));"""
    found = run_script(tmp_path, scripts(), code, cases)
    expected = [threshold_above(scores, alarms) for scores in cases for alarms in (0, 1, 2)]
    assert found == expected


@needs_node
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 48)])
def test_maps_are_read_to_the_last_bit(tmp_path, size):
    generator = np.random.default_rng(1)
    smooth = np.linspace(0, 2, size[0] * size[1]).reshape(size)
    anomaly_map = (smooth + 0.2 * generator.random(size)).astype(np.float32)
    pixels = np.zeros((*size, 3), np.uint8)
    path = write_file("map", tmp_path / "map.png", pixels, anomaly_map, (-0.5, 2.5))
    code = """import { readPng16, valueAt } from "./maps.js";
---
const map = await readPng16(Uint8Array.from(atob(given), (c) => c.charCodeAt(0)));
return [map.width, map.height, Array.from(map.levels, (_, index) => valueAt(map, index))];"""
    encoded = base64.b64encode(path.read_bytes()).decode()
    width, height, values = run_script(tmp_path, scripts(), code, encoded)
    assert (height, width) == size
    assert np.array_equal(np.float32(values).reshape(size), read_map(path))


@needs_node
def test_every_filter_of_png_is_undone(tmp_path):
    # Pillow writes only some filters, so the rows are filtered here, each by another one.
    values = np.random.default_rng(2).integers(0, 65536, (5, 6)).astype(">u2")
    rows = values.view(np.uint8).reshape(5, 12).astype(int)
    body = b""
    for kind, row in enumerate(rows):
        left = np.concatenate([[0, 0], row[:-2]])
        above = rows[kind - 1] if kind else np.zeros(12, int)
        corner = np.concatenate([[0, 0], above[:-2]])
        estimate = left + above - corner
        distances = np.abs(np.stack([estimate - left, estimate - above, estimate - corner]))
        paeth = np.stack([left, above, corner])[distances.argmin(axis=0), np.arange(12)]
        prediction = [0, left, above, (left + above) // 2, paeth][kind]
        body += bytes([kind]) + ((row - prediction) % 256).astype(np.uint8).tobytes()
    file = png(6, 5, 16, 0, body, (b"tEXt", b"zsad:map_range\x000.0 1.0"))
    code = """import { readPng16 } from "./maps.js";
---
return [...(await readPng16(Uint8Array.from(atob(given), (c) => c.charCodeAt(0)))).levels];"""
    levels = run_script(tmp_path, scripts(), code, base64.b64encode(file).decode())
    assert levels == values.ravel().tolist()


@needs_node
def test_tables_are_those_of_python(tmp_path):
    names = ["a.png", "=1+1.png", 'a;=1,"x.png', " +x", "é\nb.png", "\t=x", "a|-b"]
    rows = [
        {"name": name, "score": 0.25, "is_anomalous": True, "threshold": None, "width": 3, "height": 4}
        for name in names
    ]
    code = """import { COLUMNS, csvText } from "./files.js";
---
return [COLUMNS, csvText(given)];"""
    columns, text = run_script(tmp_path, scripts(), code, rows)
    assert text == "\ufeff" + csv_text(columns, rows)


@needs_node
def test_archives_can_be_unpacked_and_hold_no_folders(tmp_path):
    code = """import { zip } from "./files.js";
---
const files = given.map((name, index) => ({ name, blob: new Blob([`content ${index}`]) }));
return Buffer.from(await (await zip(files)).arrayBuffer()).toString("base64");"""
    names = ["a.jpg", "A.jpg", "../../etc/passwd", "über.jpg", "noend"]
    content = base64.b64decode(run_script(tmp_path, scripts(), code, names))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["a.jpg", "A-2.jpg", ".._.._etc_passwd", "über.jpg", "noend"]
        assert all(PurePosixPath(name).name == name for name in archive.namelist())
        assert archive.read("über.jpg") == b"content 3"


@needs_node
def test_the_histogram_holds_all_scores(tmp_path):
    cases = [[], [0.5], [0.0, 1.0], [0.30, 0.31], [-2.0, 3.0]]
    code = """import { histogramRange } from "./decision.js";
---
return given.map(histogramRange);"""
    for scores, (low, high) in zip(cases, run_script(tmp_path, scripts(), code, cases), strict=True):
        assert low < high
        assert all(low <= score <= high for score in scores)
        assert not math.isnan(low)
