"""AF-CLIP against an independent computation in plain loops: no numbers of the authors' code are recorded."""

from __future__ import annotations

import math

import pytest
import torch

import zsad
from helpers.golden_checks import close
from zsad.backbones.tokenizer import tokenize
from zsad.errors import ConfigError, WeightsError
from zsad.methods.af_clip import AFClip, Config
from zsad.methods.base import Support

SIZES = (1, 3, 5)


@pytest.fixture
def build(make_small_clip):
    """Makes a method with parameters that are larger than at the start, so that the sets differ."""

    def make(**settings):
        torch.manual_seed(0)
        method = AFClip(make_small_clip(), Config(**settings)).eval()
        with torch.no_grad():
            for parameter in dict(method.trainable()).values():
                parameter.add_(0.05 * torch.randn(parameter.shape))
        return method

    return make


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def masks():
    found = torch.zeros(3, 32, 32)
    found[1, 4:20, 4:20] = 1  # an edge runs through the middle of patches of 8 pixels
    found[2, 16:, :] = 1
    return found


def naive_sets(method, images, sizes=SIZES):
    """Token sets (B, 1 + N, D), neighbour by neighbour."""
    output = method.backbone.visual(images, taps=method.layers)
    sets = []
    for layer in method.layers:
        tokens = output.tokens[layer]
        side = math.isqrt(tokens.shape[1] - 1)
        for size in sizes:
            half = size // 2
            weights = {
                (y, x): math.exp(-(y * y + x * x) / (2 * 4.0**2))
                for y in range(-half, half + 1)
                for x in range(-half, half + 1)
            }
            total = sum(weights.values())
            mixed = tokens.clone()
            for row in range(side):
                for column in range(side):
                    value = torch.zeros_like(tokens[:, 0])
                    for (y, x), weight in weights.items():
                        if 0 <= row + y < side and 0 <= column + x < side:
                            value = value + weight / total * tokens[:, 1 + (row + y) * side + column + x]
                    mixed[:, 1 + row * side + column] = value
            sets.append(mixed)
    return sets


def naive_adapted(method, tokens):
    """(L, D) tokens of one image through the adaptor, head by head, into the joint space."""
    adaptor, visual = method.adaptor, method.backbone.visual
    mean, variance = tokens.mean(dim=1, keepdim=True), tokens.var(dim=1, unbiased=False, keepdim=True)
    normed = (tokens - mean) / torch.sqrt(variance + 1e-5) * adaptor.norm.weight + adaptor.norm.bias
    heads = []
    for head in range(8):
        query, key, value = (
            normed @ adaptor.query_key_value.weight[part * 512 + head * 64 : part * 512 + head * 64 + 64].T
            for part in range(3)
        )
        heads.append(torch.softmax(query @ key.T / 8, dim=1) @ value)
    adapted = torch.cat(heads, dim=1) @ adaptor.output.weight.T + adaptor.output.bias
    joint = visual.project(adapted)
    return joint / joint.norm(dim=1, keepdim=True)


def naive_text(method):
    """(2, E): the learnt vectors before the start mark, without any cutting."""
    clip = method.backbone
    ids = tokenize(["without defect.", "with defect."])
    rows = []
    for row in ids:
        words = torch.cat([method.state_prompt_embedding[0], clip.token_embedding(row)])[:77]
        hidden = (words + clip.positional_embedding)[None]
        for block in clip.transformer.resblocks:
            hidden = block(hidden, causal=True)
        end = 12 + int((row == 49407).nonzero()[0])
        vector = clip.ln_final(hidden[0, end]) @ clip.text_projection
        rows.append(vector / vector.norm())
    return torch.stack(rows)


def naive_probabilities(method, images):
    """(B, 1 + N) abnormal probabilities, and the adapted sets of each image."""
    text, sets = naive_text(method), naive_sets(method, images)
    rows, adapted = [], []
    for image in range(len(images)):
        adapted.append([naive_adapted(method, tokens[image]) for tokens in sets])
        logits = sum(tokens @ text.T / 0.07 for tokens in adapted[-1])
        rows.append(torch.softmax(logits, dim=1)[:, 1])
    return torch.stack(rows), adapted


@torch.no_grad()
def test_scores_and_maps(build, images):
    method = build(sigma=0)
    raw = method.score(method.features(images), method.prepare(()))
    probabilities, _ = naive_probabilities(method, images)
    close(raw.scores, probabilities[:, 0], atol=1e-5)
    grid = probabilities[:, 1:].reshape(3, 1, 4, 4)
    maps = torch.nn.functional.interpolate(grid, size=32, mode="bilinear")
    close(raw.maps, maps[:, 0], atol=1e-5)
    assert probabilities[:, 0].std() > 1e-3


