"""Prompts written for each product: the shipped ones, files of users, and those of a language model."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pytest

import zsad
from zsad.data import dataset_record
from zsad.errors import ConfigError, DataError, ZsadError
from zsad.methods.prompts.written import (
    DEFAULT,
    ClassPrompts,
    WrittenPrompts,
    read_prompts,
    shipped_prompts,
)


def test_five_sentences_of_each_kind_for_every_class_of_the_papers():
    shipped = shipped_prompts()
    categories = [*dataset_record("mvtec").categories, *dataset_record("visa").categories]
    assert {name.replace("_", " ") for name in categories} | {DEFAULT} == set(shipped)
    for name, prompts in shipped.items():
        assert len(set(prompts.normal)) == len(set(prompts.abnormal)) == 5
        assert not set(prompts.normal) & set(prompts.abnormal)
        assert all(("{}" in each) == (name == DEFAULT) for each in (*prompts.normal, *prompts.abnormal))


def test_other_names_take_the_general_sentences():
    normal, abnormal = WrittenPrompts().for_class("gear_wheel")
    assert all("gear wheel" in each and "{}" not in each for each in (*normal, *abnormal))
    assert WrittenPrompts().for_class("Metal_Nut") == WrittenPrompts().for_class("metal nut")


def test_own_prompts_come_first_and_a_gap_is_said():
    own = WrittenPrompts({"gear": ClassPrompts(("a fine {}",), ("a bad {}",))})
    assert own.for_class("gear") == (["a fine gear"], ["a bad gear"])
    with pytest.warns(UserWarning, match="no entry 'screw', so zsad's own serve it; they have: gear"):
        found = own.for_class("screw")
    assert found == WrittenPrompts().for_class("screw")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        anything = WrittenPrompts({DEFAULT: ClassPrompts(("a fine {}",), ("a bad {}",))})
        assert anything.for_class("screw") == (["a fine screw"], ["a bad screw"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON|not JSON"),
        ("[]", "expected a JSON object"),
        ('{"nut": 3}', "'nut' must be"),
        ('{"nut": {"normal": ["a"]}}', "'nut' needs abnormal"),
        ('{"nut": {"normal": ["a"], "abnormal": []}}', "abnormal"),
        ('{"nut": {"normal": ["a"], "abnormal": [3]}}', "abnormal"),
        ('{"nut": {"normal": "a", "abnormal": ["b"]}}', "normal"),
        ('{"nut": {"normal": ["a"], "abnormal": ["b"], "other": ["c"]}}', "other"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(text, words, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises((ConfigError, DataError), match=words) as caught:
        read_prompts(path)
    assert "mine.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.json cannot be read"):
        read_prompts(tmp_path / "none.json")


def test_a_language_model_fills_a_file_that_is_read_back(tmp_path):
    asked = []

    def llm(request):
        asked.append(request)
        return '1. a first sentence\n\n- a second one\n* "a third"\n'

    path = zsad.prompts.write_prompts(llm, ["metal_nut", "screw"], tmp_path / "prompts.json")
    assert len(asked) == 4
    assert ["metal nut" in request for request in asked] == [True, True, False, False]
    assert ["flawless" in request for request in asked] == [True, False, True, False]
    found = read_prompts(path)
    assert found["screw"].normal == ("a first sentence", "a second one", "a third")
    zsad.prompts.write_prompts(llm, ["screw", "gear"], path)
    assert len(asked) == 6  # the entry that is there is kept
    assert list(json.loads(path.read_text(encoding="utf-8"))) == ["metal_nut", "screw", "gear"]


def test_a_language_model_that_fails_loses_nothing(tmp_path):
    def llm(request):
        if "gear" in request:
            raise RuntimeError("quota\nused up")
        return "a sentence"

    path = tmp_path / "prompts.json"
    with pytest.raises(ZsadError, match="failed on 'gear': quota used up"):
        zsad.prompts.write_prompts(llm, ["nut", "gear"], path)
    assert list(read_prompts(path)) == ["nut"]
    with pytest.raises(ZsadError, match="wrote nothing on 'bolt'"):
        zsad.prompts.write_prompts(lambda request: " \n", ["bolt"], path)


def test_importing_needs_no_torch():
    code = "import sys; from zsad.prompts import write_prompts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
