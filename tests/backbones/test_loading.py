"""Backbones from files of every layout, written by the libraries that these layouts come from."""

from __future__ import annotations

import copy
import dataclasses
import http.client
import json
import math
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import zsad.backbones.catalog as records_module
import zsad.backbones.sources as sources_module
from zsad.backbones.clip import CLIP, ClipConfig, TextConfig, VisionConfig
from zsad.backbones.loading import (
    backbone_fingerprint,
    backbone_records,
    clip_config_from_state_dict,
    is_available_offline,
    list_backbones,
    load_backbone,
    read_packaged,
    write_packaged,
)
from zsad.errors import ConfigError, MissingExtraError, WeightsError
from zsad.types import WeightRecord

open_clip = pytest.importorskip("open_clip")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-5
VOCABULARY = 500
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Two heads of 64 in the image encoder, one in the text encoder, as OpenAI's rule of 64 a head wants it.
MODEL = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 28, "layers": 2, "width": 128, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": VOCABULARY, "width": 64, "heads": 1, "layers": 3},
}


def shake(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random values everywhere, also where a fresh network has neutral ones."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        around = 1.0 if "norm" in name.lower() or "layrnorm" in name or ".ln_" in name else 0.0
        spread = 0.5 * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
        with torch.no_grad():
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator) * spread + around * (parameter.ndim == 1)
            )
    return module.eval().requires_grad_(False)


def open_clip_model(quick_gelu: bool, custom_text: bool = False, **vision: Any) -> nn.Module:
    config = copy.deepcopy(MODEL)
    config["vision_cfg"].update(vision)
    kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    return shake(kind(**config, quick_gelu=quick_gelu))


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    token_ids = torch.zeros(3, 77, dtype=torch.long)
    for row, length in enumerate((3, 9, 77)):
        token_ids[row, :length] = torch.randint(1, VOCABULARY - 2, (length,), generator=generator)
        token_ids[row, length - 1] = VOCABULARY - 1  # the end mark has the largest id
    return torch.randn(2, 3, 28, 28, generator=generator), token_ids


@pytest.fixture
def same(inputs: tuple[Tensor, Tensor]) -> Callable[[CLIP, nn.Module], None]:
    """Compares both embeddings with those of an open_clip model."""

    def compare(clip: CLIP, reference: nn.Module) -> None:
        images, token_ids = inputs
        with torch.inference_mode():
            assert (clip.encode_image(images) - reference.encode_image(images)).abs().max() <= TOLERANCE
            assert (clip.encode_text(token_ids) - reference.encode_text(token_ids)).abs().max() <= TOLERANCE

    return compare


class Tokenizer:
    """What open_clip's saving function wants beside a model."""

    def save_pretrained(self, folder: Path) -> None:
        (Path(folder) / "tokenizer.json").write_text("{}")


def save_open_clip(model: nn.Module, folder: Path, config: dict[str, Any], kind: bool | str = True) -> Path:
    """Writes a repository as open_clip pushes it to the hub."""
    from open_clip.push_to_hf_hub import save_for_hf

    model.visual.image_mean, model.visual.image_std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    save_for_hf(model, Tokenizer(), config, str(folder), safe_serialization=kind)
    return folder


def openai_archive(path: Path, quick_gelu: bool = True) -> nn.Module:
    """Writes a TorchScript archive in half precision, as OpenAI publishes; returns the float32 model."""
    model = open_clip_model(quick_gelu).half()
    for name, value in (("input_resolution", 28), ("context_length", 77), ("vocab_size", VOCABULARY)):
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(value))
    example = (torch.zeros(1, 3, 28, 28).half(), torch.ones(1, 77, dtype=torch.long))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, example, check_trace=False).save(str(path))
    return model.float()


# --- OpenAI


