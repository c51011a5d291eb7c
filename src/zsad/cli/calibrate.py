"""`zsad calibrate`: finds a threshold from a few normal images, or from labelled ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsad.cli.detectors import ComparingOptions, load_detector
from zsad.cli.groups import with_groups
from zsad.cli.options import (
    SOME_FAILED,
    BatchSizeOption,
    ClassNameOption,
    IncludeResultsOption,
    NormalLabelsOption,
    OfflineOption,
    PrecisionOption,
    QuietOption,
    comma_list,
    go_offline,
)
from zsad.cli.printing import Bar, print_problems, quoted, stderr, stdout

if TYPE_CHECKING:
    from zsad.detector.thresholds import Calibration


@with_groups
def calibrate(
    normal: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE|FOLDER|PATTERN...", help="Normal images.", show_default=False),
    ] = None,
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="File to write: .json for `zsad predict --calibration`, or .safetensors, together with the "
            "learnt weights, for --checkpoint.",
        ),
    ] = Path("calibration.json"),
    anomalous: Annotated[
        list[str] | None,
        typer.Option("--anomalous", help="Anomalous image, or folder or pattern of them. Repeatable."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            help="Labelled dataset in place of images: NAME:PATH or a folder, as for `zsad data check`.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Part of the dataset of --data: test, train or all.")] = "test",
    by: Annotated[
        str | None,
        typer.Option(
            help="How the threshold is chosen: rate (from normal images), f1 or cost (from both kinds). "
            "Default: cost if a cost is given, else rate.",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option(help="Share of new normal images that may be called anomalous, below 0.5.")
    ] = 0.05,
    confidence: Annotated[
        float, typer.Option(help="Probability that the rate is kept, from 0.5 to below 1.")
    ] = 0.95,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse images that are too few to promise the rate.")
    ] = False,
    tolerated_area: Annotated[
        float, typer.Option(help="Share of a normal image's pixels that the mask may mark.")
    ] = 0.0,
    cost_miss: Annotated[
        float | None, typer.Option(help="Cost of an anomalous image called normal.", show_default=False)
    ] = None,
    cost_false_alarm: Annotated[
        float | None, typer.Option(help="Cost of a normal image called anomalous.", show_default=False)
    ] = None,
    prevalence: Annotated[
        float | None,
        typer.Option(
            help="Share of anomalous images in use, for the expected cost. Default: their share among the "
            "given images.",
            show_default=False,
        ),
    ] = None,
    wanted: ComparingOptions,
    precision: PrecisionOption = None,
    class_name: ClassNameOption = None,
    batch_size: BatchSizeOption = 8,
    offline: OfflineOption = False,
    normal_labels: NormalLabelsOption = None,
    include_results: IncludeResultsOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find the score at and above which an image is anomalous, and print what that threshold promises.

    Do not use the images that you want decisions about. From normal images, the threshold keeps a false-alarm
    rate; from labelled images, it can also have the highest F1 or the lowest cost. Scores stay unchanged.

    Exit code: 0 if every image was used, 3 if some images could not be read.
    """
    arguments = wanted.arguments()
    go_offline(offline)
    from zsad.detector.calibration.options import CalibrateOptions, default_rule

    options = CalibrateOptions(
        rule=by or default_rule(cost_miss, cost_false_alarm),  # type: ignore[arg-type] # checked inside
        false_alarm_rate=rate,
        confidence=confidence,
        tolerated_area=tolerated_area,
        cost_miss=cost_miss,
        cost_false_alarm=cost_false_alarm,
        prevalence=prevalence,
        strict=strict,
        class_name=class_name,
        batch_size=batch_size,
    )
    from zsad.detector.calibration.choice import choose_thresholds
    from zsad.detector.calibration.examples import check_out, find_examples, save
    from zsad.detector.calibration.measuring import measure
    from zsad.detector.calibration.wording import warnings_besides_failed
    from zsad.files.run_lock import only_writer

    check_out(out, wanted.checkpoint[0] if wanted.checkpoint else None)
    examples, name, left_out = find_examples(
        normal or [],
        anomalous or [],
        data=data,
        split=split,
        class_name=class_name,
        include_results=include_results,
        normal_labels=comma_list(normal_labels),
    )
    options = replace(options, class_name=name)
    with only_writer(out):
        detector = load_detector(
            **arguments,
            precision=precision,
            calibration="none",
            include_results=include_results,
            quiet=quiet,
        )
        with Bar(stderr(quiet), "Scoring") as bar:
            measurement = measure(detector, examples, options, bar.show)
        print_problems("failed", measurement.failed)
        calibration = choose_thresholds(measurement, options)
        save(calibration, detector, out)
    print_problems("warning", warnings_besides_failed(calibration))
    if not quiet:
        _print_calibration(calibration, out)
    print_problems("note", left_out)
    if measurement.failed:
        raise typer.Exit(SOME_FAILED)


def _print_calibration(calibration: Calibration, out: Path) -> None:
    """Prints what the calibration promises, and how to use its file."""
    from zsad.detector.calibration.wording import describe

    option = "--calibration" if out.suffix == ".json" else "--checkpoint"
    console = stdout()
    written = f"Written: {out}; use it with zsad predict {option} {quoted(out)}"
    for line in (*describe(calibration), written):
        console.print(line, markup=False, soft_wrap=True)
