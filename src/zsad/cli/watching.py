"""`zsad predict --watch`: prints each image as it is scored, and ends with Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from zsad.cli.printing import stderr

if TYPE_CHECKING:
    from zsad.prediction.options import PredictOptions
    from zsad.prediction.records import ResultRecord
    from zsad.prediction.run import PredictResult
    from zsad.prediction.setup import Loader

_VERDICTS = {None: "scored", True: "anomalous", False: "normal"}


def run_watch(
    folders: Sequence[str], load: Loader, options: PredictOptions, *, as_json: bool, quiet: bool
) -> PredictResult:
    """Watches folders until Ctrl-C or SIGTERM.

    Args:
        folders: folders as they were typed.
        load: loads the detector.
        options: what to do with each image.
        as_json: whether to print each record as JSON.
        quiet: whether to print nothing else.
    """
    from zsad.errors import printable
    from zsad.prediction.watching import watch_folders

    def report(record: ResultRecord) -> None:
        if as_json:
            typer.echo(record.to_json())
        elif not quiet:
            said = _VERDICTS[record.is_anomalous] if record.error is None else "failed"
            score = "" if record.score is None else f"{record.score:.4f}"
            reason = "" if record.error is None else f": {printable(record.error)}"
            typer.echo(f"{score:>6}  {said:9}  {printable(record.path)}{reason}")

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager ends a watch like Ctrl-C
    places = ", ".join(map(printable, folders))
    stderr(quiet).print(
        f"Watching {places}; results are in {printable(options.out)}. Ctrl-C ends the watch.",
        markup=False,
        soft_wrap=True,
    )
    return watch_folders(folders, load, options, report=report)
