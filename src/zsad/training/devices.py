"""Trains on several devices: each process takes its share of the images of every step.

The loss of a step is a mean over its images, so its gradient is the sum of the gradients of the shares, each
weighted by its part of the images. The learnt parameters (prompts, a few linear layers) are small beside the
frozen network, so the gradients are summed once, as one vector, after the backward pass; all processes then
take the same step. The result is that of one device with the same batch, up to rounding.

Learnt prompts are the same for all images. Their gradients are summed where the prompts leave the text
encoder, and go back through it once: prompts that are rounded to half precision round their gradients,
and a sum of rounded parts is not the rounded sum.

Lightning Fabric starts the processes, gives each its device and sums tensors. Its wrappers for modules
are not used, because they average over processes as if all shares had the same size, and expect `forward`
to compute the loss.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import zsad.errors
from zsad.errors import ConfigError, MissingExtraError, ZsadError
from zsad.files.json_text import read_json
from zsad.files.plain import from_plain, write_json

START_METHOD = "ddp_spawn"
# Fabric logs its set-up before our function runs in a new process, but after this import.
for name in ("lightning_fabric.utilities.distributed", "lightning_fabric.utilities.rank_zero"):
    logging.getLogger(name).setLevel(logging.WARNING)


def alone(tensor: Tensor) -> Tensor:
    """Sums a tensor over one process: returns it unchanged."""
    return tensor


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, as one of them sees them.

    Attributes:
        rank: number of this process, from 0; only process 0 writes files.
        count: number of processes.
        add_up: sums a contiguous tensor over all processes, which all call it at once; the sum may overwrite
            the tensor.
    """

    rank: int = 0
    count: int = 1
    add_up: Callable[[Tensor], Tensor] = alone

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def share(self, images: int) -> tuple[slice, float]:
        """The images of a step that belong to this process, and their part of all images.

        If there are fewer images than processes, a process without an image takes the first one with weight
        0, so that all processes do the same.

        Args:
            images: number of images of the step, at least 1.

        Example:
            >>> [Ranks(rank, 2).share(3) for rank in range(2)]
            [(slice(0, 1, None), 0.3333333333333333), (slice(1, 3, None), 0.6666666666666666)]
            >>> Ranks(0, 2).share(1)
            (slice(0, 1, None), 0.0)
        """
        start = images * self.rank // self.count
        stop = images * (self.rank + 1) // self.count
        if start == stop:
            return slice(0, 1), 0.0
        return slice(start, stop), (stop - start) / images

    def join(self, tensor: Tensor) -> Tensor:
        """Returns a tensor unchanged; its gradient is summed over all processes and given to the first one.

        Args:
            tensor: result computed from the learnt parameters, the same in all processes.
        """
        if self.count == 1:
            return tensor
        joined: Tensor = _Join.apply(tensor, self)
        return joined

    def add_up_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces each gradient by its sum over all processes; None if no process has one.

        Args:
            parameters: learnt parameters, the same in all processes.
        """
        if self.count == 1:
            return
        learnt = list(parameters)
        # The vector ends with the number of processes that have each gradient, because an optimiser treats a
        # gradient of zeros differently from none.
        pieces = [
            each.new_zeros(each.numel()) if each.grad is None else each.grad.flatten() for each in learnt
        ]
        owners = pieces[0].new_tensor([float(each.grad is not None) for each in learnt])
        summed = self.add_up(torch.cat([*pieces, owners]))
        lengths = [*(len(piece) for piece in pieces), len(learnt)]
        *gradients, owners = torch.split(summed, lengths)
        for parameter, gradient, count in zip(learnt, gradients, owners.tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter).clone() if count else None


class _Join(torch.autograd.Function):
    """See `Ranks.join`."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks) -> Tensor:
        """Returns the tensor unchanged."""
        ctx.ranks = ranks
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        """Returns the sum in the first process, zeros in the others."""
        # Sums run in the order of memory, which in a transposed gradient depends on the number of images.
        summed = ctx.ranks.add_up(gradients[0].clone(memory_format=torch.contiguous_format))
        return (summed if ctx.ranks.is_first else torch.zeros_like(summed)), None


