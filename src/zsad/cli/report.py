"""`zsad report`: page and tables of evaluations, and the page of a prediction run anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zsad.cli.options import QuietOption, comma_list
from zsad.cli.printing import Bar, stderr, stdout


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS...",
            help="Folder of `zsad evaluate` or its results.json; several are shown together. Or a folder of "
            "`zsad predict`, whose page is made anew.",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the report. Default: RESULTS; zsad-report for several."),
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", "-f", help="html, markdown, csv, latex; comma-separated.")
    ] = "html",
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Columns, comma-separated (image_auroc,pixel_aupro). Default: all seven.", show_default=False
        ),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Make a page and tables of evaluations, with published numbers beside yours.

    Written: OUT/index.html; tables.md, overview.csv and categories.csv, tables.tex for the other formats.
    """
    from zsad.evaluation.report.formats import to_text
    from zsad.evaluation.report.reading import open_evaluation
    from zsad.evaluation.report.tables import checked_metrics, overview_table
    from zsad.evaluation.report.writing import checked_formats, write_report_files
    from zsad.prediction.page import is_prediction_folder, rebuild_page

    kinds = checked_formats(comma_list(formats))
    chosen = None if metrics is None else checked_metrics(comma_list(metrics))
    errors = stderr()
    errors.quiet = quiet
    if len(results) == 1 and is_prediction_folder(results[0]):
        written = [rebuild_page(results[0])]
    else:
        folders = [open_evaluation(path) for path in results]
        directory = out or (folders[0].directory if len(folders) == 1 else Path("zsad-report"))
        with Bar(errors, "Drawing") as bar:
            written = write_report_files(folders, directory, kinds, chosen, bar.show)
        if not quiet:
            runs = [run for folder in folders for run in folder.result.runs]
            stdout().print(to_text(overview_table(runs, chosen)))
    if not quiet:
        for path in written:
            stdout().print(str(path), markup=False, soft_wrap=True)
