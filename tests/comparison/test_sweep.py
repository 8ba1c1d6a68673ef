from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
import yaml

import gossamer as gm
from gossamer import cli, tasks
from gossamer.comparison import engines, plan, sweep
from gossamer.comparison.cell import COLUMNS
from gossamer.comparison.settings import Comparison, Selection
from gossamer.comparison.sweep import compare
from gossamer.runs.run import Images
from gossamer.runs.sets import load_sets
from gossamer.storage import CARD
from gossamer.training import solving
from gossamer.training.train import train

from .. import squares
from .pages import Page

pytestmark = pytest.mark.usefixtures("undrawn")

PROBE = {"methods": [{"method": "linear_probe"}]}
VPT = {"methods": [{"method": "vpt", "prompts": 3, "dropout": 0.2}]}  # dropout: the generators' states matter too
LORA = {"methods": [{"method": "peft", "peft_type": "LORA", "r": 3}]}
CLOCK = ("seconds", "latency_ms", "bare_latency_ms", "latency_ratio")
STEP = ("step_ms", "step_mib")  # of what is trained by steps


def comparison(output: Path, methods: dict[str, Any], **changes: Any) -> Comparison:
    run = {
        "model": {"name": str(squares.backbone())},
        "images": {"size": squares.SIZE, "mean": [0.5] * 3, "std": [0.5] * 3},
        "training": {"epochs": 2, "lr": 0.03},
    }
    tasks = {"squares": {"data": {"name": str(squares.images()), "limit": 70}}}
    return Comparison(
        **{"run": run, "methods": methods, "tasks": tasks, "seeds": [0, 3], "output": str(output), **changes}
    )


def numbers(value: Any) -> Any:
    """Rows without what the clock says."""
    if isinstance(value, dict):
        return {name: numbers(of) for name, of in value.items() if name not in CLOCK + STEP}
    return [numbers(of) for of in value] if isinstance(value, list) else value


def stored(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "rows.jsonl").read_text().splitlines()]


def file_of(comparison: Comparison, path: Path) -> str:
    path.write_text(yaml.safe_dump(dataclasses.asdict(comparison), sort_keys=False))
    return str(path)


METHODS = {
    "probe": PROBE,
    "VPT": {**VPT, "grid": {"training.lr": [0.03, 1e30], "methods.0.prompts": [3, 5]}, "training": {"clip": 0.0}},
    "no block": {"methods": [{"method": "vpt", "blocks": [9]}]},
    "LoRA": LORA,
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, list[dict[str, Any]]]:
    """A comparison with a grid, of which two candidates diverge, and a method that fails."""
    asked = comparison(tmp_path_factory.mktemp("done") / "out", METHODS, seeds=[0], selection=Selection(validation=0.3))
    return asked, compare(asked, workers=2)


def test_every_cell_has_a_row_with_all_columns(done: tuple[Comparison, list[dict[str, Any]]]) -> None:
    asked, rows = done
    assert [(r["method"], r["task"], r["seed"]) for r in rows] == [(m, "squares", 0) for m in METHODS]
    assert all(tuple(row) == COLUMNS for row in rows)
    assert stored(Path(asked.output)) == rows
    probe, vpt, *_ = rows
    metrics = json.loads(Path(asked.output, "runs/squares/VPT/seed-0/metrics.json").read_text())
    assert (vpt["accuracy"], vpt["split"]) == (metrics["test"]["accuracy"], "test")
    assert vpt["gmacs"] == metrics["macs"]["finished"] / 1e9 > vpt["bare_gmacs"] == probe["gmacs"]
    assert vpt["training_gmacs"] == metrics["training_flops"] / 2e9 > vpt["gmacs"]
    assert probe["training_gmacs"] is None, "a head that is solved has no training steps"
    assert ([record["epoch"] for record in vpt["curve"]], probe["curve"]) == ([0, 1, 2], [])
    assert vpt["images"] == {"train": 56, "val": 14, "test": 70}
    assert vpt["protocol"]["training"]["epochs"] == 2
    assert vpt["hardware"]["threads"] == 1
    for row in (probe, vpt):
        assert min(row[name] for name in CLOCK) > 0
    assert min(vpt[name] for name in STEP) > 0
    assert {probe[name] for name in STEP} == {None}


