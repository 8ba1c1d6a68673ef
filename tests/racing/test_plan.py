"""`gossamer plan` on a tiny model and tiny images: what it counts, what it estimates, and the comparison that it writes."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import ViTForImageClassification, ViTImageProcessor

from gossamer.cli import main
from gossamer.comparison import plan as comparing
from gossamer.errors import UserError
from gossamer.racing import plan as planning
from gossamer.racing.plan import Planned, Setting, comparison, plan, run_minutes, usual
from gossamer.runs.run import Masks, Run

from .. import squares

PROBE = {"method": "linear_probe"}


def base(output: Path, **changes: Any) -> Run:
    return dataclasses.replace(squares.run(output, PROBE), **changes)


def test_what_is_usual_for_a_model(tmp_path: Path) -> None:
    """Three blocks and 16 patches: one or two blocks can go, the last stays; 2 patches a block merge to about half."""
    found = usual(ViTForImageClassification.from_pretrained(squares.backbone()), squares.SIZE)
    skipped = {s.name: s.methods[1]["skip"] for s in found if s.methods[-1]["method"] == "das"}
    assert skipped == {"LoRA without 1 of 3 blocks": [1], "LoRA without 2 of 3 blocks": [1, 2]}
    assert [s.methods[1]["r"] for s in found if s.methods[-1]["method"] == "tome"] == [2]


def test_settings_are_counted_and_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [
        Setting(name="probe", methods=(PROBE,)),
        Setting(name="prompts", methods=({"method": "vpt", "prompts": 5},), rates=(1e-3, 1e-2)),
        Setting(name="none", methods=({"method": "vpt", "prompts": 5, "blocks": (0, 7)},)),
        Setting(name="one rate", methods=({"method": "vpt", "prompts": 1},), rates=(1e-3,)),
    ]
    monkeypatch.setattr(planning, "usual", lambda *_: settings)
    probe, prompts, none, one = plan(base(tmp_path), seeds=2)
    assert (probe.trainable, prompts.trainable) == (2 * 25, 2 * 25 + 3 * 5 * 24)
    assert probe.share == 1.0
    assert prompts.share is not None
    assert prompts.share > 1.0
    assert probe.step_mib == 0.0
    assert prompts.step_mib is not None
    assert prompts.step_mib > 0.0
    assert none.refused is not None
    assert "blocks" in none.refused
    assert not none.fits
    assert [p.minutes / p.run_minutes for p in (prompts, one) if p.minutes and p.run_minutes] == pytest.approx([4, 2])
    assert not list(tmp_path.iterdir())


def test_the_minutes_of_a_run(tmp_path: Path) -> None:
    """600 training items: one pass for the head, 2 epochs of steps; 100 validated after each, 200 scored at the end."""
    run = base(tmp_path, training=dataclasses.replace(base(tmp_path).training, epochs=2))
    ms = {"bare_latency_ms": 3.0, "latency_ms": 5.0, "step_ms": 11.0}
    items = {"train": 600, "val": 100, "test": 200}
    assert run_minutes(run, items, ms, tuned=True) == pytest.approx((600 * 3 + 2 * 600 * 11 + 400 * 5) / 60_000)
    assert run_minutes(run, items, ms, tuned=False) == pytest.approx((600 * 3 + 300 * 5) / 60_000)


def test_what_fits_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """10, 30 and 15 minutes in 26: the second is passed over, the third fits behind the first."""
    minutes = {"a": 10.0, "b": 30.0, "c": 15.0}
    monkeypatch.setattr(planning, "usual", lambda *_: [Setting(name=n, methods=(PROBE,)) for n in minutes])
    monkeypatch.setattr(planning, "_measured", lambda s, *_: Planned(setting=s, minutes=minutes[s.name]))
    run = base(tmp_path)
    found = plan(run, budget_minutes=26)
    assert [one.fits for one in found] == [True, False, True]
    assert list(comparison(run, found, seeds=3, output="runs/x").methods) == ["a", "c"]
    masked = dataclasses.replace(run, masks=Masks(decoder="setr-naive", channels=32))
    assert comparison(masked, found, seeds=3, output="runs/x").run["masks"] == {"decoder": "setr-naive", "channels": 32}
    with pytest.raises(UserError, match=r"nothing fits the budget: the least takes about 10\.0 minutes"):
        comparison(run, plan(run, budget_minutes=5), seeds=3, output="runs/x")
    with pytest.raises(UserError, match="budget_minutes must be above 0"):
        plan(run, budget_minutes=0)


def test_the_command_writes_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        Setting(name="probe", methods=(PROBE,)),
        Setting(name="bias", methods=({"method": "bitfit"},), rates=(1e-3, 1e-2)),
    ]
    monkeypatch.setattr(planning, "usual", lambda *_: settings)
    file = tmp_path / "plan.yaml"
    model = shutil.copytree(squares.backbone(), tmp_path / "vit")
    ViTImageProcessor(size={"height": squares.SIZE, "width": squares.SIZE}).save_pretrained(model)
    asked = ["plan", "--data", str(squares.images()), "--model", str(model), "--output", str(file), "--seeds", "2"]
    assert main(asked) == 0
    out = capsys.readouterr().out
    assert "min in all" in out
    assert f"gossamer compare {file}" in out
    read = comparing.read(file)
    assert read.methods["bias"]["grid"] == {"training.lr": [1e-3, 1e-2]}
    assert len(comparing.cells(read, {("bias", t): {"training.lr": 1e-3} for t in read.tasks})) == 4
    assert read.output == str(tmp_path / "plan")
    assert main(asked) == 2
    assert "is there already" in capsys.readouterr().err
