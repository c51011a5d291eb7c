"""`zsad train`: learn a method's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zsad.cli.options import (
    BackboneOption,
    DeviceOption,
    ImageSizeOption,
    OfflineOption,
    QuietOption,
    SettingsOption,
    go_offline,
    method_settings,
)
from zsad.cli.printing import counted, stdout

RECIPE = "Default: as the authors."


def train(
    *,
    data: Annotated[
        list[str],
        typer.Option(
            "--data", "-d", help="NAME:FOLDER of `zsad data list`, or a folder or list of yours. Repeatable."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the learnt weights (.safetensors).")],
    method: Annotated[
        str, typer.Option("--method", "-m", help="One that learns; see `zsad methods`.")
    ] = "anomalyclip",
    backbone: BackboneOption = None,
    split: Annotated[
        str, typer.Option(help="test: normal and anomalous, as the papers do; all: also train/good.")
    ] = "test",
    epochs: Annotated[int | None, typer.Option(help=f"Passes over the data. {RECIPE}")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help=f"Images of one step, of all devices together. {RECIPE}")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help=f"adam or adamw. {RECIPE}")] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help=f"Learning rate. {RECIPE}")] = None,
    weight_decay: Annotated[float | None, typer.Option(help=f"Of the optimiser. {RECIPE}")] = None,
    schedule: Annotated[
        str | None, typer.Option(help=f"Of the learning rate: constant or cosine. {RECIPE}")
    ] = None,
    mosaic: Annotated[
        float | None,
        typer.Option(help=f"Chance of four images in place of one, on all data. {RECIPE}"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of initial weights and data order.")] = 111,
    image_size: ImageSizeOption = None,
    device: DeviceOption = None,
    devices: Annotated[int, typer.Option(help="GPUs, or CPU processes, that share each step.")] = 1,
    precision: Annotated[
        str | None, typer.Option(help=f"fp32, or bf16 or fp16 autocast. {RECIPE[:-1]} on a GPU, else fp32.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Threads that read images.")] = 2,
    settings: SettingsOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last finished epoch, if there is one.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew although OUT or a checkpoint is there.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for the images' features: computed once, read in later epochs."),
    ] = None,
    cache_precision: Annotated[str, typer.Option(help="Of the cache: fp32, or bf16 or fp16.")] = "fp32",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write event files for TensorBoard.")
    ] = False,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
) -> None:
    """Learn a method's weights from images with masks, by default as the method's authors train it.

    OUT is for `zsad predict --checkpoint OUT`. The folder OUT.training (without .safetensors) holds the
    checkpoint of the last finished epoch, log.csv with the loss of every step, and TensorBoard's files.
    """
    config = method_settings(settings)
    go_offline(offline)
    from zsad.training.loop import TrainConfig
    from zsad.training.loop import train as run

    result = run(
        TrainConfig(
            out=out,
            data=tuple(data),
            split=split,  # type: ignore[arg-type] # checked by the library, which names the choices
            method=method,
            backbone=backbone,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,  # type: ignore[arg-type] # likewise
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            schedule=schedule,  # type: ignore[arg-type] # likewise
            mosaic=mosaic,
            seed=seed,
            image_size=image_size,
            device=device,
            devices=devices,
            precision=precision,  # type: ignore[arg-type] # likewise
            settings=config,
            workers=workers,
            resume=resume,
            overwrite=overwrite,
            cache=cache,
            cache_precision=cache_precision,  # type: ignore[arg-type] # likewise
            tensorboard=tensorboard,
        ),
        show_progress=not quiet,
    )
    if not quiet:
        console = stdout()
        started = f" (went on after epoch {result.resumed_from})" if result.resumed_from else ""
        console.print(
            f"{counted(len(result.losses), 'epoch')} in {result.seconds:.0f} s{started}, mean loss "
            f"{result.losses[0]:.4f} in the first, {result.losses[-1]:.4f} in the last"
        )
        console.print(result.description, markup=False, soft_wrap=True)
        console.print(f"Weights: {result.path}\nLog: {result.log}", markup=False, soft_wrap=True)
