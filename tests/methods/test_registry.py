"""Finding methods without a list of them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import pytest

from zsad.errors import ConfigError
from zsad.files.settings import build_config, describe
from zsad.methods import _registry as registry
from zsad.methods.base import Method


def test_the_shipped_methods_are_listed():
    assert {"anomalyclip", "winclip"} <= set(registry.list_methods())
    assert "base" not in registry.list_methods()
    assert registry.list_methods() == sorted(registry.list_methods())


def test_listing_does_not_import_torch():
    code = "import sys, zsad; zsad.list_methods(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", registry.list_methods())
def test_each_is_one_class_with_its_name(name):
    kind = registry.method_class(name)
    assert issubclass(kind, Method)
    assert kind.INFO.name == name


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigError, match="unknown method 'winclap', did you mean 'winclip'"):
        registry.method_class("winclap")


class TestPlugins:
    @pytest.fixture
    def plug_in(self, monkeypatch):
        class Entry:
            def __init__(self, value):
                self.load = lambda: value

        def install(**entries):
            monkeypatch.setattr(registry, "_plugins", lambda: {k: Entry(v) for k, v in entries.items()})

        return install

    def test_a_class_or_a_module(self, plug_in):
        from zsad.methods import winclip

        plug_in(by_class=winclip.WinCLIP, by_module=winclip)
        assert {"by_class", "by_module"} <= set(registry.list_methods())
        assert registry.method_class("by_class") is registry.method_class("by_module") is winclip.WinCLIP

    def test_a_module_without_method(self, plug_in):
        plug_in(empty=pytest)
        with pytest.raises(ConfigError, match="exactly one Method subclass, found 0"):
            registry.method_class("empty")

    def test_a_shipped_method_wins(self, plug_in):
        plug_in(winclip=pytest)
        assert registry.method_class("winclip").__module__ == "zsad.methods.winclip"


class TestSettings:
    @pytest.mark.parametrize(("value", "converted"), [([1, 2], (1, 2)), ((3,), (3,)), (None, None)])
    def test_lists_become_tuples(self, value, converted):
        assert build_config(_Demo, {"layers": value}, "demo").layers == converted

    @pytest.mark.parametrize(
        "settings",
        [
            {"layers": []},
            {"layers": [1.5]},
            {"layers": [True]},
            {"layers": "12"},
            {"sigma": "4"},
            {"sigma": True},
            {"sigma": None},
            {"half": 1},
        ],
    )
    def test_wrong_types_are_refused_by_name(self, settings):
        with pytest.raises(ConfigError, match=f"{next(iter(settings))} of demo must be"):
            build_config(_Demo, settings, "demo")

    def test_describe(self):
        assert describe(bool) == "True or False"


@dataclass(frozen=True)
class _Demo:
    layers: tuple[int, ...] | None = None
    sigma: float = 4.0
    half: bool = True


@dataclass(frozen=True)
class Words:
    path: str
    detector: Literal["some", "none"] = "some"
    other: Literal["none"] | None = "none"


def test_paths_are_texts_and_none_is_a_word_where_it_is_one(tmp_path):
    found = build_config(Words, {"path": tmp_path, "detector": None, "other": None}, "demo")
    assert found == Words(str(tmp_path), "none", None)


def test_a_setting_without_default_must_be_given():
    with pytest.raises(ConfigError, match="demo needs path: a text"):
        build_config(Words, {}, "demo")
