"""Reads the configuration files beside CLIP weights, open_clip's and Hugging Face's, into `ClipConfig`.

A setting that the network of zsad cannot follow is refused by name, never ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from zsad.backbones.clip import ClipConfig, TextConfig, VisionConfig
from zsad.backbones.transformer import HEAD_WIDTH, MLP_RATIO
from zsad.errors import WeightsError
from zsad.files.fields import shortened

VOCABULARY = 49408  # size of the vocabulary of CLIP's tokenizer, the only one in zsad

# Fields of open_clip that are read, fields that do not change what the network computes, and values of other
# fields that mean "as in CLIP"; every other setting is refused.
VISION_FIELDS = {"image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio"}
VISION_NEUTRAL = {"pool_type": "tok", "pos_embed_type": "learnable", "block_type": "default"}
VISION_IRRELEVANT = {
    "patch_dropout",
    "output_tokens",
    "attn_pooler_queries",
    "attn_pooler_heads",
    "timm_model_pretrained",
    "timm_pool",
    "timm_proj",
    "timm_proj_bias",
    "timm_drop",
    "timm_drop_path",
}
TEXT_FIELDS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
TEXT_NEUTRAL = {
    "pool_type": "argmax",
    "proj_type": "linear",
    "block_type": "default",
    "tokenizer_mode": "clip",
}
TEXT_IRRELEVANT = {
    "output_tokens",
    "pad_id",
    "eos_id",
    "hf_model_pretrained",
    "hf_proj_type",
    "hf_pooler_type",
}
MODEL_FIELDS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
MODEL_IRRELEVANT = {"custom_text", "init_logit_scale", "init_logit_bias", "cast_dtype", "output_dict"}

HUGGING_FACE_VISION = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 32,
}
HUGGING_FACE_TEXT = {
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": VOCABULARY,
}
LEGACY_EOS = (
    2  # early Hugging Face configs name a wrong end mark and their code then takes the largest id, as CLIP
)


def clip_config_from_open_clip(model: Mapping[str, Any], origin: str) -> ClipConfig:
    """The network's shape from open_clip's model configuration.

    Args:
        model: the "model_cfg" object: embed_dim, vision_cfg, text_cfg, quick_gelu.
        origin: name of its source, for messages.

    Raises:
        WeightsError: a field is missing, or needs something that the network of zsad does not have.
    """
    vision, text = (_section(model, name, origin) for name in ("vision_cfg", "text_cfg"))
    if vision.get("timm_model_name"):
        raise WeightsError(
            f"{origin}: the image encoder is timm's {vision['timm_model_name']}, not supported"
        )
    if text.get("hf_model_name"):
        raise WeightsError(f"{origin}: the text encoder is {text['hf_model_name']}, not supported")
    if model.get("multimodal_cfg"):
        raise WeightsError(f"{origin} is a CoCa model (multimodal_cfg), not supported")
    if isinstance(vision.get("layers"), list):
        raise WeightsError(f"{origin}: the image encoder is a ResNet, not supported: use a CLIP with a ViT")
    _refuse_unknown(model, MODEL_FIELDS | MODEL_IRRELEVANT, {}, origin, "model_cfg")
    _refuse_unknown(vision, VISION_FIELDS | VISION_IRRELEVANT, VISION_NEUTRAL, origin, "vision_cfg")
    _refuse_unknown(text, TEXT_FIELDS | TEXT_IRRELEVANT, TEXT_NEUTRAL, origin, "text_cfg")
    for name, section in (("vision_cfg", vision), ("text_cfg", text)):
        _check_mlp_ratio(_number(section, "mlp_ratio", f"{origin}: {name}", MLP_RATIO), f"{origin}: {name}")
    vision_width = _whole(vision, "width", origin, 768)
    config = ClipConfig(
        vision=VisionConfig(
            image_size=_whole(vision, "image_size", origin, 224),
            patch_size=_whole(vision, "patch_size", origin, 16),
            width=vision_width,
            layers=_whole(vision, "layers", origin, 12),
            heads=vision_width // _whole(vision, "head_width", origin, HEAD_WIDTH),
        ),
        text=TextConfig(
            width=_whole(text, "width", origin, 512),
            layers=_whole(text, "layers", origin, 12),
            heads=_whole(text, "heads", origin, 8),
            context_length=_whole(text, "context_length", origin, 77),
            vocab_size=_whole(text, "vocab_size", origin, VOCABULARY),
        ),
        embed_dim=_whole(model, "embed_dim", origin, None),
        activation="quick_gelu" if model.get("quick_gelu") else "gelu",
    )
    return _checked(config, origin)


def clip_config_from_hugging_face(config: Mapping[str, Any], origin: str) -> ClipConfig:
    """The network's shape from the config.json of a Hugging Face CLIPModel.

    Args:
        config: content of the file.
        origin: name of its source, for messages.

    Raises:
        WeightsError: another model type, or settings that the network of zsad does not have.
    """
    kind = config.get("model_type")
    if kind != "clip":
        raise WeightsError(f'{origin}: model_type is {kind!r}, expected "clip" (a CLIPModel)')
    # Fields equal to the library's defaults may be left out of the file.
    vision = {**HUGGING_FACE_VISION, **_section(config, "vision_config", origin)}
    text = {**HUGGING_FACE_TEXT, **_section(config, "text_config", origin)}
    for name, section in (("vision_config", vision), ("text_config", text)):
        where = f"{origin}: {name}"
        width = _whole(section, "hidden_size", where, None)
        inner = _whole(
            section, "intermediate_size", where, {"vision_config": 3072, "text_config": 2048}[name]
        )
        _check_mlp_ratio(inner / width, where)
        if not math.isclose(_number(section, "layer_norm_eps", where, 1e-5), 1e-5):
            raise WeightsError(
                f"{where}.layer_norm_eps is {section['layer_norm_eps']}, only 1e-5 is supported"
            )
    activations = {str(section.get("hidden_act", "quick_gelu")) for section in (vision, text)}
    if activations not in ({"quick_gelu"}, {"gelu"}):
        raise WeightsError(
            f"{origin}: hidden_act is {' and '.join(sorted(activations))}; "
            'supported is "quick_gelu" or "gelu", the same in both encoders'
        )
    vocab_size = _whole(text, "vocab_size", origin, VOCABULARY)
    if text.get("eos_token_id", LEGACY_EOS) not in (LEGACY_EOS, VOCABULARY - 1, vocab_size - 1):
        raise WeightsError(f"{origin}: end mark {text['eos_token_id']} is not that of CLIP's tokenizer")
    return _checked(
        ClipConfig(
            vision=VisionConfig(
                image_size=_whole(vision, "image_size", origin, 224),
                patch_size=_whole(vision, "patch_size", origin, None),
                width=_whole(vision, "hidden_size", origin, None),
                layers=_whole(vision, "num_hidden_layers", origin, None),
                heads=_whole(vision, "num_attention_heads", origin, None),
            ),
            text=TextConfig(
                width=_whole(text, "hidden_size", origin, None),
                layers=_whole(text, "num_hidden_layers", origin, None),
                heads=_whole(text, "num_attention_heads", origin, None),
                context_length=_whole(text, "max_position_embeddings", origin, 77),
                vocab_size=vocab_size,
            ),
            embed_dim=_whole(config, "projection_dim", origin, 512),
            activation="quick_gelu" if activations == {"quick_gelu"} else "gelu",
        ),
        origin,
    )


def _section(config: Mapping[str, Any], name: str, origin: str) -> dict[str, Any]:
    section = config.get(name)
    if not isinstance(section, Mapping):
        raise WeightsError(f'{origin} has no "{name}" object: is it the configuration of a CLIP?')
    return dict(section)


def _refuse_unknown(
    section: Mapping[str, Any], known: set[str], neutral: Mapping[str, Any], origin: str, name: str
) -> None:
    """Refuses a field that changes the computation in a way that the network of zsad cannot follow."""
    for field, value in section.items():
        if field not in known and value and value != neutral.get(field):
            raise WeightsError(f"{origin}: {name}.{field} = {shortened(value)} is not supported")


def _whole(section: Mapping[str, Any], field: str, origin: str, default: int | None) -> int:
    """A positive whole number of a section; a pair of equal numbers counts as one number."""
    value = section.get(field, default)
    if isinstance(value, list) and value and all(each == value[0] for each in value):
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise WeightsError(f"{origin}: {field} is {shortened(value)}, expected a positive whole number")
    return value


def _number(section: Mapping[str, Any], field: str, origin: str, default: float) -> float:
    value = section.get(field, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise WeightsError(f"{origin}: {field} is {shortened(value)}, expected a number")
    return float(value)


def _check_mlp_ratio(ratio: float, where: str) -> None:
    if ratio != MLP_RATIO:
        raise WeightsError(
            f"{where}: the MLPs are {ratio:g} times as wide as the encoder, only {MLP_RATIO} is supported"
        )


def _checked(config: ClipConfig, origin: str) -> ClipConfig:
    """The configuration, if its heads divide its widths and its tokens can be those of CLIP's tokenizer."""
    for what, encoder in (("image", config.vision), ("text", config.text)):
        if encoder.heads < 1 or encoder.width % encoder.heads:
            raise WeightsError(
                f"{origin}: the {what} encoder is {encoder.width} wide, "
                f"which {encoder.heads} attention heads cannot share equally"
            )
    if config.text.vocab_size > VOCABULARY:
        raise WeightsError(
            f"{origin}: a vocabulary of {config.text.vocab_size} tokens is not "
            f"that of CLIP's tokenizer ({VOCABULARY})"
        )
    return config
