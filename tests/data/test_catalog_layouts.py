"""Opens miniatures of all datasets of the catalogue, with and without their names, and damaged trees."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from helpers.miniature_trees import SIZE, TREES, image, images_and_masks, mask, mvtec, reference_meta, visa
from zsad.data.catalog import dataset_record, find_dataset, list_datasets
from zsad.data.folder import open_dataset, open_datasets
from zsad.data.layouts import LAYOUTS
from zsad.data.masks import read_mask
from zsad.errors import ConfigError, DataError, ImageReadError


def counts(dataset):
    labels = [sample.label for sample in dataset.samples]
    masks = [sample.mask_path for sample in dataset.samples if sample.mask_path]
    return labels.count(0), labels.count(1), len(masks)


@pytest.mark.parametrize("case", TREES)
def test_reads_the_download_as_it_is(tmp_path, case):
    build, normal, anomalous, masks, training, class_names = TREES[case]
    build(tmp_path)
    name = case.partition(",")[0]
    dataset = open_dataset(f"{name}:{tmp_path}")
    assert dataset.problems == ()
    assert counts(dataset) == (normal, anomalous, masks)
    assert dataset.categories == class_names
    assert (dataset.name, dataset.record) == (name, dataset_record(name))
    for sample in dataset.samples:
        assert sample.path.is_file()
        assert bool(sample.mask_path) <= bool(sample.label)
        if sample.mask_path:
            found = read_mask(sample.mask_path)
            assert found.shape == SIZE[::-1]
            assert (found[3, 5], found[0, 0]) == (True, False)
    train, everything = (open_dataset(f"{name}:{tmp_path}", split) for split in ("train", "all"))
    assert counts(train) == (training, 0, 0)
    paths = [sample.path for sample in everything.samples]
    assert len(paths) == len(set(paths))
    assert {sample.path for sample in (*dataset.samples, *train.samples)} <= set(paths)


@pytest.mark.parametrize("case", TREES)
def test_the_layout_is_found_without_the_name(tmp_path, case):
    build, normal, anomalous, masks, _, _ = TREES[case]
    build(tmp_path)
    found = open_datasets(tmp_path)
    assert [dataset.problems for dataset in found] == [()]
    assert counts(found[0]) == (normal, anomalous, masks)


def test_the_catalogue_is_complete_and_sane():
    assert {case.partition(",")[0] for case in TREES} == set(list_datasets())
    folded = []
    for name in list_datasets():
        record = dataset_record(name)
        assert record.layout in LAYOUTS
        assert record.page.startswith("http")
        assert all((record.licence, record.categories, record.domain))
        words = [record.class_name(category) for category in record.categories]
        assert len(set(words)) == len(words)
        assert set(record.class_names) <= set(record.categories)
        for typed in {name, record.title, *record.aliases}:
            assert dataset_record(typed.upper()) == record
        folded += [name, *record.aliases]
    assert len(set(folded)) == len(folded)


def test_an_unknown_name_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="unknown dataset 'mvtek', did you mean 'mvtec'"):
        open_dataset(f"mvtek:{tmp_path}")
    with pytest.raises(ConfigError, match="no path behind the colon"):
        open_dataset("mvtec:")
    assert find_dataset("mvtek") is None


def test_a_path_with_a_colon_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mvtec(tmp_path / "a:b")
    assert open_dataset("a:b").categories == ("bottle", "metal nut")


def test_loco_unites_the_masks_of_a_image(tmp_path):
    TREES["loco"][0](tmp_path)
    logical = [s for s in open_dataset(tmp_path).samples if s.defect == "logical_anomalies"]
    found = read_mask(logical[0].mask_path)
    assert (found[3, 5], found[7, 11], found[0, 0]) == (True, True, False)


def test_real_iad_prefers_the_larger_images(tmp_path):
    TREES["real-iad"][0](tmp_path)
    for folder in ("realiad_1024", "realiad_256"):
        samples = open_dataset(f"real-iad:{tmp_path}").samples
        assert [s.path.relative_to(tmp_path).parts[0] for s in samples] == [folder] * 4
        shutil.rmtree(tmp_path / folder)


def test_meta_json_of_the_reference_repositories(tmp_path):
    dataset = open_dataset(reference_meta(tmp_path))
    assert dataset.problems == ()
    assert [(s.category, s.label, s.defect) for s in dataset.samples] == [
        ("brain", 0, "good"),
        ("brain", 1, "tumour"),
        ("colon", 1, "anomalous"),
    ]
    assert dataset.samples[2].mask_path == tmp_path / "colon/masks/1.png"
    assert dataset.samples[1].mask_path is None


def test_a_prepared_folder_of_a_known_dataset_is_read_too(tmp_path):
    """The papers cut KolektorSDD into pieces in MVTec layout, opened under the name of the dataset."""
    mvtec(tmp_path, ("electrical commutators",))
    dataset = open_dataset(f"ksdd:{tmp_path}")
    assert (dataset.layout, counts(dataset)) == ("mvtec", (2, 1, 1))


# Damaged trees


def test_a_missing_list_is_named(tmp_path):
    visa(tmp_path)
    shutil.rmtree(tmp_path / "split_csv")
    with pytest.raises(
        DataError, match=r"this is not VisA.*expected split_csv/1cls.csv.*found candle, pipe_fry"
    ):
        open_dataset(f"visa:{tmp_path}")


def test_rows_of_missing_files_are_named_and_the_rest_is_read(tmp_path):
    visa(tmp_path)
    (tmp_path / "candle/Data/Images/Anomaly/000.JPG").unlink()
    (tmp_path / "pipe_fryum/Data/Masks/Anomaly/000.png").unlink()
    dataset = open_dataset(f"visa:{tmp_path}")
    assert counts(dataset) == (2, 1, 0)  # an image without its mask still has a label
    image_line, mask_line = dataset.problems
    assert "1cls.csv, line 4: image candle/Data/Images/Anomaly/000.JPG is not there" in image_line
    assert "1cls.csv, line 7: mask pipe_fryum/Data/Masks/Anomaly/000.png is not there" in mask_line


def test_real_iad_without_images_or_lists(tmp_path):
    TREES["real-iad"][0](tmp_path)
    shutil.rmtree(tmp_path / "realiad_1024" / "toy_brick")
    assert "toy_brick: is not there, but toy_brick.json lists it" in open_dataset(tmp_path).problems[0]
    for size in ("256", "1024"):
        shutil.rmtree(tmp_path / f"realiad_{size}")
    with pytest.raises(DataError, match="no images; expected one of the folders realiad_1024"):
        open_dataset(f"real-iad:{tmp_path}")
    shutil.rmtree(tmp_path / "realiad_jsons" / "realiad_jsons")
    with pytest.raises(DataError, match=r"no CATEGORY\.json"):
        open_dataset(f"real-iad:{tmp_path}")


def test_dagm_disorder(tmp_path):
    TREES["dagm"][0](tmp_path)
    part = tmp_path / "Class1" / "Test"
    (part / "Label/0004_label.PNG").unlink()
    image(part / "0009.PNG")
    mask(part / "Label/0003_label.PNG")
    labels = part / "Label/Labels.txt"
    labels.write_text(labels.read_text() + "5\t0\t0005.PNG\t0\t0\nnonsense\n")
    (tmp_path / "Class2/Test/Label/Labels.txt").unlink()
    dataset = open_dataset(f"dagm:{tmp_path}")
    text = "\n".join(dataset.problems)
    for expected in (
        "0004.PNG: has no mask; expected",
        "0009.PNG: is not listed in",
        "0003_label.PNG: belongs to no anomalous image",
        "lists 0005.PNG, which is not in",
        "Labels.txt, line 5: expected NUMBER LABEL IMAGE, got 'nonsense'",
        "Labels.txt: is not there; an image counts as anomalous if it has a mask",
    ):
        assert expected in text
    assert len(dataset.problems) == 6
    assert counts(dataset) == (3, 3, 2)  # Class2 is labelled by its masks, Class1 lacks a mask


def test_an_image_or_mask_without_its_counterpart_is_named(tmp_path):
    images_and_masks(tmp_path)
    image(tmp_path / "images/3.png")
    mask(tmp_path / "masks/4.png")
    (tmp_path / "masks/2.png").write_bytes(b"no image")
    dataset = open_dataset(tmp_path)
    assert counts(dataset) == (0, 1, 1)
    text = "\n".join(dataset.problems)
    assert "images/3.png: has no mask; expected" in text
    assert "masks/4.png: belongs to no image" in text
    assert "masks/2.png: cannot be read as a mask" in text


def test_kolektor_without_a_mask(tmp_path):
    TREES["ksdd2"][0](tmp_path)
    (tmp_path / "test/20001_GT.png").unlink()
    (problem,) = open_dataset(f"ksdd2:{tmp_path}").problems
    assert problem.endswith("20001.png: has no mask; expected " + str(tmp_path / "test/20001_GT.png"))


def test_an_empty_mask_folder_of_loco_is_named(tmp_path):
    TREES["loco"][0](tmp_path)
    folder = tmp_path / "breakfast_box/ground_truth/structural_anomalies/000"
    shutil.rmtree(folder)
    (problem,) = open_dataset(f"loco:{tmp_path}").problems
    assert "structural_anomalies/000.png: has no mask" in problem


def test_another_dataset_under_the_name_is_refused(tmp_path):
    image(tmp_path / "images/1.png")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(
        DataError, match=r"not MVTec AD as it is downloaded from https.*found images, notes.txt"
    ):
        open_dataset(f"mvtec:{tmp_path}")
    with pytest.raises(DataError, match="no such file or folder"):
        open_dataset(f"mvtec:{tmp_path / 'nowhere'}")


def test_a_meta_json_that_is_none(tmp_path):
    (tmp_path / "meta.json").write_text(json.dumps({"test": {"brain": ["a.png"]}}))
    with pytest.raises(DataError, match=r"meta\.json, test, brain, entry 1: expected an object with a path"):
        open_dataset(tmp_path)


def test_masks_of_regions_must_agree(tmp_path):
    TREES["loco"][0](tmp_path)
    folder = tmp_path / "breakfast_box/ground_truth/logical_anomalies/000"
    mask(folder / "001.png", (5, 4))
    with pytest.raises(ImageReadError, match=r"001\.png: 5 x 4 pixels, 000\.png beside it 12 x 8"):
        read_mask(folder)
    assert np.asarray(read_mask(folder / "000.png")).dtype == bool
