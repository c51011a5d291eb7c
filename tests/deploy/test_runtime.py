"""A bundle gives what the images give: sizes, tiles, region, thresholds and errors, without torch."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import zsad
from helpers.brightness_bundle import SIDE, brightness_bundle, brightness_graph
from zsad.deploy.bundle import Graphs, file_records, read_bundle, region_record, write_bundle
from zsad.deploy.sessions import granted_cores
from zsad.errors import ConfigError, DataError, ImageReadError, ImageWarning, MissingExtraError
from zsad.images.region import Region
from zsad.images.tiles import WHOLE_SHARE
from zsad.types import ScoreScale

DECISION = {"threshold": 0.5, "map_threshold": 0.6, "score_scale": ScoreScale(0.1, (0.2, 0.3))}


def noise(seed, height=40, width=60):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def bundle(tmp_path):
    return brightness_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("code", ["import zsad.deploy.runtime", "import zsad; zsad.load_exported"])
def test_importing_the_runtime_loads_numpy_and_pillow_alone(code):
    """What is quick to import; benchmarks/first_answer.py measures it."""
    check = (
        f"import sys; before = set(sys.modules)\n{code}\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(name for name in loaded - set(sys.stdlib_module_names) if name[0] != '_'))"
    )
    found = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["PIL", "numpy", "zsad"]


def test_one_image_from_anything_that_holds_it(bundle, tmp_path):
    exported, pixels = zsad.load_exported(bundle), noise(0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    chw = np.moveaxis(pixels, 2, 0).astype(np.float32) / 255
    found = [
        exported.predict(given)
        for given in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels, chw)
    ]
    assert len({each.score for each in found}) == 1
    assert found[0].score == pytest.approx(pixels.mean() / 255, abs=0.01)
    assert found[0].path == tmp_path / "a.png"
    assert found[2].path is None
    assert found[0].anomaly_map.shape == (40, 60)
    assert found[0].anomaly_map.dtype == np.float32
    assert (found[0].image == pixels).all()
    assert (found[0].threshold, found[0].is_anomalous, found[0].tile) == (None, None, None)


def test_a_list_equals_single_images_and_large_batches_are_cut(tmp_path):
    exported = zsad.load_exported(brightness_bundle(tmp_path / "b", most_at_once=2))
    images = [noise(seed, 20 + seed, 30) for seed in range(7)]
    together = exported.predict(images, batch_size=7)
    streamed = list(exported.predict_iter(iter(images), batch_size=3))
    for image, one, other in zip(images, together, streamed, strict=True):
        alone = exported.predict(image)
        assert one.score == other.score == pytest.approx(alone.score, abs=1e-7)
        np.testing.assert_allclose(one.anomaly_map, alone.anomaly_map, atol=1e-7)
    assert exported.predict([]) == []
    assert len(exported.predict(np.stack([noise(0), noise(1)]))) == 2


def test_tiles_are_joined_with_the_whole_and_have_their_own_graph(tmp_path):
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, 64:] = 255
    exported = zsad.load_exported(brightness_bundle(tmp_path / "b", tiles_factor=0.5, tile=64))
    found = exported.predict(image)
    boxes = [0.5 * image[:, :64].mean() / 255, 0.5 * image[:, 32:].mean() / 255]
    expected = (1 - WHOLE_SHARE) * max(boxes) + WHOLE_SHARE * image.mean() / 255
    assert found.tile == 64
    assert found.score == pytest.approx(expected, abs=0.01)
    assert exported.predict(image[:40, :40]).tile is None
    assert exported.predict(image, tile="none").tile is None
    assert exported.predict([image], tile=32)[0].tile == 32
    assert exported.tile == 64
    with pytest.raises(ConfigError, match="give at least tile=2"):
        exported.predict(image, tile=1)


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_only_the_region_is_looked_at(tmp_path, kind):
    region = Region.of_box("10,5,20,10")
    if kind == "mask":
        inside = np.zeros((40, 60), bool)
        inside[5:15, 10:30] = True
        region = Region.of_mask(inside)
    folder = tmp_path / "b"
    folder.mkdir()
    record = region_record(region, folder)
    exported = zsad.load_exported(brightness_bundle(folder, roi=record))
    dark, bright = noise(1), noise(1)
    dark[:5], bright[:5] = 0, 255
    one, other = exported.predict([dark, bright])
    assert one.score == other.score
    assert one.anomaly_map.shape == (40, 60)
    assert not one.anomaly_map[:5].any()
    assert one.roi.sum() == 200


def test_an_image_outside_of_the_region_is_named(tmp_path):
    folder = tmp_path / "b"
    folder.mkdir()
    record = region_record(Region.of_box("50,0,9,9"), folder)
    exported = zsad.load_exported(brightness_bundle(folder, roi=record))
    Image.fromarray(noise(0, 5, 5)).save(tmp_path / "a.png")
    with pytest.raises(ImageReadError, match=r"a\.png: the region 50,0,9,9 lies outside"):
        exported.predict(tmp_path / "a.png")


def test_thresholds_decide_and_can_be_replaced(tmp_path):
    exported = zsad.load_exported(brightness_bundle(tmp_path / "b", **DECISION))
    white, black = exported.predict([np.full((9, 9, 3), 255, np.uint8), np.zeros((9, 9, 3), np.uint8)])
    assert (white.is_anomalous, black.is_anomalous) == (True, False)
    assert white.mask().all()
    assert white.relative_score > 0.9 > 0.1 > black.relative_score
    assert black.p_value == 1.0
    higher = exported.deciding(None, 2.0, None)
    assert higher.predict(white.image).is_anomalous is False
    assert higher.map_threshold == 0.6
    assert higher.predict(white.image).p_value is not None
    exported.threshold = 0.1
    by_hand = exported.predict(white.image)
    assert (by_hand.threshold, by_hand.map_threshold, by_hand.p_value) == (0.1, 0.6, None)
    exported.map_threshold = None
    assert exported.predict(white.image).mask() is None


def test_the_class_name_is_part_of_the_graphs(tmp_path):
    exported = zsad.load_exported(
        brightness_bundle(tmp_path / "b", uses_class_names=True, class_name="screw", **DECISION)
    )
    assert exported.predict(noise(0), classes="screw").class_name == "screw"
    assert exported.predict([noise(0)], classes=["screw"])[0].threshold == 0.5
    with pytest.raises(ConfigError, match=r"images of 'screw', got the class name 'nut': export"):
        exported.predict(noise(0), classes="nut")
    with pytest.raises(ConfigError, match="2 class names for 1 images"):
        exported.predict([noise(0)], classes=["screw", "screw"])
    other = brightness_bundle(
        tmp_path / "c", uses_class_names=True, class_name="screw", decision_class_name="nut", **DECISION
    )
    assert zsad.load_exported(other).predict(noise(0)).threshold is None
    free = zsad.load_exported(brightness_bundle(tmp_path / "d"))
    assert free.predict(noise(0), classes="anything").class_name is None


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"references": 3}, "the references"),
        ({"companions": 9}, "the companions"),
        ({**DECISION, "calibration": {"threshold": 0.5}}, "the thresholds"),
    ],
)
def test_what_the_bundle_rests_on_cannot_be_changed_in_silence(tmp_path, fields, what):
    exported = zsad.load_exported(brightness_bundle(tmp_path / "b", bits=12, tile="auto", **fields))
    with pytest.raises(ConfigError, match=f"{what} in .*b were made with tile=auto, got tile=32: leave"):
        exported.predict(noise(0), tile=32)
    with pytest.raises(ConfigError, match=f"{what} in .*b were made with a depth of 12, got bits=16"):
        exported.predict(noise(0), bits=16)
    assert exported.predict(noise(0), tile="auto", bits=12).score > 0


def test_sixteen_bit_files_are_read_at_the_depth(tmp_path):
    values = np.full((SIDE, SIDE), 4095, np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    exported = zsad.load_exported(brightness_bundle(tmp_path / "b", bits=12))
    assert exported.predict(tmp_path / "a.png").score == pytest.approx(1)
    plain = zsad.load_exported(brightness_bundle(tmp_path / "c"))
    with pytest.warns(ImageWarning, match="give the depth of the camera"):
        assert plain.predict(tmp_path / "a.png").score == pytest.approx(16 / 255, abs=0.01)
    assert plain.predict(tmp_path / "a.png", bits=12).score == pytest.approx(1)


def test_images_that_cannot_be_read_have_their_place(bundle, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    Image.fromarray(noise(0)).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"no image")
    exported = zsad.load_exported(bundle)
    good, bad = exported.predict_iter(folder, on_error="yield")
    assert good.score > 0
    assert isinstance(bad, ImageReadError)
    assert len(list(exported.predict_iter(folder, on_error="skip"))) == 1
    with pytest.raises(ImageReadError, match=r"b\.png"):
        list(exported.predict_iter(folder))
    with pytest.raises(ImageReadError, match=r"inputs\[1\]"):
        exported.predict([noise(0), tmp_path / "missing.png"])
    with pytest.raises(ConfigError, match="for one image use predict"):
        exported.predict_iter(noise(0))


def test_threads_share_one_detector(bundle):
    exported = zsad.load_exported(bundle, threads=1)
    images = [noise(seed) for seed in range(24)]
    expected = [exported.predict(image).score for image in images]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda image: exported.predict(image).score, images)) == expected


def test_it_is_pickled_by_its_files(bundle):
    exported = zsad.load_exported(bundle).deciding(None, 0.25, None)
    other = pickle.loads(pickle.dumps(exported))
    assert other.predict(noise(0)).score == exported.predict(noise(0)).score
    assert other.threshold == 0.25


def test_providers_and_threads_are_checked_by_name(bundle):
    for providers in ("cpu", ["CPUExecutionProvider"], ("cpu",)):
        assert zsad.load_exported(bundle, providers=providers).predict(noise(0)).score > 0
    with pytest.raises(ConfigError, match="unknown provider 'cudda', did you mean 'cuda'"):
        zsad.load_exported(bundle, providers="cudda")
    with pytest.raises(ConfigError, match=r"has no CUDAExecutionProvider here.*pip install onnxruntime-gpu"):
        zsad.load_exported(bundle, providers=["cuda", "cpu"])
    for threads in (0, True, 1.5):
        with pytest.raises(ConfigError, match="threads must be a whole number above 0"):
            zsad.load_exported(bundle, threads=threads)
    with pytest.raises(ConfigError, match="providers is empty"):
        zsad.load_exported(bundle, providers=[])


def test_what_is_no_bundle_is_refused_in_one_line(bundle, tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        zsad.load_exported(tmp_path / "nowhere")
    (bundle / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"model\.onnx is not the file that was exported"):
        zsad.load_exported(bundle)
    whole = brightness_bundle(tmp_path / "whole")
    record = read_bundle(whole)
    (whole / "model.onnx").write_bytes(b"damaged")
    write_bundle(replace(record, files=file_records(whole)), whole)  # the digest is right, the graph is not
    with pytest.raises(DataError, match=r"model\.onnx: ONNX Runtime cannot open this graph"):
        zsad.load_exported(whole)


def test_settings_tell_runs_apart(bundle):
    exported = zsad.load_exported(bundle)
    assert exported.scoring_settings()["runner"] == "onnx"
    assert exported.with_tile(32).scoring_settings()["tile"] == 32
    assert exported.with_tile(32).scoring_settings() != exported.scoring_settings()


@pytest.fixture
def openvino_bundle(tmp_path):
    """The same graph in OpenVINO's format."""
    openvino = pytest.importorskip("openvino")
    folder = tmp_path / "openvino"
    folder.mkdir()
    onnx_file = tmp_path / "model.onnx"
    onnx_file.write_bytes(brightness_graph().SerializeToString())
    openvino.save_model(openvino.Core().read_model(onnx_file), folder / "model.xml", compress_to_fp16=False)
    return brightness_bundle(folder, runner="openvino", graphs=Graphs("model.xml"))


