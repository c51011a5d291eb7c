"""`zsad evaluate`: makes the papers' tables for any methods on any data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsad.cli.options import (
    SOME_FAILED,
    AugmentReferencesOption,
    BatchSizeOption,
    BitsOption,
    DeviceOption,
    DevicesOption,
    ImageSizeOption,
    IncludeResultsOption,
    LimitOption,
    NormalLabelsOption,
    OfflineOption,
    OutFolderOption,
    PrecisionOption,
    QuietOption,
    RoiOption,
    SettingsOption,
    TileOption,
    comma_list,
    go_offline,
    method_settings,
    typed_command,
)
from zsad.cli.printing import counted, duration, left_out_lines, print_problems, resumable, stdout

if TYPE_CHECKING:
    from zsad.evaluation.results import EvaluationResult


def evaluate(
    *,
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            "-d",
            help="Dataset to test on: NAME:FOLDER with a name of `zsad data list`, a folder, or a CSV or "
            "JSON list. Repeatable.",
        ),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", "-m", help="A name of `zsad methods`, or all. Repeatable. Default: anomalyclip."
        ),
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option("--backbone", "-b", help="Backbone, as for `zsad predict`. Repeatable. Default: tiny."),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Learnt weights: a file written by zsad or by the method's authors, or a name of `zsad "
            "weights list`. {method}, {backbone} and {seed} in it are filled in for each run."
        ),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Seed of everything that is random. Repeatable. Default: 0.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Part of the data: test, as in the papers; train or all.")
    ] = "test",
    pro: Annotated[
        str, typer.Option(help="AUPRO: exact, or script, which most published numbers come from.")
    ] = "exact",
    fpr_limit: Annotated[
        float, typer.Option(help="False-positive rate up to which the PRO curve counts.")
    ] = 0.3,
    bootstrap: Annotated[
        int,
        typer.Option(min=0, help="Number of resamples for 95 % intervals of the image metrics; 0 for none."),
    ] = 0,
    reference: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number of normal training images per category that a method compares with (few-shot).",
        ),
    ] = 0,
    augment_references: AugmentReferencesOption = False,
    limit: LimitOption = None,
    roi: RoiOption = None,
    image_size: ImageSizeOption = None,
    batch_size: BatchSizeOption = 8,
    settings: SettingsOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    devices: DevicesOption = 1,
    out: OutFolderOption = Path("zsad-evaluation"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an earlier evaluation; finished runs are kept.")
    ] = False,
    allow_overlap: Annotated[
        bool,
        typer.Option("--allow-overlap", help="Test although the weights were trained on some of the data."),
    ] = False,
    bits: BitsOption = None,
    tile: TileOption = None,
    offline: OfflineOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json in place of tables.")] = False,
    normal_labels: NormalLabelsOption = None,
    include_results: IncludeResultsOption = False,
    quiet: QuietOption = False,
) -> None:
    """Evaluate methods on datasets as the papers do, and write results, curves and the worst mistakes.

    Each combination of method, backbone, seed and dataset is a run. Writes OUT/results.json and, for each
    run, OUT/runs/RUN/pictures.jsonl, curves.json and maps/. `zsad report OUT` makes the page.

    Exit code: 0 if every run and every image was evaluated, 3 if some were left out.
    """
    config = method_settings(settings)
    go_offline(offline)
    from zsad.evaluation.options import EvaluateOptions

    options = EvaluateOptions(
        data=tuple(data),
        normal_labels=comma_list(normal_labels),
        include_results=include_results,
        out=out,
        methods=tuple(method or EvaluateOptions.methods),
        backbones=tuple(backbone or EvaluateOptions.backbones),
        checkpoint=checkpoint,
        seeds=tuple(seed or EvaluateOptions.seeds),
        split=split,  # type: ignore[arg-type] # checked inside
        pro=pro,  # type: ignore[arg-type] # checked inside
        fpr_limit=fpr_limit,
        bootstrap=bootstrap,
        references=reference,
        augment_references=augment_references,
        limit=limit,
        roi=roi,
        image_size=image_size,
        bits=bits,  # type: ignore[arg-type] # checked inside
        tile=tile,  # type: ignore[arg-type] # checked inside
        batch_size=batch_size,
        settings=config,
        precision=precision,
        device=device,
        devices=devices,
        resume=resume,
        allow_overlap=allow_overlap,
    )
    from zsad.evaluation.run import evaluate as run

    with resumable("Evaluating", out, quiet=quiet) as bar:
        result = run(options, progress=bar.show, command=typed_command())
    if as_json:
        from zsad.evaluation.results import RESULTS_FILE

        typer.echo((out / RESULTS_FILE).read_text(encoding="utf-8"), nl=False)
    elif not quiet:
        _print_tables(result, out)
    left_out = left_out_lines(result)
    print_problems("left out", left_out, "see results.json")
    if left_out:
        raise typer.Exit(SOME_FAILED)


def _print_tables(result: EvaluationResult, out: Path) -> None:
    """Prints a table for each run, one over all runs if there are several, and where the results are."""
    from zsad.evaluation.report.formats import to_text
    from zsad.evaluation.report.tables import category_table, group_runs, overview_table

    console = stdout()
    groups = group_runs(result.runs)
    for group in groups:
        table = category_table(group)
        # With several tables, the notes stand only once, below the last one.
        console.print(to_text(replace(table, notes=()) if len(groups) > 1 else table))
    if len(groups) > 1:
        console.print(to_text(overview_table(result.runs)))
    images = sum(row.normal + row.anomalous for run in result.runs for row in run.categories)
    seconds = duration(result.provenance["seconds"])
    console.print(f"{counted(len(result.runs), 'run')} over {counted(images, 'image')} in {seconds}")
    console.print(f"Results: {out}; `zsad report {out}` makes a page", markup=False, soft_wrap=True)
