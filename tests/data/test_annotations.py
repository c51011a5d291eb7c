"""Outlines of labelme and COCO are masks and labels."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsad.data.folder import open_dataset
from zsad.data.masks import read_mask
from zsad.data.run_lengths import decode_run_lengths
from zsad.errors import ImageReadError

TRUTH = np.zeros((16, 24), dtype=bool)
TRUTH[4:10, 6:17] = True
CORNERS = [[6, 4], [17, 4], [17, 10], [6, 10]]


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((24, 16), 60).save(path)
    return path


def shape(points, label="crack", kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, **more}


def labelme(path: Path, *shapes, image="000.png") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"version": "5", "shapes": shapes, "imagePath": image, "imageWidth": 24, "imageHeight": 16}
    path.write_text(json.dumps(content))
    return path


def coco(path: Path, *names, regions=()) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [
        {"id": number, "file_name": name, "width": 24, "height": 16} for number, name in enumerate(names)
    ]
    annotations = [
        {"id": number, "image_id": image, "category_id": 1, "segmentation": outline}
        for number, (image, outline) in enumerate(regions)
    ]
    categories = [{"id": 1, "name": "crack"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


RING = [[coordinate for corner in CORNERS for coordinate in corner]]


@pytest.mark.parametrize(
    "shapes",
    [
        [shape(CORNERS)],
        [shape([[6, 4], [17, 10]], kind="rectangle")],
        [shape([[6, 4], [10, 10]], kind="rectangle"), shape([[10, 4], [17, 10]], "dent", "rectangle")],
        [shape(CORNERS), shape([[0, 0], [24, 0], [24, 16]], "background")],
        [shape(CORNERS), shape([[0, 0], [24, 0], [24, 16]], "OK")],
    ],
)
def test_shapes_of_labelme(tmp_path, shapes):
    np.testing.assert_array_equal(read_mask(labelme(tmp_path / "a.json", *shapes)), TRUTH)


def test_other_shapes_of_labelme(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 11), 255, np.uint8)).save(buffer, "PNG")
    embedded = shape([[6, 4], [16, 9]], kind="mask", mask=base64.b64encode(buffer.getvalue()).decode())
    np.testing.assert_array_equal(read_mask(labelme(tmp_path / "mask.json", embedded)), TRUTH)
    circle = read_mask(labelme(tmp_path / "circle.json", shape([[12, 8], [15, 8]], kind="circle")))
    assert abs(circle.sum() - np.pi * 9) < 4
    point = read_mask(labelme(tmp_path / "point.json", shape([[12.5, 8.5]], kind="point")))
    assert point[8, 12]
    assert point.sum() <= 4
    line = read_mask(labelme(tmp_path / "line.json", shape([[2, 8], [20, 8]], kind="linestrip")))
    assert 16 <= line.sum() <= 60


@pytest.mark.parametrize(
    "region", [RING, {"counts": [100, 6, 10, 6, 10, 6, 10, 6, 10, 6, 10, 6, 10, 6, 10, 6, 10, 6, 10, 6, 10, 6,
                                 118], "size": [16, 24]}],
)  # fmt: skip
def test_regions_of_coco(tmp_path, region):
    path = coco(tmp_path / "all.json", "000.png", "001.png", regions=[(1, region)])
    np.testing.assert_array_equal(read_mask(f"{path}#image=1"), TRUTH)
    assert not read_mask(f"{path}#image=0").any()


def test_compressed_runs_are_those_of_pycocotools():
    # as rleToString of pycocotools' maskApi.c writes the runs of TRUTH
    np.testing.assert_array_equal(decode_run_lengths(r"T36:0000000000000000000\3", (16, 24)), TRUTH)
    with pytest.raises(ValueError, match="the runs cover 3 of 4 pixels"):
        decode_run_lengths([1, 2], (2, 2))


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", '{"shapes": [{"label": "a", "points": [[1, 2], [3]]}], "imageWidth": 9, "imageHeight": 9}',
        '{"shapes": [{"label": "a", "points": "x"}], "imageWidth": 9, "imageHeight": 9}',
        '{"shapes": [{"label": "a"}], "imageWidth": 9, "imageHeight": 9}', '{"shapes": []}',
        '{"shapes": [], "imageWidth": 1000000, "imageHeight": 1000000}', '{"images": [], "annotations": []}',
        '{"images": [{"id": 0, "width": 4, "height": 4}], "annotations": [{"image_id": 0}]}', '{"a": 1}',
    ],
)  # fmt: skip
def test_damaged_annotations_are_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ImageReadError, match=r"a\.json#image=0: cannot be read as a mask \(.*") as caught:
        read_mask(f"{path}#image=0")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["", "test/"])
@pytest.mark.parametrize("json_place", ["{}crack/000.json", "ground_truth/crack/000.json", "masks/000.json"])
def test_labelme_beside_images_and_in_folders_of_masks(tmp_path, place, json_place):
    photo(tmp_path / place / "good/001.png")
    photo(tmp_path / place / "crack/000.png")
    path = labelme(tmp_path / json_place.format(place), shape(CORNERS))
    dataset = open_dataset(tmp_path)
    assert not dataset.problems
    good, crack = dataset.samples if dataset.samples[0].label == 0 else dataset.samples[::-1]
    assert (good.label, crack.label, crack.mask_path) == (0, 1, path)


@pytest.mark.parametrize("place", ["", "test/"])
@pytest.mark.parametrize(
    "file", ["annotations/instances_default.json", "_annotations.coco.json", "annotations/instances.json"]
)
@pytest.mark.parametrize("name", ["000.png", "crack/000.png"])
def test_coco_beside_class_folders(tmp_path, place, file, name):
    photo(tmp_path / place / "good/000.png")
    photo(tmp_path / place / "crack/000.png")
    photo(tmp_path / place / "crack/001.png")
    coco(tmp_path / file, name, regions=[(0, RING)])
    dataset = open_dataset(tmp_path)
    by_name = {sample.path.relative_to(tmp_path / place).as_posix(): sample for sample in dataset.samples}
    assert [by_name[key].label for key in ("good/000.png", "crack/000.png", "crack/001.png")] == [0, 1, 1]
    np.testing.assert_array_equal(read_mask(by_name["crack/000.png"].mask_path), TRUTH)
    assert by_name["crack/001.png"].mask_path is None
    assert len(dataset.problems) == 1
    assert "crack/001.png: has no mask" in dataset.problems[0]


@pytest.mark.parametrize("images", ["images/", "", "data/"])
@pytest.mark.parametrize("is_named", [False, True])
def test_a_dataset_of_coco_alone(tmp_path, images, is_named):
    for number in range(3):
        photo(tmp_path / images / f"00{number}.png")
    path = coco(tmp_path / "annotations/instances_default.json", "000.png", "001.png", regions=[(1, RING)])
    dataset = open_dataset(path if is_named else tmp_path)
    assert [(sample.path.name, sample.label, sample.defect) for sample in dataset.samples] == [
        ("000.png", 0, "good"),
        ("001.png", 1, "crack"),
    ]
    assert dataset.layout == "coco"
    assert "1 images are in no COCO file (first: 002.png)" in dataset.problems[0]


def test_splits_of_roboflow(tmp_path):
    for part in ("train", "valid", "test"):
        photo(tmp_path / part / "0.jpg")
        photo(tmp_path / part / "1.jpg")
        coco(tmp_path / part / "_annotations.coco.json", "0.jpg", "1.jpg", regions=[(1, RING)])
    parts = {split: open_dataset(tmp_path, split) for split in ("test", "train", "all")}
    assert [sample.label for sample in parts["test"].samples] == [0, 1]
    assert {sample.path.parent.name for sample in parts["test"].samples} == {"test"}
    assert [(sample.label, sample.path.parent.name) for sample in parts["train"].samples] == [(0, "train")]
    assert len(parts["all"].samples) == 6


@pytest.mark.parametrize("folders", ["{}", "images/{} annotations/{}"])
def test_a_dataset_of_labelme_alone(tmp_path, folders):
    images, annotations = folders.split() if " " in folders else (folders, folders)
    for number in range(3):
        photo(tmp_path / images.format(f"{number}.png"))
    labelme(tmp_path / annotations.format("0.json"))
    labelme(tmp_path / annotations.format("1.json"), shape(CORNERS))
    dataset = open_dataset(tmp_path)
    assert [(sample.path.name, sample.label) for sample in dataset.samples] == [("0.png", 0), ("1.png", 1)]
    assert "2.png: has no mask" in dataset.problems[0]
