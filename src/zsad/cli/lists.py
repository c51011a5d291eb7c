"""`zsad methods`, `zsad backbones` and `zsad doctor`: print what is installed, and whether it works."""

from __future__ import annotations

from typing import Annotated

import typer

from zsad.cli.options import FAILED, fail
from zsad.cli.printing import stdout, table_of


def methods(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """List the methods, each a system of the literature."""
    import json

    from zsad.evaluation.method_facts import BY_OTHERS, method_facts
    from zsad.methods._registry import list_methods

    listed = [method_facts(name) for name in list_methods()]
    if as_json:
        typer.echo(json.dumps([facts.record() for facts in listed], indent=2))
        return
    console = stdout()
    for facts in listed:  # a few lines each, since a table of so many facts needs a wide terminal
        name, link = facts.info.name, facts.info.paper.removeprefix("https://")
        weights = ", ".join(facts.weights) or ("train them" if facts.info.needs_training else "needs none")
        console.print(f"[bold]{name}[/bold]  {facts.info.title}, {facts.info.year}, {link}", soft_wrap=True)
        for line in (
            f"needs {', '.join(facts.needs) or 'nothing'}; checked against {facts.checked}",
            f"MVTec AD {facts.published_pair('mvtec')}; VisA {facts.published_pair('visa')}; "
            f"weights: {weights}",
            *([f"not exported: {facts.not_exported_because}"] if facts.not_exported_because else []),
        ):
            console.print(f"   {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        "learnt weights: shipped with zsad or from `zsad train`; class name: --class-name; all images: the "
        "score of an image depends on the others; reconstruction: the paper leaves parts open, which are "
        "zsad's own. MVTec AD, VisA: image AUROC / pixel AUROC without references, as published; "
        f"{BY_OTHERS} not by the authors. weights: `zsad weights fetch NAME`. Every method takes "
        "known-normal images: --references.",
        style="dim",
    )


def backbones() -> None:
    """List the CLIP weights that zsad knows by name, and whether each is on this machine."""
    from zsad.backbones.catalog import backbone_records, is_available_offline
    from zsad.cli.doctor import human_bytes

    table = table_of("name", "here", "download", "size", "licence", "trained on")
    for record in backbone_records():
        here = is_available_offline(record)
        size = "?" if record.bytes is None else human_bytes(record.bytes)
        table.add_row(
            record.name,
            "yes" if here else "no",
            "-" if here else size,
            f"{record.image_size} px",
            record.licence,
            record.auxiliary_data or "-",
        )
    console = stdout()
    console.print(table)
    console.print(
        "Other backbones: hf-hub:ORG/REPO, open_clip:ARCH/TAG, or the path of a file or folder.", style="dim"
    )


def doctor() -> None:
    """Check this installation: versions, device, extras, cache, and a real prediction."""
    from rich.text import Text

    from zsad.cli.doctor import diagnose

    console = stdout()
    signs = {"ok": ("ok", "green"), "note": ("--", "yellow"), "problem": ("!!", "bold red")}
    problems = 0
    for finding in diagnose():
        sign, style = signs[finding.state]
        line = Text.assemble((f"{sign:3}", style), (f"{finding.name:18} ", "bold"), finding.value)
        if finding.advice:
            line.append(f"  ->  {finding.advice}", style=style)
        console.print(line)
        problems += finding.state == "problem"
    if problems:
        fail(f"{problems} problem{'s' if problems > 1 else ''} found, marked !! above", FAILED)
