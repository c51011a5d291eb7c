"""The network against OpenAI's code (golden data), and its behaviour where the golden data do not reach."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from zsad.backbones.attention import DeepPrompts
from zsad.backbones.clip import CLIP, LAST_ROWS, ClipConfig, TextConfig, VisionConfig, overwrite
from zsad.backbones.tokenizer import tokenize
from zsad.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden"
LAYERS = (6, 12, 18, 24)


def assert_golden(found: Tensor, expected, relative: float = 2e-5) -> None:
    """The golden README's tolerance: rtol 1e-4, atol `relative` times the largest value."""
    reference = torch.from_numpy(expected)
    torch.testing.assert_close(found, reference, rtol=1e-4, atol=relative * float(reference.abs().max()))


class TestGolden:
    def test_state_dict_names_are_openai_s(self, golden_clip, tiny_state_dict):
        assert golden_clip().state_dict().keys() == tiny_state_dict.keys()

    def test_native_size(self, golden_clip, golden):
        data, clip = golden("clip.npz"), golden_clip()
        images = torch.from_numpy(data["image56.pixels"])
        output = clip.visual(images, LAYERS)
        assert_golden(clip.encode_image(images), data["image56.features"])
        for layer in LAYERS:
            assert_golden(output.tokens[layer], data[f"image56.tokens_layer{layer}"])
        assert_golden(clip.visual.project(output.tokens[24]), data["image56.patch_proj_layer24"])
        assert torch.equal(output.class_token, output.tokens[24][:, 0])
        assert output.value_tokens == {}

    @pytest.mark.parametrize("mode", ["bilinear", "bicubic", "bicubic_antialias"])
    def test_another_size(self, golden_clip, golden, mode):
        data, clip = golden("clip.npz"), golden_clip()
        clip = clip.view(position_interpolation=mode)
        output = clip.visual(torch.from_numpy(data["inputs.images"]), LAYERS)
        assert_golden(clip.visual.positions(5), data[f"posembed5x5.{mode}"])
        assert_golden(clip.visual.project(output.class_token), data[f"image70.{mode}.features"])
        for layer in LAYERS:
            assert_golden(output.tokens[layer], data[f"image70.{mode}.tokens_layer{layer}"])

    @pytest.mark.parametrize(("activation", "prefix"), [("quick_gelu", ""), ("gelu", "gelu.")])
    def test_activations(self, golden_clip, golden, activation, prefix):
        data, clip = golden("clip.npz"), golden_clip(activation)
        text = clip.encode_text(tokenize(data["text.sentences"].tolist()))
        assert_golden(text, data[f"{prefix}text.features"])
        assert_golden(
            clip.encode_image(torch.from_numpy(data["image56.pixels"])), data[f"{prefix}image56.features"]
        )

    def test_logits(self, golden_clip, golden):
        data, clip = golden("clip.npz"), golden_clip()
        image = nn.functional.normalize(clip.encode_image(torch.from_numpy(data["image56.pixels"])), dim=-1)
        text = nn.functional.normalize(clip.encode_text(tokenize(data["text.sentences"].tolist())), dim=-1)
        assert_golden(clip.logit_scale.exp() * image @ text.T, data["image56.logits_per_image"])

    def test_value_value_stream_is_anomalyclip_s(self, golden_clip, golden):
        data, clip = golden("anomalyclip.npz"), golden_clip()
        clip = clip.view(position_interpolation="bilinear")
        images = torch.from_numpy(golden("clip.npz")["inputs.images"])
        output = clip.visual(images, LAYERS, value_value_from=6)
        for layer in LAYERS:
            features = clip.visual.project(output.value_tokens[layer])
            assert_golden(features, data[f"eval.patch_features_raw.{layer}"])
        assert_golden(output.class_token @ clip.visual.proj, data["eval.image_features_raw"])

    def test_text_prompts_are_anomalyclip_s(self, golden_clip, golden):
        data, clip = golden("anomalyclip.npz"), golden_clip()
        names = ("normal", "abnormal")
        ids = torch.cat([torch.from_numpy(data[f"settings.prompt_tokens_{name}"][0]) for name in names])
        context = torch.cat([torch.from_numpy(data[f"params.ctx_{name}"][0]) for name in ("pos", "neg")])
        embeddings = clip.embed_tokens(ids)
        embeddings = torch.cat([embeddings[:, :1], context, embeddings[:, 13:]], dim=1)
        prompts = DeepPrompts(
            {
                block: torch.from_numpy(data[f"params.compound_prompts_text.{block - 2}"])
                for block in range(2, 10)
            }
        )
        features = clip.encode_embeddings(embeddings, ids.argmax(dim=-1), prompts)
        assert_golden(features, data["eval.text_features_raw"])

    def test_visual_prompts_are_adaclip_s(self, golden_clip, golden):
        data, clip = golden("adaclip.npz"), golden_clip("gelu")
        clip = clip.view(position_interpolation="bicubic")
        learnt = torch.load(GOLDEN / "adaclip_official.pth", weights_only=True)
        dynamic = torch.from_numpy(data["eval.dynamic_visual_prompts"])
        prompts = DeepPrompts(
            {
                index + 1: (learnt[f"clip_model.visual_prompter.static_prompts.{index}"] + dynamic)
                .half()
                .float()
                for index in range(4)
            }
        )
        images = torch.from_numpy(golden("clip.npz")["inputs.images"])
        output = clip.visual(images, LAYERS, deep_prompts=prompts)
        for layer in LAYERS:
            assert_golden(output.tokens[layer], data[f"eval.tokens.{layer}"], relative=1e-4)
        features = clip.visual.project(output.class_token)
        assert_golden(features, data["eval.image_features_prompted"], relative=1e-4)


