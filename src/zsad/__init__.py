"""Zero-shot anomaly detection for images: every CLIP-based system of the literature behind one API.

Names are imported when they are first used, so `import zsad` loads neither torch nor NumPy.
"""

from zsad._lazy import public_names

__getattr__, __dir__, __all__ = public_names(__name__)
