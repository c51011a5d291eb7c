"""Evaluation in several processes: the same numbers as in one, whatever happens to a process."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zsad
from helpers.deadly import DeadlyDetector
from zsad.detector.workers import Lost
from zsad.errors import ZsadError
from zsad.evaluation.scoring import make_batches
from zsad.evaluation.workers import LocalScorer, ProcessScorer, _failed
from zsad.types import Sample


@pytest.fixture
def detector(make_small_clip):
    return zsad.load("winclip", make_small_clip(), device="cpu")


@pytest.fixture
def samples(tmp_path):
    """Nine images; the fifth is white, the last one damaged."""
    generator = np.random.default_rng(0)
    found = []
    for number in range(9):
        path = tmp_path / f"{number}.png"
        Image.fromarray(generator.integers(0, 200, (30, 40, 3), dtype=np.uint8)).save(path)
        found.append(Sample(path, "gear", 0))
    Image.new("RGB", (40, 30), "white").save(found[4].path)
    found[8].path.write_bytes(b"no image")
    return found


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as each worker has, since the last bits may depend on it
    yield
    torch.set_num_threads(before)


def scored(scorer, samples, support=(), *, is_joint=False):
    with closing(scorer):
        scorer.compare_with(support, ())
        batches = make_batches(samples, 2, 0, scores_jointly=is_joint)
        found = list(scorer.score(batches))
    assert [len(batch) for batch in found] == [len(batch.indices) for batch in batches]
    assert [picture.index for batch in found for picture in batch] == list(range(len(samples)))
    return [replace(picture, seconds=0.0) for batch in found for picture in batch]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert (one.score, one.error) == (other.score, other.error)
        assert np.array_equal(one.anomaly_map, other.anomaly_map)


@pytest.mark.slow
def test_a_process_that_dies_once_changes_no_number(detector, samples, tmp_path):
    expected = scored(LocalScorer(detector), samples)
    deadly = DeadlyDetector(
        detector.method, detector.image_size, detector.fingerprint, marker=tmp_path / "marker"
    )
    assert_same(scored(ProcessScorer(deadly, ["cpu", "cpu"]), samples), expected)
    assert (tmp_path / "marker").exists()


@pytest.mark.slow
def test_a_deadly_image_is_named_and_the_others_are_scored(detector, samples):
    expected = scored(LocalScorer(detector), samples)
    deadly = DeadlyDetector(detector.method, detector.image_size, detector.fingerprint)
    found = scored(ProcessScorer(deadly, ["cpu"]), samples)
    assert found[4].error.startswith(f"{samples[4].path}: its process died each time")
    assert "killed by SIGKILL" in found[4].error
    assert found[4].score is None
    for place in (0, 1, 2, 3, 5, 6, 7):
        assert found[place].score == pytest.approx(expected[place].score, abs=1e-6)
    assert found[8].error == expected[8].error


@pytest.mark.slow
def test_references_reach_the_processes_category_by_category(detector, samples):
    scorer = ProcessScorer(detector, ["cpu", "cpu"])
    with closing(scorer):
        for support in ((samples[0].path,), (samples[1].path, samples[2].path), ()):
            answer = scorer.compare_with(support, ())
            found = [picture for batch in scorer.score(make_batches(samples, 3, 0)) for picture in batch]
            expected = LocalScorer(detector)
            assert expected.compare_with(support, ()) == answer
            assert_same(
                found, [one for batch in expected.score(make_batches(samples, 3, 0)) for one in batch]
            )


def test_workers_that_give_up_end_the_run():
    sample = Sample(Path("a.png"), "gear", 0)
    assert _failed(3, sample, Lost("it died", True)).error.startswith("a.png: it died; give fewer --devices")
    with pytest.raises(ZsadError, match=r"6 processes died .*--resume and fewer --devices"):
        _failed(3, sample, Lost("not scored, because 6 processes died one after the other", False))
