"""Damages files at random, by their bytes and by the values that they hold; reproducible by a seed."""

from __future__ import annotations

import io
import json
import random
import zipfile
from typing import Any

EVIL = (
    *("NaN", "Infinity", "-1", "0", "1e999", "9" * 5000, "100000", "1000000000", "1.5", "null", "true"),
    *('""', '"=1+1"', '"<script>alert(1)</script>"', r'"\u0000"', r'"\ud800"', '"../../x"', '"/etc/passwd"'),
    *("[]", "{}", '["a"]', '{"a": 1}', "[" * 200 + "]" * 200, '{"a": ' * 90 + "1" + "}" * 90),
    '"' + "x" * 9999 + '"',
)  # fmt: skip
PLACE = "\ue000place\ue000"


def broken_bytes(content: bytes, draw: random.Random, most: int | None = None) -> bytes:
    """Changes some bytes: flips, cuts, doubles, overwrites; `most` is the end of the part that is changed."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        end = min(len(data), most or len(data))
        if end < 2:
            break
        start = draw.randrange(end)
        length = min(draw.choice((1, 1, 2, 4, 16, 200)), len(data) - start)
        kind = draw.randrange(6)
        if kind == 0:
            data[start] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[start : start + length]
        elif kind == 2:
            data[start:start] = data[start : start + length]
        elif kind == 3:
            data[start : start + length] = draw.choice((b"\0", b"\xff", b"\x7f", b"[", b'"')) * length
        elif kind == 4:
            data[start : start + length] = draw.randbytes(length)
        else:
            del data[start:]
    return bytes(data)


def broken_json(content: str | bytes, draw: random.Random) -> bytes:
    """Replaces, removes, renames or doubles one value of a JSON text at a random depth."""
    document = json.loads(content)
    holders = [found for found in _containers(document) if found]
    holder = draw.choice(holders)
    key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    action = draw.randrange(8)
    if action == 0:
        del holder[key]
    elif action == 1 and isinstance(holder, dict):
        holder[draw.choice(("extra", "", "__class__", "a" * 3000))] = holder.pop(key)
    else:
        holder[key] = PLACE
    text = json.dumps(document).replace(json.dumps(PLACE), draw.choice(EVIL))
    if action == 2 and text.startswith("{") and len(text) > 2:
        text = text[:-1] + "," + text[1:]  # every field twice
    return text.encode()


def broken_safetensors(content: bytes, draw: random.Random) -> bytes:
    """Damages the header of a safetensors file: its bytes, its fields, or the JSON texts in its metadata."""
    length = int.from_bytes(content[:8], "little")
    header, rest = content[8 : 8 + length], content[8 + length :]
    kind = draw.randrange(3)
    if kind == 0:
        return broken_bytes(content, draw, most=8 + length)
    if kind == 1:
        header = broken_json(header, draw)
    else:
        fields = json.loads(header)
        texts = fields.get("__metadata__") or {"format": "{}"}
        name = draw.choice(sorted(texts))
        broken = broken_json(texts[name], draw) if texts[name][:1] == "{" and len(texts[name]) > 2 else b"pt"
        fields["__metadata__"] = {**texts, name: broken.decode()}
        header = json.dumps(fields).encode()
    return len(header).to_bytes(8, "little") + header + rest


def broken_zip(content: bytes, draw: random.Random) -> bytes:
    """Damages an archive: its bytes, or those of one member with checksums that are right."""
    if draw.randrange(2):
        return broken_bytes(content, draw)
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(target, "w") as archive:
        names = source.namelist()
        chosen = draw.choice([name for name in names if name.endswith(".pkl")] * len(names) + names)
        for name in names:
            data = source.read(name)
            archive.writestr(name, broken_bytes(data, draw) if name == chosen else data)
    return target.getvalue()


def _containers(node: Any) -> list[Any]:
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    own = [node] if isinstance(node, dict | list) else []
    return own + [found for each in inner for found in _containers(each)]
