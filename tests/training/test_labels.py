"""Training on image labels where masks are missing: what is learnt from, what is said, and who refuses."""

import numpy as np
import pytest
import torch
from PIL import Image

import zsad
from helpers.training_examples import assert_same, learned, log_rows, quietly, stained_pictures
from zsad.data.samples import resize_mask
from zsad.errors import ConfigError, DataError
from zsad.images.preparing import prepare
from zsad.images.reading import read_image
from zsad.training.labels import MaskCount, partial_loss
from zsad.training.loop import train
from zsad.training.options import TrainOptions

SETTINGS = {"features_list": [1, 2, 3], "dpam_layer": 2, "depth": 2, "n_ctx": 4, "t_n_ctx": 2}
PIXEL_TERMS = ("focal", "dice_abnormal", "dice_normal")


@pytest.fixture
def options(make_small_clip, tmp_path):
    def make(**changes):
        usual = {
            "out": tmp_path / "p.safetensors",
            "backbone": make_small_clip(),
            "epochs": 2,
            "batch_size": 4,
        }
        return TrainOptions(**{**usual, "settings": SETTINGS, "device": "cpu", **changes})

    return make


def folder_of(root, unmasked):
    """The images in MVTec layout or, without any mask, as two class folders."""
    for index, (image, mask, label, _) in enumerate(stained_pictures()):
        kind = "stain" if label else "good"
        for part, pixels in (("test", image), ("ground_truth", mask * np.uint8(255))):
            if part == "test" or (label and index not in unmasked):
                (root / part / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / part / kind / f"{index}.png")
    return root


def without_masks(*unmasked):
    items = stained_pictures()
    return [(i, None if number in unmasked else m, label, c) for number, (i, m, label, c) in enumerate(items)]


def test_labels_alone_train_the_image_terms(options, tmp_path, capsys):
    data = folder_of(tmp_path / "nut", unmasked=(1, 3, 5))
    settings = options(data=(data,), epochs=20)
    result = train(settings, show_progress=True)
    assert "image labels only: no anomalous image has a mask" in " ".join(capsys.readouterr().err.split())
    assert "image labels only" in result.description
    rows = log_rows(result.log)
    assert all(float(row[name]) == 0 for row in rows for name in PIXEL_TERMS)
    assert all(float(row["loss"]) == float(row["image"]) > 0 for row in rows)
    assert result.losses[-1] < result.losses[0]
    detector = zsad.load(checkpoint=result.path, backbone=settings.backbone, device="cpu")
    assert detector.auxiliary_data.endswith("image labels only: no anomalous image has a mask")


def test_pixel_terms_are_those_of_the_images_with_masks(options, make_small_clip):
    """The first step's loss, against the method's own on all images and on those with masks."""
    result = quietly(options(epochs=1, batch_size=6), without_masks(1))
    row = log_rows(result.log)[0]
    torch.manual_seed(111)
    detector = zsad.load("anomalyclip", make_small_clip(), "fresh", device="cpu", **SETTINGS)
    items = stained_pictures()
    images = torch.stack(
        [torch.from_numpy(prepare(read_image(image), detector.preparation)) for image, *_ in items]
    )
    masks = torch.stack([torch.from_numpy(resize_mask(mask, 32)) for _, mask, *_ in items])
    labels = torch.tensor([label for *_, label, _ in items])
    some = [0, 2, 3, 4, 5]
    whole = detector.method.loss(images, masks, labels, ["metal nut"] * 6)
    part = detector.method.loss(images[some], masks[some], labels[some], ["metal nut"] * 5)
    assert float(row["image"]) == pytest.approx(float(whole["image"]), rel=1e-5)
    for name in PIXEL_TERMS:
        assert float(row[name]) == pytest.approx(float(part[name]), rel=1e-5)
    assert "1 of 3 anomalous images without mask" in result.description


@pytest.mark.parametrize("unmasked", [(1,), (1, 3, 5)])
def test_the_cache_and_resuming_agree(options, tmp_path, unmasked):
    items = without_masks(*unmasked)
    plain = options()
    quietly(plain, items)
    cached = options(out=tmp_path / "c.safetensors", cache=tmp_path / "cache", epochs=1)
    quietly(cached, items)
    resumed = options(out=tmp_path / "c.safetensors", cache=tmp_path / "cache", resume=True)
    assert quietly(resumed, items).resumed_from == 1
    for name, value in learned(plain).items():
        torch.testing.assert_close(learned(resumed)[name], value, rtol=0, atol=2e-3)
    with pytest.raises(ConfigError, match="images_without_mask was"):
        quietly(
            options(out=tmp_path / "c.safetensors", cache=tmp_path / "cache", resume=True), stained_pictures()
        )


def test_complete_masks_train_as_ever(options, tmp_path):
    listed, generator = options(), options(out=tmp_path / "g.safetensors")
    quietly(listed, stained_pictures())

    class Items(list):
        pass

    class Dataset:
        items = stained_pictures()

        def __len__(self):
            return len(self.items)

        def __getitem__(self, index):
            return self.items[index]

    quietly(generator, Dataset())
    assert_same(learned(listed), learned(generator))
    assert "mask" not in zsad.load(checkpoint=listed.out, backbone=listed.backbone).auxiliary_data


@pytest.mark.parametrize("method", ["april_gan"])
def test_methods_that_learn_from_masks_only_refuse_by_name(options, method):
    settings = {"features_list": [1, 2, 3]}
    for unmasked in ((1,), (1, 3, 5)):
        with pytest.raises(
            DataError, match=rf"anomalous images have no mask, and {method} learns from masks only"
        ):
            quietly(options(method=method, settings=settings), without_masks(*unmasked))


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("glocalclip", SETTINGS),
        ("adaclip", {"features_list": [1, 2, 3], "prompting_depth": 2, "k_clusters": 4}),
    ],
)
def test_other_methods_with_image_terms(options, method, settings):
    result = quietly(options(method=method, settings=settings, epochs=1), without_masks(1, 3, 5))
    assert all(float(row[name]) == 0 for row in log_rows(result.log) for name in PIXEL_TERMS)
    assert float(log_rows(result.log)[0]["image"]) > 0


def test_several_devices_and_datasets_that_are_read_late(options):
    with pytest.raises(ConfigError, match="several devices cannot share them: use --devices 1"):
        quietly(options(devices=2), without_masks(1))
    with pytest.raises(DataError, match="has no mask, which training needs"):
        quietly(options(), iter(without_masks(1)) and (item for item in without_masks(1)))


def test_a_step_without_any_mask_keeps_the_names_of_the_terms():
    def loss(samples):
        return {"image": torch.tensor(float(len(samples))), "focal": torch.tensor(7.0)}

    class Unmasked:
        mask = None

    class Masked:
        mask = 1

    found = partial_loss([Unmasked(), Unmasked()], loss, MaskCount(3, 1), frozenset({"image"}))
    assert found == {"image": 2, "focal": 0}
    found = partial_loss([Unmasked(), Masked()], loss, MaskCount(3, 1), frozenset({"image"}))
    assert found == {"image": 2, "focal": 7}
    found = partial_loss([Masked()], loss, MaskCount(3, 0), frozenset({"image"}))
    assert found == {"image": 1, "focal": 0}
