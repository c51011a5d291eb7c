"""The one training loop: any method with something to learn, on any images with masks.

What is not said is done as the method's authors do it (`Method.TRAINING`). Data order and random numbers of
an epoch follow from the seed and the epoch's number alone, so a training that was killed and resumed from a
checkpoint takes the same steps on the same batches. On the same CPU, with as many threads, it ends with the
same weights bit for bit; elsewhere to rounding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from zsad.data.fingerprints import file_digests, pack_digests
from zsad.detector.loading import load
from zsad.errors import ConfigError
from zsad.methods._registry import method_class
from zsad.methods.base import TrainingDefaults
from zsad.training.cache import cacheable_features
from zsad.training.data import TrainingData, data_in_memory, data_on_disk
from zsad.training.devices import Ranks, on_devices
from zsad.training.logs import StepLog, TensorBoardLog
from zsad.training.options import TrainConfig, TrainResult
from zsad.training.recipe import choose, described
from zsad.training.run import TrainingRun, refuse_to_replace

if TYPE_CHECKING:
    from zsad.detector.detector import Detector
    from zsad.training.logs import Log

__all__ = ["TrainConfig", "TrainResult", "train"]

LOG_NAME = "log.csv"
TENSORBOARD_NAME = "tensorboard"


def train(
    config: TrainConfig, dataset: Iterable[Any] | None = None, *, show_progress: bool = True
) -> TrainResult:
    """Trains a method and writes its weights.

    Args:
        config: what to train, and how.
        dataset: instead of `config.data`: (image, mask, label, class name) tuples or `Sample`s. Images
            are what `zsad.images.reading.read_image` takes, masks (H, W) of the image's size, anomalous
            where above 0, or None for a normal image. With `__len__` and `__getitem__` (called from several
            threads) it is shuffled anew in each epoch; otherwise it is iterated over once an epoch in its own
            order.
            Several devices each get a copy of it, by pickle.
        show_progress: say what is trained on what, and draw a progress bar with the time left.

    Returns:
        Where the weights are, and the losses.

    Raises:
        ConfigError: the method has nothing to learn, or nothing to cache; a setting is impossible; there is a
            checkpoint already and neither `resume` nor `overwrite` is set; or it belongs to another training.
        DataError: images or masks that do not fit, by name.
        WeightsError: the backbone or the checkpoint cannot be read.
        MissingExtraError: several devices or TensorBoard were asked for and are not installed.
        ZsadError: the loss became NaN or infinite; the last good checkpoint stays. Or the cache cannot be
            written, or a process of several died.
    """
    started = time.monotonic()
    kind = method_class(config.method)
    if not kind.INFO.needs_training or kind.TRAINING is None:
        raise ConfigError(f"{config.method} has nothing to train; `zsad methods` shows which methods do")
    if config.cache is not None:
        cacheable_features(kind)
    if dataset is not None and config.data:
        raise ConfigError("give folders (data) or a dataset, not both")
    data = data_on_disk(config.data, config.split) if dataset is None else data_in_memory(dataset)
    refuse_to_replace(config)
    choose(kind.TRAINING, config, data.sets, "cpu")  # says what does not go together before anything loads
    work = functools.partial(_train, config, data, show_progress)
    if config.devices == 1:
        losses, resumed_from, fields = work(Ranks(), config.device)
    else:
        losses, resumed_from, fields = on_devices(work, config.devices, config.device)
    recipe = TrainingDefaults(**fields)
    return TrainResult(
        Path(config.out),
        config.folder / LOG_NAME,
        losses,
        resumed_from,
        time.monotonic() - started,
        recipe,
        described(recipe, kind.TRAINING, kind.INFO.title),
    )


def _train(
    config: TrainConfig, data: TrainingData, show_progress: bool, ranks: Ranks, device: str | None
) -> tuple[tuple[float, ...], int, dict[str, Any]]:
    """One process of a training: the losses, the epochs that were there already, and the recipe."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(config.seed)
        run = TrainingRun(config, data, _fresh_detector(config, device), ranks)
        resumed_from = run.resume()
        with contextlib.ExitStack() as files:
            logs = _logs(config, resumed_from) if ranks.is_first else []
            for log in logs:
                files.enter_context(log)
            progress = files.enter_context(_progress(show_progress and ranks.is_first))
            if show_progress and ranks.is_first:
                for line in _announcement(run):
                    progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
            _train_epochs(run, resumed_from, logs, progress)
    if ranks.is_first:
        run.detector.mark_trained(
            config.auxiliary_data or data.description, pack_digests(file_digests(data.files()))
        )
        run.detector.save(config.out)
    return tuple(run.losses), resumed_from, dataclasses.asdict(run.recipe)


def _train_epochs(run: TrainingRun, resumed_from: int, logs: Sequence[Log], progress: Progress) -> None:
    """Trains what is left, with a checkpoint after each epoch."""
    epochs, steps = run.recipe.epochs, run.steps
    bar = progress.add_task(
        run.config.method,
        total=None if steps is None else steps * epochs,
        completed=(steps or 0) * resumed_from,
        state="",
    )
    for epoch in range(resumed_from + 1, epochs + 1):
        for loss in run.epoch(epoch, logs):
            progress.update(bar, advance=1, state=f"epoch {epoch}/{epochs} loss {loss:.3f}")
        run.checkpoint(epoch)


def _logs(config: TrainConfig, resumed_from: int) -> list[StepLog | TensorBoardLog]:
    """The CSV log, and TensorBoard's if it is wanted; each is a context."""
    table = StepLog(config.folder / LOG_NAME, resumed_from)
    if not config.tensorboard:
        return [table]
    return [table, TensorBoardLog(config.folder / TENSORBOARD_NAME, table.kept_steps)]


def _announcement(run: TrainingRun) -> list[str]:
    """What is trained, how and on what, a line each."""
    published = run.method.TRAINING
    lines = [] if published is None else [described(run.recipe, published, run.method.INFO.title)]
    for each in run.data.sets:
        names = each.categories if len(each.categories) <= 3 else (*each.categories[:3], "...")
        kinds = f"{len(each.categories)} categor{'y' if len(each.categories) == 1 else 'ies'}"
        lines.append(
            f"{each.name}: {each.normal} normal and {each.anomalous} anomalous images, {kinds} "
            f"({', '.join(names)})"
        )
    if run.ranks.count > 1:
        lines.append(f"{run.ranks.count} devices ({run.device.type}) share each step")
    return lines


def _fresh_detector(config: TrainConfig, device: str | None) -> Detector:
    """A detector whose learnt part is new, even where weights are shipped for this method and backbone."""
    return load(
        config.method,
        config.backbone,
        "fresh",
        image_size=config.image_size,
        device=device,
        **config.settings,
    )


def _progress(show: bool) -> Progress:
    """A bar over all epochs."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not show,
    )
