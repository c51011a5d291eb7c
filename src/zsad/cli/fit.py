"""`zsad fit`: from a few good images to a file that decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zsad.cli.detectors import DetectorOptions, load_detector
from zsad.cli.groups import with_groups
from zsad.cli.options import (
    SOME_FAILED,
    AugmentReferencesOption,
    BatchSizeOption,
    ClassNameOption,
    IncludeResultsOption,
    OfflineOption,
    PrecisionOption,
    QuietOption,
    go_offline,
    method_option,
)
from zsad.cli.printing import Bar, print_problems, quoted, stderr, stdout

if TYPE_CHECKING:
    from zsad.detector.fitting.false_alarms import Change
    from zsad.detector.fitting.fit import Fitting

DEFAULT_METHOD = "auto"
DEFAULT_OUT = Path("fitted.safetensors")


@dataclass(frozen=True, kw_only=True)
class _DetectorOptions(DetectorOptions):
    """Another method than elsewhere is taken where none is named."""

    method: Annotated[str | None, method_option(f", or {DEFAULT_METHOD}.")] = None


@with_groups
def fit(
    good: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE|FOLDER|PATTERN...", help="Good images of one kind of part.", show_default=False
        ),
    ] = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="File to write (.safetensors), for `zsad predict --checkpoint`; a page (.html) goes beside "
            f"it. Default: the file of --add, or {DEFAULT_OUT}.",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Share of new good images that may be called anomalous, below 0.5. Default: 0.05, or that "
            "of --add.",
            show_default=False,
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            help="Probability that the rate is kept, from 0.5 to below 1. Default: 0.95, or that of --add.",
            show_default=False,
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse images that are too few to promise the rate.")
    ] = False,
    tolerated_area: Annotated[
        float | None,
        typer.Option(
            help="Share of a good image's pixels that the mask may mark. Default: 0, or that of --add.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        bool,
        typer.Option(
            "--split",
            help="Hold every second image out for the threshold: an exact promise, half as many references.",
        ),
    ] = False,
    drop_outliers: Annotated[
        bool, typer.Option("--drop-outliers", help="Leave out images that stand out from the others.")
    ] = False,
    add: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER|PATTERN",
            help="File of an earlier fit to which the images are added, or good images that are added to the "
            "file of --out; the threshold is made again from all of them.",
            show_default=False,
        ),
    ] = None,
    false_alarm: Annotated[
        list[str] | None,
        typer.Option(
            help="Image that the detector of --add wrongly called anomalous: put among the good ones. "
            "Repeatable.",
        ),
    ] = None,
    wanted: _DetectorOptions,
    precision: PrecisionOption = None,
    augment_references: AugmentReferencesOption = False,
    class_name: ClassNameOption = None,
    batch_size: BatchSizeOption = 8,
    offline: OfflineOption = False,
    include_results: IncludeResultsOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn a few good images into a file that decides: references, threshold, and what it promises.

    No defective image is needed. Afterwards: zsad predict parts/ --checkpoint FILE.

    Exit code: 0 if every image was used, 3 if some images could not be read.
    """
    arguments = wanted.arguments()
    go_offline(offline)
    from zsad.detector.calibration.examples import check_out
    from zsad.detector.fitting.options import check_files, to_extend
    from zsad.detector.fitting.page import check_page
    from zsad.files.run_lock import only_writer
    from zsad.images.finding import search_images

    add, good = to_extend(add, good, out)
    out = out or add or DEFAULT_OUT
    start = None if add is None else str(add)
    checkpoint = wanted.checkpoint
    check_files(out, add=add, checkpoint=checkpoint, has_good=bool(good), has_false_alarms=bool(false_alarm))
    check_out(out, start or (checkpoint[0] if checkpoint else None))
    page = out.with_suffix(".html")
    check_page(page)
    search = search_images(good, include_results=include_results) if good else None
    given = {
        "confidence": confidence,
        "tolerated_area": tolerated_area,
        "class_name": class_name,
        "split": split or None,
        "augment_references": augment_references or None,
    }
    options = {name: value for name, value in given.items() if value is not None}
    with only_writer(out, page):
        if start is not None:
            arguments["checkpoint"] = start
        elif wanted.method is None and checkpoint is None:
            arguments["method"] = DEFAULT_METHOD
        detector = load_detector(**arguments, references=None, precision=precision, quiet=quiet)
        from zsad.detector.calibration.wording import warnings_besides_failed
        from zsad.detector.fitting.false_alarms import add_false_alarms
        from zsad.detector.fitting.wording import extended_sentence

        known = 0 if detector.good_images is None else len(detector.good_images.images)
        threshold = detector.threshold
        with Bar(stderr(quiet), "Reading") as bar:
            options |= {"strict": strict, "drop_outliers": drop_outliers, "batch_size": batch_size}
            images: Sequence[Any] = search.images if search else []
            changes: list[Change] = []
            if false_alarm:
                found, changes = add_false_alarms(
                    detector, false_alarm, images, progress=bar.show, rate=rate, **options
                )
            else:
                found = detector.fit(images, rate, add=add is not None, progress=bar.show, **options)
        detector.save(out)
        lines = [line for change in changes for line in change.sentences()] + _promise(found)
        if add is not None:
            lines.insert(0, extended_sentence(known, threshold, found.calibration))
        _write_page(page, found, lines)
    print_problems("failed", found.failed)
    print_problems("warning", warnings_besides_failed(found.calibration))
    if not quiet:
        _print_fit(found, lines, out, page)
        print_problems("note", (str(search.left_out),) if search and str(search.left_out) else ())
    if found.failed:
        raise typer.Exit(SOME_FAILED)


def _promise(found: Fitting) -> list[str]:
    """What the fit promises, and what more images would buy."""
    from zsad.detector.calibration.wording import describe
    from zsad.detector.fitting.wording import more_sentence, spread_sentence

    return [
        *describe(found.calibration),
        spread_sentence(found.calibration),
        more_sentence(found.calibration),
    ]


def _write_page(page: Path, found: Fitting, lines: Sequence[str]) -> None:
    from zsad.detector.fitting.page import write_fit_page

    write_fit_page(page, found, lines)


def _print_fit(found: Fitting, lines: Sequence[str], out: Path, page: Path) -> None:
    """Prints the promise, what was left out, and what to type next."""
    from zsad.errors import printable

    console = stdout()
    dropped = [f"Left out because it stands out: {image.name}" for image in found.dropped]
    for line in (*lines, *dropped, f"Look at the good images: {page}"):
        console.print(printable(line), markup=False, soft_wrap=True)
    use = f"zsad predict parts/ --checkpoint {quoted(out)}"
    console.print(f"Written: {printable(out)}; use it with {use}", markup=False, soft_wrap=True)
