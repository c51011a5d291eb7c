"""Our network against open_clip and Hugging Face `CLIPModel` on random weights of the well-known shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from zsad.backbones.clip import CLIP, ClipConfig, TextConfig, VisionConfig

if TYPE_CHECKING:
    from zsad.types import Activation

DEPTH = 2  # every block has the same code
VOCABULARY = 1000
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Shape:
    image_size: int
    patch_size: int
    vision_width: int
    text_width: int
    embed_dim: int


SHAPES = {
    "ViT-B-32": Shape(224, 32, 768, 512, 512),
    "ViT-B-16": Shape(224, 16, 768, 512, 512),
    "ViT-B-16-plus-240": Shape(240, 16, 896, 640, 640),
    "ViT-L-14": Shape(224, 14, 1024, 768, 768),
    "ViT-L-14-336": Shape(336, 14, 1024, 768, 768),
}


def build(shape: Shape, activation: Activation) -> CLIP:
    """A random network; biases and norms are not left at their neutral values."""
    torch.manual_seed(0)
    vision = VisionConfig(
        shape.image_size, shape.patch_size, shape.vision_width, DEPTH, shape.vision_width // 64
    )
    text = TextConfig(shape.text_width, DEPTH, shape.text_width // 64, vocab_size=VOCABULARY)
    clip = CLIP(ClipConfig(vision, text, shape.embed_dim, activation)).eval().requires_grad_(False)
    for name, parameter in clip.named_parameters():
        if parameter.ndim == 1:
            parameter.normal_(mean=float("ln_" in name and name.endswith("weight")), std=0.1)
    return clip


def inputs(shape: Shape) -> tuple[Tensor, Tensor]:
    """Two images, and three sentences of different length."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, shape.image_size, shape.image_size, generator=generator)
    ids = torch.zeros(3, 77, dtype=torch.long)
    for row, words in enumerate((1, 9, 75)):
        ids[row, 0] = VOCABULARY - 2
        ids[row, 1 : 1 + words] = torch.randint(1, VOCABULARY - 2, (words,), generator=generator)
        ids[row, 1 + words] = VOCABULARY - 1
    return images, ids


def record_outputs(blocks: nn.ModuleList) -> list[Tensor]:
    """A list that fills with what each block gives while the network runs."""
    seen: list[Tensor] = []

    def remember(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    for block in blocks:
        block.register_forward_hook(remember)
    return seen


def assert_same(
    clip: CLIP,
    images: Tensor,
    ids: Tensor,
    image_embedding: Tensor,
    text_embedding: Tensor,
    tokens: list[Tensor],
) -> None:
    """Embeddings and the tokens of every block differ by at most `TOLERANCE`."""
    output = clip.visual(images, range(1, DEPTH + 1))
    pairs = [
        (clip.encode_image(images), image_embedding),
        (clip.encode_text(ids), text_embedding),
        *((output.tokens[number], reference) for number, reference in enumerate(tokens, start=1)),
    ]
    assert len(pairs) == 2 + DEPTH
    for found, reference in pairs:
        assert found.shape == reference.shape
        assert float((found - reference).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("name", SHAPES)
@torch.inference_mode()
def test_open_clip(name, activation):
    model = pytest.importorskip("open_clip.model")
    shape = SHAPES[name]
    clip = build(shape, activation)
    reference = model.CLIP(
        embed_dim=shape.embed_dim,
        vision_cfg=model.CLIPVisionCfg(
            layers=DEPTH, width=shape.vision_width, patch_size=shape.patch_size, image_size=shape.image_size
        ),
        text_cfg=model.CLIPTextCfg(
            vocab_size=VOCABULARY, width=shape.text_width, heads=shape.text_width // 64, layers=DEPTH
        ),
        quick_gelu=activation == "quick_gelu",
    ).eval()
    loaded = reference.load_state_dict(clip.state_dict(), strict=False)
    assert not loaded.unexpected_keys
    assert set(loaded.missing_keys) <= {"attn_mask"}
    images, ids = inputs(shape)
    tokens = record_outputs(reference.visual.transformer.resblocks)
    image_embedding = reference.encode_image(images)
    # open_clip before 2.26 keeps the sequence in front of the batch.
    tokens = [block if block.shape[0] == len(images) else block.transpose(0, 1) for block in tokens]
    assert_same(clip, images, ids, image_embedding, reference.encode_text(ids), tokens)


def hugging_face_state(clip: CLIP) -> dict[str, Tensor]:
    """Our weights under the names of `transformers.CLIPModel`."""
    ours = clip.state_dict()
    state = {
        "logit_scale": ours["logit_scale"],
        "visual_projection.weight": ours["visual.proj"].T,
        "text_projection.weight": ours["text_projection"].T,
        "vision_model.embeddings.class_embedding": ours["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": ours["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": ours["visual.positional_embedding"],
        "text_model.embeddings.token_embedding.weight": ours["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": ours["positional_embedding"],
    }
    norms = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
    }
    layers = dict(norms)
    for mine, theirs in (("visual.transformer", "vision_model"), ("transformer", "text_model")):
        for index in range(DEPTH):
            block, layer = f"{mine}.resblocks.{index}.", f"{theirs}.encoder.layers.{index}."
            layers |= {
                f"{block}ln_1": f"{layer}layer_norm1",
                f"{block}ln_2": f"{layer}layer_norm2",
                f"{block}attn.out_proj": f"{layer}self_attn.out_proj",
                f"{block}mlp.c_fc": f"{layer}mlp.fc1",
                f"{block}mlp.c_proj": f"{layer}mlp.fc2",
            }
            for kind in ("weight", "bias"):
                parts = ours[f"{block}attn.in_proj_{kind}"].chunk(3)
                for letter, part in zip("qkv", parts, strict=True):
                    state[f"{layer}self_attn.{letter}_proj.{kind}"] = part
    for mine, theirs in layers.items():
        for kind in ("weight", "bias"):
            state[f"{theirs}.{kind}"] = ours[f"{mine}.{kind}"]
    return state


@pytest.mark.parametrize("name", SHAPES)
@torch.inference_mode()
def test_transformers(name):
    transformers = pytest.importorskip("transformers")
    shape = SHAPES[name]
    activation = "gelu" if name == "ViT-B-16-plus-240" else "quick_gelu"
    clip = build(shape, activation)
    config = transformers.CLIPConfig(
        vision_config={
            "hidden_size": shape.vision_width,
            "intermediate_size": 4 * shape.vision_width,
            "num_hidden_layers": DEPTH,
            "num_attention_heads": shape.vision_width // 64,
            "image_size": shape.image_size,
            "patch_size": shape.patch_size,
            "hidden_act": activation,
        },
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": shape.text_width,
            "intermediate_size": 4 * shape.text_width,
            "num_hidden_layers": DEPTH,
            "num_attention_heads": shape.text_width // 64,
            "hidden_act": activation,
            "bos_token_id": VOCABULARY - 2,
            "eos_token_id": VOCABULARY - 1,
        },
        projection_dim=shape.embed_dim,
    )
    reference = transformers.CLIPModel(config).eval()
    loaded = reference.load_state_dict(hugging_face_state(clip), strict=False)
    assert not loaded.unexpected_keys
    assert all(key.endswith("position_ids") for key in loaded.missing_keys)
    images, ids = inputs(shape)
    tokens = record_outputs(reference.vision_model.encoder.layers)
    image_embedding = reference.visual_projection(reference.vision_model(pixel_values=images).pooler_output)
    text_embedding = reference.text_projection(reference.text_model(input_ids=ids).pooler_output)
    assert_same(clip, images, ids, image_embedding, text_embedding, tokens)
