"""`zsad export`: from a detector to a folder that runs without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsad.cli.options import (
    AugmentReferencesOption,
    BackboneOption,
    BitsOption,
    CheckpointOption,
    ClassNameOption,
    DeviceOption,
    ImageSizeOption,
    MethodOption,
    OfflineOption,
    QuietOption,
    ReferencesOption,
    RoiOption,
    SettingsOption,
    StateWordsOption,
    TileOption,
    checkpoint_given,
    go_offline,
    load_detector,
    method_settings,
)
from zsad.cli.printing import stderr, stdout

if TYPE_CHECKING:
    from zsad.deploy.export import ExportResult


def export(
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write; it appears when everything is done.")
    ],
    checkpoint: CheckpointOption = None,
    format: Annotated[
        str,
        typer.Option("--format", "-f", help="onnx (ONNX Runtime, TensorRT, browsers) or openvino (Intel)."),
    ] = "onnx",
    precision: Annotated[
        str,
        typer.Option(
            help="fp32 (Python's scores), fp16 (half the size, for GPUs) or int8 (a quarter, for CPUs; moves "
            "scores)."
        ),
    ] = "fp32",
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier bundle.")] = False,
    method: MethodOption = None,
    backbone: BackboneOption = None,
    class_name: ClassNameOption = None,
    references: ReferencesOption = None,
    augment_references: AugmentReferencesOption = False,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="File written by `zsad calibrate`, or none. Default: the calibration in the checkpoint, if "
            "any.",
            show_default=False,
        ),
    ] = None,
    state_words: StateWordsOption = None,
    image_size: ImageSizeOption = None,
    device: DeviceOption = None,
    roi: RoiOption = None,
    tile: TileOption = None,
    bits: BitsOption = None,
    settings: SettingsOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a detector as a folder that runs without PyTorch, and prove that it gives the same answers.

    Afterwards: zsad predict parts/ --bundle OUT, zsad serve --bundle OUT, or the README in the folder for
    programs in C++ and JavaScript.
    """
    config = method_settings(settings, state_words)
    go_offline(offline)
    from zsad.deploy.bundle import BUNDLE_FILE
    from zsad.deploy.export import export_detector
    from zsad.deploy.folders import check_target
    from zsad.images.finding import search_images

    check_target(out, BUNDLE_FILE, "bundle", overwrite=overwrite)
    compared = search_images(images).images if images else None
    normal = search_images(good).images if good else None
    detector = load_detector(
        method=method,
        backbone=backbone,
        checkpoint=checkpoint_given(checkpoint),
        image_size=image_size,
        bits=bits,
        tile=tile,
        device=device,
        references=references,
        augment_references=augment_references,
        calibration=calibration,
        roi=roi,
        quiet=quiet,
        **config,
    )
    with stderr(quiet).status("Exporting...") as status:

        def tell(what: str, done: int, total: int) -> None:
            status.update(f"{what}... {done} of {total}" if total else f"{what}...")

        result = export_detector(
            detector,
            out,
            format,  # type: ignore[arg-type] # checked inside
            precision,  # type: ignore[arg-type] # checked inside
            images=compared,
            good=normal,
            class_name=class_name,
            overwrite=overwrite,
            progress=tell,
        )
    if not quiet:
        _print(result)


def _print(result: ExportResult) -> None:
    """Prints how far the graphs are from Python, what became of the thresholds, and what to type next."""
    from zsad.errors import printable

    console = stdout()
    for line in result.lines:
        console.print(printable(line), markup=False, soft_wrap=True)
    size = sum(file.stat().st_size for file in result.folder.iterdir()) / 1e6
    console.print(
        f"Written: {printable(result.folder)} ({size:.0f} MB); use it with zsad predict parts/ --bundle "
        f"{printable(result.folder)}, and see its README.md",
        markup=False,
        soft_wrap=True,
    )
