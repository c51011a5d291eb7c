"""The requests that docs/serving.md shows are answered."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.server_process import serving

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"


def commands():
    """Every line of the page that asks the server, or reads what it answered."""
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        yield from (line for line in block.splitlines() if ADDRESS in line or line.startswith("python -c"))


@pytest.mark.slow
def test_the_requests_are_answered(tmp_path):
    examples = sorted((ROOT / "examples").glob("*.jpg"))
    names = ["part.png", "part.jpg", "good_1.png", "good_2.png", "good_3.png"]
    for path, name in zip(examples, names, strict=False):
        shutil.copy(path, tmp_path / name)
    found = list(commands())
    assert len(found) >= 6
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    answers = []
    with serving("--allow-fit", "--method", "anomalyclip") as server:
        for command in found:
            done = subprocess.run(
                ["bash", "-c", command.replace(ADDRESS, server.url)],
                cwd=tmp_path,
                env=environment,
                check=True,
                capture_output=True,
                text=True,
            )
            if done.stdout:
                answers.append(json.loads(done.stdout))
    assert not [answer for answer in answers if "error" in answer]
    assert sum("results" in answer for answer in answers) == 2
    assert (tmp_path / "overlay.png").read_bytes().startswith(b"\x89PNG")
    (fit,) = (answer for answer in answers if "promise" in answer)
    assert [image["name"] for image in fit["images"]] == names[2:]


def test_the_page_names_every_status_that_the_server_gives():
    from zsad.deploy.server.answers import STATUSES

    for status in STATUSES:
        assert str(status) in PAGE, status
