"""Reads DAGM 2007, which has a list of labels beside its masks.

    Class1/Test/0001.PNG                  images
    Class1/Test/Label/Labels.txt          NUMBER  0 or 1  IMAGE  ...  MASK or 0, by tabs, below a line "1"
    Class1/Test/Label/0001_label.PNG      masks of the anomalous images: rough ellipses around the defect
    Class1/Train/...                      the same files; the "train" split leaves out its anomalous images

Sure of folders and names (AnomalyCLIP's DAGM.py, the loader of vicoslab/mixed-segdec-net-comind2021) and of
the columns (several public loaders describe them). The cells of a line are recognised by their form, so that
spaces instead of tabs or a missing first line do no harm.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zsad.data.layouts.listing import Listing, image_stem, joined, stem_of
from zsad.images.finding import masks_in
from zsad.types import Sample

if TYPE_CHECKING:
    from zsad.data.layouts.opening import Opening

LABEL_FOLDER = "Label"
LABEL_FILE = "Labels.txt"
PARTS = {"test": ("Test",), "train": ("Train",), "all": ("Train", "Test")}


def is_dagm(folder: Path, opening: Opening) -> bool:
    """Whether a folder is a class of DAGM or holds classes."""
    return bool(_classes(folder, opening))


def read_dagm(folder: Path, opening: Opening) -> Listing:
    """Reads the classes of DAGM in the order of their numbers."""
    listings = []
    for category in _classes(folder, opening):
        for part in PARTS[opening.split]:
            found = _read_part(category / part, opening.class_name(category.resolve().name), opening)
            if opening.split == "train":
                found = Listing(tuple(sample for sample in found.samples if not sample.label), found.problems)
            listings.append(found)
    return joined(listings)


def _classes(folder: Path, opening: Opening) -> list[Path]:
    def is_class(path: Path) -> bool:
        return any((path / part / LABEL_FOLDER).is_dir() for part in PARTS["all"])

    if is_class(folder):
        return [folder]
    found = [path for path in opening.folders(folder) if is_class(path)]
    return sorted(found, key=lambda path: (len(path.name), path.name))  # Class10 after Class9


def _read_part(part: Path, word: str, opening: Opening) -> Listing:
    images = {path.name.casefold(): path for path in opening.images(part)}
    masks = {image_stem(path): path for path in masks_in(part / LABEL_FOLDER)}
    list_file = part / LABEL_FOLDER / LABEL_FILE
    problems: list[str] = []
    if not part.is_dir():
        return Listing((), (f"{part}: is not there; unpack the class again",))
    if list_file.is_file():
        labels = _labels(list_file, problems)
    else:
        problems.append(f"{list_file}: is not there; an image counts as anomalous if it has a mask")
        labels = {path.name: int(stem_of(path) in masks) for path in images.values()}
    samples: list[Sample] = []
    for name, label in labels.items():
        path = images.pop(name.casefold(), None)
        if path is None:
            problems.append(f"{list_file}: lists {name}, which is not in {part}")
        elif label and stem_of(path) not in masks:
            problems.append(f"{path}: has no mask; expected {part / LABEL_FOLDER / stem_of(path)}_label.PNG")
            samples.append(Sample(path, word, 1, None, "anomalous"))
        elif label:
            samples.append(Sample(path, word, 1, masks[stem_of(path)], "anomalous"))
        else:
            samples.append(Sample(path, word, 0))
    problems += [f"{path}: is not listed in {list_file}" for path in images.values()]
    listed = {name.casefold(): label for name, label in labels.items()}
    problems += [
        f"{mask}: belongs to no anomalous image of {list_file}"
        for stem, mask in masks.items()
        if not any(label and Path(name).stem == stem.casefold() for name, label in listed.items())
    ]
    return Listing(tuple(samples), tuple(problems))


def _labels(path: Path, problems: list[str]) -> dict[str, int]:
    """Returns image name -> label; lines of another form are problems, except a first line "1"."""
    labels: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        cells = line.split()
        if not cells or (number == 1 and len(cells) == 1):
            continue
        if len(cells) < 3 or cells[1] not in ("0", "1") or "." not in cells[2]:
            problems.append(f"{path}, line {number}: expected NUMBER LABEL IMAGE, got {line.strip()!r:.60}")
            continue
        labels[cells[2]] = int(cells[1])
    return labels
