"""Trains in processes that are killed at chosen moments, and resumes; tests/training/test_kills.py runs this.

The modules are loaded once; each training runs in a forked child, so that a dozen kills take seconds.

python training_kills.py FOLDER BACKBONE [--cache] MOMENT...
"""

import argparse
import os
import random
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import torch
import torch._dynamo  # optimisers load it when they first run; here once for all children

import zsad.files.atomic
import zsad.training.cache
import zsad.training.state
from helpers.batch_rounding import round_by_batch
from helpers.training_examples import stained_pictures
from zsad.training.logs import StepLog
from zsad.training.loop import train
from zsad.training.options import TrainOptions
from zsad.training.run import TrainingRun

MOST_KILLS = 12


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def after(number, function):
    """A function that works `number` times and then ends the process."""
    calls = []

    def counted(*arguments, **named):
        calls.append(1)
        if len(calls) > number:
            kill()
        return function(*arguments, **named)

    return counted


@contextmanager
def half_a_file(path):
    """Like `atomic_file`, but the process ends when half of the bytes are written."""
    with zsad.files.atomic.atomic_file(path) as file:

        class Half:
            def write(self, content):
                file.write(content[: len(content) // 2])
                file.flush()
                os.fsync(file.fileno())
                kill()

        yield Half()


def prepare_kill(moment, out):
    """Arranges for the process to end at a moment; NAME or NAME:NUMBER of times that it may pass."""
    name, _, number = moment.partition(":")
    count = int(number or 0)
    replace, write = Path.replace, zsad.training.state.atomic_file
    if name == "step":
        TrainingRun._step = after(count, TrainingRun._step)
    elif name == "gradients":
        torch.optim.Adam.step = after(count, torch.optim.Adam.step)
    elif name == "log":
        original, calls = StepLog.add, []

        def add(log, *arguments):
            original(log, *arguments)
            calls.append(1)
            if len(calls) > count:
                log._file.write("2,1,0.1,4.")  # a line that the system cut off
                log._file.flush()
                kill()

        StepLog.add = add
    elif name == "checkpoint":  # the log is opened through the same function, once
        calls = []

        def opened(path):
            calls.append(path)
            is_it = sum(each.suffix == ".safetensors" for each in calls) > count
            return half_a_file(path) if is_it and path.suffix == ".safetensors" else write(path)

        zsad.training.state.atomic_file = opened
    elif name in ("before_rename", "after_rename", "result"):
        wanted = out.name if name == "result" else "last.safetensors"

        def renamed(path, target):
            is_it = Path(target).name == wanted
            if is_it and name != "after_rename":
                kill()
            done = replace(path, target)
            if is_it:
                kill()
            return done

        Path.replace = renamed
    elif name == "entry":
        written = zsad.training.cache.atomic_file
        calls = []

        def entry(path):
            calls.append(path)
            return half_a_file(path) if len(calls) > count else written(path)

        zsad.training.cache.atomic_file = entry
    else:
        raise ValueError(moment)


def in_child(work):
    """Runs a function in a forked child; how that ended, as `os.wait` tells it."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    return child


def wait(child):
    return os.waitpid(child, 0)[1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("backbone")
    parser.add_argument("moments", nargs="+")
    parser.add_argument("--cache", action="store_true")
    args = parser.parse_args()

    def config(moment):
        root = args.folder / moment.replace(":", "-")
        return TrainOptions(
            out=root / "out.safetensors",
            backbone=args.backbone,
            epochs=3,
            batch_size=4,
            device="cpu",
            settings={"n_ctx": 4, "t_n_ctx": 2, "sigma": 1.0},
            resume=True,
            cache=root / "cache" if args.cache else None,
        )

    def run(moment, is_killed):
        chosen = config(moment)
        if is_killed:
            prepare_kill(moment, chosen.out)
        train(chosen, stained_pictures(), show_progress=False)

    round_by_batch()  # so that every processor notices if a resumed training forms other batches
    began = time.monotonic()
    assert wait(in_child(lambda: run("whole", False))) == 0
    seconds = time.monotonic() - began
    for moment in args.moments:
        if moment.startswith("random"):
            generator, kills = random.Random(moment), 0
            while kills < MOST_KILLS:
                child = in_child(lambda m=moment: run(m, False))
                time.sleep(generator.uniform(0, seconds * (1 + kills / 4)))  # gets through some time
                os.kill(child, signal.SIGKILL)
                status = wait(child)
                kills += status == signal.SIGKILL
                if status == 0:
                    break
            print(moment, kills, "kills", flush=True)
        else:
            status = wait(in_child(lambda m=moment: run(m, True)))
            assert status == signal.SIGKILL, f"{moment}: was not killed ({status})"
            assert not config(moment).out.exists(), f"{moment}: there is a result already"
        assert wait(in_child(lambda m=moment: run(m, False))) == 0, moment
    print("done", flush=True)


if __name__ == "__main__":
    main()
