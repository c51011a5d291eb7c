"""Comparing images with companions, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from zsad.methods.functional.comparison import CompanionPatches, best_mean, compare, describe, own_distances
from zsad.methods.functional.folder import Companions, Logits, Weighting


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def chord(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)))


@pytest.fixture
def levels():
    return (unit(6, 16, 5, seed=1), unit(6, 16, 3, seed=2))


def test_distances_equal_plain_loops(levels):
    companions = tuple(level[:5] for level in levels)
    found = compare([level[5:] for level in levels], CompanionPatches.of(companions), count=5, best_share=0.4)
    for number, level in enumerate(levels):
        for patch in range(16):
            nearest = sorted(min(chord(level[5, patch], q) for q in level[r]) for r in range(5))
            assert float(found.distances[0, number, patch]) == pytest.approx(sum(nearest[:2]) / 2, abs=1e-5)


def test_the_most_alike_companions_are_taken(levels):
    patches_of_all = CompanionPatches.of(levels)
    found = compare(levels, patches_of_all, count=2, best_share=1.0)
    similarity = describe(levels) @ describe(levels).T
    for index in range(6):
        others = sorted((o for o in range(6) if o != index), key=lambda o: -float(similarity[index, o]))
        taken = found.companions[index][found.counted[index]].tolist()
        assert taken == others[:2]


def test_the_image_itself_and_copies_of_it_do_not_count(levels):
    doubled = tuple(torch.cat([level, level[:1]]) for level in levels)  # image 6 is image 0 again
    with_copy = compare(doubled, CompanionPatches.of(doubled), count=6, best_share=0.3)
    without = compare(levels, CompanionPatches.of(levels), count=5, best_share=0.3)
    assert not set(with_copy.companions[0][with_copy.counted[0]].tolist()) & {0, 6}
    # float32 cosines near 1 leave distances of 1e-3, hence the tolerance
    torch.testing.assert_close(with_copy.distances[0], without.distances[0], rtol=0, atol=1e-4)


def test_without_companions_there_is_no_distance(levels):
    alone = tuple(level[:1] for level in levels)
    found = compare(alone, CompanionPatches.of(alone), count=8, best_share=0.3)
    assert not found.counted.any()
    assert (found.distances == 0).all()


def test_best_mean_counts_at_least_one():
    nearest = torch.tensor([0.5, 0.1, 0.3]).reshape(1, 1, 3, 1)
    everyone = torch.ones(1, 3, dtype=torch.bool)
    assert float(best_mean(nearest, everyone, 0.01)) == pytest.approx(0.1)
    assert float(best_mean(nearest, everyone, 1.0)) == pytest.approx(0.3)
    assert float(best_mean(nearest, torch.zeros(1, 3, dtype=torch.bool), 0.3)) == 0


def test_own_distances_equal_plain_loops():
    tokens = unit(2, 25, 4)
    found = own_distances(tokens)
    for image in range(2):
        for p in range(25):
            far = [q for q in range(25) if max(abs(p // 5 - q // 5), abs(p % 5 - q % 5)) > 1]
            cosines = sorted((float(tokens[image, p] @ tokens[image, q]) for q in far), reverse=True)
            expected = math.sqrt(2 - 2 * sum(cosines[:4]) / 4)
            assert float(found[image, p]) == pytest.approx(expected, abs=1e-5)


def described(tokens, visual_weight=1.5):
    logits = Logits(torch.zeros(len(tokens)), torch.zeros(len(tokens), 1, 16))
    found, _ = Companions.of([tokens], logits, Weighting(32, 0.5, visual_weight))
    return found.described()


def test_the_line_for_the_user_says_what_was_compared():
    torch.manual_seed(0)
    things = F.normalize(torch.randn(1, 16, 8), dim=-1)
    alike = F.normalize(things.repeat(10, 1, 1) + 0.1 * torch.randn(10, 16, 8), dim=-1)
    unlike = F.normalize(torch.randn(10, 1, 8) + 0.1 * torch.randn(10, 16, 8), dim=-1)
    assert "; they are alike (" in described(alike)
    assert "about 5 % of the images exceed 0.95" in described(alike)
    assert "differ too much" in described(unlike)
    assert "5 %" not in described(unlike)
    assert "10 of the 10 images drawn from the folder are copies" in described(alike[:1].repeat(10, 1, 1))
    assert "(12 drawn, 3 of them copies of others" in described(torch.cat([alike, alike[:1].repeat(2, 1, 1)]))
    assert "visual_weight is 0" in described(alike, visual_weight=0.0)


def test_alike_images_are_told_from_unlike_ones():
    # alike: all images show the same 16 things; unlike: each shows one thing of its own, many times
    things = unit(16, 8, seed=3)
    alike = F.normalize(things.repeat(6, 1, 1) + 0.05 * torch.randn(6, 16, 8), dim=-1)
    unlike = F.normalize(unit(6, 1, 8, seed=4).repeat(1, 16, 1) + 0.05 * torch.randn(6, 16, 8), dim=-1)
    ratios = [compare([x], CompanionPatches.of([x]), 5, 0.3).unlikeness for x in (alike, unlike)]
    assert (ratios[0] < 0.5).all()
    assert (ratios[1] > 1.5).all()
