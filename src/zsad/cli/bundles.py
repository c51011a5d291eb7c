"""Options for exported bundles, and what goes with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsad.cli.options import comma_list
from zsad.errors import ConfigError

if TYPE_CHECKING:
    from zsad.deploy.runtime import ExportedDetector

BundleOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder that zsad export wrote: takes the place of --method, --checkpoint and --references, and "
        "needs no PyTorch.",
        show_default=False,
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Threads that a bundle uses. Default: one for each core.", show_default=False),
]
ProvidersOption = Annotated[
    str | None,
    typer.Option(
        help="What runs a bundle, best first, comma-separated: cpu, cuda, tensorrt ... (ONNX Runtime); cpu, "
        "gpu, npu, auto (OpenVINO). Default: cuda if onnxruntime-gpu finds it, else cpu.",
        show_default=False,
    ),
]


_EXPORT_AGAIN = "a bundle holds everything that decides a score; leave it out, or export again with it"
_ONE_PROCESS = "a bundle runs in this process, on all cores (--threads) or on a GPU (--providers cuda)"
_INSTEAD = {
    "--device": "give --providers, as in --providers cuda",
    "--devices": _ONE_PROCESS,
    "--engine": _ONE_PROCESS,
    "--workers": _ONE_PROCESS,
    "--precision": "the number format was chosen by zsad export --precision",
    "--explain": "phrases need the text encoder, which a bundle does not hold: predict with --checkpoint",
    "--calibration": "thresholds were exported with it; give --threshold and --map-threshold for others",
}


def load_bundle(
    folder: Path, threads: int | None, providers: str | None, *, quiet: bool = False
) -> ExportedDetector:
    """Opens an exported bundle, while a line on the terminal says so; the values are those of the options."""
    from zsad.cli.printing import stderr
    from zsad.deploy.runtime import load_exported

    with stderr(quiet).status("Opening the bundle..."):
        return load_exported(folder, threads=threads, providers=comma_list(providers))


def check_goes_with_bundle(context: typer.Context, of_detectors: Sequence[str]) -> None:
    """Refuses options of detectors that were typed beside --bundle.

    Args:
        context: context of the command, which knows what was typed.
        of_detectors: names of the parameters that only detectors have a use for.

    Raises:
        ConfigError: the message names the option.
    """
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in of_detectors and source is not None and source.name == "COMMANDLINE":
            option = max(parameter.opts, key=len)
            raise ConfigError(f"{option} does not go with --bundle: {_INSTEAD.get(option, _EXPORT_AGAIN)}")


def check_no_engine(threads: int | None, providers: str | None) -> None:
    """Refuses options of bundles where there is none.

    Raises:
        ConfigError: the message names the option.
    """
    for option, value in (("--threads", threads), ("--providers", providers)):
        if value is not None:
            raise ConfigError(f"{option} is for exported bundles: give --bundle DIR, or leave it out")