def test_the_cards_of_its_adapters_tell_the_seeds_and_what_was_measured(
    done: tuple[Comparison, list[dict[str, Any]]],
) -> None:
    asked, rows = done
    folder = Path(asked.output, "runs", "squares", "VPT", "seed-0", "adapter")
    found = gm.load(folder).metadata["compared"]
    (row,) = (row for row in rows if row["method"] == "VPT")
    assert (found["mean"], found["sd"], found["seeds"]) == (row["accuracy"], None, [0])
    assert found["latency_ms"] == row["latency_ms"]
    assert f"- test accuracy: {row['accuracy']:.2%}, seed 0\n" in (folder / CARD).read_text()


def test_settings_are_chosen_on_held_out_training_images(done: tuple[Comparison, list[dict[str, Any]]]) -> None:
    asked, (_, vpt, *_) = done
    scores = {
        (c["settings"]["training.lr"], c["settings"]["methods.0.prompts"]): c["validation_accuracy"]
        for c in vpt["selection"]
    }
    assert list(scores) == [(0.03, 3), (0.03, 5), (1e30, 3), (1e30, 5)]
    assert scores[1e30, 3] is scores[1e30, 5] is None, "training that diverges is no choice"
    best = max((0.03, 3), (0.03, 5), key=lambda settings: scores[settings])
    assert vpt["settings"] == {"training.lr": best[0], "methods.0.prompts": best[1]}
    assert vpt["protocol"]["training"]["lr"] == best[0]
    assert vpt["protocol"]["methods"][0]["prompts"] == best[1]
    tried = sorted(Path(asked.output, "runs/squares/VPT/grid").glob("*/seed-0/metrics.json"))
    assert len(tried) == 2
    for path in tried:
        metrics = json.loads(path.read_text())
        assert metrics["images"] == {"train": 49, "val": 21}
        assert "test" not in metrics


def test_heads_are_solved_once_for_cells_that_begin_alike(
    tmp_path: Path, done: tuple[Comparison, list[dict[str, Any]]]
) -> None:
    """LoRA begins as the bare backbone does, prompts do not; what is trained from a shared head is what a run alone comes to."""
    asked, (probe, vpt, _, lora) = done
    assert probe["probe"] == lora["probe"] != vpt["probe"]
    assert len(probe["probe"]) == 64
    solved = "another run of this comparison has solved it"
    logs = [
        Path(asked.output, f"runs/squares/{name}/seed-0/train.log").read_text() for name in ("probe", "VPT", "LoRA")
    ]
    assert [solved in log for log in logs] == [False, False, True]
    run = next(cell.run for cell in plan.cells(asked, {}) if cell.method == "LoRA")
    alone = train(dataclasses.replace(run, output=str(tmp_path / "alone")))
    assert (alone["test"]["accuracy"], alone["warm_start"]["probe"]) == (lora["accuracy"], None)
    history = (tmp_path / "alone" / "history.jsonl").read_text().splitlines()
    assert numbers([json.loads(record) for record in history]) == numbers(lora["curve"])
    assert not Path(asked.output, plan.SHARED).exists(), "nothing is left of it"
    tried = sorted(Path(asked.output).glob("runs/squares/VPT/grid/*/seed-0/warm_start.json"))
    heads = [json.loads(path.read_text())["probe"] for path in tried]
    assert len(heads) == 4
    assert len(set(heads)) == 2, "one for each number of prompts, whatever the rate"


