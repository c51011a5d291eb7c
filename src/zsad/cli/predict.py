"""`zsad predict`: scores images and writes a page to look at."""

from __future__ import annotations

from dataclasses import dataclass
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
from zsad.cli.detectors import ComparingOptions, load_detector
from zsad.cli.groups import with_groups
from zsad.cli.options import (
    SOME_FAILED,
    BatchSizeOption,
    CalibrationOption,
    ClassNameOption,
    CsvDelimiterOption,
    IncludeResultsOption,
    OfflineOption,
    OutFolderOption,
    PrecisionOption,
    QuietOption,
    comma_list,
    go_offline,
    method_option,
)
from zsad.cli.printing import failure_lines, print_prediction, print_problems, resumable
from zsad.cli.watching import run_watch

if TYPE_CHECKING:
    from zsad.prediction.predictor import Predictor


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


@dataclass(frozen=True, kw_only=True)
class _DetectorOptions(ComparingOptions):
    """All images are there at once, so that their number can choose the method, and they the depth."""

    method: Annotated[
        str | None,
        method_option(
            "; without one, auto for 8 images or more, which compares them with each other, and anomalyclip "
            "for fewer."
        ),
    ] = None
    bits: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Depth of the values in 16-bit files, such as 12 for a 12-bit camera; auto: the smallest "
            "usual depth that all images fit in. Default: what the files state.",
            show_default=False,
        ),
    ] = None


@with_groups
def predict(
    context: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="FILE|FOLDER|PATTERN|URI...", help="Images to score.", show_default=False),
    ],
    *,
    out: OutFolderOption = Path("zsad-results"),
    wanted: _DetectorOptions,
    precision: PrecisionOption = None,
    bundle: BundleOption = None,
    threads: ThreadsOption = None,
    providers: ProvidersOption = None,
    class_name: ClassNameOption = None,
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
    pages: Annotated[
        str,
        typer.Option(
            help="Images of a file with several: first (of a volume the middle slice), or all: every page, "
            "frame and slice.",
        ),
    ] = "first",
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
    arguments = wanted.arguments()
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
        roi=wanted.roi,
        csv_delimiter=csv_delimiter,
        batch_size=batch_size,
        bits=wanted.bits,  # type: ignore[arg-type] # checked inside
        pages=pages,  # type: ignore[arg-type] # checked inside
        tile=wanted.tile,  # type: ignore[arg-type] # checked inside
        recursive=recursive,
        include_results=include_results,
        resume=resume,
        loaded_with={
            "checkpoint": wanted.checkpoint,
            "precision": precision,
            "references": wanted.references,
            **({"augment_references": True} if wanted.augment_references else {}),
            **({} if bundle is None else {"bundle": str(bundle)}),
        },
        engine=engine,  # type: ignore[arg-type] # checked inside
        devices=devices,
        workers=workers,
        device=wanted.device,
    )

    def load(files: list[Path], device: str | None, bits: int | None) -> Predictor:
        if bundle is not None:
            return load_bundle(bundle, threads, providers, quiet=quiet).at_depth(bits)
        from zsad.detector.support import default_method

        chosen_by = (wanted.method, wanted.checkpoint, wanted.references, calibration)
        is_chosen = any(given is not None for given in chosen_by)
        here = {"device": device, "bits": bits, "roi": options.roi}
        return load_detector(
            **{**arguments, **here, "method": wanted.method if is_chosen else default_method(files)},
            precision=precision,
            recursive=recursive,
            include_results=include_results,
            calibration=calibration,
            quiet=quiet,
        )

    if watch:
        result = run_watch(inputs, load, options, as_json=json_lines, quiet=quiet)
    else:
        from zsad.prediction.run import predict_folder

        with resumable("Scoring", options.out, quiet=quiet) as bar:
            result = predict_folder(inputs, load, options, progress=bar.show)
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
