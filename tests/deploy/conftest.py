"""Fixtures of exported detectors and what runs them."""

from __future__ import annotations

import pytest

from helpers.bare_environment import make_bare


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """An environment made by the steps of the Dockerfile; half a minute."""
    return make_bare(tmp_path_factory.mktemp("bare"))