def test_a_shared_head_is_found_by_all_that_it_follows_from(tmp_path: Path) -> None:
    run = squares.run(tmp_path, {"method": "linear_probe"}, limit=30)
    sets = load_sets(run)
    task = tasks.kind(run).begin(run, sets["train"])
    items, adapted = (
        task.prepare(sets["train"]),
        gm.adapt(task.backbone(run), gm.LinearProbe(), num_labels=task.outputs),
    )
    place = solving.place_of(tmp_path, adapted, items, run)
    assert place == solving.place_of(tmp_path, adapted, items, run)
    solved = solving.solve(adapted, items, run)
    solving.write(place, solved)
    again = solving.read(place)
    assert again.seconds == solved.seconds
    assert again.best.held_out_accuracy == solved.best.held_out_accuracy
    assert again.best.held_out_loss == solved.best.held_out_loss
    for found, kept in ((again.best, solved.best), (again.eased, solved.eased)):
        assert found.l2 == kept.l2
        assert torch.equal(found.weight, kept.weight)
        assert torch.equal(found.bias, kept.bias)
    others = [
        solving.place_of(tmp_path, adapted, items, dataclasses.replace(run, seed=8)),
        solving.place_of(tmp_path, adapted, items, dataclasses.replace(run, images=Images(size=run.images.size))),
    ]
    items.labels[3] = 1 - items.labels[3]
    others.append(solving.place_of(tmp_path, adapted, items, run))
    items.labels[3] = 1 - items.labels[3]
    with torch.no_grad():
        next(adapted.backbone.parameters()).view(-1)[0] += 1
    others.append(solving.place_of(tmp_path, adapted, items, run))
    assert len({place, *others}) == 5


def test_a_failing_cell_stops_no_other_and_is_told_of(done: tuple[Comparison, list[dict[str, Any]]]) -> None:
    asked, rows = done
    error = "no block 9: the vision stack"
    assert rows[2]["error"].startswith(error)
    assert rows[2]["accuracy"] is None
    folder = Path(asked.output)
    assert "Traceback" in (folder / "runs/squares/no-block/seed-0/error.txt").read_text()
    assert f"no block on squares, seed 0: failed: {error}" in (folder / "compare.log").read_text()
    page = (folder / "report.html").read_text()
    assert "no block on squares, seed 0: no block 9" in page
    assert Page(page).rows == rows


