"""Comparisons on texts about images: answered by a head, or written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import gossamer as gm
from gossamer import tasks
from gossamer.batches import on
from gossamer.comparison import plan
from gossamer.comparison.cell import COLUMNS, ROW, perform
from gossamer.comparison.settings import Comparison
from gossamer.comparison.sweep import compare
from gossamer.comparison.timing import _frozen
from gossamer.runs.sets import load_sets
from gossamer.training.trainer import ClassifierTrainer

from .. import questions
from .pages import Page

pytestmark = pytest.mark.usefixtures("undrawn")

LORA = {"method": "peft", "peft_type": "LORA", "r": 2}
TEXTS = {"methods": [LORA]}
SEES = {"methods": [questions.VISUAL, LORA]}
MEASURED = {name for name in COLUMNS if name.endswith(("_ms", "_ratio", "_mib"))} | {"seconds"}


def comparison(output: Path, models: tuple[str, ...], **methods: Any) -> Comparison:
    run = {
        "data": {"name": "gqa", "path": str(questions.gqa()), "limit": 30},
        "images": {"size": questions.SIZE, "mean": [0.5] * 3, "std": [0.5] * 3},
        "texts": {"answer_tokens": 3},
        "training": {"epochs": 2, "batch": 12},
    }
    tower = {"vision": str(questions.model("vit"))}
    of_models = {n: {"model": {"name": str(questions.model(n)), **({} if n == "vilt" else tower)}} for n in models}
    return Comparison(run=run, methods=methods, tasks=of_models, seeds=[0], output=str(output))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, str], dict[str, Any]]]:
    """Cells performed in this process, which is what their own do; the comparison then finds them finished."""
    asked = comparison(tmp_path_factory.mktemp("texts"), ("bert", "llama"), sees=SEES, texts=TEXTS)
    for cell in plan.cells(asked, {}):
        perform(cell)
    rows = compare(asked)
    return Path(asked.output), {(row["method"], row["task"]): row for row in rows}


def test_answers_by_a_head_and_written_ones_have_their_rows(done: Any) -> None:
    output, rows = done
    assert not any(row["error"] for row in rows.values())
    for (method, task), row in rows.items():
        assert tuple(row) == COLUMNS
        metrics = json.loads((output / "runs" / task / method / "seed-0" / "metrics.json").read_text())
        assert row["accuracy"] == metrics["test"]["accuracy"]
        assert row["balanced_accuracy"] is None, "texts have no balanced accuracy"
        assert row["images"] == {"train": 30, "val": 2, "test": 30}
        written = {name: row[name] for name in ("answer_ms", "bare_answer_ms", "answer_ratio")}
        assert all(v is None for v in written.values()) if task == "bert" else min(written.values()) > 0
        if task == "llama":
            assert row["answer_ms"] > row["latency_ms"], "three tokens take longer than the first"
        assert min(row[name] for name in MEASURED - written.keys()) > 0
    assert rows["sees", "bert"]["gmacs"] > rows["texts", "bert"]["gmacs"] == rows["texts", "bert"]["bare_gmacs"]


def test_visual_tokens_cost_the_memory_of_a_step_and_the_text_alone_does_not_know_them(done: Any) -> None:
    _, rows = done
    for task in ("bert", "llama"):
        sees, texts = rows["sees", task], rows["texts", task]
        assert sees["text_step_mib"] == pytest.approx(texts["text_step_mib"], rel=0.02)
        assert sees["step_mib"] > 1.5 * texts["step_mib"]


def test_the_report_shows_what_there_is(done: Any) -> None:
    output, rows = done
    shown = Page((output / "report.html").read_text())
    assert shown.rows == list(rows.values())
    heading = [text for _, text in shown.tables["overview"][0]]
    assert not any(text.startswith("Balanced") for text in heading), "texts have none"
    assert heading[-4:] == ["Answer \u00d7 bare", "Step time \u00d7 text alone", "Memory MiB a step", "Training s"]
    for method, cells in shown.body("overview").items():
        name = method.removesuffix(" \u25c6 on the frontier")
        of = [row for (m, _), row in rows.items() if m == name]
        ratio, milliseconds = (sum(row[f"step_{unit}"] for row in of) / 2 for unit in ("ratio", "ms"))
        assert float(cells[-3][0] or 0) == pytest.approx(ratio)
        assert cells[-3][1] == f"{ratio:.2f} {milliseconds:,.0f} ms"
        assert float(cells[-4][0] or 0) == rows[name, "llama"]["answer_ratio"]


@pytest.mark.slow
def test_a_cell_that_was_stopped_ends_with_the_row_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = {"methods": [{"method": "memvp", "rank": 3, "vision_rank": 2}]}
    rows, step, taken = [], ClassifierTrainer.training_step, []

    def stopped(self: Any, *args: Any, **kwargs: Any) -> Any:
        taken.append(0)
        if len(taken) == 5:  # an epoch has 3 steps
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    for name in ("whole", "stopped"):
        (cell,) = plan.cells(comparison(tmp_path / name, ("llama",), memory=memory), {})
        if name == "stopped":
            with monkeypatch.context() as patched:
                patched.setattr(ClassifierTrainer, "training_step", stopped)
                with pytest.raises(KeyboardInterrupt):
                    perform(cell)
            assert not (cell.folder / ROW).exists()
        perform(cell)
        row = json.loads((cell.folder / ROW).read_text())
        rows.append({k: v for k, v in row.items() if k not in MEASURED})
        for record in rows[-1]["curve"]:
            del record["seconds"]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_model_that_cannot_do_without_images_has_no_text_step(tmp_path: Path) -> None:
    (cell,) = plan.cells(comparison(tmp_path, ("vilt",), lora=TEXTS), {})
    perform(cell)
    row = json.loads((cell.folder / ROW).read_text())
    assert "text_step_ms" not in row
    assert row["step_ms"] > 0 < row["latency_ratio"]
    assert row["step_mib"] > 0


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_the_step_of_the_text_alone_passes_its_gradient_through_every_block(name: str) -> None:
    run = questions.run(Path("unused"), name, limit=12)
    train = load_sets(run)["train"]
    task: Any = tasks.kind(run).begin(run, train)
    adapted = gm.adapt(task.backbone(run), gm.VisualTokens(), num_labels=task.outputs)
    prepared = task.prepare(train)
    prepared.settle(adapted)
    batch = on(torch.device("cpu"), prepared.collate([prepared[i] for i in range(5)]))
    bare = _frozen(adapted)
    alone = task.texts_alone(bare, batch)
    assert set(alone) == {"inputs_embeds", "attention_mask", "labels"}
    task.loss(bare, alone).backward()
    assert (alone["inputs_embeds"].grad.abs().sum(-1)[batch["attention_mask"].bool()] > 0).all()
    trained = {n for n, p in bare.named_parameters() if p.grad is not None}
    assert all(n.startswith("head") for n in trained), "weights of the frozen model get no gradient"
