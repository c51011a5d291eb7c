"""A user's own state words: read, checked, used by the methods with hand-written sentences, kept in files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import zsad
from zsad.cli import app
from zsad.errors import ConfigError
from zsad.methods.prompts.state_words import StateWords, parse_state_words, read_state_words
from zsad.methods.prompts.templates import average_vector, prompt_set

METHODS = ("winclip", "clip_ac", "april_gan")
OWN = {"normal": ["{}", "shiny"], "abnormal": ["cracked", "a dent"], "templates": ["a photo of the {}."]}
NORMAL = ["a photo of the nut.", "a photo of the shiny nut."]
ABNORMAL = ["a photo of the cracked nut.", "a photo of the nut with a dent."]


@pytest.mark.parametrize("name", METHODS)
def test_methods_use_them(make_small_clip, name):
    clip = make_small_clip()
    detector = zsad.load(name, clip, "fresh", device="cpu", state_words=OWN)
    found = detector.method.prepare(["nut"]).text_features[0]
    expected = torch.stack([average_vector(clip, NORMAL), average_vector(clip, ABNORMAL)])
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("name", METHODS)
def test_what_is_left_out_stays_the_papers(make_small_clip, name):
    paper = zsad.load(name, make_small_clip(), "fresh", device="cpu").method.text.prompts
    own = zsad.load(name, make_small_clip(), "fresh", device="cpu", state_words={"abnormal": ["torn"]})
    assert own.method.text.prompts.normal_states == paper.normal_states
    assert own.method.text.prompts.templates == paper.templates
    assert own.method.text.prompts.abnormal_states == ("torn {}",)


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_detector_keeps_them(make_small_clip, uint8_images, tmp_path, name):
    detector = zsad.load(name, make_small_clip(), "fresh", device="cpu", state_words=OWN)
    detector.is_trained = True
    path = detector.save(tmp_path / "own.safetensors")
    again = zsad.load(checkpoint=path, backbone=make_small_clip(), device="cpu")
    assert again.method.config.state_words == detector.method.config.state_words
    np.testing.assert_array_equal(
        again.predict(uint8_images[0]).anomaly_map, detector.predict(uint8_images[0]).anomaly_map
    )
    papers = zsad.load(checkpoint=path, backbone=make_small_clip(), device="cpu", state_words=None)
    assert papers.method.config.state_words is None


def test_methods_with_learnt_prompts_refuse_them(small_clip):
    with pytest.raises(ConfigError, match="state_words"):
        zsad.load("anomalyclip", small_clip, "fresh", state_words=OWN)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "normal, abnormal or templates"),
        ({"abnromal": ["cracked"]}, "did you mean 'abnormal'"),
        ({"abnormal": []}, "list of texts"),
        ({"abnormal": "cracked"}, "list of texts"),
        ({"abnormal": [3]}, "list of texts"),
        ({"abnormal": [" "]}, "words"),
        ({"abnormal": ["{} or {}"]}, "once"),
        ({"templates": ["a photo"]}, "once"),
        (["cracked"], "mapping"),
        (7, "mapping"),
    ],
)
def test_impossible_words(small_clip, words, message):
    with pytest.raises(ConfigError, match=message):
        zsad.load("winclip", small_clip, state_words=words)


@pytest.mark.parametrize("words", [{"normal": ()}, {"abnormal": "cracked"}, {"templates": (3,)}])
def test_impossible_words_in_the_dataclass(words):
    with pytest.raises(ConfigError):
        StateWords(**words)


def test_a_yaml_file(tmp_path):
    path = tmp_path / "words.yaml"
    path.write_text("abnormal: [cracked, with rust]\ntemplates:\n  - a photo of my {}.\n", encoding="utf-8")
    prompts = read_state_words(path).replace_in(prompt_set("paper"))
    assert prompts.for_class("nut")[1] == ["a photo of my cracked nut.", "a photo of my nut with rust."]
    assert parse_state_words(str(path)) == read_state_words(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abnormal: [cracked", "is not YAML"),
        (b"- cracked", r"expected names with values, as in 'abnormal: \[cracked\]', got \['cracked'\]"),
        (b"", "got None"),
        (b"1: 2", r"got \{1: 2\}"),
        (b"abnormal: cracked", "list of texts"),
        (b"abnormal: [no]", "list of texts"),
        (b"bnormal: [x]", "did you mean"),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, message):
    path = tmp_path / "words.yml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_state_words(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        parse_state_words(str(tmp_path / "none.yaml"))


class TestCommand:
    @pytest.fixture
    def loads(self, monkeypatch):
        """Settings that reach `zsad.load`, which then stops the run."""
        found = []

        def load(**settings):
            found.append(settings)
            raise ConfigError("enough")

        monkeypatch.setattr(zsad, "load", load, raising=False)
        return found

    def predict(self, folder, *arguments):
        from PIL import Image

        Image.new("RGB", (8, 8)).save(folder / "a.png")
        command = ["predict", str(folder / "a.png"), "--out", str(folder / "out"), *map(str, arguments)]
        return CliRunner().invoke(app, command)

    def test_words(self, loads, tmp_path):
        self.predict(tmp_path, "--method", "winclip", "--state-words", "cracked,a dent")
        assert loads[0]["state_words"] == StateWords(abnormal=("cracked", "a dent"))

    def test_none(self, loads, tmp_path):
        self.predict(tmp_path)
        assert "state_words" not in loads[0]

    @pytest.mark.parametrize("words", [" , ", "missing.yaml"])
    def test_impossible(self, loads, tmp_path, words):
        refused = self.predict(tmp_path, "--state-words", words)
        assert refused.exit_code == 2
        assert not loads

    def test_the_run_remembers_them(self, small_clip, tmp_path, monkeypatch):
        """From the command line to the scores, with a resume that other words may not join."""
        real = zsad.load
        monkeypatch.setattr(
            zsad,
            "load",
            lambda **given: real(**{**given, "backbone": small_clip, "device": "cpu"}),
            raising=False,
        )
        arguments = ["--method", "clip_ac", "--format", "none", "--state-words"]
        assert self.predict(tmp_path, *arguments, "cracked").exit_code == 0
        assert self.predict(tmp_path, *arguments, "cracked", "--resume").exit_code == 0
        refused = self.predict(tmp_path, *arguments, "torn", "--resume")
        assert refused.exit_code == 2
        assert "torn" in refused.output
