"""Races beyond images: blocks of ViLT and METER, and the place of DVP's prompt, on questions about tiny images."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from gossamer.comparison import engines
from gossamer.racing.candidates import RULES
from gossamer.racing.race import race
from gossamer.runs import run_file
from gossamer.runs.run import Search

from .. import questions
from . import idle

SKIPS = {"method": "das", "skip": 1, "rank": 2, "shortcut_rank": 3, "init": "zero_up"}
RACES: dict[str, tuple[str, dict[str, Any], int]] = {  # model, method, arms
    "vilt": ("vilt", SKIPS, 3),
    "meter": ("meter", {**SKIPS, "skip": 2}, 4),
    "meter-attentions": ("meter", {**SKIPS, "modules": "attention"}, 8),
    "dvp": ("llama", {"method": "dvp", "heads": 2, "rank": 2}, 2),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:block=0")  # DVP says what that place lacks; it may race all the same
@pytest.mark.parametrize("name", RACES)
def test_arms_of_every_kind_are_raced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Three candidates, or as many as there are: each is scored on held-out questions, and the run with the winner is written."""
    model, method, count = RACES[name]
    monkeypatch.setattr(engines, "perform", idle.here)
    run = questions.run(tmp_path, model, methods=[method], epochs=2, lr=1e-3)
    found = race(dataclasses.replace(run, search=Search(by="race", candidates=3, hold_out=0.25)))
    assert len(found.arms) == count
    size = method.get("skip", 1)
    assert len(found.chosen) == size
    assert all(math.isfinite(row["loss"]) and len(row["chosen"]) == size for row in found.rows)
    assert len({row["candidate"] for row in found.rows}) == min(3, math.comb(count, size))
    last = [row["candidate"] for row in found.rows if row["rung"] == found.rows[-1]["rung"]]
    entered = {row["candidate"] for row in found.rows}
    assert found.name in last
    assert sorted(last) == sorted(2 * list(set(last))), "two seeds each"
    assert len(set(last) - set(RULES)) <= 2
    assert entered & set(RULES) <= set(last)
    [written] = run_file.parse([str(tmp_path / "race" / "found.yaml")])[0].methods
    assert written.get("skip", written.get("block")) == (list(found.chosen) if "skip" in method else found.chosen[0])
    assert json.loads((tmp_path / "race" / "scan.json").read_text())["arms"] == list(found.arms)
