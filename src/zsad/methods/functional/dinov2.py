"""DINOv2 with registers, whose patches tell Crane+ which patches of an image look alike.

The network comes from the Hugging Face hub through `transformers`, an optional package.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.errors import MissingExtraError, WeightsError
from zsad.files.cache import is_offline

REPOSITORY = "facebook/dinov2-with-registers-base"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class DinoV2:
    """Images to patch features, by a network that is loaded when it is first used.

    It is no `nn.Module`, so that its weights are not taken for a part of the method that uses it.
    """

    def __init__(self, clip_patch_size: int) -> None:
        """Loads nothing yet.

        Args:
            clip_patch_size: pixels of one side of a patch of the CLIP network. Images are resized so that
                DINOv2, whose patches have 14 pixels, has as many patches.
        """
        self._clip_patch_size = clip_patch_size
        self._network: Any = None

    def __call__(self, images: Tensor) -> Tensor:
        """Patch features after the final norm.

        Args:
            images: (B, 3, S, S) images, normalised with ImageNet's mean and standard deviation.

        Returns:
            (B, 768, G, G) float32.

        Raises:
            MissingExtraError: `transformers` is not installed.
            WeightsError: the network is neither in the cache nor can it be fetched.
        """
        if self._network is None:
            self._network = load_network()
        network = self._network.to(images.device)
        grid = images.shape[-1] // self._clip_patch_size
        side = grid * network.config.patch_size
        if side != images.shape[-1]:
            images = F.interpolate(images, size=(side, side), mode="bicubic", antialias=True)
        tokens: Tensor = network(pixel_values=images.float()).last_hidden_state
        patches = tokens[:, 1 + network.config.num_register_tokens :]
        return patches.transpose(1, 2).reshape(len(images), -1, grid, grid)


def load_network() -> Any:
    """DINOv2 ViT-B/14 with registers in float32, from the cache of Hugging Face or its hub.

    Raises:
        MissingExtraError: `transformers` is not installed.
        WeightsError: the network is neither in the cache nor can it be fetched.
    """
    try:
        from transformers import AutoModel
    except ImportError as error:
        raise MissingExtraError("transformers", "transformers", "dino_model='dinov2' ") from error
    try:
        network = AutoModel.from_pretrained(REPOSITORY, local_files_only=is_offline(), use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"cannot load DINOv2 from hf-hub:{REPOSITORY}: {reason}; fetch it with a network once, "
            "or set `detector.method.vfm` to a network of your own"
        ) from error
    return network.float().eval().requires_grad_(False)


def imagenet_normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images normalised for another network, normalised for DINOv2.

    Args:
        images: (B, 3, S, S), normalised with `mean` and `std`.
        mean: mean of the RGB channels in [0, 1].
        std: standard deviation of the RGB channels in [0, 1].

    Returns:
        (B, 3, S, S) float32; values outside of [0, 1] before the normalisation are cut.
    """
    channels = [
        ((channel.float() * old_std + old_mean).clamp(0, 1) - new_mean) / new_std
        for channel, old_mean, old_std, new_mean, new_std in zip(
            images.unbind(dim=1), mean, std, IMAGENET_MEAN, IMAGENET_STD, strict=True
        )
    ]
    return torch.stack(channels, dim=1)
