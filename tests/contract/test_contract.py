"""What every registered method must do; a new method is covered before its author writes a test."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import zsad
from zsad.errors import ConfigError, WeightsError, ZsadError
from zsad.methods import _registry as registry
from zsad.methods.base import MethodConfig

METHODS = zsad.list_methods()
CLASSES = ["metal nut", "carpet", "metal nut"]


def kind(name):
    return registry.method_class(name)


def names_if_used(name):
    return CLASSES if kind(name).INFO.uses_class_names else None


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def make(make_small_clip):
    """Makes a detector with the same small random backbone and the same fresh parameters each time."""

    def build(name, **settings):
        torch.manual_seed(3)
        return zsad.load(name, make_small_clip(**settings), "fresh", device="cpu")

    return build


@pytest.mark.parametrize("name", METHODS)
def test_info_and_config_are_complete(name):
    info = kind(name).INFO
    assert info.name == name
    assert info.paper.startswith("https://")
    fields = {field.name: field for field in dataclasses.fields(kind(name).Config)}
    assert issubclass(kind(name).Config, MethodConfig)
    assert fields.keys() >= kind(name).SHAPE_FIELDS
    assert kind(name).Config.__dataclass_params__.frozen
    assert kind(name).Config.__doc__


@pytest.mark.parametrize("name", METHODS)
def test_shapes_and_ranges(name, make, images):
    detector = make(name)
    raw = detector.score_tensors(images, names_if_used(name))
    assert raw.scores.shape == (3,)
    assert raw.maps.shape == (3, 32, 32)
    assert raw.scores.dtype == raw.maps.dtype == torch.float32
    assert torch.isfinite(raw.maps).all()
    assert ((raw.scores >= 0) & (raw.scores <= 1)).all()
    lowest, highest = detector.method.map_range
    assert ((raw.maps >= lowest - 1e-5) & (raw.maps <= highest + 1e-5)).all()


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_equals_its_images(name, make, images):
    detector, names = make(name), names_if_used(name)
    if detector.scores_jointly:
        pytest.skip("scores a whole batch together by design")
    together = detector.score_tensors(images, names)
    for index in range(len(images)):
        alone = detector.score_tensors(images[index : index + 1], names and [names[index]])
        torch.testing.assert_close(together.scores[index], alone.scores[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.maps[index], alone.maps[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_image_alone_is_scored_or_refused_in_words(name, make, images):
    """Methods that compare images with each other may need more than one."""
    detector = make(name)
    try:
        raw = detector.score_tensors(images[:1], "screw" if names_if_used(name) else None)
    except ConfigError as error:
        assert kind(name).INFO.scores_batch_jointly
        assert "at least 2" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert torch.isfinite(raw.scores).all()
        assert torch.isfinite(raw.maps).all()


@pytest.mark.parametrize("name", METHODS)
def test_an_image_of_one_grey_level_has_a_finite_map(name, make):
    """Patches that are all alike have no spread to divide by."""
    detector = make(name)
    detector.is_trained = True  # random parameters will do here
    levels = [np.full((40, 40, 3), level, dtype=np.uint8) for level in (0, 128, 255, 128)]
    for found in detector.predict(levels, "screw" if names_if_used(name) else None):
        assert np.isfinite(found.anomaly_map).all()
        assert 0 <= found.score <= 1


@pytest.mark.parametrize("name", METHODS)
def test_deterministic(name, make, images):
    first, second = (make(name).score_tensors(images, names_if_used(name)) for _ in range(2))
    assert torch.equal(first.scores, second.scores)
    assert torch.equal(first.maps, second.maps)


@pytest.mark.parametrize("name", METHODS)
def test_save_and_load(name, make, images, make_small_clip, tmp_path):
    detector = make(name)
    detector.threshold, detector.map_threshold, detector.auxiliary_data = 0.25, 0.75, "a test"
    path = detector.save(tmp_path / "saved.safetensors")
    again = zsad.load(checkpoint=path, backbone=make_small_clip(), device="cpu")
    assert again.method.INFO.name == name
    assert again.method.config == detector.method.config
    assert (again.threshold, again.map_threshold, again.auxiliary_data) == (0.25, 0.75, "a test")
    assert again.image_size == detector.image_size
    expected = detector.score_tensors(images, names_if_used(name))
    found = again.score_tensors(images, names_if_used(name))
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.maps, expected.maps)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.usefixtures("no_network")
def test_needs_no_network(name, make, uint8_images, tmp_path, make_small_clip):
    path = make(name).save(tmp_path / "saved.safetensors")
    again = zsad.load(checkpoint=path, backbone=make_small_clip(), device="cpu")
    assert len(again.predict(uint8_images)) == 3


@pytest.mark.parametrize("name", METHODS)
def test_refuses_a_checkpoint_of_another_backbone(name, make, make_small_clip, tmp_path):
    path = make(name).save(tmp_path / "saved.safetensors")
    with pytest.raises(WeightsError, match="trained on backbone 'small', not on 'other'"):
        zsad.load(checkpoint=path, backbone=make_small_clip(seed=7, name="other"), device="cpu")


@pytest.mark.parametrize("name", METHODS)
def test_refuses_a_checkpoint_of_another_method(name, make, make_small_clip, tmp_path):
    other = next(method for method in METHODS if method != name)
    path = make(other).save(tmp_path / "saved.safetensors")
    with pytest.raises(WeightsError, match=f"holds weights of {other}, not of {name}"):
        zsad.load(name, make_small_clip(), path, device="cpu")


@pytest.mark.parametrize("name", METHODS)
def test_refuses_a_file_of_something_else(name, make_small_clip, tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"other\.pth|not a file of|publish no weights"):
        zsad.load(name, make_small_clip(), path, device="cpu")


@pytest.mark.parametrize("name", [name for name in METHODS if kind(name).INFO.needs_training])
def test_an_authors_file_on_another_backbone_says_which_one_it_needs(name, make_small_clip, golden_path):
    path = golden_path / f"{kind(name).WEIGHTS_OF or name}_official.pth"
    if not path.is_file():
        pytest.skip(f"no authors' file of {name} is recorded")
    with pytest.raises(ZsadError, match=r"_official\.pth on backbone 'small'.*--backbone ViT-L-14-336"):
        zsad.load(name, make_small_clip(), path, device="cpu")


@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_exactly_what_is_trainable(name, make, images):
    method = make(name).method
    masks = torch.zeros(3, 32, 32)
    masks[1, 4:12, 4:12] = 1
    labels = torch.tensor([0, 1, 1])
    if not kind(name).INFO.needs_training:
        assert dict(method.trainable()) == {}
        with pytest.raises(ConfigError, match="nothing to train"):
            method.loss(images, masks, labels)
        return
    terms = method.loss(images, masks, labels, names_if_used(name))
    assert all(term.ndim == 0 for term in terms.values())
    sum(terms.values()).backward()
    trainable = dict(method.trainable())
    assert trainable
    reached = {id(p) for p in method.parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == {id(parameter) for parameter in trainable.values()}
    cached = method.loss_from_features(method.features(images), masks, labels, names_if_used(name))
    for term, value in terms.items():
        torch.testing.assert_close(cached[term], value)


def difference(found, expected):
    """Norm of the difference, in units of the spread between images; about 1 or more for unrelated values."""
    found, expected = (values - values.mean(dim=0) for values in (found, expected))
    return float((found - expected).norm() / expected.norm())


def rank_correlation(found, expected):
    """Spearman's correlation of two lists of different values."""
    ranks = [values.argsort().argsort().double() for values in (found, expected)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


@pytest.mark.parametrize("name", METHODS)
def test_lower_precision_stays_close(name, make, make_small_clip, tmp_path):
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    exact = make(name)
    path = exact.save(tmp_path / "saved.safetensors")
    rounded = zsad.load(checkpoint=path, backbone=make_small_clip(), device="cpu", precision="bf16")
    unrelated = make(name, seed=9)
    found, other, expected = (each.score_tensors(images) for each in (rounded, unrelated, exact))
    assert found.scores.dtype == torch.float32
    assert rank_correlation(found.scores, expected.scores) >= 0.9
    assert difference(found.scores, expected.scores) < 0.2
    assert difference(found.maps, expected.maps) < 0.1
    # These limits are of use only if they tell two networks apart.
    assert difference(other.scores, expected.scores) > 0.5
    assert difference(other.maps, expected.maps) > 0.5


@pytest.mark.parametrize("name", METHODS)
def test_other_methods_on_the_same_network_change_nothing(name, make_small_clip):
    """Activation and position interpolation once were set on the network that all of them shared."""
    clip = make_small_clip()
    larger = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))  # positions are resized
    torch.manual_seed(3)
    first, names = zsad.load(name, clip, "fresh", device="cpu"), names_if_used(name)
    before = first.score_tensors(larger, names)
    for other in METHODS:
        for activation in ("gelu", "quick_gelu"):
            zsad.load(other, clip, "fresh", device="cpu", activation=activation)
    zsad.load(name, clip, "fresh", device="cpu", precision="bf16", position_interpolation="bicubic")
    after = first.score_tensors(larger, names)
    assert torch.equal(after.scores, before.scores)
    assert torch.equal(after.maps, before.maps)