def test_openai_archive(tmp_path: Path, same: Callable[[CLIP, nn.Module], None]) -> None:
    path = tmp_path / "ViT-small.pt"
    model = openai_archive(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip = load_backbone(path)
    same(clip, model)
    assert clip.config == ClipConfig(
        VisionConfig(28, 14, 128, 2, 2), TextConfig(64, 3, 1, 77, VOCABULARY), 48, "quick_gelu"
    )
    record = clip.record
    assert record is not None
    assert (record.activation, record.image_size, record.mean, record.std) == (
        "quick_gelu",
        28,
        CLIP_MEAN,
        CLIP_STD,
    )
    assert not clip.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in clip.parameters())


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.filterwarnings("ignore:.*treated as OpenAI's weights")
def test_openai_plain_state_dict(
    tmp_path: Path, wrapped: bool, same: Callable[[CLIP, nn.Module], None]
) -> None:
    model = open_clip_model(quick_gelu=True)
    state = {name: value.half() for name, value in model.state_dict().items()}
    torch.save({"state_dict": state} if wrapped else state, tmp_path / "a.pt")
    model.load_state_dict({name: value.float() for name, value in state.items()})
    same(load_backbone(str(tmp_path / "a.pt")), model)


def test_plain_state_dict_is_taken_for_openai_with_a_warning(tmp_path: Path) -> None:
    torch.save(open_clip_model(quick_gelu=True).state_dict(), tmp_path / "a.pt")
    with pytest.warns(UserWarning, match="treated as OpenAI's weights, with QuickGELU"):
        load_backbone(tmp_path / "a.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_backbone(tmp_path / "a.pt", activation="gelu").config.activation == "gelu"


def test_well_known_file_by_its_name(tmp_path: Path) -> None:
    """open_clip's release file says nothing of its GELU inside; the table knows it."""
    path = tmp_path / "vit_b_16_plus_240-laion400m_e32-699c4b84.pt"
    torch.save(open_clip_model(quick_gelu=False).state_dict(), path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_backbone(path).config.activation == "gelu"


def test_config_from_state_dict(tiny_state_dict: dict[str, Tensor]) -> None:
    config = clip_config_from_state_dict(tiny_state_dict, "gelu")
    assert config == ClipConfig(VisionConfig(56, 14, 128, 24, 2), TextConfig(64, 12, 1), 64, "gelu")


# --- open_clip


@pytest.mark.parametrize("kind", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_open_clip_folder(
    tmp_path: Path, kind: bool, custom_text: bool, quick_gelu: bool, same: Callable[[CLIP, nn.Module], None]
) -> None:
    model = open_clip_model(quick_gelu, custom_text)
    config = {**MODEL, "quick_gelu": quick_gelu, "custom_text": custom_text}
    clip = load_backbone(save_open_clip(model, tmp_path / "repo", config, kind))
    same(clip, model)
    assert clip.record is not None
    assert clip.record.activation == ("quick_gelu" if quick_gelu else "gelu")
    assert (clip.record.mean, clip.record.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_open_clip_head_width(tmp_path: Path, same: Callable[[CLIP, nn.Module], None]) -> None:
    model = open_clip_model(False, head_width=32)
    config = copy.deepcopy(MODEL)
    config["vision_cfg"]["head_width"] = 32
    clip = load_backbone(save_open_clip(model, tmp_path, config))
    assert clip.config.vision.heads == 4
    same(clip, model)


@pytest.mark.parametrize("config_name", ["open_clip_config.json", "model.json", "config.json"])
def test_open_clip_file_with_its_configuration_beside(
    tmp_path: Path, config_name: str, same: Callable[[CLIP, nn.Module], None]
) -> None:
    model = open_clip_model(False)
    torch.save(
        {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}},
        tmp_path / "model.bin",
    )
    (tmp_path / config_name).write_text(json.dumps(MODEL))
    same(load_backbone(tmp_path / "model.bin"), model)


def test_open_clip_file_without_configuration(
    tmp_path: Path, same: Callable[[CLIP, nn.Module], None]
) -> None:
    model = open_clip_model(False)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(
        WeightsError, match=r"does not state its activation: put its open_clip_config\.json beside it"
    ):
        load_backbone(tmp_path / "model.safetensors")
    same(load_backbone(tmp_path / "model.safetensors", activation="gelu"), model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_cfg": {"timm_model_name": "convnext_base"}}, "timm's convnext_base"),
        ({"vision_cfg": {"layers": [3, 4, 6, 3]}}, "a ResNet"),
        ({"vision_cfg": {"attentional_pool": True}}, "vision_cfg.attentional_pool = True is not supported"),
        ({"vision_cfg": {"no_ln_pre": True}}, "vision_cfg.no_ln_pre = True"),
        ({"vision_cfg": {"pool_type": "avg"}}, "vision_cfg.pool_type = 'avg'"),
        ({"vision_cfg": {"mlp_ratio": 4.9231}}, "4.9231 times as wide"),
        ({"vision_cfg": {"ls_init_value": 1e-4}}, "vision_cfg.ls_init_value"),
        ({"vision_cfg": {"something_new": 3}}, "vision_cfg.something_new = 3"),
        ({"vision_cfg": {"image_size": [28, 56]}}, "image_size is"),
        ({"vision_cfg": {"width": "wide"}}, "width is 'wide', expected a positive whole number"),
        ({"text_cfg": {"hf_model_name": "roberta-base"}}, "the text encoder is roberta-base"),
        ({"text_cfg": {"hf_tokenizer_name": "bert-base-uncased"}}, "text_cfg.hf_tokenizer_name"),
        ({"text_cfg": {"vocab_size": 64000}}, "64000 tokens is not that of CLIP's tokenizer"),
        ({"text_cfg": {"no_causal_mask": True}}, "text_cfg.no_causal_mask"),
        ({"text_cfg": {"proj_bias": True}}, "text_cfg.proj_bias"),
        ({"multimodal_cfg": {"width": 64}}, "CoCa"),
        ({"embed_dim": None}, "embed_dim is None"),
        ({"text_cfg": None}, 'no "text_cfg" object'),
        ({"text_cfg": {"layers": 2}}, "do not fit their configuration: unexpected: transformer.resblocks.2"),
        ({"embed_dim": 47}, r"wrong shape: .*visual.proj \(128, 48\) instead of \(128, 47\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_open_clip_unsupported(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    config = copy.deepcopy(MODEL)
    for key, value in changes.items():
        if isinstance(value, dict) and key in config:
            config[key].update(value)
        else:
            config[key] = value
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    save_file(open_clip_model(False).state_dict(), tmp_path / "open_clip_model.safetensors")
    with pytest.raises(WeightsError, match=message):
        load_backbone(tmp_path)


def test_supported_architectures_of_open_clip() -> None:
    names = sources_module._supported(open_clip)
    assert {"ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-B-16-plus-240", "ViT-H-14"} <= set(names)
    assert not {"RN50", "coca_ViT-B-32", "ViT-B-16-SigLIP", "roberta-ViT-B-32", "convnext_base"} & set(names)


def register(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **entry: Any) -> None:
    """Adds the small architecture and one tag "here" to open_clip's tables, for one test."""
    from open_clip import factory, pretrained

    monkeypatch.setitem(factory._MODEL_CONFIGS, "ViT-small", copy.deepcopy(MODEL))
    monkeypatch.setitem(
        pretrained._PRETRAINED, "ViT-small", {"here": {"mean": CLIP_MEAN, "std": CLIP_STD, **entry}}
    )


def test_open_clip_tag_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: Callable[[CLIP, nn.Module], None]
) -> None:
    model = open_clip_model(True)
    folder = save_open_clip(model, tmp_path / "repo", MODEL)
    register(monkeypatch, tmp_path, hf_hub="timm/vit_small/", quick_gelu=True)
    monkeypatch.setattr(sources_module, "hub_file", hub_of({"timm/vit_small": folder}))
    clip = load_backbone("open_clip:ViT-small/here")
    same(clip, model)
    assert clip.record is not None
    assert (clip.record.activation, clip.record.source) == ("quick_gelu", "hf-hub:timm/vit_small")


def test_open_clip_tag_from_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: Callable[[CLIP, nn.Module], None]
) -> None:
    model = open_clip_model(False)
    torch.save(model.state_dict(), tmp_path / "vit-8fb26589.pt")
    url = "https://github.com/mlfoundations/open_clip/releases/download/v0.2-weights/vit-8fb26589.pt"
    register(monkeypatch, tmp_path, url=url)
    asked = []

    def fetch(url: str, sha256: str | None, offline: bool) -> Path:
        asked.append((url, sha256))
        return tmp_path / "vit-8fb26589.pt"

    monkeypatch.setattr(sources_module, "download", fetch)
    clip = load_backbone("open_clip:ViT-small/here")
    same(clip, model)
    assert clip.config.activation == "gelu"
    assert asked == [(url, "8fb26589")]


def test_open_clip_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="not of the form open_clip:ARCH/TAG"):
        load_backbone("open_clip:ViT-B-16")
    with pytest.raises(
        ConfigError, match="unknown open_clip architecture 'ViT-B-17', did you mean 'ViT-B-16'"
    ):
        load_backbone("open_clip:ViT-B-17/openai")
    with pytest.raises(
        ConfigError, match="unknown open_clip tag of ViT-B-16 'openia', did you mean 'openai'"
    ):
        load_backbone("open_clip:ViT-B-16/openia")
    with pytest.raises(WeightsError, match="a ResNet"):
        load_backbone("open_clip:RN50/openai")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'zsad\[open-clip\]'"):
        load_backbone("open_clip:ViT-B-16/openai")


# --- Hugging Face


def hugging_face_model(hidden_act: str = "quick_gelu") -> nn.Module:
    config = transformers.CLIPConfig(
        text_config={
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "vocab_size": VOCABULARY,
            "eos_token_id": VOCABULARY - 1,
            "hidden_act": hidden_act,
        },
        vision_config={
            "hidden_size": 96,
            "intermediate_size": 384,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "image_size": 28,
            "patch_size": 14,
            "hidden_act": hidden_act,
        },
        projection_dim=48,
    )
    return shake(transformers.CLIPModel(config))


def assert_same_as_hugging_face(clip: CLIP, model: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
    images, token_ids = inputs
    with torch.inference_mode():
        image = model.visual_projection(model.vision_model(images).pooler_output)
        text = model.text_projection(model.text_model(token_ids).pooler_output)
        assert (clip.encode_image(images) - image).abs().max() <= TOLERANCE
        assert (clip.encode_text(token_ids) - text).abs().max() <= TOLERANCE
        assert math.isclose(clip.logit_scale, model.logit_scale)


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("form", ["whole", "shards", "bin", "file"])
def test_hugging_face(tmp_path: Path, hidden_act: str, form: str, inputs: tuple[Tensor, Tensor]) -> None:
    model = hugging_face_model(hidden_act)
    model.save_pretrained(tmp_path, **({"max_shard_size": "300KB"} if form == "shards" else {}))
    assert (tmp_path / "model.safetensors.index.json").exists() == (form == "shards")
    if form == "bin":
        # Older files also hold the positions' numbers as buffers.
        state = load_file(tmp_path / "model.safetensors")
        state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        torch.save(state, tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    if form == "file":
        (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    clip = load_backbone(tmp_path / "other.safetensors" if form == "file" else tmp_path)
    assert_same_as_hugging_face(clip, model, inputs)
    assert clip.record is not None
    assert clip.record.activation == hidden_act
    assert (clip.config.vision.heads, clip.config.text.heads) == (3, 2)


def test_hugging_face_preprocessing(tmp_path: Path) -> None:
    hugging_face_model().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.1, 0.2, 0.3]})
    )
    record = load_backbone(tmp_path).record
    assert record is not None
    assert (record.mean, record.std, record.image_size) == ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3), 28)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": 0.5}))
    with pytest.raises(WeightsError, match=r"image_mean is 0\.5, expected three numbers"):
        load_backbone(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "siglip"}, "model_type is 'siglip', expected \"clip\""),
        ({"vision_config": {"hidden_act": "relu"}}, "hidden_act is quick_gelu and relu"),
        ({"text_config": {"hidden_act": "gelu"}}, "the same in both encoders"),
        ({"text_config": {"layer_norm_eps": 1e-6}}, "text_config.layer_norm_eps is 1e-06"),
        ({"text_config": {"intermediate_size": 128}}, "text_config: the MLPs are 2 times as wide"),
        ({"text_config": {"eos_token_id": 7}}, "end mark 7"),
        ({"text_config": {"vocab_size": 64000, "eos_token_id": 2}}, "64000 tokens"),
        ({"projection_dim": 32}, "wrong shape"),
        ({"vision_config": {"num_hidden_layers": 3}}, "missing: visual.transformer.resblocks.2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hugging_face_unsupported(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    hugging_face_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=message):
        load_backbone(tmp_path)


def test_hugging_face_vision_encoder_alone(tmp_path: Path) -> None:
    hugging_face_model().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in state.items() if not k.startswith("text")}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"one encoder of a CLIP \(no text_projection\.weight\)"):
        load_backbone(tmp_path)


