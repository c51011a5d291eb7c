"""The loss of every step for TensorBoard, beside the CSV log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from zsad.errors import MissingExtraError


class TensorBoardLog:
    """Event files: `loss`, its terms as `loss/NAME`, and the `epoch`, by the number of the step."""

    def __init__(self, folder: Path, finished_steps: int) -> None:
        """Opens a new event file.

        Args:
            folder: for the event files; those of earlier runs stay, and TensorBoard shows them as one curve.
            finished_steps: of the whole training; what an earlier run wrote after them is not shown any more.

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
            epoch: from 1.
            step: from 1 in each epoch.
            terms: the named terms of the loss.
        """
        scalars = {"loss": sum(terms.values()), "epoch": float(epoch)}
        scalars |= {f"loss/{name}": value for name, value in terms.items()}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, self._steps)
        self._steps += 1
