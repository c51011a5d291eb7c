"""The weights that ship in the package: there, small, matching each other, and better than chance."""

from pathlib import Path

import numpy as np
import pytest
import torch

import zsad
from zsad.backbones.loading import load_backbone
from zsad.backbones.tokenizer import tokenize
from zsad.data.synthetic import Materials, SyntheticConfig, generate
from zsad.metrics import pixel_auroc

TINY = Path(zsad.__file__).parent / "backbones" / "tiny"


@pytest.fixture(scope="module")
def detector():
    return zsad.load()


def test_the_default_is_anomalyclip_on_tiny(detector):
    assert detector.method.INFO.name == "anomalyclip"
    assert detector.record.name == "tiny"
    assert detector.is_trained


def test_shipped_files_are_small_enough_for_a_wheel():
    assert sum(path.stat().st_size for path in TINY.glob("*.safetensors")) <= 57e6  # a wheel of at most 60 MB
    assert "Licence" in (TINY / "README.md").read_text()


def test_default_finds_synthetic_defects_it_has_not_seen(detector):
    stock, config = Materials.procedural(), SyntheticConfig(size=320, anomalous_fraction=1.0)
    scenes = [generate(index, stock, config, seed=987_654) for index in range(24)]
    maps = [detector.predict(scene.image).anomaly_map for scene in scenes]
    assert pixel_auroc(np.stack(maps), np.stack([scene.mask for scene in scenes])) > 0.8


def test_damage_is_nearer_to_damaged_than_to_flawless_prompts():
    clip = load_backbone("tiny")
    sentences = ["a photo of a flawless {}.", "a photo of a broken {}.", "a photo of a damaged {}."]
    for noun in ("screw", "wooden board", "pill"):
        with torch.inference_mode():
            flawless, broken, damaged = torch.nn.functional.normalize(
                clip.encode_text(tokenize([sentence.format(noun) for sentence in sentences])), dim=-1
            )
        assert broken @ damaged > flawless @ damaged


def test_names_of_like_things_are_near_each_other():
    clip = load_backbone("tiny")
    with torch.inference_mode():
        screw, bolt, bread = torch.nn.functional.normalize(
            clip.encode_text(tokenize(["a photo of a screw.", "a photo of a bolt.", "a photo of bread."])),
            dim=-1,
        )
    assert screw @ bolt > screw @ bread
