"""What a method has prepared for its class names and for the images that it compares with, kept for reuse."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from zsad.detector.general_rule import GeneralRule
from zsad.methods.base import DEFAULT_CLASS, Support
from zsad.types import RawOutput

if TYPE_CHECKING:
    from torch import Tensor

    from zsad.methods.base import Method, State
    from zsad.methods.functional.references import ReferenceMemory

MOST_STATES_KEPT = 64

Stamp = tuple[tuple[int, int], ...]


class States:
    """States of a method with one support; several threads may ask at the same time.

    Attributes:
        method: the system.
        support: references and companions; other images need another instance.
        memory: what the method keeps of the references, made when first asked for; None without references.
    """

    def __init__(self, method: Method, support: Support) -> None:
        self.method = method
        self.support = support
        self._kept: OrderedDict[tuple[tuple[str, ...], Stamp], State] = OrderedDict()
        self._memory: ReferenceMemory | None = None
        self._general: GeneralRule | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> tuple[Method, Support]:
        """Everything but what each process makes for itself."""
        return self.method, self.support

    def __setstate__(self, state: tuple[Method, Support]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    @torch.inference_mode()
    def prepared(self, names: Sequence[str | None], stamp: Stamp) -> State:
        """The state for the class names of a batch.

        Args:
            names: class name of each image; None stands for "object".
            stamp: versions of what was learnt, from `learned_versions`, so that a training step outdates
                earlier states.
        """
        classes = self._classes(names)
        key = (classes, stamp)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self.method.prepare(classes, self._own_support())
            self._kept.move_to_end(key)
            state = self._kept[key]
            while len(self._kept) > MOST_STATES_KEPT:
                self._kept.popitem(last=False)
        return state

    def with_support(self, names: Sequence[str | None], stamp: Stamp) -> State | None:
        """A state that shows what the support changes; None where the method has no support.

        Args:
            names: class names to prepare for, if nothing has been prepared yet.
            stamp: versions of what was learnt, from `learned_versions`.
        """
        if not self.support or (self.follows_general_rule and self.support.unlabelled is None):
            return None
        with self._lock:
            latest = next(reversed(self._kept.values()), None)
        return latest or self.prepared(names, stamp)

    @property
    def follows_general_rule(self) -> bool:
        """Whether there are references, and the method has no rule of its own for them."""
        return self.support.has_references and self.method.INFO.references != "own"

    @torch.inference_mode()
    def scored(self, images: Tensor, names: Sequence[str | None], stamp: Stamp) -> RawOutput:
        """Scores (B,) and maps (B, S, S) of a batch, float32.

        Args:
            images: (B, 3, S, S) resized and normalised images.
            names: class name of each image; None stands for "object".
            stamp: versions of what was learnt, from `learned_versions`.
        """
        method, general = self.method, self._general_rule()
        if general is None:
            raw = method.score(method.features(images), self.prepared(names, stamp))
            return RawOutput(raw.scores.float(), raw.maps.float())
        at_once = 1 if method.MOST_COMPANIONS else len(images)  # a lone answer to each image
        parts = [
            general.scored(
                images[rows],
                self._classes(names[rows]),
                lambda classes: self._alone.prepared(classes, stamp),
                None if self.support.unlabelled is None else self.prepared(names[rows], stamp),
                stamp,
            )
            for rows in (slice(start, start + at_once) for start in range(0, len(images), at_once))
        ]
        if len(parts) == 1:
            return parts[0]
        return RawOutput(torch.cat([part.scores for part in parts]), torch.cat([part.maps for part in parts]))

    def folded(self, name: str | None, stamp: Stamp) -> Callable[[Tensor], RawOutput]:
        """A function of images alone, for exporters: what they are compared with is part of it.

        It scores each image of a batch by itself, also where the method would compare them with each other.

        Args:
            name: class name of all images; None stands for "object".
            stamp: versions of what was learnt, from `learned_versions`.

        Returns:
            (B, 3, S, S) resized and normalised images to scores (B,) and maps (B, S, S).
        """
        method, general, classes = self.method, self._general_rule(), self._classes([name])
        if general is None:
            own = replace(self.prepared([name], stamp), scores_jointly=False)
            return lambda images: method.score(method.features(images), own)
        alone = replace(self._alone.prepared(classes, stamp), scores_jointly=False)
        companions = None if self.support.unlabelled is None else self.prepared([name], stamp)
        return lambda images: general.scored(images, classes, lambda _: alone, companions, stamp)

    def _general_rule(self) -> GeneralRule | None:
        """What applies the general rule; None where it does not apply."""
        memory = self.memory if self.follows_general_rule else None
        if memory is None:
            return None
        with self._lock:
            if self._general is None:
                self._general = GeneralRule(self.method, self.support, memory)
            return self._general

    @cached_property
    def _alone(self) -> States:
        """States of the same method without support."""
        return States(self.method, Support())

    def _classes(self, names: Sequence[str | None]) -> tuple[str, ...]:
        """One class name for a whole batch, or one for each image."""
        if not self.method.INFO.uses_class_names:
            return (DEFAULT_CLASS,)
        classes = tuple(name or DEFAULT_CLASS for name in names)
        return classes[:1] if len(set(classes)) == 1 else classes

    @property
    def memory(self) -> ReferenceMemory | None:
        """See the class."""
        with self._lock, torch.inference_mode():
            return self._remembered()

    def _remembered(self) -> ReferenceMemory | None:
        """`memory`, for a caller that holds the lock."""
        if self._memory is None:
            self._memory = self.method.memory_of(self.support)
        return self._memory

    def _own_support(self) -> Support:
        """The part of the support that the method itself uses, for a caller that holds the lock.

        References are remembered once, and not again for each class name.
        """
        if self.method.INFO.references == "own":
            return replace(self.support, memory=self._remembered())
        return replace(self.support, normal=None, memory=None, answers=None)
