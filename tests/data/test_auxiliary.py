"""Recognises the training data of weights, by words and by digests, in datasets to test on."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from zsad.data.auxiliary import named_datasets, named_overlap, shared_images
from zsad.data.catalog import dataset_record
from zsad.data.fingerprints import file_digest, file_digests, pack_digests, unpack_digests
from zsad.data.folder import Dataset
from zsad.detector.weights import published_weights
from zsad.errors import WeightsError
from zsad.files.cache import sha256_of
from zsad.types import Sample


def dataset(name, *categories):
    samples = tuple(Sample(Path(f"{category}.png"), category, 0) for category in categories)
    try:
        record = dataset_record(name)
    except ValueError:
        record = None
    return Dataset(name if record is None else record.name, Path(name), samples, (), record)


MVTEC = dataset("mvtec", "bottle", "metal nut")


@pytest.mark.parametrize(
    ("auxiliary", "expected"),
    [
        ("", ""),
        ("MVTec AD", "mvtec"),
        ("mvtec_ad (test split, 1725 images)", "mvtec"),
        ("MVTec-AD test split", "mvtec"),
        ("mvtec_ad: metal_nut, screw (test split, 300 images)", "mvtec: metal nut"),
        ("VisA (candle), mvtec (bottle, Metal Nut)", "mvtec: bottle, metal nut"),
        ("mvtec: screw (test split, 90 images)", ""),  # another category
        ("MVTec AD (CC BY-NC-SA 4.0, 2019)", "mvtec"),  # no category, so all of them
        ("concrete cracks; bottles and metal nuts of our own", ""),
        ("mvtec2024 of our own", ""),
    ],
)
def test_overlap(auxiliary, expected):
    assert named_overlap(auxiliary, MVTEC) == expected


@pytest.mark.parametrize("folder", ["data", "synthetic", "cracks", "concrete", "tile", "images", "mvtec"])
def test_the_name_of_ones_own_folder_is_no_evidence(folder):
    """A description in prose may contain the name of any folder; "mvtec" here holds other categories."""
    own = Dataset(folder, Path(folder), (Sample(Path("a.png"), "gear", 0),))
    below = replace(own, root=Path(folder) / "gear")
    text = "VisA; concrete cracks, synthetic data, tile images, mvtec (test split, 20 images)"
    assert named_overlap(text, own) == named_overlap(text, below) == ""


def test_the_authors_weights_name_what_they_were_trained_on():
    named = {name: each.record.auxiliary_data for name, each in published_weights().items()}
    for name, auxiliary in named.items():
        for known in ("mvtec", "visa"):
            trained_on_it = f"-{known}" in name or name.endswith("-all")
            assert bool(named_overlap(auxiliary, dataset(known, "bottle", "candle"))) == trained_on_it, name


def test_adaclips_weights_for_use_are_refused_on_each_of_its_papers_sets():
    auxiliary = published_weights()["adaclip-trained-on-all"].record.auxiliary_data
    names = ["mvtec", "visa", "mpdd", "btad", "ksdd", "dagm", "dtd"]
    names += ["headct", "brainmri", "br35h", "isic", "colondb", "clinicdb", "tn3k"]
    assert [found.name for found in named_datasets(auxiliary)] == names
    for name in names:
        record = dataset_record(name)
        words = [record.class_name(folder) for folder in record.categories] or ["object"]
        assert named_overlap(auxiliary, dataset(name, *words)) == name
    assert named_overlap(auxiliary, dataset("kvasir", "colon")) == ""


def test_every_name_of_the_catalogue_is_recognised_as_its_own():
    from zsad.data.catalog import list_datasets

    for name in list_datasets():
        for spelling in (name, dataset_record(name).title, *dataset_record(name).aliases):
            assert [found.name for found in named_datasets(f"data: {spelling}.")] == [name], spelling


def test_images_are_recognised_by_content_under_any_name(tmp_path):
    contents = {"a.png": b"one", "b.png": b"two", "copy of a.png": b"one", "c.png": b"three"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    trained = pack_digests(file_digests([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "missing.png"]))
    assert len(trained) <= 2 * 12
    others = [tmp_path / "c.png", tmp_path / "copy of a.png", tmp_path / "missing.png"]
    found = shared_images(trained, dict(zip(others, file_digests(others), strict=True)))
    assert found == f"1 of the test images (the first is {others[1]})"
    assert shared_images(trained, {others[0]: file_digest(others[0])}) == ""
    assert shared_images("", {others[0]: file_digest(others[0])}) == ""


@pytest.mark.parametrize("text", ["abc", "*" * 12, "YWJj"])
def test_damaged_digests_are_refused(text):
    with pytest.raises(WeightsError, match="digests of the training images are damaged"):
        unpack_digests(text)


def test_authors_files_are_recognised_by_their_checksum(tmp_path, monkeypatch):
    from zsad.evaluation import weights as evaluation_weights

    file = tmp_path / "epoch_15.pth"
    torch.save({"prompt_learner": torch.zeros(2)}, file)
    find = partial(evaluation_weights.RunWeights.find, str(file), "anomalyclip", None, 0)
    assert "does not say what it was trained on" in find().note
    known = published_weights()["anomalyclip-trained-on-mvtec"]
    known = replace(known, record=replace(known.record, sha256=sha256_of(file)))
    monkeypatch.setattr(evaluation_weights, "published_weights", lambda: {"it": known})
    assert find().note == ""
    assert find().overlap_with(MVTEC, evaluation_weights.DatasetDigests()) == "mvtec"
