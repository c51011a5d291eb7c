"""Class token and patches of chosen layers in the joint space, as the AnomalyCLIP family reads them.

Shapes: B images, T used layers, N = G*G patches, D encoder width, E joint width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.errors import ConfigError
from zsad.methods.functional.maps import grid_side

if TYPE_CHECKING:
    from zsad.backbones.recording import Recording
    from zsad.backbones.vision import VisionConfig, VisionOutput, VisionTower

PAPER_VALUE_VALUE_SHARE = 19 / 24

LayerAliasing = Literal["fixed", "as_published"]


@dataclass(frozen=True)
class JointFeatures:
    """The frozen part of a batch.

    Attributes:
        image_features: (B, E) float32 class token in the joint space, not normalised.
        patch_features: (B, T, N, E) float32 patches of the T used layers in the joint space, not normalised.
    """

    image_features: Tensor
    patch_features: Tensor

    def image_size(self, patch_size: int) -> int:
        """Pixels a side of the images that the features were made from."""
        return grid_side(self.patch_features.shape[-2]) * patch_size


def value_value_features(
    visual: VisionTower, images: Tensor, layers: Sequence[int], value_value_from: int
) -> JointFeatures:
    """Class token of the original stream and patches of the value-value stream.

    The class token is projected without the final layer norm and the patches with it, as in the code of
    AnomalyCLIP and what derives from it.

    Source: AnomalyCLIP (2310.18961), section 3.3.

    Args:
        visual: the image encoder.
        images: (B, 3, S, S) resized and normalised images.
        layers: T 1-based layers.
        value_value_from: first layer of the value-value stream.
    """
    output = visual(images, value_taps=layers, value_value_from=value_value_from)
    return joint_features(visual, output, layers)


def joint_features(visual: VisionTower, output: VisionOutput, layers: Sequence[int]) -> JointFeatures:
    """What `value_value_features` returns, from a pass through the image encoder that returned more.

    Args:
        visual: the image encoder.
        output: output of the image encoder, with value-value tokens of the layers.
        layers: T 1-based layers.
    """
    patches = torch.stack([output.value_tokens[layer][:, 1:] for layer in layers], dim=1)
    return JointFeatures((output.class_token @ visual.proj).float(), visual.project(patches).float())


def comparable_patches(output: VisionOutput, layers: Sequence[int]) -> tuple[Tensor, ...]:
    """Patches by which unlabelled images are compared: levels of a hybrid stem, then those of chosen layers.

    A level that is finer than the patch grid is folded into channels; a coarser one is left out, because it
    says the same of several patches.

    Args:
        output: output of an image encoder, with tokens of the layers.
        layers: 1-based layers.

    Returns:
        L tensors (B, N, D_l) of unit vectors, float32 or, if the encoder runs in a lower precision,
        float16: bfloat16 has too few digits for distances between patches that are alike.
    """
    encoded = [output.tokens[layer][:, 1:] for layer in layers]
    side = grid_side(encoded[0].shape[1])
    stem = [
        _rows(F.pixel_unshuffle(level, level.shape[-1] // side))
        for level in (() if output.stem is None else output.stem.levels)
        if level.shape[-1] >= side
    ]
    return tuple(unit_vectors(level) for level in (*stem, *encoded))


def reference_layers(vision: VisionConfig) -> tuple[int, ...]:
    """The layers that `reference_patches` reads: none of an image encoder with a hybrid stem.

    Of any other they are the ends of the quarters.

    Args:
        vision: shape of the image encoder.
    """
    return () if vision.stem != "patch" else layers_to_use(None, vision.layers)


def reference_patches(output: VisionOutput, layers: Sequence[int]) -> tuple[Tensor, ...]:
    """Patches by which images are compared with known-normal ones, and with themselves.

    A hybrid stem gives two levels: the one on the patch grid, and the square roots of its widened patches,
    whose cosine (Hellinger's) is not decided by a few strong channels. On validation data (the products of
    `reference_rule`, two draws), mean image and pixel AUROC:

        levels                                       1 reference    4              16
        of `comparable_patches`, as before           0.832, 0.952   0.858, 0.919   0.852, 0.872
        these two                                    0.844, 0.952   0.867, 0.936   0.873, 0.903
        the roots alone                              0.846, 0.952   0.872, 0.943   0.876, 0.914
        widened patches without the roots, alone     0.841, 0.951   0.871, 0.945   0.862, 0.914
        these two, and those of before               0.838, 0.952   0.865, 0.928   0.866, 0.883
        the roots and the finest level               0.811, 0.952   0.850, 0.929   0.844, 0.879

    Two levels are within the noise of one, and do not rest on a single view of a patch. Unlabelled images
    are compared by the levels of before all the same: there the roots alone miss what several levels find
    (circuit boards 0.71 against 0.78, castings 0.77 against 0.84), and so do these two (0.72, 0.77).

    Args:
        output: output of an image encoder, with tokens of the layers.
        layers: layers from `reference_layers`.

    Returns:
        L tensors (B, N, D_l) of unit vectors, as `comparable_patches` returns them.
    """
    stem = () if output.stem is None else output.stem.on_patch_grid
    return _reference_patches([output.tokens[layer] for layer in layers], stem)


def recorded_patches(recording: Recording) -> tuple[Tensor, ...] | None:
    """`reference_patches` of what was recorded; None if a method did not pass the images themselves."""
    found = recording.result()
    return None if found is None else _reference_patches(*found)


def _reference_patches(tokens: Sequence[Tensor], stem: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What `reference_patches` returns, from (B, 1 + N, D) tokens of its layers, or a stem's patches."""
    if stem:
        middle, widened = map(_rows, stem)
        return unit_vectors(middle), unit_vectors(widened, of_roots=True)
    return tuple(unit_vectors(each[:, 1:]) for each in tokens)


