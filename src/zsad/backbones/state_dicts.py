"""Translates the names under which CLIP weights are published to OpenAI's, which the network of zsad uses.

| layout | names | shape and activation from |
|---|---|---|
| OpenAI | `visual.conv1.weight`, `transformer.resblocks.0...` | shapes of the tensors; QuickGELU |
| open_clip | OpenAI's, or with the text encoder under `text.` (CustomTextCLIP) | `open_clip_config.json` |
| Hugging Face `CLIPModel` | `vision_model.encoder.layers.0...` | `config.json` |

Whatever the network does not have (ResNets, timm trunks, other text encoders, attentional pooling...) is
refused by name: an encoder that is nearly right gives wrong features without any error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from zsad.backbones.clip import ClipConfig, TextConfig, VisionConfig
from zsad.backbones.transformer import HEAD_WIDTH
from zsad.errors import WeightsError

if TYPE_CHECKING:
    from zsad.types import Activation

Layout = Literal["openai", "custom_text", "hugging_face"]

# Entries that hold no weights: sizes kept as buffers, masks, position numbers, and the bias of sigmoid
# training, which is the same for every logit.
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "logit_bias", "attn_mask", "position_ids")

# Names of CLIPs that the network of zsad cannot represent.
UNSUPPORTED = (
    ("visual.layer1.", "a ResNet image encoder (RN50, RN101...)"),
    ("visual.trunk.", "a timm image encoder"),
    ("text_decoder.", "a CoCa model"),
    ("visual.attn_pool.", "attentional pooling"),
    ("text.transformer.embeddings.", "a text encoder of another kind (Hugging Face encoder)"),
    ("text.transformer.encoder.", "a text encoder of another kind (Hugging Face encoder)"),
    ("vision_model.head.", "a SigLIP model"),
    ("text_model.head.", "a SigLIP model"),
    ("visual.transformer.resblocks.0.ls_1.", "layer scale"),
)

HUGGING_FACE_BLOCK = {
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "self_attn.out_proj.": "attn.out_proj.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}
HUGGING_FACE_NAMES = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # the missing "e" is in the published files
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "logit_scale": "logit_scale",
}
HUGGING_FACE_TOWERS = {
    "text_model.encoder.layers.": "transformer.resblocks.",
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
}


def find_layout(names: Iterable[str], origin: str) -> Layout:
    """Recognises the layout of a state dict by its names.

    Args:
        names: names of the tensors.
        origin: name of their source, for the message.

    Raises:
        WeightsError: the tensors are no CLIP, or an unsupported one; the message says which.
    """
    known = set(names)
    for prefix, what in UNSUPPORTED:
        if any(name.startswith(prefix) for name in known):
            raise WeightsError(
                f"{origin} has {what}, which is not supported: use a CLIP with a ViT, such as ViT-L-14-336"
            )
    if "vision_model.embeddings.patch_embedding.weight" in known:
        missing = {"visual_projection.weight", "text_projection.weight"} - known
        if missing:
            raise WeightsError(
                f"{origin} is one encoder of a CLIP (no {', '.join(sorted(missing))}): give a CLIPModel"
            )
        return "hugging_face"
    if "visual.conv1.weight" in known:
        if "visual.ln_pre.weight" not in known:
            raise WeightsError(f"{origin} has no norm before its blocks (no_ln_pre), which is not supported")
        if "text.token_embedding.weight" in known:
            return "custom_text"
        if "token_embedding.weight" in known:
            return "openai"
        raise WeightsError(f"{origin} has an image encoder but no text encoder (no token_embedding.weight)")
    examples = ", ".join(sorted(known)[:3])
    raise WeightsError(
        f"{origin} is not a CLIP (its tensors are {examples}...): give OpenAI, open_clip or CLIPModel weights"
    )


def to_openai_names(tensors: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """A state dict of any supported layout, with OpenAI's names and shapes.

    Args:
        tensors: tensors by the names of their layout.
        origin: name of their source, for messages.

    Returns:
        The same values under new names, without entries that are no weights.

    Raises:
        WeightsError: `find_layout` raises it, or a tensor is missing or has an unknown name.
    """
    weights = {name: value for name, value in tensors.items() if name.split(".")[-1] not in NOT_WEIGHTS}
    layout = find_layout(weights, origin)
    if layout == "hugging_face":
        return _from_hugging_face(weights, origin)
    if layout == "custom_text":
        return _from_custom_text(weights, origin)
    return weights


def _from_custom_text(tensors: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """open_clip's CustomTextCLIP, in which the names of the text encoder begin with "text."."""
    renamed = {name.removeprefix("text."): value for name, value in tensors.items()}
    if "text_projection.bias" in renamed:
        raise WeightsError(f"{origin} has a text projection with bias, which is not supported")
    if "text_projection.weight" in renamed:  # a linear layer keeps the transposed matrix
        renamed["text_projection"] = renamed.pop("text_projection.weight").T
    return renamed


