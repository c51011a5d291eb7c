"""What a user wants to know before choosing a method: needs, how sure it is, published numbers, weights.

`zsad methods` and docs/methods/README.md show the same facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zsad.detector.choosing import PACKAGED_BACKBONE, shipped
from zsad.evaluation.published import published_number
from zsad.methods._registry import method_class

if TYPE_CHECKING:
    from zsad.types import MethodInfo

CHECKED_BY = {
    "authors": "the authors' code, by recorded numbers",
    "re-implementation": "a re-implementation, by recorded numbers",
    "own loops": "independent loops",
}
BY_OTHERS = "\u2020"
"""Mark of a published number that does not come from the method's own authors."""


@dataclass(frozen=True)
class MethodFacts:
    """The facts about one method, in words.

    Attributes:
        info: the method's `INFO`.
        needs: what it needs besides the images: learnt weights, a class name, all images, an extra.
        checked: what its numbers are known to equal; a reconstruction equals nothing that was published.
        mvtec: published image AUROC and pixel AUROC on MVTec AD in percent; "-" where none is known.
        visa: the same on VisA.
        weights: the learnt weights that ship, and the names of those that can be fetched.
    """

    info: MethodInfo
    needs: str
    checked: str
    mvtec: str
    visa: str
    weights: str


def method_facts(name: str) -> MethodFacts:
    """The facts about a method.

    Args:
        name: registry name.

    Example:
        >>> method_facts("winclip").mvtec, method_facts("winclip").needs
        ('91.8 / 85.1', 'class name')
    """
    kind = method_class(name)
    info = kind.INFO
    wants = {
        "learnt weights": info.needs_training,
        "class name": info.uses_class_names,
        "all images": info.scores_batch_jointly,
        f"extra {info.extra}": bool(info.extra),
    }
    here = [PACKAGED_BACKBONE] if info.needs_training and shipped(name, PACKAGED_BACKBONE) else []
    weights = [*here, *(record.name for record in kind.WEIGHTS)]
    checked = CHECKED_BY[info.checked_by]
    return MethodFacts(
        info,
        needs=", ".join(want for want, is_wanted in wants.items() if is_wanted) or "nothing",
        checked=f"reconstruction; {checked}" if info.is_reconstruction else checked,
        mvtec=_published(name, "mvtec"),
        visa=_published(name, "visa"),
        weights=", ".join(weights) or ("train them" if info.needs_training else "needs none"),
    )


def _published(name: str, dataset: str) -> str:
    """Image AUROC and pixel AUROC without references, as published."""
    numbers = [published_number(name, dataset, metric) for metric in ("image_auroc", "pixel_auroc")]
    if not any(numbers):
        return "-"
    return " / ".join(
        "-" if number is None else f"{number.value}{'' if number.origin == 'authors' else BY_OTHERS}"
        for number in numbers
    )
