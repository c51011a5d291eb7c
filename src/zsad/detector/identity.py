"""Says what scores depend on: settings, digest of the weights, fingerprints of images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zsad.files.plain import to_plain

if TYPE_CHECKING:
    from torch import Tensor

    from zsad.images.looking import Looking
    from zsad.methods.base import Method

SHORT_DIGITS = 16
"""Hexadecimal digits of a short digest: 64 bits, enough to tell a user's images and weights apart."""


def weights_digest(fingerprint: str, learned: Mapping[str, Tensor]) -> str:
    """SHA-256 of the backbone's weights and of everything that was learnt, in hexadecimal digits.

    Args:
        fingerprint: digest of the backbone's weights, from `zsad.backbones.loading.backbone_fingerprint`.
        learned: learnt tensors by name, from `Method.learned_state`.
    """
    digest = hashlib.sha256(fingerprint.encode())
    for name, tensor in sorted(learned.items()):
        digest.update(name.encode() + tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def image_fingerprint(pixels: NDArray[np.uint8]) -> str:
    """A short digest of the content of an image, equal for copies of it in any lossless format.

    Args:
        pixels: (H, W, 3) uint8 RGB, upright, from `zsad.images.reading.read_image`.

    Returns:
        16 hexadecimal digits of SHA-256.

    Example:
        >>> image_fingerprint(np.zeros((2, 2, 3), dtype=np.uint8))
        '93d26e15f25c3432'
    """
    digest = hashlib.sha256(str(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()[:SHORT_DIGITS]


def learned_versions(method: Method) -> tuple[tuple[int, int], ...]:
    """A value that changes whenever a learnt tensor is written or replaced; no tensor is read for it.

    PyTorch counts the writes of optimisers, of `copy_` and of all other in-place operations on a tensor. It
    does not count writes through `tensor.data`.

    Returns:
        Address and number of writes of each learnt tensor.
    """
    tensors = [parameter for _, parameter in method.trainable()]
    return tuple((each.data_ptr(), 0 if each.is_inference() else each._version) for each in tensors)


def scoring_settings(
    method: Method,
    looking: Looking,
    fingerprint: str,
    references: Sequence[str],
    *,
    are_turned: bool = False,
    reference_rule: int | None = None,
    is_lone: bool = False,
) -> dict[str, Any]:
    """Everything that scores depend on, as plain JSON values.

    Args:
        method: method with its backbone and its settings.
        looking: how images are read, cut and prepared.
        fingerprint: digest of the backbone's weights, before they are rounded to another precision.
        references: fingerprints of the reference images.
        are_turned: whether references also count turned and flipped.
        reference_rule: edition of the general rule, which references follow; None without any.
        is_lone: whether each image is scored by itself although the method compares the images of a batch.

    Returns:
        `method`, `backbone`, `image_size`, `precision`, `config` (settings of the method), `references`,
        `weights` (short digest of the backbone and of everything that was learnt), `bits`, `tile` and, if
        there is one, `roi`, `augment_references` if references are turned, `reference_rule` if there is one,
        and `companions`, "none", if `is_lone`.
    """
    backbone = method.backbone
    return {
        **({"companions": "none"} if is_lone else {}),
        "method": method.INFO.name,
        "backbone": backbone.record.name if backbone.record else None,
        "image_size": int(looking.preparation.size),
        "precision": str(backbone.text_projection.dtype).removeprefix("torch."),
        "config": to_plain(method.config),
        "references": list(references),
        "weights": weights_digest(fingerprint, method.learned_state())[:SHORT_DIGITS],
        "bits": looking.bits,
        "tile": looking.tile,
        **({} if looking.roi is None else {"roi": looking.roi.identity}),
        **({"augment_references": True} if are_turned else {}),
        **({} if reference_rule is None else {"reference_rule": reference_rule}),
    }
