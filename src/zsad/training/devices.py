"""Several devices on one training: each takes its share of the images of every step.

The loss of a step is a mean over its images, so its gradient is the sum of the shares' gradients, each
weighted by its part of the images. What is learnt is small (prompts, a few linear layers) beside the frozen
network, so the gradients travel once, as one vector, after the backward pass; all processes then take the
same step. The result is that of one device with the same batch, up to rounding.

Learnt sentences are the same for all images. Their gradients are added up where they leave the text encoder
and go back through it once, since prompts that are rounded to half precision round their gradients, and a
sum of rounded parts is not the rounded sum.

Lightning Fabric starts the processes, gives each its device and adds up tensors. Its wrappers for modules are
not used: they average over processes as if all shares were of one size, and want the loss to be computed by
`forward`.
"""

from __future__ import annotations

import functools
import json
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

START_METHOD = "ddp_spawn"
# Fabric tells about its set-up before a function of ours runs in a new process, but after this import.
for name in ("lightning_fabric.utilities.distributed", "lightning_fabric.utilities.rank_zero"):
    logging.getLogger(name).setLevel(logging.WARNING)


def alone(tensor: Tensor) -> Tensor:
    """The sum over one process."""
    return tensor


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, as one of them sees them.

    Attributes:
        rank: number of this process, from 0; only 0 writes files.
        count: number of processes.
        add_up: the sum of a contiguous tensor over all processes, which all of them call at once; it may be
            put in the tensor's place.
    """

    rank: int = 0
    count: int = 1
    add_up: Callable[[Tensor], Tensor] = alone

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, pictures: int) -> tuple[slice, float]:
        """Which images of a step belong to this process, and what part of all that is.

        Where there are fewer images than processes, those that go without take the first with no weight,
        so that all do the same.

        Args:
            pictures: of the step, at least one.

        Example:
            >>> [Ranks(rank, 2).share(3) for rank in range(2)]
            [(slice(0, 1, None), 0.3333333333333333), (slice(1, 3, None), 0.6666666666666666)]
            >>> Ranks(0, 2).share(1)
            (slice(0, 1, None), 0.0)
        """
        start = pictures * self.rank // self.count
        stop = pictures * (self.rank + 1) // self.count
        if start == stop:
            return slice(0, 1), 0.0
        return slice(start, stop), (stop - start) / pictures

    def join(self, tensor: Tensor) -> Tensor:
        """The same tensor, whose gradient on the way back is that of all processes, given to the first one.

        Args:
            tensor: computed alike in all processes from what is learnt.
        """
        if self.count == 1:
            return tensor
        joined: Tensor = _Join.apply(tensor, self)
        return joined

    def add_up_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces each gradient by its sum over all processes; none where no process has one.

        Args:
            parameters: the same in all processes.
        """
        if self.count == 1:
            return
        learnt = list(parameters)
        # The vector ends with how many processes have a gradient at all: an optimiser treats zeros otherwise
        # than nothing.
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
        """The tensor as it is."""
        ctx.ranks = ranks
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        """The sum in the first process, nothing in the others."""
        # Sums go through memory in its order, which in a transposed gradient depends on the images' number.
        summed = ctx.ranks.add_up(gradients[0].clone(memory_format=torch.contiguous_format))
        return (summed if ctx.ranks.is_first else torch.zeros_like(summed)), None


def on_devices(
    work: Callable[[Ranks, str | None], tuple[Any, ...]], devices: int, device: str | None
) -> tuple[Any, ...]:
    """Runs a function in several processes, each with a device of its own.

    Args:
        work: takes the ranks and the name of the process's device; it and its result must be picklable. In
            all processes it must ask for the same sums in the same order.
        devices: how many.
        device: "cpu", "cuda", or None: CUDA GPUs if there are any, else the CPU.

    Returns:
        What the first process's work returned.

    Raises:
        MissingExtraError: Lightning Fabric is not installed.
        ConfigError: there are not so many devices, or `work` cannot be sent to another process.
        ZsadError: of a process, as it raised it; or a process died.
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
    """What the devices are: "cuda" or "cpu".

    Raises:
        ConfigError: another device was asked for, or there are not so many.
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
    """What each process runs; an error of ours is written down for the parent to raise again."""
    ranks = Ranks(
        fabric.global_rank, fabric.world_size, functools.partial(fabric.all_reduce, reduce_op="sum")
    )
    try:
        return work(ranks, str(fabric.device))
    except ZsadError as error:
        note = {"kind": type(error).__name__, "message": str(error)}
        (errors / f"{ranks.rank}.json").write_text(json.dumps(note), encoding="utf-8")
        raise


def _told(folder: Path) -> ZsadError | None:
    """The error of the first process that wrote one down."""
    for path in sorted(folder.glob("*.json")):
        note = json.loads(path.read_text(encoding="utf-8"))
        kind: Any = getattr(zsad.errors, note["kind"], ZsadError)
        if kind is not MissingExtraError:  # its constructor takes other arguments
            error: ZsadError = kind(note["message"])
            return error
        return ZsadError(note["message"])
    return None


def _died(error: Exception) -> ZsadError:
    """A process that ended without a word of ours, or with a bug."""
    *_, last = ["", *str(error).strip().splitlines()]
    return ZsadError(
        f"a process of the training ended early ({last}); finished epochs are kept, --resume goes on with "
        'them. A script must call `train` below `if __name__ == "__main__":`'
    )
