"""`zsad weights` without a network: what is listed, fetched, verified and converted."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from typer.testing import CliRunner

import zsad
from zsad.backbones.catalog import list_backbones
from zsad.backbones.loading import write_packaged
from zsad.cli import app
from zsad.detector import checkpoints, choosing
from zsad.detector import weights as weights_manifest
from zsad.detector.weights import (
    DESCRIPTION_KEY,
    PACKAGED_BACKBONE,
    files_of,
    find_record,
    manifest,
    shipped_records,
    verify,
)
from zsad.files.cache import cached_path
from zsad.types import WeightRecord

DATA = b"weights"
SUM = hashlib.sha256(DATA).hexdigest()
LEARNED_METHODS = ["adaclip", "anomalyclip", "april_gan", "glocalclip"]


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("ZSAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ZSAD_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(weights_manifest, "OTHER_CACHES", (tmp_path / "clip",))
    monkeypatch.setattr("zsad.files.cache.OTHER_CACHES", (tmp_path / "clip",))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None)


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    return lambda *words: CliRunner().invoke(app, ["weights", *map(str, words)])


def a_record(source="https://example.org/file.pt", sha256=SUM):
    return WeightRecord("toy", source, 32, (0, 0, 0), (1, 1, 1), "gelu", "none", sha256=sha256)


def put(path, content=DATA):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# --- list


def test_list_names_everything(run):
    answer = run("list")
    assert answer.exit_code == 0
    for record in manifest():
        assert record.name in answer.stdout
        assert record.source in answer.stdout
        assert record.licence in answer.stdout
        assert record.sha256 is None or record.sha256 in answer.stdout


def test_list_as_json(run):
    listed = {entry["name"]: entry for entry in json.loads(run("list", "--json").stdout)}
    assert listed.keys() == {record.name for record in manifest()}
    assert set(list_backbones()) < listed.keys()
    assert listed["ViT-L-14-336"]["files"] == []
    assert Path(listed["tiny"]["files"][0]).is_file()
    shipped = listed["tiny/anomalyclip"]
    assert shipped["backbone"] == "tiny"
    assert shipped["bytes"] == Path(shipped["files"][0]).stat().st_size


def test_constants_agree_with_those_of_the_checkpoints():
    assert DESCRIPTION_KEY == checkpoints.METADATA_KEY
    assert PACKAGED_BACKBONE == choosing.PACKAGED_BACKBONE


def test_sums_that_pip_noted(monkeypatch):
    path = files_of(find_record("tiny/anomalyclip"))[0]
    digest = hashlib.sha256(path.read_bytes())
    noted = base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")
    entry = SimpleNamespace(
        suffix=".safetensors", hash=SimpleNamespace(mode="sha256", value=noted), locate=lambda: path
    )
    monkeypatch.setattr(weights_manifest, "installed_files", lambda name: [entry])
    records = {record.name: record for record in shipped_records(find_record("tiny"))}
    assert records["tiny/anomalyclip"].sha256 == digest.hexdigest()
    assert verify(records["tiny/anomalyclip"])[0].state == "ok"


# --- verify


def test_what_ships_is_as_published(run):
    answer = run("verify")
    assert answer.exit_code == 0
    assert "tiny.safetensors" in answer.stdout
    assert "ViT-B-32" not in answer.stdout


def test_a_damaged_file_is_found(run):
    record = find_record("ViT-B-32")
    path = put(cached_path(record.source, record.sha256))
    answer = run("verify", "ViT-B/32")
    assert answer.exit_code == 1
    assert f"SHA-256 {SUM} instead of {record.sha256}" in answer.stdout
    assert str(path) in answer.stderr
    assert run("verify").exit_code == 1


def test_verifying_what_is_not_here(run):
    answer = run("verify", "ViT-B-32")
    assert answer.exit_code == 1
    assert "zsad weights fetch ViT-B-32" in answer.stderr


@pytest.mark.parametrize(("sha256", "state"), [(SUM, "ok"), (SUM[:8], "ok"), ("0" * 64, "broken")])
def test_states(sha256, state):
    record = a_record(sha256=sha256)
    path = put(cached_path(record.source, record.sha256))
    assert [(check.path, check.state) for check in verify(record)] == [(path, state)]


def test_other_caches_count_only_with_the_right_sum(tmp_path):
    path = put(tmp_path / "clip" / "file.pt")
    assert files_of(a_record()) == [path]
    path.write_bytes(b"something else of that name")
    assert files_of(a_record()) == []


@pytest.mark.parametrize(("name", "state"), [(SUM, "ok"), ("0" * 64, "broken"), ("weights", "no checksum")])
def test_files_of_the_hub_are_named_by_their_sum(tmp_path, monkeypatch, name, state):
    blob, link = put(tmp_path / "blobs" / name), tmp_path / "open_clip_model.safetensors"
    try:
        link.symlink_to(blob)
    except OSError:
        pytest.skip("this system makes no links")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: str(link))
    assert [check.state for check in verify(a_record("hf-hub:org/repo", None))] == [state]


# --- fetch


def test_fetch_what_is_here(run, no_network):
    for name in ("tiny", "tiny/anomalyclip"):
        answer = run("fetch", name)
        assert answer.exit_code == 0
        assert answer.stdout.startswith(f"{name} is here: ")


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16-plus-240", "hf-hub:org/repo"])
def test_fetch_offline(run, no_network, name):
    answer = run("fetch", name, "--offline")
    assert answer.exit_code == 1
    assert "the offline switch is on" in answer.stderr


def test_fetch_respects_the_environment(run, no_network, monkeypatch):
    monkeypatch.setenv("ZSAD_OFFLINE", "1")
    assert "the offline switch is on" in run("fetch", "ViT-B-32").stderr


def test_fetch_without_a_network(run, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    answer = run("fetch", "ViT-B-32")
    assert answer.exit_code == 1
    assert "cannot reach openaipublic.azureedge.net" in answer.stderr


def test_fetch_downloads_with_the_published_sum(run, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        weights_manifest, "download", lambda *args, **kwargs: asked.append(args) or tmp_path / "file.pt"
    )
    record = find_record("ViT-L/14@336px")
    assert run("fetch", "ViT-L/14@336px").exit_code == 0
    assert asked == [(record.source, record.sha256, record.bytes)]


def test_fetch_an_unknown_name(run):
    answer = run("fetch", "ViT-L-15")
    assert answer.exit_code == 2
    assert "did you mean 'ViT-L-14'" in answer.stderr


# --- convert


@pytest.fixture
def backbone_folder(golden_clip, tmp_path):
    write_packaged(golden_clip, tmp_path / "backbone")
    return tmp_path / "backbone"


@pytest.mark.parametrize("method", LEARNED_METHODS)
def test_convert_keeps_what_was_learnt(run, golden_path, backbone_folder, tmp_path, method):
    theirs, ours = golden_path / f"{method}_official.pth", tmp_path / "ours.safetensors"
    answer = run("convert", theirs, "-m", method, "-b", backbone_folder, "-o", ours, "--trained-on", "VisA")
    assert answer.exit_code == 0, answer.stderr
    assert str(ours) in answer.stdout
    expected = zsad.load(method, backbone_folder, theirs, device="cpu")
    found = zsad.load(backbone=backbone_folder, checkpoint=ours, device="cpu")
    assert found.auxiliary_data == "VisA"
    assert found.method.INFO.name == method
    assert found.method.config == expected.method.config
    kept = found.method.learned_state()
    for name, tensor in expected.method.learned_state().items():
        torch.testing.assert_close(kept[name], tensor, rtol=0, atol=0)


def test_convert_does_not_replace_a_file(run, golden_path, tmp_path):
    out = put(tmp_path / "ours.safetensors")
    theirs = golden_path / "anomalyclip_official.pth"
    answer = run("convert", theirs, "-m", "anomalyclip", "-b", "tiny", "-o", out)
    assert answer.exit_code == 2
    assert "--overwrite" in answer.stderr
    assert out.read_bytes() == DATA


def test_convert_refuses_what_does_not_fit(run, golden_path, backbone_folder, tmp_path):
    out, theirs = tmp_path / "ours.safetensors", golden_path / "april_gan_official.pth"
    answer = run("convert", theirs, "-m", "anomalyclip", "-b", backbone_folder, "-o", out)
    assert answer.exit_code == 1
    assert "april_gan_official.pth" in answer.stderr
    assert not out.exists()
    assert run("convert", tmp_path / "none.pth", "-m", "anomalyclip", "-b", "tiny", "-o", out).exit_code == 1


def test_the_list_says_whose_authors_published_no_weights(run):
    told = run("list").stdout
    assert "AA-CLIP: its authors published no weights: train with `zsad train --method aa_clip`" in told
    assert (
        "Bayes-PFL: the files of Bayes-PFL's authors, train_visa.pth and train_mvtec.pth, are on Google Drive"
        in told
    )
    assert "AnomalyCLIP: its authors" not in told
    assert "Folder mode: its authors" not in told
