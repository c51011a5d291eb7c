"""Folder mode: AnomalyCLIP alone where there is nothing to compare, more than it where there is."""

from __future__ import annotations

import pytest
import torch

import zsad
from zsad.errors import ConfigError, WeightsError
from zsad.methods.functional.comparison import CompanionPatches, compare

SIZE = 64


@pytest.fixture
def clip(make_small_clip):
    return lambda: make_small_clip(image_size=SIZE)


@pytest.fixture
def checkpoint(clip, tmp_path):
    """Prompts of AnomalyCLIP, as its training saves them."""
    torch.manual_seed(5)
    return zsad.load("anomalyclip", clip(), "fresh", device="cpu").save(tmp_path / "prompts.safetensors")


@pytest.fixture
def auto(clip, checkpoint):
    return zsad.load("auto", clip(), checkpoint, device="cpu")


@pytest.fixture
def language(clip, checkpoint):
    return zsad.load("anomalyclip", clip(), checkpoint, device="cpu")


def product(count, seed=0):
    """Noisy images of one motif: the backbone is random, but the motif's patches recur."""
    generator = torch.Generator().manual_seed(seed)
    motif = torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(99))
    return motif + 0.1 * torch.randn(count, 3, SIZE, SIZE, generator=generator)


def spoiled(images, index):
    """One image gets a square of something else."""
    images = images.clone()
    images[index, :, 16:32, 24:40] = 3 * torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(7))
    return images


def test_a_single_image_and_a_few_are_scored_by_anomalyclip(auto, language):
    for count in (1, 7):
        found, expected = auto.score_tensors(product(count)), language.score_tensors(product(count))
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-6)
        torch.testing.assert_close(found.maps, expected.maps, rtol=0, atol=1e-6)


def test_what_the_others_do_not_show_stands_out(auto, language):
    images = spoiled(product(12), 4)
    found = auto.score_tensors(images)
    assert int(found.scores.argmax()) == 4
    place = found.maps[4] - language.score_tensors(images).maps[4]
    assert place[20:28, 28:36].mean() > place[40:, :16].mean()


def test_common_images_score_low_and_the_scale_is_used(auto):
    found = auto.score_tensors(spoiled(product(12), 4))
    assert float(found.scores.median()) < 0.3
    assert float(found.scores[4]) > 0.9
    assert float(found.maps.median()) < 0.1


def test_companions_as_references_give_what_the_batch_gives(auto):
    images = spoiled(product(10), 3)
    together = auto.score_tensors(images)
    auto.compared = auto.compared.with_support(
        unlabelled=images
    )  # as set_companions does, with images that it reads
    for index in range(10):
        alone = auto.score_tensors(images[index : index + 1])
        torch.testing.assert_close(alone.scores[0], together.scores[index], rtol=0, atol=1e-4)
        torch.testing.assert_close(alone.maps[0], together.maps[index], rtol=0, atol=1e-4)


def test_the_order_of_a_folder_does_not_matter(auto):
    images = spoiled(product(9), 2)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    straight, shuffled = auto.score_tensors(images), auto.score_tensors(images[order])
    torch.testing.assert_close(shuffled.scores, straight.scores[order], rtol=0, atol=1e-4)


def test_unlike_images_are_left_to_the_language(auto, language):
    # each image one flat colour with its own noise: its own patches resemble each other far more
    generator = torch.Generator().manual_seed(1)
    images = 3 * torch.randn(9, 3, 1, 1, generator=generator).expand(-1, -1, SIZE, SIZE).contiguous()
    images = images + 0.01 * torch.randn(images.shape, generator=generator)
    found, expected = auto.score_tensors(images), language.score_tensors(images)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-6)


def test_identical_images_do_not_break_it(auto, language):
    images = product(1).expand(9, -1, -1, -1).contiguous()
    found, expected = auto.score_tensors(images), language.score_tensors(images)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-6)
    assert torch.isfinite(found.maps).all()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_compares_alike(clip, checkpoint, precision):
    images = spoiled(product(10), 4)
    images[9] = images[0]
    distances = []
    for chosen in (None, precision):
        method = zsad.load("auto", clip(), checkpoint, device="cpu", precision=chosen).method
        with torch.inference_mode():
            levels = method.features(images).levels
            alone = method.features(images[:1]).levels  # rounds otherwise than in a batch
        found = compare(levels, CompanionPatches.of(levels), count=9, best_share=0.5)
        assert found.counted.sum(dim=1).tolist() == [8, *[9] * 8, 8]
        first = compare(alone, CompanionPatches.of(levels), count=9, best_share=0.5)
        assert not {0, 9} & set(first.companions[first.counted].tolist())
        distances.append(found.distances)
    torch.testing.assert_close(distances[1], distances[0], rtol=0, atol=0.05)


def test_no_weight_is_language_alone(clip, checkpoint, language):
    images = product(9)
    found = zsad.load("auto", clip(), checkpoint, device="cpu", visual_weight=0.0).score_tensors(images)
    torch.testing.assert_close(found.scores, language.score_tensors(images).scores, rtol=0, atol=1e-6)


def test_weights_of_other_methods_are_refused(clip, tmp_path):
    path = zsad.load("april_gan", clip(), "fresh", device="cpu").save(tmp_path / "adapters.safetensors")
    with pytest.raises(WeightsError, match="holds weights of april_gan, not of auto"):
        zsad.load("auto", clip(), path, device="cpu")


def test_what_is_saved_is_its_own(auto, clip, tmp_path):
    path = auto.save(tmp_path / "auto.safetensors")
    again = zsad.load(None, clip(), path, device="cpu")
    assert again.method.INFO.name == "auto"
    torch.testing.assert_close(again.score_tensors(product(9)).scores, auto.score_tensors(product(9)).scores)


def test_set_companions_reads_images_and_takes_them_back(auto, uint8_images):
    auto.is_trained = True
    before = auto.predict(uint8_images[0]).score
    auto.set_companions([uint8_images[index % 3] for index in range(9)])
    auto.predict(uint8_images[0])
    auto.set_companions(None)
    assert auto.predict(uint8_images[0]).score == before


def test_other_methods_take_no_companions(language, uint8_images):
    with pytest.raises(ConfigError, match="anomalyclip takes no companions; methods that do: auto"):
        language.set_companions(uint8_images)


@pytest.mark.parametrize(
    "settings", [{"companions": 3}, {"best_share": 0.0}, {"visual_weight": -1.0}, {"visual_layers": (9,)}]
)
def test_impossible_settings_are_refused(clip, settings):
    with pytest.raises(ConfigError):
        zsad.load("auto", clip(), "fresh", device="cpu", **settings)
