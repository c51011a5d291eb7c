"""Learnt weights that a method's authors publish in several files."""

from __future__ import annotations

from pathlib import Path

import pytest

import zsad
from zsad.detector.checkpoints import Checkpoint, joined, official_files
from zsad.errors import WeightsError

NAMES = ("text_adapter.pth", "image_adapter.pth")


def part(name, **content):
    return Checkpoint(Path(name), content, None)


def test_files_are_joined_in_any_order():
    text, image = part("a.pth", epoch=4, text_adapter=1), part("b.pth", epoch=19, image_adapter=2)
    for order in ([text, image], [image, text]):
        found = joined(order)
        assert {key: found.content[key] for key in ("text_adapter", "image_adapter")} == {
            "text_adapter": 1,
            "image_adapter": 2,
        }
        assert found.info is None
        assert {"a.pth", "b.pth"} <= set(str(found.path).split())


def test_the_same_entry_twice_is_refused():
    with pytest.raises(WeightsError, match=r"b\.pth holds 'text_adapter', as another"):
        joined([part("a.pth", text_adapter=1), part("b.pth", text_adapter=2)])


def test_a_file_of_zsad_stands_alone(small_clip, tmp_path):
    path = zsad.load("winclip", small_clip, "fresh").save(tmp_path / "own.safetensors")
    with pytest.raises(WeightsError, match=r"own\.safetensors holds everything"):
        zsad.load("winclip", small_clip, [path, path])
    assert zsad.load("winclip", small_clip, [path]).method.INFO.name == "winclip"


def test_no_file_is_refused(small_clip):
    with pytest.raises(WeightsError, match="empty list"):
        zsad.load("winclip", small_clip, [])


def test_files_of_a_folder(tmp_path):
    (tmp_path / NAMES[0]).touch()
    assert official_files(tmp_path, NAMES) == [tmp_path / NAMES[0]]
    (tmp_path / "image_adapter_7.pth").touch()
    assert official_files(tmp_path, NAMES) == [tmp_path / NAMES[0], tmp_path / "image_adapter_7.pth"]
    (tmp_path / "image_adapter_8.pth").touch()
    with pytest.raises(WeightsError, match=r"several: image_adapter_7\.pth, image_adapter_8\.pth"):
        official_files(tmp_path, NAMES)
    (tmp_path / NAMES[1]).touch()
    assert official_files(tmp_path, NAMES) == [tmp_path / name for name in NAMES]


def test_other_folders_are_refused(small_clip, tmp_path):
    with pytest.raises(WeightsError, match="holds none of text_adapter"):
        official_files(tmp_path, NAMES)
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "bundle.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"is a bundle of `zsad export`.*--bundle"):
        zsad.load("anomalyclip", checkpoint=tmp_path / "exported")
    with pytest.raises(WeightsError, match="is a folder: give the file"):
        zsad.load("winclip", small_clip, tmp_path)
