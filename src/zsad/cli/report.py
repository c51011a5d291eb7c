"""`zsad report`: makes page and tables of evaluations, and rebuilds the page of a prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zsad.cli.options import CsvDelimiterOption, QuietOption, comma_list
from zsad.cli.printing import Bar, stderr, stdout


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS...",
            help="Folders written by `zsad evaluate`, or their results.json; several are shown together. Or "
            "a folder written by `zsad predict`, to rebuild its page.",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for the report. Default: RESULTS, or zsad-report for several."
        ),
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format", "-f", help="Formats of the report, comma-separated: html, markdown, csv, latex."
        ),
    ] = "html",
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Metrics to show, comma-separated (image_auroc,pixel_aupro). Default: all seven.",
            show_default=False,
        ),
    ] = None,
    csv_delimiter: CsvDelimiterOption = ",",
    quiet: QuietOption = False,
) -> None:
    """Make a page and tables of evaluations, with published numbers beside yours.

    Writes OUT/index.html and, for the other formats, tables.md, overview.csv and categories.csv, tables.tex.
    """
    from zsad.evaluation.report.formats import to_text
    from zsad.evaluation.report.reading import open_evaluation
    from zsad.evaluation.report.tables import checked_metrics, overview_table
    from zsad.evaluation.report.writing import checked_formats, write_report_files
    from zsad.files.csv_tables import checked_delimiter
    from zsad.prediction.page import is_prediction_folder, rebuild_page

    kinds = checked_formats(comma_list(formats))
    delimiter = checked_delimiter(csv_delimiter)
    chosen = None if metrics is None else checked_metrics(comma_list(metrics))
    if len(results) == 1 and is_prediction_folder(results[0]):
        written = [rebuild_page(results[0])]
    else:
        folders = [open_evaluation(path) for path in results]
        directory = out or (folders[0].directory if len(folders) == 1 else Path("zsad-report"))
        with Bar(stderr(quiet), "Drawing") as bar:
            written = write_report_files(folders, directory, kinds, chosen, bar.show, csv_delimiter=delimiter)
        if not quiet:
            runs = [run for folder in folders for run in folder.result.runs]
            stdout().print(to_text(overview_table(runs, chosen)))
    if not quiet:
        for path in written:
            stdout().print(str(path), markup=False, soft_wrap=True)