@pytest.mark.parametrize("name", METHODS)
def test_both_encoders_run_as_the_method_says(name, make_small_clip, images):
    """A method that keeps the given network beside its view encodes its prompts with another activation."""
    found = []
    for clip in (make_small_clip(), make_small_clip().view("quick_gelu")):
        torch.manual_seed(3)
        detector = zsad.load(name, clip, "fresh", device="cpu", activation="quick_gelu")
        found.append(detector.score_tensors(images, names_if_used(name)))
    assert torch.equal(found[0].scores, found[1].scores)
    assert torch.equal(found[0].maps, found[1].maps)


@pytest.mark.parametrize("name", METHODS)
def test_the_network_of_the_user_stays_as_it_is(name, make_small_clip):
    clip = make_small_clip()
    clip.requires_grad_(True).train()
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    before = clip.encode_image(images)
    zsad.load(name, clip, "fresh", device="cpu", precision="bf16", activation="quick_gelu")
    assert torch.equal(clip.encode_image(images), before)
    assert all(parameter.requires_grad for parameter in clip.parameters())
    assert all(module.training for module in clip.modules())


@pytest.mark.parametrize("name", METHODS)
def test_bounds_of_settings_are_the_same_everywhere(name, make_small_clip):
    fields = {each.name for each in dataclasses.fields(kind(name).Config)}
    for field, value in (("temperature", 0.0), ("sigma", -1.0), ("lam", -1.0)):
        if field not in fields:
            continue
        with pytest.raises(ConfigError, match=f"{field} of {name} must be a number (above|at least) 0"):
            zsad.load(name, make_small_clip(), "fresh", device="cpu", **{field: value})
        with pytest.raises(ConfigError, match=f"{field} must be (above|at least) 0"):
            kind(name).Config(**{field: value})


