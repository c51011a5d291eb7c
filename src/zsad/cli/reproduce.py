"""`zsad reproduce`: produces one row of a published table by the recipe that ships with zsad."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsad.cli.options import (
    SOME_FAILED,
    WRONG_USAGE,
    DeviceOption,
    DevicesOption,
    LimitOption,
    OfflineOption,
    QuietOption,
    fail,
    fail_interrupted,
    go_offline,
    typed_command,
)
from zsad.cli.printing import Bar, left_out_lines, print_problems, stderr, stdout, table_of

if TYPE_CHECKING:
    from zsad.evaluation.published import PublishedNumber
    from zsad.evaluation.reproduction.plan import ReproduceOptions
    from zsad.evaluation.reproduction.recipe import Recipe
    from zsad.evaluation.reproduction.run import Reproduction

AS_RECIPE = "Default: as in the recipe."
_SHOWN = ("image_auroc", "pixel_auroc")


def reproduce(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[RECIPE]", help="Name of a recipe (--list), or your own YAML file.", show_default=False
        ),
    ] = None,
    *,
    show_list: Annotated[
        bool, typer.Option("--list", help="List the recipes; RECIPE then filters them by a part of the name.")
    ] = False,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "-d",
            metavar="NAME=FOLDER",
            help="Folder of a dataset, by the dataset's name in `zsad data list`. Repeatable. Default: the "
            "folder of that name in the folder ZSAD_DATA.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Learnt weights: a file, or a name of `zsad weights list`. Default: the weights that the "
            "authors published."
        ),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Train although the authors published weights.")
    ] = False,
    backbone: Annotated[
        str | None, typer.Option("--backbone", "-b", help=f"Backbone, as for `zsad predict`. {AS_RECIPE}")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help=f"Side of the network's input, in pixels. {AS_RECIPE}")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help=f"Number of epochs of the training. {AS_RECIPE}")
    ] = None,
    limit: LimitOption = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16 or fp16. Default: as the authors.")
    ] = None,
    device: DeviceOption = None,
    devices: DevicesOption = 1,
    cache: Annotated[
        bool,
        typer.Option(
            help="Keep the features of the training images in OUT/features until training is over, if the "
            "method allows it: faster, but takes gigabytes."
        ),
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the results. Default: zsad-reproduce/RECIPE."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue with what is in OUT.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the equivalent commands.")] = False,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
) -> None:
    """Reproduce one row of a published table, and print our numbers beside the published ones.

    Trains if the authors published no weights. Writes OUT/results.json, reproduction.json (recipe, comparison
    and deviations from the published setting), index.html and, after a training, weights.safetensors.

    Exit code: 0 if every image was evaluated, 3 if some were left out.
    """
    if show_list:
        _print_list(name or "")
        return
    if name is None:
        fail("name a recipe, as in `zsad reproduce anomalyclip-mvtec`; --list shows them all", WRONG_USAGE)
    go_offline(offline)
    from zsad.evaluation.reproduction.datasets import parse_data
    from zsad.evaluation.reproduction.finding import find_recipe
    from zsad.evaluation.reproduction.plan import ReproduceOptions

    recipe = find_recipe(name)
    options = ReproduceOptions(
        recipe=recipe,
        out=out or Path("zsad-reproduce") / recipe.name,
        data=parse_data(data or []),
        weights=weights,
        retrain=train,
        backbone=backbone,
        image_size=image_size,
        epochs=epochs,
        limit=limit,
        device=device,
        devices=devices,
        precision=precision,
        cache=cache,
        resume=resume,
    )
    if dry_run:
        _print_commands(options)
        return
    found = _run(options, quiet)
    if not quiet:
        _print_comparison(options, found)
    left_out = left_out_lines(found.result)
    print_problems("left out", left_out, "see results.json")
    if left_out:
        raise typer.Exit(SOME_FAILED)


def _run(options: ReproduceOptions, quiet: bool) -> Reproduction:
    """Trains and evaluates under progress bars; after Ctrl-C, says how to continue."""
    from zsad.evaluation.reproduction.run import reproduce as run

    try:
        with Bar(stderr(quiet), "Evaluating") as bar:
            return run(options, show_training=not quiet, progress=bar.show, command=typed_command())
    except KeyboardInterrupt:
        fail_interrupted(f"finished results are in {options.out}")


def _print_list(part: str) -> None:
    """Prints name, training data, weights and two published numbers of each recipe."""
    from zsad.evaluation.reproduction.comparison import published_row
    from zsad.evaluation.reproduction.finding import find_recipe, list_recipes

    table = table_of("name", "trained on", "weights", "image", "pixel", "published by")
    names = [name for name in list_recipes() if part.casefold() in name]
    for name in names:
        recipe = find_recipe(name)
        row = published_row(recipe)
        shown = [_short(row.get(metric)) for metric in _SHOWN]
        source = next(iter(row.values())).source.partition(" (")[0] if row else "-"
        table.add_row(name, recipe.trained_on, _weights(recipe), *shown, source)
    console = stdout()
    console.print(table)
    if not names:
        fail(f"no recipe has {part!r} in its name", WRONG_USAGE)
    console.print(
        "image, pixel: published AUROC in percent, mean over categories; *: not checked against the paper.",
        style="dim",
    )


def _short(number: PublishedNumber | None) -> str:
    if number is None:
        return "-"
    return f"{number.value:.1f}{'*' * (number.origin in ('recalled', 'notes'))}"


def _weights(recipe: Recipe) -> str:
    if recipe.train is None:
        return "none"
    return "authors'" if recipe.checkpoint else "to train"


def _print_commands(options: ReproduceOptions) -> None:
    """Prints the equivalent commands, with names in capitals for folders that were not given."""
    from zsad.evaluation.reproduction.commands import commands
    from zsad.evaluation.reproduction.plan import deviations

    folders = {name: options.data.get(name, Path(f"{name.upper()}_FOLDER")) for name in options.datasets}
    for line in deviations(options):
        typer.echo(f"# not the published setting: {line}")
    for line in commands(options, folders):
        typer.echo(line)


def _print_comparison(options: ReproduceOptions, found: Reproduction) -> None:
    """Prints our numbers beside the published ones, the assumptions, and where the page is."""
    from zsad.evaluation.report.tables import METRIC_TITLES
    from zsad.evaluation.reproduction.comparison import difference
    from zsad.evaluation.reproduction.run import NOT_PUBLISHED

    console = stdout()
    table = table_of("percent", "ours", "published", "difference")
    for metric, cell in found.comparison.items():
        gap = difference(cell, is_whole=found.is_whole)
        spread = "" if cell.deviation is None else f" ± {cell.deviation:.1f}"
        table.add_row(
            METRIC_TITLES[metric],
            "-" if math.isnan(cell.value) else f"{cell.value:.1f}{spread}",
            f"{cell.published.value:.1f}" if cell.published else "-",
            "-" if gap is None else f"{gap:+.1f}",
        )
    recipe = options.recipe
    console.print(f"{recipe.title} (trained on {recipe.trained_on})", style="bold")
    console.print(table)
    numbers = [cell.published for cell in found.comparison.values() if cell.published]
    tables = "; ".join(dict.fromkeys(f"{number.source}, {number.table}" for number in numbers))
    remarks = "; ".join(dict.fromkeys(number.remark for number in numbers if number.remark))
    published = f"Published: {tables or 'no number is known'}{f' ({remarks})' if remarks else ''}."
    console.print(published, markup=False, soft_wrap=True, style="dim")
    for line in recipe.assumptions:
        console.print(f"Assumed: {line}", markup=False, soft_wrap=True, style="dim")
    for line in found.deviations:
        console.print(f"{NOT_PUBLISHED.upper()}: {line}", markup=False, soft_wrap=True, style="bold yellow")
    console.print(f"Page: {found.page}", markup=False, soft_wrap=True)
