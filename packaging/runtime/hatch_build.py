"""Fills the wheel of `zsad-runtime` with this tree's package, without the weights that only torch uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path(__file__).resolve().parents[2] / "src" / "zsad"
LEFT_OUT = ("backbones/tiny", "backbones/clip_merges.txt.gz")


class RuntimeFiles(BuildHookInterface):
    """Hatch calls it before it builds the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds each file of the package that the runtime has a use for."""
        for path in sorted(SOURCE.rglob("*")):
            place = path.relative_to(SOURCE).as_posix()
            if path.is_file() and "__pycache__" not in place and not place.startswith(LEFT_OUT):
                build_data["force_include"][str(path)] = f"zsad/{place}"
