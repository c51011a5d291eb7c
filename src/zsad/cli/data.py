"""`zsad data`: lists the known datasets, and checks a dataset on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from zsad.cli.options import (
    SOME_FAILED,
    IncludeResultsOption,
    NormalLabelsOption,
    QuietOption,
    comma_list,
    fail,
)
from zsad.cli.printing import Bar, counted, stderr, stdout, table_of

if TYPE_CHECKING:
    from zsad.data.checking import DatasetCheck

DEFECTS_SHOWN = 4

data_app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="List the known datasets, or check the dataset in a folder.",
)


@data_app.command("list")
def list_data(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """List the datasets of the papers: where to download them, licence, numbers of images, masks.

    zsad does not download datasets. Your own folders and lists work too: see `zsad data check --help`.
    """
    import json
    from dataclasses import asdict

    from rich.text import Text

    from zsad.data.catalog import dataset_record, list_datasets

    records = [dataset_record(name) for name in list_datasets()]
    if as_json:
        typer.echo(json.dumps([asdict(record) for record in records], indent=2))
        return
    table = table_of("name", "title", "normal", "anomalous", "train", "categories", "masks")
    for record in records:
        counts = record.counts
        numbers = ["?" if number is None else str(number) for number in asdict(counts).values()]
        table.add_row(
            Text(record.name, style="bold"),
            record.title,
            *numbers,
            str(len(record.categories)),
            "yes" if record.has_masks else "no",
        )
    console = stdout()
    console.print(table)
    for record in records:
        licence = (f"  ({record.licence})", "dim")
        console.print(Text.assemble((f"{record.name:9} ", "bold"), record.page, licence), soft_wrap=True)
        if record.notes:
            console.print(Text(f"{'':9} {record.notes}", style="dim"), soft_wrap=True)


@data_app.command()
def check(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="[NAME:]PATH",
            help="Name of a dataset in `zsad data list` and its folder, or your own folder or list.",
        ),
    ],
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only look for the files; do not decode images and masks.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Decode at most so many images of each category and split; count all."),
    ] = None,
    purpose: Annotated[
        str,
        typer.Option(
            "--for", help="What the data are for: evaluate, which needs no training images, or train."
        ),
    ] = "evaluate",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
    normal_labels: NormalLabelsOption = None,
    include_results: IncludeResultsOption = False,
    quiet: QuietOption = False,
) -> None:
    """Describe the dataset in a folder, and name missing and damaged files.

    Known layouts: every dataset of `zsad data list` as downloaded; MVTec AD (CATEGORY/test/good,
    CATEGORY/test/DEFECT, ground_truth); MVTec 3D-AD; good/ and one folder per defect; images/ and masks/;
    outlines of COCO or labelme; a CSV or JSON list with the columns path, label, mask, category (only path is
    required); a YAML or JSON file with normal_dir, abnormal_dir, mask_dir; a folder of images.

    Exit code: 0 if nothing makes a result wrong, 3 if there are problems, 2 for wrong usage.
    """
    import json

    from zsad.data.checking import check_datasets
    from zsad.errors import DataError
    from zsad.files.plain import to_plain

    labels = comma_list(normal_labels)
    try:
        with Bar(stderr(), "Checking") as bar:
            checks = check_datasets(
                spec,
                quick=quick,
                limit=limit,
                purpose=purpose,  # type: ignore[arg-type] # checked inside
                normal_labels=labels,
                include_results=include_results,
                on_progress=None if quiet else bar.show,
            )
    except DataError as error:
        fail(error, SOME_FAILED)
    if as_json:
        typer.echo(json.dumps(to_plain(checks), indent=2))
    for result in checks:
        if not quiet and not as_json:
            _print_check(result)
        for problem in result.problems:
            stderr().print(f"problem: {problem}", markup=False, soft_wrap=True)
    if any(result.problems for result in checks):
        raise typer.Exit(SOME_FAILED)


def _print_check(result: DatasetCheck) -> None:
    """Prints layout, counts per category, and notes of a dataset."""
    from rich.text import Text

    console = stdout()
    title = result.record.title if result.record else result.name
    place = f"  {result.root}  layout: {result.layout}"
    console.print(Text.assemble((title, "bold"), place), soft_wrap=True)
    columns: dict[str, Any] = {"category": None, "normal": None, "anomalous": None}
    has_unlabelled = any(row.unlabelled for row in result.categories)
    table = table_of(*columns, *(["unlabelled"] if has_unlabelled else []), "masks", "train", "defects")
    for row in result.categories:
        kinds = [f"{kind} {number}" for kind, number in row.defects.items()]
        more = f", {len(kinds) - DEFECTS_SHOWN} more" if len(kinds) > DEFECTS_SHOWN else ""
        unlabelled = [str(row.unlabelled)] if has_unlabelled else []
        numbers = [str(row.normal), str(row.anomalous), *unlabelled, str(row.masks), str(row.train)]
        table.add_row(Text(row.category), *numbers, Text(", ".join(kinds[:DEFECTS_SHOWN]) + more))
    console.print(table)
    found = result.found
    line = f"{found.normal} normal, {found.anomalous} anomalous, {found.train} for training"
    if result.record and result.record.counts.normal is not None:
        official = result.record.counts
        train = "?" if official.train is None else official.train
        line += f" (official: {official.normal}, {official.anomalous}, {train})"
    console.print(line, markup=False, soft_wrap=True)
    if marked := [f"{row.category} {_marked(row.marked)}" for row in result.categories if row.marked]:
        line = f"share of the image that masks mark (smallest, median, largest): {', '.join(marked)}"
        console.print(line, markup=False, soft_wrap=True)
    for note in result.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    if not result.problems:
        decoded = f", {counted(result.decoded, 'file')} decoded" if result.decoded else ""
        console.print(Text(f"no problems{decoded}", style="green"))


def _marked(shares: tuple[float, float, float]) -> str:
    """Returns smallest, median and largest share in percent."""
    return " / ".join(f"{100 * share:.2g}" for share in shares) + " %"
