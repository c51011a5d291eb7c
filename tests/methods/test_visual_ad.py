"""VisualAD against a second computation in plain loops, which shares no code with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch.nn import functional as F

import zsad
from zsad.errors import ConfigError, WeightsError
from zsad.methods.visual_ad import Config, VisualAD, official_tensors, top_mean

SIZE, PATCH, GRID = 48, 8, 6


@pytest.fixture
def build(make_small_clip):
    """Makes the method with parameters far from their start, so that each of them counts."""

    def make(**settings):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            method = VisualAD(make_small_clip(), Config(max_patches=40, **settings))
            with torch.no_grad():
                for name, parameter in method.trainable():
                    parameter.add_(torch.randn_like(parameter) * (1.0 if "token" in name else 0.05))
                for module in method.cross_attn.values():
                    module.res_scale.fill_(0.7)
        return method.eval()

    return make


@pytest.fixture
def images():
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def masks():
    found = torch.zeros(3, SIZE, SIZE)
    found[1, 4:12, 4:30] = 1
    found[2, 20:40, 8:16] = 1
    return found


def norm(vector, layer):
    """Layer norm of one vector."""
    values = vector - vector.mean()
    return values / (values.pow(2).mean() + layer.eps).sqrt() * layer.weight + layer.bias


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def attention(rows, module):
    """Multi-head attention, one head and one token at a time."""
    width = rows.shape[1]
    depth = width // module.heads
    query, key, value = (rows @ module.in_proj_weight.T + module.in_proj_bias).split(width, dim=1)
    heads = []
    for head in range(module.heads):
        part = slice(head * depth, (head + 1) * depth)
        found = []
        for asked in query[:, part]:
            weights = torch.exp(key[:, part] @ asked / math.sqrt(depth))
            found.append((weights / weights.sum()) @ value[:, part])
        heads.append(torch.stack(found))
    return torch.cat(heads, dim=1) @ module.out_proj.weight.T + module.out_proj.bias


def encoded(method, image):
    """The two tokens and the patches of each layer for one image."""
    visual = method.backbone.visual
    position = visual.positional_embedding
    grid = position[1:].T.reshape(1, -1, visual.config.grid, visual.config.grid)
    grid = F.interpolate(grid, (GRID, GRID), mode="bilinear", align_corners=False)[0].flatten(1).T
    rows = [method.anomaly_token + position[0], method.normal_token + position[0]]
    rows.append(visual.class_embedding + position[0])
    for index in range(GRID * GRID):
        y, x = divmod(index, GRID)
        pixels = image[:, y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH]
        rows.append((visual.conv1.weight * pixels).sum(dim=(1, 2, 3)) + grid[index])
    stream = torch.stack([norm(row, visual.ln_pre) for row in rows])
    layers = []
    for block in visual.transformer.resblocks:
        stream = stream + attention(torch.stack([norm(row, block.ln_1) for row in stream]), block.attn)
        hidden = torch.stack([norm(row, block.ln_2) for row in stream])
        hidden = gelu(hidden @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias)
        stream = stream + hidden @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias
        layers.append(torch.stack([norm(row, method.ln_post) for row in stream]))
    return layers[-1][0], layers[-1][1], [layer[3:] for layer in layers]


def informed(token, patches, module):
    """Spatial cross-attention for one token of one image."""
    total = torch.zeros_like(token)
    gates = torch.sigmoid(module.gate[0].weight @ token + module.gate[0].bias)
    for anchor, gate in zip(module.anchor_queries, gates, strict=True):
        query = norm(module.q_proj.weight @ anchor, module.q_norm)
        scores = []
        for patch, place in zip(patches, module.pos_encoding[0], strict=False):
            key = norm(module.k_proj.weight @ (patch + place), module.k_norm)
            scores.append(math.exp(float(query @ key) / math.sqrt(len(token))))
        for patch, score in zip(patches, scores, strict=True):
            total = total + gate * score / sum(scores) * (module.v_proj.weight @ patch)
    return token + module.res_scale * (module.out_proj.weight @ total + module.out_proj.bias)


def cosine(first, second):
    return float(first @ second / (first.norm() * second.norm()))


def naive_grids(method, image):
    """Maps of each layer on the patch grid, and the cosine of both tokens at the last layer."""
    anomaly, normal, layers = encoded(method, image)
    grids = []
    for number, patches in enumerate(layers, start=1):
        module, mlp = method.cross_attn[f"layer_{number}"], method.layer_transforms[f"layer_{number}"].mlp
        a, n = (informed(token, patches, module) for token in (anomaly, normal))
        values = []
        for patch in patches:
            changed = mlp[3].weight @ gelu(mlp[0].weight @ patch + mlp[0].bias) + mlp[3].bias
            values.append(cosine(changed, a) - cosine(changed, n))
        grids.append(np.array(values).reshape(GRID, GRID))
    return np.stack(grids), cosine(a, n)


def enlarged(grid):
    """Bilinear upsampling pixel by pixel, values at the centres of the patches."""
    result = np.zeros((SIZE, SIZE))
    places = [min(max((pixel + 0.5) / PATCH - 0.5, 0), GRID - 1) for pixel in range(SIZE)]
    for y, row in enumerate(places):
        for x, column in enumerate(places):
            top, left = int(row), int(column)
            low, right = min(top + 1, GRID - 1), min(left + 1, GRID - 1)
            down, along = row - top, column - left
            upper = (1 - along) * grid[top, left] + along * grid[top, right]
            lower = (1 - along) * grid[low, left] + along * grid[low, right]
            result[y, x] = (1 - down) * upper + down * lower
    return result


def mean_of_largest(values):
    ordered = sorted(values.flatten(), reverse=True)
    return sum(ordered[: len(ordered) // 100]) / (len(ordered) // 100)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@torch.no_grad()
def test_scores_and_maps(build, images):
    method = build(sigma=1.5)
    raw = method.score(method.features(images), method.prepare(["object"]))
    for image, score, found in zip(images, raw.scores, raw.maps, strict=True):
        grids, _ = naive_grids(method, image)
        expected = scipy.ndimage.gaussian_filter(enlarged(grids.sum(axis=0)), 1.5)
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)
        assert float(score) == pytest.approx(sigmoid(mean_of_largest(expected)), abs=1e-5)


@torch.no_grad()
def test_loss(build, images, masks):
    method, labels = build(), torch.tensor([0, 1, 1])
    terms = method.loss(images, masks, labels)
    expected = dict.fromkeys(("image", "tokens", "focal", "dice_abnormal"), 0.0)
    for image, mask, label in zip(images, masks.numpy(), labels.tolist(), strict=True):
        grids, between = naive_grids(method, image)
        maps = np.stack([enlarged(grid) for grid in grids])
        probability = sigmoid(mean_of_largest(maps.sum(axis=0)))
        expected["image"] -= math.log(probability if label else 1 - probability) / 3
        expected["tokens"] += max(0, between + 0.5) / 3
        for values in sigmoid(maps):
            right = mask.clip(1e-5, 1 - 1e-5) * values + (1 - mask).clip(1e-5, 1 - 1e-5) * (1 - values) + 1e-5
            expected["focal"] += (-((1 - right) ** 2) * np.log(right)).mean() / 3
            overlap = (2 * (values * mask).sum() + 1) / (values.sum() + mask.sum() + 1)
            expected["dice_abnormal"] += (1 - overlap) / 3
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(value, rel=1e-4), name


def test_the_network_of_others_stays(build, images):
    """The trained layer norm is the method's own."""
    method = build()
    assert not torch.equal(method.ln_post.weight, method.backbone.visual.ln_post.weight)
    names = dict(method.trainable())
    assert {"anomaly_token", "normal_token", "ln_post.weight", "ln_post.bias"} <= names.keys()
    assert not any(name.startswith("backbone.") for name in names)


