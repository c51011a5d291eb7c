"""The state of a training on disk: the checkpoint of the last finished epoch.

For the result `prompts.safetensors` the file is `prompts.training/last.safetensors`. It holds the learnt
tensors and those of the optimiser, with everything else as JSON in the header; nothing is pickled. The file
is replaced in one step, so a complete one exists at any moment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from zsad.errors import WeightsError
from zsad.files.atomic import atomic_file
from zsad.files.plain import parse_object

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
    """

    epoch: int
    setup: Mapping[str, Any]
    losses: tuple[float, ...]
    scaler: Mapping[str, Any]
    learned: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]

    def write(self, path: Path) -> None:
        """Writes the file in one step: a reader finds the old file or the new one, never a part."""
        groups = {"learned": self.learned, "optimizer": self.optimizer}
        tensors = {
            f"{group}/{name}": tensor.detach().cpu().contiguous()
            for group, members in groups.items()
            for name, tensor in members.items()
        }
        header = {
            "format": FORMAT,
            "epoch": self.epoch,
            "setup": dict(self.setup),
            "losses": list(self.losses),
            "scaler": dict(self.scaler),
        }
        with atomic_file(path) as file:
            file.write(save(tensors, metadata={HEADER_KEY: json.dumps(header)}))

    @classmethod
    def read(cls, path: Path) -> TrainingState:
        """Reads what `write` wrote.

        Raises:
            WeightsError: the file is damaged or no training checkpoint.
        """
        groups: dict[str, dict[str, Tensor]] = {"learned": {}, "optimizer": {}}
        try:
            with safe_open(path, framework="pt") as file:
                header = parse_object((file.metadata() or {})[HEADER_KEY], HEADER_KEY)
                for key in file.keys():  # noqa: SIM118 - the file object is not iterable
                    group, _, name = key.partition("/")
                    groups[group][name] = file.get_tensor(key)
            if header["format"] != FORMAT:
                raise WeightsError(
                    f"{path} was written by another version of zsad; train from scratch with --overwrite"
                )
            return cls(
                header["epoch"],
                header["setup"],
                tuple(header["losses"]),
                header["scaler"],
                groups["learned"],
                groups["optimizer"],
            )
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise WeightsError(
                f"{path} is not a training checkpoint of zsad ({error}); train from scratch with --overwrite"
            ) from error
