"""`gossamer shrink` on a backbone of which two blocks do nothing, and its decisions without any training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import gossamer as gm
from gossamer import export
from gossamer.cli import main
from gossamer.comparison import engines
from gossamer.errors import UserError
from gossamer.racing import costs, final, trials, whole
from gossamer.racing.costs import Costs
from gossamer.racing.race import Raced
from gossamer.racing.shrink import shrink
from gossamer.racing.trials import Trials
from gossamer.racing.whole import Shrink, Smaller, Whole
from gossamer.runs.progress import Journal
from gossamer.training.train import train

from . import idle

pytestmark = pytest.mark.usefixtures("undrawn")

LORA = {"method": "peft", "peft_type": "LORA", "r": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose validation images are a fifth of 200."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(idle.run(folder, LORA))
    return folder


def decided(monkeypatch: Any, accuracy: dict[int, float], luck: tuple[float, ...] = (0.0, 0.0, 0.0)) -> list[int]:
    """Nothing is trained: what a number of skipped blocks reaches is said here, 0 is the run itself when it is trained again.

    `luck` is added to smaller ones in each draw. Gets the numbers that were asked for, in order.
    """
    asked: list[int] = []

    def raced(run: Any, *, resume: bool) -> Raced:
        size = run.methods[-1]["skip"]
        asked.append(size)
        assert resume
        assert run.search.by == "race"
        assert run.training.teacher is not None
        found = (
            *(gm.methods.from_dict(m) for m in run.methods[:-1]),
            gm.DAS(skip=tuple(range(size)), rank=0, bridge="per-run"),
        )
        return Raced(methods=found, arms=tuple("abcde"), chosen=tuple(range(size)), name="deepest", rows=())

    def performed(cells: Any, engine: str, workers: int) -> Any:
        for cell in cells:
            cell.folder.mkdir(parents=True)
            if cell.choosing:
                das = next((m for m in cell.run.methods if m["method"] == "das"), {"skip": []})
                size, lost = len(das["skip"]), sum(m.get("r", 0) for m in cell.run.methods if m["method"] == "tome")
                row = {
                    "validation_accuracy": accuracy[size]
                    - 0.3 * max(0, lost - 1)
                    + (luck[cell.run.seed] if size else 0.0),
                    "validation_loss": 0.5,
                    "macs": 5 - size,
                }
            else:
                row = dict.fromkeys(
                    ("split", "accuracy", "balanced_accuracy", "trainable_parameters", "gmacs", "bare_gmacs", "latency_ms",
                     "bare_latency_ms", "latency_ratio", "seconds"), 0.5,
                )  # fmt: skip
            (cell.folder / "row.json").write_text(json.dumps(row))
            yield cell, False, None
            yield cell, True, None

    monkeypatch.setattr(trials, "race", raced)
    monkeypatch.setattr(engines, "perform", performed)
    monkeypatch.setattr(final, "latencies", lambda whole, cell: {"latency_ratio_at_1": 0.4})
    return asked


def reference(folder: Path) -> float:
    return json.loads((folder / "metrics.json").read_text())["val"]["accuracy"]


@pytest.mark.parametrize(
    ("fits", "numbers", "chosen"),
    [
        (4, [2, 3, 4], 4),
        pytest.param(2, [2, 3], 2, marks=pytest.mark.slow),
        pytest.param(1, [2, 1], 1, marks=pytest.mark.slow),
        (0, [2, 1], None),
    ],
)
def test_the_most_blocks_within_the_tolerance(
    trained: Path, tmp_path: Path, monkeypatch: Any, fits: int, numbers: list[int], chosen: int | None
) -> None:
    level = reference(trained)
    asked = decided(monkeypatch, {0: level, **{m: level - (0.005 if m <= fits else 0.4) for m in range(1, 5)}})
    found = shrink(Shrink(run=str(trained), output=str(tmp_path), cost="macs"))
    assert asked == numbers
    assert found["reference"]["accuracy"] == level
    assert found["reference"]["items"] == 40
    assert [t["blocks"] for t in found["tried"]] == numbers
    assert [len(t["accuracies"]) for t in found["tried"]] == [3 if m <= fits else 1 for m in numbers]
    assert len(found["reference"]["accuracies"]) == (3 if fits else 1)
    expected = [0.005 if m <= fits else 0.4 for m in numbers]
    assert [t["lost"] for t in found["tried"]] == pytest.approx(expected)
    assert all(0 < t["cost"] < 1 for t in found["tried"])
    assert found["chosen"] == (None if chosen is None else {"skipped": list(range(chosen)), "merged": 0, "int8": False})
    assert len(found["final"]) == (0 if chosen is None else 1)
    assert ("40.0 points are lost" in found["why"]) == (chosen is None)
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert "up to 3 sizes are tried" in (tmp_path / "shrink.log").read_text()


@pytest.mark.parametrize(
    ("luck", "draws", "within"),
    [((-0.05, 0.02, 0.02), 3, True), ((0.0, -0.02, -0.02), 3, False), ((-0.4, 0.4, 0.4), 1, False)],
    ids=["unlucky", "lucky", "hopeless"],
)
def test_one_draw_of_held_out_items_does_not_decide(
    trained: Path, tmp_path: Path, monkeypatch: Any, luck: tuple[float, ...], draws: int, within: bool
) -> None:
    """5 points below on 40 items are within 1 and a standard error, so two more draws say; 40 points are not."""
    level = 0.85
    monkeypatch.setattr(Trials, "_first", lambda self: {"accuracy": level, "items": 40, "run": str(trained)})
    asked = decided(monkeypatch, dict.fromkeys(range(5), level), luck)
    found = shrink(Shrink(run=str(trained), output=str(tmp_path), cost="macs"))
    one = found["tried"][0]
    assert (one["within"], one["accuracies"]) == (within, pytest.approx([level + x for x in luck[:draws]]))
    assert one["standard_error"] == pytest.approx((one["accuracy"] * (1 - one["accuracy"]) / (40 * draws)) ** 0.5)
    assert len(one["runs"]) == draws
    assert asked[0] == 2


@pytest.mark.slow
def test_a_speed_that_is_asked_for(trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    level = reference(trained)
    asked = decided(monkeypatch, {m: level - (0.0 if m <= 3 else 0.4) for m in range(5)})
    found = shrink(Shrink(run=str(trained), output=str(tmp_path / "a"), cost="macs", faster=1.8))
    ratios = json.loads((tmp_path / "a" / "ratios.json").read_text())
    least = min(int(m.partition(" ")[0]) for m, ratio in ratios.items() if ratio <= 1 / 1.8)
    assert asked[0] == least == 3
    assert found["chosen"] == {"skipped": [0, 1, 2], "merged": 0, "int8": False}
    asked.clear()
    found = shrink(Shrink(run=str(trained), output=str(tmp_path / "b"), cost="macs", faster=2.9))
    assert asked == [4]
    assert found["chosen"] is None
    assert "and 2.9 times as fast; with 4 blocks skipped 40.0 points are lost" in found["why"]
    with pytest.raises(UserError, match=r"faster=50\.0: with 4 of 5 blocks skipped the model still costs"):
        shrink(Shrink(run=str(trained), output=str(tmp_path / "c"), cost="macs", faster=50.0))


def test_tokens_are_merged_on_top_where_there_are_many(trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Two of five blocks go; of the four patches three, then two in the three blocks left are too many, one is not."""
    level = reference(trained)
    monkeypatch.setattr(whole, "MANY", 5)
    decided(monkeypatch, {m: level if m <= 2 else 0.0 for m in range(5)})
    found = shrink(Shrink(run=str(trained), output=str(tmp_path), cost="macs"))
    assert [(t["blocks"], t["merged"]) for t in found["tried"]] == [(2, 0), (3, 0), (2, 1)]
    assert found["chosen"] == {"skipped": [0, 1], "merged": 1, "int8": False}
    assert "2 of 5 blocks skipped and 1 tokens merged in each other: the cheapest" in found["why"]