def test_index_that_leaves_its_folder(tmp_path: Path) -> None:
    hugging_face_model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    index = {"weight_map": {"logit_scale": "../secret.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="names a file outside its folder"):
        load_backbone(tmp_path)


# --- the hub


def hub_of(folders: dict[str, Path]) -> Callable[..., Path | None]:
    """A hub whose repositories are folders here."""

    def hub_file(
        repository: str, filename: str, revision: str | None = None, *, offline: bool
    ) -> Path | None:
        path = folders[f"{repository}@{revision}" if revision else repository] / filename
        return path if path.is_file() else None

    return hub_file


def test_hub_repositories(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    inputs: tuple[Tensor, Tensor],
    same: Callable[[CLIP, nn.Module], None],
) -> None:
    model = open_clip_model(True)
    hugging_face = hugging_face_model()
    hugging_face.save_pretrained(tmp_path / "b")
    folders = {
        "laion/a": save_open_clip(model, tmp_path / "a", {**MODEL, "quick_gelu": True}),
        "openai/b@v1": tmp_path / "b",
    }
    monkeypatch.setattr(sources_module, "hub_file", hub_of(folders))
    same(load_backbone("hf-hub:laion/a"), model)
    clip = load_backbone("hf-hub:openai/b@v1")
    assert_same_as_hugging_face(clip, hugging_face, inputs)
    assert clip.record is not None
    assert clip.record.name == "hf-hub:openai/b@v1"


def test_hub_names() -> None:
    for name in ("hf-hub:", "hf-hub:clip", "hf-hub:a/b/c", "hf-hub:a b/c"):
        with pytest.raises(ConfigError, match="not of the form hf-hub:ORG/REPO"):
            load_backbone(name)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(http.client.HTTPConnection, "connect", refuse)
    monkeypatch.setenv("ZSAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("zsad.files.cache.OTHER_CACHES", ())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("by", ["argument", "environment"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-L-14-336", r"ViT-L-14-336px\.pt is not in the cache .*put it at .*ViT-L-14-336px\.pt"),
        ("ViT-L/14@336px", r"ViT-L-14-336px\.pt is not in the cache"),
        (
            "ViT-B-16-plus-240",
            "not completely in the Hugging Face cache .*hf download timm/vit_base_patch16_plus_clip_240",
        ),
        ("hf-hub:openai/clip-vit-base-patch16", "hf download openai/clip-vit-base-patch16"),
        ("open_clip:ViT-B-16/laion2b_s34b_b88k", "not completely in the Hugging Face cache"),
    ],
)
def test_offline_never_touches_the_network(
    monkeypatch: pytest.MonkeyPatch, by: str, name: str, message: str
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("ZSAD_OFFLINE", "1" if by == "environment" else "0")
    with pytest.raises(WeightsError, match=message):
        load_backbone(name, offline=True if by == "argument" else None)


# --- names, files that are no backbones


def test_listing_does_not_import_torch() -> None:
    code = "import sys, zsad.backbones.catalog as r; r.list_backbones(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_list_backbones() -> None:
    names = list_backbones()
    assert names[:6] == ["tiny", "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-B-16-plus-240"]
    assert all(
        record.sha256 is not None and record.sha256 in record.source
        for record in records_module.WELL_KNOWN
        if "openaipublic" in record.source
    )


@pytest.mark.parametrize("name", ["ViT-L-14-335", "resnet", ""])
def test_unknown_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"unknown backbone .*hf-hub:ORG/REPO.*open_clip:ARCH/TAG.*tiny"):
        load_backbone(name)


