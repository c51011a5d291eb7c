"""Tells what the words of people say about an image: normal, anomalous, or nothing that is known.

The same vocabulary serves folders and lists. Whatever is not known is never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from functools import cache
from pathlib import Path
from typing import Literal

from zsad.errors import DataError

Meaning = Literal["normal", "anomalous"]

SPLIT_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing", "query", "eval", "evaluation"), "test"),
}
_SHOWN = 10
_FREE = frozenset({"free", "frei", "vrij"})
_ALONE = {"no": "normal", "false": "normal", "yes": "anomalous", "true": "anomalous"}


@cache
def _words(kind: str) -> frozenset[str]:
    """Returns the words of "normal", "anomalous", "negations" or "fillers"."""
    import yaml

    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    return frozenset(yaml.safe_load(text)[kind])


def spaced(folder: str) -> str:
    """Returns a folder name as a word for prompts, with spaces for underscores."""
    return folder.replace("_", " ").strip()


def folded(label: str) -> str:
    """Returns a label as labels are compared: without spaces around it, case does not count."""
    return label.strip().casefold()


def meaning(text: str, normal_labels: Set[str] = frozenset()) -> Meaning | None:
    """Returns what a label or the name of a folder says; None if it is not known, as for a kind of defect.

    Args:
        text: the label.
        normal_labels: labels, folded, that alone mean "normal", so that all others mean "anomalous"; without
            any, the vocabulary decides.

    Example:
        >>> [meaning(text) for text in ("0 - OK", "n.i.O.", "no_defect", "not ok", "normal_test", "scratch")]
        ['normal', 'anomalous', 'normal', 'anomalous', 'normal', None]
    """
    label = folded(text)
    if normal_labels:
        return "normal" if label in normal_labels else "anomalous"
    if label in _ALONE:
        return "normal" if _ALONE[label] == "normal" else "anomalous"
    words = re.findall(r"[^\W_]+", label)
    return _known("".join(words)) or _of_words(words)


def _known(word: str) -> Meaning | None:
    return "normal" if word in _words("normal") else "anomalous" if word in _words("anomalous") else None


def _of_words(words: list[str]) -> Meaning | None:
    """Returns what several words say together, where a negation turns the meaning of the others."""
    telling = [word for word in words if not word.isdecimal() and word not in _words("fillers")]
    if telling and telling[-1] in _FREE:
        return "normal"
    negations = sum(word in _words("negations") for word in telling)
    rest = [word for word in telling if word not in _words("negations")]
    found = _known("".join(rest)) or _shared(rest)
    if found is None or negations % 2 == 0:
        return found
    return "anomalous" if found == "normal" else "normal"


def _shared(words: list[str]) -> Meaning | None:
    meanings = {_known(word) for word in words}
    return meanings.pop() if len(meanings) == 1 else None


def is_normal(name: str, normal_labels: Set[str] = frozenset()) -> bool:
    """Whether a label or the name of a folder says that an image is normal, as `meaning` tells."""
    return meaning(name, normal_labels) == "normal"


def undecided(labels: Iterable[str], normal_labels: Set[str] = frozenset(), *, kind: str = "label") -> str:
    """Returns why labels leave open which of them mean "normal", and how to name them; "" if they do not.

    Args:
        labels: all labels of a list, or the names of all folders that hold the images of a class.
        normal_labels: labels, folded, that alone mean "normal"; without any, the vocabulary decides.
        kind: word for a label in the sentence.

    Returns:
        A sentence with the labels if none of them is known to mean "normal", or if all of several do.
    """
    once = {folded(label): label.strip() for label in labels}
    meanings = {label: meaning(label, normal_labels) for label in once.values()}
    normal = [label for label, found in meanings.items() if found == "normal"]
    is_unknown = not normal and (bool(normal_labels) or None in meanings.values())
    is_double = len(normal) > 1 and len(normal) == len(meanings) and not normal_labels
    if not meanings or not (is_unknown or is_double):
        return ""
    shown = ", ".join(sorted(meanings)[:_SHOWN])
    why = f"each {kind} could mean normal" if is_double else f"none of the {kind}s is known to mean normal"
    if normal_labels:
        why = f"none of the {kind}s is {' or '.join(map(repr, sorted(normal_labels)))}"
    first = sorted(meanings)[0]
    return (
        f"{why} ({kind}s: {shown}); name the normal ones, as in --normal-labels {first!r} or "
        f"normal_labels=[{first!r}]"
    )


def check_labels(labels: Iterable[str], place: object, normal_labels: Set[str] = frozenset()) -> None:
    """Refuses labels that leave open which of them mean "normal".

    Args:
        labels: labels of a list that are words; those without a value are left out.
        place: file of the list, for the message.
        normal_labels: labels, folded, that alone mean "normal".

    Raises:
        DataError: what is normal would have to be guessed; the message shows the labels and how to map them.
    """
    if why := undecided(labels, normal_labels):
        raise DataError(f"{place}: {why}")
