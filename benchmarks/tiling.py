"""Compares ways to score a large image: as a whole, by tiles, and by both with several weights.

    python benchmarks/tiling.py --data ../shared/data/validation --out benchmarks/results/tiling

Defects keep their full size and lie in fields that are 1,040 pixels wide and high (strips: 256 x 2,080):

* surface, scene: synthetic (`zsad.data.synthetic`); each field with and without a defect;
* aitex, strip: a normal image of AITEX, continued by mirroring, into which a defect of another image is
  pasted with a soft border; the normal field gets a patch of the same shape from another normal image;
* circuitboard: the images as they are, 512 pixels wide.

Image AUROC is over all fields of a kind; pixel AUROC and AP are means over the defective fields. Without
--data only the synthetic fields are scored.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter

import zsad
from zsad.data.masks import read_mask
from zsad.data.synthetic.camera import photograph
from zsad.data.synthetic.defects import add_defect
from zsad.data.synthetic.materials import Materials
from zsad.data.synthetic.noise import to_bytes
from zsad.data.synthetic.scenes import SCENES
from zsad.detector.inputs import stack
from zsad.images.tiles import blend, tile_grid
from zsad.metrics.ranking import image_auroc, pixel_ap, pixel_auroc

SIDE = 1040
STRIP = 256
KINDS = ("surface", "scene", "aitex", "strip", "circuitboard")
OBJECT_SCENES = ("pattern", "assembly", "one_object", "many_objects")
SHARES = (0.0, 0.25, 0.5, 1.0)  # weight of the whole image; 1 leaves the tiles out
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Field:
    """An image (H, W, 3) with its mask (H, W); None for an image that is labelled only."""

    image: Bytes
    is_anomalous: bool
    mask: Mask | None


def synthetic(kind: str, pairs: int) -> Iterator[Field]:
    """Fields with and without one defect, which is drawn in a window of 320 pixels."""
    materials = Materials.procedural()
    for number in range(pairs):
        rng = np.random.default_rng([7 if kind == "surface" else 8, number])
        if kind == "surface":
            good, region = mirrored(to_bytes(materials.texture(rng, 320)[0])), None
        else:
            layout = SCENES[OBJECT_SCENES[number % len(OBJECT_SCENES)]](rng, materials, SIDE)
            good, region = to_bytes(layout.image), layout.region
        bad, mask = _with_defect(good, region, rng)
        camera = int(rng.integers(2**31))
        yield Field(photograph(good, np.random.default_rng(camera)), False, np.zeros_like(mask))
        yield Field(photograph(bad, np.random.default_rng(camera)), True, mask)


def pasted(category: Path, pairs: int, seed: int) -> Iterator[Field]:
    """Real normal images, continued by mirroring, with a real defect or a real normal patch pasted in."""
    normal = sorted((category / "test" / "good").iterdir())
    faulty = [path for path in sorted((category / "ground_truth").glob("*/*")) if _is_small(read_mask(path))]
    for number in range(pairs):
        rng = np.random.default_rng([seed, number])
        mask_path = faulty[rng.integers(len(faulty))]
        mask = read_mask(mask_path)
        (bad_path,) = (category / "test" / mask_path.parent.name).glob(
            f"{mask_path.stem.removesuffix('_mask')}.*"
        )
        ground, other = (_rgb(normal[index]) for index in rng.choice(len(normal), 2, replace=False))
        field = mirrored(ground)
        high, wide = mask.shape
        top, left = rng.integers(0, SIDE - high + 1), rng.integers(0, SIDE - wide + 1)
        window = (slice(top, top + high), slice(left, left + wide))
        soft = gaussian_filter(binary_dilation(mask, iterations=9).astype(np.float32), 3)
        rim = (soft > 0.02) & (soft < 0.6) & ~mask
        for source, is_anomalous in ((other, False), (_rgb(bad_path), True)):
            shift = field[window][rim].mean(axis=0) - source[rim].mean(axis=0)
            image, where = field.copy(), np.zeros(field.shape[:2], bool)
            image[window] = to_bytes(
                field[window] * (1 - soft[..., None]) + (source + shift) * soft[..., None]
            )
            where[window] = mask & is_anomalous
            yield Field(image, is_anomalous, where)


def strips(fields: Iterator[Field]) -> Iterator[Field]:
    """Strips around the defects of pairs of fields, continued by mirroring."""
    for good, bad in zip(fields, fields, strict=True):
        rows = np.flatnonzero(bad.mask.any(axis=1))
        top = int(np.clip((rows[0] + rows[-1] - STRIP) // 2, 0, SIDE - STRIP))
        for field in (good, bad):
            image, mask = (
                np.concatenate([part[top : top + STRIP], part[top : top + STRIP, ::-1]], axis=1)
                for part in (field.image, field.mask)
            )
            yield Field(image, field.is_anomalous, mask)


def labelled(category: Path, most: int) -> Iterator[Field]:
    """Images as they are, without masks."""
    for is_anomalous in (False, True):
        paths = [
            p for p in sorted((category / "test").glob("*/*")) if (p.parent.name != "good") == is_anomalous
        ]
        for path in paths[:: max(1, len(paths) // most)][:most]:
            yield Field(_rgb(path), is_anomalous, None)


def fields_of(kind: str, data: Path, pairs: int) -> tuple[Iterator[Field], tuple[int, ...]]:
    """The fields of a kind, and the sides of the tiles to compare."""
    if kind in ("surface", "scene"):
        return synthetic(kind, pairs), (320, 640)
    if kind == "circuitboard":
        return labelled(data / "aws_circuitboard" / kind, 2 * pairs), (256,)
    fabric = data / "aitex" / "fabric"
    if kind == "aitex":
        return pasted(fabric, pairs, seed=9), (320, 640)
    return strips(pasted(fabric, pairs, seed=10)), (256,)


def compare(detector: zsad.Detector, fields: Iterator[Field], sides: tuple[int, ...]) -> dict[str, Any]:
    """Figures by way of scoring: "whole", and "SIDE/SHARE" for tiles joined with the whole image."""
    found: dict[str, list[tuple[bool, float, float, float]]] = {}
    for field in fields:
        image = Image.fromarray(field.image)
        whole_scores, whole_maps = _ask(detector, [image])
        for side in sides:
            grid = tile_grid(*field.image.shape[:2], side)
            scores, maps = _ask(detector, [image.crop(box) for box in grid.boxes])
            enlarged = blend(tile_grid(*field.image.shape[:2], max(image.size)), whole_maps)
            joined = blend(grid, maps)
            for share in SHARES if side == sides[0] else SHARES[:-1]:
                score = (1 - share) * float(scores.max()) + share * float(whole_scores[0])
                pixels = (np.nan, np.nan)
                if field.mask is not None and field.is_anomalous:
                    both = [(1 - share) * joined + share * enlarged], [field.mask]
                    pixels = pixel_auroc(*both), pixel_ap(*both)
                name = "whole" if share == 1 else f"{side}/{share}"
                found.setdefault(name, []).append((field.is_anomalous, score, *pixels))
    return {name: _figures(rows) for name, rows in found.items()}


def mirrored(image: Bytes) -> Bytes:
    """An image continued by mirroring to a square of `SIDE` pixels."""
    more = [(0, max(0, SIDE - length)) for length in image.shape[:2]]
    return np.pad(image, (*more, (0, 0)), mode="symmetric")[:SIDE, :SIDE]


def main() -> None:
    """Prints the table and writes it as JSON and Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with aitex and aws_circuitboard")
    parser.add_argument("--out", type=Path, required=True, help="files to write, without their suffix")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, help="others keep their figures")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    detector = zsad.load()
    record = options.out.with_suffix(".json")
    result = json.loads(record.read_text()) if record.exists() else {}
    for kind in options.kinds:
        if kind in ("surface", "scene") or options.data:
            fields, sides = fields_of(kind, options.data, options.pairs)
            result[kind] = compare(detector, fields, sides)
            print(kind, json.dumps(result[kind]), flush=True)
            record.write_text(json.dumps(result, indent=2) + "\n")
    lines = [
        "| fields | tiles / weight of the whole | image AUROC | pixel AUROC | pixel AP |",
        "|---|---|---|---|---|",
    ]
    for kind, rows in result.items():
        for name, row in rows.items():
            cells = [row[figure] for figure in ("image_auroc", "pixel_auroc", "pixel_ap")]
            shown = " | ".join("" if cell is None else f"{cell:.3f}" for cell in cells)
            lines.append(f"| {kind} | {name} | {shown} |")
    options.out.with_suffix(".md").write_text("\n".join(lines) + "\n")


