"""Collects photographs of surfaces, objects and scenes from free Debian packages for `zsad.data.synthetic`.

Download and unpack the packages first (no root needed; about 1.5 GB, of which about 250 MB are kept):

    mkdir -p debs unpacked && cd debs
    apt-get download tuxpaint-stamps-default openclipart-png nexuiz-textures supertuxkart-data cube2-data
    apt-get download torcs-data 0ad-data krita-data gimp-data redeclipse-data
    apt-get download plasma-workspace-wallpapers gnome-backgrounds mate-backgrounds
    for deb in *.deb; do dpkg-deb -x "$deb" "../unpacked/${deb%%_*}"; done

Then:

    python tools/collect_materials.py --out materials unpacked/*

Each folder is one unpacked package and has its name. Archives in it (.zip, .pk3) are read too. Normal maps,
masks, interface graphics, texture atlases and near-duplicates are left out by name and by statistics. The
same input gives the same output. `sources.json` names the package, file and licence text of each image.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tga", ".rgb", ".dds", ".webp", ".bmp")
_ARCHIVES = (".zip", ".pk3")
_OTHER_MAPS = """
    n nm norm normal normals local nrm bump b gloss spec s specular glow h height heightmap disp displacement
    mask masks ao lightmap add lm shadow depth z alpha reflect gltf metal_rough data pants shirt luma splat
    splating splatting colorize emit emission parallax env envmap cube ft bk lf rt up dn
"""
_OTHER_THINGS = """
    gui ui icon icons skin skins skybox skyboxes sky skies particle particles crosshair crosshairs font fonts
    kart karts editor keys brushes caustics cursor cursors logo logos maps model models animated portrait
    portraits themes splash screenshot screenshots minimap hud background preset_icons pics alphamaps cars
    drivers decal decals text sign signs symbols flag flags loading menu animals people levelshot levelshots
    space nebula moon sunset mountain mountains panorama horizon vegetation props player gfx effect effects
    wheel wheels lamp lamps flare fire smoke lava
"""
_OTHER_DRAWINGS = """
    alphabets symbols stars flag flags signs_and_symbols geography roadsigns map_symbols icons letters numbers
    patterns shapes action actions education people webpage buttons special animals buildings houses cartoon
    comic recreation computer
