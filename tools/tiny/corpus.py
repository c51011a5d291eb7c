"""Sentences that teach the text encoder of `tiny`: states, objects, templates and plain definitions.

The nouns and definitions come from WordNet 3.0 (Debian package `wordnet-base`; free licence).
"""

from __future__ import annotations

import random
from pathlib import Path

# WordNet's lexicographer files whose nouns one can photograph: artefacts, bodies, food, objects, plants, substances.
VISIBLE_FILES = {"06", "08", "13", "17", "20", "27"}

NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
    "normal {}",
    "good {}",
    "intact {}",
    "clean {}",
    "undamaged {}",
    "new {}",
    "healthy {}",
    "faultless {}",
    "{} in perfect condition",
    "{} that passed inspection",
)
ABNORMAL_STATES = (
    "damaged {}",
    "broken {}",
    "{} with flaw",
    "{} with defect",
    "{} with damage",
    "abnormal {}",
    "imperfect {}",
    "blemished {}",
    "defective {}",
    "faulty {}",
    "anomalous {}",
    "bad {}",
    "{} that failed inspection",
    "cracked {}",
    "scratched {}",
    "dented {}",
    "bent {}",
    "stained {}",
    "dirty {}",
    "contaminated {}",
    "torn {}",
    "burnt {}",
    "corroded {}",
    "rusty {}",
    "chipped {}",
    "deformed {}",
    "discoloured {}",
    "faded {}",
    "frayed {}",
    "punctured {}",
    "wrinkled {}",
    "swollen {}",
    "diseased {}",
    "crushed {}",
    "worn {}",
    "melted {}",
    "mouldy {}",
    "blurred {}",
    "{} with a crack",
    "{} with a hole",
    "{} with a scratch",
    "{} with a spot",
    "{} with a stain",
    "{} with a bump",
    "{} with a missing part",
    "{} with a bent part",
    "{} with a foreign object",
    "{} with a cut",
    "{} with a lesion",
    "{} with a tumour",
    "{} with a polyp",
    "{} with contamination",
    "{} with a dark spot",
    "{} with a bright spot",
    "{} with a print error",
    "{} with a loose thread",
    "{} with a short circuit",
    "{} with a broken line",
    "{} with a misplaced part",
    "{} with a wrinkle",
    "{} with glue on it",
)
TEMPLATES = (
    "{}",
    "a {}",
    "the {}",
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of {}",
    "a cropped photo of the {}.",
    "a cropped photo of a {}.",
    "a close-up photo of a {}.",
    "a close-up photo of the {}.",
    "a bright photo of a {}.",
    "a bright photo of the {}.",
    "a dark photo of the {}.",
    "a dark photo of a {}.",
    "a jpeg corrupted photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a blurry photo of the {}.",
    "a blurry photo of a {}.",
    "a photo of the small {}.",
    "a photo of a small {}.",
    "a photo of the large {}.",
    "a photo of a large {}.",
    "a photo of the {} for visual inspection.",
    "a photo of a {} for visual inspection.",
    "a photo of the {} for anomaly detection.",
    "a photo of a {} for anomaly detection.",
    "a bad photo of a {}.",
    "a bad photo of the {}.",
    "a low resolution photo of the {}.",
    "a low resolution photo of a {}.",
    "a photo of my {}.",
    "a photo of the cool {}.",
    "a photo of a cool {}.",
    "a photo of one {}.",
    "a good photo of the {}.",
    "a good photo of a {}.",
    "a black and white photo of the {}.",
    "a black and white photo of a {}.",
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
    "an industrial photo of a {}.",
    "a manufacturing image of a {}.",
    "a textural photo of a {}.",
    "a surface image of a {}.",
    "a microscope image of {}.",
    "a medical image of a {}.",
)
COMMON_NOUNS = (
    "object",
    "surface",
    "texture",
    "part",
    "product",
    "material",
    "tissue",
    "organ",
    "component",
    "item",
    "metal plate",
    "wood",
    "fabric",
    "leather",
    "tile",
    "carpet",
    "grid",
    "bottle",
    "cable",
    "capsule",
    "pill",
    "tablet",
    "screw",
    "nut",
    "metal nut",
    "toothbrush",
    "transistor",
    "zipper",
    "hazelnut",
    "candle",
    "cashew",
    "chewing gum",
    "macaroni",
    "circuit board",
    "pcb",
    "pipe",
    "bracket",
    "connector",
    "tube",
    "steel",
    "concrete",
    "wall",
    "brain scan",
    "x-ray",
    "skin",
    "retina",
    "colon",
    "cookie",
    "solar cell",
    "magnetic tile",
    "glass",
    "plastic",
    "paper",
    "rubber",
    "ceramic",
    "brick",
    "stone",
    "food",
    "fruit",
    "nut",
    "bolt",
    "gear",
    "chip",
)


def visible_nouns(wordnet: Path) -> list[str]:
    """Lemmas of at most two words from WordNet's photographable noun files, in the file's order."""
    nouns: dict[str, None] = {}
    for line in (wordnet / "data.noun").read_text(encoding="latin-1").splitlines():
        fields = line.split(" ")
        if len(fields) < 5 or fields[1] not in VISIBLE_FILES:
            continue
        lemma = fields[4].replace("_", " ")
        if lemma.replace(" ", "").replace("-", "").isalpha() and lemma.islower() and lemma.count(" ") < 2:
            nouns.setdefault(lemma)
    return list(nouns)


def definitions(wordnet: Path) -> list[str]:
    """The first clause of every noun's gloss, at most 20 words."""
    glosses = []
    for line in (wordnet / "data.noun").read_text(encoding="latin-1").splitlines():
        if " | " in line:
            words = line.split(" | ", 1)[1].split(";")[0].strip().split()
            glosses.append(" ".join(words[:20]))
    return glosses


def sentences(wordnet: Path, count: int, seed: int = 0) -> list[str]:
    """A deterministic mixture: 75 % template(state(noun)), 25 % definitions."""
    rng = random.Random(seed)
    nouns, glosses = visible_nouns(wordnet), definitions(wordnet)
    made = []
    for _ in range(count):
        if rng.random() < 0.25:
            made.append(rng.choice(glosses))
            continue
        noun = rng.choice(COMMON_NOUNS) if rng.random() < 0.3 else rng.choice(nouns)
        states = NORMAL_STATES if rng.random() < 0.4 else ABNORMAL_STATES
        made.append(rng.choice(TEMPLATES).format(rng.choice(states).format(noun)))
    return made


def object_names() -> list[str]:
    """What the generator and the auxiliary sets show, and the common nouns: the words of `StateWords`."""
    shown = (Path(__file__).parent / "object_names.txt").read_text().splitlines()
    return sorted({*COMMON_NOUNS, *shown})
