"""Grounding: the acceptance list of its specification, on stubs and on a small random Grounding DINO."""

from __future__ import annotations

import json
import sys
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.errors import ConfigError, ZsadError
from zsad.methods.functional.grounding_dino import GroundingDino, _shortest_edge
from zsad.methods.prompts.templates import prompt_set

CLASSES = ["metal nut", "carpet", "metal nut"]
SIZE = 32


@pytest.fixture
def images():
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def make(make_small_clip):
    def build(**settings):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return zsad.load("grounding", make_small_clip(), device="cpu", **settings)

    return build


def boxes_of(*box):
    """A detector that gives every image the same box."""
    return lambda images, names: torch.tensor([box], dtype=torch.float32).expand(len(images), -1)


def same(found, expected, **tolerances):
    torch.testing.assert_close(found.scores, expected.scores, **tolerances)
    torch.testing.assert_close(found.maps, expected.maps, **tolerances)


@pytest.mark.parametrize("box", [(0.0, 0.0, SIZE, SIZE), (torch.nan,) * 4])
def test_the_whole_image_as_a_box_changes_nothing(make, images, box):
    plain, stubbed = make(detector="none"), make(detector="none")
    stubbed.method.detector = boxes_of(*box)
    same(stubbed.score_tensors(images, CLASSES), plain.score_tensors(images, CLASSES), rtol=0, atol=0)