@pytest.mark.parametrize("name", ["none.pt", "folder/none", Path("none")])
def test_missing_paths(name: str | Path) -> None:
    with pytest.raises(WeightsError, match="no such file or folder"):
        load_backbone(name)


def state_of(**names: tuple[int, ...]) -> dict[str, Tensor]:
    return {name.replace("__", "."): torch.zeros(shape) for name, shape in names.items()}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            state_of(conv1__weight=(2, 2), fc__bias=(2,)),
            r"is not a CLIP \(its tensors are conv1\.weight, fc\.bias",
        ),
        (
            state_of(visual__conv1__weight=(2, 2), visual__layer1__0__conv1__weight=(2, 2)),
            "a ResNet image encoder",
        ),
        (state_of(visual__trunk__patch_embed__proj__weight=(2, 2)), "a timm image encoder"),
        (state_of(visual__conv1__weight=(2, 2), visual__ln_pre__weight=(2,)), "no text encoder"),
        (state_of(visual__conv1__weight=(2, 2), token_embedding__weight=(2, 2)), "no_ln_pre"),
        (state_of(vision_model__head__attention__in_proj_weight=(2, 2)), "a SigLIP model"),
        (
            state_of(
                visual__conv1__weight=(64, 3, 4, 4),
                visual__ln_pre__weight=(64,),
                token_embedding__weight=(9, 64),
            ),
            r"visual\.positional_embedding is missing",
        ),
        (
            state_of(
                visual__conv1__weight=(64, 3, 4, 4),
                visual__ln_pre__weight=(64,),
                token_embedding__weight=(9, 64),
                visual__positional_embedding=(4, 64),
            ),
            "3 patch positions are not a square grid",
        ),
        (
            state_of(
                visual__conv1__weight=(40, 3, 4, 4),
                visual__ln_pre__weight=(40,),
                token_embedding__weight=(9, 64),
                visual__positional_embedding=(5, 40),
                positional_embedding=(77, 64),
                text_projection=(64, 8),
            ),
            "the image encoder is 40 wide, so its heads are not OpenAI's of 64",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_of_other_networks(tmp_path: Path, state: dict[str, Tensor], message: str) -> None:
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=message):
        load_backbone(tmp_path / "a.pt", activation="quick_gelu")


