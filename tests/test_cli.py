from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import ResNetConfig

import gossamer
from gossamer import cli
from gossamer.runs.run_file import to_yaml

from . import squares


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(Path(gossamer.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "gossamer", *arguments], capture_output=True, text=True, env=environment
    )


def test_help_lists_every_command_at_once() -> None:
    start = time.monotonic()
    shown = process("--help")
    assert time.monotonic() - start < 2
    assert shown.returncode == 0
    assert all(f"  {name} " in shown.stdout for name in cli.COMMANDS)
    assert process("--version").stdout == f"gossamer {gossamer.__version__}\n"


def test_help_imports_no_torch() -> None:
    code = "import sys; from gossamer import cli; cli.main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(Path(gossamer.__file__).parents[1])}
    )


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    assert f"gossamer {name}" in capsys.readouterr().out


def test_without_a_command_or_with_an_unknown_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage: gossamer COMMAND" in capsys.readouterr().out
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err == f"gossamer: no command 'trian'; there are {', '.join(cli.COMMANDS)}\n"


def test_a_mistake_is_one_sentence_without_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", str(tmp_path / "nope.yaml")]) == 2
    assert capsys.readouterr().err == f"gossamer train: no such run file: {tmp_path / 'nope.yaml'}\n"
    with pytest.raises(FileNotFoundError):
        cli.main(["train", str(tmp_path / "nope.yaml"), "--debug"])


def test_a_key_error_is_shown_without_quotes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(arguments: object) -> None:
        raise KeyError("no block 9:\n it has 3")

    monkeypatch.setattr("gossamer.predict.command", command)
    assert cli.main(["predict"]) == 2
    assert capsys.readouterr().err == "gossamer predict: no block 9: it has 3\n"


def test_an_interrupted_training_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gossamer.commands.train.command", command)
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "gossamer train: interrupted; the same command with --resume continues\n"


def test_train_from_a_file_with_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(to_yaml(squares.run(tmp_path / "run", epochs=9)))
    assert cli.main(["train", str(file), "training.epochs=1", "--data.limit", "60"]) == 0
    shown = capsys.readouterr()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["images"] == {"train": 48, "val": 12, "test": 60}
    assert f"accuracy              {metrics['test']['accuracy']:7.2%}" in shown.out
    assert f"everything is in {tmp_path / 'run'}" in shown.out
    assert "epoch 1/1" in shown.err
    assert cli.main(["train", str(tmp_path / "run" / "run.yaml"), "--resume"]) == 0
    assert cli.main(["train", str(tmp_path / "run" / "run.yaml")]) == 2
    assert "holds a run already (finished)" in capsys.readouterr().err


def test_inspect_shows_parts_and_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(squares.backbone()), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    stack = found["stacks"]["vision"]
    assert found["heads"] == {"classifier": "Linear"}
    assert (stack["blocks"], stack["attention_heads"], stack["prefix_tokens"], stack["main"]) == (3, 3, 1, True)
    assert stack["sizes"] == {
        "width": 24, "inner": 24, "inner_kv": 24, "ffn": 40, "ffn_matrices": 2, "cross_inner": 0,
    }  # fmt: skip
    assert stack["parts"]["down"] == "mlp.fc2"
    assert set(stack["verbs"]) == {"add", "rewrite", "middle", "remember", "insert", "replace", "observe"}
    assert stack["verbs"]["remember"] is None
    assert cli.main(["inspect", "t5-base"]) == 0
    shown = capsys.readouterr().out
    assert "decoder stack: 12 blocks T5Block" in shown
    assert "cross.q      layer.1.EncDecAttention.q" in shown


def test_inspect_says_why_a_verb_does_not_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gossamer.anatomy.seams.memory_obstacle", lambda block, branch: "it is told so")
    assert cli.main(["inspect", str(squares.backbone())]) == 0
    assert "remember     no: it is told so" in capsys.readouterr().out


def test_inspect_shows_stages(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", "swin-b"]) == 0
    shown = capsys.readouterr().out
    assert "width 128 (2), 256 (2), 512 (18), 1024 (2)" in shown
    assert "heads          4 (2), 8 (2), 16 (18), 32 (2)" in shown
    assert "windows        7 x 7 tokens, merged 2 x 2 between stages" in shown


def test_inspect_names_what_it_looked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ResNetConfig(depths=[1], hidden_sizes=[8], architectures=["ResNetModel"]).save_pretrained(tmp_path)
    assert cli.main(["inspect", str(tmp_path / "config.json")]) == 2
    assert "cannot read ResNetModel" in capsys.readouterr().err


def test_cost_of_a_method_on_an_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cost", "--model", "vit-b16", "--method", "vpt", "prompts=50", "image_size=224", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method_parameters"] == 460_800
    assert cli.main(["cost", "--model", "vit-b16", "prompts"]) == 2
    assert "'prompts' is no setting; settings are NAME=VALUE" in capsys.readouterr().err
