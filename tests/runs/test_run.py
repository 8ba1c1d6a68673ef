from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from gossamer.runs.run import Data, Images, Model, Run, Training
from gossamer.runs.run_file import parse, read, to_yaml

TEXT = """
model: {name: dinov2-small}
data: {name: photos, validation: 0.25}
methods:
- {method: vpt, prompts: 10}
- {method: peft, peft_type: LORA, r: 8}
output: runs/a
images: {size: 84, mean: [0.5, 0.4, 0.3]}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "some.yaml"
    path.write_text(TEXT)
    return str(path)


def test_options_override_the_run_file_in_both_spellings(file: str) -> None:
    run, switches = parse([file, "--training.epochs", "3", "training.lr=1e-3", "seed=4", "--resume"])
    assert run == Run(
        model=Model(name="dinov2-small"),
        data=Data(name="photos", validation=0.25),
        methods=[{"method": "vpt", "prompts": 10}, {"method": "peft", "peft_type": "LORA", "r": 8}],
        output="runs/a",
        images=Images(size=84, mean=(0.5, 0.4, 0.3)),
        training=Training(epochs=3, lr=1e-3),
        seed=4,
    )
    assert switches == {"resume": True, "overwrite": False, "json": False}


def test_a_run_needs_no_file() -> None:
    run, _ = parse(
        ["model.name=a", "data.name=b", "output=c", "methods=[{method: bitfit}]", "training.warm_start=false"]
    )
    assert (run.methods, run.training.warm_start) == ([{"method": "bitfit"}], False)


def test_a_written_run_is_read_back_equal(file: str, tmp_path: Path) -> None:
    run, _ = parse([file, "training.report_to=[tensorboard]"])
    (tmp_path / "run.yaml").write_text(to_yaml(run))
    assert read(tmp_path) == run


def test_every_setting_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = capsys.readouterr().out
    for kind in (Run, Model, Data, Images, Training):
        assert kind.__doc__
        for field in dataclasses.fields(kind):
            assert f"        {field.name}: " in kind.__doc__, f"{kind.__name__}.{field.name}"
    assert "pixels" in shown
    assert "--training.head_lr" in shown


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "epochs=3",
            r"epochs=3 \(did you mean 'training.epochs' or 'search.epochs'\?\); known: model, data, methods, output",
        ),
        ("training.epoch=3", r"--training.epoch=3 \(did you mean 'training.epochs'\?\); known: .*training.batch"),
        ("training.epochs=x", "training.epochs.*Expected a <class 'int'>.*x"),
        ("training.epochs=-1", r"training.epochs must not be negative, got -1"),
        ("training.batch=0", r"training.batch must be 1 or more, got 0"),
        ("training.schedule=step", "one-cycle.*cosine.*step"),
        ("data.validation=1.0", r"data.validation must be in \[0, 1\), got 1.0"),
        ("data.limit=0", r"data.limit must be 1 or more, got 0"),
        ("methods=[]", r"methods is empty; \[\{method: linear_probe\}\] trains the head alone"),
        ("methods=vpt", "methods.*Expected a <class 'list'>"),
        ("images.mean=[1]", "images.mean.*tuple with 3 elements"),
    ],
)
def test_unfit_settings_are_refused(file: str, option: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse([file, option])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: {name: a}", "modle.*known: model, data, methods"),
        ("model: {nam: a}", r"'nam' \(did you mean 'name'\?\); known: model.name"),
        ("model: {name: a", r"bad.yaml, line 2, column 1 is not YAML"),
        ("seed: 1", "required: model.name, data.name, methods, output"),
    ],
)
def test_unfit_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse([str(path)])


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match=r"epochs=0 with training.warm_start=false trains nothing"):
        Training(epochs=0, warm_start=False)


def test_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such run file: .*nope.yaml"):
        parse([str(tmp_path / "nope.yaml")])
    with pytest.raises(FileNotFoundError, match=r"is no folder of a run: it has no run.yaml"):
        read(tmp_path)
