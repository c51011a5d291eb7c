"""`zsad evaluate`: the papers' tables for any methods on any data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsad.cli.options import (
    INTERRUPTED,
    SOME_FAILED,
    BatchSizeOption,
    DeviceOption,
    ImageSizeOption,
    OfflineOption,
    PrecisionOption,
    QuietOption,
    SettingsOption,
    fail,
    go_offline,
    method_settings,
)
from zsad.cli.printing import Bar, counted, duration, stderr, stdout

if TYPE_CHECKING:
    from zsad.evaluation.results import EvaluationResult

SHOWN_FAILURES = 10


def evaluate(
    *,
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            "-d",
            help="NAME:FOLDER with a name of `zsad data list`, a folder, or a CSV or JSON list. Repeatable.",
        ),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", "-m", help="One of `zsad methods`, or all. Repeatable. Default: anomalyclip."
        ),
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option("--backbone", "-b", help="As for `zsad predict`. Repeatable. Default: tiny."),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Learnt weights: a file of zsad or of the method's authors, or a name of `zsad weights "
            "list`. {method}, {backbone} and {seed} in it are filled in for each run."
        ),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Of what is drawn at random. Repeatable. Default: 0.")
    ] = None,
    split: Annotated[str, typer.Option(help="test, as the papers do; train or all.")] = "test",
    pro: Annotated[
        str, typer.Option(help="AUPRO: exact, or script, as behind most published numbers.")
    ] = "exact",
    fpr_limit: Annotated[float, typer.Option(help="False-positive rate up to which PRO counts.")] = 0.3,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Resamples for 95 % intervals of the image metrics; 0 for none.")
    ] = 0,
    reference: Annotated[
        int,
        typer.Option(min=0, help="Normal training images shown to the method per category (few-shot)."),
    ] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many images of a category, evenly spread.")
    ] = None,
    image_size: ImageSizeOption = None,
    batch_size: BatchSizeOption = 8,
    settings: SettingsOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or CPU processes, that share the images.")] = 1,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path(
        "zsad-evaluation"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an evaluation, keeping what is finished.")
    ] = False,
    allow_overlap: Annotated[
        bool,
        typer.Option("--allow-overlap", help="Also test on data that the weights were trained on."),
    ] = False,
    offline: OfflineOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json instead of tables.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Evaluate methods on datasets as the papers do, and write results, curves and the worst mistakes.

    Each combination of method, backbone, seed and dataset is a run. Written: OUT/results.json, and for each
    run OUT/runs/RUN/pictures.jsonl, curves.json, maps/. `zsad report OUT` makes the page.

    Exit code: 0 if every run and every image was evaluated, 3 if some were left out.
    """
    config = method_settings(settings)
    go_offline(offline)
    from zsad.evaluation.options import EvaluationOptions
    from zsad.evaluation.run import evaluate as run

    options = EvaluationOptions(
        data=tuple(data),
        out=out,
        methods=tuple(method or EvaluationOptions.methods),
        backbones=tuple(backbone or (None,)),
        checkpoint=checkpoint,
        seeds=tuple(seed or EvaluationOptions.seeds),
        split=split,  # type: ignore[arg-type] # checked by the library, which names the choices
        pro=pro,  # type: ignore[arg-type] # likewise
        fpr_limit=fpr_limit,
        bootstrap=bootstrap,
        references=reference,
        limit=limit,
        image_size=image_size,
        batch_size=batch_size,
        settings=config,
        precision=precision,
        device=device,
        devices=devices,
        resume=resume,
        allow_overlap=allow_overlap,
    )
    errors = stderr()
    errors.quiet = quiet
    bar = Bar(errors, "Evaluating")
    try:
        with bar:
            result = run(options, bar.show, _command())
    except KeyboardInterrupt:
        if not bar.is_started:
            raise
        fail(f"interrupted: what is done is in {out}; the same command with --resume goes on", INTERRUPTED)
    if as_json:
        from zsad.evaluation.results import RESULTS_FILE

        typer.echo((out / RESULTS_FILE).read_text(encoding="utf-8"), nl=False)
    elif not quiet:
        _print_tables(result, out)
    if _print_failures(result):
        raise typer.Exit(SOME_FAILED)


def _command() -> str:
    """What was typed, as a shell would take it again."""
    import shlex
    import sys

    return shlex.join(["zsad", *sys.argv[1:]])


def _print_tables(result: EvaluationResult, out: Path) -> None:
    """A table for each run, one over all runs if there are several, and where the results are."""
    from zsad.evaluation.report.formats import to_text
    from zsad.evaluation.report.tables import category_table, group_runs, overview_table

    console = stdout()
    groups = group_runs(result.runs)
    for group in groups:
        table = category_table(group)
        # Under several tables the notes stand once, below the last one.
        console.print(to_text(replace(table, notes=()) if len(groups) > 1 else table))
    if len(groups) > 1:
        console.print(to_text(overview_table(result.runs)))
    pictures = sum(row.normal + row.anomalous for run in result.runs for row in run.categories)
    seconds = duration(result.provenance["seconds"])
    console.print(f"{counted(len(result.runs), 'run')} over {counted(pictures, 'image')} in {seconds}")
    console.print(f"Results: {out}; `zsad report {out}` makes a page", markup=False, soft_wrap=True)


def _print_failures(result: EvaluationResult) -> bool:
    """Prints what was left out, on standard error; whether there was anything."""
    lines = [f"{run.id}: {run.error}" for run in result.failed_runs]
    # Every run on a dataset leaves out the same files.
    lines += dict.fromkeys(line for run in result.runs for line in (*run.problems, *run.failed))
    console = stderr()
    for line in lines[:SHOWN_FAILURES]:
        console.print(f"left out: {line}", markup=False, highlight=False, soft_wrap=True)
    if len(lines) > SHOWN_FAILURES:
        console.print(f"left out: {len(lines) - SHOWN_FAILURES} more, see results.json")
    return bool(lines)
