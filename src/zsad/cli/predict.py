"""`zsad predict`: score images and leave a page to look at."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from zsad.cli.options import (
    INTERRUPTED,
    SOME_FAILED,
    BackboneOption,
    BatchSizeOption,
    CheckpointOption,
    ClassNameOption,
    DeviceOption,
    ImageSizeOption,
    OfflineOption,
    PrecisionOption,
    QuietOption,
    ReferencesOption,
    SettingsOption,
    comma_list,
    fail,
    go_offline,
    parse_settings,
)
from zsad.cli.printing import Bar, print_failures, print_summary, stderr


def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="FILE|FOLDER|GLOB|URI...", help="Images to score.", show_default=False),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("zsad-results"),
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            help="One of `zsad methods`. Default: the checkpoint's; else auto for 8 images or more, which "
            "are compared with each other; else anomalyclip.",
            show_default=False,
        ),
    ] = None,
    backbone: BackboneOption = None,
    checkpoint: CheckpointOption = None,
    class_name: ClassNameOption = None,
    references: ReferencesOption = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="File of `zsad calibrate`, or none. Default: the checkpoint's, if any.", show_default=False
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Image score from which on an image is anomalous.")
    ] = None,
    map_threshold: Annotated[
        float | None, typer.Option(help="Map value from which on a pixel is anomalous (mask, contour).")
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            help="What to write for each image, comma-separated: overlay, map (16-bit PNG), npy, mask, "
            "contour; or none. Default: overlay,map and, with a map threshold, mask.",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="Colours of the overlays: fixed (comparable), or image (each its own).")
    ] = "fixed",
    state_words: Annotated[
        str | None,
        typer.Option(
            help="Defects, comma-separated (cracked,corroded), or a YAML file with lists normal, abnormal, "
            "templates; for methods with hand-written sentences (winclip, clip_ac, april_gan).",
            show_default=False,
        ),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            help="Defect phrases, comma-separated (cracked,a scratch,stained): which fits the anomalous "
            "region best is written into explanations.jsonl.",
            show_default=False,
        ),
    ] = None,
    batch_size: BatchSizeOption = 8,
    image_size: ImageSizeOption = None,
    device: DeviceOption = None,
    devices: Annotated[
        int, typer.Option(min=1, help="Score in so many processes: one per GPU, or shares of the CPU.")
    ] = 1,
    engine: Annotated[
        str,
        typer.Option(help="local, or ray: a Ray cluster (RAY_ADDRESS, else this machine)."),
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Most processes of --engine ray. Default: one per GPU or CPU.")
    ] = None,
    precision: PrecisionOption = None,
    recursive: Annotated[bool, typer.Option(help="Also look into sub-folders.")] = True,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run, skipping what is done.")
    ] = False,
    settings: SettingsOption = None,
    offline: OfflineOption = False,
    json_lines: Annotated[bool, typer.Option("--json", help="Print the records as JSON lines.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Score images, draw heat maps and write a page to look at.

    Written: OUT/index.html, results.jsonl, results.csv, overlays/, maps/; explanations.jsonl for --explain.

    Exit code: 0 if every image was scored, 3 if some could not be read.
    """
    config = parse_settings(settings or [])
    if state_words is not None:
        from zsad.methods.prompts.state_words import parse_state_words

        config["state_words"] = parse_state_words(state_words)
    go_offline(offline)
    from zsad.prediction.run import checked_formats, predict_folder

    chosen = _engine(engine, devices, workers, device)
    kinds = None if formats is None else checked_formats(comma_list(formats))
    errors = stderr()
    is_chosen = any(given is not None for given in (method, checkpoint, references, calibration))

    def load(files: list[Path]) -> Any:
        import zsad
        from zsad.detector.support import default_method
        from zsad.images.finding import find_images

        with errors.status("Loading the method..."):
            return zsad.load(
                method=method if is_chosen else default_method(files),
                backbone=backbone,
                checkpoint=checkpoint,
                image_size=image_size,
                device="cpu" if chosen else device,  # each process moves its copy to its own device
                precision=precision,
                references=find_images(references, recursive) if references else None,
                calibration=calibration,
                **config,
            )

    errors.quiet = quiet
    remembered = {"checkpoint": checkpoint, "precision": precision, "references": references}
    bar = Bar(errors, "Scoring")
    try:
        with bar:
            summary = predict_folder(
                inputs,
                load,
                out,
                class_name=class_name,
                threshold=threshold,
                map_threshold=map_threshold,
                batch_size=batch_size,
                recursive=recursive,
                formats=kinds,
                scale=scale,  # type: ignore[arg-type] # checked by the library, which names the choices
                explain=None if explain is None else comma_list(explain),
                resume=resume,
                settings=remembered,
                engine=chosen,
                progress=bar.show,
            )
    except KeyboardInterrupt:
        if not bar.is_started:
            raise
        fail(f"interrupted: what is done is in {out}; the same command with --resume goes on", INTERRUPTED)
    if json_lines:
        for record in summary.records:
            typer.echo(record.to_json())
    elif not quiet:
        print_summary(summary)
    print_failures(summary)
    if summary.failed:
        raise typer.Exit(SOME_FAILED)


def _engine(name: str, devices: int, workers: int | None, device: str | None) -> Any:
    """What scores the images, None for this process alone."""
    from zsad.errors import ConfigError, unknown_name

    if name not in ("local", "ray"):
        raise unknown_name("engine", name, ("local", "ray"))
    if name == "local" and workers is not None:
        raise ConfigError("--workers is for --engine ray; on this machine give --devices")
    if name == "ray":
        from zsad.prediction.ray import RayPrediction

        if devices > 1:
            raise ConfigError("--devices is for this machine; with --engine ray give --workers")
        return partial(RayPrediction, workers=workers, device=device)
    if devices == 1:
        return None
    from zsad.backbones.devices import device_names
    from zsad.prediction.workers import ShardedPrediction

    return partial(ShardedPrediction, devices=device_names(devices, device))