@pytest.mark.parametrize("name", METHODS)
def test_unknown_settings_are_refused_by_name(name, make_small_clip):
    with pytest.raises(
        ConfigError, match=f"unknown setting of {name} 'activatoin', did you mean 'activation'"
    ):
        zsad.load(name, make_small_clip(), activatoin="gelu")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_references(name, make, uint8_images):
    detector = make(name)
    detector.is_trained = True  # random parameters will do here
    together = [uint8_images[0], uint8_images[2]]  # some methods need two
    plain = detector.predict(together)[0].anomaly_map
    detector.set_references(uint8_images[1:])
    compared = detector.predict(together)[0]
    assert not (compared.anomaly_map == plain).all()
    assert 0 <= compared.score <= 1
    assert compared.map_range[0] - 1e-5 <= compared.anomaly_map.min()
    assert compared.anomaly_map.max() <= compared.map_range[1] + 1e-5
    detector.set_references(None)
    assert (detector.predict(together)[0].anomaly_map == plain).all()


GENERAL = [name for name in METHODS if kind(name).INFO.references == "general"]


@pytest.mark.parametrize("name", GENERAL)
def test_a_reference_of_itself_lowers_the_score(name, make, images):
    """A patch that is known to be normal is trusted, whatever the method says of it."""
    detector, names = make(name), names_if_used(name)
    answers = []
    for references in (images[1:], images):
        detector.compared = detector.compared.with_support(normal=references)
        answers.append(detector.score_tensors(images, names))
        assert detector.map_range == (0.0, 1.0)
        assert ((answers[-1].scores > 0) & (answers[-1].scores < 1)).all()
        assert ((answers[-1].maps >= 0) & (answers[-1].maps <= 1)).all()
    assert answers[1].scores[0] < answers[0].scores[0]
    assert answers[1].maps[0].mean() < answers[0].maps[0].mean()


@pytest.mark.parametrize("name", [name for name in GENERAL if not kind(name).INFO.scores_batch_jointly])
def test_a_batch_with_references_equals_its_images(name, make, images):
    detector, names = make(name), names_if_used(name)
    detector.compared = detector.compared.with_support(normal=images.flip(0) + 0.1)
    together = detector.score_tensors(images, names)
    for index in range(len(images)):
        alone = detector.score_tensors(images[index : index + 1], names and [names[index]])
        torch.testing.assert_close(together.scores[index], alone.scores[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.maps[index], alone.maps[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_references_and_companions_stand_side_by_side(name, make, uint8_images):
    detector = make(name)
    detector.set_references(uint8_images[:2])
    before = detector.reference_fingerprints
    if kind(name).MOST_COMPANIONS:
        detector.set_companions(uint8_images)
        detector.set_companions(None)
    assert detector.reference_fingerprints == before
    assert len(detector.compared.support.normal) == len(before) == 2
    detector.set_references(None)
    assert detector.reference_fingerprints == ()
    assert not detector.compared.support
