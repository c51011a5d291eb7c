"""Describes where and with which versions an evaluation was made."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zsad._version import __version__


def describe_environment(command: str | None) -> dict[str, Any]:
    """Collects versions, commit and machine, as plain JSON values.

    Args:
        command: command line as typed; None for a call from Python.
    """
    return {
        "zsad": __version__,
        "commit": commit_of(Path(__file__).parent),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": _device_name(),
        "command": command,
        "started": now(),
    }


def commit_of(folder: Path) -> str | None:
    """The commit of the checkout that holds a folder, with a final "+" if files differ; None elsewhere."""
    git = shutil.which("git")
    if git is None or not (folder.parents[1] / ".git").exists():  # a checkout: REPOSITORY/src/zsad
        return None
    commit = _output(git, folder, "rev-parse", "HEAD")
    changed = _output(git, folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+" if commit and changed else commit


def now() -> str:
    """The current time in ISO 8601 with its time zone, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def peak_memory() -> float | None:
    """The largest resident memory of this process so far in MiB; None if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 2**20 if sys.platform == "darwin" else peak / 2**10, 1)


def _device_name() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return platform.processor() or platform.machine()


def _output(git: str, folder: Path, *arguments: str) -> str | None:
    """The output of a git command; None if it fails."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            [git, "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