class TestVisionTower:
    def test_encode_tokens_is_the_same_encoder(self, small_clip):
        images = torch.randn(2, 3, 40, 40)
        tokens = small_clip.visual.encode_tokens(small_clip.visual.embed(images))
        torch.testing.assert_close(tokens, small_clip.visual(images).class_token)

    @pytest.mark.parametrize("size", [24, 40])  # fewer and more tokens than the last block computes at least
    def test_value_taps_compute_no_more_than_is_read(self, small_clip, size, monkeypatch):
        tower, images = small_clip.visual, torch.randn(2, 3, size, size)
        whole = tower(images, (2, 3), value_value_from=2)
        plain = tower(images)
        lengths = []
        mlp = tower.transformer.blocks()[-1].mlp
        monkeypatch.setattr(
            mlp, "forward", lambda x, forward=mlp.forward: lengths.append(x.shape[1]) or forward(x)
        )
        output = tower(images, value_value_from=2, value_taps=(2, 3))
        assert lengths == [min(LAST_ROWS, 1 + (size // 8) ** 2)]
        assert output.tokens == {}
        for token in (output.class_token, plain.class_token):
            torch.testing.assert_close(token, whole.class_token)
        for layer in (2, 3):
            torch.testing.assert_close(output.value_tokens[layer], whole.value_tokens[layer])

    def test_streams_tapped_after_different_blocks(self, small_clip):
        tower, images = small_clip.visual, torch.randn(2, 3, 40, 40)
        whole = tower(images, (1, 2, 3), value_value_from=1)
        output = tower(images, (3,), value_value_from=1, value_taps=(1,))
        assert list(output.tokens) == [3]
        assert list(output.value_tokens) == [1, 3]
        torch.testing.assert_close(output.tokens[3], whole.tokens[3])
        for layer in (1, 3):
            torch.testing.assert_close(output.value_tokens[layer], whole.value_tokens[layer])

    def test_visual_prompts_stay_in_the_sequence_and_out_of_the_result(self, small_clip):
        tower = small_clip.visual
        images = torch.randn(2, 3, 32, 32)
        first, second = torch.randn(5, 32), torch.randn(2, 5, 32)
        output = tower(images, (1, 2, 3), value_value_from=2, deep_prompts=DeepPrompts({1: first, 2: second}))
        blocks = tower.transformer.blocks()
        x = tower.ln_pre(tower.embed(images))
        x = blocks[0](torch.cat([x, first.expand(2, -1, -1)], dim=1))
        torch.testing.assert_close(output.tokens[1], x[:, :17])
        x = blocks[1](torch.cat([x[:, :17], second], dim=1))
        torch.testing.assert_close(output.tokens[2], x[:, :17])
        torch.testing.assert_close(output.class_token, blocks[2](x)[:, 0])
        assert output.value_tokens[3].shape == (2, 17, 32)

    def test_gradient_reaches_prompts_only(self, small_clip):
        prompts = torch.randn(2, 32, requires_grad=True)
        small_clip.visual(
            torch.randn(1, 3, 32, 32), deep_prompts=DeepPrompts({2: prompts})
        ).class_token.sum().backward()
        assert prompts.grad is not None
        assert float(prompts.grad.abs().sum()) > 0
        assert all(parameter.grad is None for parameter in small_clip.parameters())

    @pytest.mark.parametrize(("size", "near"), [(33, "32 or 40"), (3, "8")])
    def test_size_that_does_not_fit(self, small_clip, size, near):
        with pytest.raises(ConfigError, match=f"image size {size} .* {near}"):
            small_clip.encode_image(torch.zeros(1, 3, size, size))

    def test_image_that_is_not_square(self, small_clip):
        with pytest.raises(ConfigError, match="32 x 40"):
            small_clip.encode_image(torch.zeros(1, 3, 32, 40))

    @pytest.mark.parametrize("taps", [(0,), (1, 4)])
    def test_taps_outside(self, small_clip, taps):
        with pytest.raises(ConfigError, match="1 to 3"):
            small_clip.visual(torch.zeros(1, 3, 32, 32), taps)

    def test_streams_and_prompts_outside(self, small_clip):
        images = torch.zeros(1, 3, 32, 32)
        with pytest.raises(ConfigError, match="value-value stream must start at a block from 1 to 3"):
            small_clip.visual(images, value_value_from=4)
        with pytest.raises(ConfigError, match=r"taps \[4\]"):
            small_clip.visual(images, value_value_from=3, value_taps=(4,))
        with pytest.raises(ConfigError, match="set value_value_from"):
            small_clip.visual(images, value_taps=(3,))
        with pytest.raises(ConfigError, match=r"\[7\]"):
            small_clip.visual(images, deep_prompts=DeepPrompts({7: torch.zeros(1, 32)}))

    def test_convolutional_stem(self):
        config = VisionConfig(64, 16, 32, 1, 2, stem="efficientnet_lite2")
        clip = CLIP(ClipConfig(config, TextConfig(24, 1, 2, 12, 64), 16, "gelu")).eval()
        assert not hasattr(clip.visual, "conv1")
        assert clip.encode_image(torch.randn(1, 3, 96, 96)).shape == (1, 16)
        with pytest.raises(ConfigError, match="16 pixels"):
            CLIP(
                ClipConfig(
                    VisionConfig(64, 8, 32, 1, 2, "efficientnet_lite2"), TextConfig(24, 1, 2), 16, "gelu"
                )
            )


class TestPositionCache:
    def test_kept_per_grid_and_mode_without_touching_the_parameter(self, small_clip):
        before = small_clip.visual.positional_embedding.clone()
        first = small_clip.visual.positions(5)
        assert small_clip.visual.positions(5) is first
        bilinear = small_clip.view(position_interpolation="bilinear")
        assert not torch.equal(bilinear.visual.positions(5), first)
        assert small_clip.visual.positions(5) is first
        assert torch.equal(small_clip.visual.positional_embedding, before)
        assert small_clip.visual.positions(4) is small_clip.visual.positional_embedding

    def test_new_weights_are_seen(self, small_clip):
        old = small_clip.visual.positions(6).clone()
        state = {name: tensor + 1 for name, tensor in small_clip.state_dict().items()}
        small_clip.load_state_dict(state)
        torch.testing.assert_close(small_clip.visual.positions(6), old + 1)
        small_clip.load_state_dict({name: tensor + 1 for name, tensor in state.items()}, assign=True)
        torch.testing.assert_close(small_clip.visual.positions(6), old + 2)
        assert small_clip.bfloat16().visual.positions(6).dtype == torch.bfloat16

    def test_training_gets_gradients_each_step(self, small_clip):
        small_clip.requires_grad_(True)
        for _ in range(2):
            small_clip.zero_grad()
            small_clip.encode_image(torch.randn(1, 3, 40, 40)).square().sum().backward()
            gradient = small_clip.visual.positional_embedding.grad
            assert gradient is not None
            assert float(gradient.abs().sum()) > 0

    def test_predicting_then_training(self, small_clip):
        images = torch.randn(1, 3, 40, 40)
        with torch.inference_mode():
            small_clip.encode_image(images)
        prompts = torch.zeros(1, 32, requires_grad=True)
        small_clip.visual(images, deep_prompts=DeepPrompts({1: prompts})).class_token.sum().backward()
        assert prompts.grad is not None

    def test_copies_are_independent(self, small_clip):
        small_clip.visual.positions(5)
        twin = copy.deepcopy(small_clip)
        twin.visual.positional_embedding.add_(1)
        torch.testing.assert_close(twin.visual.positions(5), small_clip.visual.positions(5) + 1)


class TestText:
    def test_cut_after_the_last_end_mark_changes_nothing(self, small_clip):
        ids = torch.tensor([[60, 5, 63, 0, 0, 0, 0, 0, 0, 0, 0, 0], [60, 5, 6, 7, 8, 63, 0, 0, 0, 0, 0, 0]])
        ends = torch.tensor([2, 5])
        x = small_clip.embed_tokens(ids) + small_clip.positional_embedding
        for block in small_clip.transformer.blocks():
            x = block(x, causal=True)
        whole = small_clip.ln_final(x)[torch.arange(2), ends] @ small_clip.text_projection
        torch.testing.assert_close(small_clip.encode_text(ids), whole)
        torch.testing.assert_close(small_clip.encode_text(ids[:1]), whole[:1])

    def test_what_follows_the_end_mark_has_no_influence(self, small_clip):
        whole = torch.tensor([[60, 5, 63, 0, 0, 0, 0, 0], [60, 5, 6, 63, 0, 0, 0, 0]])
        torch.testing.assert_close(small_clip.encode_text(whole[:, :4]), small_clip.encode_text(whole))

    def test_factorised_table(self):
        config = ClipConfig(
            VisionConfig(32, 8, 32, 1, 2), TextConfig(24, 1, 2, 12, 64, embedding_rank=6), 16, "gelu"
        )
        clip = CLIP(config)
        state = clip.state_dict()
        assert state["token_embedding.weight"].shape == (64, 6)
        assert state["token_embedding.projection"].shape == (6, 24)
        ids = torch.tensor([[60, 3, 63]])
        table = clip.token_embedding.weight @ clip.token_embedding.projection
        torch.testing.assert_close(clip.embed_tokens(ids), table[ids])
        assert clip.encode_text(ids).shape == (1, 16)

    def test_overwrite(self):
        x, prompts = torch.zeros(1, 4, 2), torch.ones(1, 2, 2)
        assert overwrite(x, prompts, 1)[0, :, 0].tolist() == [0, 1, 1, 0]
        assert overwrite(x, prompts, 3)[0, :, 0].tolist() == [0, 0, 0, 1]
        assert overwrite(x, prompts, 5).shape == x.shape
        assert overwrite(x, None, 1) is x

    def test_deep_prompts_past_the_end_mark_do_not_matter(self, small_clip):
        ids = torch.tensor([[60, 5, 63, 0, 0, 0]])
        longer = torch.tensor([[60, 5, 63, 0, 0, 0], [60, 5, 6, 7, 8, 63]])
        prompts = DeepPrompts({2: torch.randn(4, 24)})
        single = small_clip.encode_embeddings(small_clip.embed_tokens(ids), ids.argmax(-1), prompts)
        both = small_clip.encode_embeddings(small_clip.embed_tokens(longer), longer.argmax(-1), prompts)
        torch.testing.assert_close(single, both[:1])

    @pytest.mark.parametrize("number", [1, 2, 3, 5])
    def test_deep_prompts_against_whole_blocks(self, small_clip, number):
        """What is left out, because the next block overwrites it or nothing reads it, changes nothing."""
        layers = small_clip.config.text.layers
        prompts = DeepPrompts({block: torch.randn(number, 24) for block in range(1, layers + 1)})
        ids = torch.tensor([[60, 5, 6, 7, 63, 0], [60, 5, 63, 0, 0, 0]])
        x = small_clip.embed_tokens(ids) + small_clip.positional_embedding[:6]
        for block, module in enumerate(small_clip.transformer.blocks(), start=1):
            x = module(overwrite(x, prompts.before(block, 2, x), 1), causal=True)
        ends = ids.argmax(dim=-1)
        whole = small_clip.ln_final(x)[torch.arange(2), ends] @ small_clip.text_projection
        found = small_clip.encode_embeddings(small_clip.embed_tokens(ids), ends, prompts)
        torch.testing.assert_close(found, whole)

    def test_too_long(self, small_clip):
        with pytest.raises(ConfigError, match="13 tokens"):
            small_clip.encode_embeddings(torch.zeros(1, 13, 24), torch.tensor([12]))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision(small_clip, precision):
    images, ids = torch.randn(2, 3, 40, 40), torch.tensor([[60, 5, 63]])
    expected = small_clip.encode_image(images), small_clip.encode_text(ids)
    half = copy.deepcopy(small_clip).to(precision)
    with torch.inference_mode():
        found = half.encode_image(images), half.encode_text(ids)
        output = half.visual(images, (3,), value_value_from=2)
    assert output.value_tokens[3].dtype == precision
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(
            value.float(), reference, rtol=0.1, atol=0.05 * float(reference.abs().max())
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "relu"}, "unknown activation 'relu'"),
        ({"vision": VisionConfig(32, 8, 30, 1, 4)}, "width 30 .* 4 heads"),
        ({"vision": VisionConfig(32, 8, 32, 0, 4)}, "layers=0"),
    ],
)
def test_impossible_configurations(change, message):
    arguments = {
        "vision": VisionConfig(32, 8, 32, 1, 2),
        "text": TextConfig(24, 1, 2, 12, 64),
        "embed_dim": 16,
        "activation": "gelu",
    } | change
    with pytest.raises(ConfigError, match=message):
        CLIP(ClipConfig(**arguments))


