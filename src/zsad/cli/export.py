"""`zsad export`: from a detector to a folder that runs without PyTorch."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zsad.cli.detectors import ComparingOptions, load_detector
from zsad.cli.groups import with_groups
from zsad.cli.options import (
    CalibrationOption,
    ClassNameOption,
    OfflineOption,
    QuietOption,
    go_offline,
)
from zsad.cli.printing import quoted, stderr, stdout
from zsad.errors import ConfigError, printable

if TYPE_CHECKING:
    from zsad.deploy.export import ExportResult
    from zsad.deploy.web.folder import WebResult


@with_groups
def export(
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write; it appears when everything is done.")
    ],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="onnx (ONNX Runtime, TensorRT and most other programs), openvino (Intel), or web (a page "
            "that scores images inside the browser).",
        ),
    ] = "onnx",
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32 (Python's scores), fp16 (half the size, for GPUs and the web) or int8 (a quarter, for "
            "CPUs; moves scores). Default: fp32; for the web, fp16.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--images",
            help="Images of the kind that will be scored, to compare the graphs with Python on, and for int8 "
            "to choose its scales on. Repeatable. Default: synthetic ones.",
        ),
    ] = None,
    good: Annotated[
        list[str] | None,
        typer.Option(
            "--good",
            help="Known-normal images that are no references, to make the threshold again from the graphs' "
            "own scores. Repeatable.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    onnxruntime_web: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="With --format web: folder of the npm package onnxruntime-web. Default: download it once.",
            show_default=False,
        ),
    ] = None,
    wanted: ComparingOptions,
    calibration: CalibrationOption = None,
    class_name: ClassNameOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a detector as a folder that runs without PyTorch, and prove that it gives the same answers.

    Afterwards: zsad predict parts/ --bundle OUT, zsad serve --bundle OUT, or the README in the folder for
    programs in C++ and JavaScript.
    """
    arguments = wanted.arguments()
    go_offline(offline)
    from zsad.deploy.bundle import BUNDLE_FILE
    from zsad.deploy.export import WEB, export_detector
    from zsad.deploy.folders import check_target
    from zsad.deploy.web.folder import WEB_FILE, export_web
    from zsad.images.finding import search_images

    for_web = format == WEB
    if onnxruntime_web is not None and not for_web:
        raise ConfigError("--onnxruntime-web goes into a page: add --format web")
    marker, what = (WEB_FILE, "page") if for_web else (BUNDLE_FILE, "bundle")
    check_target(out, marker, what, overwrite=overwrite)
    compared = search_images(images).images if images else None
    normal = search_images(good).images if good else None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves as little behind as Ctrl-C
    detector = load_detector(**arguments, calibration=calibration, quiet=quiet)
    with stderr(quiet).status("Exporting...") as status:

        def tell(what: str, done: int, total: int) -> None:
            status.update(f"{what}... {done} of {total}" if total else f"{what}...")

        shared: dict[str, Any] = {
            "images": compared,
            "good": normal,
            "class_name": class_name,
            "overwrite": overwrite,
        }
        result: ExportResult | WebResult
        if for_web:
            result = export_web(
                detector,
                out,
                precision or "fp16",  # type: ignore[arg-type] # checked inside
                onnxruntime_web=onnxruntime_web,
                progress=tell,
                **shared,
            )
        else:
            result = export_detector(
                detector,
                out,
                format,  # type: ignore[arg-type] # checked inside
                precision or "fp32",  # type: ignore[arg-type] # checked inside
                progress=tell,
                **shared,
            )
    if not quiet:
        folder = quoted(result.folder)
        use = (
            f"python -m http.server --directory {folder}"
            if for_web
            else f"zsad predict parts/ --bundle {folder}"
        )
        _print(result, use)


def _print(result: ExportResult | WebResult, use: str) -> None:
    """Prints how far the graphs are from Python, what became of the thresholds, and what to type next."""
    console = stdout()
    for line in result.lines:
        console.print(printable(line), markup=False, soft_wrap=True)
    size = sum(file.stat().st_size for file in result.folder.rglob("*") if file.is_file()) / 1e6
    console.print(
        f"Written: {printable(result.folder)} ({size:.0f} MB); use it with {use}, and see its README.md",
        markup=False,
        soft_wrap=True,
    )
