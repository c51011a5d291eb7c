"""Digests of image files."""

from __future__ import annotations

import pytest

from zsad.data.fingerprints import file_digest, file_digests, pack_digests, unpack_digests
from zsad.errors import WeightsError


def test_equal_files_have_equal_digests_wherever_they_lie(tmp_path):
    (tmp_path / "other").mkdir()
    paths = [tmp_path / "a.png", tmp_path / "other" / "b.png", tmp_path / "c.png"]
    for path, content in zip(paths, (b"x", b"x", b"y"), strict=True):
        path.write_bytes(content)
    first, second, third = file_digests(paths)
    assert first == second != third


def test_a_slice_has_the_digest_of_its_file(tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(b"volume")
    whole, part = tmp_path / "scan.nii.gz", tmp_path / "scan.nii.gz#slice=4"
    assert file_digest(part) == file_digest(whole) != b""


def test_a_missing_file_has_none(tmp_path):
    assert file_digest(tmp_path / "missing.png") == b""
    assert pack_digests([b""]) == ""


@pytest.mark.parametrize("text", ["not base64!", "YWJj"])
def test_damaged_texts_are_refused(text):
    with pytest.raises(WeightsError, match="damaged"):
        unpack_digests(text)
