"""What a method is trained with when the user says nothing, and what several datasets make of it."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from helpers.training_examples import Interrupted, StoppingAt, assert_same, learned, quietly, stained_pictures
from zsad.data.auxiliary import AuxiliarySet
from zsad.data.mosaic import Mosaic
from zsad.errors import ConfigError, DataError
from zsad.methods._registry import list_methods, method_class
from zsad.methods.training import TrainingDefaults
from zsad.training.data import data_on_disk
from zsad.training.options import TrainOptions
from zsad.training.recipe import choose, described, make_optimizer, rate_factor
from zsad.training.run import TrainingRun

LEARNT = [name for name in list_methods() if method_class(name).INFO.needs_training]
# As in the authors' code: epochs, batch, rate, optimiser, weight decay; all with betas 0.5 and 0.999.
PUBLISHED = {
    ("anomalyclip", "mvtec"): (15, 8, 1e-3, "adam", 0.0),
    ("anomalyclip", "visa"): (15, 8, 1e-3, "adam", 0.0),
    ("glocalclip", "visa"): (15, 8, 1e-3, "adam", 0.0),
    ("faprompt", "mvtec"): (7, 8, 1e-3, "adam", 0.0),
    ("adaclip", "mvtec"): (5, 1, 0.01, "adamw", 0.01),
    ("adaclip", "visa"): (5, 1, 0.01, "adamw", 0.01),
    ("april_gan", "mvtec"): (3, 8, 1e-3, "adam", 0.0),
    ("april_gan", "visa"): (15, 8, 1e-3, "adam", 0.0),
    ("bayes_pfl", "mvtec"): (30, 32, 1e-3, "adam", 0.0),
    ("bayes_pfl", "visa"): (30, 32, 1e-3, "adam", 0.0),
    ("af_clip", "mvtec"): (2, 8, 1e-4, "adam", 0.0),
    ("af_clip", "visa"): (2, 8, 1e-4, "adam", 0.0),
}


def one_set(known_as):
    return AuxiliarySet(known_as or "mine", known_as, ("nut",), normal=3, anomalous=3)


def chosen(method, *known_as, device_type="cpu", **wishes):
    config = TrainOptions(out="x", method=method, **wishes)
    return choose(method_class(method).TRAINING, config, [one_set(name) for name in known_as], device_type)


@pytest.fixture
def dataset(tmp_path):
    """A function that writes the stained images as a category of a dataset of some name."""

    def write(name="mvtec", category="metal_nut"):
        root = tmp_path / name / category
        for index, (picture, mask, label, _) in enumerate(stained_pictures()):
            kind = "stain" if label else "good"
            (root / "test" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(root / "test" / kind / f"{index}.png")
            if label:
                (root / "ground_truth" / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask * np.uint8(255)).save(root / "ground_truth" / kind / f"{index}_mask.png")
        return root.parent

    return write


@pytest.fixture
def config(make_small_clip, tmp_path):
    """A function that makes settings which leave the recipe to the method."""

    def make(name="run", **changes):
        settings = {"out": tmp_path / f"{name}.safetensors", "backbone": make_small_clip(), "device": "cpu"}
        return TrainOptions(**{**settings, **changes})

    return make


@pytest.fixture
def runs(monkeypatch):
    """The trainings that wrote a checkpoint."""
    seen, original = [], TrainingRun.checkpoint
    monkeypatch.setattr(
        TrainingRun, "checkpoint", lambda run, epoch: (seen.append(run), original(run, epoch))
    )
    return seen


@pytest.mark.parametrize("name", list_methods())
def test_each_method_that_learns_has_a_recipe_and_no_other(name):
    kind = method_class(name)
    assert isinstance(kind.TRAINING, TrainingDefaults) == kind.INFO.needs_training


@pytest.mark.parametrize(("method", "known_as"), PUBLISHED)
def test_the_published_recipes(method, known_as):
    recipe = chosen(method, known_as)
    assert PUBLISHED[method, known_as] == (
        recipe.epochs,
        recipe.batch_size,
        recipe.learning_rate,
        recipe.optimizer,
        recipe.weight_decay,
    )
    assert recipe.betas == (0.5, 0.999)
    assert recipe.schedule == ("cosine" if method == "bayes_pfl" else "constant")


@pytest.mark.parametrize("method", ["adaclip", "april_gan"])
def test_mosaics_are_for_the_images_of_mvtec(method):
    recipe = chosen(method, "mvtec", "visa", None)
    assert [recipe.for_dataset(name).mosaic for name in ("mvtec", "visa", None)] == [0.2, 0.0, 0.0]
    assert chosen(method, "visa", mosaic=0.5).for_dataset("visa").mosaic == 0.5
    assert chosen(method, "mvtec", mosaic=0.0).for_dataset("mvtec").mosaic == 0.0


def test_several_datasets_with_several_recipes_take_the_general_one():
    assert chosen("april_gan", "mvtec", "mvtec").epochs == 3
    assert chosen("april_gan", "mvtec", "visa").epochs == method_class("april_gan").TRAINING.epochs


def test_half_precision_is_for_gpus_unless_asked_for():
    assert chosen("adaclip", "visa").precision == "fp32"
    assert chosen("adaclip", "visa", device_type="cuda").precision == "fp16"
    assert chosen("adaclip", "visa", precision="bf16").precision == "bf16"
    assert chosen("adaclip", "visa", device_type="cuda", precision="fp32").precision == "fp32"


def test_the_description_says_whose_recipe_it_is_and_what_differs():
    published = method_class("april_gan").TRAINING
    assert described(chosen("april_gan", "mvtec"), published, "APRIL-GAN") == (
        "APRIL-GAN's recipe: 3 epochs, 8 images a step, Adam at 0.001 (betas 0.5 and 0.999), fp32, "
        "mosaics at a chance of 0.2 on mvtec"
    )
    own = chosen(
        "april_gan", "visa", epochs=1, optimizer="adamw", weight_decay=0.1, schedule="cosine", mosaic=0.1
    )
    assert described(own, published, "APRIL-GAN") == (
        "APRIL-GAN's recipe but for epochs, optimizer, weight decay and schedule: 1 epoch, 8 images "
        "a step, AdamW at 0.001 (betas 0.5 and 0.999, weight decay 0.1), cosine schedule, fp32, "
        "mosaics at a chance of 0.1"
    )


def test_more_devices_than_images_a_step_are_refused():
    with pytest.raises(ConfigError, match="2 devices cannot share the steps of adaclip's recipe, of 1 image"):
        chosen("adaclip", "visa", devices=2)
    with pytest.raises(ConfigError, match="a batch of 2 cannot be shared by 3 devices"):
        TrainOptions(out="x", devices=3, batch_size=2)


@pytest.mark.parametrize("method", LEARNT)
def test_training_uses_the_recipe(config, runs, method):
    result = quietly(config(method=method, epochs=1), stained_pictures())
    (run,) = runs
    recipe = method_class(method).TRAINING
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    assert type(run.optimizer) is kinds[recipe.optimizer]
    factors = {1.0, *(factor for _, factor in recipe.rates)}
    assert {group["factor"] for group in run.optimizer.param_groups} == factors
    for group in run.optimizer.param_groups:
        assert (group["lr"], group["betas"], group["weight_decay"]) == (
            recipe.learning_rate * group["factor"],
            recipe.betas,
            recipe.weight_decay,
        )
    assert run.steps == -(-6 // recipe.batch_size)
    assert result.recipe == dataclasses.replace(recipe, epochs=1, precision="fp32", on={})
    changed = "" if recipe.epochs == 1 else " but for epochs"
    assert result.description.startswith(f"{method_class(method).INFO.title}'s recipe{changed}: 1 epoch,")


def test_the_epochs_of_the_recipe_are_trained(config, dataset):
    result = quietly(config(method="april_gan", data=(f"mvtec:{dataset('anything')}",)))
    assert len(result.losses) == 3


def test_a_cosine_schedule_goes_down_and_resumes(config, runs):
    whole = config("whole", schedule="cosine", epochs=3, batch_size=4)
    broken = dataclasses.replace(whole, out=whole.out.with_name("broken.safetensors"), resume=True)
    quietly(whole, stained_pictures())
    (group,) = runs[-1].optimizer.param_groups
    assert group["lr"] == pytest.approx(1e-3 * (1 + np.cos(np.pi * 5 / 6)) / 2)
    with pytest.raises(Interrupted):
        quietly(broken, StoppingAt(stained_pictures(), 9))
    quietly(broken, stained_pictures())
    assert_same(learned(broken), learned(whole))
    with pytest.raises(ConfigError, match="epochs was 3 and is now 4"):
        quietly(dataclasses.replace(broken, epochs=4), stained_pictures())
    with pytest.raises(ConfigError, match="cosine schedule needs to know how many images"):
        quietly(config("stream", schedule="cosine"), (item for item in stained_pictures()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adma"}, "unknown optimizer 'adma', did you mean 'adam'"),
        ({"schedule": "cos"}, "unknown schedule 'cos'"),
        ({"mosaic": 1.5}, r"mosaic is a chance in \[0, 1\]"),
        ({"weight_decay": -1.0}, "weight decay must be 0 or more"),
        ({"devices": 0}, "devices must be a whole number"),
    ],
)
def test_impossible_wishes_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        TrainOptions(out="x", **changes)


def test_mosaics_of_images_from_python_are_refused(config):
    with pytest.raises(ConfigError, match="give datasets"):
        quietly(config(mosaic=0.5), stained_pictures())


def test_mosaics_do_not_depend_on_interruptions_or_threads(config, dataset):
    data = (dataset(),)
    settings = {"method": "april_gan", "data": data, "epochs": 3, "batch_size": 2, "mosaic": 0.5}
    whole = config("whole", **settings, workers=1)
    short, long = (config("two", **settings, workers=3), config("two", **settings, workers=3, resume=True))
    quietly(whole)
    quietly(dataclasses.replace(short, epochs=2))
    assert quietly(long).resumed_from == 2
    assert_same(learned(whole), learned(long))
    plain = config("plain", **{**settings, "mosaic": 0.0})
    quietly(plain)
    assert any(not torch.equal(learned(plain)[name], tensor) for name, tensor in learned(whole).items())


def test_with_a_cache_only_mosaics_are_computed_again(config, dataset, monkeypatch):
    from zsad.training.cache import FeatureCache

    seen, original = [], FeatureCache.prepare

    def prepare(cache, item):
        prepared = original(cache, item)
        seen.append((isinstance(item, Mosaic), prepared.stored is not None))
        return prepared

    monkeypatch.setattr(FeatureCache, "prepare", prepare)
    settings = {"method": "april_gan", "data": (dataset(),), "epochs": 6, "batch_size": 3, "mosaic": 0.4}
    plain = quietly(config("plain", **settings))
    cached = quietly(config("cached", **settings, cache=config().out.with_name("cache")))
    np.testing.assert_allclose(cached.losses, plain.losses, rtol=1e-5)
    assert not any(is_stored for is_mosaic, is_stored in seen if is_mosaic)
    assert sum(is_mosaic for is_mosaic, _ in seen) >= 5
    usual = [is_stored for is_mosaic, is_stored in seen if not is_mosaic]
    assert usual.count(False) <= 6
    assert len(list(config().out.with_name("cache").rglob("*/*.safetensors"))) == usual.count(False)


def test_several_datasets_are_mixed_in_a_seeded_order(config, dataset, monkeypatch):
    orders = []
    original = TrainingRun._step

    def step(run, batch):
        orders[-1].extend(sample.class_name for sample in batch.images)
        return original(run, batch)

    monkeypatch.setattr(TrainingRun, "_step", step)
    data = (dataset("mvtec", "metal_nut"), dataset("mine", "bolt"))
    for number, seed in enumerate((1, 1, 2)):
        orders.append([])
        quietly(config(f"run{number}", data=data, seed=seed, epochs=2, batch_size=5))
    assert orders[0] == orders[1] != orders[2]
    first, second = orders[0][:12], orders[0][12:]
    assert first != second
    for epoch in (first, second):
        assert sorted(epoch) == ["bolt"] * 6 + ["metal nut"] * 6
        assert len(set(epoch[:6])) == 2


def test_several_datasets_are_counted_and_recorded(config, dataset, capsys):
    from zsad.training.loop import train

    data = (f"mvtec:{dataset('as_downloaded')}", dataset("mine", "bolt"))
    settings = config(data=data, epochs=1)
    train(settings)
    told = capsys.readouterr().err
    assert "AnomalyCLIP's recipe but for epochs: 1 epoch, 8 images a step, Adam at 0.001" in told
    assert "mvtec: 3 normal and 3 anomalous images, 1 category (metal nut)" in told
    assert "mine: 3 normal and 3 anomalous images, 1 category (bolt)" in told
    kept = settings.out.read_bytes().decode("latin-1")
    assert "mvtec: metal nut; mine: bolt (test split, 12 images)" in kept


def test_a_dataset_is_known_by_its_folder_but_not_twice(dataset):
    (by_name,) = data_on_disk((dataset("mvtec_anomaly_detection"),), "test").sets
    assert (by_name.name, by_name.known_as) == ("mvtec", "mvtec")
    (category,) = data_on_disk((dataset("mvtec") / "metal_nut",), "test").sets
    assert category.known_as == "mvtec"
    with pytest.raises(ConfigError, match="occurs twice in the training data"):
        data_on_disk((dataset("mvtec"), dataset("mvtec") / "metal_nut"), "test")
    with pytest.raises((ConfigError, DataError), match="mvtek"):
        data_on_disk(("mvtek:nowhere",), "test")


def test_own_rates_of_parameters_and_a_warm_up():
    recipe = TrainingDefaults(
        1, batch_size=1, learning_rate=1e-4, rates=(("prompts.", 10.0), ("prompts.bias", 3.0)), warm_up=0.5
    )
    named = {
        name: nn.Parameter(torch.zeros(2)) for name in ("prompts.bias", "head.weight", "prompts.context")
    }
    optimizer = make_optimizer(recipe, named)
    assert [group["factor"] for group in optimizer.param_groups] == [10.0, 1.0, 10.0]
    assert [rate_factor(recipe, step, 8) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_the_schedule_of_steps():
    recipe = TrainingDefaults(
        1, batch_size=1, learning_rate=1.0, schedule="steps", milestones=(2, 4), milestone_factor=0.1
    )
    found = [rate_factor(recipe, step, 6) for step in range(6)]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
