"""What the tests of training run in other processes; importable there by its name."""

import dataclasses
import functools
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from helpers.training_examples import stained_pictures
from zsad.methods._registry import list_methods, method_class
from zsad.training.data import data_in_memory
from zsad.training.devices import Ranks
from zsad.training.loop import _detector, _train
from zsad.training.options import TrainOptions
from zsad.training.run import TrainingRun

_KINDS = [method_class(name) for name in list_methods()]
LEARNT = tuple(kind.INFO.name for kind in _KINDS if kind.INFO.needs_training and kind.LOSS_IS_MEAN)
CACHED = "glocalclip"


def settings(folder, backbone, method, **changes):
    """A training of 3 epochs with steps of 4 and 3 images; 7 cannot be halved."""
    usual = {"epochs": 3, "batch_size": 4, "device": "cpu", "learning_rate": 1e-3}
    return TrainOptions(
        out=Path(folder) / f"{method}.safetensors", backbone=backbone, method=method, **{**usual, **changes}
    )


def train_each(folder, backbone, cache, ranks, device):
    """Trains every method that learns; the losses of each, of one with a cache."""
    torch.set_num_threads(1)
    losses = []
    for method in LEARNT:
        config = settings(folder, backbone, method)
        if method == CACHED:
            config = dataclasses.replace(config, cache=Path(cache))
        losses.append(_train(config, data_in_memory(stained_pictures(7)), None, False, ranks, device)[0])
    return tuple(losses)


class Meeting:
    """Sums over threads that stand for processes."""

    def __init__(self, count):
        self.count = count
        self.parts = [None] * count
        self.barrier = threading.Barrier(count, timeout=60)

    def ranks(self):
        return [Ranks(rank, self.count, functools.partial(self.add_up, rank)) for rank in range(self.count)]

    def add_up(self, rank, tensor):
        self.parts[rank] = tensor
        self.barrier.wait()
        summed = torch.stack(list(self.parts)).sum(dim=0)
        self.barrier.wait()
        return summed


def trained_in_lockstep(make_config, count):
    """Trainings that share every step as several processes would, each in a thread of its own."""
    runs = []
    for ranks in Meeting(count).ranks():
        config = make_config()
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            detector = _detector(config, "cpu")
        runs.append(TrainingRun(config, data_in_memory(stained_pictures(7)), detector, ranks))

    def train(run):
        for epoch in range(1, run.recipe.epochs + 1):
            for _ in run.epoch(epoch, []):
                pass
        return run

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(train, runs))


class Killing(list):
    """Images of which fetching the n-th ends one of the processes for good."""

    def __init__(self, items, number):
        super().__init__(items)
        self.left = number

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)
