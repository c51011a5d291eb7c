"""`explanations.jsonl`: which phrases fit each picture's anomalous region, beside `results.jsonl`.

One object a line: `path` as in `results.jsonl`, `phrase` (the best), and `ranking`, best first, of objects
with `phrase`, `similarity` and `share`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from zsad.errors import DataError
from zsad.files.atomic import atomic_file
from zsad.types import PhraseFit

EXPLANATIONS_FILE = "explanations.jsonl"

Explanations = Mapping[str, Sequence[PhraseFit]]


def write_explanations(directory: str | Path, explanations: Explanations, paths: Iterable[str]) -> Path:
    """Writes the rankings of some pictures; the file appears when it is complete.

    Args:
        directory: of the results.
        explanations: rankings, best first, by the picture's path.
        paths: which pictures to write, in this order; those without a ranking are passed over.

    Returns:
        The file.

    Raises:
        OSError: it cannot be written.
    """
    target = Path(directory) / EXPLANATIONS_FILE
    with atomic_file(target) as file:
        for path in paths:
            if path in explanations:
                ranking = explanations[path]
                row = {
                    "path": path,
                    "phrase": ranking[0].phrase,
                    "ranking": [asdict(fit) for fit in ranking],
                }
                # ASCII, since file names that are not valid Unicode could not be written as UTF-8
                file.write(json.dumps(row).encode() + b"\n")
    return target


def read_explanations(directory: str | Path) -> dict[str, list[PhraseFit]]:
    """The rankings that `write_explanations` wrote, by path; none if there is no file.

    Raises:
        DataError: the file is damaged.
        OSError: it cannot be read.
    """
    source = Path(directory) / EXPLANATIONS_FILE
    if not source.exists():
        return {}
    found = {}
    for number, line in enumerate(source.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            found[row["path"]] = [PhraseFit(**fit) for fit in row["ranking"]]
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{source}, line {number} is not one of zsad's: delete the file") from error
    return found
