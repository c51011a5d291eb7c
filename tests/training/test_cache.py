"""The feature cache: the same training to rounding, without the image encoder after the first epoch."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.batch_rounding import round_by_batch
from helpers.training_examples import Interrupted, StoppingAt, learned, quietly, stained_pictures
from zsad.backbones.clip import CLIP, ClipConfig, TextConfig, VisionConfig, VisionTower
from zsad.data.layouts import read_mvtec
from zsad.errors import ConfigError, ZsadError
from zsad.methods.functional.similarity import cosine_similarity
from zsad.training.cache import FeatureCache
from zsad.training.options import TrainOptions
from zsad.types import WeightRecord

METHODS = ["anomalyclip", "glocalclip", "april_gan"]
RECORD = WeightRecord(
    "random", "test", 32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.2), "quick_gelu", licence="Apache-2.0"
)


def random_clip(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        clip = CLIP(ClipConfig(VisionConfig(32, 8, 64, 3, 1), TextConfig(64, 2, 1), 32, "quick_gelu"))
    clip.record = RECORD
    return clip.eval()


@pytest.fixture
def config(tmp_path):
    """A function that makes the settings of a short training with a cache."""

    def make(name="cached", **changes):
        settings = {
            "out": tmp_path / f"{name}.safetensors",
            "backbone": random_clip(),
            "epochs": 3,
            "batch_size": 4,
            "device": "cpu",
            "cache": tmp_path / "cache",
        }
        return TrainOptions(**{**settings, **changes})

    return make


@pytest.fixture
def tower_runs(monkeypatch):
    """The number of images in each pass through the image encoder."""
    runs, original = [], VisionTower.forward

    def forward(self, images, *arguments, **named):
        runs.append(len(images))
        return original(self, images, *arguments, **named)

    monkeypatch.setattr(VisionTower, "forward", forward)
    return runs


@pytest.fixture
def _rounding_by_batch(monkeypatch):
    round_by_batch(monkeypatch.setattr)


@pytest.fixture
def samples(tmp_path):
    """The stained images as files in MVTec layout."""
    root = tmp_path / "toys" / "metal_nut"
    for index, (picture, mask, label, _) in enumerate(stained_pictures()):
        kind = "stain" if label else "good"
        for folder in (root / "test" / kind, root / "ground_truth" / "stain"):
            folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / "test" / kind / f"{index}.png")
        if label:
            Image.fromarray(mask * np.uint8(255)).save(root / "ground_truth" / kind / f"{index}_mask.png")
    return read_mvtec(root)


def entries(config):
    return sorted(Path(config.cache).rglob("*/*.safetensors"))


def step_losses(config):
    with (config.folder / "log.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def assert_same_weights(first, second):
    for name, tensor in learned(first).items():
        assert torch.equal(tensor, learned(second)[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_same_losses_as_without_and_the_tower_runs_once_a_image(config, tower_runs, method):
    plain, cached = config("plain", method=method, cache=None), config(method=method)
    quietly(plain, stained_pictures())
    assert sum(tower_runs) == 3 * 6
    tower_runs.clear()
    quietly(cached, stained_pictures())
    assert sum(tower_runs) == 6
    assert len(entries(cached)) == 6
    # To rounding, since a cached image went through the encoder alone; the steps of the optimiser enlarge it.
    np.testing.assert_allclose(step_losses(cached)[:1], step_losses(plain)[:1], rtol=1e-6)
    np.testing.assert_allclose(step_losses(cached), step_losses(plain), rtol=1e-4)


def test_files_are_not_even_decoded_again(config, samples, tower_runs, monkeypatch):
    first = config("first")
    quietly(first, samples)
    tower_runs.clear()

    def prepare_item(item, preparation):
        raise RuntimeError("an image was decoded")

    monkeypatch.setattr("zsad.training.cache.prepare_item", prepare_item)
    second = config("second")
    quietly(second, samples)
    assert tower_runs == []
    assert step_losses(second) == step_losses(first)
    assert_same_weights(first, second)


def test_files_and_images_in_memory_give_the_same(config, samples):
    files, memory = config("files"), config("memory", cache=config().cache.with_name("other"))
    by_name = {sample.path.stem: sample for sample in samples}
    quietly(files, [by_name[str(index)] for index in range(6)])
    quietly(memory, stained_pictures())
    assert step_losses(files) == step_losses(memory)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("_rounding_by_batch")
def test_an_entry_depends_on_its_image_alone(config, samples, tmp_path, method):
    """Neither on the images beside it in the batch nor on its place among them."""
    contents = []
    for batch_size, seed in [(4, 111), (6, 5), (1, 111)]:
        changes = {"batch_size": batch_size, "seed": seed, "cache": tmp_path / f"cache{batch_size}"}
        settings = config(f"by{batch_size}", method=method, epochs=1, **changes)
        quietly(settings, samples)
        contents.append({path.name: path.read_bytes() for path in entries(settings)})
    assert len(contents[0]) == 6
    assert contents[0] == contents[1] == contents[2]


@pytest.mark.usefixtures("_rounding_by_batch")
@pytest.mark.parametrize("number", [1, 3, 8, 14])
def test_interrupted_and_resumed_equals_uninterrupted(config, tmp_path, number):
    whole = config("whole", cache=tmp_path / "whole")
    broken = config("broken", cache=tmp_path / "broken", resume=True)
    expected = quietly(whole, stained_pictures())
    with pytest.raises(Interrupted):
        quietly(broken, StoppingAt(stained_pictures(), number))
    assert quietly(broken, stained_pictures()).losses == expected.losses
    assert_same_weights(whole, broken)


@pytest.mark.usefixtures("_rounding_by_batch")
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "swapped", "foreign"])
def test_a_damaged_entry_is_computed_again(config, samples, tower_runs, damage):
    quietly(config("first", epochs=1), samples)
    victim, other = entries(config())[:2]
    whole = victim.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    damaged = {
        "cut": whole[:-5],
        "flipped": bytes(flipped),
        "empty": b"",
        "swapped": other.read_bytes(),
        "foreign": b"not a file of tensors at all",
    }
    victim.write_bytes(damaged[damage])
    tower_runs.clear()
    with pytest.warns(UserWarning, match="damaged entry of the feature cache .* computed again"):
        quietly(config("second", epochs=1), samples)
    assert tower_runs == [1]
    assert victim.read_bytes() == whole
    assert_same_weights(config("first"), config("second"))


@pytest.mark.parametrize(
    ("changes", "is_shared"),
    [
        ({"seed": 5, "learning_rate": 1e-2}, True),
        ({"settings": {"lam": 2.0, "sigma": 1.0, "n_ctx": 5}}, True),
        ({"settings": {"dpam_layer": 2}}, False),
        ({"settings": {"features_list": (2,)}}, False),
        ({"settings": {"activation": "gelu"}}, False),
        ({"settings": {"position_interpolation": "bicubic"}}, False),
        ({"image_size": 24}, False),
        ({"backbone": random_clip(seed=1)}, False),
        ({"precision": "bf16"}, False),
        ({"cache_precision": "fp16"}, False),
        ({"method": "glocalclip"}, False),
    ],
)
def test_entries_are_shared_by_what_has_the_same_features(config, tower_runs, changes, is_shared):
    quietly(config("first", epochs=1), stained_pictures())
    tower_runs.clear()
    quietly(config("second", epochs=1, **changes), stained_pictures())
    assert sum(tower_runs) == (0 if is_shared else 6)


def test_a_changed_image_or_mask_is_a_new_entry(config, samples, tower_runs):
    quietly(config("first", epochs=1), samples)
    stained = next(sample for sample in samples if sample.label)
    Image.open(stained.path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(stained.path)
    tower_runs.clear()
    quietly(config("second", epochs=1), samples)
    assert len(tower_runs) == 1
    Image.open(stained.mask_path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(stained.mask_path)
    quietly(config("third", epochs=1), samples)
    assert len(tower_runs) == 2


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_halves_the_files_and_stays_close(config, precision):
    full, half = config("full", epochs=1), config("half", epochs=1, cache_precision=precision)
    quietly(full, stained_pictures())
    quietly(half, stained_pictures())
    sizes = sorted({path.parent.parent: path.stat().st_size for path in entries(full)}.values())
    assert len(sizes) == 2
    assert sizes[0] < 0.7 * sizes[1]
    np.testing.assert_allclose(step_losses(half), step_losses(full), rtol=2e-2)


def test_a_value_beyond_half_precision_is_refused(config, monkeypatch):
    from zsad.methods.april_gan import AprilGAN
    from zsad.methods.functional.raw_patches import RawFeatures

    monkeypatch.setattr(
        AprilGAN,
        "features",
        lambda self, images: RawFeatures(torch.full((1, 32), 1e6), torch.zeros(1, 3, 16, 64)),
    )
    with pytest.raises(ZsadError, match="use --cache-precision fp32 or bf16"):
        quietly(config(method="april_gan", cache_precision="fp16"), stained_pictures())


def test_what_cannot_be_cached_is_refused(config):
    with pytest.raises(ConfigError, match="adaclip has no features to cache"):
        quietly(config(method="adaclip"), stained_pictures())
    joint = {"dino_model": "dinov2", "dattn_mean": "batch"}
    with pytest.raises(ConfigError, match="crane has no features to cache with these settings"):
        quietly(config(method="crane", settings=joint), stained_pictures())
    with pytest.raises(ConfigError, match="unknown cache precision 'fp8'"):
        config(cache_precision="fp8")
    with pytest.raises(ConfigError, match="without a cache"):
        config(cache=None, cache_precision="bf16")
    assert not config().cache.exists()


def test_resuming_with_another_cache_precision_is_refused(config):
    quietly(config(epochs=1), stained_pictures())
    with pytest.raises(ConfigError, match="cache_precision was 'fp32' and is now 'bf16'"):
        quietly(config(cache_precision="bf16", resume=True), stained_pictures())
    with pytest.raises(ConfigError, match="cache_precision was 'fp32' and is now None"):
        quietly(config(cache=None, resume=True), stained_pictures())


def test_a_folder_that_cannot_be_written_is_named(config, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ZsadError, match="feature cache cannot be written"):
        quietly(config(), stained_pictures())


def test_entries_are_read_from_memory_maps(config, monkeypatch):
    """A file that is replaced while its tensors are in use does not change them."""
    quietly(config(epochs=1), stained_pictures())
    (folder,) = Path(config().cache).iterdir()
    stored = []
    original = FeatureCache.prepare
    monkeypatch.setattr(
        FeatureCache, "prepare", lambda self, item: stored.append(original(self, item)) or stored[-1]
    )
    quietly(config("again", epochs=1), stained_pictures())
    before = [{name: tensor.clone() for name, tensor in each.stored.items()} for each in stored]
    shutil.rmtree(folder)
    for each, copies in zip(stored, before, strict=True):
        for name, tensor in each.stored.items():
            assert torch.equal(tensor, copies[name])


def test_the_command_takes_a_cache(samples, tmp_path):
    from typer.testing import CliRunner

    from zsad.cli import app

    config = ClipConfig(VisionConfig(32, 8, 64, 3, 1), TextConfig(64, 2, 1), 32, "quick_gelu")
    torch.save(CLIP(config).state_dict(), tmp_path / "clip.pt")
    command = ["train", "--data", str(tmp_path / "toys"), "--out", str(tmp_path / "learnt.safetensors")]
    command += ["--backbone", str(tmp_path / "clip.pt"), "--epochs", "2", "--device", "cpu"]
    command += ["--set", "n_ctx=4", "--cache", str(tmp_path / "kept"), "--cache-precision", "bf16"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "kept").rglob("*/*.safetensors"))) == len(samples)


def test_cosines_are_not_rounded_under_autocast():
    generator = torch.Generator().manual_seed(0)
    features, text = (torch.randn(2, count, 64, generator=generator) for count in (9, 2))
    exact = cosine_similarity(features, text)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cosine_similarity(features, text), exact)
        assert cosine_similarity(features, text.bfloat16()).dtype == torch.float32
