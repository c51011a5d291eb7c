"""Plain implementations of methods, which `inference.py` times zsad against; one file for each.

Each file has a function `plain(method)`, which returns a `Scorer` with the weights of that method and with no
code of it: ordinary operations on whole tensors, in the order of the method's paper and of its authors' code.
Attention is explicit (scores, scale, softmax, weighted sum), every layer computes all tokens of all its
streams, prompts that depend on the image pass the text encoder with all 77 places, each layer's map is
enlarged by itself, and maps are smoothed by SciPy, one after the other. As in the authors' test scripts,
prompts that do not depend on the image are encoded beforehand, here by the method itself.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Scorer = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From normalised images (B, 3, S, S) to scores (B,) and maps (B, S, S)."""
