"""Fills the wheel of `zsad-runtime` with this tree's package, without the weights that only torch uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "zsad"
LEFT_OUT = ("backbones/tiny", "backbones/clip_merges.txt.gz")


class RuntimeFiles(BuildHookInterface):
    """Hatch calls it before it builds the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds each file of the package that the runtime has a use for, and the licence."""
        included = build_data["force_include"]
        for path in sorted(SOURCE.rglob("*")):
            place = path.relative_to(SOURCE).as_posix()
            if path.is_file() and "__pycache__" not in place and not place.startswith(LEFT_OUT):
                included[str(path)] = f"zsad/{place}"
        for name in ("LICENSE", "NOTICE"):
            included[str(ROOT / name)] = f"zsad/{name}"
