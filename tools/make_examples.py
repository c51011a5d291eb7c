"""Draws the images in `examples/` with the generator of zsad; none of them comes from anywhere else.

python tools/make_examples.py examples
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from zsad.data.synthetic import Materials, SyntheticConfig, generate

# Numbers of the endless synthetic set of seed 7, picked by eye for variety.
CHOSEN = {
    3: "leather_stain",
    5: "carpet_hole",
    10: "batteries_wrong_part",
    13: "tablet_stain",
    14: "capsule_good",
    23: "nut_lump",
    25: "weave_good",
    33: "tiles_damage",
    44: "steel_inclusion",
}


def main() -> None:
    """Writes one JPEG per chosen number."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    config = SyntheticConfig(size=512, anomalous_fraction=0.75)
    for index, name in CHOSEN.items():
        image = generate(index, Materials.procedural(), config, 7)
        Image.fromarray(image.image).save(folder / f"{name}.jpg", quality=92)


if __name__ == "__main__":
    main()
