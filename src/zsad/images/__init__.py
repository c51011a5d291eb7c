"""An image file or array in, RGB out, heat maps back; no torch."""
