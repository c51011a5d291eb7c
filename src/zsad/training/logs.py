"""The loss of every step as a CSV file and, if wanted, for TensorBoard."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol

from zsad.errors import MissingExtraError
from zsad.files.atomic import atomic_file


class Log(Protocol):
    """Takes the loss of each step."""

    def add(self, epoch: int, step: int, terms: Mapping[str, float]) -> None:
        """Writes one step.

        Args:
            epoch: number of the epoch, from 1.
            step: number of the step within the epoch, from 1.
            terms: terms of the loss, by name.
        """


class TensorBoardLog:
    """Event files: `loss`, its terms as `loss/NAME`, and the `epoch`, by the number of the step."""

    def __init__(self, folder: Path, finished_steps: int) -> None:
        """Opens a new event file.

        Args:
            folder: folder of the event files; those of earlier runs stay, and TensorBoard joins their curves.
            finished_steps: number of finished steps; TensorBoard hides what an earlier run wrote after them.

        Raises:
            MissingExtraError: TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "tensorboard", "writing logs for TensorBoard") from error
        self._writer = SummaryWriter(str(folder), purge_step=finished_steps or None)
        self._steps = finished_steps

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def add(self, epoch: int, step: int, terms: Mapping[str, float]) -> None:
        """Writes one step.

        Args:
            epoch: number of the epoch, from 1.
            step: number of the step within the epoch, from 1.
            terms: terms of the loss, by name.
        """
        scalars = {"loss": sum(terms.values()), "epoch": float(epoch)}
        scalars |= {f"loss/{name}": value for name, value in terms.items()}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, self._steps)
        self._steps += 1


class StepLog:
    """A CSV file with a line per step, flushed at once: epoch, step, seconds, loss and its terms.

    Attributes:
        kept_steps: number of lines kept from an earlier run.
    """

    FIXED = ("epoch", "step", "seconds", "loss")

    def __init__(self, path: Path, finished_epochs: int) -> None:
        """Opens the log and drops the lines of epochs that are trained again.

        Args:
            path: path of the file; a missing folder is created.
            finished_epochs: last epoch whose lines are kept.
        """
        kept = _lines_up_to(path, finished_epochs)
        with atomic_file(path) as file:
            file.write("".join(kept).encode())
        self._has_header = bool(kept)
        self.kept_steps = max(len(kept) - 1, 0)
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._started = time.monotonic()

    def __enter__(self) -> StepLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, epoch: int, step: int, terms: Mapping[str, float]) -> None:
        """Writes one line.

        Args:
            epoch: number of the epoch, from 1.
            step: number of the step within the epoch, from 1.
            terms: terms of the loss, by name.
        """
        if not self._has_header:
            self._writer.writerow([*self.FIXED, *terms])
            self._has_header = True
        seconds = round(time.monotonic() - self._started, 3)
        self._writer.writerow([epoch, step, seconds, repr(sum(terms.values())), *map(repr, terms.values())])
        self._file.flush()


def _lines_up_to(path: Path, epoch: int) -> list[str]:
    """The header and the lines up to an epoch of an existing log, without a line cut off by a crash."""
    if epoch == 0 or not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    first_fields = [line.partition(",")[0] for line in lines]
    return [
        line
        for index, (line, first) in enumerate(zip(lines, first_fields, strict=True))
        if index == 0 or (first.isdecimal() and int(first[:18]) <= epoch and line.endswith("\n"))
    ]
