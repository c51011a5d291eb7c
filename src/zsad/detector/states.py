"""What a method has prepared for its class names and for the images that it compares with, kept for reuse."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from zsad.methods.base import DEFAULT_CLASS, Support
from zsad.methods.functional.references import reference_distances, with_references

if TYPE_CHECKING:
    from torch import Tensor

    from zsad.methods.base import Method, State
    from zsad.methods.functional.references import ReferenceMemory
    from zsad.types import RawOutput

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
        classes = tuple(name or DEFAULT_CLASS for name in names)
        if not self.method.INFO.uses_class_names:
            classes = (DEFAULT_CLASS,)
        elif len(set(classes)) == 1:
            classes = classes[:1]
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
        is_used = self.method.INFO.references == "own" and self.support.has_references
        if not is_used and self.support.unlabelled is None:
            return None
        with self._lock:
            latest = next(reversed(self._kept.values()), None)
        return latest or self.prepared(names, stamp)

    def compared(self, raw: RawOutput, images: Tensor, map_range: tuple[float, float]) -> RawOutput:
        """A method's answer, joined by the general rule with the distances to the references.

        Args:
            raw: scores (B,) and maps (B, S, S).
            images: (B, 3, S, S) resized and normalised images.
            map_range: smallest and largest value of the method's maps.

        Returns:
            `raw` itself without references, and for methods with a rule of their own.
        """
        memory = None if self.method.INFO.references == "own" else self.memory
        if memory is None:
            return raw
        distances = reference_distances(self.method.backbone.visual, images, memory)
        return with_references(raw, distances, map_range)

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
        return replace(self.support, normal=None, memory=None)