def test_gradients_of_tokens_are_short(build, images, masks):
    method = build()
    terms = method.loss(images, masks, torch.tensor([0, 1, 1]))
    (1000 * sum(terms.values())).backward()
    assert method.anomaly_token.grad.norm() == pytest.approx(1, rel=1e-3)
    assert method.normal_token.grad.norm() == pytest.approx(1, rel=1e-3)
    assert method.ln_post.weight.grad.norm() > 1


def test_dropout_only_in_training(build, images):
    method = build()
    with torch.no_grad():
        first, second = (method.train()._contrasts(images)[0] for _ in range(2))
        assert not torch.equal(first, second)
        first, second = (method.eval()._contrasts(images)[0] for _ in range(2))
        assert torch.equal(first, second)


def test_more_patches_than_positions_are_refused(build):
    with pytest.raises(ConfigError, match="49 patches, but max_patches is 40"):
        build()._contrasts(torch.zeros(1, 3, 56, 56))


def test_the_top_of_a_small_map_is_its_largest_pixel():
    assert top_mean(torch.tensor([[[1.0, 3.0], [2.0, 0.0]]])) == 3


def as_published(method):
    """The learnt tensors in the layout of the authors' files."""
    found = method.learned_state()
    return {
        "anomaly_token": found["anomaly_token"][None],
        "normal_token": found["normal_token"][None],
        "ln_post_weight": found["ln_post.weight"],
        "ln_post_bias": found["ln_post.bias"],
        "features_list": [1, 2, 3],
        "epoch": 1,
        "backbone": "ViT-L/14@336px",
        "cross_attn": {f"layer_attentions.{k}": v for k, v in method.cross_attn.state_dict().items()},
        "layer_transforms": {k: dict(v.state_dict()) for k, v in method.layer_transforms.items()},
    }


def test_the_authors_file(build, images, make_small_clip, tmp_path):
    method = build()
    torch.save(as_published(method), tmp_path / "CLIP.pth")
    found = zsad.load("visual_ad", make_small_clip(), tmp_path / "CLIP.pth", device="cpu")
    assert found.method.config.features_list == (1, 2, 3)
    assert found.method.config.max_patches == 40
    with torch.inference_mode():
        expected = method.score(method.features(images), method.prepare(["object"]))
    assert torch.equal(found.score_tensors(images).maps, expected.maps)
    with pytest.raises(WeightsError, match=r"'ln_post\.bias' is a NoneType"):
        official_tensors({**as_published(method), "ln_post_bias": None})
    with pytest.raises(WeightsError, match="not a file of VisualAD's authors"):
        official_tensors({"anomaly_token": torch.zeros(1)})


def test_the_authors_train_longer_on_mvtec():
    defaults = VisualAD.TRAINING
    assert (defaults.for_dataset("visa").epochs, defaults.for_dataset("mvtec").epochs) == (1, 2)
