"""Races on a tiny task and a backbone of which two blocks do nothing: they are found, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gossamer import hosts, methods, tasks
from gossamer.cli import main
from gossamer.comparison import engines
from gossamer.racing import race as racing
from gossamer.racing.candidates import RULES
from gossamer.racing.race import passes, race
from gossamer.runs.run import Run, Search
from gossamer.runs.run_file import parse, to_yaml
from gossamer.runs.sets import load_sets
from gossamer.searching import depth

from .. import squares
from . import idle
from .idle import IDLE

DAS = {"method": "das", "skip": 2, "rank": 2, "shortcut_rank": 3, "init": "zero_up"}
SEARCH = Search(by="race", candidates=4, hold_out=0.25)


def planned(output: Path, **search: Any) -> Run:
    return dataclasses.replace(idle.run(output, DAS), search=dataclasses.replace(SEARCH, **search))


def plain(rows: Any) -> list[dict[str, Any]]:
    """Rows without what the clock says."""
    curve = [[{k: v for k, v in r.items() if k != "seconds"} for r in row["curve"]] for row in rows]
    return [{**row, "seconds": None, "curve": c} for row, c in zip(rows, curve, strict=True)]


def test_a_scan_sees_idle_blocks(tmp_path: Path) -> None:
    run = planned(tmp_path)
    train = load_sets(run)["train"]
    task = tasks.kind(run).begin(run, train)
    model: Any = task.backbone(run).eval()
    anatomy = hosts.read(model)
    found = depth.scan(lambda **inputs: model(**inputs), anatomy, task.prepare(train))
    benefit, change = depth.benefits(found), depth.changes(found)
    assert [d.block for d in found] == [None, *(f"vision.blocks.{i}" for i in range(5))]
    assert [i for i in range(5) if change[f"vision.blocks.{i}"] == 0] == list(IDLE)
    assert [i for i in range(5) if benefit[f"vision.blocks.{i}"] == 0] == list(IDLE)
    assert found[-1].accuracy > 0.8, "it decides the classes itself"
    assert not anatomy.log
    depth.draw(found, tmp_path / "scan.png")
    assert (tmp_path / "scan.png").read_bytes().startswith(b"\x89PNG")
    assert "vision.blocks.3" in depth.table(found)


@pytest.mark.slow
def test_the_scan_of_a_run_file_and_of_what_it_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = dataclasses.replace(parse([str(squares.trained() / "run.yaml")])[0], output=str(tmp_path / "out"))
    (tmp_path / "run.yaml").write_text(to_yaml(run))
    assert main(["scan", str(tmp_path / "run.yaml")]) == 0
    bare = capsys.readouterr().out
    shutil.copytree(squares.trained(), tmp_path / "trained")
    (tmp_path / "trained" / "run.yaml").write_text(to_yaml(dataclasses.replace(run, output=str(tmp_path / "trained"))))
    assert main(["scan", str(tmp_path / "trained")]) == 0
    adapted = capsys.readouterr().out
    assert bare.splitlines()[1] == adapted.splitlines()[1], "what enters is the same"
    assert bare.splitlines()[4] != adapted.splitlines()[4]
    for folder in ("out", "trained"):
        assert {p.name for p in (tmp_path / folder / "scan").iterdir()} == {"scan.json", "scan.png"}


@pytest.mark.parametrize(("seed", "count"), [(0, 2), *(pytest.param(n, 6, marks=pytest.mark.slow) for n in range(3))])
def test_a_race_finds_the_planted_pair(tmp_path: Path, monkeypatch: Any, seed: int, count: int) -> None:
    monkeypatch.setattr(engines, "perform", idle.here)
    found = race(dataclasses.replace(planned(tmp_path, candidates=count), seed=seed))
    assert found.chosen == IDLE
    rungs = {2: [], 6: [6, 3]}[count]  # and the last: two candidates and the rules, with two seeds each
    ran = [
        [row["candidate"] for row in found.rows if row["rung"] == rung] for rung in range(found.rows[-1]["rung"] + 1)
    ]
    assert [len(names) for names in ran[:-1]] == rungs
    assert all(ran[-1].count(name) == 2 for name in ran[-1])
    assert set(RULES) & set(ran[0]) <= set(ran[-1]), "runs of an epoch do not put simple rules out"
    assert 2 <= len(set(ran[-1])) <= 4
    assert [row["epochs"] for row in found.rows] == [min(2, 2 ** row["rung"]) for row in found.rows]
    assert sum(1 + row["epochs"] for row in found.rows) <= passes(count, planned(tmp_path).training.epochs)
    folder = tmp_path / "race"
    assert {"found.yaml", "rows.jsonl", "race.png", "scan.json", "result.json"} <= {p.name for p in folder.iterdir()}
    assert parse([str(folder / "found.yaml")])[0].methods[0]["skip"] == list(IDLE)
    with pytest.raises(FileExistsError, match="finished"):
        race(planned(tmp_path))


def torn(whole: Path, part: Path) -> None:
    """A copy of a race as a kill in its second rung leaves it."""
    shutil.copytree(whole, part)
    for name in ("result.json", "found.yaml", "rows.jsonl"):
        (part / "race" / name).unlink()
    rows = sorted((part / "race" / "rungs").rglob("row.json"))
    for row in rows[3:]:
        row.unlink()
    shutil.rmtree(rows[-1].parent)


@pytest.mark.slow
def test_a_killed_race_goes_on_to_the_same_end(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(engines, "perform", idle.here)
    whole = race(planned(tmp_path / "whole"))
    torn(tmp_path / "whole", tmp_path / "part")
    again = race(planned(tmp_path / "part", workers=2), resume=True)
    assert plain(again.rows) == plain(whole.rows)
    assert (again.name, again.chosen) == (whole.name, whole.chosen)


@pytest.mark.slow
def test_two_workers_race_to_the_same_end(tmp_path: Path) -> None:
    one, two = (race(planned(tmp_path / str(n), workers=n)) for n in (1, 2))
    assert plain(two.rows) == plain(one.rows)
    assert (two.name, two.chosen) == (one.name, one.chosen)
    torn(tmp_path / "1", tmp_path / "part")
    again = race(planned(tmp_path / "part", workers=2), resume=True)
    assert plain(again.rows) == plain(one.rows)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Without processes: what a cell is worth is said here."""

    def said(cells: Any, engine: str, workers: int) -> Any:
        for cell in cells:
            skipped = methods.from_dict(cell.run.methods[0]).skip  # type: ignore[attr-defined]
            loss = 0.1 * len(set(skipped) - set(IDLE)) + 0.01 * cell.run.seed
            row = {"validation_loss": loss, "validation_accuracy": 1 - loss, "macs": 7, "seconds": 0.0, "error": None}
            cell.folder.mkdir(parents=True)
            (cell.folder / "row.json").write_text(json.dumps({**row, "curve": []}))
            assert cell.run.data.test is False
            assert cell.run.data.validation == 0.25
            yield cell, False, None
            yield cell, True, None

    monkeypatch.setattr(engines, "perform", said)
    run = planned(tmp_path / "run")
    (tmp_path / "run.yaml").write_text(to_yaml(run))
    assert main(["search", str(tmp_path / "run.yaml"), "search.candidates=10"]) == 0
    out = capsys.readouterr().out
    assert "won after 24 runs: vision.blocks.1, vision.blocks.3" in out  # 10, 5, 3, then 2 with two seeds
    assert main(["search", str(tmp_path / "run.yaml"), "search.candidates=10"]) == 2
    assert main(["search", str(tmp_path / "run.yaml"), "search.candidates=9", "--resume"]) == 2
    assert "begun with other settings (search" in capsys.readouterr().err
    assert main(["search", str(tmp_path / "run.yaml"), "methods=[{method: vpt}]", "--overwrite"]) == 2
    assert "a race needs exactly one method with something to choose" in capsys.readouterr().err


def test_a_run_that_fails_stops_the_race(tmp_path: Path, monkeypatch: Any) -> None:
    def failing(cells: Any, engine: str, workers: int) -> Any:
        yield cells[0], False, None
        yield cells[0], True, "its process was ended by SIGKILL"

    monkeypatch.setattr(racing.engines, "perform", failing)
    with pytest.raises(Exception, match=r"a run of the race failed .* SIGKILL; --resume goes on"):
        race(planned(tmp_path))
