"""What training leaves on the disk: the checkpoint of the last finished epoch and a log line per step.

For the result `prompts.safetensors` both lie in the folder `prompts.training`: `last.safetensors` (learnt
tensors and the optimiser's, with everything else as JSON in the file's header; nothing is pickled) and
`log.csv`. The checkpoint is replaced in one step, so there is a whole one at any moment.
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

HEADER_KEY = "zsad_training"
FORMAT = 1


@dataclass(frozen=True)
class TrainingState:
    """The state of a training between two epochs.

    Attributes:
        epoch: finished epochs.
        setup: what must be the same for the training to go on to the same result; plain JSON.
        losses: mean loss of each finished epoch.
        scaler: state of the loss scaling of fp16, empty without it.
        learned: the method's learnt tensors.
        optimizer: the optimiser's tensors, "KEY/PARAMETER" by name.
    """

    epoch: int
    setup: Mapping[str, Any]
    losses: tuple[float, ...]
    scaler: Mapping[str, Any]
    learned: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]

    def write(self, path: Path) -> None:
        """Writes the file in one step: a reader finds the old one or the new one, never a half."""
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
            WeightsError: the file is damaged or something else.
        """
        groups: dict[str, dict[str, Tensor]] = {"learned": {}, "optimizer": {}}
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})[HEADER_KEY])
                for key in file.keys():  # noqa: SIM118 - the file object is not iterable
                    group, _, name = key.partition("/")
                    groups[group][name] = file.get_tensor(key)
            if header["format"] != FORMAT:
                raise WeightsError(
                    f"{path} was written by another version of zsad; train anew with --overwrite"
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
                f"{path} is not a training checkpoint of zsad ({error}); train anew with --overwrite"
            ) from error