def test_incomplete_state_dict(tmp_path: Path) -> None:
    state = open_clip_model(True).state_dict()
    del state["visual.ln_post.bias"]
    state["extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"missing: visual\.ln_post\.bias; unexpected: extra"):
        load_backbone(tmp_path / "a.pt", activation="quick_gelu")


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"neither open_clip_config\.json nor config\.json"):
        load_backbone(tmp_path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL}))
    with pytest.raises(WeightsError, match=r"has none of the weight files open_clip_model\.safetensors"):
        load_backbone(tmp_path)
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(WeightsError, match="is not JSON"):
        load_backbone(tmp_path)
    (tmp_path / "open_clip_config.json").write_text("[]")
    with pytest.raises(WeightsError, match="expected a JSON object, got list"):
        load_backbone(tmp_path)


# --- what is built


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "ViT-small.pt"
    openai_archive(path)
    return path


def test_overrides(archive: Path) -> None:
    clip = load_backbone(archive, activation="gelu", position_interpolation="bilinear")
    assert (clip.config.activation, clip.position_interpolation) == ("gelu", "bilinear")
    assert load_backbone(archive).position_interpolation == "bicubic_antialias"
    for argument in ("activation", "position_interpolation", "precision"):
        with pytest.raises(ConfigError, match=argument.replace("_", "[_ ]")):
            load_backbone(archive, **{argument: "nothing"})
    with pytest.raises(ConfigError, match=r"device 'tpu' is not available here .*; available: cpu"):
        load_backbone(archive, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device 'cuda' is not available here"):
            load_backbone(archive, device="cuda")


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("bfloat16", torch.bfloat16),
        ("fp16", torch.float16),
        (torch.float32, torch.float32),
        (None, torch.float32),
    ],
)
def test_precision(archive: Path, precision: str | torch.dtype | None, dtype: torch.dtype) -> None:
    clip = load_backbone(archive, precision=precision)
    assert {parameter.dtype for parameter in clip.parameters()} == {dtype}


