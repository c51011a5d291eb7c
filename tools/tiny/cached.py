"""Reading what `features.py` and `teacher.py` wrote: pyramids with masks, and sentence embeddings of states."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

GENERIC_NAMES = ("object", "surface", "texture", "part", "product", "material", "item")


class Cached:
    """Images of one or several cache folders, one behind the other."""

    def __init__(self, folders: list[Path]) -> None:
        metas = [json.loads((folder / "meta.json").read_text()) for folder in folders]
        self.parts = [
            [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("fine", "middle", "coarse")]
            for folder in folders
        ]
        self.starts = np.cumsum([0, *map(len, metas)])
        self.masks = np.concatenate(
            [np.load(folder / "mask.npy")[: len(meta)] for folder, meta in zip(folders, metas, strict=True)]
        )
        self.meta = [entry for meta in metas for entry in meta]
        self.labels = np.array([entry["label"] for entry in self.meta])
        self.categories = [entry["category"] for entry in self.meta]
        # Images that only a defect should tell apart: one synthetic scene, or one real category.
        keys = [
            (entry["category"], entry.get("scene", -1 if "file" in entry else row))
            for row, entry in self.each()
        ]
        self.groups = np.unique([f"{category} {scene}" for category, scene in keys], return_inverse=True)[1]

    def __len__(self) -> int:
        return len(self.meta)

    def each(self) -> enumerate[dict[str, object]]:
        """Row number and what is known of every image."""
        return enumerate(self.meta)

    def batch(self, rows: np.ndarray) -> tuple[list[Tensor], Tensor, Tensor]:
        """Levels (B, C, g, g) float32, coverage (B, M, M) in [0, 1], labels (B,)."""
        places = [
            (int(part), int(row - self.starts[part]))
            for row, part in zip(rows, self.owners(rows), strict=True)
        ]
        levels = [
            torch.from_numpy(np.stack([self.parts[part][level][row] for part, row in places])).float()
            for level in range(3)
        ]
        return levels, torch.from_numpy(self.masks[rows]).float() / 255, torch.from_numpy(self.labels[rows])

    def owners(self, rows: np.ndarray) -> np.ndarray:
        """Which folder each row lies in."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def rows(self, category: str) -> np.ndarray:
        """Images of a category that are tested, not those that may serve as references."""
        return np.array(
            [
                row
                for row, entry in self.each()
                if entry["category"] == category and not entry.get("reference")
            ]
        )

    def noun(self, row: int) -> str:
        """What the image shows, as a word."""
        entry = self.meta[row]
        return str(entry.get("noun", entry["category"]))


class StateWords:
    """The teacher's embeddings of "a photo of a damaged X" and the like, for many X.

    Attributes:
        plain: (1, 2, E) normal and abnormal ensemble for "object".
        names: (K, E) mean direction of each X, whatever its state.
    """

    def __init__(self, path: Path, rng: np.random.Generator) -> None:
        stored = np.load(path)
        self.rng = rng
        self.normal = torch.from_numpy(stored["normal"]).float()  # (K, states, E)
        self.abnormal = torch.from_numpy(stored["abnormal"]).float()
        nouns = [str(noun) for noun in stored["nouns"]]
        self.numbers = {noun: number for number, noun in enumerate(nouns)}
        self.generic = [self.numbers[name] for name in GENERIC_NAMES]
        middle = F.normalize(self.normal.mean(1), dim=-1) + F.normalize(self.abnormal.mean(1), dim=-1)
        self.names = F.normalize(middle, dim=-1)
        thing = self.numbers["object"]
        plain = torch.stack([self.normal[thing].mean(0), self.abnormal[thing].mean(0)])
        self.plain = F.normalize(plain, dim=-1)[None]

    def number(self, noun: str) -> int:
        """Row of a noun, -1 if the teacher was not asked about it."""
        return self.numbers.get(noun, -1)

    def sample(self, nouns: Tensor) -> Tensor:
        """(B, 2, E) normal and abnormal directions: half of them object-agnostic, half of them of few states."""
        pairs = []
        for number in nouns.tolist():
            chosen = number
            if number < 0 or self.rng.random() < 0.5:
                chosen = int(self.rng.choice(self.generic))
            normal, abnormal = self.normal[chosen], self.abnormal[chosen]
            if self.rng.random() < 0.5:
                normal = normal[self.rng.choice(len(normal), 4)]
                abnormal = abnormal[self.rng.choice(len(abnormal), 6)]
            pairs.append(torch.stack([normal.mean(0), abnormal.mean(0)]))
        return F.normalize(torch.stack(pairs), dim=-1)


@dataclass(frozen=True)
class Batch:
    """Rows of the synthetic and of the auxiliary cache."""

    parts: tuple[tuple[Cached, np.ndarray], ...]

    def tensors(self, words: StateWords) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor]:
        """Levels, masks, labels, noun numbers and group numbers of all rows together."""
        read = [data.batch(rows) for data, rows in self.parts]
        levels = [torch.cat([each[0][level] for each in read]) for level in range(3)]
        nouns = [words.number(data.noun(int(row))) for data, rows in self.parts for row in rows]
        masks, labels = torch.cat([each[1] for each in read]), torch.cat([each[2] for each in read])
        # Groups of different caches must not meet, so each cache counts from another number on.
        groups = [data.groups[rows] + 10**6 * number for number, (data, rows) in enumerate(self.parts)]
        return levels, masks, labels, torch.tensor(nouns), torch.from_numpy(np.concatenate(groups))


def mixed(
    rng: np.random.Generator,
    synthetic: Cached,
    held_out: int,
    crops: Cached,
    usable: np.ndarray,
    size: int,
    share: float,
) -> Batch:
    """A random batch: a share of real crops, half of them anomalous, the rest synthetic, scenes kept together."""
    real = round(size * share)
    anomalous, normal = usable[crops.labels[usable] == 1], usable[crops.labels[usable] == 0]
    rows = np.concatenate([rng.choice(anomalous, real // 2), rng.choice(normal, real - real // 2)])
    made = rng.integers(0, len(synthetic) - held_out, size - real)
    if "scene" in synthetic.meta[0]:
        pairs = made[: (size - real) // 2] // 2 * 2
        made = np.concatenate([pairs, pairs + 1])
    return Batch(((synthetic, made), (crops, rows)))