@pytest.mark.parametrize(("accuracy", "within"), [(0.0, True), (-0.4, False)])
def test_the_cheapest_is_tried_in_eight_bits(
    trained: Path, tmp_path: Path, monkeypatch: Any, accuracy: float, within: bool
) -> None:
    """Two of five blocks go; the file in 8 bits is cheaper, and chosen where it is as good."""
    level = reference(trained)
    decided(monkeypatch, {m: level if m <= 2 else 0.0 for m in range(5)})
    monkeypatch.setattr(
        export,
        "export_run",
        lambda *_, **__: {
            name: {"exported": level + accuracy, "adapter": level} for name in ("accuracy", "balanced_accuracy")
        },
    )
    monkeypatch.setattr(Costs, "of", lambda self, smaller: 1 - 0.1 * smaller.blocks)
    monkeypatch.setattr(costs, "file_share", lambda whole, file, count: 0.3)
    monkeypatch.setattr(final, "file_share", lambda whole, file, count: 0.2 * count)
    found = shrink(Shrink(run=str(trained), output=str(tmp_path)))
    assert [(t["blocks"], t["int8"], t["within"]) for t in found["tried"]] == [
        (2, False, True), (3, False, False), (2, True, within),
    ]  # fmt: skip
    assert found["chosen"]["int8"] == within
    assert found["why"].startswith(f"2 of 5 blocks skipped{', in 8 bits' if within else ''}: the cheapest")
    if within:
        assert found["tried"][2]["cost"] == 0.3
        assert found["final"][0]["latency_ratio_at_32"] == pytest.approx(6.4)
        assert (found["final"][0]["accuracy"], found["final"][0]["float_accuracy"]) == (level, level)
        assert found["final"][0]["file"].endswith("model.int8.onnx")


