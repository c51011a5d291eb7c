"""References and companions: what may be given, and that neither disturbs the other."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import zsad
from zsad.detector.comparison import Comparison
from zsad.detector.states import States
from zsad.detector.support import images_given
from zsad.errors import DataError, ImageReadError
from zsad.methods.base import Support


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(9):
        pixels = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return tmp_path


@pytest.fixture
def auto(make_small_clip):
    detector = zsad.load("auto", make_small_clip(image_size=64), "fresh", device="cpu")
    detector.is_trained = True
    return detector


def test_a_file_a_folder_a_pattern_or_a_list(folder):
    files = [folder / f"{number}.png" for number in range(9)]
    pixels = np.zeros((8, 8, 3), np.uint8)
    assert images_given(None) == images_given([]) == []
    assert images_given(files[0]) == [files[0]]
    assert images_given(folder) == images_given(str(folder / "*.png")) == files
    assert images_given([folder, files[0]]) == [*files, files[0]]
    assert images_given(pixels) == [pixels]
    assert len(images_given(np.stack([pixels, pixels]))) == 2
    with pytest.raises(DataError, match="no images found"):
        images_given(folder / "*.bmp")


def test_load_takes_a_folder(make_small_clip, folder):
    clip = make_small_clip(image_size=64)
    detector = zsad.load("winclip", clip, device="cpu", references=folder)
    assert len(detector.reference_fingerprints) == 9
    single = zsad.load("winclip", clip, device="cpu", references=str(folder / "0.png"))
    assert single.reference_fingerprints == detector.reference_fingerprints[:1]
    with pytest.raises(ImageReadError):
        detector.set_references(folder / "missing.png")


def test_both_kinds_at_once(auto, folder):
    files = sorted(folder.iterdir())
    plain = auto.predict(files[0]).score
    auto.set_companions(folder)
    with_companions = auto.predict(files[0]).score
    auto.set_references(files[:2])
    with_both = auto.predict(files[0]).score
    assert auto.predict(files[:3])[0].score == pytest.approx(with_both, abs=1e-5)
    assert auto.map_range == (0.0, 1.0)
    assert not auto.scores_jointly
    assert "9 drawn" in auto.about_companions
    auto.set_companions(None)
    with_references = auto.predict(files[0]).score
    assert len({plain, with_companions, with_references, with_both}) == 4
    assert auto.predict(files[5]).score > with_references  # the first image is one of the references
    assert len(auto.reference_fingerprints) == 2
    auto.set_references(None)
    assert auto.predict(files[0]).score == plain
    assert auto.reference_fingerprints == ()


@pytest.mark.parametrize("name", ["winclip", "april_gan"])
def test_references_are_remembered_once_and_the_memory_stands_for_them(
    make_small_clip, folder, monkeypatch, name
):
    """Both methods encoded all references again for each class name."""
    detector = zsad.load(name, make_small_clip(image_size=64), "fresh", device="cpu")
    detector.is_trained = True
    method, encoded = detector.method, []
    remember = method.remember
    monkeypatch.setattr(method, "remember", lambda images: encoded.append(len(images)) or remember(images))
    detector.set_references([folder / "0.png", folder / "1.png"])
    before = detector.predict(folder / "2.png", classes="screw").score
    detector.predict(folder / "2.png", classes="cable")
    assert encoded == [2]
    detector.compared = Comparison(States(method, Support(memory=detector.compared.states.memory)))
    assert detector.predict(folder / "2.png", classes="screw").score == before
    assert encoded == [2]


def test_references_in_any_direction_are_another_setting(make_small_clip, folder):
    clip, good = make_small_clip(image_size=64), folder / "0.png"
    plain = zsad.load("clip_ac", clip, device="cpu", references=good)
    turned = zsad.load("clip_ac", clip, device="cpu", references=good, augment_references=True)
    assert plain.scoring_settings() != turned.scoring_settings()
    assert plain.reference_fingerprints == turned.reference_fingerprints
    lying = np.rot90(np.asarray(Image.open(good))).copy()
    assert turned.predict(lying).score < plain.predict(lying).score


def test_companions_leave_references_alone(auto, folder):
    """Both shared one slot once: setting companions threw the references away but not their fingerprints."""
    auto.set_references(folder / "0.png")
    auto.set_companions(folder)
    assert len(auto.reference_fingerprints) == 1
    assert len(auto.compared.support.normal) == 1
    assert len(auto.compared.support.unlabelled) == 9


def test_another_depth_drops_companions_and_their_tiles(auto, folder):
    """Companions of the old depth went from whole images only; tiles were still compared with theirs."""
    auto.set_companions(folder)
    auto.set_references(folder / "0.png", bits=8)
    tiles = auto.compared.states_of_tiles(auto.looking.with_tile(32), ["object"])
    assert auto.compared.support.unlabelled is tiles.support.unlabelled is None


def test_references_that_cannot_be_read_change_nothing(auto, folder):
    auto.set_companions(folder)
    compared, looking = auto.compared, auto.looking
    with pytest.raises(ImageReadError):
        auto.set_references([folder / "0.png", folder / "none.png"], bits=8)
    assert auto.compared is compared
    assert auto.looking is looking
