"""How a result shows itself in a notebook: the image and its heat map side by side, and a line below."""

from __future__ import annotations

import base64
import html
import io

from PIL import Image

from zsad.images.drawing import thumbnail

_LONGEST_SIDE = 480  # pixels of each of the two images


def side_by_side_png(image: Image.Image, heat_map: Image.Image) -> bytes:
    """The two images in one PNG file, each at most 480 pixels a side.

    Args:
        image: RGB image.
        heat_map: the image under its heat map, of the same size.
    """
    shown = [thumbnail(each, _LONGEST_SIDE) for each in (image, heat_map)]
    width, height = shown[0].size
    both = Image.new("RGB", (2 * width, height))
    both.paste(shown[0], (0, 0))
    both.paste(shown[1], (width, 0))
    file = io.BytesIO()
    both.save(file, format="PNG")
    return file.getvalue()


def figure_html(png: bytes, caption: str) -> str:
    """An HTML figure that holds a PNG file; the caption may hold any characters."""
    data, text = base64.b64encode(png).decode("ascii"), html.escape(caption)
    image = f'<img src="data:image/png;base64,{data}" alt="{text}">'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"
