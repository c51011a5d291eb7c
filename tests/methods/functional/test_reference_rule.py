"""The general rule for references, against plain loops."""

from __future__ import annotations

import time

import pytest
import torch

import zsad
from zsad.backbones.recording import recorded
from zsad.methods.functional.patches import recorded_patches, reference_layers, reference_patches
from zsad.methods.functional.reference_rule import (
    OWN_WEIGHT,
    ReferenceRule,
    distances_between,
    usual_logits,
)
from zsad.methods.functional.references import patches, remember
from zsad.methods.functional.usual import Usual
from zsad.types import RawOutput


@pytest.fixture
def images():
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(4))


def half(one, other):
    return (1 - float(one @ other)) / 2


@pytest.mark.parametrize("most", [10_000, 1])
def test_distances_equal_plain_loops(small_clip, images, most, monkeypatch):
    monkeypatch.setattr("zsad.methods.functional.reference_rule.SIMILARITIES_AT_ONCE", most)
    visual = small_clip.visual
    known, asked = patches(visual, images[:2]), patches(visual, images[2:])
    rule = ReferenceRule.of(remember(visual, images[:2]))
    found = rule.distances(asked)
    expected, among = torch.zeros(3 * 16), torch.zeros(2 * 16)
    for level, other in zip(asked, known, strict=True):
        between = [min(half(p, q) for q in other[1 - r]) for r in range(2) for p in other[r]]
        nearest = [min(half(p, q) for q in other.flatten(0, 1)) for p in level.flatten(0, 1)]
        mean = sum(between) / len(between)
        excess = max(between) - mean  # of 32 patches, 1/128 is one
        among += (torch.tensor(between) - mean) / excess / len(known)
        expected += (torch.tensor(nearest) - mean) / excess / len(known)
    torch.testing.assert_close(found.flatten(), expected / among.max(), rtol=1e-3, atol=1e-3)


def test_distances_between_references_have_mean_0_and_reach_1(small_clip, images):
    memory = remember(small_clip.visual, images[:3])
    rule = ReferenceRule.of(memory)
    between = [
        distances_between(level, owners, level, owners)
        for level, owners in zip(memory.levels, memory.owners, strict=True)
    ]
    found = rule.usual.above(torch.stack(between)).mean(dim=0)
    assert float(found.mean()) == pytest.approx(0, abs=1e-5)
    assert float(found.max()) == pytest.approx(1, abs=1e-5)  # of 48 patches, 1/128 is one


def test_equal_references_give_finite_answers(small_clip, images):
    twice = images[:1].repeat(2, 1, 1, 1)
    rule = ReferenceRule.of(remember(small_clip.visual, twice))
    maps = torch.full((2, 32, 32), 0.3)
    usual = usual_logits(maps, 4, (0.0, 1.0))
    raw = RawOutput(torch.zeros(2), torch.stack([maps[0], 1 - maps[0]]))
    found = rule.joined(raw, patches(small_clip.visual, images[:2]), usual, (0.0, 1.0))
    assert found.scores.isfinite().all()
    assert found.maps.isfinite().all()
    assert found.scores[1] > found.scores[0]


def test_one_reference_is_measured_against_itself(small_clip, images):
    level = patches(small_clip.visual, images[:1])[0][0]
    ninth = [sorted(half(one, other) for other in level)[8] for one in level]
    rule = ReferenceRule.of(remember(small_clip.visual, images[:1]))
    assert float(rule.usual.mean[0]) == pytest.approx(sum(ninth) / 16, rel=1e-3)


def test_what_is_usual_for_the_method_tells_nothing(small_clip, images):
    """Adding a constant to all logits of a product changes neither scores nor maps."""
    rule = ReferenceRule.of(remember(small_clip.visual, images[:2]))
    levels = patches(small_clip.visual, images[2:])
    logits = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(1))
    answers = []
    for shift in (0.0, 1.5):
        maps = (logits + shift).sigmoid().repeat_interleave(8, 1).repeat_interleave(8, 2)
        usual = usual_logits(maps[:2], 4, (0.0, 1.0))
        answers.append(rule.joined(RawOutput(torch.zeros(3), maps[2:]), levels, usual, (0.0, 1.0)))
    torch.testing.assert_close(answers[0].scores, answers[1].scores)
    torch.testing.assert_close(answers[0].maps, answers[1].maps)
    mean, largest = logits[:2].mean(), logits[:2].max()  # of 32 patches, 1/128 is one
    z = rule.distances(levels) + OWN_WEIGHT * (logits[2:].flatten(1) - mean) / (largest - mean)
    ahead = z.amax(dim=1) - 2  # of 16 patches, 1/128 is one
    torch.testing.assert_close(answers[0].scores, (1 + ahead / (1 + ahead.abs())) / 2)


