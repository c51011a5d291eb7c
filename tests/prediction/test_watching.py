"""A watch in a thread, with a detector whose score is the brightness of the image."""

import contextlib
import csv
import io
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsad.errors import ConfigError
from zsad.files.run_lock import only_writer
from zsad.prediction import PredictOptions, WatchOptions, predict_folder, watch_folders
from zsad.prediction.page import rebuild_page
from zsad.prediction.records import read_results
from zsad.types import Prediction

QUICK = WatchOptions(interval=0.02, patience=0.4, page_interval=0.05)


@dataclass
class Brightness:
    """Scores images by their mean brightness, and counts them."""

    scores_jointly: bool = False
    threshold: float | None = 0.5
    calls: list[float] = field(default_factory=list)
    image_size, bits, tile, roi, calibration, map_threshold = 8, None, None, None, None, None
    method_name, backbone_name, map_range = "brightness", "none", (0.0, 1.0)

    def scoring_settings(self):
        # as a fitted detector says that its companions do not count
        return {"method": self.method_name, "backbone": self.backbone_name, "companions": "none"}

    def at_depth(self, bits):
        return self

    def with_tile(self, tile):
        return self

    def deciding(self, class_name, threshold, map_threshold):
        return self

    def predict(self, inputs, classes=None):
        found = []
        for image in inputs:
            pixels = np.asarray(image)
            score = float(pixels.mean() / 255)
            self.calls.append(round(score, 2))
            flat = np.full(pixels.shape[:2], score, np.float32)
            found.append(Prediction(score, flat, pixels, threshold=self.threshold))
        return found


def image_bytes(brightness, size=16):
    file = io.BytesIO()
    Image.new("RGB", (size, size), (brightness,) * 3).save(file, format="PNG")
    return file.getvalue()


@dataclass
class Watch:
    """A watch of `folder`/in into `folder`/out."""

    folder: Path
    detector: Brightness = field(default_factory=Brightness)
    reported: list = field(default_factory=list)
    result: object = None

    @property
    def out(self):
        return self.folder / "out"

    @contextlib.contextmanager
    def running(self, options=QUICK, **changes):
        stop, failures = threading.Event(), []

        def work():
            try:
                self.result = watch_folders(
                    self.folder / "in",
                    self.detector,
                    PredictOptions(out=self.out, **changes),
                    options,
                    stop=stop,
                    report=self.reported.append,
                )
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join(20)
        assert not failures, failures
        assert not thread.is_alive()

    def put(self, name, content):
        target = self.folder / "in" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return target

    def wait_for(self, count):
        until = time.monotonic() + 20
        while len(self.reported) < count and time.monotonic() < until:
            time.sleep(0.01)
        assert len(self.reported) == count, self.reported

    def scores(self):
        return {
            Path(record.path).name: record.score and round(record.score, 2)
            for record in read_results(self.out / "results.jsonl")
        }


@pytest.fixture
def watch(tmp_path):
    (tmp_path / "in").mkdir()
    return Watch(tmp_path)


def test_scores_what_lies_there_and_what_arrives(watch):
    watch.put("a.png", image_bytes(51))
    with watch.running():
        watch.wait_for(1)
        watch.put("sub/b.png", image_bytes(204))
        watch.wait_for(2)
    assert watch.scores() == {"a.png": 0.2, "b.png": 0.8}
    assert [record.is_anomalous for record in watch.result.records] == [False, True]
    assert watch.result.failed == ()
    assert (watch.out / "overlays" / "sub" / "b_overlay.jpg").exists()
    assert "1 of 2 images is anomalous" in watch.result.page.read_text()
    with (watch.out / "results.csv").open(encoding="utf-8-sig") as file:
        assert len(list(csv.DictReader(file))) == 2


