"""Trains any method with learnt parameters, on any images with masks.

Settings that are not given are those of the method's authors (`Method.TRAINING`). The order of the data and
the random numbers of an epoch depend only on the seed and the number of the epoch, so a training that was
killed and resumed from a checkpoint takes the same steps on the same batches. On the same CPU and with the
same number of threads it ends with the same weights bit for bit; elsewhere to rounding.
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
from zsad.files.run_lock import only_writer
from zsad.methods._registry import method_class
from zsad.methods.training import TrainingDefaults
from zsad.training.cache import cacheable_features
from zsad.training.data import TrainingData, data_in_memory, data_on_disk
from zsad.training.devices import Ranks, on_devices
from zsad.training.held_out import HeldOut, set_apart
from zsad.training.labels import refuse_unusable
from zsad.training.logs import StepLog, TensorBoardLog
from zsad.training.options import TrainOptions, TrainResult
from zsad.training.recipe import choose, described
from zsad.training.run import TrainingRun, refuse_to_replace

if TYPE_CHECKING:
    from zsad.detector.detector import Detector
    from zsad.training.logs import Log

LOG_NAME = "log.csv"
TENSORBOARD_NAME = "tensorboard"


def train(
    options: TrainOptions, dataset: Iterable[Any] | None = None, *, show_progress: bool = True
) -> TrainResult:
    """Trains a method and writes its weights.

    Args:
        options: what to train, and how.
        dataset: replaces `options.data`: (image, mask, label, class name) tuples or `Sample`s. Images
            are what `zsad.images.reading.read_image` takes, masks (H, W) of the image's size, anomalous
            where above 0, or None for a normal image; in a list or tuple also for an anomalous image, of
            which then only the label counts. A dataset with `__len__` and `__getitem__` (called
            from several threads) is shuffled in each epoch; any other is iterated over once per epoch, in its
            own order. With several devices, each gets a copy by pickle.
        show_progress: whether to print what is trained on what, and to draw a progress bar.

    Returns:
        The path of the weights, the losses, and the settings of the training.

    Raises:
        ConfigError: the method has nothing to learn, or nothing to cache; a setting is impossible; a
            checkpoint exists and neither `resume` nor `overwrite` is set, or it belongs to another training.
        DataError: an image or mask does not fit; the message names it.
        WeightsError: the backbone or the checkpoint cannot be read.
        MissingExtraError: the package for several devices or for TensorBoard is not installed.
        ZsadError: the loss became NaN or infinite (the last good checkpoint stays), the cache cannot be
            written, or one of several processes died.
    """
    started = time.monotonic()
    kind = method_class(options.method)
    published = kind.training_defaults(options.settings)
    if not kind.INFO.needs_training or published is None:
        raise ConfigError(f"{options.method} has nothing to train; `zsad methods` shows which methods do")
    if options.cache is not None:
        cacheable_features(kind, options.settings)
    if dataset is not None and options.data:
        raise ConfigError("give folders (data) or a dataset, not both")
    if dataset is None:
        data = data_on_disk(
            options.data, options.split, options.normal_labels, include_results=options.include_results
        )
    else:
        data = data_in_memory(dataset)
    refuse_to_replace(options)
    if data.masks is not None:
        refuse_unusable(kind, data.masks, options.devices)
    if options.devices > 1 and not kind.LOSS_IS_MEAN:
        raise ConfigError(
            f"a step of {kind.INFO.name} is no mean over its images, so {options.devices} devices cannot "
            "share it: use --devices 1"
        )
    # Says what does not go together before anything is loaded.
    recipe = choose(published, options, data.sets, "cpu")
    data, held_out = _held_out(options, recipe, data)
    work = functools.partial(_train, options, data, held_out, show_progress)
    with only_writer(options.out, options.folder):
        if options.devices == 1:
            losses, resumed_from, fields = work(Ranks(), options.device)
        else:
            losses, resumed_from, fields = on_devices(work, options.devices, options.device)
    recipe = TrainingDefaults(**fields)
    return TrainResult(
        Path(options.out),
        options.folder / LOG_NAME,
        losses,
        resumed_from,
        time.monotonic() - started,
        recipe,
        "; ".join(filter(None, (described(recipe, published, kind.INFO.title), data.note))),
        data.left_out,
    )


def _held_out(
    options: TrainOptions, recipe: TrainingDefaults, data: TrainingData
) -> tuple[TrainingData, HeldOut | None]:
    """Splits off the categories that judge each epoch; none if only the recipe asks and there are too few."""
    if not recipe.held_out:
        return data, None
    try:
        kept, samples, names = set_apart(data, recipe.held_out)
    except ConfigError:
        if options.held_out:
            raise
        return data, None
    return kept, HeldOut(samples, names, recipe.judged_by, recipe.patience)


def _train(
    options: TrainOptions,
    data: TrainingData,
    held_out: HeldOut | None,
    show_progress: bool,
    ranks: Ranks,
    device: str | None,
) -> tuple[tuple[float, ...], int, dict[str, Any]]:
    """Runs one process of a training; returns the losses, the number of resumed epochs, and the recipe."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(options.seed)
        run = TrainingRun(options, data, _detector(options, device), ranks, held_out)
        resumed_from = run.resume()
        with contextlib.ExitStack() as files:
            logs = _logs(options, resumed_from) if ranks.is_first else []
            for log in logs:
                files.enter_context(log)
            progress = files.enter_context(_progress(show_progress and ranks.is_first))
            if show_progress and ranks.is_first:
                for line in _announcement(run):
                    progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
            _train_epochs(run, resumed_from, logs, progress)
        if held_out is not None and held_out.best:
            run.method.load_learned(held_out.best)
    if ranks.is_first:
        run.detector.mark_trained(
            "; ".join(filter(None, (options.auxiliary_data or data.description, data.note))),
            pack_digests(file_digests(data.files())),
        )
        run.detector.save(options.out)
    return tuple(run.losses), resumed_from, dataclasses.asdict(run.recipe)


