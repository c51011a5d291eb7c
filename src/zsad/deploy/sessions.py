"""Opens the graphs of a bundle in ONNX Runtime or OpenVINO, and runs them; no torch.

A session may be used from several threads at once.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zsad.errors import ConfigError, DataError, MissingExtraError, one_line, printable, unknown_name

if TYPE_CHECKING:
    from zsad.deploy.bundle import Bundle, ExportPrecision, Runner

ONNX_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""Names that a user types, and what ONNX Runtime calls them."""

OPENVINO_DEVICES = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU", "auto": "AUTO"}
"""Names that a user types, and what OpenVINO calls them."""

_CPU_LIMITS = Path("/sys/fs/cgroup/cpu.max")

Session = Callable[[NDArray[np.float32]], "NetworkAnswers"]
"""Runs a graph: (B, 3, S, S) float32 in, scores and maps out."""


@dataclass(frozen=True)
class NetworkAnswers:
    """What a graph says about a batch.

    Attributes:
        scores: (B,) float32 image anomaly scores.
        maps: (B, S, S) float32 anomaly maps.
    """

    scores: NDArray[np.float32]
    maps: NDArray[np.float32]


@dataclass(frozen=True)
class Engine:
    """How graphs are run.

    Attributes:
        threads: threads that one call uses; None for those that the container grants, or else for what the
            runner chooses, as a rule one for each core.
        providers: what runs the graphs, best first, under the names of `ONNX_PROVIDERS` or
            `OPENVINO_DEVICES`, or under the runner's own; what the first cannot run, the next does. None: the
            first NVIDIA GPU if ONNX Runtime can use one, or else the CPU.

    Raises:
        ConfigError: the number of threads is no whole number above 0, or `providers` is empty.
    """

    threads: int | None = None
    providers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        threads = self.threads
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise ConfigError(f"threads must be a whole number above 0, got {threads!r}")
        if self.providers is not None and not self.providers:
            raise ConfigError("providers is empty: leave it out, or name some, as in providers=['cpu']")


class OpenGraphs:
    """The open graphs of a bundle; the one for tiles is opened when it is first used.

    Attributes:
        engine: how they are run.
    """

    def __init__(self, bundle: Bundle, folder: Path, engine: Engine) -> None:
        self.engine = engine
        self._bundle, self._folder = bundle, folder
        self._lock = threading.Lock()
        self._whole = self._open(bundle.graphs.whole)
        self._tiles: Session | None = None if bundle.graphs.tiles else self._whole

    def session(self, is_tile: bool) -> Session:
        """The graph for tiles or for whole images."""
        if not is_tile:
            return self._whole
        with self._lock:
            if self._tiles is None:
                self._tiles = self._open(self._bundle.graphs.tiles or self._bundle.graphs.whole)
            return self._tiles

    def _open(self, name: str) -> Session:
        return open_session(self._folder / name, self._bundle.runner, self._bundle.precision, self.engine)


def open_session(path: Path, runner: Runner, precision: ExportPrecision, engine: Engine) -> Session:
    """Opens a graph.

    Args:
        path: file of the graph.
        runner: program that the graph was exported for.
        precision: number format of the graph's weights.
        engine: threads and providers.

    Raises:
        MissingExtraError: the runner is not installed.
        ConfigError: a provider is unknown, is not there, or does not start.
        DataError: the runner cannot read the graph.
    """
    return _OnnxSession(path, engine) if runner == "onnx" else _OpenVinoSession(path, precision, engine)