def test_unknown_interpolation(small_clip):
    with pytest.raises(ConfigError, match="did you mean 'bicubic'"):
        small_clip.view(position_interpolation="bicubik")
    with pytest.raises(ConfigError, match="position_interpolation"):
        CLIP(small_clip.config, position_interpolation="nearest")


class Streams(nn.Module):
    """What a method exports: class token and value-value patches."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        output = self.clip.visual(images, (1, 3), value_value_from=2)
        return output.class_token, output.value_tokens[3]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tracer", ["export", pytest.param("trace", id="jit_trace")])
def test_exported_graph_equals_python(small_clip, tracer):
    model, example, images = Streams(small_clip), torch.randn(2, 3, 40, 40), torch.randn(5, 3, 40, 40)
    expected = model(images)
    if tracer == "export":
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
        found, graph = program.module()(images), str(program.graph)
    else:
        traced = torch.jit.trace(model, (example,))
        found, graph = traced(images), str(traced.inlined_graph)
    assert "upsample" not in graph  # the resized position table is a constant of the graph
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(value, reference)


@pytest.mark.filterwarnings("ignore")
def test_exporting_first_works_and_keeps_nothing(small_clip):
    images = torch.randn(2, 3, 40, 40)
    program = torch.export.export(Streams(small_clip), (images,))
    assert not small_clip.visual._resized_positions
    torch.testing.assert_close(program.module()(images), Streams(small_clip)(images))
