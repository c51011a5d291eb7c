"""Recognises DICOM files without a suffix, as hospital archives (PACS) and their discs name them.

"IM000001" and "1.2.840.113619.2.55.3" are images; the table of contents "DICOMDIR" holds none.
"""

from __future__ import annotations

import os
from pathlib import Path

from zsad.images.unreadable import is_dicom

HEAD = 132
"""Number of first bytes that tell DICOM from other files."""

_CONTENTS = "dicomdir"


def may_be_dicom(name: str) -> bool:
    """Whether a file has a name as DICOM has in archives: no suffix, or one of digits as in an identifier.

    Example:
        >>> [may_be_dicom(name) for name in ("IM000001", "1.2.840.10008", "a.txt", "DICOMDIR")]
        [True, True, False, False]
    """
    base = name.rpartition("/")[2]
    suffix = os.path.splitext(base)[1].removeprefix(".")
    return (not suffix or suffix.isdigit()) and base.casefold() != _CONTENTS


def is_bare_dicom(path: str | os.PathLike[str]) -> bool:
    """Whether a file has such a name and begins like DICOM; one that cannot be read does not."""
    if not may_be_dicom(Path(path).name) or not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return is_dicom(file.read(HEAD))
    except OSError:
        return False
