"""Describes what an image shows and what is wrong with it, in the style of CLIP's captions."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zsad.data.synthetic.noise import Rng


CAPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "scratch": ("scratched", "scuffed"),
        "crack": ("cracked", "fractured", "broken"),
        "craquelure": ("crazed", "cracked"),
        "fibre": ("contaminated", "hairy", "dirty"),
        "hole": ("pitted", "punctured", "porous"),
        "spot": ("spotted", "blemished", "speckled"),
        "stain": ("stained", "dirty", "soiled"),
        "powder": ("dusty", "contaminated", "corroded"),
        "print": ("misprinted", "scribbled", "marked"),
        "droplet": ("wet", "smudged"),
        "vein": ("streaked", "stained"),
        "foreign_texture": ("contaminated", "damaged", "patched"),
        "displaced_patch": ("damaged", "mismatched"),
        "discolouration": ("discoloured", "faded", "discolored"),
        "burn": ("burnt", "scorched"),
        "smear": ("smeared", "blurred", "worn"),
        "grain": ("rough", "corroded", "abraded"),
        "cut_scar": ("cut", "scarred"),
        "missing_texture": ("peeled", "flaked", "chipped"),
        "bump": ("bumpy", "swollen", "blistered"),
        "dent": ("dented",),
        "lesion": ("diseased", "abnormal"),
        "deformation": ("deformed", "crushed", "warped"),
        "wrinkle": ("wrinkled", "folded", "creased"),
        "step_edge": ("misaligned", "shifted"),
        "thread_fault": ("flawed", "irregular"),
        "tear": ("torn", "ripped", "frayed"),
        "chip": ("chipped", "broken"),
        "spall": ("crumbling", "damaged", "eroded"),
        "split": ("broken", "cracked", "split"),
        "missing": ("incomplete", "broken"),
        "moved": ("misplaced", "misaligned"),
        "wrong": ("wrong", "mixed up"),
        "bent": ("bent", "deformed"),
        "bitten": ("chipped", "broken", "incomplete"),
        "severed": ("cut", "broken", "open"),
        "bridged": ("shorted", "bridged"),
        "extra": ("contaminated", "excess"),
        "repeat_fault": ("irregular", "flawed", "misaligned"),
    }
)
"""Adjectives for every defect kind, those of `add_defect` and those of whole scenes."""

NORMAL_STATES: tuple[str, ...] = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "good {}",
    "intact {}",
    "normal {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ANOMALOUS_STATES: tuple[str, ...] = (
    "damaged {}",
    "defective {}",
    "flawed {}",
    "abnormal {}",
    "bad {}",
    "{} with flaw",
    "{} with defect",
    "{} with damage",
)
_TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of a {}",
    "a close-up photo of a {}.",
    "a cropped photo of the {}.",
    "a bright photo of a {}.",
    "a dark photo of the {}.",
    "a blurry photo of a {}.",
    "there is a {} in the scene.",
    "this is a {} in the scene.",
    "a photo of the {} for visual inspection.",
    "a photo of a {} for anomaly detection.",
    "{}",
)


def caption(rng: Rng, object_name: str, defect: str) -> str:
    """Composes a caption of the image.

    Args:
        rng: source of randomness.
        object_name: name of the object ("metal plate").
        defect: kind of defect, a key of `CAPTIONS`, or "good".

    Returns:
        A caption such as "a photo of a scratched metal plate.".
    """
    if defect == "good":
        state = str(rng.choice(NORMAL_STATES))
    elif rng.random() < 0.5:
        state = str(rng.choice(ANOMALOUS_STATES))
    else:
        state = str(rng.choice(CAPTIONS[defect])) + " {}"
    return str(rng.choice(_TEMPLATES)).format(state.format(object_name))
