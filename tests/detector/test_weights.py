"""The authors' files in the manifest: listed, fetched, verified, and loaded by their names."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

import zsad
from zsad.backbones.catalog import backbone_records
from zsad.backbones.loading import write_packaged
from zsad.cli import app
from zsad.detector import weights as weights_manifest
from zsad.detector.weights import fetch, find_record, manifest, published_weights, verify
from zsad.errors import WeightsError
from zsad.files.cache import cached_path, sha256_of
from zsad.methods._registry import list_methods, method_class

NAME = "anomalyclip-trained-on-visa"


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZSAD_CACHE", str(tmp_path / "cache"))
    for switch in ("ZSAD_OFFLINE", "HF_HUB_OFFLINE"):  # --offline sets them, and this sets them back
        monkeypatch.setenv(switch, "")


@pytest.fixture
def golden_weights(golden_path, golden_clip, tmp_path, monkeypatch):
    """A record of the same name as a real one whose file is the golden one, in the cache."""
    theirs = golden_path / "anomalyclip_official.pth"
    backbone = tmp_path / "backbone"
    write_packaged(golden_clip, backbone)
    known = published_weights()[NAME]
    record = replace(known.record, sha256=sha256_of(theirs), bytes=None, backbone=str(backbone))
    here = cached_path(record.source, record.sha256)
    here.parent.mkdir(parents=True)
    here.write_bytes(theirs.read_bytes())
    monkeypatch.setattr(method_class(known.method), "WEIGHTS", (record,))
    return theirs, backbone


@pytest.mark.parametrize(
    "published", published_weights().values(), ids=lambda published: published.record.name
)
def test_records_are_complete(published):
    record = published.record
    assert method_class(published.method).INFO.needs_training
    assert record.name.startswith(f"{published.method}-trained-on-")
    assert record.source.startswith("https://")
    assert record.page.startswith("https://")
    assert record.backbone in {backbone.name for backbone in backbone_records()}
    assert record.licence
    assert record.auxiliary_data
    assert record.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", record.sha256)
    assert record.sha256 or "no checksum" in record.notes


def test_names_are_told_apart_and_listed():
    names = [record.name for record in manifest()]
    assert len(names) == len(set(names))
    assert set(published_weights()) < set(names)
    assert {published.method for published in published_weights().values()} <= set(list_methods())


def test_a_file_that_is_not_here_is_asked_for_with_its_command():
    with pytest.raises(WeightsError, match=f"not on this machine: zsad weights fetch {NAME}$"):
        zsad.load("anomalyclip", checkpoint=NAME)


def test_loaded_by_name(golden_weights):
    theirs, backbone = golden_weights
    found = zsad.load(checkpoint=NAME, device="cpu")
    expected = zsad.load("anomalyclip", backbone, theirs, device="cpu")
    assert found.method.INFO.name == "anomalyclip"
    assert found.method.config == expected.method.config
    assert found.auxiliary_data == published_weights()[NAME].record.auxiliary_data
    kept = found.method.learned_state()
    assert all(kept[name].equal(tensor) for name, tensor in expected.method.learned_state().items())


def test_a_name_of_another_method_is_refused(golden_weights):
    with pytest.raises(WeightsError, match="holds weights of anomalyclip, not of glocalclip"):
        zsad.load("glocalclip", checkpoint=NAME)


def test_a_new_system_brings_its_weights_along(monkeypatch):
    """Nothing but the module of a method names the files of its authors."""
    record = replace(find_record(NAME), name="winclip-trained-on-nothing")
    monkeypatch.setattr(method_class("winclip"), "WEIGHTS", (record,))
    assert find_record(record.name) == record
    assert published_weights()[record.name].method == "winclip"


def test_a_damaged_file_does_not_count(golden_weights):
    record = find_record(NAME)
    path = cached_path(record.source, record.sha256)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert [check.state for check in verify(record)] == ["broken"]
    with pytest.raises(WeightsError, match="zsad weights fetch"):
        zsad.load(checkpoint=NAME)


def test_fetch_says_how_to_get_it_by_hand(no_network):
    record = find_record("adaclip-trained-on-all")
    with pytest.raises(WeightsError) as caught:
        fetch(record.name, offline=True)
    assert record.page in str(caught.value)
    assert str(cached_path(record.source, record.sha256)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fetch_takes_the_published_sum(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        weights_manifest, "download", lambda *args, **kwargs: asked.append(args) or tmp_path / "file.pth"
    )
    fetch(NAME)
    record = find_record(NAME)
    assert asked == [(record.source, record.sha256, record.bytes)]


def test_convert_by_name_with_a_setting(golden_weights, tmp_path):
    out = tmp_path / "ours.safetensors"
    words = ["weights", "convert", NAME, "-m", "anomalyclip", "-b", str(golden_weights[1]), "-o", str(out)]
    answer = CliRunner().invoke(app, [*words, "--set", "sigma=2", "--offline"])
    assert answer.exit_code == 0, answer.stderr
    found = zsad.load(backbone=golden_weights[1], checkpoint=out, device="cpu")
    assert found.method.config.sigma == 2
    assert found.auxiliary_data == find_record(NAME).auxiliary_data
    assert CliRunner().invoke(app, [*words, "--overwrite", "--set", "sigmas=2"]).exit_code == 2