def test_nothing_is_left_on_the_meta_device(archive: Path) -> None:
    clip = load_backbone(archive)
    assert not any(tensor.is_meta for tensor in [*clip.parameters(), *clip.buffers()])


def test_fingerprint(archive: Path) -> None:
    clip = load_backbone(archive)
    fingerprint = backbone_fingerprint(clip)
    assert len(fingerprint) == 64
    for precision in ("float16", "bfloat16"):
        assert backbone_fingerprint(load_backbone(archive, precision=precision)) == fingerprint
    assert backbone_fingerprint(load_backbone(archive, activation="gelu")) == fingerprint
    clip.visual.ln_post.bias.add_(0.1)
    assert backbone_fingerprint(clip) != fingerprint


# --- zsad's own layout

RECORD = WeightRecord(
    name="tiny",
    source="package:tiny/tiny.safetensors",
    image_size=32,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.2, 0.2),
    activation="gelu",
    licence="Apache-2.0",
    notes="test",
)


@pytest.fixture
def small() -> CLIP:
    """As `tiny` is: heads that are not 64 wide, a factorised token table, all values exact in float16."""
    torch.manual_seed(0)
    config = ClipConfig(VisionConfig(32, 8, 48, 2, 3), TextConfig(24, 2, 2, 77, VOCABULARY, 8), 16, "gelu")
    clip = CLIP(config, RECORD)
    return shake(clip.half().float())


