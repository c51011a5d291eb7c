"""`zsad calibrate`: a threshold from a few normal images, or from labelled ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zsad.cli.options import (
    SOME_FAILED,
    BackboneOption,
    BatchSizeOption,
    CheckpointOption,
    ClassNameOption,
    DeviceOption,
    ImageSizeOption,
    MethodOption,
    OfflineOption,
    PrecisionOption,
    QuietOption,
    ReferencesOption,
    SettingsOption,
    go_offline,
    method_settings,
)
from zsad.cli.printing import Bar, stderr, stdout


def calibrate(
    normal: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE|FOLDER|GLOB...", help="Normal images.", show_default=False),
    ] = None,
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help=".json, for `predict --calibration`, or .safetensors, for `--checkpoint`.",
        ),
    ] = Path("calibration.json"),
    anomalous: Annotated[
        list[str] | None,
        typer.Option("--anomalous", help="An anomalous image, folder or glob. Repeatable."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", "-d", help="A labelled set instead: NAME:PATH or a folder, as for `zsad data check`."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Of --data: test, train or all.")] = "test",
    by: Annotated[
        str | None,
        typer.Option(
            help="rate (normal images), f1 or cost (both kinds). Default: rate; cost if costs are given.",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option(help="Share of new normal images that may be called anomalous.")
    ] = 0.05,
    confidence: Annotated[float, typer.Option(help="That the rate is kept, from 0.5 to below 1.")] = 0.95,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse if the images are too few to promise the rate.")
    ] = False,
    tolerated_area: Annotated[
        float, typer.Option(help="Share of a normal image's pixels that the mask may mark.")
    ] = 0.0,
    cost_miss: Annotated[
        float | None, typer.Option(help="Of an anomalous image called normal.", show_default=False)
    ] = None,
    cost_false_alarm: Annotated[
        float | None, typer.Option(help="Of a normal image called anomalous.", show_default=False)
    ] = None,
    prevalence: Annotated[
        float | None,
        typer.Option(
            help="Share of anomalous images in use, for the cost. Default: as given.", show_default=False
        ),
    ] = None,
    method: MethodOption = None,
    backbone: BackboneOption = None,
    checkpoint: CheckpointOption = None,
    class_name: ClassNameOption = None,
    references: ReferencesOption = None,
    state_words: Annotated[
        str | None,
        typer.Option(help="Defects, comma-separated, or a YAML file, as for predict.", show_default=False),
    ] = None,
    batch_size: BatchSizeOption = 8,
    image_size: ImageSizeOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    settings: SettingsOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find the score from which on an image is anomalous, and say what that promises.

    Use other images than those that you will judge. Without labels the threshold keeps a false-alarm rate;
    with labels it can also have the highest F1 or the lowest cost. The raw scores stay as they are.

    Exit code: 0 if every image was used, 3 if some could not be read.
    """
    config = method_settings(settings)
    if state_words is not None:
        from zsad.methods.prompts.state_words import parse_state_words

        config["state_words"] = parse_state_words(state_words)
    go_offline(offline)
    import zsad
    from zsad.detector.calibration.calibrating import Aim, choose_thresholds, describe
    from zsad.detector.calibration.examples import check_out, labelled_examples, listed_examples, save
    from zsad.detector.calibration.measuring import measure
    from zsad.errors import ConfigError
    from zsad.images.finding import find_images

    has_costs = cost_miss is not None or cost_false_alarm is not None
    aim = Aim(
        by or ("cost" if has_costs else "rate"),  # type: ignore[arg-type] # Aim names the choices
        rate,
        confidence,
        tolerated_area,
        cost_miss,
        cost_false_alarm,
        prevalence,
        strict,
    )
    check_out(out, checkpoint)
    if (data is None) == (not normal and not anomalous):
        raise ConfigError(
            "give normal images (zsad calibrate good/), or a labelled set with --data, not both"
        )
    if data is not None:
        examples, class_name = labelled_examples(data, split, class_name)
    else:
        examples = listed_examples(normal or [], anomalous or [])
    errors = stderr()
    errors.quiet = quiet
    bar = Bar(errors, "Scoring")

    with errors.status("Loading the method..."):
        detector = zsad.load(
            method=method,
            backbone=backbone,
            checkpoint=checkpoint,
            image_size=image_size,
            device=device,
            precision=precision,
            references=find_images(references) if references else None,
            calibration="none",
            **config,
        )
    with bar:
        measurement = measure(
            detector,
            examples,
            class_name=class_name,
            tolerated_area=tolerated_area,
            batch_size=batch_size,
            progress=bar.show,
        )
    messages = stderr()
    for line in measurement.failed[:10]:
        messages.print(f"failed: {line}", markup=False, soft_wrap=True)
    if len(measurement.failed) > 10:
        messages.print(f"failed: {len(measurement.failed) - 10} more")
    calibration = choose_thresholds(measurement, aim)
    save(calibration, detector, out)
    for warning in calibration.warnings:
        messages.print(f"warning: {warning}", markup=False, soft_wrap=True)
    if not quiet:
        console = stdout()
        for line in describe(calibration):
            console.print(line, markup=False, soft_wrap=True)
        option = "--calibration" if out.suffix == ".json" else "--checkpoint"
        console.print(
            f"Written: {out}; use it with zsad predict {option} {out}", markup=False, soft_wrap=True
        )
    if measurement.failed:
        raise typer.Exit(SOME_FAILED)