def _train_epochs(run: TrainingRun, resumed_from: int, logs: Sequence[Log], progress: Progress) -> None:
    """Trains the remaining epochs, with a checkpoint after each."""
    epochs, steps = run.recipe.epochs, run.steps
    bar = progress.add_task(
        run.config.method,
        total=None if steps is None else steps * epochs,
        completed=(steps or 0) * resumed_from,
        state="",
    )
    held_out = run.held_out
    for epoch in range(resumed_from + 1, epochs + 1):
        if held_out is not None and held_out.is_over:
            progress.console.print(f"no better for {held_out.patience} epochs: stopped after {epoch - 1}")
            break
        for loss in run.epoch(epoch, logs):
            progress.update(bar, advance=1, state=f"epoch {epoch}/{epochs} loss {loss:.3f}")
        if held_out is not None:
            told = (
                f"epoch {epoch}: {held_out.judged_by} {held_out.judge(run.detector):.4f} on what is held out"
            )
            progress.console.print(told, markup=False, highlight=False)
        run.checkpoint(epoch)


def _logs(options: TrainOptions, resumed_from: int) -> list[StepLog | TensorBoardLog]:
    """Opens the CSV log and, if wanted, the TensorBoard log; each is a context manager."""
    table = StepLog(options.folder / LOG_NAME, resumed_from)
    if not options.tensorboard:
        return [table]
    return [table, TensorBoardLog(options.folder / TENSORBOARD_NAME, table.kept_steps)]


def _announcement(run: TrainingRun) -> list[str]:
    """Lines that say what is trained, how, and on which data."""
    published = run.method.training_defaults(vars(run.method.config))
    lines = [] if published is None else [described(run.recipe, published, run.method.INFO.title)]
    for each in run.data.sets:
        names = each.categories if len(each.categories) <= 3 else (*each.categories[:3], "...")
        kinds = f"{len(each.categories)} categor{'y' if len(each.categories) == 1 else 'ies'}"
        lines.append(
            f"{each.name}: {each.normal} normal and {each.anomalous} anomalous images, {kinds} "
            f"({', '.join(names)})"
        )
    if run.data.note:
        lines.append(run.data.note)
    if run.held_out is not None:
        lines.append(
            f"held out to judge each epoch: {', '.join(run.held_out.categories)} "
            f"({len(run.held_out.samples)} images)"
        )
    elif run.recipe.held_out:
        lines.append("too few categories to hold some out: the last epoch is the result")
    if run.ranks.count > 1:
        lines.append(f"{run.ranks.count} devices ({run.device.type}) share each step")
    return lines


def _detector(options: TrainOptions, device: str | None) -> Detector:
    """Loads a detector with new parameters, whatever zsad ships, or with those that training starts from."""
    return load(
        options.method,
        options.backbone,
        options.checkpoint or "fresh",
        image_size=options.image_size,
        device=device,
        bits=options.bits,
        **options.settings,
    )


def _progress(show: bool) -> Progress:
    """Makes a progress bar over all epochs."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not show,
    )
