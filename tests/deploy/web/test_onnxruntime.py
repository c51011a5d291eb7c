"""The files of onnxruntime-web: from a folder, or from the published package and no other."""

import base64
import hashlib
import io
import tarfile

import pytest

from zsad.deploy.web import onnxruntime
from zsad.deploy.web.onnxruntime import FILES, runtime_files
from zsad.errors import ConfigError, WeightsError

CONTENTS = {source: source.encode() for source in FILES}
EXPECTED = {name: source.encode() for source, name in FILES.items()}


def package(path, contents):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("inside", ["", "dist"])
def test_files_come_from_the_folder_of_npm(tmp_path, inside):
    folder = tmp_path / inside
    folder.mkdir(exist_ok=True)
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    assert runtime_files(tmp_path) == EXPECTED


def test_a_folder_without_them_says_what_to_type(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no ort\.wasm\.min\.mjs: run npm install onnxruntime-web@"):
        runtime_files(tmp_path)


def test_files_come_from_the_published_package(tmp_path, monkeypatch):
    path = package(tmp_path / "package.tgz", {**CONTENTS, "other.js": b""})
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(onnxruntime, "download", lambda *_, **__: path)
    monkeypatch.setattr(onnxruntime, "INTEGRITY", digest)
    assert runtime_files() == EXPECTED


def test_another_package_is_refused(tmp_path, monkeypatch):
    path = package(tmp_path / "package.tgz", CONTENTS)
    monkeypatch.setattr(onnxruntime, "download", lambda *_, **__: path)
    with pytest.raises(WeightsError, match=r"is not onnxruntime-web .* SHA-512 .* instead of q0y\+JrrtukXS"):
        runtime_files()


def test_without_network_the_way_round_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ZSAD_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"offline.* npm install onnxruntime-web@.* --onnxruntime-web"):
        runtime_files(offline=True)
