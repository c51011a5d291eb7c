"""The parts of an evaluation by themselves: the worst images, processes, the plan's small functions."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsad.data.limiting import spread
from zsad.detector.support import choose_companions, choose_references
from zsad.errors import DataError
from zsad.evaluation.results import WorstPicture
from zsad.evaluation.worst import KEPT, Candidate, WorstOfCategory, worst_of_run
from zsad.files.plain import slug
from zsad.metrics.bootstrap import bootstrap_draws, interval
from zsad.types import UNLABELLED, Sample


def candidates(folder, scores, label):
    for index, score in enumerate(scores):
        path = folder / f"{label}_{index}.png"
        Image.new("RGB", (6, 4), (9, 9, 9)).save(path)
        sample = Sample(path, "gear", label, defect="scratch" if label else "good")
        yield Candidate(score, sample, np.full((8, 8), score, dtype=np.float32))


def test_the_worst_of_a_category_are_those_on_the_wrong_side(tmp_path):
    worst = WorstOfCategory()
    for one in candidates(tmp_path, [0.9, 0.5, 0.1, 0.5], 1):
        worst.add(one)
    for one in candidates(tmp_path, [0.2, 0.6, 0.5], 0):
        worst.add(one)
    found = worst.write(tmp_path / "out", "runs/x/maps/000", (0.0, 1.0))
    seen = [(each.mistake, each.score, round(each.outranked, 3)) for each in found]
    assert seen == [
        ("false negative", 0.1, 1.0),
        ("false negative", 0.5, 0.5),  # one normal image above, one tied, one below
        ("false negative", 0.5, 0.5),
        ("false positive", 0.6, 0.75),
        ("false positive", 0.5, 0.5),
        ("false positive", 0.2, 0.25),
    ]
    assert all((tmp_path / "out" / each.file).is_file() for each in found)


def test_only_the_worst_are_kept_whatever_the_order(tmp_path):
    scores = np.random.default_rng(0).permutation(40) / 40
    worst = WorstOfCategory()
    for one in [*candidates(tmp_path, scores, 1), *candidates(tmp_path, [0.99], 0)]:
        worst.add(one)
    found = [
        each.score for each in worst.write(tmp_path, "m", (0.0, 1.0)) if each.mistake != "false positive"
    ]
    assert found == [index / 40 for index in range(KEPT)]


def test_the_worst_of_a_run_rank_by_their_category_first():
    example = WorstPicture("false negative", "a.png", "gear", "scratch", 0.8, 0.9, "a.png")
    found = [
        replace(example, path="middle", score=0.2, outranked=0.5),
        replace(example, path="unknown", score=0.01, outranked=math.nan),  # no normal image to compare with
        replace(example, path="first"),
        replace(example, path="positive", mistake="false positive", score=0.4, outranked=0.1),
        replace(example, path="lower", score=0.1, outranked=0.5),
    ]
    assert [each.path for each in worst_of_run(found)] == ["first", "lower", "middle", "unknown", "positive"]


def test_a_limit_is_spread_over_the_list():
    normal = [Sample(Path(letter), "gear", 0) for letter in "abcdefghij"]
    assert [str(sample.path) for sample in spread(normal, 3)] == ["a", "e", "j"]
    assert spread(normal, 10) == spread(normal, None) == tuple(normal)


@pytest.mark.parametrize("limit", range(1, 30))
@pytest.mark.parametrize("counts", [(20, 1, 9), (1, 28, 1), (12, 12, 6), (0, 15, 15), (29, 1, 0)])
def test_a_limit_keeps_both_labels_whatever_their_order(limit, counts):
    defects = ("crack", "good", "scratch")
    samples = [
        Sample(Path(f"{defect}/{index}.png"), "gear", int(defect != "good"), defect=defect)
        for defect, count in zip(defects, counts, strict=True)
        for index in range(count)
    ]
    chosen = spread(samples, limit)
    assert len(chosen) == limit
    assert list(chosen) == sorted(set(chosen), key=samples.index)
    assert limit == 1 or {sample.label for sample in chosen} == {0, 1}
    expected = limit * counts[1] / 30
    assert abs(sum(sample.label == 0 for sample in chosen) - expected) <= 1


def test_images_without_a_label_never_take_the_place_of_others():
    samples = [Sample(Path(f"{n}.png"), "gear", UNLABELLED) for n in range(9)]
    samples += [Sample(Path("good.png"), "gear", 0), Sample(Path("bad.png"), "gear", 1)]
    assert [sample.label for sample in spread(samples, 2)] == [0, 1]


def test_references_are_normal_and_depend_on_seed_and_category():
    training = [Sample(Path(f"{index}.png"), "gear", int(index > 30)) for index in range(40)]
    first = choose_references(training, 4, 0, "gear")
    assert first == choose_references(training, 4, 0, "gear")
    assert first != choose_references(training, 4, 1, "gear")
    assert first != choose_references(training, 4, 0, "lid")
    assert all(int(path.stem) <= 30 for path in first)
    with pytest.raises(DataError, match="has 31 normal training images, 32 references"):
        choose_references(training, 32, 0, "gear")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("ViT-L/14@336px", "14-336px"), ("my set (new)", "my-set-new"), ("..", "unnamed"), ("a_b.c", "a_b.c")],
)
def test_file_names(text, expected):
    assert slug(text) == expected


def test_bootstrap_draws_resample_within_the_classes():
    generator = np.random.default_rng(0)
    anomalous, normal = generator.normal(1.0, 1.0, 60), generator.normal(0.0, 1.0, 40)
    draws = bootstrap_draws(anomalous, normal, 400, seed=3)
    assert set(draws) == {"image_auroc", "image_ap", "image_f1max"}
    assert np.array_equal(draws["image_ap"], bootstrap_draws(anomalous, normal, 400, seed=3)["image_ap"])
    exact = np.mean(anomalous[:, None] > normal[None])
    low, high = interval(draws["image_auroc"])
    assert low < exact < high
    # The standard error of an AUROC by Hanley and McNeil, 1982.
    q1, q2 = exact / (2 - exact), 2 * exact**2 / (1 + exact)
    variance = exact * (1 - exact) + 59 * (q1 - exact**2) + 39 * (q2 - exact**2)
    assert draws["image_auroc"].std() == pytest.approx(np.sqrt(variance / 2400), rel=0.25)
    assert np.isnan(interval(bootstrap_draws(anomalous, normal[:0], 5, seed=0)["image_auroc"])).all()


def test_companions_are_spread_over_a_category_and_need_eight(tmp_path):
    samples = [Sample(tmp_path / f"{number}.png", "nut", 0) for number in range(20)]
    assert choose_companions(samples, 0) == ()
    assert choose_companions(samples[:7], 64) == ()
    assert len(choose_companions(samples, 64)) == 20
    chosen = choose_companions(samples, 3)
    assert chosen == (samples[0].path, samples[10].path, samples[19].path)
