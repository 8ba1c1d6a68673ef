from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from gossamer.cli import main
from gossamer.comparison import plan
from gossamer.predict import predict
from gossamer.runs.run_file import parse
from gossamer.runs.trained import load_adapter
from gossamer.zoo.sources import PRETRAINED

from . import squares

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_image_classification_from_loading_to_predicting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"data": squares.images(), "model": squares.backbone(), "size": 16, "epochs": 2, "output": tmp_path}
    script = EXAMPLES / "image_classification.py"
    monkeypatch.setattr(sys, "argv", [str(script), *(f"--{name}={value}" for name, value in options.items())])
    runpy.run_path(str(script), run_name="__main__")
    shown = capsys.readouterr().out
    assert "forward pass, GMACs per sample" in shown
    assert "of 60 images, balanced" in shown
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_an_exported_file_is_used_without_gossamer(tmp_path: Path) -> None:
    """In a process of its own, whose Python finds no Gossamer: the labels and shares that `predict` gives."""
    run = Path(shutil.copytree(squares.trained(), tmp_path / "run"))
    assert main(["export", str(run)]) == 0
    files = sorted((squares.images() / "test").rglob("*.png"))[::17]
    wide = tmp_path / "wide.png"
    Image.open(files[0]).resize((57, 31)).save(wide)
    files.append(wide)
    code = f"import sys; sys.modules['gossamer'] = sys.modules['torch'] = None; sys.argv = ['', {str(run / 'model.onnx')!r}, "
    code += f"*{[str(f) for f in files]}]; exec(open({str(EXAMPLES / 'onnx_alone.py')!r}).read())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    expected = [f"{r['file']}  {r['label']} {r['probability']:.1%}" for r in predict(load_adapter(run), files)]
    assert shown == expected


def test_the_run_file_is_valid() -> None:
    run, _ = parse([str(EXAMPLES / "image_classification.yaml")])
    assert run.data.name == "digits"


@pytest.mark.parametrize(("name", "methods"), [("dvp", 8), ("memvp", 3)])
def test_the_comparison_files_on_texts_are_valid(name: str, methods: int) -> None:
    cells = plan.cells(plan.read(EXAMPLES / f"{name}.yaml"), {})
    assert len(cells) == methods * 3
    assert {cell.run.data.name for cell in cells} == {"easy-vqa"}
    assert {cell.run.model.vision for cell in cells} == {"dinov2-small"}


def test_the_run_file_on_questions_is_valid() -> None:
    run, _ = parse([str(EXAMPLES / "easy_vqa.yaml")])
    assert (run.model.name, run.data.name) == ("vilt-small-easy", "easy-vqa")
    assert run.model.name in PRETRAINED


def test_the_comparison_file_is_valid() -> None:
    comparison = plan.read(EXAMPLES / "comparison.yaml")
    assert {place: len(cells) for place, cells in plan.candidates(comparison).items()} == {
        ("VPT-deep", "digits"): 2,
        ("VPT-deep", "location"): 2,
    }
    cells = plan.cells(comparison, {("VPT-deep", task): {"training.lr": 1e-2} for task in comparison.tasks})
    assert len(cells) == 3 * 2 * 3
    assert {cell.run.data.name for cell in cells} == {"digits", "desk/location"}
