"""The recipes that ship, their loader, and `zsad reproduce` end to end on miniature trees with `tiny`."""

import json
import math
import shlex

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from helpers.evaluation_examples import run_result
from helpers.miniature_trees import mvtec, visa
from zsad.cli import app
from zsad.data.auxiliary import named_datasets
from zsad.data.catalog import dataset_record, list_datasets
from zsad.detector.weights import published_weights
from zsad.errors import ConfigError, DataError
from zsad.evaluation import run as evaluation
from zsad.evaluation.published import published_results
from zsad.evaluation.reproduction.commands import commands
from zsad.evaluation.reproduction.comparison import as_json, compare, difference, published_row
from zsad.evaluation.reproduction.datasets import DATA_VARIABLE, locate, parse_data
from zsad.evaluation.reproduction.finding import BASES, find_recipe, list_recipes, read_recipe, recipes_folder
from zsad.evaluation.reproduction.plan import (
    ReproduceOptions,
    deviations,
    evaluation_of,
    method_settings,
    trainings_of,
)
from zsad.evaluation.reproduction.recipe import check_checkpoint
from zsad.evaluation.results import read_evaluation
from zsad.files.settings import build_config
from zsad.methods._registry import method_class
from zsad.metrics import METRIC_NAMES

NAMES = list_recipes()
SYSTEMS = (
    "anomalyclip",
    "adaclip",
    "glocalclip",
    "dual_image",
    "winclip",
    "april_gan",
    "clip_ac",
    "anovl",
    "musc",
    "genclip",
    "kanoclip",
    "crane",
    "crane_plus",
    "faprompt",
    "aa_clip",
    "visual_ad",
)
ONE_EPOCH = "crane-trained-on-mvtec-plus-1-epoch"  # the authors' weights for medical images
SIDE = 64
OTHER = ["--backbone", "tiny", "--image-size", str(SIDE), "--device", "cpu"]


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_fits_what_it_names(name):
    recipe = find_recipe(name)
    method = method_class(recipe.method)
    shots = f"-{recipe.test.shots}-shot" if recipe.test.shots else ""
    assert name == f"{recipe.system}-{recipe.test.data}{shots}"
    assert recipe.title.endswith(dataset_record(recipe.test.data).title + shots.replace("-", ", ", 1))
    build_config(method.Config, recipe.settings, name)
    assert (recipe.train is not None) == method.INFO.needs_training
    assert method.INFO.references == "own" or not recipe.test.shots
    assert all(
        line.startswith(("[code]", "[paper]", "[recalled]", "[inferred]")) for line in recipe.assumptions
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_has_its_published_row(name):
    recipe = find_recipe(name)
    row = published_row(recipe)
    if recipe.published is None:
        known = published_results(recipe.system, recipe.test.data, shots=recipe.test.shots)
        assert not known, "there are published numbers by now: name their source"
    else:
        assert row
    assert {number.trained_on for number in row.values()} <= {recipe.trained_on}


@pytest.mark.parametrize("name", [name for name in NAMES if find_recipe(name).train])
def test_training_is_the_methods_own_recipe(name):
    recipe = find_recipe(name)
    for part in filter(None, (recipe.first_stage, recipe.train)):
        own = method_class(recipe.method).training_defaults({**recipe.settings, **part.settings})
        for dataset in part.data:
            expected = own.for_dataset(dataset)
            assert part.epochs == (1 if recipe.checkpoint == ONE_EPOCH else expected.epochs)
            for field in ("batch_size", "learning_rate", "optimizer", "betas", "weight_decay"):
                assert getattr(part, field) == getattr(expected, field), (dataset, field)
            assert (part.schedule, part.precision) == (expected.schedule, expected.precision)
            assert part.mosaic in (None, expected.mosaic)


@pytest.mark.parametrize("name", [name for name in NAMES if find_recipe(name).checkpoint])
def test_the_authors_weights_were_trained_on_what_the_recipe_trains_on(name):
    recipe = find_recipe(name)
    described = published_weights()[recipe.checkpoint].record.auxiliary_data
    assert {named.name for named in named_datasets(described)} == set(recipe.train.data)


def test_every_row_by_a_methods_authors_has_a_recipe():
    rows = {
        (number.method, number.dataset, number.shots, number.source, number.trained_on)
        for method in SYSTEMS
        for number in published_results(method)
        if number.category is None
        and not number.variant
        and number.dataset in list_datasets()
        and (number.origin == "authors" or number.shots)
    }
    recipes = [find_recipe(name) for name in NAMES]
    covered = {
        (each.system, each.test.data, each.test.shots, each.published, each.trained_on) for each in recipes
    }
    assert len(rows) > 40
    assert rows <= covered
    assert {(method, data) for method in SYSTEMS for data in ("mvtec", "visa")} <= {
        (each.system, each.test.data) for each in recipes
    }


def test_every_base_is_used():
    used = {
        (recipes_folder() / f"{name}.yaml").read_text().split("extends: ")[1].split()[0] for name in NAMES
    }
    assert used == {path.stem for path in (recipes_folder() / BASES).glob("*.yaml")}


def test_names_are_forgiving_and_errors_are_short():
    assert find_recipe("April-GAN-MVTec").name == "april_gan-mvtec"
    with pytest.raises(ConfigError, match="did you mean 'anomalyclip-mvtec'") as caught:
        find_recipe("anomalyclip-mvtek")
    assert len(str(caught.value)) < 150


OWN = """
extends: anomalyclip
title: my row
train: {data: [visa]}
test: {data: mpdd}
"""


@pytest.fixture
def own_recipe(tmp_path):
    def write(text=OWN, name="mine"):
        (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path / f"{name}.yaml"

    return write


def test_a_users_own_recipe(own_recipe):
    recipe = find_recipe(str(own_recipe(OWN + "settings: {lam: 2.0, features_list: [6, 24]}\n")))
    assert (recipe.name, recipe.train.epochs, recipe.test.pro) == ("mine", 15, "script")
    assert (recipe.settings["lam"], recipe.settings["n_ctx"]) == (2.0, 12)
    assert recipe.settings["features_list"] == (6, 24)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OWN.replace("test:", "tset:"), "unknown key of recipe mine 'tset', did you mean 'test'"),
        (OWN.replace("title: my row\n", ""), "recipe mine lacks title"),
        (
            OWN.replace("{data: [visa]}", "{data: [visa], epoch: 3}"),
            "train of recipe mine 'epoch', did you mean",
        ),
        (
            OWN.replace("{data: [visa]}", "{data: [visa], epochs: many}"),
            "epochs of train of recipe mine must be",
        ),
        (OWN.replace("{data: [visa]}", "{epochs: 3}"), "train of recipe mine lacks data"),
        (OWN.replace("{data: mpdd}", "[mpdd]"), "test of recipe mine must be a mapping"),
        (OWN.replace("mpdd", "mpd"), "unknown dataset of recipe mine 'mpd', did you mean 'mpdd'"),
        (OWN.replace("mpdd", "visa"), "tests on visa, which it trains on"),
        (
            OWN + "method: anomlyclip\n",
            "unknown method of recipe mine 'anomlyclip', did you mean 'anomalyclip'",
        ),
        (OWN + "backbone: ViT-L-14-337\n", "unknown backbone of recipe mine"),
        (OWN + "settings: [1]\n", "settings of recipe mine must be a mapping"),
        (OWN.replace("extends: anomalyclip", "extends: anomaliclip"), "did you mean 'anomalyclip'"),
        ("- 1\n", "expected names with values"),
        ("title: [\n", "is not YAML"),
    ],
)
def test_wrong_recipes_are_refused_in_one_line(own_recipe, text, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")) as caught:
        read_recipe(own_recipe(text))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_other_authors_is_refused(own_recipe):
    recipe = read_recipe(own_recipe(OWN + "checkpoint: adaclip-trained-on-all\n"))
    with pytest.raises(ConfigError, match="unknown checkpoint of recipe mine 'adaclip-trained-on-all'"):
        check_checkpoint(recipe)


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_are_the_methods_own(name):
    check_checkpoint(find_recipe(name))


def test_the_folders_of_datasets(tmp_path, monkeypatch):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    (tmp_path / "MVTec-AD").mkdir()
    (tmp_path / "elsewhere").mkdir()
    recipe = find_recipe("anomalyclip-mvtec")
    tested, trained = (
        ReproduceOptions(recipe=recipe, out=tmp_path / "out"),
        ReproduceOptions(recipe=recipe, out=tmp_path / "out", retrain=True),
    )
    with pytest.raises(DataError, match=r"needs MVTec AD \(https.*--data mvtec=FOLDER"):
        locate(tested)
    assert locate(tested, str(tmp_path)) == {"mvtec": tmp_path / "MVTec-AD"}
    with pytest.raises(DataError, match=r"needs VisA \(https.*--data visa=FOLDER"):
        locate(trained, str(tmp_path))
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    data = parse_data([f"VisA={tmp_path / 'elsewhere'}"])
    assert locate(ReproduceOptions(recipe=recipe, out=tmp_path, data=data, retrain=True)).keys() == {
        "visa",
        "mvtec",
    }
    with pytest.raises(DataError, match="/nowhere does not exist"):
        locate(ReproduceOptions(recipe=recipe, out=tmp_path, data=parse_data(["mvtec:/nowhere"])))
    for wrong in (["/data/mvtec"], ["mvtek=/data"], ["mvtec=a", "mvtec=b"]):
        with pytest.raises(ConfigError):
            parse_data(wrong)


def test_only_what_differs_from_the_recipe_is_a_deviation(tmp_path):
    recipe = find_recipe("glocalclip-visa")
    plain = ReproduceOptions(recipe=recipe, out=tmp_path)
    assert deviations(plain) == ()
    assert (
        deviations(
            ReproduceOptions(
                recipe=recipe, out=tmp_path, backbone=recipe.backbone, image_size=518, device="cpu"
            )
        )
        == ()
    )
    told = "\n".join(
        deviations(
            ReproduceOptions(
                recipe=recipe, out=tmp_path, backbone="tiny", epochs=1, limit=3, precision="bf16"
            )
        )
    )
    for part in (
        "backbone tiny",
        "depth",
        "its own image size",
        "epochs 1 in place of 15",
        "3 test",
        "bf16",
    ):
        assert part in told
    assert (
        "weights mine.pth" in deviations(ReproduceOptions(recipe=recipe, out=tmp_path, weights="mine.pth"))[0]
    )
    for wrong in ({"retrain": True, "weights": "a"}, {"weights": "a", "epochs": 2}):
        with pytest.raises(ConfigError):
            ReproduceOptions(recipe=recipe, out=tmp_path, **wrong)
    with pytest.raises(ConfigError, match="nothing to train"):
        ReproduceOptions(recipe=find_recipe("musc-mvtec"), out=tmp_path, retrain=True)


def test_every_hyper_parameter_arrives(tmp_path):
    recipe = find_recipe("glocalclip-visa")
    request = ReproduceOptions(recipe=recipe, out=tmp_path, device="cpu")
    folders = {"mvtec": tmp_path / "m", "visa": tmp_path / "v"}
    (training,), testing = trainings_of(request, folders), evaluation_of(request, folders)
    for field in ("epochs", "batch_size", "learning_rate", "optimizer", "betas", "weight_decay", "seed"):
        assert getattr(training, field) == getattr(recipe.train, field)
    assert training.settings == testing.settings == recipe.settings
    assert (training.data, testing.data) == ((f"mvtec:{tmp_path}/m",), (f"visa:{tmp_path}/v",))
    assert (testing.pro, testing.image_size, testing.checkpoint) == ("script", 518, str(training.out))
    authors = ReproduceOptions(recipe=find_recipe("anomalyclip-visa"), out=tmp_path)
    assert trainings_of(authors, folders) == ()
    assert evaluation_of(authors, folders).checkpoint == "anomalyclip-trained-on-mvtec"
    assert commands(authors, folders)[0] == "zsad weights fetch anomalyclip-trained-on-mvtec"
    few = evaluation_of(ReproduceOptions(recipe=find_recipe("winclip-visa-2-shot"), out=tmp_path), folders)
    assert (few.references, few.seeds, few.image_size) == (2, (0, 1, 2, 3, 4), 240)


def test_a_method_of_two_stages_is_trained_twice(tmp_path):
    request = ReproduceOptions(recipe=find_recipe("aa_clip-clinicdb"), out=tmp_path, device="cpu")
    folders = {"visa": tmp_path / "v", "clinicdb": tmp_path / "c"}
    first, second = trainings_of(request, folders)
    assert [each.settings["stage"] for each in (first, second)] == ["text", "image"]
    assert (first.epochs, first.batch_size, first.schedule, first.cache) == (5, 16, "constant", None)
    assert (second.epochs, second.batch_size, second.schedule) == (20, 2, "steps")
    assert (first.checkpoint, second.checkpoint) == (None, first.out)
    assert first.data == second.data == (f"visa:{tmp_path}/v",)
    testing = evaluation_of(request, folders)
    assert testing.checkpoint == str(second.out)
    assert testing.settings["domain"] == "Medical"
    assert "stage" not in testing.settings
    lines = commands(request, folders)
    assert "stage=text" in lines[0]
    assert f"--checkpoint {first.out}" in lines[1]
    assert lines[2].startswith("zsad evaluate")


def test_another_backbone_keeps_the_settings_that_do_not_depend_on_it(tmp_path):
    request = ReproduceOptions(recipe=find_recipe("glocalclip-visa"), out=tmp_path, backbone="tiny")
    assert set(request.recipe.settings) - set(method_settings(request)) == {
        "features_list",
        "depth",
        "dpam_layer",
    }


def test_comparison_looks_numbers_up(tmp_path):
    recipe = find_recipe("anomalyclip-isic")
    mean = dict.fromkeys(METRIC_NAMES, math.nan) | {"pixel_auroc": 0.9, "pixel_ap": 0.5}
    runs = [
        run_result(dataset="isic", mean=mean),
        run_result(dataset="isic", seed=1, mean=mean | {"pixel_auroc": 0.8}),
    ]
    cells = compare(recipe, runs)
    published = next(iter(published_results("anomalyclip", "isic", "pixel_auroc"))).value
    assert difference(cells["pixel_auroc"]) == pytest.approx(85 - published)
    assert difference(cells["pixel_ap"]) is None
    assert "image_auroc" not in cells
    rows = {row["metric"]: row for row in as_json(cells)}
    assert rows["pixel_auroc"]["published"] == published
    assert rows["pixel_auroc"]["source"] == recipe.published
    assert rows["pixel_aupro"]["published"]
    assert math.isnan(rows["pixel_aupro"]["ours"])


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """MVTec AD and VisA in miniature, every image another one."""
    root = tmp_path_factory.mktemp("datasets")
    mvtec(root / "mvtec")
    visa(root / "VisA")
    generator = np.random.default_rng(0)
    for path in sorted(root.rglob("*")):
        if path.suffix in (".png", ".JPG") and not {"ground_truth", "Masks"} & set(path.parts):
            Image.fromarray(generator.integers(0, 255, (8, 12, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def trained(trees, tmp_path_factory):
    """A reproduction with a training through the command line, interrupted behind the training."""
    out = tmp_path_factory.mktemp("reproduction") / "out"
    arguments = ["reproduce", "anomalyclip-mvtec", *OTHER, "--epochs", 1, "--out", out]

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DATA_VARIABLE, str(trees))
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(evaluation, "evaluate", interrupted)
            stopped = invoke(*arguments)
        assert stopped.exit_code == 130
        assert f"finished results are in {out}; continue with: zsad" in stopped.output
        assert invoke(*arguments).exit_code == 2
        weights = (out / "weights.safetensors").read_bytes()
        told = invoke(*arguments, "--resume")
    assert told.exit_code == 0, told.output
    assert (out / "weights.safetensors").read_bytes() == weights
    return out, told.output


def test_trains_evaluates_and_compares(trained):
    out, told = trained
    result, saved = read_evaluation(out), json.loads((out / "reproduction.json").read_text())
    (run,) = result.runs
    assert (run.method, run.backbone, run.dataset, run.pro) == ("anomalyclip", "tiny", "mvtec", "script")
    assert run.auxiliary_data.startswith("visa:")
    assert run.settings["n_ctx"] == 12
    rows = {row["metric"]: row for row in saved["comparison"]}
    published = published_row(find_recipe("anomalyclip-mvtec"))["image_auroc"]
    assert rows["image_auroc"]["published"] == published.value
    assert rows["image_auroc"]["ours"] == pytest.approx(100 * run.mean["image_auroc"])
    assert f"{published.value:.1f}" in told
    assert not saved["is_published_setting"]
    assert "mvtec: 2 of the 15 categories" in saved["deviations"]
    assert {row["difference"] for row in saved["comparison"]} == {None}
    for line in saved["deviations"]:
        assert f"NOT THE PUBLISHED SETTING: {line}" in told
    assert any(note.startswith("Not the published setting: backbone tiny") for note in run.notes)
    assert "Not the published setting: backbone tiny" in (out / "index.html").read_text()
    assert not (out / "features").exists()
    assert saved["recipe"]["train"]["learning_rate"] == 0.001


def test_an_older_result_is_kept_unless_it_is_resumed(trained, trees):
    out, _ = trained
    before = read_evaluation(out).runs
    arguments = ["reproduce", "anomalyclip-mvtec", *OTHER, "--epochs", 1, "--out", out]
    data = ["--data", f"mvtec={trees / 'mvtec'}", "--data", f"visa={trees / 'VisA'}"]
    refused = invoke(*arguments, *data)
    assert refused.exit_code == 2
    assert "add --resume to continue it" in refused.output
    again = invoke(*arguments, *data, "--resume")
    assert again.exit_code == 0, again.output
    assert read_evaluation(out).runs == before


@pytest.mark.slow
def test_the_printed_commands_do_the_same(trained, trees, tmp_path):
    data = [f"--data=mvtec={trees / 'mvtec'}", f"--data=visa={trees / 'VisA'}"]
    dry = invoke(
        "reproduce", "anomalyclip-mvtec", *OTHER, "--epochs", 1, *data, "--out", tmp_path / "a b", "--dry-run"
    )
    lines = [line for line in dry.output.splitlines() if not line.startswith("#")]
    assert [line.split()[1] for line in lines] == ["train", "evaluate", "report"]
    for line in lines:
        told = invoke(*shlex.split(line)[1:])
        assert told.exit_code == 0, told.output
    assert read_evaluation(tmp_path / "a b").runs[0].mean == read_evaluation(trained[0]).runs[0].mean


def test_given_weights_spare_the_training(trained, trees, tmp_path):
    told = invoke(
        "reproduce", "anomalyclip-mvtec", *OTHER, "--weights", trained[0] / "weights.safetensors",
        "--data", f"mvtec={trees / 'mvtec'}", "--out", tmp_path / "out", "--limit", 1,
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    assert "at most 1 test images" in told.output
    assert not (tmp_path / "out" / "weights.safetensors").exists()


def test_a_few_shot_row_has_a_run_for_each_seed(trees, tmp_path):
    (tmp_path / "short.yaml").write_text(
        "extends: winclip\ntitle: short\npublished: WinCLIP (CVPR 2023)\n"
        "test: {data: mvtec, shots: 1, seeds: [0, 1]}\n"
    )
    told = invoke(
        "reproduce", tmp_path / "short.yaml", *OTHER, "--data", f"mvtec={trees / 'mvtec'}", "--limit", 1,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    assert [(run.seed, run.references) for run in read_evaluation(tmp_path / "out").runs] == [(0, 1), (1, 1)]
    assert "WinCLIP+, 1-shot" in told.output
    assert "±" in told.output


def test_what_is_missing_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    told = invoke("reproduce", "adaclip-visa", "--train", "--out", tmp_path / "out")
    assert told.exit_code == 1
    assert told.output.count("\n") == 1
    for title in ("MVTec AD", "CVC-ColonDB", "VisA"):
        assert title in told.output
    assert not (tmp_path / "out").exists()
    assert invoke("reproduce").exit_code == 2


def test_the_list():
    told = invoke("reproduce", "--list", "anomalyclip").output
    number = published_row(find_recipe("anomalyclip-mvtec"))["image_auroc"]
    (line,) = [line for line in told.splitlines() if "anomalyclip-mvtec" in line]
    assert f"{number.value:.1f}" in line
    assert "visa" in line
    assert "musc-mvtec" not in told
    assert invoke("reproduce", "--list", "nothing-like-it").exit_code == 2
