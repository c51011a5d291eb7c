"""`zsad train`: learns the weights of a method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsad.cli.options import (
    BackboneOption,
    BitsOption,
    DeviceOption,
    DevicesOption,
    ImageSizeOption,
    IncludeResultsOption,
    NormalLabelsOption,
    OfflineOption,
    QuietOption,
    SettingsOption,
    checkpoint_given,
    comma_list,
    fail_interrupted,
    go_offline,
    method_settings,
)
from zsad.cli.printing import counted, stdout

if TYPE_CHECKING:
    from zsad.training.options import TrainOptions, TrainResult

AS_AUTHORS = "Default: as the authors."


def train(
    *,
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            "-d",
            help="Dataset to train on: NAME:FOLDER with a name of `zsad data list`, or your own folder or "
            "list. Repeatable.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to write the learnt weights to (.safetensors).")
    ],
    method: Annotated[
        str, typer.Option("--method", "-m", help="Method with weights to learn; see `zsad methods`.")
    ] = "anomalyclip",
    backbone: BackboneOption = None,
    split: Annotated[
        str, typer.Option(help="test: normal and anomalous images, as in the papers; all: adds train/good.")
    ] = "test",
    epochs: Annotated[int | None, typer.Option(help=f"Number of passes over the data. {AS_AUTHORS}")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help=f"Number of images per step, over all devices. {AS_AUTHORS}")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help=f"Optimiser: adam or adamw. {AS_AUTHORS}")] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help=f"Learning rate. {AS_AUTHORS}")] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help=f"Weight decay of the optimiser. {AS_AUTHORS}")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help=f"Course of the learning rate: constant or cosine. {AS_AUTHORS}")
    ] = None,
    mosaic: Annotated[
        float | None,
        typer.Option(help=f"Chance of a mosaic of four images in place of one, on all data. {AS_AUTHORS}"),
    ] = None,
    augmentation: Annotated[
        str | None,
        typer.Option(help=f"Random changes of images: none, shifted, shifted_coloured, varied. {AS_AUTHORS}"),
    ] = None,
    held_out: Annotated[
        int | None,
        typer.Option(help=f"Number of categories kept back to judge each epoch by. {AS_AUTHORS}"),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help=f"Epochs without a better one after which training ends. {AS_AUTHORS}"),
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--checkpoint",
            help="Weights to start from, such as the first of two stages. Repeatable for files published "
            "apart. Default: new weights.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the initial weights and the data order.")] = 111,
    image_size: ImageSizeOption = None,
    device: DeviceOption = None,
    devices: DevicesOption = 1,
    precision: Annotated[
        str | None,
        typer.Option(help=f"fp32, or autocast in bf16 or fp16. {AS_AUTHORS[:-1]} on a GPU, else fp32."),
    ] = None,
    workers: Annotated[int, typer.Option(help="Number of threads that read images.")] = 2,
    settings: SettingsOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last finished epoch, if there is one.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over although OUT or a finished epoch exists.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for the features of the images: computed once, read in later epochs."),
    ] = None,
    cache_precision: Annotated[
        str, typer.Option(help="Precision of the cache: fp32, bf16 or fp16.")
    ] = "fp32",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write event files for TensorBoard.")
    ] = False,
    bits: BitsOption = None,
    offline: OfflineOption = False,
    normal_labels: NormalLabelsOption = None,
    include_results: IncludeResultsOption = False,
    quiet: QuietOption = False,
) -> None:
    """Learn the weights of a method from images with masks, by default as the authors of the method do.

    Of an anomalous image without a mask only the label counts, for methods that learn from labels too.

    Use the result with `zsad predict --checkpoint OUT`. The folder OUT.training (without .safetensors) holds
    the state after the last finished epoch, log.csv with the loss of every step, and TensorBoard's files.
    """
    config = method_settings(settings)
    go_offline(offline)
    from zsad.training.options import TrainOptions

    options = TrainOptions(
        out=out,
        data=tuple(data),
        normal_labels=comma_list(normal_labels),
        include_results=include_results,
        split=split,  # type: ignore[arg-type] # checked inside
        method=method,
        backbone=backbone,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,  # type: ignore[arg-type] # checked inside
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        schedule=schedule,  # type: ignore[arg-type] # checked inside
        mosaic=mosaic,
        augmentation=augmentation,  # type: ignore[arg-type] # checked inside
        held_out=held_out,
        patience=patience,
        checkpoint=checkpoint_given(checkpoint),
        seed=seed,
        image_size=image_size,
        bits=bits,  # type: ignore[arg-type] # checked inside
        device=device,
        devices=devices,
        precision=precision,  # type: ignore[arg-type] # checked inside
        settings=config,
        workers=workers,
        resume=resume,
        overwrite=overwrite,
        cache=cache,
        cache_precision=cache_precision,  # type: ignore[arg-type] # checked inside
        tensorboard=tensorboard,
    )
    from zsad.training.loop import train as run

    try:
        result = run(options, show_progress=not quiet)
    except KeyboardInterrupt:
        fail_interrupted(_kept(options))
    if not quiet:
        _print_result(result)


def _kept(options: TrainOptions) -> str:
    """What is on disk after Ctrl-C."""
    has_epoch = (options.folder / "last.safetensors").exists()
    kept = f"finished epochs are in {options.folder}" if has_epoch else "no epoch was finished"
    if options.cache is not None:
        kept += f", computed features are in {options.cache}"
    return kept


def _print_result(result: TrainResult) -> None:
    """Prints what was trained, the losses, and where weights and log are."""
    console = stdout()
    resumed = f" (continued after epoch {result.resumed_from})" if result.resumed_from else ""
    console.print(
        f"{counted(len(result.losses), 'epoch')} in {result.seconds:.0f} s{resumed}, mean loss "
        f"{result.losses[0]:.4f} in the first, {result.losses[-1]:.4f} in the last"
    )
    console.print(result.description, markup=False, soft_wrap=True)
    for line in result.left_out:
        console.print(f"note: {line}", markup=False, soft_wrap=True)
    console.print(f"Weights: {result.path}\nLog: {result.log}", markup=False, soft_wrap=True)
