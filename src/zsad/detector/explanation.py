"""Ranks phrases by how well they describe the anomalous region of an image; `Prediction.explain` calls it.

Patches and phrases are compared in CLIP's joint space. Patches come from the value-value stream of the image
encoder (CLIP Surgery, 2304.05653; AnomalyCLIP, 2310.18961), whose tokens describe their own place; the last
patch tokens of plain CLIP mostly do not. A phrase becomes the mean vector of WinCLIP's prompt templates.

Two subtractions remove what is not specific to the defect. The prompts about a normal object are subtracted
from the phrase, because every prompt with the class name resembles the object. The rest of the image is
subtracted from the region, because some phrases resemble any patch. With r and n the mean patch vectors of
region and rest, t_p and t_0 the text vectors of the phrase and of the normal object, the result is

    similarity(p) = r . t_p - r . t_0 - (n . t_p - n . t_0) = (r - n) . (t_p - t_0)

This contrast is not from a paper.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zsad.errors import ConfigError
from zsad.images.preparing import Preparation, prepare
from zsad.methods.base import DEFAULT_CLASS
from zsad.methods.functional.patches import first_value_value_layer, value_value_features
from zsad.methods.prompts.templates import NORMAL_STATES, WINCLIP_TEMPLATES, average_vector, compose, state_of
from zsad.types import PhraseFit, Prediction

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

MOST_VECTORS_KEPT = 1024


def phrase_similarity(
    patch_features: Tensor, weights: Tensor, phrase_vectors: Tensor, normal_vector: Tensor
) -> Tensor:
    """The contrast between region and rest of the image in how much they resemble each phrase.

    Args:
        patch_features: (N, E) patches in the joint space, not normalised.
        weights: (N,) in [0, 1], share of each patch that belongs to the region; not all 0. If all are 1,
            there is no rest and nothing is subtracted for it.
        phrase_vectors: (P, E) text vectors of length 1.
        normal_vector: (E,) text vector of the normal object, of length 1.

    Returns:
        (P,) similarities in [-4, 4] by the formula at the top of this module.

    Example:
        >>> patches = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> phrases = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> phrase_similarity(patches, torch.tensor([1.0, 0.0]), phrases, torch.tensor([0.0, 1.0]))
        tensor([2., 0.])
    """
    patches = F.normalize(patch_features, dim=-1)
    contrast = weights @ patches / weights.sum()
    rest = 1 - weights
    if rest.any():
        contrast = contrast - rest @ patches / rest.sum()
    return (phrase_vectors - normal_vector) @ contrast


def region_weights(prediction: Prediction, region: NDArray[Any] | None, grid: int) -> Tensor:
    """The share of each patch that belongs to the anomalous region.

    Args:
        prediction: prediction for the image.
        region: region as `Prediction.explain` takes it; None for the region that the prediction found.
        grid: G, number of patches a side.

    Returns:
        (G * G,) float32 in [0, 1], mean of the region over the pixels of each patch.

    Raises:
        ConfigError: the region has another shape than the image, is empty, or has values outside [0, 1].
    """
    values = _found_region(prediction) if region is None else _checked_region(prediction, np.asarray(region))
    pixels = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    return F.adaptive_avg_pool2d(pixels[None, None], grid).flatten().clamp(0, 1)


class RegionRanker:
    """Ranks phrases by how well they fit the anomalous region of a prediction, and keeps their text vectors.

    Pickling or deep-copying a ranker gives None, so that predictions stay plain results.
    """

    def __init__(self, backbone: CLIP, image_size: int) -> None:
        self._backbone = backbone
        self._image_size = image_size
        self._kept: OrderedDict[tuple[str, ...], Tensor] = OrderedDict()
        self._lock = threading.Lock()  # predictions may be explained in several threads

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

    @torch.inference_mode()
    def __call__(
        self, prediction: Prediction, phrases: Sequence[str], region: NDArray[Any] | None
    ) -> list[PhraseFit]:
        """The phrases with their fit, best first; equally good phrases keep the given order.

        Args:
            prediction: prediction for the image.
            phrases: phrases as `Prediction.explain` takes them.
            region: region as `Prediction.explain` takes it.

        Raises:
            ConfigError: a phrase or the region is impossible.
        """
        checked = checked_phrases(phrases)
        name = prediction.class_name or DEFAULT_CLASS
        grid = self._image_size // self._backbone.config.vision.patch_size
        weights = region_weights(prediction, region, grid).to(self._backbone.text_projection.device)
        vectors = torch.stack([self._vector((state_of(phrase),), name) for phrase in checked])
        similarity = phrase_similarity(
            self._patches(prediction.image), weights, vectors, self._vector(NORMAL_STATES, name)
        )
        share = torch.softmax(similarity * self._backbone.logit_scale.float().exp(), dim=0)
        rows = [PhraseFit(*row) for row in zip(checked, similarity.tolist(), share.tolist(), strict=True)]
        return sorted(rows, key=lambda row: -row.similarity)

    def _patches(self, image: NDArray[np.uint8]) -> Tensor:
        """(N, E) float32 patches of an (H, W, 3) uint8 image in the joint space."""
        backbone = self._backbone
        record, layers = backbone.record, backbone.config.vision.layers
        assert record is not None  # noqa: S101 - the detector has checked it
        preparation = Preparation(self._image_size, record.mean, record.std)
        pixels = prepare(Image.fromarray(image), preparation)
        images = torch.from_numpy(pixels)[None].to(backbone.text_projection.device)
        start = first_value_value_layer(None, layers)
        return value_value_features(backbone.visual, images, (layers,), start).patch_features[0, 0]

    def _vector(self, states: tuple[str, ...], class_name: str) -> Tensor:
        """(E,) text vector of the states of a class, kept from an earlier call if there was one."""
        key = (class_name, *states)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = average_vector(
                    self._backbone, compose(states, WINCLIP_TEMPLATES, class_name)
                )
            self._kept.move_to_end(key)
            vector = self._kept[key]
            while len(self._kept) > MOST_VECTORS_KEPT:
                self._kept.popitem(last=False)
        return vector.to(self._backbone.text_projection.device)


def checked_phrases(phrases: Sequence[str]) -> tuple[str, ...]:
    """Phrases without blanks at their ends.

    Raises:
        ConfigError: the list is empty or a text, or a phrase is not words or occurs twice.
    """
    if isinstance(phrases, str):
        raise ConfigError(
            f'phrases must be a list such as ["cracked", "a scratch"], got the text {phrases!r}'
        )
    states = [state_of(phrase) for phrase in phrases]
    if not states:
        raise ConfigError('give at least one phrase, such as ["cracked"]')
    for state, phrase in zip(states, phrases, strict=True):
        if states.count(state) > 1:
            raise ConfigError(f"each phrase must occur once, got {phrase!r} again")
    return tuple(phrase.strip() for phrase in phrases)


def _found_region(prediction: Prediction) -> NDArray[Any]:
    """(H, W) mask if it marks a part of the image; otherwise the anomaly map scaled to [0, 1]."""
    mask = prediction.mask()
    if mask is not None and mask.any() and not mask.all():
        return mask
    values = prediction.anomaly_map
    if not np.isfinite(values).all():
        raise ConfigError(
            "the anomaly map has values that are not finite: give the region, or another precision"
        )
    least, largest = float(values.min()), float(values.max())
    return np.ones_like(values) if largest == least else (values - least) / (largest - least)


def _checked_region(prediction: Prediction, region: NDArray[Any]) -> NDArray[Any]:
    """The region that the user gives, if its shape and values make it one."""
    expected = prediction.anomaly_map.shape
    if region.shape != expected:
        raise ConfigError(
            f"the region must have the image's height and width {expected}, got the shape {region.shape}"
        )
    is_number = region.dtype == np.bool_ or np.issubdtype(region.dtype, np.number)
    if not is_number or not ((region >= 0) & (region <= 1)).all():
        raise ConfigError(
            f"the region must be True and False or weights from 0 to 1, got {region.dtype} values"
            + (f" from {region.min()} to {region.max()}" if is_number else "")
        )
    if not region.any():
        raise ConfigError(
            "the region is empty: mark at least one pixel, or leave it out to use the anomaly map"
        )
    return region