def on_devices(
    work: Callable[[Ranks, str | None], tuple[Any, ...]], devices: int, device: str | None
) -> tuple[Any, ...]:
    """Runs a function in several processes, each on its own device.

    Args:
        work: called with the ranks and the name of the process's device; the function and its result must be
            picklable. It must ask for the same sums in the same order in all processes.
        devices: number of devices.
        device: "cpu", "cuda", or None: CUDA GPUs if there are any, else the CPU.

    Returns:
        The result of the first process.

    Raises:
        MissingExtraError: Lightning Fabric is not installed.
        ConfigError: there are fewer devices, or `work` cannot be sent to another process.
        ZsadError: whatever a process raised, or a process died.
    """
    kind = _kind(devices, device)
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise MissingExtraError("lightning-fabric", "devices", "training on several devices") from error
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

    fabric = Fabric(accelerator=kind, devices=devices, strategy=START_METHOD)
    before = set(multiprocessing.active_children())
    with tempfile.TemporaryDirectory(prefix="zsad-") as folder:
        try:
            # The partial keeps Fabric from looking into the arguments for things to move between devices.
            result: tuple[Any, ...] = fabric.launch(
                functools.partial(_in_process, work=work, errors=Path(folder))
            )
        except (ProcessRaisedException, ProcessExitedException) as error:
            raise _told(Path(folder)) or _died(error) from error
        except (AttributeError, TypeError, OSError) as error:
            if "pickle" not in str(error):
                raise
            raise ConfigError(
                f"the training data cannot be sent to other processes ({error}); give folders, or picklable "
                "images, or --devices 1"
            ) from error
        finally:
            for process in set(multiprocessing.active_children()) - before:  # after Ctrl-C
                process.terminate()
                process.join()
    return result


def _kind(devices: int, device: str | None) -> str:
    """The kind of the devices: "cuda" or "cpu".

    Raises:
        ConfigError: another kind was asked for, or there are fewer devices.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f'{devices} devices share a training on "cuda" or "cpu", got device {kind!r}')
    if kind == "cuda" and torch.cuda.device_count() < devices:
        raise ConfigError(
            f"{devices} devices were asked for, this machine has {torch.cuda.device_count()} CUDA GPUs; use "
            "fewer, or --device cpu"
        )
    return kind


def _in_process(
    fabric: Any, work: Callable[[Ranks, str | None], tuple[Any, ...]], errors: Path
) -> tuple[Any, ...]:
    """Runs the work in a process; writes an error of zsad to a file, for the parent to raise again."""
    ranks = Ranks(
        fabric.global_rank, fabric.world_size, functools.partial(fabric.all_reduce, reduce_op="sum")
    )
    try:
        return work(ranks, str(fabric.device))
    except ZsadError as error:
        write_json(errors / f"{ranks.rank}.json", _Note(type(error).__name__, str(error)))
        raise


@dataclass(frozen=True)
class _Note:
    """The error that a process of a training met: the name of its class, and its message."""

    kind: str
    message: str


def _told(folder: Path) -> ZsadError | None:
    """The error of the first process that wrote one; None if none did."""
    for path in sorted(folder.glob("*.json")):
        note = from_plain(_Note, read_json(path), str(path))
        kind: Any = getattr(zsad.errors, note.kind, None)
        # The constructor of MissingExtraError takes other arguments.
        is_known = isinstance(kind, type) and issubclass(kind, ZsadError) and kind is not MissingExtraError
        error: ZsadError = kind(note.message) if is_known else ZsadError(note.message)
        return error
    return None


def _died(error: Exception) -> ZsadError:
    """The error for a process that was killed, or that met a bug."""
    *_, last = ["", *str(error).strip().splitlines()]
    return ZsadError(
        f"a process of the training ended early ({last}); finished epochs are kept, --resume continues "
        'from them. A script must call `train` below `if __name__ == "__main__":`'
    )