def test_a_half_scores_like_that_half(make, images):
    plain, stubbed = make(detector="none"), make(detector="none")
    stubbed.method.detector = boxes_of(0, 0, SIZE // 2, SIZE)
    half = F.interpolate(images[..., : SIZE // 2], (SIZE, SIZE), mode="bilinear")
    expected, found = plain.score_tensors(half, CLASSES), stubbed.score_tensors(images, CLASSES)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
    inside = F.interpolate(expected.maps[:, None], (SIZE, SIZE // 2), mode="bilinear")[:, 0]
    torch.testing.assert_close(found.maps[..., : SIZE // 2], inside, rtol=1e-4, atol=1e-5)
    lowest = found.maps.amin(dim=(1, 2), keepdim=True)
    assert (found.maps[..., SIZE // 2 :] == lowest).all()


def test_the_detector_sees_images_and_names(make, images):
    seen = []

    def detector(pictures, names):
        seen.append((pictures, names))
        return torch.full((len(pictures), 4), torch.nan)

    made = make(detector="none")
    made.method.detector = detector
    made.score_tensors(images, CLASSES)
    made.score_tensors(images, "screw")
    assert [names for _, names in seen] == [tuple(CLASSES), ("screw",) * 3]
    assert 0 <= seen[0][0].min() <= seen[0][0].max() <= 1


@pytest.mark.parametrize("detector", ["none", "foreground"])
def test_a_batch_is_its_images(make, detector):
    made = make(detector=detector)
    pictures = torch.full((3, 3, SIZE, SIZE), 1.5)
    for row, (left, top, right, bottom) in enumerate([(4, 4, 20, 24), (10, 2, 30, 28), (0, 0, 32, 32)]):
        pictures[row, :, top:bottom, left:right] = -1 + 0.1 * torch.randn(3, bottom - top, right - left)
    together = made.score_tensors(pictures, CLASSES)
    for row in range(3):
        alone = made.score_tensors(pictures[row : row + 1], CLASSES[row])
        torch.testing.assert_close(together.scores[row], alone.scores[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.maps[row], alone.maps[0], rtol=1e-4, atol=1e-5)


def test_the_foreground_takes_the_background_away(make):
    made, part = make(detector="foreground", sigma=0), slice(SIZE // 4, 3 * SIZE // 4)
    # The size of the network's input: resizing a map rounds even where it is constant.
    image = np.full((SIZE, SIZE, 3), 220, dtype=np.uint8)
    image[part, part] = np.random.default_rng(0).integers(0, 120, (SIZE // 2, SIZE // 2, 3))
    found = made.predict(image, "screw").anomaly_map
    assert (found[: SIZE // 8] == found.min()).all()
    assert found[part, part].std() > 0


@pytest.mark.parametrize("temperature", [0.01, 0.07])
def test_with_winclips_prompts_the_score_is_that_of_clip_ac(
    make, make_small_clip, images, tmp_path, temperature
):
    path = tmp_path / "winclip.json"
    normal, abnormal = prompt_set("paper").for_class("screw")
    path.write_text(json.dumps({"screw": {"normal": normal, "abnormal": abnormal}}), encoding="utf-8")
    shared = {"temperature": temperature, "position_interpolation": "bicubic_antialias"}
    plain = zsad.load("clip_ac", make_small_clip(), device="cpu", prompt_set="winclip", **shared)
    ours = make(detector="none", prompts=path, **shared)
    ours.method.detector = boxes_of(0, 0, SIZE, SIZE)
    expected = plain.score_tensors(images, "screw").scores
    torch.testing.assert_close(ours.score_tensors(images, "screw").scores, expected, rtol=0, atol=1e-6)


def test_written_prompts_are_taken_back_and_saved_with_their_content(make, make_small_clip, images, tmp_path):
    path = zsad.prompts.write_prompts(lambda request: request[-40:], ["screw"], tmp_path / "prompts.json")
    made = make(detector="none", prompts=str(path))
    expected = made.score_tensors(images, "screw")
    assert not torch.equal(expected.scores, make(detector="none").score_tensors(images, "screw").scores)
    saved = made.save(tmp_path / "saved.safetensors")
    path.unlink()
    again = zsad.load(checkpoint=saved, backbone=make_small_clip(), device="cpu")
    same(again.score_tensors(images, "screw"), expected, rtol=0, atol=0)


@pytest.mark.parametrize("is_installed", [True, False])
def test_without_grounding_dino_the_foreground_takes_its_place(
    is_installed, make, make_small_clip, images, tmp_path, monkeypatch
):
    weights = str(tmp_path) if not is_installed else "no/weights-here"
    if not is_installed:
        monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.warns(UserWarning, match="grounding crops to the foreground") as caught:
        made = zsad.load("grounding", make_small_clip(), device="cpu", detector_weights=weights)
    hint = "hf download no/weights-here" if is_installed else r"pip install 'zsad\[grounding\]'"
    assert len(caught) == 1
    (note,) = made.predict(np.zeros((40, 40, 3), dtype=np.uint8)).notes
    assert note == str(caught[0].message)
    assert hint.replace("\\", "") in note
    assert made.method.config.detector == "foreground"
    same(made.score_tensors(images), make(detector="foreground").score_tensors(images), rtol=0, atol=0)


def test_a_chosen_detector_has_no_note(make_small_clip):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = zsad.load("grounding", make_small_clip(), device="cpu", detector="foreground")
    assert made.predict(np.zeros((40, 40, 3), dtype=np.uint8)).notes == ()


def failing(images, names):
    raise RuntimeError("out of\nmemory")


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        (failing, "the detector of grounding failed: out of memory; set detector=none"),
        (lambda images, names: torch.zeros(1, 3), r"must return boxes \(3, 4\), got \(1, 3\)"),
        (lambda images, names: None, "the detector of grounding failed"),
    ],
)
def test_a_detector_that_fails_says_so_in_one_line(make, images, detector, words):
    made = make(detector="none")
    made.method.detector = detector
    with pytest.raises(ConfigError, match=words) as caught:
        made.score_tensors(images, CLASSES)
    assert "\n" not in str(caught.value)


def test_broken_prompts_are_refused_in_one_line(make, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ZsadError, match=r"broken\.json"):
        make(prompts=path)
    with pytest.raises(ZsadError, match="ClassPrompts needs abnormal"):
        make(prompts={"screw": {"normal": ["a screw"]}})


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory):
    """A small random Grounding DINO in the real layout: two Swin stages, two decoder layers, 10 queries."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("dino")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        ".",
        "?",
        "metal",
        "nut",
        "carpet",
        "screw",
        "object",
    ]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    config = transformers.GroundingDinoConfig(
        backbone_config=transformers.SwinConfig(
            image_size=64,
            embed_dim=16,
            depths=[1, 1],
            num_heads=[1, 2],
            window_size=4,
            out_indices=[1, 2],
        ),
        text_config={
            "model_type": "bert",
            "vocab_size": len(words),
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=10,
        num_feature_levels=2,
        two_stage=True,
        use_pretrained_backbone=False,
    )
    torch.manual_seed(0)
    model = transformers.GroundingDinoForObjectDetection(config)
    with torch.no_grad():  # random boxes cover less than 5 %
        for head in model.bbox_embed:
            head.layers[-1].bias[2:] = 4.0
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 64}}', encoding="utf-8")
    return folder


@pytest.mark.usefixtures("no_network")
def test_a_small_grounding_dino_runs_the_whole_way(make_small_clip, images, dino_folder):
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        made = zsad.load(
            "grounding",
            make_small_clip(),
            device="cpu",
            detector_weights=dino_folder,
            box_threshold=0.0,
            text_threshold=0.0,
        )
    detector = made.method.detector
    made.method.detector = lambda *given: seen.append(detector(*given)) or seen[-1]
    raw = made.score_tensors(images, CLASSES)
    assert raw.maps.isfinite().all()
    assert seen[0].isfinite().any()
    found = seen[0][seen[0].isfinite().all(dim=1)]
    assert (found[:, 2:] > found[:, :2]).all()
    margin = 0.05 * (found[:, 2:] - found[:, :2]) / 1.1 + 1e-3
    assert (found[:, :2] >= -margin).all()
    assert (found[:, 2:] <= SIZE + margin).all()
    for row in range(3):
        made.score_tensors(images[row : row + 1], CLASSES[row])
        torch.testing.assert_close(seen[-1][0], seen[0][row], rtol=1e-3, atol=1e-3, equal_nan=True)


class OneAnswer:
    """A model with fixed boxes and logits, and a tokenizer whose ids are 1 (mark), 2 (full stop), 7 and 8."""

    dtype = torch.float32
    all_special_ids = (1,)

    def __init__(self, logits, boxes):
        self.logits, self.pred_boxes = torch.tensor([logits]), torch.tensor([boxes])

    def __call__(self, texts=None, **inputs):
        return {"input_ids": torch.tensor([[1, 7, 8, 2, 1]])} if texts else self

    def to(self, device):
        return self

    def convert_tokens_to_ids(self, token):
        return 2


def logit(*probabilities):
    return torch.tensor(probabilities).logit().tolist()


LARGE, OTHER, SMALL = [0.5, 0.5, 0.5, 0.25], [0.25, 0.75, 0.5, 0.5], [0.5, 0.5, 0.2, 0.2]


@pytest.mark.parametrize(
    ("rows", "boxes", "expected"),
    [
        ([(0.1, 0.4, 0.1, 0.1, 0.1), (0.1, 0.1, 0.6, 0.1, 0.1)], [LARGE, OTHER], (0, 50, 50, 100)),
        ([(0.1, 0.34, 0.1, 0.1, 0.1), (0.1, 0.1, 0.2, 0.1, 0.1)], [LARGE, OTHER], None),
        ([(0.9, 0.1, 0.1, 0.9, 0.9), (0.1, 0.4, 0.1, 0.1, 0.1)], [OTHER, LARGE], (25, 37.5, 75, 62.5)),
        ([(0.1, 0.9, 0.1, 0.1, 0.1), (0.1, 0.4, 0.1, 0.1, 0.1)], [SMALL, LARGE], None),
    ],
    ids=["the best one", "none is good", "marks are no words", "a small one"],
)
def test_which_box_counts(rows, boxes, expected):
    answer = OneAnswer([logit(*row) for row in rows], boxes)
    dino = GroundingDino(answer, answer, box_threshold=0.35, text_threshold=0.25, side=10)
    found = dino(torch.zeros(1, 3, 100, 100), ["Metal_Nut"])[0]
    torch.testing.assert_close(
        found, torch.tensor(expected or (torch.nan,) * 4, dtype=torch.float32), equal_nan=True
    )


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        ({"size": {"shortest_edge": 96, "longest_edge": 128}}, 96),
        ({"size": {"height": 72, "width": 72}}, 72),
        ({"size": 64}, 64),
        ({}, 800),
        (None, 800),
    ],
)
def test_the_size_comes_from_the_image_processor(settings, side, tmp_path):
    if settings is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert _shortest_edge(tmp_path) == side


@pytest.mark.parametrize("content", ["config.json", "preprocessor_config.json"])
def test_a_folder_of_something_else_is_a_note(make_small_clip, tmp_path, content):
    (tmp_path / content).write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.warns(UserWarning, match="holds no Grounding DINO that can be read"):
        made = zsad.load("grounding", make_small_clip(), device="cpu", detector_weights=tmp_path)
    assert "\n" not in made.method.notes[0]
