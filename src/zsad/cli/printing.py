"""What the command line prints: tables, a progress bar with the time left, the end of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from zsad.prediction.run import RunSummary


class Bar:
    """A progress bar with the time left, drawn on standard error once the work's size is known."""

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


def print_summary(summary: RunSummary) -> None:
    """The best scores, what was counted, and where the page is."""
    from rich.text import Text

    from zsad.errors import printable

    console = stdout()
    scored = summary.scored
    if scored:
        table = table_of("score", "decision", "image")
        decisions = {None: Text("-"), True: Text("anomalous", "bold red"), False: Text("normal", "green")}
        for record in scored[:10]:
            table.add_row(f"{record.score:.4f}", decisions[record.is_anomalous], Text(printable(record.path)))
        console.print(table)
        if len(scored) > 10:
            console.print(f"... and {len(scored) - 10} images with lower scores", style="dim")
    new = len(scored) - summary.resumed
    pace = f" ({summary.seconds / new:.2f} s each)" if new > 0 else ""
    line = f"{counted(new, 'image')} scored in {summary.seconds:.1f} s{pace}"
    if summary.resumed:
        line += f", {summary.resumed} from an earlier run"
    if scored and scored[0].threshold is not None:
        line += f", {sum(record.is_anomalous is True for record in scored)} anomalous"
    if summary.failed:
        line += f", {len(summary.failed)} failed"
    console.print(line)
    if summary.note:
        console.print(f"{summary.note[0].upper()}{summary.note[1:]}", style="dim")
    known = sum(record.in_calibration is True for record in scored)
    if known:
        console.print(
            f"{counted(known, 'image')} of these made the calibration: what it decides about them says "
            "nothing about new ones",
            style="yellow",
            soft_wrap=True,
        )
    console.print(Text.assemble("Page: ", (str(summary.page), "bold")))


def print_failures(summary: RunSummary) -> None:
    """The first images that could not be scored, on standard error."""
    from zsad.errors import printable

    console = stderr()
    for record in summary.failed[:10]:
        message, name = record.error or "", printable(record.path)
        shown = message if message.startswith(name) else f"{name}: {message}"
        console.print(f"failed: {shown}", markup=False, highlight=False, soft_wrap=True)
    if len(summary.failed) > 10:
        console.print(f"failed: {len(summary.failed) - 10} more, see results.csv")


def table_of(*columns: str) -> Any:
    """An empty table with these columns."""
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


def stderr() -> Console:
    """A console for messages and progress."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def duration(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def counted(number: int, noun: str) -> str:
    """Number and noun: 1 image, 2 images."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
