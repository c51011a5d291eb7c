"""Device and precision by name; torch is imported only when one is used."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from zsad.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    import torch

KINDS_OF_DEVICE = ("cpu", "cuda", "mps", "auto", "gpu")
PRECISIONS = {
    "float32": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
}
"""Names of torch's data types by the names that a user may type."""


def device_asked_for(device: str | int | torch.device | None) -> str | torch.device | None:
    """The name that torch knows for what a user types: letter case, a bare number, "gpu" and "auto".

    Example:
        >>> device_asked_for("CPU"), device_asked_for("0"), device_asked_for(1), device_asked_for("auto")
        ('cpu', 'cuda:0', 'cuda:1', None)
    """
    if device is None or not isinstance(device, str | int):
        return device
    name = str(device).strip().lower()
    if name.isdecimal():
        return f"cuda:{name}"
    if name == "gpu" or name.startswith("gpu:"):
        return name.replace("gpu", "cuda", 1)
    return None if name == "auto" else name


def check_device(device: str | torch.device | None) -> torch.device:
    """The torch device of a name.

    Raises:
        ConfigError: this machine has no such device.
    """
    import torch

    device = device_asked_for(device)
    try:
        place = torch.device("cpu" if device is None else device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        known = ["cpu"]
        known += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        known += ["mps"] if torch.backends.mps.is_available() else []
        kind = str(device).partition(":")[0]
        near = difflib.get_close_matches(kind, KINDS_OF_DEVICE, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near and near[0] != kind else ""
        raise ConfigError(
            f"device {str(device)!r} is not available here{hint}; available: {', '.join(known)}"
        ) from error
    return place


def check_precision(precision: str | torch.dtype | None) -> torch.dtype:
    """The torch dtype of a precision.

    Raises:
        ConfigError: the name is unknown, or no floating-point type that the network runs in.
    """
    import torch

    if precision is None:
        return torch.float32
    if isinstance(precision, torch.dtype):
        precision = str(precision).removeprefix("torch.")
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    dtype: torch.dtype = getattr(torch, PRECISIONS[precision])
    return dtype


def find_device(device: str | torch.device | None) -> torch.device:
    """The named device, or the fastest one of this machine if the name is None."""
    import torch

    device = device_asked_for(device)
    if device is not None:
        return check_device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_names(count: int, device: str | torch.device | None = None) -> tuple[str, ...]:
    """The devices of the processes of a run.

    Args:
        count: number of processes.
        device: kind of device, "cpu" or "cuda"; None for GPUs if the machine has any, and for the CPU if not.

    Returns:
        One name per process: "cuda:0", "cuda:1" and so on, or "cpu" each time.

    Raises:
        ConfigError: the machine has fewer devices, or the name is that of a single device.
    """
    import torch

    if count < 1:
        raise ConfigError(f"the number of devices must be at least 1, got {count}")
    kind = str(device_asked_for(device) or ("cuda" if torch.cuda.is_available() else "cpu"))
    if kind == "cpu" or count == 1:
        return (kind,) * count
    if kind != "cuda":
        raise ConfigError(
            f"device {kind!r} is a single device, but --devices is {count}: give cpu or cuda, or --devices 1"
        )
    there = torch.cuda.device_count()
    if there < count:
        raise ConfigError(f"--devices is {count}, but this machine has {there} GPUs: use --devices {there}")
    return tuple(f"cuda:{number}" for number in range(count))