@pytest.mark.slow
def test_a_file_in_eight_bits_is_scored_and_timed(trained: Path, tmp_path: Path) -> None:
    """The run itself, with nothing skipped, as a file that onnxruntime reads; a second time nothing is written anew."""
    run = shutil.copytree(trained, tmp_path / "run")
    asked = Whole(Shrink(run=str(run)))
    tried = Trials(asked, Costs(asked, tmp_path / "ratios.json"), tmp_path, Journal(tmp_path / "log"))
    tried.in_eight_bits(Smaller(), [str(run)])
    assert tried.tried[0]["accuracy"] == pytest.approx(tried.reference["accuracy"], abs=0.1)
    assert tried.tried[0]["cost"] > 0
    written = (run / "model.int8.onnx").stat().st_mtime_ns
    tried.in_eight_bits(Smaller(), [str(run)])
    assert tried.tried[1] == tried.tried[0]
    assert (run / "model.int8.onnx").stat().st_mtime_ns == written


def test_what_cannot_be_shrunk(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    assert main(["shrink", str(tmp_path / "nowhere")]) == 2
    decided(monkeypatch, dict.fromkeys(range(5), 0.0))
    once = ["shrink", str(trained), "--output", str(tmp_path / "out"), "--cost", "macs"]
    assert main(once) == 0
    assert "nothing that is cheaper was within 1 points" in capsys.readouterr().out
    assert main([*once, "--within", "2"]) == 2
    assert "was begun with other settings (within=1.0, now 2.0)" in capsys.readouterr().err
    with pytest.raises(UserError, match="within must not be negative"):
        Shrink(run="x", within=-1.0)


@pytest.mark.slow
def test_a_run_is_shrunk(trained: Path, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The two idle blocks go without loss; the same command again trains nothing and says the same."""
    monkeypatch.setattr(engines, "perform", idle.here)
    once = ["shrink", str(trained), "--output", str(tmp_path / "out"), "--cost", "macs", "--candidates", "3"]
    assert main([*once, "--export", str(tmp_path / "small.onnx")]) == 0
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {1, 3} <= set(found["chosen"]["skipped"])
    assert found["final"][0]["accuracy"] >= found["teacher"]["accuracy"] - 0.1
    assert found["final"][0]["gmacs"] < found["final"][0]["bare_gmacs"]
    assert (tmp_path / "small.onnx").is_file()
    assert "x at batch 1" in out
    monkeypatch.setattr(engines, "perform", lambda cells, *_: iter([]) if not cells else pytest.fail("trained again"))
    assert main(once) == 0
    again = json.loads((tmp_path / "out" / "report.json").read_text())
    assert again["tried"] == found["tried"]