@torch.no_grad()
def test_references(build, images):
    method = build(sigma=0)
    known = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    raw = method.score(method.features(images), method.prepare((), Support(normal=known)))
    probabilities, _ = naive_probabilities(method, images)
    ours, theirs = naive_sets(method, images), naive_sets(method, known)
    distances = torch.zeros(3, 16)
    for image in range(3):
        for patch in range(16):
            for own, other in zip(ours, theirs, strict=True):
                cosines = torch.nn.functional.cosine_similarity(
                    own[image, 1 + patch], other[:, 1:].reshape(-1, 32)
                )
                distances[image, patch] += float((1 - cosines).min()) / 2 / len(ours)
    close(raw.scores, (distances.amax(dim=1) + 0.1 * probabilities[:, 0]) / 1.1, atol=1e-5)
    grid = (distances + 0.1 * probabilities[:, 1:]).reshape(3, 1, 4, 4)
    close(raw.maps, torch.nn.functional.interpolate(grid, size=32, mode="bilinear")[:, 0], atol=1e-5)


def test_the_loss(build, images, masks):
    method = build(gamma=3.0, lambda1=2.0, lambda2=5.0)
    labels = torch.tensor([0, 1, 1])
    terms = method.loss(images, masks, labels)
    probabilities, adapted = naive_probabilities(method, images)

    def focal(chances, targets):
        total = 0.0
        for chance, target in zip(chances.flatten().tolist(), targets.flatten().tolist(), strict=True):
            right = chance * target + (1 - chance) * (1 - target)
            entropy = -(target * math.log(chance) + (1 - target) * math.log(1 - chance))
            total += (1 - right) ** 3 * entropy
        return torch.tensor(total / chances.numel())

    targets = torch.zeros(3, 4, 4)
    for image in range(3):
        for row in range(4):
            for column in range(4):  # the four pixels in the middle of a patch
                part = masks[image, 8 * row + 3 : 8 * row + 5, 8 * column + 3 : 8 * column + 5].mean()
                targets[image, row, column] = 0.5 if part == 0.5 else float(part > 0.5)
    assert set(targets.unique().tolist()) == {0.0, 0.5, 1.0}
    targets = targets.flatten(1)
    close(terms["image"], focal(probabilities[:, 0], labels.float()), rtol=1e-4)
    close(terms["focal"], 2 * focal(probabilities[:, 1:], targets), rtol=1e-4)
    close(terms["l1"], 2 * (probabilities[:, 1:] - targets).abs().mean().detach(), rtol=1e-4)
    alignments = []
    for number in range(len(adapted[0])):
        across, within = [], []
        for image in range(3):
            for first in range(16):
                for second in range(16):
                    kinds = float(targets[image, first]), float(targets[image, second])
                    if 0.5 in kinds:
                        continue
                    tokens = adapted[image][number][1:]
                    pairs = within if kinds[0] == kinds[1] else across
                    pairs.append(float((tokens[first] @ tokens[second]).detach()))
        alignments.append(max(0.0, sum(across) / len(across) - sum(within) / len(within)))
    close(terms["alignment"], torch.tensor(5 * sum(alignments) / len(alignments)), rtol=1e-4, atol=1e-6)


def test_patches_of_one_kind_have_nothing_to_align(build, images):
    method = build()
    for value in (0, 1):
        terms = method.loss(images, torch.full((3, 32, 32), value), torch.full((3,), value))
        assert terms["alignment"] == 0
        assert all(torch.isfinite(term) for term in terms.values())


def test_training_lowers_the_loss(build, images, masks):
    method = build()
    features, labels = method.features(images), torch.tensor([0, 1, 1])
    optimiser = torch.optim.Adam([each for _, each in method.trainable()], lr=1e-3, betas=(0.5, 0.999))
    losses = []
    for _ in range(20):
        loss = sum(method.loss_from_features(features, masks, labels).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_losses_are_the_same_under_autocast(build, images, masks):
    method = build()
    arguments = method.features(images), masks, torch.tensor([0, 1, 1])
    exact = method.loss_from_features(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        lower = method.loss_from_features(*arguments)
    for name, value in exact.items():
        close(lower[name], value.detach())


def test_scores_with_references_stay_in_range(make_small_clip, uint8_images):
    detector = zsad.load("af_clip", make_small_clip(), "fresh", device="cpu", alpha=0.5)
    detector.is_trained = True
    detector.set_references(uint8_images[1:])
    found = detector.predict(uint8_images[0])
    assert found.map_range == (0.0, 1.5)
    assert 0 <= found.score <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scales": (2,)}, "odd numbers"),
        ({"scales": ()}, "odd numbers"),
        ({"prompt_len": 73}, "room for 1 to 72"),
        ({"features_list": (9,)}, "layers 1 to 3"),
    ],
)
def test_impossible_settings(make_small_clip, settings, message):
    with pytest.raises(ConfigError, match=message):
        AFClip(make_small_clip(), Config(**settings))


def test_the_authors_files_are_refused(build):
    with pytest.raises(WeightsError, match="pickled modules"):
        build().load_official({"norm.weight": torch.zeros(3)})
