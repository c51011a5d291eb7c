"""Builds backbones: `load_backbone`, zsad's own file layout, and the fingerprint that tells weights apart.

`sources.py` finds and reads weights, `state_dicts.py` and `configurations.py` translate what others publish,
`catalog.py` is the table of well-known weights, and `zsad.files.download` fetches files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save
from torch import Tensor
from torch.overrides import TorchFunctionMode

from zsad.backbones.catalog import backbone_records, is_available_offline, list_backbones
from zsad.backbones.clip import CLIP
from zsad.backbones.devices import check_device, check_precision
from zsad.backbones.sources import PACKAGED_CONFIG, Source, packaged_source, read_source
from zsad.backbones.state_dicts import clip_config_from_state_dict
from zsad.errors import WeightsError, unknown_name
from zsad.files.atomic import atomic_file
from zsad.files.cache import is_offline
from zsad.files.tensors import mismatches
from zsad.types import Activation, PositionInterpolation

__all__ = [
    "backbone_fingerprint",
    "backbone_records",
    "clip_config_from_state_dict",
    "is_available_offline",
    "list_backbones",
    "load_backbone",
    "read_packaged",
    "write_packaged",
]

# Small tensors that differ between any two trainings, for a quick fingerprint.
FINGERPRINT_NAMES = (
    "visual.class_embedding",
    "visual.ln_pre.weight",
    "visual.ln_post.weight",
    "visual.ln_post.bias",
    "positional_embedding",
    "ln_final.weight",
    "ln_final.bias",
    "logit_scale",
)


class NoInitialisation(TorchFunctionMode):
    """Skips the functions of `torch.nn.init`: on the meta device they have no effect, but cost a second."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls everything but the functions of `torch.nn.init`, whose result is the given tensor."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def load_backbone(
    name: str | Path | None = None,
    *,
    activation: Activation | None = None,
    position_interpolation: PositionInterpolation | None = None,
    device: str | torch.device | None = None,
    precision: str | torch.dtype | None = None,
    offline: bool | None = None,
) -> CLIP:
    """Loads a CLIP from any of the layouts in which CLIP weights are published.

    Args:
        name: None or "tiny": the weights in this package | a name of `list_backbones` | "hf-hub:ORG/REPO" or
            "hf-hub:ORG/REPO@REVISION" | "open_clip:ARCH/TAG" | a path: OpenAI's .pt, an open_clip file with
            its configuration beside it, or a folder of open_clip, Hugging Face or `write_packaged`.
        activation: activation of the MLPs; None for the one that the weights were trained with.
        position_interpolation: how the position table is resized; None for "bicubic_antialias".
        device: device of the weights; None for the CPU.
        precision: precision of the weights: "float32" (None), "float16", "bfloat16" or a torch dtype.
        offline: True never uses the network; None reads ZSAD_OFFLINE.

    Returns:
        The network with its `record`, frozen, in evaluation mode.

    Raises:
        ConfigError: an unknown name, activation, interpolation, device or precision.
        WeightsError: the weights are missing, damaged, unsupported, or not on this machine while offline.
        MissingExtraError: "open_clip:" without the package open_clip_torch.
    """
    if activation is not None and activation not in get_args(Activation):
        raise unknown_name("activation", activation, get_args(Activation))
    place, kind = check_device(device), check_precision(precision)
    source = read_source(name, activation, is_offline(offline))
    if activation is not None:
        source = dataclasses.replace(source, config=dataclasses.replace(source.config, activation=activation))
    return _build(source, position_interpolation, place, kind)


def _build(
    source: Source,
    position_interpolation: PositionInterpolation | None,
    device: torch.device,
    precision: torch.dtype,
) -> CLIP:
    """Builds the network around the tensors; it has no memory of its own, so that weights exist once."""
    _check_sizes(source)
    with torch.device("meta"), NoInitialisation():
        network = CLIP(source.config, source.record, position_interpolation or "bicubic_antialias")
    expected = network.state_dict()
    _check_fit(source, expected)
    if precision != torch.float32:
        network.exact_fingerprint = _fingerprint(source.tensors)
    tensors: dict[str, Tensor] = {}
    for name in expected:
        tensor = source.tensors.pop(name)
        tensors[name] = tensor.to(device, precision if tensor.is_floating_point() else None).contiguous()
    network.load_state_dict(tensors, assign=True)
    return network.requires_grad_(False).eval()


