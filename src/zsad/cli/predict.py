"""`zsad predict`: scores images and writes a page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsad.cli.bundles import (
    BundleOption,
    ProvidersOption,
    ThreadsOption,
    check_goes_with_bundle,
    check_no_engine,
    load_bundle,
)
from zsad.cli.options import (
    SOME_FAILED,
    AugmentReferencesOption,
    BackboneOption,
    BatchSizeOption,
    CalibrationOption,
    CheckpointOption,
    ClassNameOption,
    CsvDelimiterOption,
    DeviceOption,
    ImageSizeOption,
    IncludeResultsOption,
    OfflineOption,
    OutFolderOption,
    PrecisionOption,
    QuietOption,
    ReferencesOption,
    RoiOption,
    SettingsOption,
    StateWordsOption,
    TileOption,
    checkpoint_given,
    comma_list,
    fail_interrupted,
    go_offline,
    known_method,
    load_detector,
    method_settings,
)
from zsad.cli.printing import Bar, failure_lines, print_prediction, print_problems, stderr
from zsad.cli.watching import run_watch

if TYPE_CHECKING:
    from zsad.prediction.options import PredictOptions
    from zsad.prediction.predictor import Predictor
    from zsad.prediction.run import PredictResult
    from zsad.prediction.setup import Loader


_OF_DETECTORS = (
    "method",
    "backbone",
    "checkpoint",
    "references",
    "augment_references",
    "calibration",
    "roi",
    "state_words",
    "explain",
    "image_size",
    "device",
    "devices",
    "engine",
    "workers",
    "precision",
    "settings",
)
"""Parameters of `predict` that have no meaning for an exported bundle."""


def predict(
    context: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="FILE|FOLDER|PATTERN|URI...", help="Images to score.", show_default=False),
    ],
    *,
    out: OutFolderOption = Path("zsad-results"),
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            callback=known_method,
            help="A name of `zsad methods`. Default: the method of the checkpoint; without one, auto for 8 "
            "images or more, which compares them with each other, and anomalyclip for fewer.",
            show_default=False,
        ),
    ] = None,
    backbone: BackboneOption = None,
    checkpoint: CheckpointOption = None,
    bundle: BundleOption = None,
    threads: ThreadsOption = None,
    providers: ProvidersOption = None,
    class_name: ClassNameOption = None,
    references: ReferencesOption = None,
    augment_references: AugmentReferencesOption = False,
    calibration: CalibrationOption = None,
    threshold: Annotated[
        float | None, typer.Option(help="Image score at and above which an image is anomalous.")
    ] = None,
    map_threshold: Annotated[
        float | None, typer.Option(help="Map value at and above which a pixel is anomalous (mask, contour).")
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            help="Files to write for each image, comma-separated: overlay, map (16-bit PNG), npy, mask, "
            "contour; or none. Default: overlay,map, and mask if there is a map threshold.",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="Colour scale of the overlays: fixed (comparable) or image (its own range).")
    ] = "fixed",
    roi: RoiOption = None,
    state_words: StateWordsOption = None,
    explain: Annotated[
        str | None,
        typer.Option(
            help="Defect phrases, comma-separated (cracked,a scratch,stained). explanations.jsonl ranks them "
            "by how well they fit the anomalous region of each image.",
            show_default=False,
        ),
    ] = None,
    csv_delimiter: CsvDelimiterOption = ",",
    batch_size: BatchSizeOption = 8,
    image_size: ImageSizeOption = None,
    device: DeviceOption = None,
    devices: Annotated[
        int, typer.Option(min=1, help="Number of worker processes: one per GPU, or several sharing the CPU.")
    ] = 1,
    engine: Annotated[
        str,
        typer.Option(help="local, or ray: a Ray cluster (RAY_ADDRESS, else this machine)."),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of processes of --engine ray. Default: one per GPU or CPU."),
    ] = None,
    precision: PrecisionOption = None,
    bits: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Depth of the values in 16-bit files, such as 12 for a 12-bit camera; auto: the smallest "
            "usual depth that all images fit in. Default: what the files state.",
            show_default=False,
        ),
    ] = None,
    pages: Annotated[
        str,
        typer.Option(
            help="Images of a file with several: first (of a volume the middle slice), or all: every page, "
            "frame and slice.",
        ),
    ] = "first",
    tile: TileOption = None,
    recursive: Annotated[bool, typer.Option(help="Search sub-folders too.")] = True,
    include_results: IncludeResultsOption = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an earlier run; images that it finished are skipped.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Score the images that arrive in the FOLDERs, until Ctrl-C; files that are still being "
            "written are waited for, and a later watch continues in the same results.",
        ),
    ] = False,
    settings: SettingsOption = None,
    offline: OfflineOption = False,
    json_lines: Annotated[bool, typer.Option("--json", help="Print one JSON object per image.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Score images, draw heat maps and write a page to look at.

    Writes OUT/index.html, results.jsonl, results.csv, overlays/ and maps/; with --explain also
    explanations.jsonl.

    Exit code: 0 if every image was scored, 3 if some images could not be read.
    """
    if bundle is None:
        check_no_engine(threads, providers)
    else:
        check_goes_with_bundle(context, _OF_DETECTORS)
    config = method_settings(settings, state_words)
    go_offline(offline)
    from zsad.prediction.options import PredictOptions

    options = PredictOptions(
        out=out,
        class_name=class_name,
        threshold=threshold,
        map_threshold=map_threshold,
        formats=comma_list(formats),  # type: ignore[arg-type] # checked inside
        scale=scale,  # type: ignore[arg-type] # checked inside
        explain=comma_list(explain),
        roi=roi,
        csv_delimiter=csv_delimiter,
        batch_size=batch_size,
        bits=bits,  # type: ignore[arg-type] # checked inside
        pages=pages,  # type: ignore[arg-type] # checked inside
        tile=tile,  # type: ignore[arg-type] # checked inside
        recursive=recursive,
        include_results=include_results,
        resume=resume,
        loaded_with={
            "checkpoint": checkpoint,
            "precision": precision,
            "references": references,
            **({"augment_references": True} if augment_references else {}),
            **({} if bundle is None else {"bundle": str(bundle)}),
        },
        engine=engine,  # type: ignore[arg-type] # checked inside
        devices=devices,
        workers=workers,
        device=device,
    )

    def load(files: list[Path], device: str | None, bits: int | None) -> Predictor:
        if bundle is not None:
            return load_bundle(bundle, threads, providers, quiet=quiet).at_depth(bits)
        from zsad.detector.support import default_method

        is_chosen = any(given is not None for given in (method, checkpoint, references, calibration))
        return load_detector(
            method=method if is_chosen else default_method(files),
            backbone=backbone,
            checkpoint=checkpoint_given(checkpoint),
            image_size=image_size,
            device=device,
            precision=precision,
            bits=bits,
            tile=tile,
            references=references,
            augment_references=augment_references,
            recursive=recursive,
            include_results=include_results,
            calibration=calibration,
            roi=options.roi,
            quiet=quiet,
            **config,
        )

    if watch:
        result = run_watch(inputs, load, options, as_json=json_lines, quiet=quiet)
    else:
        result = _run(inputs, load, options, quiet)
    if json_lines and not watch:
        for record in result.records:
            typer.echo(record.to_json())
    elif not quiet and not json_lines:
        print_prediction(result, was_watch=watch)
    if (json_lines or quiet) and result.left_out:
        print_problems("note", [f"{result.left_out} (--include-results takes them)"])
    print_problems("failed", failure_lines(result), "see results.csv")
    if result.failed:
        raise typer.Exit(SOME_FAILED)


def _run(inputs: list[str], load: Loader, options: PredictOptions, quiet: bool) -> PredictResult:
    """Predicts under a progress bar; after Ctrl-C, says how to continue if images have been scored."""
    from zsad.prediction.run import predict_folder

    bar = Bar(stderr(quiet), "Scoring")
    try:
        with bar:
            return predict_folder(inputs, load, options, progress=bar.show)
    except KeyboardInterrupt:
        if not bar.is_started:
            raise
        fail_interrupted(f"finished results are in {options.out}")