class _OnnxSession:
    """A graph in ONNX Runtime, whose sessions may be shared between threads."""

    def __init__(self, path: Path, engine: Engine) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError(
                "onnxruntime", None, "a bundle in the format onnx (on NVIDIA GPUs onnxruntime-gpu instead)"
            ) from error

        available = onnxruntime.get_available_providers()
        wanted = _named(engine.providers or ("cuda", "cpu"), ONNX_PROVIDERS, "provider", available)
        missing = [name for name in wanted if name not in available]
        if engine.providers is not None and missing:
            raise ConfigError(
                f"ONNX Runtime has no {missing[0]} here, only {', '.join(available)}: for NVIDIA GPUs "
                "pip install onnxruntime-gpu in place of onnxruntime, or leave providers out"
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = engine.threads or granted_cores() or 0
        # Waiting threads would keep the cores busy that read images and write results meanwhile.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        chosen = [name for name in wanted if name in available]
        if ONNX_PROVIDERS["cuda"] in chosen and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # CUDA from pip's packages, which no loader finds by itself
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=chosen)
        except Exception as error:  # the classes of the runner's own errors are not public
            raise _unreadable(path, "ONNX Runtime", error) from error
        if chosen[0] not in self._session.get_providers():
            line = (
                f"ONNX Runtime could not start {chosen[0]}: install its driver and libraries (for CUDA pip "
                "install 'onnxruntime-gpu[cuda,cudnn]')"
            )
            if engine.providers is not None:
                raise ConfigError(f"{line}, or leave providers out to run on the CPU")
            warnings.warn(f"{line}; this bundle runs on the CPU", stacklevel=2)

    def __call__(self, images: NDArray[np.float32]) -> NetworkAnswers:
        try:
            scores, maps = self._session.run(["scores", "maps"], {"images": images})
        except Exception as error:
            raise RuntimeError(f"ONNX Runtime: {one_line(error)}") from error
        return NetworkAnswers(scores, maps)


class _OpenVinoSession:
    """A graph in OpenVINO, with a request of its own for each thread."""

    _first_run = threading.Lock()
    _has_run = False  # in this process

    def __init__(self, path: Path, precision: ExportPrecision, engine: Engine) -> None:
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("openvino", None, "a bundle in the format openvino") from error

        core = openvino.Core()
        available = core.available_devices
        (device, *others) = _named(engine.providers or ("cpu",), OPENVINO_DEVICES, "provider", available)
        if device != "AUTO" and device.split(".")[0] not in {name.split(".")[0] for name in available}:
            raise ConfigError(f"OpenVINO has no {device} here, only {', '.join(available)}")
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads := engine.threads or granted_cores():
            settings["INFERENCE_NUM_THREADS"] = threads
        if precision == "fp32":  # else OpenVINO rounds to bfloat16 where the processor can
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        name = f"HETERO:{','.join([device, *others])}" if others else device
        try:
            self._compiled = core.compile_model(path, name, settings)
        except Exception as error:  # the classes of the runner's own errors are not public
            raise _unreadable(path, "OpenVINO", error) from error
        self._requests = threading.local()

    def __call__(self, images: NDArray[np.float32]) -> NetworkAnswers:
        request = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = self._compiled.create_infer_request()
        # Two threads in the first call of a process wait for each other: one of them for Python's lock, while
        # the other has it and waits for the first one to set up OpenVINO's arrays.
        first = contextlib.nullcontext() if _OpenVinoSession._has_run else _OpenVinoSession._first_run
        try:
            with first:
                found = request.infer({"images": images})
        except Exception as error:
            raise RuntimeError(f"OpenVINO: {one_line(error)}") from error
        _OpenVinoSession._has_run = True
        return NetworkAnswers(found["scores"], found["maps"])


_ERRORS_ONLY = 3


def granted_cores(limits: Path = _CPU_LIMITS) -> int | None:
    """Cores that the container grants this process, at least 1; None if they are not limited.

    The runners count the cores of the machine, and threads beyond what is granted only wait.

    Args:
        limits: file of the control group: microseconds of the processor ("max" for any number), and the
            period in microseconds that they are for.
    """
    try:
        granted, period = limits.read_text(encoding="ascii").split()
    except (OSError, ValueError):  # no Linux, or an older kernel
        return None
    return None if granted == "max" else max(1, round(int(granted) / int(period)))


def _named(given: Sequence[str], known: dict[str, str], kind: str, available: Sequence[str]) -> list[str]:
    """What the runner calls the providers that a user names.

    Raises:
        ConfigError: a name is unknown.
    """
    own = {name.lower(): name for name in (*known.values(), *available)}
    found = []
    for name in given:
        official = known.get(str(name).lower()) or own.get(str(name).lower())
        if official is None:
            raise unknown_name(kind, str(name), known)
        found.append(official)
    return found


def _unreadable(path: Path, runner: str, error: Exception) -> DataError:
    return DataError(
        f"{printable(path)}: {runner} cannot open this graph ({one_line(error)}): try a newer {runner}, or "
        "export the detector again"
    )