"""


def _any_of(words: str, before: str, after: str) -> re.Pattern[str]:
    return re.compile(f"{before}({'|'.join(words.split())}){after}", re.IGNORECASE)


_NOT_A_COLOUR_MAP = _any_of(_OTHER_MAPS, r"(_|-|\b)", "$")
_NOT_A_SURFACE = _any_of(_OTHER_THINGS, r"(/|_|-|\b)", r"(?=/|_|-|\b|\d)")
_NOT_AN_OBJECT = _any_of(_OTHER_DRAWINGS, "/", "(/|$)")
_CUT_OUTS = ("tuxpaint-stamps-default", "openclipart-png")
_WALLPAPERS = ("plasma-workspace-wallpapers", "gnome-backgrounds", "mate-backgrounds", "ukui-wallpapers")
_WORDS = {
    "metal": "metal steel iron chrome alum mtl rust grate grill plate rivet pipe copper brass panel",
    "wood": "wood plank bark timber oak pine crate parquet log board trunk",
    "brick wall": "brick bricks brik",
    "stone": "stone rock cobble granite boulder cliff slate gravel pebble rubble ruin",
    "concrete": "concrete cement conc pavement plaster stucco",
    "tile": "tile tiles tiled mosaic ceramic bath marble",
    "ground": "dirt mud sand soil ground terrain earth dune desert clay snow",
    "grass": "grass moss lawn leaf leaves foliage hedge ivy forest savanna",
    "asphalt": "asphalt road tarmac street track",
    "fabric": "cloth fabric carpet rug curtain textile wool felt canvas jeans denim tapestry linen silk",
    "leather": "leather skin hide fur",
    "paper": "paper cardboard parchment",
    "roof": "roof shingle thatch",
    "glass": "glass window",
    "water": "water sea ocean lake",
    "wall": "wall trim base floor ceil ceiling door step stair",
}
_CATEGORY = {word: category for category, words in _WORDS.items() for word in words.split()}


@dataclass(frozen=True)
class Source:
    """One image in a package: package name, path within it, licence file, and how to read its bytes."""

    package: str
    name: str
    licence: str
    read: Callable[[], bytes]


def sources(folder: Path) -> Iterator[Source]:
    """Yields every image file below an unpacked package, including those in archives, in a fixed order."""
    licence = next((str(path.relative_to(folder)) for path in sorted(folder.rglob("copyright"))), "")
    for path in sorted(folder.rglob("*")):
        relative = str(path.relative_to(folder))
        if path.is_symlink() or not path.is_file():
            continue
        if path.suffix.lower() in _SUFFIXES:
            yield Source(folder.name, relative, licence, path.read_bytes)
        elif path.suffix.lower() in _ARCHIVES and zipfile.is_zipfile(path):
            archive = zipfile.ZipFile(path)
            for member in sorted(archive.namelist()):
                plain = member.lower().removesuffix(".cached.dds")
                if member.lower().endswith(_SUFFIXES) or plain.endswith(_SUFFIXES):
                    yield Source(
                        folder.name, f"{relative}!{member}", licence, lambda a=archive, m=member: a.read(m)
                    )


def stem(name: str) -> str:
    """Returns a file name without its suffixes ("wall.png.cached.dds" -> "wall")."""
    return Path(name.rsplit("!", maxsplit=1)[-1]).name.split(".")[0]


def material(name: str) -> str:
    """Returns the kind of surface that a path names ("metal", "wood", ...); "surface" if it names none."""
    path = name.rsplit("!", maxsplit=1)[-1].lower()
    for part in [stem(path), *path.split("/")[-2:-1]]:
        for word in re.findall(r"[a-z]+", part):
            if word in _CATEGORY:
                return _CATEGORY[word]
            for known, category in _CATEGORY.items():
                if len(known) > 3 and known in word:
                    return category
    return "surface"


def is_texture(image: Image.Image) -> bool:
    """Whether an image looks like the evenly covered colour map of a surface."""
    width, height = image.size
    if min(width, height) < 256 or max(width, height) > 2.1 * min(width, height):
        return False
    small = np.asarray(image.convert("RGBA").resize((128, 128), Image.Resampling.BOX), dtype=np.float32)
    if (small[..., 3] < 250).mean() > 0.02:
        return False
    rgb = small[..., :3]
    grey = rgb.mean(axis=2)
    mean = rgb.mean(axis=(0, 1))
    bluish = mean[2] > 195 and abs(mean[0] - 128) < 35 and abs(mean[1] - 128) < 35
    if bluish or grey.std() < 4 or not 18 < grey.mean() < 240:
        return False
    # An atlas or a logo has large areas of exactly one colour.
    raw = np.asarray(image.convert("RGB").resize((256, 256), Image.Resampling.NEAREST)).reshape(-1, 3)
    codes = raw.astype(np.int64) @ [65536, 256, 1]
    commonest = np.unique(codes, return_counts=True)[1].max() / codes.size
    if commonest > 0.08:
        return False
    blocks = grey.reshape(4, 32, 4, 32).mean(axis=(1, 3))
    return bool(blocks.var() / max(grey.var(), 1e-3) < 0.5)


def cut_out(image: Image.Image, *, drawn: bool) -> Image.Image | None:
    """Crops an RGBA image to its object; None if it is not one solid object with some shading."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return None
    piece = image.convert("RGBA")
    box = piece.getchannel("A").point(lambda value: 255 * (value > 40)).getbbox()
    if box is None:
        return None
    piece = piece.crop(box)
    if min(piece.size) < 48 or max(piece.size) > 6 * min(piece.size):
        return None
    piece.thumbnail((360, 360), Image.Resampling.LANCZOS)
    pixels = np.asarray(piece)
    solid = pixels[..., 3] > 128
    if not 0.15 < solid.mean() < 0.97:
        return None
    colours = len(np.unique(pixels[solid][:, :3].astype(np.int64) // 8 @ [1024, 32, 1]))
    return piece if colours >= (60 if drawn else 40) else None


def fingerprint(image: Image.Image) -> int:
    """Returns a perceptual hash: brightness steps of an 8 x 8 image and its coarse mean colour."""
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int64)
    bits = (grey[:, 1:] > grey[:, :-1]).flatten()
    colour = np.asarray(image.convert("RGB").resize((1, 1), Image.Resampling.BOX)).flatten() // 24
    return int("".join("1" if bit else "0" for bit in bits), 2) * 4096 + int(colour @ [256, 16, 1])


class Collection:
    """The output folder: limits for each place of origin, duplicates, and the list of sources."""

    def __init__(self, out: Path, per_folder: int, per_package: int) -> None:
        self.out = out
        self.per_folder = per_folder
        self.per_package = per_package
        self.seen: set[int] = set()
        self.count: Counter[str] = Counter()
        self.records: list[dict[str, str]] = []

    def add(self, part: str, words: str, source: Source, image: Image.Image) -> bool:
        """Writes one image unless it is a duplicate or its origin has reached a limit; tells whether."""
        place = f"{part}/{source.package}/{Path(source.name).parent}"
        whole = f"{part}/{source.package}"
        if self.count[place] >= self.per_folder or self.count[whole] >= self.per_package:
            return False
        print_of_image = fingerprint(image)
        if print_of_image in self.seen:
            return False
        self.seen.add(print_of_image)
        digest = hashlib.sha256(f"{source.package}/{source.name}/{self.count[place]}".encode()).hexdigest()[
            :10
        ]
        suffix = "png" if part == "objects" else "jpg"
        file = self.out / part / f"{words.replace(' ', '-')}__{digest}.{suffix}"
        if suffix == "png":
            image.save(file, optimize=True)
        else:
            image.convert("RGB").save(file, quality=92, subsampling=0)
        self.count[place] += 1
        self.count[whole] += 1
        self.records.append(
            {
                "file": f"{part}/{file.name}",
                "package": source.package,
                "source": source.name,
                "licence": source.licence,
            }
        )
        return True


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    image = image.convert("RGB")
    scale = side / min(image.size)
    if scale >= 1:
        return image
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def _sort_in(source: Source, collection: Collection) -> None:
    path = source.name.rsplit("!", maxsplit=1)[-1]
    wallpaper, drawn = source.package in _WALLPAPERS, source.package == "openclipart-png"
    if _NOT_A_COLOUR_MAP.search(stem(path)):
        return
    folder = "/" + str(Path(path).parent)
    if source.package in _CUT_OUTS:
        if _NOT_AN_OBJECT.search(folder.replace("/animals", "") if not drawn else folder):
            return
        # Photographs are worth more than drawings, which therefore get half of the room.
        if drawn and collection.count[f"objects/{source.package}"] >= collection.per_package // 2:
            return
    elif not wallpaper and _NOT_A_SURFACE.search(path):
        return
    with Image.open(io.BytesIO(source.read())) as image:
        if image.width * image.height > 80_000_000 or min(image.size) < 48:
            return
        image.load()
        if source.package in _CUT_OUTS:
            piece = cut_out(image, drawn=drawn)
            words = re.sub(r"[^a-z]+", " ", re.sub(r"\d.*$", "", stem(path).lower())).strip() or "object"
            if piece is not None:
                collection.add("objects", " ".join(words.split()[:3]), source, piece)
        elif wallpaper:
            _crops(source, image, collection)
        elif is_texture(image):
            collection.add("textures", material(source.name), source, _shrunk(image, 512))


def _crops(source: Source, image: Image.Image, collection: Collection) -> None:
    """Adds the whole wallpaper and its quarters at full resolution."""
    rgb = image.convert("RGB")
    if min(rgb.size) < 700:
        return
    side = min(rgb.size)
    for left in (0, rgb.width - side):
        collection.add("scenes", "scene", source, _shrunk(rgb.crop((left, 0, left + side, side)), 512))
    half = side // 2
    for top in (0, side - half):
        for left in range(0, rgb.width - half + 1, max((rgb.width - half) // 2, 1)):
            crop = rgb.crop((left, top, left + half, top + half))
            if np.asarray(crop.resize((64, 64)).convert("L"), dtype=np.float32).std() > 8:
                collection.add("scenes", "scene", source, _shrunk(crop, 512))


def collect(folders: list[Path], out: Path, *, per_folder: int, per_package: int) -> Collection:
    """Collects images from unpacked packages.

    Args:
        folders: one folder for each package, with the name of the package.
        out: output folder; `textures/`, `objects/`, `scenes/` and `sources.json` are created in it.
        per_folder: largest number of images from one folder of a package.
        per_package: largest number of images of one part (textures, objects, scenes) from a package.

    Returns:
        The collection, with its counts and records.
    """
    for part in ("textures", "objects", "scenes"):
        (out / part).mkdir(parents=True, exist_ok=True)
    collection = Collection(out, per_folder, per_package)
    for folder in sorted(folders):
        for source in sources(folder):
            try:
                _sort_in(source, collection)
            except (OSError, ValueError, SyntaxError, NotImplementedError, Image.DecompressionBombError):
                # Odd formats and truncated files are skipped; there are plenty of others.
                continue
        done = {part: collection.count[f"{part}/{folder.name}"] for part in ("textures", "objects", "scenes")}
        sys.stderr.write(f"{folder.name}: {done}\n")
    (out / "sources.json").write_text(json.dumps(collection.records, indent=1) + "\n", encoding="utf-8")
    return collection


def main() -> None:
    """Parses the command line and collects."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folders", nargs="+", type=Path, help="unpacked packages, each named as its package")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--per-folder", type=int, default=80, help="at most so many images of one source folder"
    )
    parser.add_argument(
        "--per-package", type=int, default=600, help="at most so many of one part from a package"
    )
    options = parser.parse_args()
    missing = [str(folder) for folder in options.folders if not folder.is_dir()]
    if missing:
        parser.error(f"not a folder: {', '.join(missing)}")
    collect(options.folders, options.out, per_folder=options.per_folder, per_package=options.per_package)


if __name__ == "__main__":
    main()
