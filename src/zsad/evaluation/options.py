"""Options of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.backbones.devices import PRECISIONS
from zsad.detector.choosing import DEFAULT_METHOD
from zsad.errors import ConfigError, unknown_name
from zsad.metrics.pro import check_pro

if TYPE_CHECKING:
    from zsad.data.layouts import Split
    from zsad.metrics.pro import ProVariant


@dataclass(frozen=True)
class EvaluationOptions:
    """What `zsad evaluate` is asked for.

    Attributes:
        data: specifications as `zsad.data.folder.open_datasets` takes them.
        out: folder for the results.
        methods: registry names; "all" stands for every one.
        backbones: as for `zsad.load`; None: the checkpoint's own, else "tiny".
        checkpoint: as for `zsad.load`; {method}, {backbone} and {seed} in it are filled in for each run.
        seeds: one run for each.
        split: of the datasets: "test", "train" or "all".
        pro: variant of AUPRO, "exact" or "script".
        fpr_limit: where the PRO curve is cut, in (0, 1].
        bootstrap: number of resamples for 95 % intervals of the image metrics; 0 for none.
        references: normal images of the training split per category, for few-shot methods; 0 for zero-shot.
        limit: at most so many images of a category, evenly spread; None for all.
        image_size: as for `zsad.load`.
        batch_size: images that go through the network at once.
        settings: of the methods, by the papers' terms; each method named must know them.
        precision: of the backbone; None for fp32.
        device: as for `zsad.load`.
        devices: processes that share the images of a category, each with a GPU of its own if there are any.
        resume: keep what an earlier run with the same settings has finished in `out`.
        allow_overlap: evaluate although test data are among the auxiliary data of the weights.
    """

    data: tuple[str, ...]
    out: Path
    methods: tuple[str, ...] = (DEFAULT_METHOD,)
    backbones: tuple[str | None, ...] = (None,)
    checkpoint: str | None = None
    seeds: tuple[int, ...] = (0,)
    split: Split = "test"
    pro: ProVariant = "exact"
    fpr_limit: float = 0.3
    bootstrap: int = 0
    references: int = 0
    limit: int | None = None
    image_size: int | None = None
    batch_size: int = 8
    settings: Mapping[str, Any] = field(default_factory=dict)
    precision: str | None = None
    device: str | None = None
    devices: int = 1
    resume: bool = False
    allow_overlap: bool = False

    def __post_init__(self) -> None:
        check_pro(self.pro, self.fpr_limit)
        least = {"batch_size": 1, "devices": 1, "bootstrap": 0, "references": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigError(f"{name} must be at least {value}, got {getattr(self, name)!r}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1 image, got {self.limit!r}")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if not self.data:
            raise ConfigError("no data to evaluate on: give --data FOLDER or --data NAME:FOLDER")
        if not (self.methods and self.backbones and self.seeds) or min(self.seeds) < 0:
            raise ConfigError("an evaluation needs a method, a backbone and a seed of 0 or more")
