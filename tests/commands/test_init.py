"""`gossamer init FOLDER`, and `gossamer train FOLDER`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from PIL import Image

from gossamer import documents
from gossamer.cli import main
from gossamer.data import inspection
from gossamer.errors import UserError
from gossamer.runs import first
from gossamer.runs.run_file import parse

from .. import squares

README = Path(__file__).parents[2] / "README.md"
COUNTS = {"cat": 3, "dog": 7, "ant": 1}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photographs of three classes: one is damaged, one lies in two classes, one twice in its own."""
    monkeypatch.chdir(tmp_path)
    for shade, (name, count) in enumerate(COUNTS.items()):
        (Path("photographs") / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (20 + i, 30), (60 * shade, 20 * i, 5)).save(f"photographs/{name}/{i}.png")
    photographs = Path("photographs")
    (photographs / "dog/twin.png").write_bytes((photographs / "cat/0.png").read_bytes())
    (photographs / "dog/again.png").write_bytes((photographs / "dog/1.png").read_bytes())
    (photographs / "dog/broken.png").write_bytes((photographs / "dog/2.png").read_bytes()[:40])
    return photographs


def test_what_a_folder_holds_is_told_drawn_and_written_down(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "photographs"]) == 0
    said = capsys.readouterr().out
    for line in (
        "train: 14 images of 3 classes",
        "       10  dog",
        "sizes: 20 x 30 to 26 x 30 pixels, the middle one 21 x 30",
        "10.0 times the training images of the smallest: look at balanced accuracy",
        "damaged, to be removed before training (1):\n  photographs/dog/broken.png cannot be read as an image",
        "one label is wrong or a test is seen (1):\n  photographs/cat/0.png = photographs/dog/twin.png",
        "the same image twice (1):\n  photographs/dog/1.png = photographs/dog/again.png",
        "next: remove what is damaged, then gossamer train photographs.yaml",
    ):
        assert line in said
    with Image.open("photographs.png") as sheet:
        assert len(sheet.convert("RGB").getcolors(10**6) or []) > 10
    assert len(Path("photographs.yaml").read_text().splitlines()) == 11
    run, _ = parse(["photographs.yaml"])
    assert (run.model.name, run.data.name, run.output) == ("dinov2-small", "photographs", "runs/photographs")
    assert main(["init", "photographs"]) == 2
    assert "photographs.yaml is there already: --overwrite replaces it" in capsys.readouterr().err
    assert main(["init", "photographs", "--overwrite", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["counts"]["train"] == {"ant": 1, "cat": 3, "dog": 10}
    assert list(record["damaged"]) == ["photographs/dog/broken.png"]


def test_a_folder_alone_means_the_file_that_is_written_for_it(folder: Path) -> None:
    main(["init", "photographs"])
    written, _ = parse(["photographs.yaml"])
    assert parse(["photographs"])[0] == written
    changed, switches = parse(["photographs", "model=clip-vit-b32", "training.epochs=3", "--json"])
    assert (changed.model.name, changed.training.epochs, changed.data) == ("clip-vit-b32", 3, written.data)
    assert switches["json"]
    (folder / "run.yaml").write_text("seed: 3")
    with pytest.raises(UserError, match=r"photographs is the folder of a run; to repeat it, give its run\.yaml"):
        parse(["photographs"])


@pytest.mark.parametrize(
    ("images", "validated", "epochs"), [(7, False, 12), (700, False, 11), (700, True, 9), (9000, True, 5)]
)
def test_epochs_follow_the_number_of_images(images: int, validated: bool, epochs: int) -> None:
    assert f"epochs: {epochs} " in first.text("x", images, 3, validated=validated)


def test_splits_are_told_apart(tmp_path: Path) -> None:
    for split, shade in (("train", 10), ("val", 20), ("test", 10)):
        for name, blue in (("a", 0), ("b", 9)):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (9, 9), (shade, 0, blue)).save(tmp_path / split / name / "x.png")
    found = inspection.inspect(tmp_path)
    assert list(found.counts) == ["train", "val", "test"]
    assert [[p.parent.parent.name for p in group] for group in found.torn] == [["train", "test"]] * 2
    assert found.skew == 1


def test_no_folder_and_no_classes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder of images"):
        inspection.inspect(tmp_path / "none")
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="is an image outside any class folder"):
        inspection.inspect(tmp_path)


def test_short_forms_in_a_file_and_as_options(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: some/model\ndata: photographs\nmethods: [{method: linear_probe}]\noutput: x\n")
    run, _ = parse([str(file), "model.head=plain", "--data", "others"])
    assert (run.model.name, run.model.head, run.data.name) == ("some/model", "plain", "others")


def test_the_quick_start_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command but pip's and the shrinking, which has its own tests, on a tiny model."""
    monkeypatch.chdir(tmp_path)
    page = README.read_text().partition("## From a folder of photographs to a classifier")[2]
    commands = [line.partition("#")[0] for line in page.partition("```bash\n")[2].partition("```")[0].splitlines()]
    squares.save_images(Path("made"), train=20, test=2)
    Path("made/train").rename("photographs")
    Path("made/test/same").rename("new")
    done = []
    for line in commands:
        _, verb, *rest = shlex.split(line)
        if verb in ("install", "shrink"):
            continue
        done.append(verb)
        found = [sorted(map(str, Path().glob(asked))) if "*" in asked else [asked] for asked in rest]
        assert main([verb, *(name for names in found for name in names)]) == 0
        if verb == "init":
            written = Path("photographs.yaml").read_text()
            (shown,) = (b for b in page.split("```yaml\n")[1:2] for b in [b.partition("```")[0]])
            said, promised = (documents.parse_yaml(text, "README") for text in (written, shown))
            assert said == promised
            greys = "mean: [0.5, 0.5, 0.5]\n  std: [0.5, 0.5, 0.5]"
            tiny = written.replace("dinov2-small", str(squares.backbone())).replace("epochs: 12", "epochs: 2")
            Path("photographs.yaml").write_text(tiny.replace("size: 224", f"size: {squares.SIZE}\n  {greys}"))
    assert done == ["init", "train", "predict", "export"]
    assert Path("runs/photographs/model.onnx").is_file()
