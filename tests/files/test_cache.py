"""The cache, the offline switch and downloads, against a small web server on this machine."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.errors
import numpy as np
import pytest
import safetensors.numpy

from zsad.errors import WeightsError
from zsad.files import cache as weights
from zsad.files import download as weights_transfer
from zsad.files.cache import cache_dir, cached_path, find_cached, is_offline, verify_sha256
from zsad.files.download import download
from zsad.files.hub import hub_file

DATA = bytes(range(256)) * 4096  # 1 MiB
WEIGHTS = safetensors.numpy.save({"a": np.arange(100.0)})
SUM = hashlib.sha256(DATA).hexdigest()


@dataclass
class Site:
    """What the server does with the next requests."""

    url: str = ""
    data: bytes = DATA
    status: int = 200
    ranges: bool = True
    length: str | None = ""  # Content-Length that is sent; "" for the true one, None for none
    redirect: str | None = None
    cut_after: list[int] = field(default_factory=list)  # bytes to send before closing, one number a request
    requests: list[str | None] = field(default_factory=list)  # the Range headers that came


@pytest.fixture
def site() -> Iterator[Site]:
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.requests.append(wanted)
            if state.redirect is not None:
                self.send_response(302)
                self.send_header("Location", state.redirect)
                self.end_headers()
                return
            if state.status != 200:
                self.send_error(state.status)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.ranges else 0
            if start >= len(state.data):
                self.send_error(416)
                return
            body = state.data[start:]
            self.send_response(206 if start else 200)
            if state.length is not None:
                self.send_header("Content-Length", state.length or str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.cut_after.pop(0)] if state.cut_after else body)

        def log_message(self, format: str, *args: object) -> None:
            """Keeps the test output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/models/weights%20one.pt"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setenv("ZSAD_CACHE", str(cache))
    monkeypatch.delenv("ZSAD_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(weights_transfer, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(weights, "OTHER_CACHES", (tmp_path / "clip",))
    return cache


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_offline_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_offline()
    monkeypatch.setenv("ZSAD_OFFLINE", "0")
    assert not is_offline()
    monkeypatch.setenv("ZSAD_OFFLINE", "1")
    assert is_offline()
    assert not is_offline(offline=False)
    monkeypatch.delenv("ZSAD_OFFLINE")
    monkeypatch.setenv("HF_HUB_OFFLINE", "true")
    assert is_offline()


def test_cache_dir(own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_dir() == own_cache
    monkeypatch.delenv("ZSAD_CACHE")
    monkeypatch.setattr(weights.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "zsad"
    monkeypatch.setattr(weights.sys, "platform", "darwin")
    assert cache_dir() == Path("~/Library/Caches/zsad").expanduser()
    monkeypatch.setattr(weights.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_dir() == tmp_path / "local" / "zsad"


def test_download_once(site: Site) -> None:
    path = download(site.url, SUM, len(DATA))
    assert path.read_bytes() == DATA
    assert path.name == "weights one.pt"
    assert path == cached_path(site.url, SUM)
    assert download(site.url, SUM) == path
    assert len(site.requests) == 1
    assert not list(path.parent.glob("*.part"))


def test_download_without_checksum(site: Site) -> None:
    site.data = WEIGHTS
    assert download(site.url).read_bytes() == WEIGHTS
    assert download(site.url) == find_cached(site.url)
    assert len(site.requests) == 1


def test_download_accepts_the_beginning_of_a_checksum(site: Site) -> None:
    assert download(site.url, SUM[:8]).read_bytes() == DATA


def test_broken_connection_is_continued_at_once(site: Site) -> None:
    site.cut_after = [300_000, 200_000]
    assert download(site.url, SUM).read_bytes() == DATA
    assert site.requests == [None, "bytes=300000-", "bytes=500000-"]


def test_broken_connection_without_checksum_starts_over(site: Site) -> None:
    site.data = WEIGHTS
    site.cut_after = [100]
    assert download(site.url).read_bytes() == WEIGHTS
    assert site.requests == [None, None]


def test_a_later_call_continues(site: Site) -> None:
    site.cut_after = [300_000, 0, 0, 0, 0]
    with pytest.raises(WeightsError, match=r"broke off after 0\.3 of 1\.0 MB .*run the same command again"):
        download(site.url, SUM)
    site.cut_after = []
    assert download(site.url, SUM).read_bytes() == DATA
    assert site.requests[-1] == "bytes=300000-"


def test_server_without_ranges(site: Site) -> None:
    site.ranges = False
    site.cut_after = [300_000]
    assert download(site.url, SUM).read_bytes() == DATA


def test_whole_part_is_taken(site: Site) -> None:
    part = cached_path(site.url, SUM).with_name("weights one.pt.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA)
    assert download(site.url, SUM, len(DATA)).read_bytes() == DATA


def test_part_longer_than_the_file_is_dropped(site: Site) -> None:
    part = cached_path(site.url, SUM).with_name("weights one.pt.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA + b"more")
    assert download(site.url, SUM, len(DATA)).read_bytes() == DATA


def test_wrong_checksum_removes_the_file(site: Site, own_cache: Path) -> None:
    site.data = b"\0" * 1000
    with pytest.raises(WeightsError, match=r"was removed.*does not have the published checksum"):
        download(site.url, SUM)
    assert not [path for path in own_cache.rglob("*") if path.suffix in {".pt", ".part"}]


def test_a_web_page_instead_of_weights(site: Site) -> None:
    site.data = b"<html>please sign in</html>"
    with pytest.raises(WeightsError, match="is a web page"):
        download(site.url, SUM)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_http_errors(site: Site, status: int) -> None:
    site.status = status
    with pytest.raises(WeightsError, match=f"HTTP {status} .*put it at .*weights one.pt"):
        download(site.url, SUM)


def test_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(WeightsError, match=r"cannot reach 127\.0\.0\.1 .*put it at"):
        download(f"http://127.0.0.1:{port}/a.pt", SUM)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a.pt", "a.pt"])
def test_only_http(url: str) -> None:
    with pytest.raises(WeightsError, match="only http and https"):
        download(url)


@pytest.mark.usefixtures("no_network")
def test_offline_names_file_address_and_place() -> None:
    url = "https://example.org/models/a.pt"
    with pytest.raises(WeightsError) as raised:
        download(url, SUM, offline=True)
    assert url in str(raised.value)
    assert str(cached_path(url, SUM)) in str(raised.value)


@pytest.mark.usefixtures("no_network")
def test_offline_takes_a_file_put_there_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSAD_OFFLINE", "1")
    url = "https://example.org/models/a.pt"
    place = cached_path(url, SUM)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"something else")
    with pytest.raises(WeightsError, match="has another checksum"):
        download(url, SUM)
    place.write_bytes(DATA)
    assert download(url, SUM) == place


@pytest.mark.usefixtures("no_network")
def test_file_of_other_programs_is_used_if_its_checksum_is_right(tmp_path: Path) -> None:
    url = "https://example.org/models/a.pt"
    other = tmp_path / "clip" / "a.pt"
    other.parent.mkdir()
    other.write_bytes(DATA[:-1])
    assert find_cached(url, SUM) is None
    other.write_bytes(DATA)
    assert download(url, SUM, offline=True) == other
    assert find_cached(url) is None, "without a checksum a name alone proves nothing"


def test_changed_file_is_fetched_again(site: Site) -> None:
    path = download(site.url, SUM)
    path.write_bytes(b"damaged")
    assert download(site.url, SUM).read_bytes() == DATA
    assert len(site.requests) == 2


def test_disk_without_room(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 0))
    with pytest.raises(WeightsError, match=r"needs 1 MB and .* has 0 MB free"):
        download(site.url, SUM, len(DATA))


def test_disk_full_while_writing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights_transfer, "_fetch_once", full)
    with pytest.raises(WeightsError, match="the disk is full: make room, or set ZSAD_CACHE"):
        download(site.url, SUM)


def test_cache_that_is_a_file(site: Site, own_cache: Path) -> None:
    own_cache.write_text("")
    with pytest.raises(WeightsError, match=r"cannot write .*set ZSAD_CACHE to another folder"):
        download(site.url, SUM)


def test_two_callers_fetch_once(site: Site) -> None:
    threads = [threading.Thread(target=download, args=(site.url, SUM)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(site.requests) == 1


def test_progress_on_a_terminal(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    download(site.url, SUM)
    assert "weights one.pt" in capsys.readouterr().err


def test_verify_sha256(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(DATA)
    verify_sha256(file, SUM)
    verify_sha256(file, SUM.upper())
    with pytest.raises(WeightsError, match=f"{SUM} instead of {'0' * 64}"):
        verify_sha256(file, "0" * 64)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """huggingface_hub's cache with one file of one repository."""
    commit = "0123456789012345678901234567890123456789"
    repository = tmp_path / "hub" / "models--org--repo"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


@pytest.mark.usefixtures("no_network")
def test_hub_offline_reads_only_the_cache(hub_cache: Path) -> None:
    assert hub_file("org/repo", "config.json", offline=True) == hub_cache / "config.json"
    assert hub_file("org/repo", "model.safetensors", offline=True) is None
    assert hub_file("org/other", "config.json", offline=True) is None
    assert hub_file("org/repo", "config.json", "v2", offline=True) is None


def test_hub_malformed_name() -> None:
    with pytest.raises(WeightsError, match="not of the form hf-hub:ORG/REPO"):
        hub_file("a/b/c", "config.json", offline=True)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("GatedRepoError", "requires your consent"),
        ("RepositoryNotFoundError", "has no repository 'org/repo'"),
        ("RevisionNotFoundError", "has no revision 'v2'"),
        (
            "LocalEntryNotFoundError",
            "cannot reach the Hugging Face hub for config.json of hf-hub:org/repo@v2",
        ),
    ],
)
def test_hub_errors(monkeypatch: pytest.MonkeyPatch, error: str, message: str) -> None:
    kind = getattr(huggingface_hub.errors, error)

    def fail(*_: object, **__: object) -> None:
        raise kind.__new__(kind)  # their constructors differ between versions

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(WeightsError, match=message):
        hub_file("org/repo", "config.json", "v2")


def test_hub_missing_file_and_unknown_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise huggingface_hub.errors.EntryNotFoundError("no such file")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", missing)
    assert hub_file("org/repo", "config.json") is None

    def trouble(*_: object, **__: object) -> None:
        raise RuntimeError("the  server\nis ill")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", trouble)
    with pytest.raises(
        WeightsError, match=r"cannot fetch config\.json of hf-hub:org/repo: the server is ill"
    ):
        hub_file("org/repo", "config.json")


HUB_SCRIPT = """
import sys
from zsad.errors import WeightsError
from zsad.files.hub import hub_file
print(hub_file("org/repo", "config.json").read_text())
print(hub_file("org/repo", "model.safetensors"))
try:
    hub_file("org/other", "config.json")
except WeightsError as error:
    print(error)
print(hub_file("org/repo", "config.json", offline=True).read_text())
"""


def test_hub_over_http(tmp_path: Path) -> None:
    """huggingface_hub itself against a server that answers as the hub does; its address is read at import."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            if self.path == "/org/repo/resolve/main/config.json":
                self.send_response(200)
                self.send_header("ETag", '"abc"')
                self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("Content-Length", "2")
            else:
                self.send_response(404)
                known = self.path.startswith("/org/repo/")
                self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
                self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            if self.path.endswith("/config.json"):
                self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            """Keeps the test output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_CACHE": str(tmp_path),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", HUB_SCRIPT],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    first, missing, unknown, cached = done.stdout.splitlines()
    assert (first, missing, cached) == ("{}", "None", "{}")
    assert unknown.startswith("the Hugging Face hub has no repository 'org/other'")


# --- servers that do not send what they should


@pytest.mark.parametrize("sha256", [SUM, None])
def test_more_than_the_known_size_is_not_written(site: Site, own_cache: Path, sha256: str | None) -> None:
    site.length = None
    with pytest.raises(WeightsError, match="sends more than the 1000 bytes that the file has"):
        download(site.url, sha256, 1000)
    assert [path.name for path in own_cache.rglob("*") if path.is_file()] in ([], ["weights one.pt.lock"])


@pytest.mark.parametrize("length", ["abc", "-5", "1e3", "\u00b2"])
def test_a_length_that_is_no_number_is_ignored(site: Site, length: str) -> None:
    site.length = length.encode().decode("latin-1")
    assert download(site.url, SUM).read_bytes() == DATA


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<!doctype html><p>Sign in", "it is a web page"),
        (b"\n<?xml version='1.0'?><Error/>", "it is a web page"),
        (gzip.compress(DATA), "it is not a file of weights"),
        (b'{"error": "quota"}', "it is not a file of weights"),
        (b"", "it is empty"),
        (WEIGHTS[:-8], "was removed"),
        (b"PK\x03\x04" + DATA[:1000], "it is damaged or truncated"),
    ],
)
def test_what_is_no_weights_gets_no_name(site: Site, own_cache: Path, body: bytes, message: str) -> None:
    site.data, site.length = body, None
    if not body:
        site.data, site.cut_after = DATA, [0]
    with pytest.raises(WeightsError, match=message) as caught:
        download(site.url)
    assert "\n" not in str(caught.value)
    assert find_cached(site.url) is None
    site.data, site.length = WEIGHTS, ""
    assert download(site.url).read_bytes() == WEIGHTS


def test_a_short_body_without_checksum(site: Site) -> None:
    site.data, site.length = WEIGHTS, None
    with pytest.raises(WeightsError, match=f"it has {len(WEIGHTS)} bytes instead of 2000"):
        download(site.url, None, 2000)
    assert find_cached(site.url) is None


@pytest.mark.parametrize("place", ["ftp://127.0.0.1/a.pt", "FTP://127.0.0.1/a.pt"])
def test_redirects_elsewhere_are_refused(site: Site, place: str) -> None:
    site.redirect = place
    with pytest.raises(WeightsError, match="only http and https addresses"):
        download(site.url, SUM)


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///a.pt",
        "https://[::1/a.pt",
        "http://host:port/a.pt",
        "http://a b/c",
        "http://h/a\nb",
        "x",
    ],
)
def test_broken_addresses_are_said(url: str) -> None:
    with pytest.raises(WeightsError, match=r"cannot download .*only http and https addresses"):
        download(url)


@pytest.mark.parametrize(
    "body", [b"<!doctype html><p>Sign in", b"", gzip.compress(DATA), WEIGHTS[:-8], b"{}"]
)
def test_a_bad_file_that_lies_in_the_cache_is_fetched_again(site: Site, own_cache: Path, body: bytes) -> None:
    target = cached_path(site.url)
    target.parent.mkdir(parents=True)
    target.write_bytes(body)
    assert find_cached(site.url) is None
    with pytest.raises(WeightsError, match=r"is damaged .*offline switch is on") as caught:
        download(site.url, offline=True)
    assert "\n" not in str(caught.value)
    site.data = WEIGHTS
    assert download(site.url).read_bytes() == WEIGHTS
    assert find_cached(site.url) == target
    assert find_cached(site.url, size=3) is None
