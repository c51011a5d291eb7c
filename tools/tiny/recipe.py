"""The shape of `tiny`, shared by the tools that train its towers."""

from __future__ import annotations

from zsad.backbones.clip import ClipConfig, TextConfig, VisionConfig

# Joint width 384: the sentence teacher's space.
TINY_CONFIG = ClipConfig(
    vision=VisionConfig(
        image_size=320, patch_size=16, width=256, layers=3, heads=4, stem="efficientnet_lite2"
    ),
    text=TextConfig(width=256, layers=4, heads=4, embedding_rank=64),
    embed_dim=384,
    activation="quick_gelu",
)
IMAGE_MEAN = (127 / 255, 127 / 255, 127 / 255)
IMAGE_STD = (128 / 255, 128 / 255, 128 / 255)

# What the weights say about their training images.
AUXILIARY_DATA = (
    "zsad.data.synthetic; VisA (capsules, macaroni1), aluminium surface defects, concrete cracks, concrete damage; "
    "steps chosen on tile wall cracks, IDRiD hard exudates and eight real validation sets"
)

# First block of the value-value stream while training, AnomalyCLIP's 19 of 24 blocks in proportion: blocks 2 and 3.
VALUE_VALUE_FROM = 2
