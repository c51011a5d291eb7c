"""Tells what the words of people say about an image: normal, anomalous, or nothing that is known.

The same vocabulary serves folders and lists. Whatever is not known is never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Literal

from zsad.errors import DataError

Meaning = Literal["normal", "anomalous"]

_FREE = frozenset({"free", "frei", "vrij"})
_ALONE = {"no": "normal", "false": "normal", "yes": "anomalous", "true": "anomalous"}


@cache
def _words(kind: str) -> frozenset[str]:
    """Returns the words of "normal", "anomalous", "negations" or "fillers"."""
    import yaml

    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    return frozenset(yaml.safe_load(text)[kind])


# The wish of a user reaches every layout, whose readers are called by name from tables, without being a
# parameter of each of them.
_named_normal: ContextVar[frozenset[str]] = ContextVar("named_normal", default=frozenset())


@contextmanager
def normal_labels_are(labels: Iterable[str] | None) -> Iterator[None]:
    """Within the block, only these labels mean "normal", and all others "anomalous"; None: words decide."""
    token = _named_normal.set(frozenset(label.strip().casefold() for label in labels or ()))
    try:
        yield
    finally:
        _named_normal.reset(token)


def meaning(text: str) -> Meaning | None:
    """Returns what a label or the name of a folder says; None if it is not known, as for a kind of defect.

    Example:
        >>> [meaning(text) for text in ("0 - OK", "n.i.O.", "no_defect", "not ok", "normal_test", "scratch")]
        ['normal', 'anomalous', 'normal', 'anomalous', 'normal', None]
    """
    named = _named_normal.get()
    folded = text.strip().casefold()
    if named:
        return "normal" if folded in named else "anomalous"
    if folded in _ALONE:
        return "normal" if _ALONE[folded] == "normal" else "anomalous"
    words = re.findall(r"[^\W_]+", folded)
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


def is_normal(name: str) -> bool:
    """Whether a label or the name of a folder says that an image is normal."""
    return meaning(name) == "normal"


def check_labels(labels: Iterable[str], place: object) -> None:
    """Refuses labels of which none, or more than one and all, can be taken for "normal".

    Args:
        labels: labels of a list that are words; those without a value are left out.
        place: list or folder, for the message.

    Raises:
        DataError: what is normal would have to be guessed; the message shows the labels and how to map them.
    """
    once = {label.strip().casefold(): label.strip() for label in labels}
    meanings = {label: meaning(label) for label in once.values()}
    normal = [label for label, found in meanings.items() if found == "normal"]
    is_unknown = None in meanings.values() and not normal
    is_double = len(normal) > 1 and len(normal) == len(meanings)
    if is_unknown or is_double:
        shown = ", ".join(sorted(meanings)[:10])
        why = "none of the labels is known to mean normal" if is_unknown else "each label could mean normal"
        first = sorted(meanings)[0]
        raise DataError(
            f"{place}: {why} (labels: {shown}); name the normal ones, as in --normal-labels {first!r} or "
            f"normal_labels=[{first!r}]"
        )