def test_openvino_gives_the_same_also_to_many_threads(openvino_bundle, bundle):
    expected = zsad.load_exported(bundle)
    exported = zsad.load_exported(openvino_bundle, threads=1, providers="cpu")
    images = [noise(seed, 20 + seed, 30) for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(exported.predict, images))
    for one, other in zip(found, expected.predict(images), strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-6)
        np.testing.assert_allclose(one.anomaly_map, other.anomaly_map, atol=1e-6)
    assert exported.scoring_settings()["runner"] == "openvino"


def test_the_first_call_may_come_from_several_threads_at_once(openvino_bundle):
    """OpenVINO by itself may hang then."""
    code = f"""
import threading, numpy as np, zsad
exported = zsad.load_exported({str(openvino_bundle)!r}, threads=1)
start = threading.Barrier(8)
def work():
    start.wait()
    exported.predict(np.zeros((16, 16, 3), np.uint8))
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_openvino_names_its_devices(openvino_bundle):
    with pytest.raises(ConfigError, match=r"OpenVINO has no NPU here, only .*CPU"):
        zsad.load_exported(openvino_bundle, providers=["npu", "cpu"])
    with pytest.raises(ConfigError, match="unknown provider 'cuda'"):
        zsad.load_exported(openvino_bundle, providers="cuda")


@pytest.mark.parametrize(("fields", "package"), [({}, "onnxruntime"), ({"runner": "openvino"}, "openvino")])
def test_a_missing_runner_is_named(tmp_path, monkeypatch, fields, package):
    folder = brightness_bundle(tmp_path / "b", **fields)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=f"needs the package '{package}': pip install {package}"):
        zsad.load_exported(folder)


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", None), ("150000 100000", 2), ("20000 100000", 1), ("", None)]
)
def test_a_container_grants_cores(tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text)
    assert granted_cores(tmp_path / "cpu.max") == cores
    assert granted_cores(tmp_path / "missing") is None


def test_a_gpu_that_does_not_start_is_told(bundle, monkeypatch):
    """ONNX Runtime itself then goes on with the next provider."""
    import onnxruntime

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    start = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, providers: start(path, options, providers[1:])
    )
    with pytest.warns(UserWarning, match=r"could not start CUDAExecutionProvider.*runs on the CPU"):
        assert zsad.load_exported(bundle).predict(noise(0)).score > 0
    with pytest.raises(ConfigError, match=r"could not start CUDAExecutionProvider.*leave providers out"):
        zsad.load_exported(bundle, providers=["cuda", "cpu"])
