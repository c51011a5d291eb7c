"""Device and precision by name; torch is imported only when one is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsad.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    import torch

PRECISIONS = {
    "float32": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
}
"""Names of torch's data types, by the names that a user may type."""


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
        ConfigError: there is no such device, or not on this machine.
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
        raise ConfigError(
            f"device {str(device)!r} is not available here; there is: {', '.join(known)}"
        ) from error
    return place


def check_precision(precision: str | torch.dtype | None) -> torch.dtype:
    """The torch dtype of a precision's name.

    Raises:
        ConfigError: it is not a floating-point type that the network runs in.
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


def _find_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the fastest that is there."""
    import torch

    device = device_asked_for(device)
    if device is not None:
        return check_device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_names(count: int, device: str | torch.device | None = None) -> tuple[str, ...]:
    """The devices of a run's processes.

    Args:
        count: of the processes.
        device: their kind, "cpu" or "cuda"; None: GPUs if there are any, else the CPU.

    Returns:
        One name per process: "cuda:0", "cuda:1" and so on, or "cpu" each time.

    Raises:
        ConfigError: there are fewer devices than asked for, or one of a single device was named.
    """
    import torch

    if count < 1:
        raise ConfigError(f"the number of devices must be at least 1, got {count}")
    kind = str(device_asked_for(device) or ("cuda" if torch.cuda.is_available() else "cpu"))
    if kind == "cpu" or count == 1:
        return (kind,) * count
    if kind != "cuda":
        raise ConfigError(
            f"device {kind!r} is a single one, {count} were asked for: give cpu or cuda, or --devices 1"
        )
    there = torch.cuda.device_count()
    if there < count:
        raise ConfigError(f"{count} devices were asked for, this machine has {there} GPUs: --devices {there}")
    return tuple(f"cuda:{number}" for number in range(count))