def _with_defect(good: Bytes, region: Mask | None, rng: np.random.Generator) -> tuple[Bytes, Mask]:
    """A copy with a defect in a window that shows something, and the mask of the defect."""
    for _ in range(50):
        top, left = rng.integers(0, SIDE - 320 + 1, 2)
        window = (slice(top, top + 320), slice(left, left + 320))
        if region is None or region[window].mean() > 0.2:
            break
    part = None if region is None else np.ascontiguousarray(region[window])
    spoiled, where, _ = add_defect(np.ascontiguousarray(good[window]), rng, region=part)
    bad, mask = good.copy(), np.zeros(good.shape[:2], bool)
    bad[window], mask[window] = spoiled, where
    return bad, mask


def _ask(detector: zsad.Detector, images: list[Image.Image]) -> tuple[NDArray[Any], NDArray[Any]]:
    raw = [
        detector.score_tensors(stack(images[start : start + 8], detector.preparation))
        for start in range(0, len(images), 8)
    ]
    return (
        np.concatenate([each.scores.numpy() for each in raw]),
        np.concatenate([each.maps.numpy() for each in raw]),
    )


def _figures(rows: list[tuple[bool, float, float, float]]) -> dict[str, Any]:
    labels, scores, *pixels = (np.array(column) for column in zip(*rows, strict=True))
    known = [
        float(column[np.isfinite(column)].mean()) if np.isfinite(column).any() else None for column in pixels
    ]
    return {
        "image_auroc": image_auroc(scores, labels),
        "pixel_auroc": known[0],
        "pixel_ap": known[1],
        "fields": len(rows),
    }


def _is_small(mask: Mask) -> bool:
    return bool(0.0005 < mask.mean() < 0.1)


def _rgb(path: Path) -> Bytes:
    return np.asarray(Image.open(path).convert("RGB"))


if __name__ == "__main__":
    main()
