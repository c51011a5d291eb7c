"""`zsad data list` and `zsad data check`: findings, messages and exit codes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from helpers.miniature_trees import SIZE, brain_mri, image, mask, mvtec
from zsad.cli import app
from zsad.data.catalog import list_datasets
from zsad.data.checking import check_datasets
from zsad.errors import ConfigError, DataError
from zsad.images.results import png_marker


def run(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_a_whole_dataset_of_ones_own(tmp_path):
    (found,) = check_datasets(mvtec(tmp_path))
    assert found.problems == ()
    assert found.decoded == 2 * (3 + 1 + 1)  # three test images, a mask and a training image each
    row = found.categories[0]
    assert (row.category, row.normal, row.anomalous, row.masks, row.train) == ("bottle", 2, 1, 1, 1)
    assert row.defects == {"broken_large": 1}
    (quick,) = check_datasets(tmp_path, quick=True)
    unmeasured = tuple(replace(row, marked=None) for row in found.categories)
    assert (quick.decoded, quick.categories) == (0, unmeasured)


def test_every_kind_of_bad_file_is_named(tmp_path):
    truth = mvtec(tmp_path) / "bottle/ground_truth/broken_large"
    images = tmp_path / "bottle/test/broken_large"
    for number in range(1, 4):
        image(images / f"00{number}.png")
    mask(truth / "001_mask.png", (5, 4))
    mask(truth / "002_mask.png", empty=True)
    (truth / "003_mask.png").write_bytes(b"<html>")
    mask(truth / "004_mask.png")
    (tmp_path / "metal_nut/test/good/000.png").write_bytes(b"")
    (tmp_path / "metal_nut/train/good/000.png").write_bytes(b"\x89PNG")
    (found,) = check_datasets(tmp_path)
    text = "\n".join(found.problems)
    for expected in (
        f"{truth}/001_mask.png: 5 x 4 pixels, its image 001.png {SIZE[0]} x {SIZE[1]}",
        f"{truth}/002_mask.png: marks nothing, but {images}/002.png is anomalous",
        f"{truth}/003_mask.png: cannot be read as a mask",
        f"{truth}/004_mask.png: belongs to no image",
        f"{tmp_path}/metal_nut/test/good/000.png: the file is empty",
        f"{tmp_path}/metal_nut/train/good/000.png: ",
    ):
        assert expected in text
    assert len(found.problems) == 6
    assert len(check_datasets(tmp_path, quick=True)[0].problems) == 1


def test_counts_and_missing_categories_of_a_known_dataset(tmp_path):
    (found,) = check_datasets(f"mvtec:{mvtec(tmp_path)}", purpose="train")
    missing, counts = found.problems
    assert "no test images of cable, capsule, carpet, grid, hazelnut and 8 more; get the whole" in missing
    assert "4 normal instead of 467, 2 anomalous instead of 1258, 2 train instead of 3629" in counts


def test_the_official_numbers_are_no_problem(tmp_path):
    for number in range(98):
        image(tmp_path / f"no/{number}.png", (1, 1))
    for number in range(155):
        image(tmp_path / f"yes/{number}.png", (1, 1))
    (found,) = check_datasets(f"brainmri:{tmp_path}")
    assert (found.problems, found.notes) == ((), ("no masks: metrics of images only, none of pixels",))


def test_numbers_of_another_version_are_noted(tmp_path):
    for number in range(1, 301):
        image(tmp_path / f"images/{number}.png", (1, 1))
        mask(tmp_path / f"masks/{number}.png", (12, 8)) if number == 1 else image(
            tmp_path / f"masks/{number}.png", (1, 1), "L"
        )
    (found,) = check_datasets(f"colondb:{tmp_path}", quick=True)
    assert found.problems == ()
    assert "these are the numbers of the official page's frames" in found.notes


def test_missing_training_images_are_no_problem_of_zero_shot_use(tmp_path):
    mvtec(tmp_path)
    shutil.rmtree(tmp_path / "bottle" / "train")
    shutil.rmtree(tmp_path / "metal_nut" / "train")
    (found,) = check_datasets(f"mvtec:{tmp_path}")
    assert not any(" train" in problem or "train/" in problem for problem in found.problems)
    (own,) = check_datasets(tmp_path)
    assert own.problems == ()


def test_training_images_count_when_training_is_asked_for(tmp_path):
    mvtec(tmp_path)
    shutil.rmtree(tmp_path / "bottle" / "train")
    (tmp_path / "metal_nut/ground_truth/broken_large/000_mask.png").unlink()
    (found,) = check_datasets(tmp_path, purpose="train")
    assert "metal nut: 1 of 1 anomalous images have no mask, which training needs" in found.problems
    assert any("bottle: no images in train/good" in line for line in found.problems)
    assert run("check", tmp_path, "--for", "train").exit_code == 3
    assert run("check", tmp_path, "--for", "trian").exit_code == 2


def test_problems_come_one_a_line_the_gravest_first(tmp_path):
    truth = mvtec(tmp_path) / "bottle/ground_truth/broken_large"
    mask(truth / "009_mask.png")
    (tmp_path / "bottle/test/good/000.png").write_bytes(b"")
    shown = run("check", f"mvtec:{tmp_path}")
    problems = [line for line in shown.output.splitlines() if line.startswith("problem: ")]
    expected = ("no test images of", "instead of", "000.png: the file is empty", "belongs to no image")
    assert len(problems) == len(expected)
    assert all(text in line for text, line in zip(expected, problems, strict=True))


@pytest.mark.parametrize("names", ["a b", "foo bar", "good ok"])
@pytest.mark.parametrize("place", ["", "test/"])
def test_folders_that_leave_it_open_are_named(tmp_path, names, place):
    first, second = names.split()
    for number, name in enumerate((first, second)):
        image(tmp_path / f"{place}{name}/{number}.png")
    shown = run("check", tmp_path)
    assert shown.exit_code == 3
    assert f"(folders: {', '.join(sorted(names.split()))})" in shown.output
    assert f"--normal-labels {sorted(names.split())[0]!r}" in shown.output
    mapped = run("check", tmp_path, "--normal-labels", second, "--json")
    (row,) = json.loads(mapped.stdout)[0]["categories"]
    assert (row["normal"], row["anomalous"]) == (1, 1)
    unknown = run("check", tmp_path, "--normal-labels", "other", "-q")
    assert unknown.exit_code == 3
    assert "none of the folders is 'other'" in unknown.output


def test_masks_that_seem_inverted_are_asked_about(tmp_path):
    truth = mvtec(tmp_path) / "bottle/ground_truth/broken_large"
    levels = np.full((SIZE[1], SIZE[0]), 255, np.uint8)
    levels[:2, :2] = 0
    Image.fromarray(levels).save(truth / "000_mask.png")
    shown = run("check", tmp_path)
    assert shown.exit_code == 3
    assert "problem: bottle: the masks mark 96% of the image (median); are they inverted?" in shown.output
    assert "metal nut 19 / 19 / 19 %" in shown.output
    for number in (1, 2):
        image(tmp_path / f"bottle/test/broken_large/00{number}.png")
        mask(truth / f"00{number}_mask.png")
    single = run("check", tmp_path)
    assert single.exit_code == 0
    assert f"note: {truth}/000_mask.png: marks 96% of the image; is it inverted?" in single.output


def test_images_that_zsad_wrote_are_counted(tmp_path):
    good = mvtec(tmp_path) / "bottle/test/good"
    Image.new("L", SIZE).save(good / "x.png", pnginfo=png_marker())
    assert (
        "left out: 1 image that zsad wrote itself (--include-results takes them)"
        in run("check", tmp_path).output
    )
    (found,) = check_datasets(tmp_path, include_results=True)
    assert found.found.normal == 5


def test_unlabelled_images_are_noted(tmp_path):
    image(tmp_path / "1.png")
    (found,) = check_datasets(tmp_path)
    assert found.problems == ()
    assert found.notes == ("1 images without a label: fit for zsad predict, not for zsad evaluate",)


def test_progress_reaches_the_end(tmp_path):
    seen = []
    check_datasets(mvtec(tmp_path), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 8) for number in range(1, 9)]


def test_a_limit_decodes_some_of_each_category_and_counts_all(tmp_path):
    for name in ("bottle", "cable"):
        for number in range(4):
            image(tmp_path / name / "test" / "good" / f"{number}.png")
            image(tmp_path / name / "test" / "bent" / f"{number}.png")
    (whole,), (some,) = check_datasets(tmp_path), check_datasets(tmp_path, limit=2)
    assert (whole.decoded, some.decoded) == (16, 4)
    assert some.found == whole.found
    with pytest.raises(ConfigError, match="limit"):
        check_datasets(tmp_path, limit=0)


def test_nothing_to_check(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        check_datasets(tmp_path / "gone")


def test_command_list():
    shown = run("list")
    assert shown.exit_code == 0
    for name in list_datasets():
        assert f" {name} " in shown.output
    rows = json.loads(run("list", "--json").output)
    assert [row["name"] for row in rows] == list_datasets()
    assert rows[0]["counts"] == {"normal": 467, "anomalous": 1258, "train": 3629}


def test_command_check(tmp_path):
    mvtec(tmp_path)
    good = run("check", tmp_path)
    assert good.exit_code == 0
    assert "no problems, 10 files decoded" in good.output
    assert "broken_large 1" in good.output
    bad_mask = mask(tmp_path / "bottle/ground_truth/broken_large/000_mask.png", (5, 4))
    bad = run("check", tmp_path)
    assert bad.exit_code == 3
    assert f"problem: {bad_mask}: 5 x 4 pixels" in bad.output
    assert run("check", tmp_path, "--quick").exit_code == 0
    assert run("check", f"mvtek:{tmp_path}").exit_code == 2
    assert run("check", f"visa:{tmp_path}", "--quiet").exit_code == 3
    refused = run("check", tmp_path / "gone")
    assert refused.exit_code == 3
    assert "no such file or folder" in refused.output


def test_command_check_names_what_was_expected(tmp_path):
    brain_mri(tmp_path)
    shown = run("check", f"brainmri:{tmp_path}")
    assert shown.exit_code == 3
    assert "(official: 98, 155, 0)" in shown.output
    assert "1 normal instead of 98, 2 anomalous instead of 155" in shown.output
