"""The command line: each command parses its options, calls the library and prints.

Nothing heavy is imported before a command runs, so that `zsad --help` answers at once. Exit codes: 0 done,
2 wrong usage, 3 some inputs failed and the rest is done, 130 after Ctrl-C, 1 anything else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from zsad.cli_printing import Bar, counted, print_failures, print_summary, stderr, stdout, table_of
from zsad.cli_weights import weights_app

WRONG_USAGE, SOME_FAILED, INTERRUPTED, FAILED = 2, 3, 130, 1
DEBUG_VARIABLE = "ZSAD_DEBUG"


class _OneLineErrors(TyperGroup):
    """Prints errors as one line instead of a stack trace; ZSAD_DEBUG=1 shows the trace."""

    def invoke(self, ctx: Any) -> Any:
        from zsad.errors import ConfigError, ZsadError

        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail("interrupted", INTERRUPTED)
        except ZsadError as error:
            _fail(error, WRONG_USAGE if isinstance(error, ConfigError) else FAILED)
        except Exception as error:
            # typer's own ways out carry an exit code, and it handles a closed pipe (`zsad methods | head`)
            if hasattr(error, "exit_code") or isinstance(error, typer.Abort | BrokenPipeError | EOFError):
                raise
            _fail(error, FAILED)


app = typer.Typer(
    cls=_OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Zero-shot anomaly detection for pictures: every CLIP-based system, one command.",
)
app.add_typer(weights_app, name="weights")

MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method", "-m", help="One of `zsad methods`. Default: the checkpoint's, else anomalyclip."
    ),
]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        "-b",
        help="One of `zsad backbones`, hf-hub:ORG/REPO, open_clip:ARCH/TAG or a path. Default: tiny.",
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 or mps. Default: the fastest one there is.")
]
ImageSizeOption = Annotated[
    int | None,
    typer.Option(min=1, help="Side of the network's input. Default: as the weights were made for."),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A setting of the method, by the paper's term. Repeatable."
    ),
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Never touch the network.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


def main() -> None:
    """The `zsad` program."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        from zsad import __version__

        typer.echo(f"zsad {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="FILE|FOLDER|GLOB...", help="Pictures to score.", show_default=False),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("zsad-results"),
    method: MethodOption = None,
    backbone: BackboneOption = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Learnt weights: a file of zsad or of the method's authors.")
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--class-name", "-c", help='What the pictures show, e.g. "metal nut".')
    ] = None,
    references: Annotated[
        list[str] | None,
        typer.Option(
            "--reference", help="A picture, folder or glob of good examples (few-shot). Repeatable."
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Image score from which on a picture is anomalous.")
    ] = None,
    map_threshold: Annotated[
        float | None, typer.Option(help="Map value from which on a pixel is anomalous (mask, contour).")
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            help="What to write for each picture, comma-separated: overlay, map (16-bit PNG), npy, mask, "
            "contour; or none. Default: overlay,map and, with a map threshold, mask.",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="Colours of the overlays: fixed (comparable), or picture (each its own).")
    ] = "fixed",
    state_words: Annotated[
        str | None,
        typer.Option(
            help="Defects, comma-separated (cracked,corroded), or a YAML file with lists normal, abnormal, "
            "templates; for methods with hand-written sentences (winclip, clip_ac, april_gan).",
            show_default=False,
        ),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            help="Defect phrases, comma-separated (cracked,a scratch,stained): which fits the anomalous "
            "region best is written into explanations.jsonl.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures that are scored at once.")] = 8,
    image_size: ImageSizeOption = None,
    device: DeviceOption = None,
    precision: Annotated[str | None, typer.Option(help="fp32 (default), bf16 or fp16.")] = None,
    recursive: Annotated[bool, typer.Option(help="Also look into sub-folders.")] = True,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run, skipping what is done.")
    ] = False,
    settings: SettingsOption = None,
    offline: OfflineOption = False,
    json_lines: Annotated[bool, typer.Option("--json", help="Print the records as JSON lines.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Score pictures, draw heat maps and write a page to look at.

    Written: OUT/index.html, results.jsonl, results.csv, overlays/, maps/; explanations.jsonl for --explain.

    Exit code: 0 if every picture was scored, 3 if some could not be read.
    """
    config = _parse_settings(settings or [])
    if state_words is not None:
        from zsad.prompts.state_words import parse_state_words

        config["state_words"] = parse_state_words(state_words)
    _go_offline(offline)
    from zsad.prediction import checked_formats, predict_folder

    kinds = None if formats is None else checked_formats(_comma_list(formats))
    errors = stderr()

    def load() -> Any:
        import zsad
        from zsad.picture_files import find_images

        with errors.status("Loading the method..."):
            return zsad.load(
                method=method,
                backbone=backbone,
                checkpoint=checkpoint,
                image_size=image_size,
                device=device,
                precision=precision,
                references=find_images(references, recursive) if references else None,
                **config,
            )

    errors.quiet = quiet
    remembered = {"checkpoint": checkpoint, "precision": precision, "references": references}
    bar = Bar(errors, "Scoring")
    try:
        with bar:
            summary = predict_folder(
                inputs,
                load,
                out,
                class_name=class_name,
                threshold=threshold,
                map_threshold=map_threshold,
                batch_size=batch_size,
                recursive=recursive,
                formats=kinds,
                scale=scale,  # type: ignore[arg-type] # checked by the library, which names the choices
                explain=None if explain is None else _comma_list(explain),
                resume=resume,
                settings=remembered,
                progress=bar.show,
            )
    except KeyboardInterrupt:
        if not bar.is_started:
            raise
        _fail(f"interrupted: what is done is in {out}; the same command with --resume goes on", INTERRUPTED)
    if json_lines:
        for record in summary.records:
            typer.echo(record.to_json())
    elif not quiet:
        print_summary(summary)
    print_failures(summary)
    if summary.failed:
        raise typer.Exit(SOME_FAILED)


@app.command()
def train(
    *,
    data: Annotated[
        list[Path],
        typer.Option("--data", "-d", help="Folder in MVTec AD layout, or of such folders. Repeatable."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the learnt weights (.safetensors).")],
    method: Annotated[
        str, typer.Option("--method", "-m", help="One that learns; see `zsad methods`.")
    ] = "anomalyclip",
    backbone: BackboneOption = None,
    split: Annotated[
        str, typer.Option(help="test: normal and anomalous, as the papers do; all: also train/good.")
    ] = "test",
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 15,
    batch_size: Annotated[int, typer.Option(help="Pictures of one step.")] = 8,
    learning_rate: Annotated[float, typer.Option("--lr", help="Learning rate of Adam.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of initial weights and data order.")] = 111,
    image_size: ImageSizeOption = None,
    device: DeviceOption = None,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 or fp16 autocast.")] = "fp32",
    workers: Annotated[int, typer.Option(help="Threads that read pictures.")] = 2,
    settings: SettingsOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last finished epoch, if there is one.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew although OUT or a checkpoint is there.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for the pictures' features: computed once, read in later epochs."),
    ] = None,
    cache_precision: Annotated[str, typer.Option(help="Of the cache: fp32, or bf16 or fp16.")] = "fp32",
    offline: OfflineOption = False,
    quiet: QuietOption = False,
) -> None:
    """Learn a method's weights from pictures with masks; the defaults are AnomalyCLIP's recipe.

    OUT is for `zsad predict --checkpoint OUT`. The folder OUT.training (without .safetensors) holds the
    checkpoint of the last finished epoch and log.csv with the loss of every step.
    """
    config = _parse_settings(settings or [])
    _go_offline(offline)
    from zsad.training import TrainConfig
    from zsad.training import train as run

    result = run(
        TrainConfig(
            out=out,
            data=tuple(data),
            split=split,  # type: ignore[arg-type] # checked by the library, which names the choices
            method=method,
            backbone=backbone,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            image_size=image_size,
            device=device,
            precision=precision,  # type: ignore[arg-type] # likewise
            settings=config,
            workers=workers,
            resume=resume,
            overwrite=overwrite,
            cache=cache,
            cache_precision=cache_precision,  # type: ignore[arg-type] # likewise
        ),
        show_progress=not quiet,
    )
    if not quiet:
        console = stdout()
        started = f" (went on after epoch {result.resumed_from})" if result.resumed_from else ""
        console.print(
            f"{counted(len(result.losses), 'epoch')} in {result.seconds:.0f} s{started}, mean loss "
            f"{result.losses[0]:.4f} in the first, {result.losses[-1]:.4f} in the last"
        )
        console.print(f"Weights: {result.path}\nLog: {result.log}", markup=False, soft_wrap=True)


@app.command()
def methods() -> None:
    """List the systems of the literature that zsad holds."""
    from zsad.registry import list_methods, method_class

    table = table_of("name", "title", "year", "uses", "paper")
    for name in list_methods():
        info = method_class(name).INFO
        wants = {
            "training": info.needs_training,
            "class name": info.uses_class_names,
            "examples": info.accepts_references,
            "whole batch": info.scores_batch_jointly,
        }
        asked = ", ".join(want for want, is_wanted in wants.items() if is_wanted) or "nothing"
        table.add_row(name, info.title, str(info.year), asked, info.paper.removeprefix("https://"))
    console = stdout()
    console.print(table)
    console.print(
        "training: learnt weights, shipped with zsad or from `zsad train`; class name: --class-name; "
        "examples: --reference, optional; whole batch: a picture's score depends on the others.",
        style="dim",
    )


@app.command()
def backbones() -> None:
    """List the CLIP weights that zsad knows by name, and which of them are here."""
    from zsad.backbones.records import backbone_records, is_available_offline
    from zsad.doctor import human_bytes

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
        "Others: hf-hub:ORG/REPO, open_clip:ARCH/TAG, or the path of a file or folder.", style="dim"
    )


@app.command()
def doctor() -> None:
    """Check this installation: versions, device, extras, cache, and a real prediction."""
    from rich.text import Text

    from zsad.doctor import diagnose

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
        _fail(f"{problems} problem{'s' if problems > 1 else ''} found, marked !! above", FAILED)


def _parse_settings(pairs: list[str]) -> dict[str, Any]:
    """Turns KEY=VALUE into Python values: numbers, lists, true, false and none are read as such."""
    from zsad.errors import ConfigError
    from zsad.settings_text import parse_setting

    settings = dict(parse_setting(pair) for pair in pairs)
    if len(settings) < len(pairs):
        raise ConfigError("--set names a setting twice")
    return settings


def _comma_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip() not in ("", "none")]


def _go_offline(wanted: bool) -> None:
    if wanted:
        os.environ["ZSAD_OFFLINE"] = "1"
        os.environ["HF_HUB_OFFLINE"] = "1"


def _fail(error: BaseException | str, code: int) -> NoReturn:
    """Prints one line and leaves."""
    from zsad.errors import ZsadError
    from zsad.results import one_line

    if os.environ.get(DEBUG_VARIABLE) and isinstance(error, BaseException):
        raise error
    message = error if isinstance(error, str) else one_line(error)
    if isinstance(error, BaseException) and not isinstance(error, ZsadError | OSError):
        message = f"unexpected {type(error).__name__}: {message} ({DEBUG_VARIABLE}=1 shows where)"
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)
