"""A real browser for the tests of pages, and axe-core for their accessibility."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
IN_CONTAINERS = ["--no-sandbox", "--disable-dev-shm-usage"]  # without namespaces, with a small /dev/shm
FAKE_CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


@contextlib.contextmanager
def open_browser():
    """A Chromium without a window; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*IN_CONTAINERS, *FAKE_CAMERA])
        yield browser
        browser.close()


@contextlib.contextmanager
def open_page(browser, address, **options):
    """A page that has finished loading, and the list of what went wrong inside it and where it went."""
    context = browser.new_context(accept_downloads=True, **options)
    page = context.new_page()
    page.problems, page.requests = [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda line: page.problems.append(line.text) if "Security" in line.text else None)
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(address)
    yield page
    context.close()


def wait_until_scored(page, count, timeout=60_000):
    """Waits until every image of the list has a score or an error."""
    page.wait_for_function(
        "count => document.querySelectorAll('.item').length === count"
        " && !document.querySelector('.badge.waiting')",
        arg=count,
        timeout=timeout,
    )


def serious_findings(page):
    """What axe-core finds serious or critical on a page; the test is skipped without axe-core."""
    script = node_module("axe-core") / "axe.min.js"
    page.evaluate(script.read_text(encoding="utf-8"))
    found = page.evaluate("() => axe.run()")
    assert len(found["passes"]) > 15  # it has really looked
    return [
        (finding["id"], [node["target"] for node in finding["nodes"]])
        for finding in found["violations"]
        if finding["impact"] in ("serious", "critical")
    ]


def node_module(name):
    """Folder of a package that npm has installed; the test is skipped without it."""
    folders = [os.environ.get("NODE_PATH", ""), Path(__file__).parents[2] / "node_modules"]
    found = [Path(folder) / name for folder in filter(None, folders) if (Path(folder) / name).is_dir()]
    if not found:
        pytest.skip(f"npm install {name}, here or in the folder above NODE_PATH")
    return found[0]
