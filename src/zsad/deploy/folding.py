"""Says whether a detector can leave Python, and folds everything but the image into its graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zsad.backbones.sharing import sharing_weights
from zsad.deploy.graphs import BatchGraph
from zsad.detector.identity import learned_versions
from zsad.detector.inputs import check_trained
from zsad.detector.states import States
from zsad.errors import ConfigError
from zsad.methods.base import DEFAULT_CLASS

if TYPE_CHECKING:
    from zsad.deploy.bundle import GraphKind
    from zsad.detector.detector import Detector
    from zsad.types import RawOutput


@dataclass(frozen=True)
class Part:
    """What one graph of a bundle does.

    Attributes:
        kind: "whole" for whole images, "tiles" for tiles that are compared with other references.
        states: what the method has prepared for these images.
        name: class name that is folded in.
    """

    kind: GraphKind
    states: States
    name: str

    def graph(self) -> BatchGraph:
        """The module that becomes the graph."""
        method = self.states.method
        return BatchGraph(method, self.states.folded(self.name, learned_versions(method))).eval()

    def scored(self, image: Tensor) -> RawOutput:
        """Python's scores and maps of one image (1, 3, S, S)."""
        return self.states.scored(image, [self.name], learned_versions(self.states.method))


def why_not(detector: Detector) -> str:
    """Why a detector cannot be exported, in a line; "" if it can."""
    method, name = detector.method, detector.method.INFO.name
    if reason := method.why_not_exportable:
        return f"{name} cannot be exported: {reason}"
    if detector.scores_jointly and detector.reference_fingerprints:
        return (
            f"{name} compares the images of a batch with each other, also beside references, and a graph "
            "scores each image by itself: fit it to the good images instead (zsad fit), and export the file"
        )
    return ""


def check_exportable(detector: Detector) -> None:
    """Refuses a detector that cannot be exported.

    Raises:
        ConfigError: it is no detector, has not been trained, runs in a lower precision, or its method has no
            graph; the message says why.
    """
    from zsad.detector.detector import Detector

    if not isinstance(detector, Detector):
        raise ConfigError(
            f"exporting takes a detector (zsad.load), got {type(detector).__name__}; a bundle is exported "
            "again from the file that it was made of"
        )
    check_trained(detector.method, detector.is_trained)
    if reason := why_not(detector):
        raise ConfigError(reason)
    own = detector.method.backbone.text_projection.dtype
    if own != torch.float32:
        raise ConfigError(
            f"the detector runs in {str(own).removeprefix('torch.')}, and exporting starts from float32: "
            "load it without precision=, and name the graph's precision when exporting"
        )


def folded_class(detector: Detector, class_name: str | None) -> str | None:
    """The class name whose prompts become part of the graphs; None if scores depend on none."""
    if not detector.method.INFO.uses_class_names:
        return None
    return class_name or detector.decision.class_name or DEFAULT_CLASS


def parts(detector: Detector, class_name: str | None) -> list[Part]:
    """What the graphs of a bundle do: whole images, and tiles if these are compared with other references.

    Args:
        detector: detector on the CPU.
        class_name: class name that is folded in; None if scores depend on none.
    """
    names: Sequence[str | None] = [class_name]
    name = class_name or DEFAULT_CLASS
    whole = detector.compared.states
    found = [Part("whole", whole, name)]
    if detector.tile is not None:
        tiles = detector.compared.states_of_tiles(detector.looking, names)
        if tiles is not whole:
            found.append(Part("tiles", tiles, name))
    return found


def in_half_precision(part: Part) -> Part:
    """The same part on a network in half precision; what is learnt and the prompts stay as they are."""
    states = part.states
    twin = sharing_weights(states.method)
    twin.backbone.to(torch.float16)
    support = replace(states.support, memory=states.memory)
    if support.unlabelled is not None:
        support = replace(support, unlabelled=support.unlabelled.half())
    if support.memory is not None and states.follows_general_rule:  # compares patches in half precision, too
        halved = tuple(level.half() for level in support.memory.levels)
        support = replace(support, memory=replace(support.memory, levels=halved))
    return Part(part.kind, States(twin, support), part.name)