def test_packaged_round_trip(tmp_path: Path, small: CLIP) -> None:
    small.load_state_dict({name: value.half().float() for name, value in small.state_dict().items()})
    card, weights = write_packaged(small, tmp_path / "new" / "tiny")
    assert (card.name, weights.name) == ("config.json", "tiny.safetensors")
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float16}
    for clip in (read_packaged(card.parent), load_backbone(card.parent)):
        assert clip.config == small.config
        assert clip.record is not None
        assert clip.record == dataclasses.replace(RECORD, bytes=clip.record.bytes, sha256=clip.record.sha256)
        assert clip.record.bytes == weights.stat().st_size
        for name, tensor in small.state_dict().items():
            assert torch.equal(clip.state_dict()[name], tensor)
    assert sorted(path.name for path in card.parent.iterdir()) == ["config.json", "tiny.safetensors"]


def test_packaged_is_the_default(tmp_path: Path, small: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    write_packaged(small, tmp_path / "tiny")
    for module in (sources_module, records_module):
        monkeypatch.setattr(module, "PACKAGE_FOLDER", tmp_path)
    for name in (None, "tiny"):
        assert backbone_fingerprint(load_backbone(name)) == backbone_fingerprint(
            read_packaged(tmp_path / "tiny")
        )
    records = backbone_records()
    assert [record.name for record in records] == list_backbones()
    assert is_available_offline(records[0])
    shutil.rmtree(tmp_path / "tiny")
    assert not is_available_offline(records[0])
    with pytest.raises(WeightsError, match="the package's own weights are missing"):
        load_backbone()


@pytest.mark.usefixtures("no_network")
def test_nothing_else_is_available_offline() -> None:
    assert not any(is_available_offline(record) for record in records_module.WELL_KNOWN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"record": None}, 'has no "record" object'),
        ({"record": {"name": "tiny"}}, '"record": source is missing'),
        ({"record": {**dataclasses.asdict(RECORD), "colour": 1}}, '"record": colour is unknown'),
        ({"config": None}, '"config" does not describe a backbone'),
        ({"config": {"vision": {}, "text": {}}}, '"config" does not describe a backbone'),
        ({"weights": "../other.safetensors"}, "must name a file of the same folder"),
        ({"weights": "other.safetensors"}, "has none of the weight files other.safetensors"),
    ],
)
def test_packaged_damaged(tmp_path: Path, small: CLIP, changes: dict[str, Any], message: str) -> None:
    card, _ = write_packaged(small, tmp_path)
    card.write_text(json.dumps({**json.loads(card.read_text()), **changes}))
    with pytest.raises(WeightsError, match=message):
        load_backbone(tmp_path)


def test_packaged_refuses_what_it_cannot_keep(tmp_path: Path, small: CLIP) -> None:
    small.record = None
    with pytest.raises(WeightsError, match="without record"):
        write_packaged(small, tmp_path)
    small.record = RECORD
    small.visual.proj.fill_(1e6)
    with pytest.raises(WeightsError, match=r"values of visual\.proj are not finite in float16"):
        write_packaged(small, tmp_path)
    with pytest.raises(WeightsError, match="no folder that zsad wrote"):
        read_packaged(tmp_path)


