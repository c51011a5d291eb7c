"""Synthetic images with exact masks: training data, and anomalies for test-time adaptation.

`generate` draws a whole image (scene, defects, camera); `add_defect` puts one defect into a given image. Only
NumPy and Pillow are needed. Foreign textures in noise-shaped outlines follow DRAEM (arXiv 2108.07610),
displaced patches follow CutPaste (arXiv 2104.04015); the other defects and all scenes are our own.

Example:
    >>> sample = generate(0, Materials.procedural(), SyntheticConfig(size=64), seed=1)
    >>> sample.image.shape, sample.mask.shape
    ((64, 64, 3), (64, 64))
"""

from __future__ import annotations

from zsad.data.synthetic.captions import CAPTIONS
from zsad.data.synthetic.defects import DEFECTS, add_defect
from zsad.data.synthetic.generator import SyntheticConfig, SyntheticImage, generate
from zsad.data.synthetic.materials import Materials
from zsad.data.synthetic.scenes import SCENES

__all__ = [
    "CAPTIONS",
    "DEFECTS",
    "SCENES",
    "Materials",
    "SyntheticConfig",
    "SyntheticImage",
    "add_defect",
    "generate",
]
