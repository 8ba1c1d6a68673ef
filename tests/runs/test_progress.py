"""What a run tells while it works."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from gossamer.runs.progress import Bar, Journal


def told(steps: int, seconds: float, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of a training whose first step takes ten times as long as the others."""
    clock = itertools.chain([0.0], itertools.count(9 * seconds, seconds))
    bar = Bar(Journal(folder / "log"), lambda log: None)
    state = SimpleNamespace(max_steps=steps, global_step=0)
    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", lambda: next(clock))
        next(clock)
        bar.on_train_begin(None, state, None)
        for state.global_step in range(1, steps + 1):
            bar.on_step_end(None, state, None)
        bar.on_train_end(None, state, None)
    return (folder / "log").read_text().splitlines() if (folder / "log").exists() else []


def test_a_long_run_says_early_how_long_it_will_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = told(36, 24.0, tmp_path, monkeypatch)
    assert line.endswith("32 steps to go, some 24.0 s each: about 13 minutes, and validation")


def test_a_short_run_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(36, 0.5, tmp_path, monkeypatch) == told(2, 500.0, tmp_path, monkeypatch) == []
