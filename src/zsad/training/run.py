"""A training in progress: its steps, its checkpoint on disk, and how it resumes."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from zsad.backbones.loading import backbone_fingerprint
from zsad.data.mosaic import prepare_item
from zsad.detector.identity import weights_digest
from zsad.errors import ConfigError, DataError, WeightsError, ZsadError
from zsad.files.fields import shortened
from zsad.files.plain import to_plain
from zsad.files.run_settings import differences
from zsad.methods.prompts.learners import PromptLearner
from zsad.methods.training import TrainingDefaults
from zsad.training.cache import CachedSample, FeatureCache
from zsad.training.data import Batch, TrainingData, batches
from zsad.training.labels import partial_loss
from zsad.training.recipe import choose, make_optimizer, rate_factor
from zsad.training.state import TrainingState

if TYPE_CHECKING:
    from collections.abc import Callable

    from zsad.data.samples import PreparedSample
    from zsad.detector.detector import Detector
    from zsad.training.devices import Ranks
    from zsad.training.held_out import HeldOut
    from zsad.training.logs import Log
    from zsad.training.options import TrainOptions

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Prompts that are rounded to half precision also round their scaled gradients; torch's default of 65536 makes
# these infinite and wastes the first steps.
FIRST_SCALE = 256.0
CHECKPOINT_NAME = "last.safetensors"
PLAIN = TrainingDefaults(epochs=1, batch_size=1, learning_rate=1.0)
OPTIMIZER_STATE = {"step", "exp_avg", "exp_avg_sq"}  # of Adam and AdamW, for each parameter


class TrainingRun:
    """The network, its optimiser and its progress.

    Attributes:
        recipe: complete training settings.
        losses: mean loss of each finished epoch.
    """

    def __init__(
        self,
        config: TrainOptions,
        data: TrainingData,
        detector: Detector,
        ranks: Ranks,
        held_out: HeldOut | None = None,
    ) -> None:
        """Prepares a training without a step.

        Args:
            config: options of the training.
            data: images to train on.
            detector: detector whose method is trained.
            ranks: processes that share each step.
            held_out: images that epochs are judged by; None to take the last epoch.

        Raises:
            ConfigError: the recipe does not fit the data.
        """
        self.config = config
        self.data = data
        self.detector = detector
        self.ranks = ranks
        self.held_out = held_out
        self.method = detector.method.requires_grad_(False)
        self.parameters: dict[str, nn.Parameter] = dict(self.method.trainable())
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        for module in self.method.modules():
            if isinstance(module, PromptLearner) and ranks.count > 1:
                module.joined = ranks.join
        self.method.train()
        self.method.backbone.eval()
        self.device = next(iter(self.parameters.values())).device
        published = self.method.training_defaults(vars(self.method.config))
        if published is None:
            raise ConfigError(f"{config.method} learns something but has no TRAINING; give its class one")
        self.recipe = choose(published, config, data.sets, self.device.type)
        self.mosaics = data.mosaics(lambda each: self.recipe.for_dataset(each.known_as).mosaic)
        self.steps = data.steps(self.recipe.batch_size)
        if self.steps is None and (self.recipe.schedule == "cosine" or self.recipe.warm_up):
            raise ConfigError(
                f"the {self.recipe.schedule} schedule needs to know how many images there are; give a "
                "dataset with a length"
            )
        self.optimizer = make_optimizer(self.recipe, self.parameters)
        self.scaler = torch.amp.GradScaler(
            self.device.type, init_scale=FIRST_SCALE, enabled=self.recipe.precision == "fp16"
        )
        self.losses: list[float] = []
        if self.method.scores_jointly and not self.method.INFO.scores_batch_jointly and ranks.count > 1:
            raise ConfigError(
                f"with these settings of {config.method}, what is learnt from an image depends on the other "
                "images of its step, which several devices cannot share: use --devices 1"
            )
        if config.cache is not None and self.recipe.augmentation != "none":
            raise ConfigError(
                f"features of images that are changed at random ({self.recipe.augmentation}) cannot be kept: "
                "use --augmentation none, or train without --cache"
            )
        self.cache = None if config.cache is None else self._open_cache(config.cache)
        self.start = None if config.checkpoint is None else self._digest()

    def epoch(self, epoch: int, logs: Sequence[Log]) -> Iterator[float]:
        """Trains one epoch and yields the loss of each step.

        Raises:
            ZsadError: a loss or a weight is no longer finite.
        """
        torch.manual_seed(_epoch_seed(self.config.seed, epoch))
        total, count = 0.0, 0
        for step, batch in enumerate(self._batches(epoch), start=1):
            self._set_rate(epoch, step)
            terms = self._step(batch)
            loss = sum(terms.values())
            for log in logs:
                log.add(epoch, step, terms)
            if not math.isfinite(loss):
                raise self._diverged(
                    f"the loss became {loss} in step {step} of epoch {epoch} ({terms})", epoch
                )
            total, count = total + loss * batch.size, count + batch.size
            yield loss
        if count == 0:
            raise DataError(
                f"the dataset gave no images in epoch {epoch}; a generator can only be read once, "
                "give something that can be iterated over again, or epochs=1"
            )
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters.values()):
            raise self._diverged(f"weights became NaN or infinite in epoch {epoch}", epoch)
        self.losses.append(total / count)

    def _set_rate(self, epoch: int, step: int) -> None:
        """Sets the learning rate of a step; both numbers count from 1."""
        steps = self.steps or 1
        factor = rate_factor(self.recipe, (epoch - 1) * steps + step - 1, steps * self.recipe.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * factor * group["factor"]

    def _step(self, batch: Batch[PreparedSample | CachedSample]) -> dict[str, float]:
        """Takes one step; returns the terms of the loss before it, over the images of all processes."""
        samples = batch.images
        dtype = AUTOCAST.get(self.recipe.precision)
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            terms = partial_loss(samples, self._terms, self.data.masks, self.method.IMAGE_TERMS)
        values = batch.weight * torch.stack([term.float() for term in terms.values()])
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(values.sum()).backward()  # type: ignore[no-untyped-call]
        # Before the scaler looks for infinite gradients, so that all processes find the same.
        self.ranks.add_up_gradients(self.parameters.values())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # One transfer from the device for all terms.
        told: list[float] = self.ranks.add_up(values.detach().double()).tolist()
        return dict(zip(terms, told, strict=True))

    def _terms(self, samples: Sequence[PreparedSample | CachedSample]) -> dict[str, Tensor]:
        """The terms of the loss, from images or cached features; a missing mask counts as empty."""
        empty = np.zeros((self.detector.image_size, self.detector.image_size), dtype=np.uint8)
        levels = np.stack([empty if sample.mask is None else sample.mask for sample in samples])
        masks = torch.from_numpy(levels).to(self.device)
        labels = torch.tensor([sample.label for sample in samples], device=self.device)
        names = [sample.class_name for sample in samples]
        if self.cache is not None:
            known = [sample for sample in samples if isinstance(sample, CachedSample)]
            features = self.cache.features(known, self.device)
            return self.method.loss_from_features(features, masks, labels, names)
        images = np.stack([sample.image for sample in samples if sample.image is not None])
        return self.method.loss(torch.from_numpy(images).to(self.device), masks, labels, names)

    def _batches(self, epoch: int) -> Iterator[Batch[PreparedSample | CachedSample]]:
        config = self.config
        prepare: Callable[[Any], PreparedSample | CachedSample] = functools.partial(
            prepare_item, preparation=self.detector.preparation
        )
        if self.cache is not None:
            prepare = self.cache.prepare
        return batches(
            self.data,
            self.recipe.batch_size,
            config.seed,
            epoch,
            workers=config.workers,
            prepare=prepare,
            mosaics=self.mosaics,
            augmentation=self.recipe.augmentation,
            ranks=self.ranks,
        )

    def _open_cache(self, folder: Path) -> FeatureCache:
        return FeatureCache(
            folder,
            self.method,
            fingerprint=backbone_fingerprint(self.detector.backbone),
            preparation=self.detector.preparation,
            precision=self.config.cache_precision,
            computed_in=self.recipe.precision,
        )

    def setup(self) -> dict[str, Any]:
        """Everything that must not change when the training is resumed, as plain JSON values."""
        config, recipe = self.config, self.recipe
        setup = {
            "method": config.method,
            "backbone": backbone_fingerprint(self.detector.backbone),
            "settings": dataclasses.asdict(self.method.config),
            "image_size": self.detector.image_size,
            "bits": self.detector.bits,
            "precision": recipe.precision,
            "batch_size": recipe.batch_size,
            "optimizer": recipe.optimizer,
            "learning_rate": recipe.learning_rate,
            "betas": recipe.betas,
            "weight_decay": recipe.weight_decay,
            "schedule": recipe.schedule,
            "mosaic": recipe.mosaic or {name: changes["mosaic"] for name, changes in recipe.on.items()},
            "seed": config.seed,
            "data": self.data.fingerprint,
        }
        if self.data.masks is not None and self.data.masks.missing:
            setup["images_without_mask"] = self.data.masks.missing
        if self.cache is not None:
            setup["cache_precision"] = config.cache_precision
        if recipe.schedule == "cosine" or recipe.warm_up:
            setup["epochs"] = recipe.epochs
        # Only what differs from the defaults, so that states of earlier trainings still fit.
        for name in ("warm_up", "rates", "milestones", "augmentation"):
            if (value := getattr(recipe, name)) != getattr(PLAIN, name):
                setup[name] = value
        if self.start is not None:
            setup["start"] = self.start
        if self.held_out is not None:
            setup["held_out"] = self.held_out.categories
        plain: dict[str, Any] = to_plain(setup)
        return plain

    def checkpoint(self, epoch: int) -> None:
        """Replaces the checkpoint on disk, in the first process only."""
        if not self.ranks.is_first:
            return
        optimizer = {
            f"{key}/{name}": value
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state[parameter].items()
        }
        TrainingState(
            epoch,
            self.setup(),
            tuple(self.losses),
            self.scaler.state_dict(),
            self.method.learned_state(),
            optimizer,
            *(() if self.held_out is None else (tuple(self.held_out.qualities), self.held_out.best)),
        ).write(self.config.folder / CHECKPOINT_NAME)

    def resume(self) -> int:
        """Continues from the checkpoint on disk, if that is wanted and there is one.

        Returns:
            Number of finished epochs.

        Raises:
            ConfigError: the checkpoint belongs to another training.
        """
        path = self.config.folder / CHECKPOINT_NAME
        if not self.config.resume or not path.exists():
            return 0
        found = TrainingState.read(path)
        differing = differences(found.setup, self.setup())
        if differing:
            raise ConfigError(
                f"{path} belongs to another training: {'; '.join(differing)}; use the same settings, or "
                "--overwrite"
            )
        self._restore(found)
        return found.epoch

    def _restore(self, found: TrainingState) -> None:
        self.method.load_learned(found.learned)
        states: list[dict[str, Tensor]] = [{} for _ in self.parameters]
        positions = {name: index for index, name in enumerate(self.parameters)}
        for key, tensor in found.optimizer.items():
            kind, _, name = key.partition("/")
            if kind not in OPTIMIZER_STATE or name not in positions:
                raise self._damaged(f"the optimiser's tensor {shortened(key)} is unknown")
            if tensor.numel() != 1 and tensor.shape != self.parameters[name].shape:
                raise self._damaged(f"the optimiser's tensor {key} has the shape {tuple(tensor.shape)}")
            states[positions[name]][kind] = tensor
        if any(state.keys() != OPTIMIZER_STATE for state in states if state):
            raise self._damaged("tensors of the optimiser are missing")
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": dict(enumerate(states)), "param_groups": groups})
        if found.scaler:
            missing = self.scaler.state_dict().keys() - found.scaler.keys()
            if missing:
                raise self._damaged(f"scaler.{min(missing)} is missing")
            self.scaler.load_state_dict(dict(found.scaler))
        self.losses = list(found.losses)
        if self.held_out is not None:
            self.held_out.qualities, self.held_out.best = list(found.qualities), found.best

    def _digest(self) -> str:
        """Digest of the weights that the training starts from."""
        return weights_digest(self.detector.fingerprint, self.method.learned_state())

    def _damaged(self, problem: str) -> WeightsError:
        path = self.config.folder / CHECKPOINT_NAME
        return WeightsError(f"{path} is damaged ({problem}); train from scratch with --overwrite")

    def _diverged(self, what: str, epoch: int) -> ZsadError:
        kept = (
            f"the checkpoint of epoch {epoch - 1} is kept in {self.config.folder / CHECKPOINT_NAME}"
            if epoch > 1
            else "no epoch was finished, so there is no checkpoint"
        )
        return ZsadError(f"{what}; {kept}. Try a smaller --lr, or --precision fp32")


def refuse_to_replace(config: TrainOptions) -> None:
    """Refuses a training that would replace files.

    Raises:
        ConfigError: a checkpoint or a result exists, and neither `resume` nor `overwrite` is set.
    """
    existing = [each for each in (config.folder / CHECKPOINT_NAME, Path(config.out)) if each.exists()]
    if existing and not (config.resume or config.overwrite):
        raise ConfigError(
            f"{existing[0]} already exists: --resume continues that training, --overwrite starts from "
            "scratch; or choose another --out"
        )


def _epoch_seed(seed: int, epoch: int) -> int:
    """A seed for torch that differs between epochs and between seeds of trainings."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
