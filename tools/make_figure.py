"""Draws the README's figure: example images above, what zsad says of them below.

python tools/make_figure.py examples docs/example.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import zsad

SIDE, GAP, LINE = 200, 6, 20


def main() -> None:
    """One column per image."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    detector = zsad.load()
    predictions = list(detector.predict_iter(folder))
    width = len(predictions) * (SIDE + GAP) - GAP
    sheet = Image.new("RGB", (width, 2 * SIDE + GAP + LINE), "white")
    font = ImageFont.load_default(14)
    for column, prediction in enumerate(predictions):
        left = column * (SIDE + GAP)
        pictures = (Image.fromarray(prediction.image), prediction.overlay().convert("RGB"))
        for row, picture in enumerate(pictures):
            sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, row * (SIDE + GAP)))
        ImageDraw.Draw(sheet).text(
            (left + 2, 2 * SIDE + GAP + 2), f"score {prediction.score:.2f}", "black", font
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, quality=90)


if __name__ == "__main__":
    main()
