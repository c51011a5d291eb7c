"""The state of a training on disk: the checkpoint of the last finished epoch.

For the result `prompts.safetensors` the file is `prompts.training/last.safetensors`. It holds the learnt
tensors and those of the optimiser, with everything else as JSON in the header; nothing is pickled. The file
is replaced in one step, so a complete one exists at any moment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from zsad.errors import WeightsError, ZsadError, one_line
from zsad.files.atomic import atomic_file
from zsad.files.fields import Count, shortened
from zsad.files.json_text import parse_object
from zsad.files.plain import from_plain, to_plain
from zsad.files.tensors import file_kind

HEADER_KEY = "zsad_training"
FORMAT = 1


@dataclass(frozen=True)
class TrainingState:
    """The state of a training between two epochs.

    Attributes:
        epoch: number of finished epochs.
        setup: everything that must stay the same for the same result, as plain JSON values.
        losses: mean loss of each finished epoch.
        scaler: state of the loss scaling of fp16; empty without it.
        learned: learnt tensors of the method, by name.
        optimizer: tensors of the optimiser, by "KEY/PARAMETER".
        qualities: metric on the categories held out after each finished epoch; () without such.
        best: learnt tensors of the best of these epochs, by name.
    """

    epoch: int
    setup: Mapping[str, Any]
    losses: tuple[float, ...]
    scaler: Mapping[str, Any]
    learned: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    qualities: tuple[float, ...] = ()
    best: Mapping[str, Tensor] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Writes the file in one step: a reader finds the old file or the new one, never a part."""
        groups = {"learned": self.learned, "optimizer": self.optimizer, "best": self.best}
        tensors = {
            f"{group}/{name}": tensor.detach().cpu().contiguous()
            for group, members in groups.items()
            for name, tensor in members.items()
        }
        header = to_plain(_Header(self.epoch, self.setup, self.losses, self.scaler, self.qualities))
        with atomic_file(path) as file:
            file.write(save(tensors, metadata={HEADER_KEY: json.dumps(header)}))

    @classmethod
    def read(cls, path: Path) -> TrainingState:
        """Reads what `write` wrote.

        Raises:
            WeightsError: the file is damaged or no training checkpoint; the message names the field.
        """
        groups: dict[str, dict[str, Tensor]] = {"learned": {}, "optimizer": {}, "best": {}}
        try:
            if file_kind(path) != "safetensors":
                raise WeightsError("expected a safetensors file")
            with safe_open(path, framework="pt") as file:
                header = _header((file.metadata() or {}).get(HEADER_KEY, "{}"))
                for key in file.keys():  # noqa: SIM118 - the file object is not iterable
                    group, _, name = key.partition("/")
                    if group not in groups:
                        raise WeightsError(f"the tensor {shortened(key)} is unknown")
                    groups[group][name] = file.get_tensor(key)
        except (SafetensorError, OSError, ZsadError) as error:
            problem = one_line(error)[:300]
            raise WeightsError(
                f"{path} is not a training checkpoint of zsad ({problem}): train anew with --overwrite"
            ) from error
        return cls(
            header.epoch,
            header.setup,
            header.losses,
            header.scaler,
            groups["learned"],
            groups["optimizer"],
            header.qualities,
            groups["best"],
        )


@dataclass(frozen=True)
class _Header:
    """What a file holds besides tensors; the fields are those of `TrainingState`."""

    epoch: Count
    setup: Mapping[str, Any]
    losses: tuple[float, ...]
    scaler: Mapping[str, int | float]  # torch takes the counts among them as int only
    qualities: tuple[float, ...] = ()
    format: int = FORMAT


def _header(text: str) -> _Header:
    """Reads the JSON in the header of a file.

    Raises:
        WeightsError: another version of zsad wrote it.
        DataError: a field is damaged.
    """
    values = parse_object(text, HEADER_KEY)
    if values.get("format", FORMAT) != FORMAT:
        raise WeightsError("another version of zsad wrote it")
    header = from_plain(_Header, values, HEADER_KEY)
    if len(header.losses) != header.epoch:
        raise WeightsError(f"{HEADER_KEY}: {len(header.losses)} losses of {header.epoch} epochs")
    return header
