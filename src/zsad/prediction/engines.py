"""Chooses what scores the images of a run: this process, several processes, or a Ray cluster."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from zsad.prediction.pipeline import Engine, PredictionPipeline

if TYPE_CHECKING:
    from zsad.prediction.options import PredictOptions


def choose_engine(options: PredictOptions, device: str | None) -> Engine:
    """The engine that the options ask for.

    Args:
        options: `engine`, `devices` and `workers` decide.
        device: kind of device of the processes, "cpu" or "cuda"; None: GPUs if there are any, else the CPU.

    Returns:
        The function that makes the scorer of a run.

    Raises:
        ConfigError: this machine has fewer devices than `options.devices`.
    """
    if options.engine == "ray":
        from zsad.prediction.ray import RayPrediction

        return functools.partial(RayPrediction, workers=options.workers, device=device)
    if not options.scores_elsewhere:
        return PredictionPipeline
    from zsad.backbones.devices import device_names
    from zsad.prediction.workers import ShardedPrediction

    devices = options.devices
    names = device_names(devices, device) if isinstance(devices, int) else tuple(devices)
    return functools.partial(ShardedPrediction, devices=names)