def _from_hugging_face(tensors: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Hugging Face's CLIPModel: other names, linear layers as projections, separate query, key and value."""
    renamed: dict[str, Tensor] = {
        "visual.proj": tensors["visual_projection.weight"].T,
        "text_projection": tensors["text_projection.weight"].T,
    }
    for name, value in tensors.items():
        if name in {"visual_projection.weight", "text_projection.weight"}:
            continue
        if name in HUGGING_FACE_NAMES:
            renamed[HUGGING_FACE_NAMES[name]] = value
            continue
        tower = next((prefix for prefix in HUGGING_FACE_TOWERS if name.startswith(prefix)), None)
        if tower is None:
            raise WeightsError(f"{origin} has a tensor that no CLIPModel has: {name}")
        number, _, part = name.removeprefix(tower).partition(".")
        block = f"{HUGGING_FACE_TOWERS[tower]}{number}."
        if part.startswith("self_attn.q_proj."):
            kind = part.removeprefix("self_attn.q_proj.")
            parts = [tensors.get(f"{tower}{number}.self_attn.{letter}_proj.{kind}") for letter in "qkv"]
            present = [tensor for tensor in parts if tensor is not None]
            if len(present) < len(parts):
                raise WeightsError(f"{origin}: block {number} of {tower} lacks its key or value projection")
            renamed[f"{block}attn.in_proj_{kind}"] = torch.cat(present)
        elif not part.startswith(("self_attn.k_proj.", "self_attn.v_proj.")):
            old = next((old for old in HUGGING_FACE_BLOCK if part.startswith(old)), None)
            if old is None:
                raise WeightsError(f"{origin} has a tensor that no CLIPModel has: {name}")
            renamed[block + HUGGING_FACE_BLOCK[old] + part.removeprefix(old)] = value
    return renamed


def clip_config_from_state_dict(
    state_dict: Mapping[str, Tensor], activation: Activation, origin: str = "the state dict"
) -> ClipConfig:
    """The shape of a network from its tensors; attention heads are 64 wide, as in all of OpenAI's models.

    Args:
        state_dict: tensors under OpenAI's names.
        activation: activation of the MLPs, which the tensors do not show.
        origin: name of their source, for messages.

    Raises:
        WeightsError: tensors are missing, or their shapes contradict each other.
    """

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        tensor = state_dict.get(name)
        if tensor is None:
            raise WeightsError(f"{origin} is not a CLIP in OpenAI's layout: {name} is missing")
        if tensor.ndim != dimensions:
            raise WeightsError(
                f"{origin}: {name} has shape {tuple(tensor.shape)}, expected {dimensions} dimensions"
            )
        return tuple(tensor.shape)

    def layers(prefix: str) -> int:
        start = len(prefix.split(".")) - 1
        return len({name.split(".")[start] for name in state_dict if name.startswith(prefix)})

    vision_width, _, patch_size, _ = shape("visual.conv1.weight", 4)
    positions, _ = shape("visual.positional_embedding", 2)
    grid = math.isqrt(positions - 1)
    if grid * grid != positions - 1:
        raise WeightsError(
            f"{origin}: {positions - 1} patch positions are not a square grid, which is not supported"
        )
    vocab_size, _ = shape("token_embedding.weight", 2)
    context_length, _ = shape("positional_embedding", 2)
    text_width, embed_dim = shape("text_projection", 2)
    for what, width in (("image", vision_width), ("text", text_width)):
        if width % HEAD_WIDTH:
            raise WeightsError(
                f"{origin}: the {what} encoder is {width} wide, so its heads are not OpenAI's of "
                f"{HEAD_WIDTH}; put an open_clip_config.json beside the file that names them"
            )
    return ClipConfig(
        vision=VisionConfig(
            image_size=grid * patch_size,
            patch_size=patch_size,
            width=vision_width,
            layers=layers("visual.transformer.resblocks."),
            heads=vision_width // HEAD_WIDTH,
        ),
        text=TextConfig(
            width=text_width,
            layers=layers("transformer.resblocks."),
            heads=text_width // HEAD_WIDTH,
            context_length=context_length,
            vocab_size=vocab_size,
        ),
        embed_dim=embed_dim,
        activation=activation,
    )
