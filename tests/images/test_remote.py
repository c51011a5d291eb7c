"""URIs of buckets: their names, listing and reading them through fsspec, and prediction over them."""

from __future__ import annotations

import builtins
import io
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

import zsad
from zsad.errors import ConfigError, DataError, ImageReadError, ImageWarning, MissingExtraError
from zsad.images.finding import find_images, search_images
from zsad.images.names import RemoteFile, as_path, is_uri
from zsad.images.reading import read_image
from zsad.images.remote import list_remote, read_remote
from zsad.images.saving import FILE_SUFFIXES, write_file
from zsad.prediction.layout import RunLayout, common_folder
from zsad.prediction.options import PredictOptions
from zsad.prediction.run import predict_folder


@pytest.fixture
def bucket():
    """A bucket in memory: "memory://zsad-lot" with images at two depths and files that are not listed."""
    memory = fsspec.filesystem("memory")
    for number, key in enumerate(("10.png", "2.png", "deep/1.png", ".hidden/a.png", "note.txt")):
        stream = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (30, 33 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(stream, "PNG")
        memory.pipe(f"/zsad-lot/{key}", stream.getvalue())
    yield memory
    memory.rm("/zsad-lot", recursive=True)


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
    uris = ["s3://bucket/lot 1/a.png", "s3://bucket/lot 2/a.png"]
    assert as_path(uris[0]) == "/s3/bucket/lot 1/a.png"
    assert common_folder(uris).replace("\\", "/").endswith("/s3/bucket")
    layout = RunLayout.plan(tmp_path, uris)
    assert [layout.thumbnail(uri).relative_to(tmp_path).as_posix() for uri in uris] == [
        "thumbnails/lot 1/a.jpg",
        "thumbnails/lot 2/a.jpg",
    ]
    with pytest.raises(ConfigError, match="not a URI"):
        as_path("a.png")


def test_keys_are_taken_as_they_are(tmp_path):
    names = ["a b.png", "50%.png", "ü#1.png", "what?.png", "what?a=b.png"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    found, _ = list_remote(f"file://{tmp_path}")
    assert sorted(found) == sorted(f"file://{tmp_path}/{name}" for name in names)
    assert all(isinstance(uri, RemoteFile) for uri in found)
    assert [read_remote(uri).decode() for uri in found] == [uri.rpartition("/")[2] for uri in found]
    with pytest.raises(FileNotFoundError):
        read_remote(f"file://{tmp_path}/none.png")


@pytest.mark.parametrize("uri", ["memory://zsad-lot", "memory://zsad-lot/", "MEMORY://zsad-lot"])
def test_folders_are_listed_in_the_order_of_local_ones(bucket, uri):
    folder = uri if uri.endswith("/") else f"{uri}/"
    assert find_images(uri) == [f"{folder}{name}" for name in ("2.png", "10.png", "deep/1.png")]
    assert find_images(uri, recursive=False) == [f"{folder}{name}" for name in ("2.png", "10.png")]


def test_a_volume_in_a_bucket_is_an_image(bucket):
    bucket.pipe("/zsad-lot/volumes/scan.nii.gz", b"")
    assert list_remote("memory://zsad-lot/volumes")[0] == ["memory://zsad-lot/volumes/scan.nii.gz"]


def test_files_and_folders_of_all_places_go_together(bucket, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "local.png")
    found = find_images(["memory://zsad-lot/note.txt", tmp_path, "memory://zsad-lot/deep"])
    assert found == ["memory://zsad-lot/note.txt", tmp_path / "local.png", "memory://zsad-lot/deep/1.png"]
    assert find_images(found) == found  # a second listing asks no bucket and changes nothing
    assert find_images([*found, "memory://zsad-lot/deep"]) == found


def test_places_without_images_say_what_is_wrong(bucket):
    bucket.pipe("/zsad-lot/texts/a.txt", b"")
    with pytest.raises(DataError, match=r"no images found in memory://zsad-lot/texts; looked for"):
        find_images("memory://zsad-lot/texts")
    with pytest.raises(ConfigError, match=r"memory://zsad-lot/gone: no such file or folder"):
        find_images("memory://zsad-lot/gone")
    with pytest.raises(ConfigError, match=r"nonsense://bucket/a: .*nonsense"):
        find_images("nonsense://bucket/a")


def test_a_file_system_that_fails_is_told_with_its_reason(bucket, monkeypatch):
    def refuse(path, **options):
        raise RuntimeError("no credentials")

    monkeypatch.setattr(bucket, "info", refuse)
    with pytest.raises(ConfigError, match=r"memory://zsad-lot: cannot be listed \(no credentials\)"):
        list_remote("memory://zsad-lot")


def test_a_missing_package_is_named_with_its_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match=r"s3://lot needs the package 's3fs': pip install s3fs$"):
        list_remote("s3://lot")


def test_pyarrow_is_not_needed(bucket, monkeypatch):
    real = builtins.__import__

    def without_pyarrow(name, *arguments, **options):
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    assert len(list_remote("memory://zsad-lot")[0]) == 3


def test_images_are_read_from_a_bucket(bucket):
    file = RemoteFile("memory://zsad-lot/2.png")
    expected = read_image(bucket.cat_file("/zsad-lot/2.png"))
    assert np.array_equal(read_image(file), expected)
    with pytest.raises(ImageReadError, match=r"^memory://zsad-lot/gone.png: cannot be fetched \("):
        read_image(RemoteFile("memory://zsad-lot/gone.png"))
    bucket.pipe("/zsad-lot/bad.png", b"no image")
    with pytest.raises(ImageReadError, match=r"^memory://zsad-lot/bad.png: is a text file"):
        read_image(RemoteFile("memory://zsad-lot/bad.png"))
    with pytest.raises(ImageReadError, match="is a web address, expected a local file"):
        read_image(str(file))  # only what was listed is fetched


def test_volumes_are_read_from_a_bucket(bucket, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).integers(0, 1000, (7, 6, 5)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii.gz")
    bucket.put_file(str(tmp_path / "scan.nii.gz"), "/zsad-lot/scan.nii.gz")
    remote = read_image(RemoteFile("memory://zsad-lot/scan.nii.gz"))
    assert np.array_equal(remote, read_image(tmp_path / "scan.nii.gz"))


def test_prediction_in_one_process_reads_a_bucket(bucket, make_small_clip, tmp_path):
    detector = zsad.load("winclip", make_small_clip(), device="cpu")
    bucket.pipe("/zsad-lot/bad.png", b"no image")
    summary = predict_folder(
        "memory://zsad-lot", detector, PredictOptions(out=tmp_path / "out", batch_size=2)
    )
    (failed,) = summary.failed
    assert failed.path == "memory://zsad-lot/bad.png"
    local = tmp_path / "lot"
    bucket.get("/zsad-lot/", str(local), recursive=True)
    expected = predict_folder(local, detector, PredictOptions(out=tmp_path / "local", batch_size=2))
    scores = {record.path.removeprefix("memory://zsad-lot/"): record.score for record in summary.records}
    assert scores == {record.path.removeprefix(f"{local}/"): record.score for record in expected.records}
    assert (tmp_path / "out" / "overlays" / "deep" / "1_overlay.jpg").exists()
    again = predict_folder(
        "memory://zsad-lot", detector, PredictOptions(out=tmp_path / "out", batch_size=2, resume=True)
    )
    assert again.resumed == 3


def test_prediction_in_several_processes_reads_uris(make_small_clip, tmp_path):
    detector = zsad.load("winclip", make_small_clip(), device="cpu")
    (tmp_path / "in").mkdir()
    for number in range(4):
        Image.new("RGB", (32, 32), (60 * number, 90, 20)).save(tmp_path / "in" / f"{number}.png")
    uri = f"file://{tmp_path}/in"
    summary = predict_folder(uri, detector, PredictOptions(out=tmp_path / "out", batch_size=2, devices=2))
    assert [record.path for record in summary.records] == [f"{uri}/{number}.png" for number in range(4)]
    assert not summary.failed


def test_own_output_in_a_bucket_is_left_out(tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    levels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "photo.png")
    heat = levels[..., 0].astype(np.float32) / 255
    written = [
        write_file(kind, tmp_path / f"renamed_{kind}{Path(suffix).suffix}", levels, heat, (0.0, 1.0))
        for kind, suffix in FILE_SUFFIXES.items()
        if kind in ("overlay", "map")
    ]
    for path in (tmp_path / "photo.png", *written):
        files.pipe(f"/own/deep/{path.name}", path.read_bytes())
    search = search_images("memory://own")
    assert search.images == ["memory://own/deep/photo.png"]
    assert str(search.left_out) == "left out: 2 images that zsad wrote itself"
    assert len(find_images("memory://own", include_results=True)) == 3
    with pytest.warns(ImageWarning, match="left out: 2 images"):
        list(zsad.load("clip_ac").predict_iter("memory://own"))
