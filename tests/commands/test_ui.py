"""`gossamer ui`: what the page does, and the page in headless Chromium."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gossamer.cli import main
from gossamer.commands.ui_work import FINISHED, METHODS, Work
from gossamer.documents import parse_yaml
from gossamer.errors import UserError
from gossamer.runs import first

from .. import chromium, squares

PREPARED = {
    "image_processor_type": "ViTImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True,
    "size": {"height": squares.SIZE, "width": squares.SIZE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
}  # fmt: skip


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    for name in ("home", "uploads"):
        (tmp_path / name).mkdir()
    made = Work(tmp_path / "home", tmp_path / "uploads")
    yield made
    made.close()


def uploaded(work: Work, name: str, shade: int = 0) -> str:
    """An image as the server would keep it."""
    place = work.uploads / str(len(list(work.uploads.iterdir())))
    place.mkdir()
    Image.new("RGB", (9, 7), (shade, 0, 0)).save(place / name)
    return str(place / name)


def test_help_and_a_machine_without_gradio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys, gossamer; from gossamer.cli import main; main(['ui', '--help']); assert 'gradio' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    monkeypatch.setitem(sys.modules, "gossamer.commands.ui_page", None)
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "gossamer.commands.ui_page")
    assert main(["ui", "--port", "0"]) == 2
    assert capsys.readouterr().err == "gossamer ui: gradio is not installed: pip install 'gossamer[ui]'\n"


def test_a_folder_that_a_browser_sends_is_laid_out_as_it_was(work: Work) -> None:
    names = [f"trip/{name}/{i}.png" for name in ("cat", "dog") for i in range(3)] + ["trip/cat/.DS_Store"]
    folder = work.receive([(uploaded(work, "x.png", i), name) for i, name in enumerate(names)])
    assert folder == work.home / "photographs/trip"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png")) == [n[5:] for n in names[:-1]]
    told, sheet, run = work.look(str(folder))
    assert told[0] == "train: 6 images of 2 classes"
    assert sheet is not None
    assert sheet.is_file()
    assert (run.data.name, run.training.epochs) == (str(folder), first.epochs(5))
    again = work.receive([(uploaded(work, "y.png"), "trip/cow/1.png")])
    assert [path.name for path in again.iterdir()] == ["cow"]  # the older folder of that name is gone
    for name in ("trip/../../evil.png", "../evil.png", "/trip/evil.png"):
        with pytest.raises(UserError, match=r"leads out of|is no name for a folder"):
            work.receive([(uploaded(work, "z.png"), name)])
    with pytest.raises(UserError, match=r"passwd is no file that was given to this page"):
        work.receive([("/etc/passwd", "trip/cat/1.png")])
    with pytest.raises(UserError, match="the folder is empty"):
        work.receive([])


def test_a_zip_file_and_classes_one_by_one(work: Work) -> None:
    path = work.uploads / "photos.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name in ("photos/cat/1.png", "photos/dog/1.png", "__MACOSX/photos/cat/._1.png"):
            packed.write(uploaded(work, "x.png"), name)
    folder = work.unpack(str(path))
    assert folder == work.home / "photographs/photos/photos"
    assert work.look(str(folder))[0][0] == "train: 2 images of 2 classes"
    with zipfile.ZipFile(path, "w") as packed:
        packed.write(uploaded(work, "x.png"), "../../evil.png")
    with pytest.raises(UserError, match="leads out of"):
        work.unpack(str(path))
    path.write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"photos\.zip cannot be unpacked as a zip file"):
        work.unpack(str(path))

    work.add("mine", " red ", [uploaded(work, "a.png"), uploaded(work, "a.png")])
    with pytest.raises(UserError, match=r"holds 1 class folder\(s\) \(red\)"):
        work.look(str(work.home / "photographs/mine"))
    mine = work.add("mine", "blue", [uploaded(work, "a.png")])
    assert sorted(str(p.relative_to(mine)) for p in mine.rglob("*.png")) == ["blue/a.png", "red/a-1.png", "red/a.png"]
    with pytest.raises(UserError, match="'a/b' is no class for a folder"):
        work.add("mine", "a/b", [uploaded(work, "a.png")])
    with pytest.raises(UserError, match="no image was given for the class 'green'"):
        work.add("mine", "green", [])


def test_what_cannot_be_done_yet_is_a_sentence(work: Work) -> None:
    assert (work.state(), work.said(), work.history()) == ("", [], [])
    for act, words in (
        (lambda: work.look(" "), "no folder is named"),
        (lambda: work.begin("dinov2-small", "[]", 1, 16), "nothing to train on yet"),
        (work.packed, "no trained adapter yet"),
        (work.exported, "no trained adapter yet"),
        (lambda: work.predict([]), "no image was given"),
    ):
        with pytest.raises(UserError, match=words):
            act()
    work.stop()


def test_what_the_page_offers_first_is_what_a_first_run_does() -> None:
    run = parse_yaml(first.text("photographs", 50, 2, validated=False), "a first run")
    assert parse_yaml(next(iter(METHODS.values())), "the page") == run["methods"]


@pytest.mark.slow
def test_curves_are_those_of_the_history() -> None:
    page = pytest.importorskip("gossamer.commands.ui_page")
    history = [
        {"epoch": 0, "val_loss": 2.0, "val_accuracy": 0.5},
        {"epoch": 1, "loss": 1.0, "val_loss": 3.0, "val_accuracy": 0.25},
    ]
    assert page._losses(history) == [(1, 1.0, "training"), (0, 2.0, "validation"), (1, 3.0, "validation")]
    assert page._scores(history) == [
        *((0, 50, "validation"), (1, 25, "validation")),
        *((0, 50, "the start"), (1, 50, "the start")),
    ]


@pytest.mark.slow
def test_a_class_that_is_not_seen_is_said(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    page = pytest.importorskip("gossamer.commands.ui_page")
    found = {"val": {"n": 21, "accuracy": 0.95, "balanced_accuracy": 0.5}, "start": {"val_accuracy": 0.9}}
    monkeypatch.setattr(work, "metrics", lambda: found)
    assert page.sentence(work, FINISHED, []) == (
        "Finished: 95.0% of 21 validation images are right; at the start, with the linear probe alone, 90.0%; **but some classes "
        "are hardly seen:** the mean over classes is 50.0%, the recalls stand below."
    )
    found |= {"val": {"n": 2100, "accuracy": 0.95, "balanced_accuracy": 0.9}, "start": None}
    assert page.sentence(work, FINISHED, []) == "Finished: 95.0% of 2,100 validation images are right."


def until(what: Callable[[], Any], seconds: float = 120) -> Any:
    """What `what` gives once it gives something; while it fails it is asked again."""
    from selenium.common.exceptions import WebDriverException

    end = time.monotonic() + seconds
    while True:
        try:
            if found := what():
                return found
        except WebDriverException:
            pass
        assert time.monotonic() < end, what
        time.sleep(0.2)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The page as a process of its own: its address, and the folder that it works in."""
    home = tmp_path_factory.mktemp("ui")
    command = [sys.executable, "-m", "gossamer", "ui", "--port", "0", "--folder", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        told = re.match(r"(http://127\.0\.0\.1:\d+) ", server.stdout.readline())
        assert told is not None
        yield told[1], home
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium.running(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def put(browser: Any, place: str, text: str) -> None:
    """Types into a field in place of what is there."""
    from selenium.webdriver.common.keys import Keys

    field = browser.find_element("css selector", place)
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(text, Keys.TAB)


def words(browser: Any, place: str) -> str:
    field = browser.find_element("css selector", place)
    return field.get_attribute("value") if field.tag_name == "textarea" else field.text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_a_folder_to_a_classifier_in_a_browser(served: tuple[str, Path], browser: Any, tmp_path: Path) -> None:
    address, home = served
    photographs = squares.save_images(tmp_path / "squares", train=30, test=5) / "train"
    model = shutil.copytree(squares.backbone(), tmp_path / "vit")
    (model / "preprocessor_config.json").write_text(json.dumps(PREPARED))
    browser.get(address)
    until(lambda: browser.find_element("css selector", "#folder input")).send_keys(str(photographs))
    until(lambda: "train: 60 images of 2 classes" in words(browser, "#found textarea"))
    until(lambda: browser.find_element("css selector", "#sheet img"))
    assert (home / "photographs/train/same").is_dir()

    put(browser, "#model input", str(model))
    put(browser, "#size input", "16")
    put(browser, "#epochs input", "400")
    browser.find_element("id", "train").click()
    until(lambda: re.search(r"epoch \d+ is done", words(browser, "#state")))
    until(lambda: browser.find_element("css selector", "#loss canvas, #loss svg"))
    browser.find_element("id", "train").click()
    until(lambda: "a training is running: stop it first" in words(browser, "#state"))
    browser.find_element("id", "stop").click()
    until(lambda: words(browser, "#state").startswith("Stopped."))
    browser.find_element("id", "zip-adapter").click()
    until(lambda: "there is no trained adapter yet" in words(browser, "#taken"))

    put(browser, "#epochs input", "2")
    browser.find_element("id", "train").click()
    until(lambda: words(browser, "#state").startswith("Finished: "))
    assert "everything is in" in words(browser, "#log textarea")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    images = [bad, *sorted(photographs.rglob("*.png"))[:2]]
    browser.find_element("css selector", "#tried input[type=file]").send_keys("\n".join(map(str, images)))
    until(
        lambda: (
            len(browser.find_elements("css selector", "#answers .thumbnail-item, #answers .grid-container img")) >= 2
        )
    )
    assert "bad.png cannot be read as an image" in words(browser, "#answered")
    assert re.search(r"(same|different) \d+\.\d%", words(browser, "#numbers textarea"))

    browser.find_element("id", "zip-adapter").click()
    until(lambda: "train-adapter" in words(browser, "#download"))
    with zipfile.ZipFile(home / "train-adapter.zip") as packed:
        assert any(name.endswith(".safetensors") for name in packed.namelist())
    browser.find_element("id", "onnx").click()
    until(lambda: "Backbone and adapter in one file" in words(browser, "#taken"))
    assert (home / "runs/train/model.onnx").is_file()

    put(browser, "#place textarea", str(tmp_path / "nowhere"))
    browser.find_element("id", "look").click()
    until(lambda: "Not done: no such folder of images:" in words(browser, "#looked"))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_nothing_is_asked_of_others_and_it_fits_a_phone(served: tuple[str, Path], browser: Any) -> None:
    address, _ = served
    screen = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.get_log("performance")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(address)
    until(lambda: browser.find_element("id", "train"))
    time.sleep(2)
    assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    told = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in told if m["method"] == "Network.requestWillBeSent"}
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((f"{address}/", "data:", "blob:"))] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.slow
def test_only_this_machine_is_answered_and_pages_are_sealed(served: tuple[str, Path]) -> None:
    import httpx

    address, _ = served
    answer = httpx.get(address)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("default-src 'self' data: blob:")
    assert "fonts.googleapis" not in answer.text
    assert httpx.get(address, headers={"host": "evil.example"}).status_code == 400
    config = httpx.get(f"{address}/config").json()
    assert config["analytics_enabled"] is False
