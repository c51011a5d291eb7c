"""`zsad-runtime` asks for nothing that zsad does not, never for torch; the container is no root."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[2]


def project(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def full():
    return project(ROOT)


@pytest.fixture(scope="module")
def runtime():
    return project(ROOT / "packaging" / "runtime")


def test_requirements_have_the_bounds_of_the_full_distribution(full, runtime):
    assert set(runtime["dependencies"]) < set(full["dependencies"])
    for extra in ("medical", "tiff", "serve"):
        assert set(runtime["optional-dependencies"][extra]) == set(full["optional-dependencies"][extra])
    assert runtime["optional-dependencies"]["cpu"] == full["optional-dependencies"]["runtime"]
    assert runtime["requires-python"] == full["requires-python"]
    assert runtime["scripts"] == full["scripts"]


def test_only_the_full_distribution_brings_torch(full, runtime):
    asked = sum(runtime["optional-dependencies"].values(), start=runtime["dependencies"])
    assert not [line for line in asked if line.startswith(("torch", "scipy", "safetensors", "transformers"))]
    assert any(line.startswith("torch>=") for line in full["dependencies"])


def test_the_container_runs_as_a_user_and_is_checked():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    assert all(stage.startswith("python:3.12-slim") for stage in stages)
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", stages[-1], re.MULTILINE)
    assert "HEALTHCHECK" in stages[-1]
    assert "/health" in stages[-1]
    assert "pip" not in stages[-1]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignored[0] == "*"
    assert "src/zsad/backbones/tiny" in ignored


def test_compose_wants_bundle_and_token_and_keeps_the_container_shut():
    (service,) = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"].values()
    assert service["environment"]["ZSAD_SERVE_TOKEN"].startswith("${ZSAD_SERVE_TOKEN:?")
    assert service["volumes"] == ["${ZSAD_BUNDLE:?the folder that zsad export wrote}:/bundle:ro"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