def test_companions_count_the_less_the_more_references_there_are(small_clip, images):
    raw, same = RawOutput(torch.zeros(1), torch.zeros(1, 32, 32)), torch.zeros(1, 16)
    gains = []
    for count in (1, 4):
        rule = ReferenceRule.of(remember(small_clip.visual, images[:count]))
        without, with_them = (
            rule.with_distances(same, raw, None, (0.0, 1.0), companions).maps.mean()
            for companions in (None, torch.ones(1, 16))
        )
        gains.append(float(with_them - without))
    assert gains[0] > gains[1] > 0


def test_a_method_reads_the_image_encoder_once(small_clip, images, monkeypatch):
    """The image encoder ran twice for each image with references."""
    detector = zsad.load("clip_ac", small_clip, device="cpu")
    detector.compared = detector.compared.with_support(normal=images[:2])
    detector.score_tensors(images[2:])
    visual, passed = detector.backbone.visual, []
    visual.register_forward_pre_hook(lambda _module, inputs: passed.append(len(inputs[0])))
    detector.score_tensors(images[2:])
    assert passed == [3]


def test_altered_images_are_not_taken_for_the_images(small_clip, images):
    visual = small_clip.visual
    layers = reference_layers(visual.config)
    with torch.no_grad(), recorded(images, layers) as recording:
        visual(images.flip(3))
        visual(images[3:])
        assert recorded_patches(recording) is None
        visual(images[:3])
        for found, expected in zip(
            recorded_patches(recording), reference_patches(visual(images, taps=layers), layers), strict=True
        ):
            torch.testing.assert_close(found, expected)


def test_a_memory_and_answers_stand_for_the_images(small_clip, images):
    detector = zsad.load("anomalyclip", small_clip, "fresh", device="cpu")
    answers = detector.score_tensors(images[:2]).maps
    detector.compared = detector.compared.with_support(normal=images[:2])
    expected = detector.score_tensors(images[2:])
    memory = detector.compared.states.memory
    detector.compared = detector.compared.with_support(normal=None, memory=memory, answers=answers)
    found = detector.score_tensors(images[2:])
    torch.testing.assert_close(found.scores, expected.scores)
    torch.testing.assert_close(found.maps, expected.maps)


def test_a_part_that_lies_otherwise_is_known_with_turned_references(make_small_clip, images):
    detector = zsad.load("clip_ac", make_small_clip(), device="cpu")
    lying = images[:2].rot90(1, (2, 3))
    scores = []
    for turned in (False, True):
        detector.compared = detector.compared.with_support(normal=images[:2], turned=turned)
        scores.append(detector.score_tensors(lying).scores)
        assert detector.compared.states.memory.count == 2
    assert (scores[1] < scores[0]).all()


def test_what_is_usual_is_stacked_by_class_name():
    usual = Usual.stacked([Usual.of(torch.tensor([[1.0, 3.0 + more]])) for more in (0, 2)])
    assert usual.mean.tolist() == [[2.0], [3.0]]
    assert usual.excess.tolist() == [[1.0], [2.0]]
    assert usual.above(torch.tensor([[3.0, 1.0], [3.0, 1.0]])).tolist() == [[1.0, -1.0], [0.0, -1.0]]


@pytest.mark.slow
def test_sixteen_references_cost_at_most_half_a_lone_image():
    """Time on the processor, which other processes do not change."""
    detector = zsad.load("anomalyclip", device="cpu")
    images = torch.randn(17, 3, 320, 320, generator=torch.Generator().manual_seed(0))

    def seconds():
        detector.score_tensors(images[16:])
        times = []
        for _ in range(9):
            start = time.process_time()
            detector.score_tensors(images[16:])
            times.append(time.process_time() - start)
        return min(times)

    lone = seconds()
    detector.compared = detector.compared.with_support(normal=images[:16])
    assert seconds() < 1.5 * lone
