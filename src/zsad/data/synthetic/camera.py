"""Simulates a camera for the whole image: light, colour, optics, sensor, compression.

It runs after the defects and treats normal and anomalous images alike, so that no trace of processing reveals
a defect.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

from zsad.data.synthetic.noise import Bytes, FloatImage, Rng, smooth_noise, to_bytes


def photograph(image: Bytes, rng: Rng, *, grey: bool | None = None) -> Bytes:
    """Photographs a scene with a random camera.

    Args:
        image: (H, W, 3) uint8 image of the scene.
        rng: source of randomness.
        grey: whether to convert to greyscale; None does so for about one image in four.

    Returns:
        (H, W, 3) uint8; the geometry does not change, so masks stay valid.
    """
    lit = _light(image.astype(np.float32), rng)
    grey = rng.random() < 0.22 if grey is None else grey
    if grey:
        mix = rng.dirichlet([4, 6, 2]).astype(np.float32)
        lit = np.repeat((lit @ mix)[..., None], 3, axis=2)
    sharp = _optics(to_bytes(lit), rng)
    noisy = _sensor(sharp, rng, grey=grey)
    return _compress(noisy, rng)


def _light(image: FloatImage, rng: Rng) -> FloatImage:
    height, width = image.shape[:2]
    if rng.random() < 0.45:
        y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
        x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :]
        slope = rng.normal(0, 0.25, 2).astype(np.float32)
        gain = 1 + slope[0] * y + slope[1] * x
        if rng.random() < 0.4:
            gain = gain * (1 - np.float32(rng.uniform(0, 0.9)) * (x**2 + y**2))
        if rng.random() < 0.15:
            gain = gain * (
                1 + np.float32(rng.uniform(0.05, 0.2)) * smooth_noise(rng, height, width, max(width / 2, 1))
            )
        image = image * np.clip(gain, 0.25, 1.8)[..., None]
    if rng.random() < 0.4:
        image = image * np.exp(rng.normal(0, 0.08, 3)).astype(np.float32)
    if rng.random() < 0.5:
        # Automatic exposure: the darkest and brightest tones are spread towards the ends of the scale.
        low, high = np.percentile(image[::4, ::4], [2, 98])
        black, white = rng.uniform(2, 45), rng.uniform(170, 252)
        stretch = np.clip((white - black) / max(high - low, 1.0), 0.5, 1.7)
        middle = rng.uniform(0.35, 0.65) * 255 if high - low < 60 else (black + white) / 2
        image = (image - np.float32((low + high) / 2)) * np.float32(stretch) + np.float32(middle)
    gain, offset = np.exp(rng.normal(0, 0.12)), rng.normal(0, 8)
    image = np.clip(image * np.float32(gain) + np.float32(offset), 0, 255)
    if rng.random() < 0.5:
        table = 255 * (np.arange(256) / 255) ** np.exp(rng.normal(0, 0.22))
        image = table.astype(np.float32)[to_bytes(image)]
    return image


def _optics(image: Bytes, rng: Rng) -> Bytes:
    photo = Image.fromarray(image)
    choice = rng.random()
    if choice < 0.22:
        photo = photo.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    elif choice < 0.38:
        scale = rng.uniform(0.45, 0.9)
        small = (
            max(round(photo.width * scale), 1),
            max(round(photo.height * scale), 1),
        )
        up = Image.Resampling.BICUBIC if rng.random() < 0.6 else Image.Resampling.BILINEAR
        photo = photo.resize(small, Image.Resampling.BILINEAR).resize((image.shape[1], image.shape[0]), up)
    elif choice < 0.5:
        photo = photo.filter(ImageFilter.UnsharpMask(rng.uniform(0.8, 2.5), int(rng.integers(30, 140)), 2))
    return np.asarray(photo)


def _sensor(image: Bytes, rng: Rng, *, grey: bool) -> Bytes:
    if rng.random() < 0.45:
        return image
    height, width = image.shape[:2]
    sigma = float(np.clip(rng.lognormal(np.log(3.0), 0.7), 0.5, 18))
    channels = 1 if grey or rng.random() < 0.4 else 3
    noise = rng.standard_normal((height, width, channels), dtype=np.float32)
    if rng.random() < 0.3:
        noise[1:] = 0.6 * noise[1:] + 0.6 * noise[:-1]
    return to_bytes(image + np.float32(sigma) * noise)


def _compress(image: Bytes, rng: Rng) -> Bytes:
    if rng.random() < 0.4:
        return image
    buffer = io.BytesIO()
    quality, subsampling = int(rng.integers(60, 99)), int(rng.choice([0, 2]))
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(buffer))
