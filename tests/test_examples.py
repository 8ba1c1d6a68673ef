from __future__ import annotations

import functools
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import nn

import gossamer as gm
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


def run(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **options: object) -> str:
    """What a script says."""
    script = EXAMPLES / name
    given = [f"--{option}" if value is True else f"--{option}={value}" for option, value in options.items()]
    monkeypatch.setattr(sys, "argv", [str(script), *given])
    runpy.run_path(str(script), run_name="__main__")
    return capsys.readouterr().out


def right(adapter: Path, backbone: nn.Module | None = None) -> float:
    """Share of the tiny task's test images that an adapter gets right."""
    adapted, images = gm.load(adapter, backbone), gm.data.load(squares.images(), "test")
    batch = gm.data.Collate(gm.data.Preprocessing(size=squares.SIZE))([images[i] for i in range(len(images))])
    with torch.no_grad():
        return float((adapted(pixel_values=batch["pixel_values"]).logits.argmax(1) == batch["labels"]).float().mean())


def tiny() -> dict[str, object]:
    return {"model": squares.backbone(), "size": squares.SIZE}


@pytest.mark.slow
def test_a_plain_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = run("plain_loop.py", monkeypatch, capsys, data=squares.images(), epochs=4, output=tmp_path, **tiny())
    losses = [float(line.rpartition(" ")[2]) for line in said.splitlines() if line.startswith("epoch")]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert right(tmp_path) > 0.5


@pytest.mark.slow
def test_a_stream_of_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    told = {"data": "imagefolder", "folder": squares.images(), "classes": 2, "steps": 25}
    run("streaming.py", monkeypatch, capsys, output=tmp_path, **told, **tiny())
    assert right(tmp_path / "adapter") > 0.5


@pytest.mark.slow
def test_curves_for_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"data": "imagefolder", "folder": squares.images(), "classes": 2, "steps": 6, "report_to": "tensorboard"}
    run("streaming.py", monkeypatch, capsys, output=tmp_path, **told, **tiny())
    assert list(tmp_path.rglob("events.out.tfevents.*"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:this VisionTransformer is called", "ignore:unclosed file")
def test_timms_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = {"data": squares.images() / "train", "model": "vit_tiny_patch16_224", "size": 32, "epochs": 1}
    monkeypatch.setattr(timm, "create_model", functools.partial(timm.create_model, depth=2))
    said = run("timm_loader.py", monkeypatch, capsys, scratch=True, output=tmp_path, **told)
    assert "epoch 1: last loss" in said
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=2)
    with pytest.raises(gm.AdapterError, match="other weights"):  # random ones, of another seed
        gm.load(tmp_path, model)


@pytest.mark.slow
def test_accelerate_on_two_processes(tmp_path: Path) -> None:
    options = {"data": squares.images(), "epochs": 3, "output": tmp_path, **tiny()}
    said = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
            *(str(EXAMPLES / "accelerate_loop.py"), *(f"--{name}={value}" for name, value in options.items())),
        ],
        capture_output=True, text=True, check=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(gm.__file__).parents[1]), "ACCELERATE_USE_CPU": "1"},
    )  # fmt: skip
    assert said.stdout.count("on 2 processes") == 3
    assert right(tmp_path) > 0.5


@pytest.mark.slow
def test_lightning(tmp_path: Path) -> None:
    """In a process of its own: Lightning sets the seeds and the warnings of the whole process."""
    told = {"data": squares.images(), "epochs": 4, "output": tmp_path / "adapter", **tiny()}
    subprocess.run(
        [sys.executable, str(EXAMPLES / "lightning_module.py"), *(f"--{name}={value}" for name, value in told.items())],
        capture_output=True, text=True, check=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert right(tmp_path / "adapter") > 0.5


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
