"""`zsad evaluate` end to end on miniature trees with the packaged network."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import zsad
from zsad.cli import app
from zsad.data.fingerprints import file_digests, pack_digests
from zsad.data.folder import open_dataset
from zsad.data.samples import load_sample
from zsad.detector import choosing
from zsad.detector.detector import Detector
from zsad.evaluation import run as evaluation
from zsad.evaluation.results import read_evaluation
from zsad.evaluation.scoring import make_batches
from zsad.files.plain import to_plain
from zsad.metrics import evaluate as metrics_of
from zsad.training.loop import train
from zsad.training.options import TrainOptions
from zsad.types import RawOutput

SIDE = 64
FAST = ["--image-size", str(SIDE), "--device", "cpu"]


def add_picture(path, generator, defect=None):
    """A noisy image; a defect is a bright square at a place."""
    pixels = generator.integers(60, 110, (40, 48, 3), dtype=np.uint8)
    if defect is not None:
        pixels[defect : defect + 10, defect : defect + 12] = 250
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def add_category(root, name, normal=4, anomalous=5):
    generator = np.random.default_rng([*name.encode()])
    for index in range(normal):
        add_picture(root / name / "test" / "good" / f"{index}.png", generator)
        add_picture(root / name / "train" / "good" / f"{index}.png", generator)
    for index in range(anomalous):
        place = 3 + 4 * index
        add_picture(root / name / "test" / "scratch" / f"{index}.png", generator, place)
        mask = np.zeros((40, 48), dtype=np.uint8)
        mask[place : place + 10, place : place + 12] = 255
        file = root / name / "ground_truth" / "scratch" / f"{index}_mask.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(file)


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "press_line"
    for name in ("gear", "round_lid"):
        add_category(root, name)
    return root


@pytest.fixture(autouse=True)
def _load_networks_once(monkeypatch):
    """The packaged network is read from the disk once for all tests that want it alike."""
    real = evaluation.load

    def load(*arguments, **settings):
        key = repr((arguments, sorted(settings.items())))
        if key not in LOADED:
            LOADED[key] = real(*arguments, **settings)
        return LOADED[key]

    monkeypatch.setattr(evaluation, "load", load)


LOADED = {}


def run(*arguments, code=0):
    outcome = CliRunner().invoke(app, ["evaluate", *FAST, *map(str, arguments)])
    assert outcome.exit_code == code, outcome.output
    return outcome


@pytest.fixture
def without_adaclip(monkeypatch):
    """As if no weights of AdaCLIP shipped for tiny."""
    found = choosing.shipped
    monkeypatch.setattr(
        choosing, "shipped", lambda name, backbone: None if name == "adaclip" else found(name, backbone)
    )


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def without_times(result):
    """Everything of a result but how long it took."""
    plain = to_plain(result)["runs"]
    for each in plain:
        del each["seconds"]
        for row in each["categories"]:
            del row["seconds"]
    return plain


def test_numbers_are_those_of_the_protocol(tree, tmp_path):
    """Against a plain loop: every image alone, maps at the input size, per category, then the mean."""
    outcome = run("--data", tree, "--out", tmp_path / "out", "--bootstrap", 50)
    (result,) = read_evaluation(tmp_path / "out").runs
    detector = zsad.load(image_size=SIDE, device="cpu")
    expected = {}
    for category, samples in open_dataset(tree).by_category().items():
        prepared = [load_sample(sample, detector.preparation) for sample in samples]
        raws = [detector.score_tensors(torch.from_numpy(each.image)[None]) for each in prepared]
        maps, scores = [raw.maps[0] for raw in raws], [float(raw.scores) for raw in raws]
        masks, labels = [each.mask for each in prepared], [each.label for each in prepared]
        expected[category] = metrics_of(maps, masks, scores, labels)
    assert [row.category for row in result.categories] == list(expected) == ["gear", "round lid"]
    for row in result.categories:
        assert (row.normal, row.anomalous, row.masks, row.is_exact) == (4, 5, True, True)
        assert row.metrics == pytest.approx(expected[row.category], abs=1e-3)  # batches round differently
        low, high = row.intervals["image_auroc"]
        assert low <= row.metrics["image_auroc"] <= high
    for name, value in result.mean.items():
        assert value == pytest.approx(np.mean([row.metrics[name] for row in result.categories]), abs=1e-12)
    low, high = result.mean_intervals["image_auroc"]
    assert low <= result.mean["image_auroc"] <= high
    assert "gear" in outcome.output
    assert f"{100 * result.mean['pixel_auroc']:.1f}" in outcome.output


def test_what_is_written(tree, tmp_path):
    out = tmp_path / "out"
    run("--data", tree, "--out", out, "--pro", "script", "--limit", 6, "--quiet")
    found = read_evaluation(out)
    (result,) = found.runs
    assert (result.method, result.backbone, result.dataset, result.pro) == (
        "anomalyclip",
        "tiny",
        "press_line",
        "script",
    )
    assert result.image_size == SIDE
    assert result.settings["n_ctx"] == 12
    assert len(result.weights_sha256) == 64
    assert {"zsad", "commit", "python", "torch", "numpy", "platform", "command", "started", "ended"} <= set(
        found.provenance
    )
    records = lines_of(out / result.pictures_file)
    assert len(records) == 12
    assert {record["label"] for record in records[:6]} == {0, 1}  # a limit keeps both classes
    assert all(0 <= record["score"] <= 1 and record["error"] is None for record in records)
    assert all((record["mask_path"] is None) == (record["label"] == 0) for record in records)
    curves = json.loads((out / result.curves_file).read_text(encoding="utf-8"))
    assert set(curves["categories"]) == {"gear", "round lid"}
    for curve in curves["categories"]["gear"].values():
        assert len(curve["x"]) == len(curve["y"]) <= 200
    assert set(curves["categories"]["gear"]) == {
        "image_roc",
        "image_pr",
        "pixel_roc",
        "pixel_pr",
        "pixel_pro",
    }
    by_path = {record["path"]: record for record in records}
    for picture in result.worst:
        own = by_path[picture.path]
        others = [
            record["score"]
            for record in records
            if record["category"] == own["category"] and record["label"] != own["label"]
        ]
        wrong = [other >= own["score"] if own["label"] else other <= own["score"] for other in others]
        assert picture.outranked == pytest.approx(np.mean(wrong))
        assert picture.mistake == ("false negative" if own["label"] else "false positive")
    drawn = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert drawn == {picture.file for picture in result.worst}


def test_several_methods_seeds_and_sets_in_one_call(without_adaclip, tree, tmp_path):
    other = tmp_path / "polyps"
    add_category(other, "polyp", normal=0, anomalous=3)
    outcome = run(
        *("--data", tree, "--data", other, "-m", "anomalyclip", "-m", "adaclip", "-m", "musc"),
        *("--seed", 0, "--seed", 1, "--out", tmp_path / "out", "--json"),
        code=3,
    )
    found = read_evaluation(tmp_path / "out")
    assert json.loads(outcome.stdout) == json.loads((tmp_path / "out" / "results.json").read_text())
    ids = [result.id for result in found.runs]
    assert len(set(ids)) == 8
    assert ids[:2] == ["anomalyclip_tiny_press_line_seed0", "anomalyclip_tiny_polyps_seed0"]
    # Without weights for the packaged network one method has nothing to show; the others go on.
    assert {failed.method for failed in found.failed_runs} == {"adaclip"}
    assert len(found.failed_runs) == 4
    assert "give --checkpoint FILE" in found.failed_runs[0].error
    polyps = found.runs[1].mean
    assert math.isnan(polyps["image_auroc"])  # no normal image
    assert 0 <= polyps["pixel_auroc"] <= 1
    assert any("with each other" in note for note in found.runs[-1].notes)
    assert any(picture.outranked != picture.outranked for picture in found.runs[1].worst)  # NaN


def test_one_run_that_cannot_be_done_is_an_error(without_adaclip, tree, tmp_path):
    outcome = run("--data", tree, "-m", "adaclip", "--out", tmp_path / "out", code=2)
    assert outcome.stderr.count("\n") == 1
    assert "there are no weights of adaclip for tiny" in outcome.stderr


def test_a_method_that_compares_images_gets_the_whole_category(tree, tmp_path):
    for size in (1, 8):
        run("--data", tree, "-m", "musc", "--batch-size", size, "--out", tmp_path / str(size))
    one, eight = (read_evaluation(tmp_path / size).runs[0] for size in ("1", "8"))
    assert one.mean == eight.mean


def test_the_authors_few_shot_scores_see_the_whole_category(tree, tmp_path):
    few_shot = ["-m", "april_gan", "--reference", 1, "--set", "few_shot_score=batch"]
    for size in (1, 8):
        run("--data", tree, *few_shot, "--batch-size", size, "--out", tmp_path / str(size))
    one, eight = (read_evaluation(tmp_path / size).runs[0] for size in ("1", "8"))
    assert one.mean == eight.mean


def test_images_without_labels_are_refused_with_what_to_do(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(2):
        add_picture(tmp_path / "flat" / f"{number}.png", generator)
    outcome = run("--data", tmp_path / "flat", "--out", tmp_path / "out", code=1)
    assert "no image has a label" in outcome.stderr
    assert "path,label" in outcome.stderr
    listed = tmp_path / "flat" / "list.csv"
    listed.write_text("path,label\n0.png,0\n1.png,\n")
    outcome = run("--data", listed, "--out", tmp_path / "out", code=3)
    assert "1.png: has no label; say in a CSV list" in outcome.stderr.replace("\n", "")
    assert '"-" means undefined' in outcome.stdout


def test_parts_of_a_joint_category_have_the_same_mixture():
    batches = make_batches(range(600), 8, 0, scores_jointly=True)
    assert [len(batch.indices) for batch in batches] == [200, 200, 200]
    assert sorted(index for batch in batches for index in batch.indices) == list(range(600))
    assert all(abs(np.mean(batch.indices) - 299.5) <= 1 for batch in batches)
    assert len({batch.seed for batch in batches}) == 3


def test_bad_images_and_masks_are_named_left_out_and_counted(tree, tmp_path):
    (tree / "gear" / "test" / "good" / "1.png").write_bytes(b"no image")
    Image.new("L", (7, 7), 255).save(tree / "gear" / "ground_truth" / "scratch" / "2_mask.png")
    (tree / "round_lid" / "ground_truth" / "scratch" / "0_mask.png").unlink()
    outcome = run("--data", tree, "--out", tmp_path / "out", code=3)
    (result,) = read_evaluation(tmp_path / "out").runs
    gear, lid = result.categories
    assert (gear.normal, gear.anomalous) == (3, 5)  # an image without a usable mask has a score
    assert len(gear.failed) == 1
    assert gear.failed[0].startswith(str(tree / "gear" / "test" / "good" / "1.png"))
    assert gear.unmasked[0].startswith(str(tree / "gear" / "ground_truth" / "scratch" / "2_mask.png"))
    assert 0 <= gear.metrics["pixel_aupro"] <= 1
    assert (lid.normal, lid.anomalous) == (4, 5)
    assert len(result.problems) == 1
    records = lines_of(tmp_path / "out" / result.pictures_file)
    assert sum(record["error"] is not None and record["score"] is None for record in records) == 1
    assert outcome.stderr.count("left out: ") == 3


@pytest.mark.parametrize("fault", ["missing", "unreadable", "empty", "size"])
def test_one_unusable_mask_takes_its_image_out_of_the_pixel_metrics_only(tree, tmp_path, fault):
    path = tree / "gear" / "ground_truth" / "scratch" / "2_mask.png"
    size = (7, 7) if fault == "size" else (48, 40)
    path.write_bytes(b"no image")
    if fault in ("empty", "size"):
        Image.new("L", size, 255 if fault == "size" else 0).save(path)
    if fault == "missing":
        path.unlink()
    shutil.rmtree(tree / "round_lid")
    outcome = run("--data", tree, "--out", tmp_path / "out", code=3)
    (result,) = read_evaluation(tmp_path / "out").runs
    (gear,) = result.categories
    note = "gear: 1 of 5 anomalous images have no usable mask and count in the image metrics only"
    assert note in result.notes
    assert note in " ".join(outcome.stdout.split())
    assert (gear.normal, gear.anomalous, gear.masks, gear.failed) == (4, 5, True, ())
    assert gear.metrics["pixel_auroc"] > 0
    whole = tmp_path / "whole"
    add_category(whole, "gear")
    (whole / "gear" / "test" / "scratch" / "2.png").unlink()
    (whole / "gear" / "ground_truth" / "scratch" / "2_mask.png").unlink()
    run("--data", whole, "--out", tmp_path / "without")
    expected = read_evaluation(tmp_path / "without").runs[0].categories[0].metrics
    for name in ("pixel_auroc", "pixel_ap", "pixel_aupro"):
        assert gear.metrics[name] == pytest.approx(expected[name], abs=1e-4)


def test_inverted_masks_are_asked_about(tree, tmp_path):
    shutil.rmtree(tree / "round_lid")
    for path in (tree / "gear" / "ground_truth" / "scratch").iterdir():
        Image.open(path).point(lambda level: 255 - level).save(path)
    run("--data", tree, "--out", tmp_path / "out")
    (result,) = read_evaluation(tmp_path / "out").runs
    assert any("gear: the masks mark 94% of the image" in note for note in result.notes)


def test_undecided_folders_name_the_option(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("foo/0.png", "bar/1.png"):
        add_picture(tmp_path / "own" / name, generator)
    outcome = run("--data", tmp_path / "own", "--out", tmp_path / "out", code=1)
    assert "none of the folders is known to mean normal (folders: bar, foo)" in outcome.stderr
    assert "--normal-labels 'bar'" in outcome.stderr
    run("--data", tmp_path / "own", "--out", tmp_path / "out", "--normal-labels", "foo")


def test_a_map_that_is_not_finite_is_left_out_by_name(tree, tmp_path, monkeypatch):
    real = Detector.score_tensors

    def broken(self, images, classes=None):
        raw = real(self, images, classes)
        maps = raw.maps.clone()
        maps[0] = math.nan
        return RawOutput(raw.scores, maps)

    monkeypatch.setattr(Detector, "score_tensors", broken)
    run("--data", tree, "--out", tmp_path / "out", "--batch-size", 3, code=3)
    gear, _ = read_evaluation(tmp_path / "out").runs[0].categories
    assert len(gear.failed) == 3
    assert all("must be finite" in line and line.startswith(str(tree)) for line in gear.failed)


def scores_by_path(directory):
    (result,) = read_evaluation(directory).runs
    return {record["path"]: record["score"] for record in lines_of(directory / result.pictures_file)}


def test_a_batch_that_runs_out_of_memory_is_scored_image_by_image(tree, tmp_path, monkeypatch):
    run("--data", tree, "--out", tmp_path / "one", "--batch-size", 1)
    real = Detector.score_tensors

    def small(self, images, classes=None):
        if len(images) > 1:
            raise RuntimeError("CUDA out of memory")
        return real(self, images, classes)

    monkeypatch.setattr(Detector, "score_tensors", small)
    run("--data", tree, "--out", tmp_path / "four", "--batch-size", 4)
    expected = scores_by_path(tmp_path / "one")
    assert len(expected) == 18
    assert scores_by_path(tmp_path / "four") == pytest.approx(expected, abs=1e-6)


def test_one_image_that_cannot_be_scored_does_not_stop_the_others(tree, tmp_path, monkeypatch):
    run("--data", tree, "--out", tmp_path / "whole")
    real, bright = Detector.score_tensors, tree / "gear" / "test" / "good" / "2.png"
    Image.new("RGB", (48, 40), "white").save(bright)

    def sensitive(self, images, classes=None):
        if any(float(image.min()) > 0.5 for image in images):
            raise RuntimeError("CUDA out of memory")
        return real(self, images, classes)

    monkeypatch.setattr(Detector, "score_tensors", sensitive)
    outcome = run("--data", tree, "--out", tmp_path / "out", "--batch-size", 4, code=3)
    gear, _ = read_evaluation(tmp_path / "out").runs[0].categories
    assert gear.failed == (f"{bright}: CUDA out of memory",)
    assert (gear.normal, gear.anomalous) == (3, 5)
    found, expected = scores_by_path(tmp_path / "out"), scores_by_path(tmp_path / "whole")
    assert found.pop(str(bright)) is None
    del expected[str(bright)]
    assert found == pytest.approx(expected, abs=1e-6)
    assert "left out: " in outcome.stderr


def test_images_scored_jointly_fail_together(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(Detector, "score_tensors", _out_of_memory)
    run("--data", tree, "-m", "musc", "--out", tmp_path / "out", code=3)
    rows = read_evaluation(tmp_path / "out").runs[0].categories
    assert [len(row.failed) for row in rows] == [9, 9]
    assert all(line.endswith(": CUDA out of memory") for row in rows for line in row.failed)


def _out_of_memory(self, images, classes=None):
    raise RuntimeError("CUDA out of memory")


def test_an_interrupted_evaluation_goes_on_to_the_same_result(tree, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    call = ["--data", tree, "--bootstrap", 20]
    run(*call, "--out", whole)
    real, scored = Detector.score_tensors, []

    def counting(self, images, classes=None):
        scored.append(len(images))
        if sum(scored) > 9 and len(scored) == 3:  # in the second category
            raise KeyboardInterrupt
        return real(self, images, classes)

    monkeypatch.setattr(Detector, "score_tensors", counting)
    outcome = run(*call, "--out", out, code=130)
    assert outcome.stderr.rstrip().endswith("--resume")
    assert f"finished results are in {out}" in outcome.stderr
    assert read_evaluation(out).runs == ()
    scored[:] = [0] * 10
    run(*call, "--out", out, "--resume")
    assert sum(scored) == 9  # the second category only
    assert json.dumps(without_times(read_evaluation(out))) == json.dumps(
        without_times(read_evaluation(whole))
    )
    scored.clear()
    run(*call, "--out", out, "--resume")
    assert scored == []
    # An image that changed makes its category new; another setting is refused.
    add_picture(tree / "gear" / "test" / "good" / "0.png", np.random.default_rng(5))
    run(*call, "--out", out, "--resume")
    assert sum(scored) == 9
    refused = run(*call, "--out", out, "--resume", "--pro", "script", code=2)
    assert "pro was 'exact' and is now 'script'" in refused.stderr


def test_few_shot_references_are_drawn_by_seed(tree, tmp_path):
    shutil.rmtree(tree / "round_lid")
    call = ["--data", tree, "-m", "april_gan", "--reference", 2]
    run(*call, "--seed", 0, "--seed", 1, "--out", tmp_path / "a")
    run(*call, "--seed", 1, "--out", tmp_path / "b")
    first, second = read_evaluation(tmp_path / "a").runs
    (again,) = read_evaluation(tmp_path / "b").runs
    chosen = [row.references for row in first.categories]
    assert all(len(set(files)) == 2 and all("train" in file for file in files) for files in chosen)
    assert first.references == 2
    assert chosen != [row.references for row in second.categories]
    assert second.id == again.id == "april_gan_2-shot_tiny_press_line_seed1"
    assert second.mean == again.mean
    assert second.mean != first.mean
    outcome = run(*call[:-1], 5, "--out", tmp_path / "c", code=1)
    assert "has 4 normal training images, 5 references were asked for" in outcome.stderr


def test_references_count_turned_on_request(tree, tmp_path):
    shutil.rmtree(tree / "round_lid")
    call = ["--data", tree, "-m", "clip_ac", "--reference", 1]
    run(*call, "--out", tmp_path / "a")
    run(*call, "--augment-references", "--out", tmp_path / "b")
    (plain,), (turned,) = (read_evaluation(tmp_path / name).runs for name in ("a", "b"))
    assert (plain.shots, turned.shots) == ("1-shot", "1-shot turned")
    assert turned.id == "clip_ac_1-shot-turned_tiny_press_line_seed0"
    assert turned.categories[0].references == plain.categories[0].references
    assert turned.mean != plain.mean
    refused = run(*call[:-2], "--augment-references", "--out", tmp_path / "c", code=2)
    assert "give references=4 as well (--reference 4), or leave it out" in refused.stderr


def test_overlap_with_the_training_data_is_refused(tree, tmp_path):
    for seed in (0, 1):
        detector = zsad.load("anomalyclip", checkpoint="fresh", image_size=SIDE, device="cpu")
        detector.auxiliary_data = "press_line: gear, washer (test split, 30 images)"
        detector.auxiliary_pictures = pack_digests(file_digests(sorted(tree.glob("gear/test/*/*"))))
        detector.save(tmp_path / f"own_{seed}.safetensors")
    call = ["--data", tree, "--checkpoint", tmp_path / "own_{seed}.safetensors", "--seed", 1]
    outcome = run(*call, "--out", tmp_path / "out", code=2)
    assert outcome.stderr.count("\n") == 1
    assert "anomalyclip was trained on " in outcome.stderr
    assert " of the test images (the first is " in outcome.stderr
    assert not (tmp_path / "out").exists()
    run(*call, "--out", tmp_path / "out", "--allow-overlap")
    (result,) = read_evaluation(tmp_path / "out").runs
    assert " of the test images (the first is " in result.overlap
    assert result.checkpoint.endswith("own_1.safetensors")
    shutil.rmtree(tree / "gear")
    run(*call, "--out", tmp_path / "other")  # another category of the same set was never seen


def test_training_images_are_recognised_in_a_renamed_folder(tree, tmp_path):
    own = tmp_path / "own.safetensors"
    detector = zsad.load("anomalyclip", checkpoint="fresh", image_size=SIDE, device="cpu")
    seen = [sample.path for sample in open_dataset(tree / "gear").samples]
    detector.auxiliary_pictures = pack_digests(file_digests(seen))
    detector.save(own)
    shutil.copytree(tree / "gear", tmp_path / "other_plant" / "part_17")
    shutil.copytree(tree / "round_lid", tmp_path / "other_plant" / "part_18")
    outcome = run("--data", tmp_path / "other_plant", "--checkpoint", own, "--out", tmp_path / "out", code=2)
    assert "trained on 9 of the test images (the first is" in outcome.stderr
    run("--data", tmp_path / "other_plant" / "part_18", "--checkpoint", own, "--out", tmp_path / "out")


@pytest.mark.slow
def test_training_leaves_the_digests_of_its_images(tree, tmp_path):
    own = tmp_path / "own.safetensors"
    config = TrainOptions(
        out=own, data=(tree / "gear",), epochs=1, batch_size=4, image_size=SIDE, device="cpu"
    )
    train(config, show_progress=False)
    seen = [sample.path for sample in open_dataset(tree / "gear").samples]
    assert zsad.load(checkpoint=own, device="cpu").auxiliary_pictures == pack_digests(file_digests(seen))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "anomalyklip"], "did you mean 'anomalyclip'"),
        (["--pro", "exakt"], "did you mean 'exact'"),
        (["--fpr-limit", "30"], r"must lie in (0, 1], got 30"),
        (["--precision", "fp8"], "unknown precision 'fp8'"),
        (["--set", "sigme=4"], "did you mean 'sigma'"),
        (["--seed", "-1"], "a seed of 0 or more"),
        (["--split", "valid"], "unknown split 'valid'"),
    ],
)
def test_wrong_options_are_refused_in_one_line(tree, tmp_path, arguments, message):
    outcome = run("--data", tree, "--out", tmp_path / "out", *arguments, code=2)
    assert message in outcome.stderr
    assert outcome.stderr.count("\n") == 1


@pytest.mark.slow
def test_two_processes_give_the_same_numbers(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    call = ["--data", tree, "--batch-size", 2]
    try:
        run(*call, "--out", tmp_path / "one")
        run(*call, "--out", tmp_path / "two", "--devices", 2)
    finally:
        torch.set_num_threads(threads)
    one, two = (read_evaluation(tmp_path / name) for name in ("one", "two"))
    assert json.dumps(without_times(one)) == json.dumps(without_times(two))
    scores = [
        [record["score"] for record in lines_of(tmp_path / name / found.runs[0].pictures_file)]
        for name, found in (("one", one), ("two", two))
    ]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_a_killed_evaluation_loses_one_category_at_most(tree, tmp_path):
    for index in range(3):
        add_category(tree, f"part_{index}", 9, 7)
    arguments = [sys.executable, "-m", "zsad", "evaluate", *FAST, "--data", str(tree), "-q"]
    subprocess.run([*arguments, "--out", str(tmp_path / "whole")], check=True)
    process = subprocess.Popen([*arguments, "--out", str(tmp_path / "out")])
    states = tmp_path / "out" / "runs" / "anomalyclip_tiny_press_line_seed0" / "categories"
    while not list(states.glob("*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in states.glob("*.json")}
    assert 1 <= len(finished) < 5
    subprocess.run([*arguments, "--out", str(tmp_path / "out"), "--resume"], check=True)
    assert all(path.stat().st_mtime_ns == when for path, when in finished.items())
    both = [json.dumps(without_times(read_evaluation(tmp_path / name))) for name in ("out", "whole")]
    assert both[0] == both[1]
