"""URIs of buckets: parsing, reading through pyarrow and fsspec."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from zsad.errors import ConfigError
from zsad.images.names import RemoteFile, as_path, is_uri
from zsad.images.remote import list_remote, read_remote
from zsad.prediction.layout import RunLayout, common_folder

needs_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="buckets need the extra ray")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/a.png", True),
        ("gs://bucket", True),
        ("file:///tmp/a b.png", True),
        ("S3://b/c?region=x", True),
        ("C:/shots/a.png", False),
        ("a/b.png", False),
        ("s3:/bucket", False),
    ],
)
def test_is_uri(text, expected):
    assert is_uri(text) is expected


def test_names_of_files_mirror_the_bucket(tmp_path):
    uris = ["s3://bucket/lot 1/a.png?region=eu-west-1", "s3://bucket/lot 2/a.png?region=eu-west-1"]
    assert as_path(uris[0]) == "/s3/bucket/lot 1/a.png"
    assert common_folder(uris).replace("\\", "/").endswith("/s3/bucket")
    layout = RunLayout.plan(tmp_path, uris)
    assert [layout.thumbnail(uri).relative_to(tmp_path).as_posix() for uri in uris] == [
        "thumbnails/lot 1/a.jpg",
        "thumbnails/lot 2/a.jpg",
    ]
    with pytest.raises(ConfigError, match="not a URI"):
        as_path("a.png")


@needs_pyarrow
def test_keys_are_taken_as_they_are(tmp_path):
    names = ["a b.png", "50%.png", "ü#1.png", "what?.png"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    found = list_remote(f"file://{tmp_path}")
    assert sorted(found) == sorted(f"file://{tmp_path}/{name}" for name in names)
    assert all(isinstance(uri, RemoteFile) for uri in found)
    assert [read_remote(uri).decode() for uri in found] == [uri.rpartition("/")[2] for uri in found]
    with pytest.raises(FileNotFoundError):
        read_remote(f"file://{tmp_path}/none.png")


@needs_pyarrow
def test_other_schemes_go_through_fsspec():
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/zsad-lot/deep/1.png", b"one")
    memory.pipe("/zsad-lot/note.txt", b"no image")
    try:
        found = list_remote("memory://zsad-lot")
        assert [read_remote(uri) for uri in found] == [b"one"]
    finally:
        memory.rm("/zsad-lot", recursive=True)
    with pytest.raises(ConfigError, match="nonsense://"):
        list_remote("nonsense://bucket/a")
