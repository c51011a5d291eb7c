"""An image encoder whose last bits depend on the batch, as some processors' matrix kernels make them."""

import torch

from zsad.backbones.vision import VisionTower


def round_by_batch(set_attribute=setattr):
    """Makes an image encoder's output depend, a little, on the batch's size and the image's place in it.

    What is promised to the bit then fails on every machine, unless it does not rest on the batch at all.

    Args:
        set_attribute: puts the method in place, `monkeypatch.setattr` for one that takes it back.
    """
    original = VisionTower.forward

    def forward(self, images, *arguments, **named):
        count = len(images)
        factors = 1 + 1e-6 * torch.arange(count, 2 * count, dtype=images.dtype, device=images.device)
        return original(self, images * factors[:, None, None, None], *arguments, **named)

    set_attribute(VisionTower, "forward", forward)
