"""Loading, predicting and saving through the public API."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import zsad
from zsad.detector import checkpoints
from zsad.detector.identity import learned_versions
from zsad.errors import ConfigError, DataError, ImageReadError, WeightsError
from zsad.types import Prediction, WeightRecord


@pytest.fixture
def detector(make_small_clip):
    """An untrained method that needs no training, since predictions of fresh prompts are refused."""
    return zsad.load("winclip", make_small_clip(), device="cpu")


@pytest.fixture
def untrained(make_small_clip):
    torch.manual_seed(0)
    return zsad.load("anomalyclip", make_small_clip(), device="cpu")


@pytest.fixture
def folder(tmp_path, uint8_images):
    for index, image in enumerate(uint8_images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    return tmp_path


def test_one_image(detector, uint8_images):
    prediction = detector.predict(uint8_images[0])
    assert isinstance(prediction, Prediction)
    assert prediction.anomaly_map.shape == uint8_images[0].shape[:2]
    assert prediction.anomaly_map.dtype == np.float32
    assert (prediction.image == uint8_images[0]).all()
    assert isinstance(prediction.score, float)
    assert prediction.is_anomalous is None
    assert prediction.path is None
    assert prediction.map_range == (0.0, 1.0)


def test_all_kinds_of_input_agree(detector, folder, uint8_images):
    path = folder / "0.png"
    tensor = torch.from_numpy(uint8_images[0]).permute(2, 0, 1).float() / 255
    kinds = [path, str(path), Image.open(path), uint8_images[0], tensor, io.BytesIO(path.read_bytes())]
    maps = [detector.predict(item).anomaly_map for item in kinds]
    assert all((found == maps[0]).all() for found in maps)
    assert detector.predict(path).path == path


@pytest.mark.parametrize("batch_size", [None, 1, 2, 5])
def test_a_list_equals_its_images(detector, uint8_images, batch_size):
    together = detector.predict(uint8_images, batch_size=batch_size)
    assert len(together) == 3
    for image, found in zip(uint8_images, together, strict=True):
        alone = detector.predict(image)
        assert found.score == pytest.approx(alone.score, abs=1e-5)
        np.testing.assert_allclose(found.anomaly_map, alone.anomaly_map, atol=1e-5)


def test_an_empty_list(detector):
    assert detector.predict([]) == []


def test_a_four_dimensional_array_is_several_images(detector):
    assert len(detector.predict(np.zeros((2, 8, 8, 3), np.uint8))) == 2


def test_an_image_of_one_pixel(detector):
    assert detector.predict(np.zeros((1, 1, 3), np.uint8)).anomaly_map.shape == (1, 1)


def test_class_names(detector, uint8_images):
    one, other = detector.predict(uint8_images[:2], classes=["screw", "carpet"])
    assert (one.class_name, other.class_name) == ("screw", "carpet")
    assert other.score == pytest.approx(detector.predict(uint8_images[1], classes="carpet").score, abs=1e-5)
    assert detector.predict(uint8_images[0], classes=["screw"]).class_name == "screw"
    assert detector.predict(uint8_images[0]).class_name is None


@pytest.mark.parametrize("classes", [["screw"], ["a", "b", "c", "d"], "", " ", ["a", 3, "c"]])
def test_impossible_class_names(detector, uint8_images, classes):
    with pytest.raises(ConfigError, match="class name"):
        detector.predict(uint8_images, classes=classes)


def test_predict_iter_over_a_folder(detector, folder):
    found = list(detector.predict_iter(folder, batch_size=2))
    assert [prediction.path.name for prediction in found] == ["0.png", "1.png", "2.png"]


def test_predict_iter_is_lazy(detector):
    taken = []

    def endless():
        for index in range(1000):
            taken.append(index)
            yield np.full((8, 8, 3), index % 256, np.uint8)

    stream = detector.predict_iter(endless(), batch_size=2)
    for _ in range(3):
        next(stream)
    stream.close()
    assert len(taken) <= 8


def test_predict_iter_with_names_for_each(detector, uint8_images):
    found = list(detector.predict_iter(iter(uint8_images), classes=["a", "b", "c"]))
    assert [prediction.class_name for prediction in found] == ["a", "b", "c"]


def test_predict_iter_refuses_one_image(detector, uint8_images):
    with pytest.raises(ConfigError, match="many images"):
        detector.predict_iter(uint8_images[0])


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, "2"])
def test_impossible_batch_sizes(detector, uint8_images, batch_size):
    with pytest.raises(ConfigError, match="batch_size"):
        detector.predict(uint8_images, batch_size=batch_size)


def test_unreadable_images(detector, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ImageReadError, match=r"broken\.png"):
        detector.predict(tmp_path / "broken.png")
    with pytest.raises(ImageReadError, match=r"missing\.png"):
        detector.predict([tmp_path / "missing.png"])
    with pytest.raises(DataError):
        list(detector.predict_iter(tmp_path / "nothing*.png"))


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(3, 32, 32),
        torch.zeros(1, 4, 32, 32),
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
        np.zeros((1, 3, 32, 32), np.float32),
        torch.zeros(1, 3, 32, 40),
        torch.zeros(1, 3, 30, 30),
    ],
)
def test_impossible_tensors(detector, images):
    with pytest.raises(ConfigError):
        detector.score_tensors(images)


def test_tensors_of_another_size(detector):
    assert detector.score_tensors(torch.zeros(1, 3, 48, 48)).maps.shape == (1, 48, 48)


def test_text_is_encoded_once(detector, uint8_images, monkeypatch):
    detector.predict(uint8_images[0], classes="screw")
    monkeypatch.setattr(detector.backbone, "encode_text", lambda *_: pytest.fail("encoded again"))
    detector.predict(uint8_images, classes="screw")
    detector.predict(uint8_images[:1], classes=["screw"])


def test_threads_may_share_a_detector(detector, uint8_images):
    names = [f"object {index % 3}" for index in range(12)]
    expected = [detector.predict(uint8_images[0], classes=name).score for name in names]
    detector.set_references(None)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda name: detector.predict(uint8_images[0], classes=name).score, names)
    assert list(found) == expected


def test_untrained_parameters_do_not_predict(untrained, uint8_images):
    with pytest.raises(ConfigError, match=r"random parameters.*zsad train --method anomalyclip"):
        untrained.predict(uint8_images[0])
    with pytest.raises(ConfigError, match="random parameters"):
        untrained.predict_iter(uint8_images)
    assert untrained.score_tensors(torch.zeros(1, 3, 32, 32)).scores.shape == (1,)
    untrained.is_trained = True
    assert untrained.predict(uint8_images[0]).class_name is None


def optimiser_step(method):
    parameters = [parameter for _, parameter in method.trainable()]
    optimiser = torch.optim.Adam(parameters, lr=0.1)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()


def load_other(method):
    torch.manual_seed(1)
    method.load_learned({name: torch.randn_like(each) for name, each in method.trainable()})


def reverse_in_place(method):
    """Keeps the sum of each tensor."""
    with torch.no_grad():
        for _, parameter in method.trainable():
            parameter.copy_(parameter.flip(0, -1))


def replace_data(method):
    for _, parameter in method.trainable():
        parameter.data = parameter.data + 0.1


@pytest.mark.parametrize("change", [optimiser_step, load_other, reverse_in_place, replace_data])
def test_scores_follow_training(untrained, change):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = untrained.score_tensors(images).scores
    versions = learned_versions(untrained.method)
    assert torch.equal(untrained.score_tensors(images).scores, before)
    assert learned_versions(untrained.method) == versions
    change(untrained.method)
    assert not torch.equal(untrained.score_tensors(images).scores, before)


def test_what_is_prepared_is_asked_for_without_reading_what_was_learnt(untrained, monkeypatch):
    images = torch.zeros(1, 3, 32, 32)
    untrained.score_tensors(images)
    for name in ("item", "tolist", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_: pytest.fail("waits for the device"))
    untrained.score_tensors(images)


def test_training_is_recorded_in_the_checkpoint(untrained, make_small_clip, uint8_images, tmp_path):
    untrained.mark_trained("screws", "abc")
    assert untrained.predict(uint8_images[0]).score >= 0
    again = zsad.load(backbone=make_small_clip(), checkpoint=untrained.save(tmp_path / "a.safetensors"))
    assert (again.is_trained, again.auxiliary_data, again.auxiliary_pictures) == (True, "screws", "abc")


def test_training_after_predicting(untrained):
    images = torch.zeros(2, 3, 40, 40)  # another grid, so that resized positions are kept from inference mode
    untrained.score_tensors(images)
    terms = untrained.method.loss(images, torch.zeros(2, 40, 40), torch.tensor([0, 1]))
    sum(terms.values()).backward()


def test_thresholds_reach_the_prediction(detector, uint8_images):
    detector.threshold, detector.map_threshold = 0.0, 2.0
    prediction = detector.predict(uint8_images[0])
    assert prediction.is_anomalous is True
    assert not prediction.mask().any()


class TestLoad:
    def test_the_authors_file(self, golden_clip, golden_path, golden, golden_inputs):
        detector = zsad.load(
            "anomalyclip",
            golden_clip,
            golden_path / "anomalyclip_official.pth",
            features_list=[6, 12, 18, 24],
            image_size=70,
            device="cpu",
        )
        raw = detector.score_tensors(golden_inputs["images"])
        np.testing.assert_allclose(raw.scores, golden("anomalyclip")["eval.scores"], atol=1e-5)
        np.testing.assert_allclose(raw.maps, golden("anomalyclip")["eval.map_gauss"], atol=1e-5)
        assert detector.is_trained

    def test_the_file_tells_the_shapes(self, golden_clip, golden_path):
        path = golden_path / "anomalyclip_official.pth"
        assert (
            zsad.load(backbone=golden_clip, checkpoint=path, n_ctx=12, device="cpu").method.config.depth == 9
        )
        with pytest.raises(ConfigError, match="n_ctx=8 contradicts"):
            zsad.load(backbone=golden_clip, checkpoint=path, n_ctx=8, device="cpu")

    def test_a_saved_file_keeps_its_settings(self, make_small_clip, tmp_path):
        path = zsad.load("anomalyclip", make_small_clip(), n_ctx=5, sigma=2.0, features_list=(1, 3)).save(
            tmp_path / "new" / "a.safetensors"
        )
        again = zsad.load(backbone=make_small_clip(), checkpoint=path)
        assert (again.method.config.n_ctx, again.method.config.features_list) == (5, (1, 3))
        assert zsad.load(backbone=make_small_clip(), checkpoint=path, sigma=1).method.config.sigma == 1.0
        with pytest.raises(ConfigError, match="n_ctx=6 contradicts"):
            zsad.load(backbone=make_small_clip(), checkpoint=path, n_ctx=6)

    def test_same_name_other_weights(self, make_small_clip, tmp_path):
        path = zsad.load("winclip", make_small_clip()).save(tmp_path / "a.safetensors")
        with pytest.raises(WeightsError, match="other weights named 'small'"):
            zsad.load(backbone=make_small_clip(seed=1), checkpoint=path)

    def test_saving_from_lower_precision(self, make_small_clip, tmp_path):
        path = zsad.load("winclip", make_small_clip(), precision="bf16").save(tmp_path / "a.safetensors")
        assert zsad.load(backbone=make_small_clip(), checkpoint=path).method.INFO.name == "winclip"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"method": "anomalyclp"}, "did you mean 'anomalyclip'"),
            ({"image_size": 30}, "not a multiple of the patch size 8"),
            ({"image_size": 0}, "image_size"),
            ({"image_size": -8}, "image_size"),
            ({"image_size": 32.0}, "image_size"),
            ({"precision": "fp64"}, "unknown precision"),
            ({"device": "cuda:99"}, "not available here"),
            ({"device": "gpu"}, "not available here"),
            ({"n_ctx": "twelve"}, "n_ctx of anomalyclip must be a whole number"),
            ({"activation": "relu"}, "'quick_gelu' or 'gelu'"),
            ({"features_list": 24}, "a list of whole numbers"),
            ({"position_interpolation": "nearest"}, "position_interpolation"),
            ({"n_ctxx": 3}, "did you mean 'n_ctx'"),
        ],
    )
    def test_impossible_arguments(self, make_small_clip, arguments, message):
        with pytest.raises(ConfigError, match=message):
            zsad.load(**{"method": "anomalyclip", "backbone": make_small_clip(), **arguments})

    @pytest.mark.parametrize(
        "content", [b"", b"<html>not found</html>", b"PK\x03\x04 cut", b"\x80\x04rubbish", b"text"]
    )
    def test_damaged_checkpoints(self, make_small_clip, tmp_path, content):
        path = tmp_path / "weights.pth"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"weights\.pth"):
            zsad.load("anomalyclip", make_small_clip(), path)

    def test_a_missing_checkpoint(self, make_small_clip, tmp_path):
        with pytest.raises(WeightsError, match=r"gone\.pth does not exist"):
            zsad.load("anomalyclip", make_small_clip(), tmp_path / "gone.pth")

    def test_a_pickle_is_never_run(self, make_small_clip, tmp_path):
        torch.save({"prompt_learner": WeightRecord}, tmp_path / "objects.pth")
        with pytest.raises(WeightsError, match="Python objects"):
            zsad.load("anomalyclip", make_small_clip(), tmp_path / "objects.pth")

    @pytest.mark.parametrize("description", ["{", "[]", '{"format": 1}', '{"format": 1, "colour": "red"}'])
    def test_a_damaged_description(self, make_small_clip, tmp_path, description):
        path = tmp_path / "a.safetensors"
        save_file({"a": torch.zeros(1)}, path, {checkpoints.METADATA_KEY: description})
        with pytest.raises(WeightsError, match="damaged zsad description"):
            zsad.load("winclip", make_small_clip(), path)

    def test_a_newer_file(self, make_small_clip, tmp_path):
        path = tmp_path / "a.safetensors"
        description = json.dumps({"format": checkpoints.FORMAT + 1, "version": "9.9"})
        save_file({"a": torch.zeros(1)}, path, {checkpoints.METADATA_KEY: description})
        with pytest.raises(WeightsError, match=r"written by zsad 9\.9, which is newer"):
            zsad.load("winclip", make_small_clip(), path)

    def test_references(self, make_small_clip, uint8_images):
        detector = zsad.load("winclip", make_small_clip(), references=uint8_images[1:])
        assert detector.predict(uint8_images[1]).score == pytest.approx(
            zsad.load("winclip", make_small_clip()).predict(uint8_images[1]).score / 2, abs=1e-4
        )

    def test_a_network_without_record(self, make_small_clip):
        clip = make_small_clip()
        clip.record = None
        with pytest.raises(ConfigError, match="record"):
            zsad.load("winclip", clip)


def test_saving_into_a_file_as_folder(detector, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WeightsError, match="cannot write"):
        detector.save(tmp_path / "file" / "a.safetensors")


def test_a_failed_save_keeps_the_old_file(detector, tmp_path, monkeypatch):
    path = detector.save(tmp_path / "a.safetensors")
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(WeightsError, match="No space left"):
        detector.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