def test_a_file_that_grows_slowly_is_waited_for(watch):
    content = image_bytes(51, size=200)
    with watch.running():
        file = (watch.folder / "in" / "a.png").open("wb")
        for start in range(0, len(content), len(content) // 6 + 1):
            file.write(content[start : start + len(content) // 6 + 1])
            file.flush()
            time.sleep(0.06)  # long enough to be taken for complete in between
        file.close()
        watch.wait_for(1)
    assert watch.detector.calls == [0.2]
    assert watch.scores() == {"a.png": 0.2}


def test_a_bad_file_is_an_error_after_a_while_and_stops_nobody(watch):
    with watch.running():
        watch.put("bad.png", b"no image")
        watch.put("good.png", image_bytes(51))
        watch.wait_for(2)
        assert [Path(record.path).name for record in watch.reported] == ["good.png", "bad.png"]
        watch.put("bad.png", image_bytes(204))  # mended
        watch.wait_for(3)
    assert watch.scores() == {"good.png": 0.2, "bad.png": 0.8}
    assert watch.result.failed == ()


def test_a_bad_file_that_is_taken_away_leaves_nothing(watch):
    with watch.running():
        file = watch.put("bad.png", b"no image")
        time.sleep(0.15)
        file.unlink()
        watch.put("good.png", image_bytes(51))
        watch.wait_for(1)
        time.sleep(0.5)
    assert watch.scores() == {"good.png": 0.2}


def test_what_is_unreadable_at_the_end_is_told(watch):
    with watch.running(WatchOptions(interval=0.02, patience=60)):
        watch.put("bad.png", b"no image")
        watch.put("good.png", image_bytes(51))
        watch.wait_for(1)
        time.sleep(0.2)
    assert [Path(record.path).name for record in watch.result.failed] == ["bad.png"]


def test_a_later_watch_scores_nothing_twice(watch):
    watch.put("a.png", image_bytes(51))
    watch.put("b.png", image_bytes(102))
    with watch.running():
        watch.wait_for(2)
    watch.put("b.png", image_bytes(204))  # changed while nobody watched
    with watch.running():
        watch.wait_for(3)
        watch.put("c.png", image_bytes(153))
        watch.wait_for(4)
        time.sleep(0.1)
    assert watch.detector.calls == [0.2, 0.4, 0.8, 0.6]
    assert watch.result.resumed == 1
    assert watch.scores() == {"a.png": 0.2, "b.png": 0.8, "c.png": 0.6}


def test_a_run_of_such_a_detector_can_be_resumed(watch):
    watch.put("a.png", image_bytes(51))
    for is_resumed in (False, True):
        options = PredictOptions(out=watch.out, resume=is_resumed)
        result = predict_folder(watch.folder / "in", watch.detector, options)
    assert result.resumed == 1
    assert watch.detector.calls == [0.2]


def test_an_overwritten_image_replaces_its_result(watch):
    with watch.running():
        watch.put("a.png", image_bytes(51))
        watch.wait_for(1)
        watch.put("a.png", image_bytes(204))
        watch.wait_for(2)
    assert watch.scores() == {"a.png": 0.8}
    assert len(watch.result.records) == 1


def test_the_page_is_refreshed_meanwhile(watch):
    with watch.running():
        for number in range(100):
            watch.put(f"{number}.png", image_bytes(51))
            watch.wait_for(number + 1)
            if (watch.out / "index.html").exists():
                break
            time.sleep(0.02)
        assert '"cards"' in (watch.out / "index.html").read_text()
        assert (watch.out / "results.csv").exists()


def test_names_stay_when_a_namesake_arrives(watch):
    with watch.running():
        watch.put("a.png", image_bytes(51))
        watch.wait_for(1)
        watch.put("a.bmp", image_bytes(204))
        watch.wait_for(2)
    assert sorted(file.name for file in (watch.out / "overlays").iterdir()) == [
        "a_bmp_overlay.jpg",
        "a_overlay.jpg",
    ]
    with watch.running():
        time.sleep(0.2)
    assert len(watch.detector.calls) == 2
    assert "a_bmp" in rebuild_page(watch.out).read_text()


def test_other_settings_are_refused(watch):
    watch.put("a.png", image_bytes(51))
    with watch.running():
        watch.wait_for(1)
    with pytest.raises(ConfigError, match="formats"):
        watch_folders(watch.folder / "in", watch.detector, PredictOptions(out=watch.out, formats=["npy"]))


def test_other_folders_are_refused(watch):
    watch.put("a.png", image_bytes(51))
    with watch.running():
        watch.wait_for(1)
    with pytest.raises(ConfigError, match="give another --out"):
        watch_folders(watch.folder, watch.detector, PredictOptions(out=watch.out))


def test_two_watches_do_not_write_to_one_place(watch):
    with only_writer(watch.out), pytest.raises(ConfigError, match=r"\bprocess\b"):
        watch_folders(watch.folder / "in", watch.detector, PredictOptions(out=watch.out))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"explain": ["cracked"]}, "--explain"),
        ({"bits": "auto"}, "--bits auto"),
        ({"pages": "all"}, "--pages all"),
        ({"devices": 2}, "--devices"),
    ],
)
def test_options_that_need_all_images_are_refused(watch, changes, words):
    with pytest.raises(ConfigError, match=words):
        watch_folders(watch.folder / "in", watch.detector, PredictOptions(out=watch.out, **changes))


@pytest.mark.parametrize(("given", "words"), [("in/a.png", "no folder"), ("s3://b/shots", "bucket")])
def test_only_folders_are_watched(watch, given, words, monkeypatch):
    watch.put("a.png", image_bytes(51))
    monkeypatch.chdir(watch.folder)
    with pytest.raises(ConfigError, match=words):
        watch_folders(given, watch.detector, PredictOptions(out=watch.out))


def test_a_detector_that_compares_the_images_of_a_folder_is_refused(watch):
    with pytest.raises(ConfigError, match="zsad fit"):
        watch_folders(watch.folder / "in", Brightness(True), PredictOptions(out=watch.out))


def test_an_exported_detector_watches(watch):
    pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    pytest.importorskip("onnx", reason="pip install onnx")
    from helpers.brightness_bundle import brightness_bundle
    from zsad import load_exported

    watch.detector = load_exported(brightness_bundle(watch.folder / "bundle"))
    watch.put("a.png", image_bytes(51))
    for count in (1, 2):
        with watch.running():
            watch.wait_for(count)
            watch.put("b.png", image_bytes(204))
            watch.wait_for(2)
    assert watch.scores() == {"a.png": 0.2, "b.png": 0.8}


def test_intervals_are_numbers_of_seconds():
    with pytest.raises(ConfigError, match="interval"):
        WatchOptions(interval=-1)
