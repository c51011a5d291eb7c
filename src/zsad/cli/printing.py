"""Prints for the command line: tables, a progress bar with the time left, the summary of a run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.cli.options import fail_interrupted

if TYPE_CHECKING:
    from rich.console import Console

    from zsad.evaluation.results import EvaluationResult
    from zsad.prediction.run import PredictResult

PROBLEMS_SHOWN = 10


def quoted(path: object) -> str:
    """A path as a word of a command that a user copies from the terminal.

    Example:
        >>> quoted("line3.safetensors"), quoted("line 3.safetensors")
        ('line3.safetensors', "'line 3.safetensors'")
    """
    from zsad.errors import printable

    return shlex.quote(printable(path))


class Bar:
    """A progress bar with the time left, drawn on standard error once the total is known."""

    def __init__(self, console: Console, title: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._title = title
        self.is_started = False
        self._task: Any = None

    def show(self, done: int, total: int) -> None:
        """Draws the bar at `done` of `total` images."""
        if self._task is None:
            self._task = self._progress.add_task(self._title, total=total, left="")
            self._progress.start()
            self.is_started = True
        # Images finish in bursts of a batch, so only the pace since the start predicts the end.
        elapsed = self._progress.tasks[0].elapsed or 0.0
        left = f"{duration(elapsed / done * (total - done))} left" if done else ""
        self._progress.update(self._task, completed=done, left=left)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()


@contextmanager
def resumable(title: str, out: str | Path, *, quiet: bool) -> Iterator[Bar]:
    """A progress bar for what can be continued: after Ctrl-C, says how if images have been scored.

    Args:
        title: what is being done, beside the bar.
        out: folder of the results.
        quiet: whether to draw nothing.
    """
    bar = Bar(stderr(quiet), title)
    try:
        with bar:
            yield bar
    except KeyboardInterrupt:
        if not bar.is_started:
            raise
        fail_interrupted(f"finished results are in {out}")


def print_prediction(result: PredictResult, *, was_watch: bool) -> None:
    """Prints the highest scores, the counts of a run or a watch, and the path of its page."""
    from rich.text import Text

    from zsad.errors import printable
    from zsad.prediction.wording import explanation, score_decimals

    console = stdout()
    scored = result.scored
    if scored:
        decimals = score_decimals([record.score or 0.0 for record in scored])
        explained = any(record.phrase is not None for record in scored)
        table = table_of("score", "decision", *(["fits best"] if explained else []), "image")
        decisions = {None: Text("-"), True: Text("anomalous", "bold red"), False: Text("normal", "green")}
        for record in scored[:10]:
            answer = [Text(printable(explanation(record)) or "-")] if explained else []
            name = Text(printable(record.path))
            table.add_row(f"{record.score:.{decimals}f}", decisions[record.is_anomalous], *answer, name)
        console.print(table)
        if len(scored) > 10:
            console.print(f"... and {len(scored) - 10} images with lower scores", style="dim")
    console.print(_counts(result, was_watch))
    if result.note:
        console.print(f"{result.note[0].upper()}{result.note[1:]}", style="dim", soft_wrap=True)
    if result.tiling:
        console.print(f"{result.tiling[0].upper()}{result.tiling[1:]}", style="dim", soft_wrap=True)
    if result.left_out:
        line = f"{result.left_out[0].upper()}{result.left_out[1:]} (--include-results takes them)"
        console.print(line, style="yellow", soft_wrap=True)
    known = sum(record.in_calibration is True for record in scored)
    if known:
        console.print(
            f"{counted(known, 'image')} of these made the calibration: decisions about them say nothing "
            "about new images",
            style="yellow",
            soft_wrap=True,
        )
    console.print(Text.assemble("Page: ", (str(result.page), "bold")))


def failure_lines(result: PredictResult) -> list[str]:
    """One line for each image that could not be scored, beginning with the image's path."""
    from zsad.errors import printable

    named = [(printable(record.path), record.error or "") for record in result.failed]
    return [message if message.startswith(name) else f"{name}: {message}" for name, message in named]


def left_out_lines(result: EvaluationResult) -> list[str]:
    """One line for each run and each image that an evaluation left out."""
    lines = [f"{run.id}: {run.error}" for run in result.failed_runs]
    # All runs on a dataset leave out the same files.
    lines += dict.fromkeys(
        line for run in result.runs for line in (*run.problems, *run.failed, *run.unmasked)
    )
    return lines


def print_problems(label: str, lines: Sequence[str], where: str = "") -> None:
    """Prints the first lines on standard error, and how many there are beyond them.

    Args:
        label: word before each line, "failed" for example.
        lines: one line for each problem.
        where: says where all of them are written; empty if nowhere.
    """
    console = stderr()
    for line in lines[:PROBLEMS_SHOWN]:
        console.print(f"{label}: {line}", markup=False, soft_wrap=True)
    if len(lines) > PROBLEMS_SHOWN:
        more = f"{label}: {len(lines) - PROBLEMS_SHOWN} more"
        console.print(f"{more}, {where}" if where else more, markup=False)


def _counts(result: PredictResult, was_watch: bool) -> str:
    """How many images were scored, how fast (a watch waits most of its time), and how many are anomalous."""
    scored = result.scored
    new = len(scored) - result.resumed
    line = f"{counted(new, 'image')} scored"
    if not was_watch:
        pace = f" ({result.seconds / new:.2f} s each)" if new > 0 else ""
        line += f" in {result.seconds:.1f} s{pace}"
    if result.resumed:
        line += f", {result.resumed} from an earlier run"
    if scored and scored[0].threshold is not None:
        line += f", {sum(record.is_anomalous is True for record in scored)} anomalous"
    if result.failed:
        line += f", {len(result.failed)} failed"
    return line


def table_of(*columns: str) -> Any:
    """An empty table with the given columns."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("name", "size", "year"))
    return table


def stdout() -> Console:
    """A console for results."""
    from rich.console import Console

    return Console(highlight=False)


def stderr(quiet: bool = False) -> Console:
    """A console for messages and progress; a quiet one prints nothing."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, quiet=quiet)


def duration(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def counted(number: int, noun: str) -> str:
    """Number and noun: 1 image, 2 images."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