def test_the_table_holds_the_rows(done: tuple[Comparison, list[dict[str, Any]]]) -> None:
    asked, rows = done
    with Path(asked.output, "rows.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [tuple(row) for row in found] == [COLUMNS] * len(rows)
    assert float(found[1]["accuracy"]) == rows[1]["accuracy"]
    assert json.loads(found[1]["protocol"]) == rows[1]["protocol"]
    assert found[2]["accuracy"] == ""


def test_the_same_command_again_performs_only_what_failed(
    done: tuple[Comparison, list[dict[str, Any]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, rows = done
    before = {path: path.stat().st_mtime_ns for path in Path(asked.output).rglob("row.json")}
    assert len(before) == 7, "three cells and four candidates"
    assert cli.main(["compare", file_of(asked, tmp_path / "c.yaml"), "--workers", "2"]) == 1
    shown = capsys.readouterr()
    assert "failed: no block on squares, seed 0: no block 9" in shown.out
    assert "3 of 4 cells; the report is" in shown.out
    assert shown.err.count("failed: no block 9") == 1
    assert not {"\r", "\x1b"} & set(shown.err), "lines alone where nobody looks"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert stored(Path(asked.output)) == rows


def test_settings_of_a_finished_cell_cannot_change_but_methods_can_be_added(
    done: tuple[Comparison, list[dict[str, Any]]], tmp_path: Path
) -> None:
    asked, rows = done
    shutil.copytree(asked.output, tmp_path / "out")
    other = comparison(tmp_path / "out", {"probe": {**PROBE, "training": {"epochs": 3}}}, seeds=[0])
    with pytest.raises(ValueError, match=r"begun with other settings \(training.epochs; .*training.epochs=2, now 3\)"):
        compare(other)
    more = compare(
        comparison(tmp_path / "out", {"probe": PROBE, "other": PROBE}, seeds=[0]),
        workers=2,
    )
    assert [(r["method"], r["seed"]) for r in more] == [("probe", 0), ("other", 0)]
    assert more[0] == rows[0]
    assert not any(row["error"] for row in more)


@pytest.mark.slow
def test_a_killed_comparison_ends_with_the_rows_of_one_that_was_not(tmp_path: Path) -> None:
    methods = {"probe": PROBE, "VPT": {**VPT, "training": {"epochs": 5}}}
    asked = {name: comparison(tmp_path / name, methods, seeds=[0]) for name in ("whole", "killed")}
    whole = compare(asked["whole"], workers=2)
    training = tmp_path / "killed/runs/squares/VPT/seed-0"
    command = [sys.executable, "-m", "gossamer", "compare", file_of(asked["killed"], tmp_path / "c.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(gm.__file__).parents[1])}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        limit, probe = time.monotonic() + 240, tmp_path / "killed/runs/squares/probe/seed-0/row.json"
        while not (probe.is_file() and list(training.glob("checkpoints/checkpoint-*/trainer_state.json"))):
            assert process.poll() is None, "the comparison ended before it could be killed"
            assert time.monotonic() < limit
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (training / "row.json").exists()
    assert not (tmp_path / "killed/rows.jsonl").exists()
    before = probe.stat().st_mtime_ns
    again = compare(asked["killed"], workers=2)
    assert numbers(again) == numbers(whole)
    assert probe.stat().st_mtime_ns == before, "what was finished is not performed again"
    assert "continuing from" in (training / "train.log").read_text()


@pytest.mark.slow
def test_a_cell_ends_with_the_process_that_began_it(tmp_path: Path) -> None:
    """The cell waits for a lock that is never given; when its parent is killed, it is gone too."""
    cell = plan.cells(comparison(tmp_path, {"probe": PROBE}, seeds=[0]), {})[0]
    cell.folder.mkdir(parents=True)
    code = (
        "import pickle, sys\nfrom gossamer.comparison import engines\n"
        "if __name__ == '__main__':\n"
        "    place = engines.Local(1)\n"
        "    print(place.start(pickle.load(sys.stdin.buffer)).pid, flush=True)\n"
        "    sys.stdin.buffer.read()\n    import time; time.sleep(100)\n"
    )
    import pickle

    (tmp_path / "parent.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(Path(gm.__file__).parents[1])}
    with filelock.FileLock(cell.folder / ".lock"):
        command = [sys.executable, str(tmp_path / "parent.py")]
        parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert parent.stdin is not None
        assert parent.stdout is not None
        with parent.stdin, parent.stdout:
            pickle.dump(cell, parent.stdin)
            parent.stdin.flush()
            child = int(parent.stdout.readline())
            limit = time.monotonic() + 120
            while not (cell.folder / engines.LOG).exists():
                assert time.monotonic() < limit
                time.sleep(0.01)
            parent.kill()
            parent.wait()
            while _alive(child):
                assert time.monotonic() < limit, "the cell's process outlives its parent"
                time.sleep(0.05)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_process_that_is_killed_is_a_failed_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killing(engines.Local):
        def start(self, cell: Any) -> Any:
            process = super().start(cell)
            if cell.run.seed == 3:
                process.kill()
            return process

    monkeypatch.setitem(engines.ENGINES, "local", Killing)
    rows = compare(comparison(tmp_path / "out", {"probe": PROBE}))
    assert rows[0]["error"] is None
    assert rows[1]["error"].startswith("its process was ended by SIGKILL (out of memory?); see ")


@pytest.mark.slow
def test_data_without_a_test_split_are_scored_on_held_out_images_or_refused(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    shutil.copytree(squares.images() / "train", folder)
    tasks = {
        name: {"data": {"name": str(folder), "limit": 60, "validation": part}}
        for name, part in (("held", 0.25), ("none", 0))
    }
    rows = compare(comparison(tmp_path / "out", {"probe": PROBE}, tasks=tasks, seeds=[0]))
    assert (rows[0]["split"], rows[0]["images"]) == ("val", {"train": 45, "val": 15})
    assert "has neither a test nor a validation split to score: set data.validation above 0" in rows[1]["error"]
    assert "There is no test split" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
def test_a_grid_without_anything_to_choose_leaves_its_cells_undecided(tmp_path: Path) -> None:
    wild = {**VPT, "grid": {"training.lr": [1e30]}, "training": {"clip": 0.0}}
    rows = compare(comparison(tmp_path / "a", {"wild": wild}, seeds=[0]))
    assert rows[0]["error"] == "nothing was chosen from its grid: training diverged with every candidate"
    assert rows[0]["selection"] == [{"settings": {"training.lr": 1e30}, "validation_accuracy": None}]
    blind = {**VPT, "grid": {"training.lr": [0.1]}}
    rows = compare(comparison(tmp_path / "b", {"blind": blind}, seeds=[0], selection=Selection(validation=0)))
    assert "has no validation split to choose on: set selection.validation above 0" in rows[0]["error"]


def test_what_cannot_begin_says_so_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = comparison(tmp_path / "out", {"probe": PROBE})
    with pytest.raises(ValueError, match="engine must be one of local, ray and workers 1 or more, got 'cloud' and 0"):
        compare(good, engine="cloud", workers=0)
    with pytest.raises(ValueError, match="method 'bad' on task 'squares': no method 'vtp'"):
        compare(comparison(tmp_path / "out", {"probe": PROBE, "bad": {"methods": [{"method": "vtp"}]}}))
    monkeypatch.setattr("gossamer.comparison.page.available", lambda: False)
    with pytest.raises(ImportError, match=r"needs scipy: pip install 'gossamer\[report\]'"):
        compare(good)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "ray", None)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ImportError, match=r"--engine ray needs Ray: pip install 'gossamer\[sweep\]'"):
        compare(good, engine="ray")


def test_two_comparisons_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        filelock.FileLock(tmp_path / ".lock"),
        pytest.raises(BlockingIOError, match=r"another process works in .*: wait for it, or end it"),
    ):
        compare(comparison(tmp_path, {"probe": PROBE}))


def test_help_explains_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "--help"]) == 0
    shown = capsys.readouterr().out
    for kind in (Comparison, Selection):
        assert all(f"{name}: " in shown for name in kind.__dataclass_fields__)


@pytest.mark.slow
def test_the_row_of_a_cell_that_failed_once_forgets_the_error(tmp_path: Path) -> None:
    """An image that cannot be read fails its task; mended, the same command finishes it."""
    folder = squares.save_images(tmp_path / "images", train=12, test=4)
    bad = folder / "test" / "same" / "001.png"
    content = bad.read_bytes()
    bad.write_bytes(content[:40])
    asked = comparison(tmp_path / "out", {"probe": {**PROBE, "grid": {"training.epochs": [1]}}}, seeds=[0])
    asked.tasks["squares"]["data"] = {"name": str(folder)}
    rows = compare(asked)
    assert "001.png cannot be read as an image" in rows[0]["error"]
    assert rows[0]["selection"][0]["validation_accuracy"] is not None, "the choice never read the test split"
    bad.write_bytes(content)
    rows = compare(asked)
    assert rows[0]["error"] is None
    assert rows[0]["images"]["test"] == 8
    assert not Path(asked.output, "runs/squares/probe/seed-0/error.txt").exists()
    assert sweep.REPORT in {path.name for path in Path(asked.output).iterdir()}
