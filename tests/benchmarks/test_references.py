"""The benchmark of references runs on images made by code, and known-normal images help."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zsad

TOOL = Path(__file__).parents[2] / "benchmarks" / "references.py"


@pytest.fixture
def tool(monkeypatch):
    if not TOOL.exists():
        pytest.skip("the benchmarks are not part of the installed package")
    monkeypatch.syspath_prepend(str(TOOL.parent))
    return importlib.import_module(TOOL.stem)


def test_every_setting_is_measured_and_written(tool, make_small_clip, monkeypatch, tmp_path):
    generator = np.random.default_rng(0)
    for folder, count in (("train/good", 5), ("test/good", 5), ("test/spot", 5)):
        (tmp_path / "part" / folder).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(90, 160, (32, 32, 3), dtype=np.uint8)
            if folder == "test/spot":
                pixels[8:20, 8:20] = (255, 0, 0)
                mask = np.zeros((32, 32), np.uint8)
                mask[8:20, 8:20] = 255
                (tmp_path / "part/ground_truth/spot").mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(tmp_path / f"part/ground_truth/spot/{number}_mask.png")
            Image.fromarray(pixels).save(tmp_path / f"part/{folder}/{number}.png")
    (tmp_path / "part/test/good/0.png").write_bytes(b"no image")
    torch.manual_seed(0)  # for the prompts
    detector = zsad.load("auto", make_small_clip(image_size=32), "fresh", device="cpu")
    detector.is_trained = True
    monkeypatch.setattr(zsad, "load", lambda *_, **__: detector)
    tool.main(["--data", str(tmp_path / "part"), "--out", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out.json").read_text())
    (one,) = report["categories"].values()
    assert set(one["settings"]) == {"lone", "folder", "1", "1 + folder", "4", "4 + folder"}
    assert one["images"] == {"normal": 4, "anomalous": 5}
    assert len(one["failed"]) == 1
    assert len(one["settings"]["4"]) == 3
    assert one["settings"]["4"][0]["image"] > 0.9
    assert "pixel" in one["settings"]["lone"][0]
    assert report["processor_seconds_per_image"]["encode"] >= 0
    assert "| 4 + folder | 1 |" in (tmp_path / "out.md").read_text()
    with pytest.raises(SystemExit):
        tool.main(["--data", str(tmp_path / "part"), "--out", str(tmp_path / "out"), "--only", "nothing"])
