"""Diagnoses an installation: versions, device, extras, cache and a real prediction."""

from __future__ import annotations

import os
import platform
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np

from zsad._version import __version__
from zsad.errors import RUNTIME_DISTRIBUTION, distribution_name, one_line
from zsad.files.cache import cache_dir, is_offline

_CORE_PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "safetensors",
    "tokenizers",
    "huggingface_hub",
    "scikit-learn",
)
_RUNTIME_PACKAGES = ("numpy", "pillow")
_EXTRAS_OF_DEVELOPERS = frozenset(("test", "dev", "docs"))
# Metadata spells an optional requirement as a marker behind the package's name and versions.
_REQUIREMENT_OF_EXTRA = re.compile(
    r"^(?P<package>[A-Za-z0-9._-]+).*extra\s*==\s*['\"](?P<extra>[^'\"]+)['\"]"
)


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        name: part of the installation, "cache" for example.
        value: its version or condition.
        state: "ok"; "note": something optional is missing; "problem": zsad does not work.
        advice: what to do about it; empty if nothing.
    """

    name: str
    value: str
    state: Literal["ok", "note", "problem"] = "ok"
    advice: str = ""


def diagnose() -> Iterator[Finding]:
    """Checks the installation and yields one finding after another, a real prediction last."""
    name = distribution_name()
    has_torch = name != RUNTIME_DISTRIBUTION
    yield Finding(name, __version__)
    if has_torch and _is_installed(RUNTIME_DISTRIBUTION):
        yield _both_installed()
    yield Finding("Python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield from (_package(name) for name in (_CORE_PACKAGES if has_torch else _RUNTIME_PACKAGES))
    if has_torch:
        yield _checked("device", _device)
    if _is_installed("onnxruntime") or _is_installed("onnxruntime-gpu"):
        yield _checked("bundles", _onnx_providers)
    yield from _extras(name)
    yield _checked("cache", _cache)
    yield _checked("images", _images)
    if is_offline():
        yield Finding("network", "not used: ZSAD_OFFLINE or HF_HUB_OFFLINE is set")
    else:
        yield Finding("network", "used to download weights; ZSAD_OFFLINE=1 or --offline forbids it")
    if not has_torch:
        yield Finding("prediction", "runs exported bundles: zsad predict IMAGES --bundle DIR")
        return
    yield _checked(
        "prediction", _prediction, advice="the package's own weights should work: install zsad again"
    )


def _images() -> str:
    """The limits of one image, and the depth of 16-bit files."""
    from zsad.images.limits import chosen_reading

    reading = chosen_reading()
    depth = "what they state" if reading.bits is None else f"{reading.bits} bits"
    return (
        f"at most {reading.max_pixels} pixels (ZSAD_MAX_PIXELS) and {human_bytes(reading.max_bytes)} of "
        f"memory while one is decoded (ZSAD_MAX_BYTES); depth of 16-bit files: {depth} (ZSAD_BITS)"
    )


def folder_size(folder: Path) -> int:
    """Total size of all files in a folder, in bytes; 0 if the folder does not exist."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def human_bytes(count: int) -> str:
    """A number of bytes in a readable unit.

    Example:
        >>> human_bytes(890_000_000), human_bytes(1_200), human_bytes(0)
        ('890 MB', '1.2 kB', '0 B')
    """
    size, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.2g} {unit}" if 0 < size < 10 and unit != "B" else f"{size:.0f} {unit}"


def _checked(name: str, check: Callable[[], str], advice: str = "") -> Finding:
    try:
        return Finding(name, check())
    except Exception as error:  # a diagnosis reports whatever is broken and continues
        return Finding(name, one_line(error), "problem", advice)


def _package(name: str) -> Finding:
    try:
        return Finding(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, "not installed", "problem", f"pip install {name}")


def _device() -> str:
    import torch

    found = [
        f"cuda:{index} {torch.cuda.get_device_name(index)}, "
        f"{human_bytes(torch.cuda.get_device_properties(index).total_memory)}"
        for index in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        found.append("mps (Apple)")
    threads = torch.get_num_threads()
    found.append(f"cpu, {threads} thread{'s' if threads != 1 else ''} of {os.cpu_count()} cores")
    return "; ".join(found)


def _onnx_providers() -> str:
    """What ONNX Runtime runs bundles on, best first."""
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    return f"ONNX Runtime {onnxruntime.__version__} with {', '.join(providers)}"


def _both_installed() -> Finding:
    """The files of both distributions lie in the same places, and removing one breaks the other."""
    again = "pip uninstall zsad-runtime, then pip install --force-reinstall --no-deps zsad"
    return Finding(RUNTIME_DISTRIBUTION, "installed beside zsad, which holds all of it", "problem", again)


def _extras(distribution: str) -> Iterator[Finding]:
    """A finding for each extra: its versions, or the line that installs it."""
    packages: dict[str, list[str]] = defaultdict(list)
    for requirement in metadata.requires(distribution) or ():
        found = _REQUIREMENT_OF_EXTRA.match(requirement)
        if found and found["extra"] not in _EXTRAS_OF_DEVELOPERS:
            packages[found["extra"]].append(found["package"])
    for extra, names in sorted(packages.items()):
        missing = [name for name in names if not _is_installed(name)]
        if missing:
            install = f"pip install '{distribution}[{extra}]'"
            yield Finding(f"extra {extra}", f"without {', '.join(missing)}", "note", install)
        else:
            versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
            yield Finding(f"extra {extra}", versions)


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _cache() -> str:
    folder = cache_dir()
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not os.access(nearest, os.W_OK):
        raise PermissionError(f"{folder} cannot be written; set ZSAD_CACHE to another folder")
    known = f"{folder}, {human_bytes(folder_size(folder))}"
    return f"{known} (hub downloads: {_hub_cache()})" if _is_installed("huggingface_hub") else known


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)


def _prediction() -> str:
    """Loads the default method on the shipped weights and scores an image."""
    import zsad

    started = time.perf_counter()
    detector = zsad.load()
    loaded = time.perf_counter()
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    detector.predict(image)  # the first one warms up
    warm = time.perf_counter()
    score = detector.predict(image).score
    if not 0 <= score <= 1:
        raise ValueError(f"the score of a test image is {score}, which is not in [0, 1]")
    name = f"{detector.method.INFO.name} on {detector.record.name}"
    milliseconds = 1000 * (time.perf_counter() - warm)
    return f"{name} works: loaded in {loaded - started:.1f} s, then {milliseconds:.0f} ms an image"
