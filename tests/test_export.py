from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch

import gossamer as gm
from gossamer import cli, export, exported
from gossamer.errors import UserError
from gossamer.runs.prepared import Prepared
from gossamer.tasks.classifying_images import classify
from gossamer.tasks.recorded import preprocessing_of

from . import squares
from .contract.table import BACKBONES, METHODS, adapt, disturb


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(squares.trained(), tmp_path / "run"))


@pytest.mark.slow
def test_the_onnx_file_of_a_run_answers_alone_like_the_adapter(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "a batch of 1: " in shown
    assert "a batch of 32: " in shown
    adapted = gm.load(run / "adapter")
    images = Prepared(gm.data.load(squares.images(), "test"), preprocessing_of(adapted))
    expected = classify(adapted, images)
    session = onnxruntime.InferenceSession(run / "model.onnx", providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["pixel_values"]
    for count in (1, 5, 120):
        pixels = torch.stack([images[i]["pixel_values"] for i in range(count)])  # type: ignore[arg-type]
        found = torch.from_numpy(session.run(["logits"], {"pixel_values": pixels.numpy()})[0])
        torch.testing.assert_close(found, expected[:count], rtol=0, atol=1e-4)
    exports = adapted.metadata["exports"]["model.onnx"]
    assert exports["difference"] < 1e-4
    assert [t["batch"] for t in exports["latency"]] == [1, 32]
    assert all(t["torch"] > 0 and t["exported"] > 0 for t in exports["latency"])
    assert "## Exports\n\n- model.onnx: a batch of 1 in" in (run / "adapter" / "README.md").read_text()


@pytest.mark.parametrize("format", ["onnx", pytest.param("torch", marks=pytest.mark.slow)])
def test_an_exported_file_says_what_it_is_and_is_asked_like_a_run(
    run: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(run), "--format", format]) == 0
    file = run / f"model{exported.SUFFIX[format]}"
    adapted = gm.load(run / "adapter")
    told = exported.note(file)
    assert told["labels"] == adapted.metadata["labels"]
    assert told["preprocessing"] == adapted.metadata["preprocessing"]
    assert told["methods"] == ["vpt"]
    assert told["inputs"] == {"pixel_values": {"dtype": "float32", "shape": [None, 3, squares.SIZE, squares.SIZE]}}
    assert told["cost"] == adapted.cost(image_size=squares.SIZE).to_dict()
    written = json.loads((run / f"{file.name}.json").read_text())
    assert {n: written[n] for n in told} == told
    assert written["difference"] < 1e-4
    pictures = sorted(map(str, (squares.images() / "test").rglob("*.png")))[:3]
    said = []
    for asked in (run, file):
        capsys.readouterr()
        assert cli.main(["predict", str(asked), *pictures, "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    for ours, theirs in zip(*said, strict=True):
        assert ours["label"] == theirs["label"]
        assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-4)


@pytest.mark.slow
def test_an_openvino_file_answers_alone_and_is_asked_like_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed (pip install 'gossamer[export,openvino]')")
    openvino = exported.openvino()
    assert cli.main(["export", str(run), "--format", "openvino", "--any-size"]) == 0
    file, adapted = run / "model.xml", gm.load(run / "adapter").eval()
    assert sorted(path.name for path in run.glob("*model*")) == ["model.bin", "model.xml", "model.xml.json"]
    model = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for count, height, width in ((1, squares.SIZE, squares.SIZE), (5, squares.SIZE, 2 * squares.SIZE)):
        pixels = torch.randn(count, 3, height, width)
        expected = adapted(pixel_values=pixels, interpolate_pos_encoding=True).logits
        torch.testing.assert_close(
            torch.from_numpy(model({"pixel_values": pixels})["logits"]), expected, rtol=0, atol=1e-4
        )
    told, written = exported.note(file), json.loads((run / "model.xml.json").read_text())
    assert told["labels"] == adapted.metadata["labels"]
    assert told["preprocessing"] == adapted.metadata["preprocessing"]
    assert told["inputs"] == {"pixel_values": {"dtype": "float32", "shape": [None, 3, None, None]}}
    assert {n: written[n] for n in told} == told
    assert written["difference"] < 1e-4
    assert written["mib"] == sum((run / name).stat().st_size for name in ("model.xml", "model.bin")) / 2**20
    picture = str(next((squares.images() / "test").rglob("*.png")))
    said = []
    for asked in (run, file):
        capsys.readouterr()
        assert cli.main(["predict", str(asked), picture, "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out)[0])
    assert said[0]["label"] == said[1]["label"]
    assert said[0]["probability"] == pytest.approx(said[1]["probability"], abs=1e-4)
    (run / "none.xml").write_text("no graph")
    assert cli.main(["predict", str(run / "none.xml"), picture]) != 0
    assert "OpenVINO cannot read" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"OpenVINO reads files that end in \.xml; got a\.onnx"):
        export.export(adapted, {"pixel_values": pixels}, run / "a.onnx", format="openvino")


def test_a_file_that_says_nothing_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = next((squares.images() / "test").rglob("*.png"))
    program = torch.export.export(torch.nn.Flatten(), (torch.zeros(2, 3, 4, 4),))
    torch.export.save(program, run / "other.pt2")
    (run / "none.onnx").write_bytes(b"no graph")
    for name, said in {
        "other.pt2": "does not say what its outputs mean",
        "none.onnx": "onnxruntime cannot read",
        "absent.onnx": "there is no file",
    }.items():
        assert cli.main(["predict", str(run / name), str(image)]) != 0
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_half_precision_becomes_float32_in_onnx(run: Path) -> None:
    adapted = gm.load(run / "adapter").to(torch.bfloat16)
    pixels = torch.randn(2, 3, squares.SIZE, squares.SIZE, dtype=torch.bfloat16)
    found = export.export(adapted, {"pixel_values": pixels}, run / "half.onnx")
    assert found["dtype"] == "float32"
    logits = export.answers(run / "half.onnx")({"pixel_values": pixels.float()})
    torch.testing.assert_close(logits, adapted(pixel_values=pixels).logits.float(), rtol=0.05, atol=0.05)


def test_a_torch_program_is_read_back_and_takes_any_batch(run: Path) -> None:
    assert cli.main(["export", str(run), "--format", "torch"]) == 0
    adapted = gm.load(run / "adapter").eval()
    program = torch.export.load(run / "model.pt2").module()
    for count in (1, 7):
        pixels = torch.randn(count, 3, squares.SIZE, squares.SIZE)
        torch.testing.assert_close(program(pixels), adapted(pixel_values=pixels).logits, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_int8_comes_with_its_accuracy(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(run), "--int8"]) == 0
    out = capsys.readouterr().out
    assert out.count("in 8 bits (120 images)") == 2
    assert "balanced accuracy on test" in out
    found = gm.load(run / "adapter").metadata["exports"]["model.int8.onnx"]
    metrics = gm.load(run / "adapter").metadata["results"]
    assert found["accuracy"]["adapter"] == metrics["test_accuracy"]
    assert found["balanced_accuracy"]["adapter"] == metrics["test_balanced_accuracy"]
    assert abs(found["accuracy"]["exported"] - found["accuracy"]["adapter"]) < 0.1
    assert found["difference"] > 0
    kept = {tensor.name: tensor for tensor in onnx.load(run / "model.int8.onnx").graph.initializer}
    matrices = {
        name.removesuffix("_quantized"): t
        for name, t in kept.items()
        if name.endswith("_quantized") and len(t.dims) == 2
    }
    assert len(matrices) > 1
    assert all(list(kept[f"{name}_scale"].dims) == [t.dims[1]] for name, t in matrices.items()), "one for each output"
    answers = export.answers(run / "model.int8.onnx")
    assert exported.note(run / "model.int8.onnx")["labels"] == gm.load(run / "adapter").metadata["labels"]
    assert answers({"pixel_values": torch.zeros(3, 3, squares.SIZE, squares.SIZE)}).shape == (3, 2)


def test_what_cannot_be_exported_is_said_and_leaves_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = gm.load(run / "adapter")
    two = {"pixel_values": torch.zeros(2, 3, squares.SIZE, squares.SIZE)}
    with pytest.raises(ValueError, match="example inputs of 2 or more samples"):
        export.export(adapted, {"pixel_values": two["pixel_values"][:1]}, run / "a.onnx")
    with pytest.raises(ValueError, match="int8 is onnxruntime's"):
        export.export(adapted, two, run / "a.pt2", format="torch", int8=True)
    with pytest.raises(ValueError, match="one of onnx, openvino, torch, got 'tflite'"):
        export.export(adapted, two, run / "a.onnx", format="tflite")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        export.export(adapted, two, run / "none" / "a.onnx")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"needs openvino: pip install 'gossamer\[export,openvino\]'"):
        export.export(adapted, two, run / "a.xml", format="openvino")
    monkeypatch.setattr(export, "answers", lambda file: lambda inputs: torch.zeros(len(inputs["pixel_values"]), 2))
    with pytest.raises(ValueError, match="nothing was written"):
        export.export(adapted, two, run / "a.pt2", format="torch")
    assert not [path for path in run.iterdir() if path.name.startswith((".a", "a."))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method"), [("vit", "vpt"), ("dinov2", "lora"), ("clip+bert", "vpt"), ("vilt", "vpt"), ("meter", "vpt")]
)
def test_images_of_any_size_and_texts_of_any_length(name: str, method: str, tmp_path: Path) -> None:
    backbone = BACKBONES[name]
    adapted, inputs = disturb(adapt(backbone, METHODS[method])).eval(), backbone.inputs()
    free: list[Any] = ["image", *(["text"] if "input_ids" in inputs else [])]
    found = export.export(adapted, inputs, tmp_path / "any.onnx", free=free)
    assert found["difference"] < 1e-4
    answer, inputs = export.answers(tmp_path / "any.onnx"), {n: t[:2] for n, t in inputs.items()}
    for height, width, tokens in ((8, 20, 5), (16, 16, 6), (24, 12, 4)):
        given = {n: torch.randn(2, 3, height, width) if t.dim() == 4 else t[:, :tokens] for n, t in inputs.items()}
        asks = {"interpolate_pos_encoding": True} if name in ("vit", "meter") else {}
        expected = adapted(**given, **asks).logits
        torch.testing.assert_close(answer(given), expected, rtol=0, atol=1e-4)
    said = exported.note(tmp_path / "any.onnx")["inputs"]
    assert said["pixel_values"]["shape"] == [None, 3, None, None]
    assert all(said[n]["shape"] == [None, None] for n in said if n != "pixel_values")


@pytest.mark.slow
def test_texts_of_any_length_as_a_torch_program(tmp_path: Path) -> None:
    backbone = BACKBONES["bert"]
    adapted, inputs = disturb(adapt(backbone, METHODS["vpt"])).eval(), backbone.inputs()
    export.export(adapted, inputs, tmp_path / "any.pt2", format="torch", free=["text"])
    answer = export.answers(tmp_path / "any.pt2")
    for tokens in (3, 7):
        given = {n: t[:, :tokens] for n, t in inputs.items()}
        torch.testing.assert_close(answer(given), adapted(**given).logits, rtol=0, atol=1e-5)


def export_of(name: str, file: Path, **options: Any) -> None:
    backbone = BACKBONES[name]
    export.export(adapt(backbone, METHODS["vpt"]).eval(), backbone.inputs(), file, **options)


def test_what_cannot_be_free_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"whether it has the trained size, .*: for images of any size use format='onnx'"
    ):
        export_of("vit", tmp_path / "x.pt2", format="torch", free=["image"])
    with pytest.raises(
        UserError, match="free='text' is of texts of any length, and the inputs have none: pixel_values"
    ):
        export_of("vit", tmp_path / "x.onnx", free=["text"])
    with pytest.raises(UserError, match="free must be of image, text, got 'images'"):
        export_of("vit", tmp_path / "x.onnx", free=["images"])


@pytest.mark.slow
def test_a_model_that_cannot_be_traced_is_refused_with_the_reason_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"CLIPForImageClassification cannot be written as \.onnx for images of any size: Input"
    ):
        export_of("clip-vision", tmp_path / "x.onnx", free=["image"])
    inputs, adapted = BACKBONES["vilt"].inputs(), adapt(BACKBONES["vilt"], METHODS["vpt"]).eval()
    inputs["pixel_mask"] = torch.ones(3, 16, 16).long()
    with pytest.raises(UserError, match=r"an exported ViLT takes images that fill their batch, so without pixel_mask"):
        export.export(adapted, inputs, tmp_path / "x.pt2", format="torch")
    assert list(tmp_path.iterdir()) == []
