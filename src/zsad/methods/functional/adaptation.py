"""Test-time adaptation: an adapter of patches, trained for each image on copies with synthetic anomalies.

Shapes: B images, M copies of an image, N patches, E joint width, S pixels of one side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.methods.functional.descent import AdamW
from zsad.methods.functional.losses import dice_loss, focal_loss
from zsad.methods.functional.similarity import similarity_softmax

if TYPE_CHECKING:
    from zsad.types import WeightRecord

TRUSTED_QUANTILE = 0.8


@dataclass(frozen=True)
class Adaptation:
    """How an adapter is trained.

    Attributes:
        steps: number of steps.
        learning_rate: learning rate of AdamW.
        temperature: temperature of the softmax over normal and abnormal.
    """

    steps: int
    learning_rate: float
    temperature: float


@dataclass(frozen=True)
class TrainingSet:
    """Data that the adapter of one image is trained on.

    Attributes:
        patch_features: (M, N, E) float32 unit vectors of M spoiled copies.
        labels: (M, N) float32 in {0, 1}.
        trusted: (M, N) bool, True for the patches that enter the loss.
    """

    patch_features: Tensor
    labels: Tensor
    trusted: Tensor


@dataclass(frozen=True)
class Spoiled:
    """Copies of the images with anomalies drawn into them.

    Attributes:
        patch_features: (B, M, N, E) float32 unit vectors, M copies of each image.
        labels: (B, M, N) float32, 1 for patches that are mostly anomaly, else 0.
    """

    patch_features: Tensor
    labels: Tensor

    def training_set(self, images: Tensor, maps: Tensor) -> TrainingSet:
        """The copies of some images, and which of their patches are trusted.

        Args:
            images: (n,) numbers of the images.
            maps: (B, N) joint maps of all images.
        """
        limits = torch.quantile(maps[images], TRUSTED_QUANTILE, dim=1, keepdim=True)
        labels = self.labels[images]
        trusted = (maps[images] < limits)[:, None] | (labels > 0)
        return TrainingSet(
            self.patch_features[images].flatten(0, 1), labels.flatten(0, 1), trusted.flatten(0, 1)
        )


def spoiled_copies(image: Tensor, record: WeightRecord, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Copies of an image, each with one synthetic anomaly.

    Args:
        image: (3, S, S) normalised image.
        record: record of the backbone's weights, which says how pixels are normalised.
        count: M, number of copies.
        seed: seed of the anomalies.

    Returns:
        (M, 3, S, S) normalised copies and (M, S, S) float32 masks, 1 where the copy differs.
    """
    from zsad.data.synthetic import add_defect

    mean, std = (image.new_tensor(values).reshape(3, 1, 1) for values in (record.mean, record.std))
    coloured = ((image * std + mean).clamp(0, 1) * 255).round()
    pixels = coloured.permute(1, 2, 0).to("cpu", torch.uint8).numpy()
    rng = np.random.default_rng(seed)
    spoiled = [add_defect(np.ascontiguousarray(pixels), rng) for _ in range(count)]
    copies = torch.from_numpy(np.stack([copy for copy, _, _ in spoiled])).permute(0, 3, 1, 2)
    masks = torch.from_numpy(np.stack([mask for _, mask, _ in spoiled]))
    normalised = (copies.to(image) / 255 - mean) / std
    return normalised, masks.to(image.device).float()


def adapt_patches(patches: Tensor, text: Tensor, training: TrainingSet, settings: Adaptation) -> Tensor:
    """Patches of one image, after an adapter that was trained on spoiled copies.

    z' = (z + W z + b) / 2, and the loss on P = softmax(cos(z', text) / temperature) of the trusted patches is
    Focal(P, m) + Dice(P_abnormal, m) + Dice(P_normal, 1 - m)

    Args:
        patches: (N, E) unit vectors.
        text: (2, E) features of the prompts of the image's class, normal then abnormal.
        training: the spoiled copies.
        settings: how the adapter is trained.

    Returns:
        (N, E), not normalised, without gradient.
    """
    # Predictions run in inference mode, whose tensors cannot be trained on: leave that mode, and copy.
    with torch.inference_mode(False), torch.enable_grad():
        own, text, spoiled, labels = (
            tensor.detach().clone() for tensor in (patches, text, training.patch_features, training.labels)
        )
        counted = training.trusted.detach().clone()
        weight = torch.eye(own.shape[1], dtype=own.dtype, device=own.device).requires_grad_()
        bias = own.new_zeros(own.shape[1]).requires_grad_()

        def adapted(tokens: Tensor) -> Tensor:
            return 0.5 * (tokens + F.linear(tokens, weight, bias))

        steps = AdamW([weight, bias], settings.learning_rate)
        for _ in range(settings.steps):
            chances = similarity_softmax(adapted(spoiled), text[None], settings.temperature)
            # The Dice sums then hold trusted patches alone, image by image; focal is a plain mean.
            kept, weights = chances[counted].T[None, :, None], counted.to(own)[:, None]
            normal, abnormal = (chances[..., number][:, None] * weights for number in (0, 1))
            mask = labels[:, None]
            loss = (
                focal_loss(kept, labels[counted][None, None])
                + dice_loss(abnormal, mask * weights)
                + dice_loss(normal, (1 - mask) * weights)
            )
            steps.take(torch.autograd.grad(loss, [weight, bias]))
        return adapted(own).detach()