def _rows(level: Tensor) -> Tensor:
    """(B, C, G, G) to (B, N, C)."""
    return level.flatten(2).transpose(1, 2)


def unit_vectors(vectors: Tensor, of_roots: bool = False) -> Tensor:
    """Unit vectors along the last dimension, or those of their square roots, in float32 or float16."""
    kept = torch.float32 if vectors.dtype == torch.float32 else torch.float16
    exact = vectors.float().sqrt() if of_roots else vectors.float()
    return F.normalize(exact, dim=-1).to(kept)


def last_layer_features(visual: VisionTower, images: Tensor) -> JointFeatures:
    """Class token and patches (T = 1) of plain CLIP, both through the final norm and the projection.

    Args:
        visual: the image encoder.
        images: (B, 3, S, S) resized and normalised images.
    """
    last = visual.config.layers
    tokens = visual.project(visual(images, taps=(last,)).tokens[last]).float()
    return JointFeatures(tokens[:, 0], tokens[:, None, 1:])


def layers_to_use(
    chosen: Sequence[int] | None, layers: int, setting: str = "features_list"
) -> tuple[int, ...]:
    """The layers of the image encoder whose patches a method reads, checked.

    Args:
        chosen: 1-based numbers of layers; None: the end of each quarter of the image encoder, which is 6, 12,
            18, 24 in the papers' 24 layers.
        layers: number of layers of the image encoder.
        setting: name of the setting, for the messages.

    Raises:
        ConfigError: a number is no layer of the image encoder, or stands twice.

    Example:
        >>> layers_to_use(None, 24), layers_to_use(None, 3)
        ((6, 12, 18, 24), (1, 2, 3))
    """
    if chosen is None:
        return tuple(sorted({max(1, round(layers * quarter / 4)) for quarter in (1, 2, 3, 4)}))
    if not chosen or not all(1 <= layer <= layers for layer in chosen):
        raise ConfigError(f"{setting} {tuple(chosen)}: this image encoder has layers 1 to {layers}")
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"{setting} {tuple(chosen)} names a layer twice")
    return tuple(chosen)


def layers_compared(visual_layers: Sequence[int] | None, vision: VisionConfig) -> tuple[int, ...]:
    """The layers whose patches are compared between images, checked.

    Args:
        visual_layers: 1-based numbers of layers; None: the first one of an image encoder with a hybrid stem,
            whose levels `comparable_patches` adds, and the ends of the quarters of any other.
        vision: shape of the image encoder.

    Raises:
        ConfigError: a number is no layer of the image encoder, or stands twice.
    """
    first_only = visual_layers is None and vision.stem != "patch"
    return layers_to_use((1,) if first_only else visual_layers, vision.layers, "visual_layers")


def resolve_dpam_layer(dpam_layer: int | None, layers: int, setting: str = "dpam_layer") -> int:
    """AnomalyCLIP's constant for an image encoder.

    The value-value stream covers the last `dpam_layer - 1` layers.

    Args:
        dpam_layer: value of the setting; None for 20 of 24 layers, and for the same share of another number.
        layers: number of layers of the image encoder.
        setting: name of the setting, for the message.

    Raises:
        ConfigError: the image encoder has too few layers.

    Example:
        >>> resolve_dpam_layer(None, 24), resolve_dpam_layer(None, 12)
        (20, 11)
    """
    if dpam_layer is None:
        return round(PAPER_VALUE_VALUE_SHARE * layers) + 1
    if not 2 <= dpam_layer <= layers + 1:
        raise ConfigError(f"{setting} {dpam_layer}: use 2 (only the last layer) to {layers + 1} (all layers)")
    return dpam_layer


def first_value_value_layer(dpam_layer: int | None, layers: int, setting: str = "dpam_layer") -> int:
    """First layer of the value-value stream, 1-based, by AnomalyCLIP's constant.

    Arguments and errors are those of `resolve_dpam_layer`.

    Example:
        >>> first_value_value_layer(None, 24), first_value_value_layer(2, 24)
        (6, 24)
    """
    return layers - resolve_dpam_layer(dpam_layer, layers, setting) + 2


def layers_read(
    features_list: Sequence[int], aliasing: LayerAliasing, value_value_from: int, last: int
) -> dict[int, int]:
    """The layers whose patches are really read, and how often each counts.

    Released code that updates the value-value stream in place hands out the same tensor for every layer from
    the one before the start of the stream on; when it is read, it holds the result of the last layer.

    Args:
        features_list: layers of the settings.
        aliasing: "as_published" for what such code reads, "fixed" for the layers of the settings.
        value_value_from: first layer of the value-value stream.
        last: number of layers.

    Returns:
        Layer -> number of times.

    Example:
        >>> layers_read((3, 6, 12, 18), "as_published", value_value_from=6, last=24)
        {3: 1, 24: 3}
    """
    shared_from = value_value_from - 1 if aliasing == "as_published" else last
    return dict(Counter(last if layer >= shared_from else layer for layer in features_list))
