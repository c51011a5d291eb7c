"""Opens users' own data: class folders, plain folders, lists, folders of several datasets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from helpers.miniature_trees import image, images_and_masks, mask, mvtec, visa
from zsad.data.folder import open_dataset, open_datasets
from zsad.errors import ConfigError, DataError
from zsad.images.results import png_marker
from zsad.types import UNLABELLED

SHARED = Path(__file__).parents[3] / "shared" / "data" / "evaluation"


def rows(dataset):
    return [(s.path.name, s.label, s.mask_path and s.mask_path.name, s.defect) for s in dataset.samples]


# Class folders


def test_good_and_anything(tmp_path):
    for name in ("good/1.png", "good/2.jpg", "scratch/1.png", "Dent/1.bmp"):
        image(tmp_path / "steel_plate" / name)
    dataset = open_dataset(tmp_path / "steel_plate")
    assert rows(dataset) == [
        ("1.png", 0, None, "good"),
        ("2.jpg", 0, None, "good"),
        ("1.bmp", 1, None, "Dent"),
        ("1.png", 1, None, "scratch"),
    ]
    assert (dataset.name, dataset.categories, dataset.problems) == ("steel_plate", ("steel plate",), ())


@pytest.mark.parametrize(
    "place", ["masks/scratch/1.png", "ground_truth/scratch/1_mask.png", "masks/1.png", "scratch/masks/1.png",
              "scratch/1_GT.png"],
)  # fmt: skip
def test_masks_of_class_folders(tmp_path, place):
    image(tmp_path / "good/9.png")
    image(tmp_path / "scratch/1.png")
    mask(tmp_path / place)
    dataset = open_dataset(tmp_path)
    assert dataset.problems == ()
    assert rows(dataset)[-1] == ("1.png", 1, Path(place).name, "scratch")


def test_class_folders_of_several_categories(tmp_path):
    for category in ("cable", "metal_nut"):
        image(tmp_path / category / "ok/1.png")
        image(tmp_path / category / "bad/1.png")
    dataset = open_dataset(tmp_path)
    assert dataset.categories == ("cable", "metal nut")
    assert {len(samples) for samples in dataset.by_category().values()} == {2}


def test_a_defect_without_mask_and_an_empty_class_are_named(tmp_path):
    image(tmp_path / "good/1.png")
    image(tmp_path / "scratch/1.png")
    image(tmp_path / "scratch/2.png")
    mask(tmp_path / "masks/scratch/1.png")
    (tmp_path / "dent").mkdir()
    text = "\n".join(open_dataset(tmp_path).problems)
    assert "scratch/2.png: has no mask; expected" in text
    assert "dent: holds no images" in text


def test_only_normal_images(tmp_path):
    image(tmp_path / "good/1.png")
    assert rows(open_dataset(tmp_path)) == [("1.png", 0, None, "good")]


@pytest.mark.parametrize("place", ["", "test/"])
@pytest.mark.parametrize(
    "files", ["results.json", "results.jsonl", "results.json runs/r/maps/0.png", "0.png"]
)
@pytest.mark.parametrize("name", ["zsad-evaluation", "copied"])
def test_runs_of_zsad_in_a_dataset_are_no_class(tmp_path, place, files, name):
    image(tmp_path / place / "good/1.png")
    image(tmp_path / place / "scratch/1.png")
    for file in files.split():
        path = tmp_path / place / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        if file.endswith(".png"):
            Image.new("RGB", (8, 8)).save(path, pnginfo=png_marker())
    dataset = open_dataset(tmp_path)
    assert not dataset.problems
    assert [sample.defect for sample in dataset.samples] == ["good", "scratch"]
    count = files.count(".png")
    assert count <= 1
    note = "left out: 1 image that zsad wrote itself (--include-results takes them)"
    assert dataset.left_out == ((note,) if count else ())
    if files == "0.png":
        taken = open_dataset(tmp_path, include_results=True)
        assert sorted(sample.defect for sample in taken.samples) == sorted(["good", "scratch", name])
        assert taken.left_out == ()


# Plain folders


def test_a_plain_folder_has_no_labels_and_says_so(tmp_path):
    for name in ("b/2.png", "10.png", "9.png"):
        image(tmp_path / "gears" / name)
    dataset = open_dataset(tmp_path / "gears")
    assert [s.path.name for s in dataset.samples] == ["9.png", "10.png", "2.png"]
    assert {s.label for s in dataset.samples} == {UNLABELLED}
    assert dataset.categories == ("gears",)
    with pytest.raises(DataError, match=r"3 of 3 images have no label.*9\.png\); sort them into good/"):
        dataset.require_labels()


def test_a_link_that_leads_to_itself_does_no_harm(tmp_path):
    for name in ("good/1.png", "dent/2.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert [sample.label for sample in open_dataset(tmp_path).samples] == [0, 1]


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="no images found"):
        open_dataset(tmp_path)
    with pytest.raises(ConfigError, match="empty path"):
        open_dataset("")
    with pytest.raises(ConfigError, match="unknown split 'tset', did you mean 'test'"):
        open_dataset(tmp_path, "tset")


# Several datasets


def test_a_folder_of_datasets_gives_each(tmp_path):
    mvtec(tmp_path / "one")
    visa(tmp_path / "two")
    images_and_masks(tmp_path / "three")
    image(tmp_path / "four/good/1.png")
    image(tmp_path / "four/bad/1.png")
    found = open_datasets(tmp_path)
    assert [(dataset.name, dataset.layout) for dataset in found] == [
        ("four", "class-folders"),
        ("one", "mvtec"),
        ("three", "folder-pairs"),
        ("two", "visa"),
    ]
    with pytest.raises(DataError, match="holds 4 datasets, expected one; name one of four, one, three, two"):
        open_dataset(tmp_path)
    assert open_dataset(f"visa:{tmp_path / 'two'}").record.title == "VisA"


def test_a_named_dataset_is_found_beside_others(tmp_path):
    mvtec(tmp_path / "mvtec_anomaly_detection")
    visa(tmp_path / "VisA")
    assert open_dataset(f"visa:{tmp_path}").layout == "visa"
    assert open_dataset(f"mvtec:{tmp_path}").root.name == "mvtec_anomaly_detection"


@pytest.mark.data
def test_the_evaluation_sets(tmp_path):
    if not SHARED.is_dir():
        pytest.skip("../shared/data/evaluation is not there")
    found = open_datasets(SHARED)
    assert [dataset.name for dataset in found] == sorted(
        path.name for path in SHARED.iterdir() if path.is_dir()
    )
    assert all(not dataset.problems and dataset.samples for dataset in found)


# Lists


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def parts(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        image(tmp_path / "gear_box" / name)
    mask(tmp_path / "gear_box/masks/b.png")
    return tmp_path / "gear_box"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "path,label,mask\na.png,0,\nb.png,1,masks/b.png\nc.png,1,\n"),
        ("list.csv", "\ufeffImage Path;Is_Anomaly;Mask\r\na.png;0;\r\nb.png;1;masks/b.png\r\nc.png;1;\r\n"),
        ("list.tsv", "file\tlabel\tmask\na.png\tgood\t\nb.png\tbad\tmasks/b.png\n\nc.png\tanomaly\tnone\n"),
        ("list.csv", 'filename,label,gt\n"a.png",OK,nan\n"b.png",NG,"masks\\b.png"\nc.png,ng,\n'),
        ("list.jsonl", '{"filename": "a.png", "label": 0}\n{"filename": "b.png", "label": 1, "maskname": '
                       '"masks/b.png"}\n{"filename": "c.png", "label": true}\n'),
        ("list.json", json.dumps([{"path": "a.png", "label": 0}, {"path": "b.png", "label": 1.0,
                                  "mask": "masks/b.png"}, {"path": "c.png", "label": "1", "mask": None}])),
        ("list.json", json.dumps({"samples": [{"img": "a.png", "label": False}, {"img": "b.png", "label": 1,
                                  "mask": "masks/b.png"}, {"img": "c.png", "label": "bad"}]})),
    ],
)  # fmt: skip
def test_lists_of_many_dialects(parts, name, text):
    dataset = open_dataset(write(parts / name, text))
    assert dataset.problems == ()
    assert [row[:3] for row in rows(dataset)] == [
        ("a.png", 0, None),
        ("b.png", 1, "b.png"),
        ("c.png", 1, None),
    ]
    assert (dataset.categories, dataset.layout) == (("gear box",), "list")


def test_labels_from_kinds_of_defects_and_from_masks(parts):
    kinds = open_dataset(write(parts / "kinds.csv", "path,label\na.png,good\nb.png,scratch\nc.png,\n"))
    assert [(s.label, s.defect) for s in kinds.samples] == [
        (0, "good"),
        (1, "scratch"),
        (UNLABELLED, "unlabelled"),
    ]
    masks = open_dataset(write(parts / "masks.csv", "path,mask\na.png,\nb.png,masks/b.png\n"))
    assert [s.label for s in masks.samples] == [0, 1]
    paths = open_dataset(write(parts / "paths.csv", "path\na.png\nb.png\n"))
    assert [s.label for s in paths.samples] == [UNLABELLED, UNLABELLED]


def test_categories_and_splits_of_a_list(parts):
    path = write(
        parts / "all.csv",
        "path,category,split,label\na.png,big_gear,train,0\nb.png,big_gear,test,1\nc.png,small gear,val,0\n",
    )
    assert [(s.path.name, s.category) for s in open_dataset(path).samples] == [("b.png", "big gear")]
    assert [s.path.name for s in open_dataset(path, "train").samples] == ["a.png"]
    assert open_dataset(path, "all").categories == ("big gear", "small gear")


def test_bad_rows_are_named_and_the_rest_is_read(parts):
    path = write(
        parts / "bad.csv",
        "path,label,mask,split\na.png,0,,\ngone.png,0,,\n,1,,\nb.png,1,gone.png,\nb.png,7,,\nc.png,1,,tset\n"
        "a.png,1,,\n",
    )
    dataset = open_dataset(path)
    assert [(s.path.name, s.label, s.mask_path) for s in dataset.samples] == [
        ("a.png", 0, None),
        ("b.png", 1, None),  # a missing mask leaves the label
    ]
    expected = [
        "line 3: image gone.png is not there; looked in",
        "line 4: names no image",
        "line 5: mask gone.png is not there",
        "line 6: label '7' is not known; expected 0 (normal) or 1 (anomalous)",
        "line 7: split 'tset' is not known",
        "line 8: " + str(parts / "a.png") + " is listed already in " + str(path) + ", line 2",
    ]
    assert len(dataset.problems) == len(expected)
    for line, part in zip(dataset.problems, expected, strict=True):
        assert line.startswith(str(path))
        assert part in line


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "", "the list is empty; expected a header"),
        ("x.csv", "path,label\n", "the list is empty; expected one row"),
        ("x.csv", "name,quality\na,b\n", r"no column for the image's path \(columns: name, quality\)"),
        ("x.csv", "path,image,label\na,b,0\n", "the columns path and image both name the path"),
        ("x.csv", "path,label\na.png,0,extra\n", "line 2: 3 cells, the header has 2"),
        ("x.csv", 'path,label\n"a.png,0\n', "is not readable as CSV"),
        ("x.json", "{", "is not JSON"),
        ("x.json", '"a.png"', "expected a list of objects"),
        ("x.json", "[1]", "entry 1: expected an object with a path, got 1"),
        ("x.jsonl", "[]\n", "line 1: expected a JSON object"),
        ("x.txt", "a.png 0\n", r"neither a folder nor a list.*\.csv"),
    ],
)
def test_lists_that_are_none(parts, name, text, message):
    with pytest.raises(DataError, match=message):
        open_dataset(write(parts / name, text))


def test_a_list_that_is_not_text(parts):
    (parts / "x.csv").write_bytes(b"path,label\n\xff\xfe\x00,0\n")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        open_dataset(parts / "x.csv")


def test_names_that_no_file_can_have(parts):
    for name, fault in (("a\u0000.png", "without NUL"), ("x" * 5000, "at most 1000 characters, got 5000")):
        path = write(parts / "odd.json", json.dumps([{"path": "a.png"}, {"path": name}]))
        with pytest.raises(DataError, match=fault):
            open_dataset(path)


@pytest.mark.parametrize("column", ["verdict", "Result", "STATUS", "pass/fail"])
def test_columns_that_only_alone_name_the_label(parts, column):
    path = write(parts / "x.csv", f"path,{column}\na.png,pass\nb.png,fail\n")
    assert [sample.label for sample in open_dataset(path).samples] == [0, 1]
    both = write(parts / "both.csv", f"path,label,{column}\na.png,1,pass\nb.png,0,fail\n")
    assert [sample.label for sample in open_dataset(both).samples] == [1, 0]


@pytest.mark.parametrize("folders", [("images", "masks"), ("good", "bent"), ("a", "b")])
def test_a_list_beside_the_folders_is_named(tmp_path, folders):
    for name in folders:
        image(tmp_path / name / "1.png")
    (tmp_path / "labels.csv").write_text(f"path,label\n{folders[0]}/1.png,good\n")
    (tmp_path / "prices.csv").write_text("part,price\nscrew,3\n")
    (found,) = open_datasets(tmp_path)
    assert [line.split(" labels images")[0] for line in found.left_out] == [str(tmp_path / "labels.csv")]
