from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gossamer.comparison import plan
from gossamer.comparison.settings import Comparison, Selection

RUN = {"model": {"name": "dinov2-small"}, "training": {"epochs": 9, "batch": 16}}
METHODS: dict[str, Any] = {
    "probe": {"methods": [{"method": "linear_probe"}]},
    "VPT": {
        "methods": [{"method": "vpt", "prompts": 5}],
        "training": {"epochs": 3},
        "grid": {"training.lr": [0.01, 0.1], "methods.0.prompts": [2, 7, 11]},
    },
}
TASKS = {
    "one": {"data": {"name": "digits", "train": "trainval"}, "training": {"epochs": 4, "batch": 8}},
    "two": {"data": {"name": "elpv"}},
}


def comparison(**changes: Any) -> Comparison:
    return Comparison(**{"run": RUN, "methods": METHODS, "tasks": TASKS, "output": "out", "seeds": [0, 5], **changes})


def written(tmp_path: Path, **changes: Any) -> str:
    values = {"run": RUN, "methods": METHODS, "tasks": TASKS, "output": "out"} | changes
    path = tmp_path / "some.yaml"
    path.write_text(
        yaml.safe_dump({name: value for name, value in values.items() if value is not None}, sort_keys=False)
    )
    return str(path)


def test_a_cell_is_the_base_changed_by_its_task_then_its_method_then_what_was_chosen() -> None:
    chosen = {("VPT", "one"): {"training.lr": 0.1, "methods.0.prompts": 7}}
    cells = plan.cells(comparison(), chosen)
    assert [(c.task, c.method, c.run.seed) for c in cells] == [
        ("one", "probe", 0), ("one", "probe", 5), ("one", "VPT", 0), ("one", "VPT", 5), ("two", "probe", 0), ("two", "probe", 5),
    ]  # fmt: skip
    probe, vpt = cells[0].run, cells[3].run
    assert (probe.model.name, probe.data.name, probe.training.batch, probe.training.epochs) == (
        "dinov2-small",
        "digits",
        8,
        4,
    )
    assert (vpt.training.batch, vpt.training.epochs, vpt.training.lr, vpt.methods[0]["prompts"]) == (8, 3, 0.1, 7)
    assert cells[3].settings == chosen["VPT", "one"]
    assert vpt.methods[0]["form"] == "exact", "every setting of a method is written out"
    assert cells[5].run.training.batch == 16
    assert cells[0].folder == Path("out/runs/one/probe/seed-0")
    assert len({cell.folder for cell in cells}) == len(cells)


def test_candidates_are_all_combinations_and_never_read_the_test_split() -> None:
    found = plan.candidates(comparison(selection=Selection(validation=0.3, seeds=[1, 2])))
    assert list(found) == [("VPT", "one"), ("VPT", "two")]
    cells = found["VPT", "two"]
    tried = [(c.run.training.lr, c.run.methods[0]["prompts"], c.run.seed) for c in cells]
    assert tried == [(lr, p, s) for lr in (0.01, 0.1) for p in (2, 7, 11) for s in (1, 2)]
    assert all(c.choosing and not c.run.data.test and c.run.data.validation == 0.3 for c in cells)
    assert found["VPT", "one"][0].run.data.train == "train", "trainval is for when settings are chosen"
    assert len({cell.folder for cell in cells}) == len(cells)
    assert str(cells[3]) == "VPT on two, seed 2, trying training.lr=0.01, methods.0.prompts=7"


def test_a_file_is_read_with_its_numbers_and_changed_by_options(tmp_path: Path) -> None:
    text = Path(written(tmp_path)).read_text().replace("0.01", "1e-3")
    Path(tmp_path / "some.yaml").write_text(text)
    found = plan.read(tmp_path / "some.yaml", ["seeds=[3]", "run.training.lr=1e-4", "tasks.two.data.limit=50"])
    assert (found.seeds, found.run["training"]["lr"], found.tasks["two"]["data"]["limit"]) == ([3], 1e-4, 50)
    assert found.methods["VPT"]["grid"]["training.lr"] == [1e-3, 0.1]
    assert found.reference == "probe"
    assert plan.read(tmp_path / "some.yaml", ["baseline=VPT"]).reference == "VPT"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {}}, "methods is empty; a comparison needs one or more"),
        ({"seeds": [1, 1]}, r"seeds must be different whole numbers, got \[1, 1\]"),
        ({"selection": {"seeds": []}}, r"selection.seeds must be different whole numbers, got \[\]"),
        ({"baseline": "VTP"}, r"baseline 'VTP' is no method; there are probe, VPT \(did you mean 'VPT'\?\)"),
        (
            {"task": {"x": 1}},
            r"there is no setting 'task'.*did you mean 'tasks'.*; known: run, methods, tasks, output, seeds",
        ),
        ({"output": None}, "required: output"),
        ({"tasks": {"a b": {}, "A:b": {}}}, "tasks 'a b' and 'A:b' would have the same folder; rename one"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan.read(written(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"run": {**RUN, "trainin": {"lr": 1}}},
            r"method 'VPT' on task 'one': there is no setting 'trainin' \(did you mean 'training'\?\); known: model, data, methods",
        ),
        ({"run": {**RUN, "seed": 3}}, "seed of a run is set by the comparison itself; use its own output and seeds"),
        ({"tasks": {"one": {"data": {"limit": 3}}}}, "method 'VPT' on task 'one': .*data.name"),
        (
            {"methods": {"VPT": {"methods": [{"method": "vtp"}], "grid": {"seed": [1]}}}},
            "no method 'vtp'; there are adapter",
        ),
        (
            {"methods": {"VPT": {"grid": {"training.lr": 0.1}}}},
            "grid of method 'VPT' must map settings to lists of values",
        ),
        ({"methods": {"VPT": {**METHODS["VPT"], "grid": {"methods.1.r": [1]}}}}, "'1' is no place in a list of 1"),
        (
            {"methods": {"VPT": {**METHODS["VPT"], "grid": {"training.epochs.x": [1]}}}},
            "cannot set 'x' inside 3",
        ),
    ],
)
def test_settings_that_make_no_run_are_refused_with_method_and_task(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan.candidates(comparison(**changes))


def test_what_is_no_file_or_no_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such comparison file"):
        plan.read(tmp_path / "nope.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ValueError, match="it holds list, not named settings"):
        plan.read(tmp_path / "list.yaml")
    with pytest.raises(ValueError, match="'fast' is no setting; settings are NAME=VALUE"):
        plan.read(written(tmp_path), ["fast"])
