"""The one training loop: any method with something to learn, on any pictures with masks.

Data order and random numbers of an epoch follow from the seed and the epoch's number alone, so a training
that was killed and resumed from a checkpoint ends with the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from zsad.backbones.loading import backbone_fingerprint
from zsad.detector import Detector, load
from zsad.errors import ConfigError, DataError, ZsadError, unknown_name
from zsad.features import STORED_AS, CachedSample, CachePrecision, FeatureCache, check_cacheable
from zsad.registry import method_class
from zsad.training_data import TrainingData, batches, data_in_folders, data_in_memory, prepare_item
from zsad.training_files import Checkpoint, StepLog

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP
    from zsad.data.transforms import PreparedSample

Precision = Literal["fp32", "bf16", "fp16"]
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
CHECKPOINT_NAME = "last.safetensors"
LOG_NAME = "log.csv"


@dataclass(frozen=True)
class TrainConfig:
    """One training. The defaults are the published recipe of AnomalyCLIP (and of GlocalCLIP).

    Attributes:
        out: the file to write, as `Detector.save` does.
        data: folders in MVTec layout, each a category, a dataset or a folder of datasets.
        split: "test", the papers' protocol (both classes, with masks), or "all": also the training pictures.
        method: registry name.
        backbone: as for `zsad.load`.
        epochs: passes over the data; the last one's weights are the result.
        batch_size: pictures a step.
        learning_rate: of Adam.
        betas: of Adam.
        seed: of the initial weights, the data order and everything else that is random.
        image_size: pixels a side; None as for `zsad.load`.
        device: as for `zsad.load`.
        precision: "fp32"; "bf16" or "fp16" run the network under autocast, weights and optimiser stay fp32.
        settings: the method's Config fields.
        auxiliary_data: what to record as the training data; empty: the names of the folders.
        workers: threads that read and resize pictures ahead; the result does not depend on it.
        resume: go on from the last checkpoint, if there is one.
        overwrite: start anew although there is a checkpoint or a result.
        cache: folder for the features of the pictures, which are computed once and then read, for methods
            with a frozen picture tower; several trainings may share it. None: the tower runs in every epoch.
        cache_precision: of the numbers in the cache; "bf16" and "fp16" halve its size and round.
    """

    out: Path
    data: tuple[Path, ...] = ()
    split: Literal["test", "all"] = "test"
    method: str = "anomalyclip"
    backbone: str | Path | CLIP | None = None
    epochs: int = 15
    batch_size: int = 8
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.999)
    seed: int = 111
    image_size: int | None = None
    device: str | None = None
    precision: Precision = "fp32"
    settings: Mapping[str, Any] = field(default_factory=dict)
    auxiliary_data: str = ""
    workers: int = 2
    resume: bool = False
    overwrite: bool = False
    cache: Path | None = None
    cache_precision: CachePrecision = "fp32"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "workers"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning rate must be a number above 0, got {self.learning_rate!r}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas of Adam must lie in [0, 1), got {self.betas!r}")
        if self.seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {self.seed!r}")
        if self.split not in ("test", "all"):
            raise unknown_name("split for training", self.split, ["test", "all"])
        if self.precision not in ("fp32", *AUTOCAST):
            raise unknown_name("precision", self.precision, ["fp32", *AUTOCAST])
        if self.cache_precision not in STORED_AS:
            raise unknown_name("cache precision", self.cache_precision, STORED_AS)
        if self.cache is None and self.cache_precision != "fp32":
            raise ConfigError(
                f"cache precision {self.cache_precision} without a cache: say where, as in --cache FOLDER"
            )
        if self.resume and self.overwrite:
            raise ConfigError("resume goes on with a training and overwrite discards it: choose one")

    @property
    def folder(self) -> Path:
        """Where checkpoint and log lie: `prompts.training` beside `prompts.safetensors`."""
        return Path(self.out).with_suffix(".training")


@dataclass(frozen=True)
class TrainResult:
    """What came of a training.

    Attributes:
        path: the written weights, for `zsad.load(checkpoint=...)`.
        log: the CSV file with the terms of the loss, a line per step.
        losses: mean loss of each epoch.
        resumed_from: finished epochs that were found on the disk, 0 for a new training.
        seconds: what this run took.
    """

    path: Path
    log: Path
    losses: tuple[float, ...]
    resumed_from: int
    seconds: float


def train(
    config: TrainConfig, dataset: Iterable[Any] | None = None, *, show_progress: bool = True
) -> TrainResult:
    """Trains a method and writes its weights.

    Args:
        config: what to train, and how.
        dataset: instead of `config.data`: (picture, mask, label, class name) tuples or `Sample`s. Pictures
            are what `zsad.images.read_image` takes, masks (H, W) of the picture's size, anomalous where above
            0, or None for a normal picture. With `__len__` and `__getitem__` (called from several threads) it
            is shuffled anew in each epoch; otherwise it is iterated over once an epoch in its own order.
        show_progress: draw a progress bar with the time left.

    Returns:
        Where the weights are, and the losses.

    Raises:
        ConfigError: the method has nothing to learn, or nothing to cache; a setting is impossible; there is a
            checkpoint already and neither `resume` nor `overwrite` is set; or it belongs to another training.
        DataError: pictures or masks that do not fit, by name.
        WeightsError: the backbone or the checkpoint cannot be read.
        ZsadError: the loss became NaN or infinite; the last good checkpoint stays. Or the cache cannot be
            written.
    """
    started = time.monotonic()
    if not method_class(config.method).INFO.needs_training:
        raise ConfigError(f"{config.method} has nothing to train; `zsad methods` shows which methods do")
    if config.cache is not None:
        check_cacheable(method_class(config.method))
    if dataset is not None and config.data:
        raise ConfigError("give folders (data) or a dataset, not both")
    data = data_in_folders(config.data, config.split) if dataset is None else data_in_memory(dataset)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(config.seed)
        run = _Run(config, data, _fresh_detector(config))
        resumed_from = run.resume()
        with StepLog(config.folder / LOG_NAME, resumed_from) as log, _progress(show_progress) as progress:
            steps = data.steps(config.batch_size)
            bar = progress.add_task(
                config.method,
                total=None if steps is None else steps * config.epochs,
                completed=(steps or 0) * resumed_from,
                state="",
            )
            for epoch in range(resumed_from + 1, config.epochs + 1):
                for loss in run.epoch(epoch, log):
                    progress.update(bar, advance=1, state=f"epoch {epoch}/{config.epochs} loss {loss:.3f}")
                run.checkpoint(epoch)
        run.detector.is_trained = True
        run.detector.auxiliary_data = config.auxiliary_data or data.description
        run.detector.save(config.out)
    return TrainResult(
        Path(config.out),
        config.folder / LOG_NAME,
        tuple(run.losses),
        resumed_from,
        time.monotonic() - started,
    )


class _Run:
    """A training under way: the network, its optimiser and what has been reached."""

    def __init__(self, config: TrainConfig, data: TrainingData, detector: Detector) -> None:
        self.config = config
        self.data = data
        self.detector = detector
        self.method = detector.method.requires_grad_(False)
        self.parameters: dict[str, nn.Parameter] = dict(self.method.trainable())
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        self.method.train()
        self.method.backbone.eval()
        self.device = next(iter(self.parameters.values())).device
        self.optimizer = torch.optim.Adam(
            self.parameters.values(), lr=config.learning_rate, betas=config.betas
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.losses: list[float] = []
        self.cache = None if config.cache is None else self._open_cache(config.cache)

    def epoch(self, epoch: int, log: StepLog) -> Iterator[float]:
        """Trains one epoch and yields the loss of each step.

        Raises:
            ZsadError: a loss or a weight is not finite any more.
        """
        torch.manual_seed(_epoch_seed(self.config.seed, epoch))
        total, pictures = 0.0, 0
        for step, batch in enumerate(self._batches(epoch), start=1):
            terms = self._step(batch)
            loss = sum(terms.values())
            log.add(epoch, step, terms)
            if not math.isfinite(loss):
                raise self._diverged(
                    f"the loss became {loss} in step {step} of epoch {epoch} ({terms})", epoch
                )
            total, pictures = total + loss * len(batch), pictures + len(batch)
            yield loss
        if pictures == 0:
            raise DataError(
                f"the dataset gave no pictures in epoch {epoch}; a generator can only be read once, "
                "give something that can be iterated over again, or epochs=1"
            )
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters.values()):
            raise self._diverged(f"weights became NaN or infinite in epoch {epoch}", epoch)
        self.losses.append(total / pictures)

    def _step(self, batch: Sequence[PreparedSample | CachedSample]) -> dict[str, float]:
        """One step of the optimiser; the terms of the loss before it."""
        masks = torch.from_numpy(np.stack([sample.mask for sample in batch if sample.mask is not None]))
        labels = torch.tensor([sample.label for sample in batch], device=self.device)
        dtype = AUTOCAST.get(self.config.precision)
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            terms = self._terms(batch, masks.to(self.device), labels)
        loss = torch.stack([term.float() for term in terms.values()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # One transfer from the device for all terms.
        values: list[float] = torch.stack([term.detach().double() for term in terms.values()]).tolist()
        return dict(zip(terms, values, strict=True))

    def _terms(
        self, batch: Sequence[PreparedSample | CachedSample], masks: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """The terms of the loss, from pictures or from their cached features."""
        names = [sample.class_name for sample in batch]
        if self.cache is not None:
            known = [sample for sample in batch if isinstance(sample, CachedSample)]
            features = self.cache.features(known, self.device)
            return self.method.loss_from_features(features, masks, labels, names)
        pictures = np.stack([sample.image for sample in batch if sample.image is not None])
        return self.method.loss(torch.from_numpy(pictures).to(self.device), masks, labels, names)

    def _batches(self, epoch: int) -> Iterator[list[Any]]:
        config, record = self.config, self.detector.record
        prepare: Any = functools.partial(
            prepare_item, size=self.detector.image_size, mean=record.mean, std=record.std
        )
        if self.cache is not None:
            prepare = self.cache.prepare
        return batches(
            self.data, config.batch_size, config.seed, epoch, workers=config.workers, prepare=prepare
        )

    def _open_cache(self, folder: Path) -> FeatureCache:
        record = self.detector.record
        return FeatureCache(
            folder,
            self.method,
            fingerprint=backbone_fingerprint(self.detector.backbone),
            image_size=self.detector.image_size,
            mean=record.mean,
            std=record.std,
            precision=self.config.cache_precision,
            computed_in=self.config.precision,
        )

    def setup(self) -> dict[str, Any]:
        """What must not change between the runs of one training; plain JSON."""
        config = self.config
        setup = {
            "method": config.method,
            "backbone": backbone_fingerprint(self.detector.backbone),
            "settings": dataclasses.asdict(self.method.config),
            "image_size": self.detector.image_size,
            "precision": config.precision,
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "betas": config.betas,
            "seed": config.seed,
            "data": self.data.fingerprint,
        }
        if self.cache is not None:
            setup["cache_precision"] = config.cache_precision
        plain: dict[str, Any] = json.loads(json.dumps(setup))
        return plain

    def checkpoint(self, epoch: int) -> None:
        """Replaces the checkpoint on the disk."""
        optimizer = {
            f"{key}/{name}": value
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state[parameter].items()
        }
        Checkpoint(
            epoch,
            self.setup(),
            tuple(self.losses),
            self.scaler.state_dict(),
            self.method.learned_state(),
            optimizer,
        ).write(self.config.folder / CHECKPOINT_NAME)

    def resume(self) -> int:
        """Takes up the checkpoint on the disk, if that is wanted and there is one.

        Returns:
            Finished epochs.

        Raises:
            ConfigError: there is a checkpoint or a result that nobody allowed to be replaced, or the
                checkpoint is of another training.
        """
        path, config = self.config.folder / CHECKPOINT_NAME, self.config
        existing = [str(each) for each in (path, Path(config.out)) if each.exists()]
        if existing and not (config.resume or config.overwrite):
            raise ConfigError(
                f"{existing[0]} is there already: --resume goes on with that training, --overwrite starts "
                "anew; or choose another --out"
            )
        if not config.resume or not path.exists():
            return 0
        found = Checkpoint.read(path)
        wanted = self.setup()
        names = [*wanted, *(name for name in found.setup if name not in wanted)]
        differing = [name for name in names if wanted.get(name) != found.setup.get(name)]
        if differing:
            name = differing[0]
            raise ConfigError(
                f"{path} is of another training: {', '.join(differing)} differ ({name} was "
                f"{found.setup.get(name)!r}, is {wanted.get(name)!r}); use the same settings, or --overwrite"
            )
        self._restore(found)
        return found.epoch

    def _restore(self, found: Checkpoint) -> None:
        self.method.load_learned(found.learned)
        states: list[dict[str, Tensor]] = [{} for _ in self.parameters]
        positions = {name: index for index, name in enumerate(self.parameters)}
        for key, tensor in found.optimizer.items():
            kind, _, name = key.partition("/")
            states[positions[name]][kind] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": dict(enumerate(states)), "param_groups": groups})
        if found.scaler:
            self.scaler.load_state_dict(dict(found.scaler))
        self.losses = list(found.losses)

    def _diverged(self, what: str, epoch: int) -> ZsadError:
        kept = (
            f"the checkpoint of epoch {epoch - 1} is kept in {self.config.folder / CHECKPOINT_NAME}"
            if epoch > 1
            else "no epoch was finished, so there is no checkpoint"
        )
        return ZsadError(f"{what}; {kept}. Try a smaller --lr, or --precision fp32")


def _fresh_detector(config: TrainConfig) -> Detector:
    """A detector whose learnt part is new, even where weights are shipped for this method and backbone."""
    return load(
        config.method,
        config.backbone,
        "fresh",
        image_size=config.image_size,
        device=config.device,
        **config.settings,
    )


def _epoch_seed(seed: int, epoch: int) -> int:
    """A seed for torch that differs between epochs and seeds."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _progress(show: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not show,
    )
