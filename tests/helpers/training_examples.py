"""Small trainings for the tests: images, a stop at a chosen step, and what is compared afterwards."""

import csv
from pathlib import Path

import numpy as np
import torch

from zsad.training.loop import train
from zsad.training.state import TrainingState


def stained_pictures(count=6, size=20):
    """Grey noise, every other image with a white square."""
    generator = np.random.default_rng(3)
    items = []
    for index in range(count):
        picture = generator.integers(60, 120, (size, size, 3), dtype=np.uint8)
        mask = np.zeros((size, size), dtype=np.uint8)
        if index % 2:
            mask[4:11, 5:12] = 1
            picture[mask == 1] = 250
        items.append((picture, mask, index % 2, "metal nut"))
    return items


def quietly(config, dataset=None):
    return train(config, dataset, show_progress=False)


def learned(config):
    return TrainingState.read(config.folder / "last.safetensors").learned


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)


def log_rows(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


class Interrupted(Exception):
    pass


class StoppingAt(list):
    """Images of which fetching the n-th stops the training."""

    fetched = 0

    def __init__(self, items, number):
        super().__init__(items)
        self.number = number

    def __getitem__(self, index):
        self.fetched += 1
        if self.fetched == self.number:
            raise Interrupted
        return super().__getitem__(index)
