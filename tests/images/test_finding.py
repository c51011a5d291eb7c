"""Finding image files: folders, patterns, odd names, loops of links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zsad.errors import DataError, printable
from zsad.images.finding import find_images, folders_in, images_below, images_in
from zsad.images.names import IMAGE_SUFFIXES


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images and other files; it is also the current folder."""
    names = (
        "10.png 2.PNG a.jpg notes.txt .hidden.png odd.dat sub/1.tif sub/deep/x.webp .cache/y.png ü ñ/ピ.bmp"
    )
    for name in names.replace("ü ñ", "ü_ñ").split():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(paths: list[Path]) -> list[str]:
    return [path.as_posix() for path in paths]


def test_folder_in_natural_order_with_sub_folders_after_files(tree: Path) -> None:
    assert names(find_images(["."])) == [
        "2.PNG",
        "10.png",
        "a.jpg",
        "sub/1.tif",
        "sub/deep/x.webp",
        "ü_ñ/ピ.bmp",
    ]
    assert names(find_images(".", recursive=False)) == ["2.PNG", "10.png", "a.jpg"]
    assert find_images(tree)[0] == tree / "2.PNG"


def test_numbers_of_any_length_sort_by_value(tmp_path: Path) -> None:
    long = "9" * 200
    for name in ("img12.png", "img2.png", "img02.png", f"img{long}.png", "IMG3.png", "img.png", "imgs.png"):
        (tmp_path / name).touch()
    stems = [path.stem for path in find_images(tmp_path)]
    assert stems == ["img", "img02", "img2", "IMG3", "img12", f"img{long}", "imgs"]


def test_named_files_may_have_any_suffix(tree: Path) -> None:
    assert names(find_images(["odd.dat", "notes.txt", ".hidden.png"])) == [
        "odd.dat",
        "notes.txt",
        ".hidden.png",
    ]


def test_patterns(tree: Path) -> None:
    assert names(find_images(["*.png"])) == ["10.png"]
    assert names(find_images(["*.dat"])) == ["odd.dat"]
    assert names(find_images(["*.*"])) == ["2.PNG", "10.png", "a.jpg"]
    assert names(find_images(["**/*.webp"])) == ["sub/deep/x.webp"]
    assert names(find_images(["s*"])) == ["sub/1.tif", "sub/deep/x.webp"]
    assert set(names(find_images(["**"]))) == set(names(find_images(["."])))


def test_a_file_whose_name_reads_like_a_pattern(tree: Path) -> None:
    (tree / "part[1].png").touch()
    assert names(find_images(["part[1].png"])) == ["part[1].png"]


def test_duplicates_go_and_the_order_stays(tree: Path) -> None:
    found = find_images(["sub/1.tif", "a.jpg", ".", "./sub/../a.jpg", str(tree / "a.jpg")])
    assert names(found[:2]) == ["sub/1.tif", "a.jpg"]
    assert len(found) == 6


def test_missing_paths_come_back_for_the_reader_to_report(tree: Path) -> None:
    assert names(find_images(["nope.png", "a.jpg", "no/*.png"])) == ["nope.png", "a.jpg", "no/*.png"]
    assert names(find_images(["nope.png"])) == ["nope.png"]


@pytest.mark.parametrize("inputs", [[], ["sub/empty"], ["*.xyz"], ["sub/empty", "no/**/*.png"]])
def test_nothing_found_names_what_was_looked_for(tree: Path, inputs: list[str]) -> None:
    (tree / "sub" / "empty").mkdir()
    with pytest.raises(DataError, match=r"no images found in .*\.png .*\.tiff") as caught:
        find_images(inputs)
    assert all(item in str(caught.value) for item in inputs)


def test_not_recursive_says_so(tree: Path) -> None:
    (tree / "outer" / "inner").mkdir(parents=True)
    (tree / "outer" / "inner" / "1.png").touch()
    with pytest.raises(DataError, match="sub-folders were not searched"):
        find_images("outer", recursive=False)


def test_links_are_followed_once(tree: Path) -> None:
    (tree / "sub" / "loop").symlink_to(tree, target_is_directory=True)
    (tree / "dangling.png").symlink_to(tree / "gone.png")
    (tree / "self").symlink_to(tree / "self")
    found = names(find_images("."))
    assert found == ["2.PNG", "10.png", "a.jpg", "dangling.png", "sub/1.tif", "sub/deep/x.webp", "ü_ñ/ピ.bmp"]
    (tree / "elsewhere").symlink_to(tree / "sub")
    assert names(find_images("elsewhere", recursive=False)) == ["elsewhere/1.tif"]


def test_a_folder_that_may_not_be_listed_comes_back(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refuse(path: os.PathLike[str]) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "sub/deep" in names(find_images("."))


def test_a_dataset_and_a_run_see_the_same_files_of_a_folder(tree: Path) -> None:
    (tree / "dangling.png").symlink_to(tree / "gone.png")
    (tree / "self").symlink_to(tree / "self")
    (tree / "linked").symlink_to(tree / "sub")
    (tree / "__MACOSX").mkdir()
    (tree / "folder.png").mkdir()
    assert names(images_in(Path())) == ["10.png", "2.PNG", "a.jpg", "dangling.png"]
    assert set(images_in(Path())) == set(images_below(Path(), recursive=False))
    assert folders_in(Path()) == ["folder.png", "linked", "sub", "ü_ñ"]
    assert images_in(tree / "gone") == folders_in(tree / "gone") == []


def test_names_that_are_no_text(tree: Path) -> None:
    odd = os.fsdecode(b"sub/\xff\n.png")
    Path(odd).touch()
    found = find_images("sub")
    assert Path(odd) in found
    assert printable(odd) == r"sub/\udcff\n.png"
    printable(odd).encode("utf-8")


def test_suffixes_are_lower_case_with_a_dot() -> None:
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in IMAGE_SUFFIXES)
