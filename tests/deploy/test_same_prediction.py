"""One detector with references, tiles, a region and a depth: its bundle gives the same `Prediction`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import zsad
from zsad.deploy.export import export_detector
from zsad.prediction.options import PredictOptions
from zsad.prediction.run import predict_folder

pytestmark = pytest.mark.slow

GOOD = 8
BITS = 12


def striped(number, size=(60, 100)):
    """Stripes with a little noise, in the 12 bits of a camera."""
    generator = np.random.default_rng(number)
    stripes = np.sin(np.arange(size[1]) / 3)[None, :] * 600 + 1900
    return (stripes + generator.normal(0, 120, size)).clip(0, 4095).astype(np.uint16)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A good part, one with a spot, a small one, and one that lies outside of the region."""
    folder = tmp_path_factory.mktemp("parts")
    spotted = striped(31)
    spotted[20:40, 30:60] = 4000
    for name, values in {"good": striped(30), "spot": spotted, "small": striped(32, (30, 40))}.items():
        Image.fromarray(values).save(folder / f"{name}.png")
    Image.fromarray(striped(33, (5, 4))).save(folder / "tiny.png")
    return folder


@pytest.fixture(scope="module", params=["whole", "tiles"])
def pair(request, make_small_clip, tmp_path_factory):
    """A fitted detector, and the same one out of Python."""
    torch.manual_seed(3)
    mask = np.zeros((60, 100), bool)
    mask[6:57, 5:95] = True
    mask[20:30, 40:50] = False
    where = {"tile": 48, "roi": mask} if request.param == "tiles" else {"roi": (4, 3, 90, 50)}
    detector = zsad.load("clip_ac", make_small_clip(), device="cpu", bits=BITS, **where)
    detector.fit([striped(number) for number in range(GOOD)], rate=0.2, class_name="plate")
    folder = tmp_path_factory.mktemp("bundles") / "line"
    export_detector(detector, folder)
    return detector, zsad.load_exported(folder)


def check_same(exported, python):
    assert exported.score == pytest.approx(python.score, abs=1e-5)
    np.testing.assert_allclose(exported.anomaly_map, python.anomaly_map, atol=1e-4)
    assert (exported.image == python.image).all()
    assert (exported.roi == python.roi).all()
    for name in (
        "path",
        "threshold",
        "map_threshold",
        "map_range",
        "score_scale",
        "tile",
        "notes",
        "p_value",
    ):
        assert getattr(exported, name) == getattr(python, name), name
    assert (exported.notes, exported.p_value) == (python.notes, python.p_value)
    assert exported.is_anomalous == python.is_anomalous
    assert exported.relative_score == pytest.approx(python.relative_score, abs=1e-3)


def test_every_field_of_a_prediction(pair, parts):
    detector, exported = pair
    paths = [parts / f"{name}.png" for name in ("good", "spot", "small")]
    for python, one in zip(detector.predict(paths), exported.predict(paths), strict=True):
        check_same(one, python)
    assert exported.predict(paths[1]).tile == detector.tile
    check_same(exported.predict(striped(40)), detector.predict(striped(40)))


def test_errors_are_the_same(pair, parts, tmp_path):
    (tmp_path / "text.png").write_bytes(b"no image")
    outside = [parts / "tiny.png"] if pair[0].tile is None else []  # a mask fits every image
    for path in (tmp_path / "text.png", tmp_path / "missing.png", *outside):
        texts = []
        for each in pair:
            with pytest.raises(zsad.errors.ImageReadError) as caught:
                each.predict(path)
            texts.append(str(caught.value))
        assert texts[0] == texts[1]


def test_a_folder_gives_the_same_table_and_page(pair, parts, tmp_path):
    rows = []
    for each, name in zip(pair, ("python", "bundle"), strict=True):
        result = predict_folder(parts, each, PredictOptions(out=tmp_path / name))
        lines = (result.directory / "results.jsonl").read_text().splitlines()
        rows.append({record["path"]: record for record in map(json.loads, lines)})
    python, bundle = rows
    assert python.keys() == bundle.keys()
    for path, expected in python.items():
        found = bundle[path]
        assert {**found, "seconds": 0, "score": 0, "relative_score": 0} == {
            **expected,
            "seconds": 0,
            "score": 0,
            "relative_score": 0,
        }
        if expected["score"] is not None:
            assert found["score"] == pytest.approx(expected["score"], abs=1e-5)
    promise = pair[1].bundle.promise.lines[1]
    for name in ("python", "bundle"):
        assert promise.split(";")[0] in (tmp_path / name / "index.html").read_text()
