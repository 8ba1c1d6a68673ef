from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import ResNetConfig

import gossamer
from gossamer import cli
from gossamer.errors import Diverged, MissingPackage, UnknownName
from gossamer.runs.run_file import to_yaml
from gossamer.storage import AdapterError

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


def test_help_of_no_command_imports_torch() -> None:
    """Torch and transformers take seconds."""
    code = f"""
import sys
from gossamer import cli
for name in (None, {", ".join(map(repr, cli.COMMANDS))}):
    assert cli.main(["--help"] if name is None else [name, "--help"]) == 0
    assert not {{"torch", "transformers", "numpy"}} & set(sys.modules), name
"""
    environment = {"PYTHONPATH": str(Path(gossamer.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, stdout=subprocess.DEVNULL)


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


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, command: str = "gossamer.commands.predict") -> None:
    def command_(arguments: object) -> None:
        raise error

    monkeypatch.setattr(f"{command}.command", command_)


TOLD = {
    "a name that is not there": (UnknownName("no block 9:\n it has 3"), "no block 9: it has 3"),
    "a file": (
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a.png"),
        "a.png: No such file or directory",
    ),
    "words of ours": (FileNotFoundError("no such image file: a.png"), "no such image file: a.png"),
    "a full disk": (
        OSError(errno.ENOSPC, "No space left", "x/run.yaml"),
        "x/run.yaml: No space left; make room and run the",
    ),
    "memory": (MemoryError(), "out of memory"),
    "memory of torch": (
        RuntimeError("[enforce] DefaultCPUAllocator: can't allocate"),
        "out of memory: [enforce] Default",
    ),
    "memory of a GPU": (torch.OutOfMemoryError("CUDA out of memory"), "out of memory: CUDA out of memory"),
    "a package": (MissingPackage("needs Ray: pip install ray"), "needs Ray: pip install ray"),
    "a diverged loss": (Diverged("the loss is nan"), "the loss is nan"),
    "an adapter": (AdapterError("no adapter here"), "no adapter here"),
}


@pytest.mark.parametrize("kind", TOLD)
def test_what_a_user_can_mend_is_one_sentence(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error, message = TOLD[kind]
    failing(monkeypatch, error)
    assert cli.main(["predict"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"gossamer predict: {message}")
    assert shown.err.count("\n") == 1
    with pytest.raises(type(error)):
        cli.main(["predict", "--debug"])


@pytest.mark.parametrize(
    "error",
    [KeyError("answer"), TypeError("unsupported"), ValueError("not enough values to unpack"), IndexError("range"),
     ZeroDivisionError("division"), RuntimeError("shapes"), ImportError("cannot import name"), AttributeError("none")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_no_bug_of_ours_poses_as_a_mistake_of_the_user(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, error)
    with pytest.raises(type(error)):
        cli.main(["predict"])


def test_less_memory_is_advised_where_it_is_known_how(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, MemoryError(), "gossamer.commands.train")
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err.startswith("gossamer train: out of memory; lower training.batch or images.size")


def test_a_bug_ends_with_a_traceback_and_exit_code_1(tmp_path: Path) -> None:
    code = (
        "import gossamer.commands.predict as p; p.command = lambda a: {}['answer']; "
        "from gossamer import cli; cli.main(['predict'])"
    )
    environment = {"PYTHONPATH": str(Path(gossamer.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "KeyError: 'answer'" in done.stderr


def test_sigterm_ends_a_command_as_ctrl_c_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []

    def command(arguments: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("gossamer.commands.train.command", command)
    assert cli.main(["train"]) == 143
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == "gossamer train: ended by SIGTERM; the same command with --resume continues\n"


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
        "width": 24, "inner": 24, "inner_kv": 24, "ffn": 40, "ffn_matrices": 2, "cross_inner": 0, "context": 0,
    }  # fmt: skip
    assert stack["parts"]["down"] == "mlp.fc2"
    assert set(stack["verbs"]) == {"add", "rewrite", "middle", "remember", "insert", "replace", "observe", "shorten"}
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
