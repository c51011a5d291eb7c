"""The command line: each command parses its options, calls the library and prints.

Nothing heavy is imported before a command runs, so `zsad --help` answers at once. Exit codes: 0 done, 2 wrong
usage, 3 some inputs failed and all others are done, 130 after Ctrl-C, 1 any other error.
"""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from zsad._version import __version__
from zsad.cli import (
    calibrate,
    data,
    evaluate,
    export,
    fit,
    lists,
    predict,
    report,
    reproduce,
    serve,
    train,
    weights,
)
from zsad.cli.options import FAILED, INTERRUPTED, WRONG_USAGE, fail


def _warning_printer() -> Callable[..., None]:
    """Prints a warning as one line; of what holds for many images alike, only the first."""
    told: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        note = getattr(message, "note", None)
        if note in told:
            return
        more = ""
        if note is not None:
            told.add(note)
            more = " (told once, for the first such image)"
        typer.echo(f"warning: {message}{more}", err=True)

    return show


def at_home(argument: str) -> str:
    """An argument with the home folder for "~", where shells leave it: --out=~/a, mvtec:~/b, "~/c"."""
    home = os.path.expanduser("~").replace("\\", "\\\\")
    return re.sub(r"^((?:-[\w-]+=)?(?:[\w-]+[:=])?)~(?=[/\\]|$)", rf"\g<1>{home}", argument)


class _OneLineErrors(TyperGroup):
    """Prints errors and warnings as one line instead of a stack trace; ZSAD_DEBUG=1 shows the trace."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [at_home(argument) for argument in args])

    def invoke(self, ctx: Any) -> Any:
        from zsad.errors import ConfigError, ImageWarning, ZsadError, without_torch

        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # file names may hold what no encoding can write
                stream.reconfigure(errors="backslashreplace")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", ImageWarning)
                warnings.showwarning = _warning_printer()
                return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("interrupted", INTERRUPTED)
        except ZsadError as error:
            fail(error, WRONG_USAGE if isinstance(error, ConfigError) else FAILED)
        except ModuleNotFoundError as error:
            fail(without_torch(error), FAILED)
        except Exception as error:
            # typer's own exceptions carry an exit code, and it handles a closed pipe (`zsad methods | head`)
            if hasattr(error, "exit_code") or isinstance(error, typer.Abort | BrokenPipeError | EOFError):
                raise
            fail(error, FAILED)


app = typer.Typer(
    cls=_OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Zero-shot anomaly detection for images: every CLIP-based system, one command.",
)
app.add_typer(weights.weights_app, name="weights")
app.add_typer(data.data_app, name="data")
for command in (
    predict.predict,
    fit.fit,
    export.export,
    train.train,
    evaluate.evaluate,
    report.report,
    reproduce.reproduce,
    serve.serve,
    calibrate.calibrate,
    lists.methods,
    lists.backbones,
    lists.doctor,
):
    app.command()(command)


def main() -> None:
    """Runs the `zsad` program."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"zsad {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