# --- hostile configurations


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_open_clip(open_clip_model(True), tmp_path_factory.mktemp("published"), MODEL)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("vision_cfg", {"image_size": 100_002}, "patch positions"),
        ("vision_cfg", {"image_size": 10**9}, "patch positions"),
        ("vision_cfg", {"layers": 10**9}, "asks for 1000000000 layers of the image encoder"),
        ("vision_cfg", {"width": 64 * 10**12}, "width of the image encoder"),
        ("vision_cfg", {"patch_size": 10**12, "image_size": 10**12}, "patch_size"),
        ("vision_cfg", {"head_width": 10**9}, "0 attention heads cannot share"),
        ("vision_cfg", {"mlp_ratio": "four"}, "mlp_ratio is 'four', expected a number"),
        ("vision_cfg", {"layers": [[2], [2]]}, "ResNet"),
        ("vision_cfg", {"patch_size": [{}, {}]}, "patch_size is"),
        ("text_cfg", {"layers": 10**9}, "asks for 1000000000 layers of the text encoder"),
        (
            "text_cfg",
            {"context_length": 10**9},
            "context_length, and the tensors of the file allow at most 77",
        ),
        ("text_cfg", {"heads": 7}, "64 wide, which 7 attention heads cannot share"),
        ("text_cfg", {"width": float("nan")}, "model_cfg.text_cfg.width must be a number, got nan"),
        ("text_cfg", {"width": "64"}, "width is '64', expected a positive whole number"),
        (None, {"embed_dim": 10**15}, "embed_dim"),
        (None, {"text_cfg": []}, 'has no "text_cfg" object'),
    ],
)
def test_sizes_are_bounded_by_the_tensors(
    tmp_path: Path, published: Path, part: str | None, changes: dict[str, Any], message: str
) -> None:
    folder = shutil.copytree(published, tmp_path / "copy")
    model = copy.deepcopy(MODEL)
    (model[part] if part else model).update(changes)  # type: ignore[attr-defined]
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    with pytest.raises(WeightsError) as caught:
        load_backbone(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("std", [[0.1, 0, 0.1], ["0.1", "0.1", "0.1"], [True, True, True], 3, {}, [0.1, 0.1]])
def test_colours_of_a_configuration_are_checked(tmp_path: Path, published: Path, std: Any) -> None:
    folder = shutil.copytree(published, tmp_path / "copy")
    config = {"model_cfg": MODEL, "preprocess_cfg": {"std": std}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"std is .*expected three numbers"):
        load_backbone(folder)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("vision_config", {"intermediate_size": "3072"}, "vision_config: intermediate_size is '3072'"),
        ("text_config", {"layer_norm_eps": "small"}, "text_config: layer_norm_eps is 'small'"),
        ("text_config", {"hidden_act": ["gelu"]}, "hidden_act is"),
        ("text_config", {"eos_token_id": [2]}, "end mark"),
    ],
)
def test_types_of_hugging_face_are_checked(
    tmp_path: Path, section: str, changes: dict[str, Any], message: str
) -> None:
    widths = {"hidden_size": 64, "intermediate_size": 256}
    config: dict[str, Any] = {"model_type": "clip", "vision_config": {**widths}, "text_config": {**widths}}
    config[section].update(changes)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=message):
        load_backbone(tmp_path)


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("vision", "layers", 10**9, "layers of the image encoder"),
        ("vision", "image_size", 10**9, "patch positions"),
        ("vision", "image_size", "32", r"vision\.image_size must be a whole number at least 1, got '32'"),
        ("text", "heads", 0, r"text\.heads must be a whole number at least 1, got 0"),
        ("text", "embedding_rank", 10**12, "embedding_rank"),
        ("text", "width", None, r"text\.width must be"),
    ],
)
def test_sizes_of_our_own_layout_are_checked(
    tmp_path: Path, small: CLIP, part: str, field: str, value: Any, message: str
) -> None:
    card, _ = write_packaged(small, tmp_path)
    content = json.loads(card.read_text())
    content["config"][part][field] = value
    card.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=message):
        load_backbone(tmp_path)


def test_an_index_of_other_things_than_files(tmp_path: Path) -> None:
    config = {"model_type": "clip", "vision_config": {}, "text_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": ["b"], "c": 3}}))
    with pytest.raises(WeightsError, match=r"weight_map\.a must be the name of a file, got \['b'\]"):
        load_backbone(tmp_path)