def _check_sizes(source: Source) -> None:
    """Refuses a configuration of a larger network than the tensors can fill, before it is built.

    Even without memory, a thousand million blocks or positions would take for ever. Sizes below those of the
    tensors are left to the comparison of names and shapes, which says more.

    Raises:
        WeightsError: naming the first such size, with what the tensors allow.
    """
    vision, text, tensors = source.config.vision, source.config.text, source.tensors
    sizes = [size for tensor in tensors.values() for size in tensor.shape]
    for field, given, most in (
        ("layers of the image encoder", vision.layers, len(tensors)),
        ("layers of the text encoder", text.layers, len(tensors)),
        ("patch positions (image_size, patch_size)", vision.grid**2, _rows(tensors, "visual.")),
        ("context_length", text.context_length, _rows(tensors, "")),
        *(
            (name, size or 0, max(sizes, default=0))
            for name, size in (
                ("width of the image encoder", vision.width),
                ("patch_size", vision.patch_size),
                ("width of the text encoder", text.width),
                ("vocab_size", text.vocab_size),
                ("embedding_rank", text.embedding_rank),
                ("embed_dim", source.config.embed_dim),
            )
        ),
    ):
        if given > most:
            raise WeightsError(
                f"the weights of {source.record.name} do not fit their configuration: "
                f"it asks for {given} {field}, and the tensors of the file allow at most {most}"
            )


def _rows(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Rows of a position table; 0 if there is none."""
    table = tensors.get(f"{prefix}positional_embedding")
    return 0 if table is None or not table.ndim else len(table)


def _check_fit(source: Source, expected: Mapping[str, Tensor]) -> None:
    """Refuses tensors that do not fit the configuration.

    Raises:
        WeightsError: naming up to five missing, unexpected and wrongly shaped ones.
    """
    wrong = mismatches(expected, source.tensors)
    if wrong:
        raise WeightsError(f"the weights of {source.record.name} do not fit their configuration: {wrong}")


def backbone_fingerprint(clip: CLIP) -> str:
    """Tells whether two backbones have the same weights, in a few milliseconds.

    It does not depend on device and precision: values are rounded to float16, and a backbone loaded in a
    lower precision keeps the fingerprint of its file.

    Args:
        clip: the network.

    Returns:
        SHA-256, hexadecimal, over the names and shapes of all tensors and the values of a few small ones.
    """
    return clip.exact_fingerprint or _fingerprint(clip.state_dict())


def _fingerprint(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)}\n".encode())
    for name in FINGERPRINT_NAMES:
        digest.update(tensors[name].detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_packaged(clip: CLIP, folder: str | Path) -> list[Path]:
    """Writes a backbone in zsad's own layout: config.json and weights in float16.

    Args:
        clip: the network; its `record` must be set. `bytes` and `sha256` of the record are filled in.
        folder: made if it is not there; its files are replaced.

    Returns:
        The two files.

    Raises:
        WeightsError: there is no record, or a value does not fit into float16.
    """
    if clip.record is None:
        raise WeightsError(
            "a backbone without record cannot be written: set clip.record, which says where it comes from"
        )
    tensors = {
        name: tensor.detach().to("cpu", torch.float16 if tensor.is_floating_point() else None).contiguous()
        for name, tensor in clip.state_dict().items()
    }
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise WeightsError(f"values of {', '.join(broken[:5])} are not finite in float16")
    folder = Path(folder)
    stem = re.sub(r"[^\w.-]+", "_", clip.record.name.rpartition("/")[2]).strip("_.") or "backbone"
    weights, card = folder / f"{stem}.safetensors", folder / PACKAGED_CONFIG
    data = save(tensors)
    record = dataclasses.replace(clip.record, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    content = {
        "weights": weights.name,
        "config": dataclasses.asdict(clip.config),
        "record": dataclasses.asdict(record),
    }
    # Renamed into place: a loaded backbone may still map the old file into memory.
    with atomic_file(weights) as file:
        file.write(data)
    with atomic_file(card) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
    return [card, weights]


def read_packaged(folder: str | Path) -> CLIP:
    """A backbone that `write_packaged` wrote, in float32 on the CPU.

    Args:
        folder: holds config.json and the weights.

    Raises:
        WeightsError: files are missing, damaged or contradict each other.
    """
    return _build(packaged_source(Path(folder)), None, torch.device("cpu"), torch.float32)
