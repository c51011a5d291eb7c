"""`zsad weights`: lists, downloads, verifies and converts files of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zsad.cli.options import OfflineOption, SettingsOption, go_offline, method_settings
from zsad.cli.printing import counted, quoted, stdout

PAPERS_BACKBONE = "ViT-L-14-336"

weights_app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="List, download, verify and convert files of weights.",
)


@weights_app.command("list")
def list_weights(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """List backbones and learnt weights of zsad and of the authors, with source, checksum and licence."""
    import json
    from dataclasses import asdict

    from rich.text import Text

    from zsad.cli.doctor import human_bytes
    from zsad.detector.weights import files_of, manifest, without_weights

    found = [(record, files_of(record)) for record in manifest()]
    if as_json:
        listed = [{**asdict(record), "files": [str(path) for path in paths]} for record, paths in found]
        typer.echo(json.dumps(listed, indent=2))
        return
    console = stdout()
    for record, paths in found:
        size = record.bytes if record.bytes is not None else sum(path.stat().st_size for path in paths)
        facts = {
            "here": ", ".join(map(str, paths)) or "no",
            "source": record.source,
            "size": f"{human_bytes(size)} ({size} bytes)" if size else "not known before the download",
            "SHA-256": record.sha256 or "not known",
            "licence": record.licence,
            "trained on": record.auxiliary_data or "-",
            "images": f"{record.image_size} x {record.image_size} pixels, {record.activation}",
            "backbone": record.backbone,
            "notes": record.notes,
        }
        console.print(Text(record.name, style="bold green" if paths else "bold"))
        for fact, value in facts.items():
            if value:
                console.print(Text.assemble((f"  {fact:12}", "dim"), value), soft_wrap=True)
    for title, advice in without_weights().items():
        console.print(f"{title}: {advice}", markup=False, soft_wrap=True)


@weights_app.command()
def fetch(
    name: Annotated[
        str, typer.Argument(help="A name of `zsad weights list`, hf-hub:ORG/REPO or open_clip:ARCH/TAG.")
    ],
    *,
    offline: OfflineOption = False,
) -> None:
    """Download a backbone or the weights of a method's authors into the cache, unless they are there.

    An interrupted download is continued if the checksum of the file is known.
    """
    from zsad.detector.weights import fetch as fetch_weights

    paths = fetch_weights(name, offline or None)
    console = stdout()
    if not paths:
        console.print(f"{name} is here", markup=False)
    for path in paths:
        console.print(f"{name} is here: {path}", markup=False, soft_wrap=True)


@weights_app.command()
def verify(
    name: Annotated[
        str | None,
        typer.Argument(help="A name of `zsad weights list`. Default: all weights on this machine."),
    ] = None,
) -> None:
    """Compare the files of weights on this machine with their published SHA-256 checksums.

    Exit code: 0 if every file is as published (or its checksum is unknown), 1 if one differs or is missing.
    """
    from rich.text import Text

    from zsad.detector.weights import find_record, manifest
    from zsad.detector.weights import verify as verify_weights
    from zsad.errors import WeightsError

    records = manifest() if name is None else [find_record(name)]
    checks = [check for record in records for check in verify_weights(record)]
    if not checks:
        raise WeightsError(f"{name} is not here: zsad weights fetch {name}")
    console = stdout()
    styles = {"ok": "green", "broken": "bold red", "no checksum": "yellow"}
    for check in checks:
        line = Text.assemble((f"{check.state:12}", styles[check.state]), f"{check.record.name}  {check.path}")
        if check.state == "broken":
            line.append(f"\n            SHA-256 {check.found} instead of {check.expected}")
        elif check.state == "no checksum":
            line.append(f"\n            SHA-256 {check.found}; the published checksum is unknown")
        console.print(line, soft_wrap=True)
    broken = [check for check in checks if check.state == "broken"]
    if broken:
        raise WeightsError(
            f"{counted(len(broken), 'file')} not as published: delete {broken[0].path}, "
            f"then run zsad weights fetch {broken[0].record.name} (or install zsad again)"
        )


@weights_app.command()
def convert(
    file: Annotated[
        str,
        typer.Argument(
            help="Learnt weights published by a method's authors: a file, or a name of `zsad weights list`."
        ),
    ],
    *,
    method: Annotated[str, typer.Option("--method", "-m", help="Method that the weights belong to.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write (.safetensors).")],
    backbone: Annotated[
        str, typer.Option("--backbone", "-b", help="Backbone that the weights were learnt on.")
    ] = PAPERS_BACKBONE,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="Side of the network's input, in pixels. Default: as in the paper."),
    ] = None,
    trained_on: Annotated[
        str,
        typer.Option(
            "--trained-on",
            help='Training data to note in the file, e.g. "VisA"; files of authors do not name it.',
        ),
    ] = "",
    settings: SettingsOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
    offline: OfflineOption = False,
) -> None:
    """Convert a checkpoint of a method's authors to zsad's format, which names method, backbone and settings.

    Loads the backbone, because the converted file records the weights that it must be used with.
    """
    from zsad.errors import ConfigError

    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists: give another --out, or --overwrite to replace it")
    chosen = method_settings(settings)
    go_offline(offline)
    import zsad

    detector = zsad.load(method, backbone, file, image_size=image_size, device="cpu", **chosen)
    detector.auxiliary_data = trained_on or detector.auxiliary_data
    written = detector.save(out)
    stdout().print(
        f"{written}: for zsad predict --checkpoint {quoted(written)}", markup=False, soft_wrap=True
    )
