from __future__ import annotations

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
from transformers import TrainingArguments

import gossamer as gm
from gossamer import zoo
from gossamer.data import Preprocessing
from gossamer.errors import UserError
from gossamer.runs.folder import newest_checkpoint
from gossamer.runs.prepared import Augmented, Prepared
from gossamer.runs.run import Training
from gossamer.runs.run_file import read
from gossamer.training.train import train
from gossamer.training.trainer import ClassifierTrainer, groups, optimizer, schedule

from .. import squares

pytestmark = pytest.mark.usefixtures("undrawn")

PNG = b"\x89PNG"


def numbers(metrics: Any) -> Any:
    """Metrics without what the clock says."""
    if isinstance(metrics, dict):
        return {name: numbers(value) for name, value in metrics.items() if name != "seconds"}
    return metrics


def history(folder: Path) -> list[dict[str, Any]]:
    return [numbers(json.loads(line)) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_tuning_beats_the_linear_probe_on_a_task_it_cannot_solve(tmp_path: Path) -> None:
    linear = train(squares.run(tmp_path / "linear", {"method": "linear_probe"}, validation=0.0))
    vpt = train(squares.run(tmp_path / "vpt", validation=0.0, epochs=10, lr=0.03))
    assert linear["test"]["accuracy"] < 0.9
    assert vpt["test"]["accuracy"] > linear["test"]["accuracy"] + 0.1
    assert vpt["trainable_parameters"] == 3 * 10 * 24 + 2 * 25


def test_a_run_leaves_one_folder_with_everything() -> None:
    folder = squares.trained()
    assert {path.name for path in folder.iterdir()} == {
        "run.yaml", "train.log", "warm_start.json", "start.json", "history.jsonl", "metrics.json", "curves.png", "confusion.png",
        "attention.png", "adapter",
    }  # fmt: skip
    assert read(folder).methods[0]["form"] == "exact", "every setting is written, those left out too"
    records = history(folder)
    assert [record["epoch"] for record in records] == [0, 1, 2]
    scored = {"val_loss", "val_accuracy", "val_balanced_accuracy"}
    assert records[0].keys() == {"step", "epoch", *scored}, "what the run starts from is scored, and trained by no step"
    assert {"loss", "learning_rate", "grad_norm", *scored} <= records[1].keys()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["images"] == {"train": 240, "val": 60, "test": 120}
    assert metrics["val"]["accuracy"] == records[-1]["val_accuracy"]
    assert metrics["start"] == records[0]
    assert metrics["train_loss"] == records[-1]["loss"]
    assert metrics["macs"]["bare"] < metrics["macs"]["finished"]
    assert (folder / "curves.png").read_bytes().startswith(PNG)
    log = (folder / "train.log").read_text()
    assert "head solved with l2=" in log
    assert "epoch 2/2: loss" in log


def test_the_saved_adapter_gives_the_scores_of_the_run() -> None:
    metrics = json.loads((squares.trained() / "metrics.json").read_text())
    adapted = gm.load(squares.trained() / "adapter")
    assert adapted.metadata["labels"] == ["different", "same"]
    assert adapted.metadata["results"]["test_accuracy"] == metrics["test"]["accuracy"]
    assert gm.evaluate.evaluate(adapted, gm.data.load(squares.images(), "test")).to_dict() == metrics["test"]


def test_linear_probe_is_solved_and_not_trained_by_epochs(tmp_path: Path) -> None:
    one = train(squares.run(tmp_path / "a", {"method": "linear_probe"}, limit=61, epochs=3))
    two = train(squares.run(tmp_path / "b", {"method": "vpt", "prompts": 0}, limit=61, epochs=0))
    assert one["train_loss"] is None
    assert one["images"] == {"train": 49, "val": 12, "test": 61}
    assert numbers(one)["test"] == numbers(two)["test"]
    assert not (tmp_path / "a" / "curves.png").exists()


def test_tuning_from_an_eased_head_is_compared_with_the_best_one(tmp_path: Path) -> None:
    """Epoch 0, and what is kept where training does not help, is the best probe, which the linear probe alone is too."""
    alone = train(squares.run(tmp_path / "a", {"method": "linear_probe"}, limit=61, warm_start="eased"))
    still: dict[str, Any] = {"limit": 61, "epochs": 1, "lr": 1e-9, "head_lr": 1e-9, "warm_start": "eased"}
    kept = train(squares.run(tmp_path / "b", {"method": "bitfit"}, **still, keep="better"))
    assert kept["warm_start"]["l2"] == alone["warm_start"]["l2"] < kept["warm_start"]["eased_l2"]
    assert (tmp_path / "b" / "train.log").read_text().count("the start (epoch 0) is kept") == 1
    assert kept["test"] == alone["test"]
    assert kept["start"]["val_loss"] == pytest.approx(alone["val"]["loss"], abs=1e-6)
    last = train(squares.run(tmp_path / "c", {"method": "bitfit"}, **still))
    assert last["start"] == kept["start"]
    assert abs(last["val"]["loss"] - alone["val"]["loss"]) > 1e-3, "steps of nothing: what tuning began from"


def test_without_warm_start_the_head_is_trained_by_epochs(tmp_path: Path) -> None:
    metrics = train(squares.run(tmp_path, {"method": "linear_probe"}, limit=61, epochs=1, warm_start=False))
    assert metrics["warm_start"] is None
    assert metrics["train_loss"] > 0


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ({"method": "peft", "peft_type": "LORA", "r": 3}, {"schedule": "cosine", "bf16": True, "attention": "plain"}),
        pytest.param(
            {"method": "adapter"},
            {"schedule": "linear", "gradient_checkpointing": True, "attention": "plain"},
            marks=pytest.mark.slow,
        ),
        ({"method": "bitfit"}, {"schedule": "constant", "clip": 0.0, "keep": "best"}),
        pytest.param({"method": "full"}, {"weight_decay": 0.0}, marks=pytest.mark.slow),
    ],
    ids=lambda value: value.get("method"),
)
def test_every_method_and_setting_trains(tmp_path: Path, method: dict[str, Any], settings: dict[str, Any]) -> None:
    metrics = train(squares.run(tmp_path, method, limit=70, epochs=2, **settings))
    assert [record["epoch"] for record in history(tmp_path)] == [0] * (
        "val" in metrics and bool(metrics["warm_start"])
    ) + [1, 2]
    assert (
        metrics["test"]
        == gm.evaluate.evaluate(
            gm.load(tmp_path / "adapter"), gm.data.load(squares.images(), "test").subset(_limited(70))
        ).to_dict()
    )


def _limited(count: int) -> list[int]:
    return gm.data.stratified(gm.data.load(squares.images(), "test").labels, count, 0)


@pytest.mark.slow
def test_the_best_epoch_is_kept_where_asked(tmp_path: Path) -> None:
    metrics = train(squares.run(tmp_path, epochs=5, lr=0.1, keep="best"))
    assert metrics["val"]["accuracy"] == max(record["val_accuracy"] for record in history(tmp_path))
    with pytest.raises(ValueError, match=r"training.keep=best needs validation images: set data.validation above 0"):
        train(squares.run(tmp_path / "none", keep="best", validation=0.0))


def test_a_run_is_held_to_the_probe_of_the_bare_backbone_where_methods_change_it_from_the_start(tmp_path: Path) -> None:
    alone = train(squares.run(tmp_path / "a", {"method": "linear_probe"}, limit=61, warm_start="eased"))
    still: dict[str, Any] = {"limit": 61, "epochs": 1, "lr": 1e-9, "head_lr": 1e-9, "keep": "better"}
    prompted = train(squares.run(tmp_path / "b", {"method": "vpt", "prompts": 30}, **still))
    assert prompted["warm_start"]["changed"]
    assert set(gm.load(tmp_path / "b" / "adapter").methods) == {"linear_probe"}
    assert (prompted["test"], prompted["val"]) == (alone["test"], alone["val"])
    assert prompted["macs"] == alone["macs"]
    said = (tmp_path / "b" / "train.log").read_text()
    assert "the linear probe of the bare backbone is kept, without vpt: accuracy" in said
    skipping = train(squares.run(tmp_path / "c", {"method": "das", "rank": 2, "skip": [1]}, **still))
    assert skipping["warm_start"]["changed"]
    assert skipping["macs"]["finished"] < skipping["macs"]["bare"]
    assert set(gm.load(tmp_path / "c" / "adapter").methods) == {"das"}


@pytest.mark.slow
def test_no_run_ends_below_its_start_without_a_word(tmp_path: Path) -> None:
    """Rates that spoil everything: the last epoch is kept with a warning, or the start is the best of all epochs."""
    spoilt = {"epochs": 2, "lr": 5.0, "head_lr": 5.0}
    last = train(squares.run(tmp_path / "last", **spoilt))
    assert last["val"]["accuracy"] < last["start"]["val_accuracy"]
    share = f"{last['start']['val_accuracy']:.2%} before the first step"
    said = (tmp_path / "last" / "train.log").read_text()
    assert "training made it worse: accuracy" in said
    assert share in said
    assert "set training.keep=better" in said
    best = train(squares.run(tmp_path / "best", keep="best", **spoilt))
    assert best["val"]["accuracy"] == best["start"]["val_accuracy"] == last["start"]["val_accuracy"]
    assert best["val"]["loss"] == pytest.approx(best["start"]["val_loss"], abs=1e-6)
    said = (tmp_path / "best" / "train.log").read_text()
    assert "no epoch was better than the start" in said
    assert "worse" not in said
    assert not (tmp_path / "best" / "start.safetensors").exists()
    adapted = gm.load(tmp_path / "best" / "adapter")
    assert gm.evaluate.evaluate(adapted, gm.data.load(squares.images(), "test")).to_dict() == best["test"]


@pytest.mark.slow
def test_the_seed_decides_the_numbers(tmp_path: Path) -> None:
    settings = {"limit": 61, "epochs": 1, "validation": 0.0}
    same = [numbers(train(squares.run(tmp_path / str(i), seed=4, **settings))) for i in range(2)]
    other = numbers(train(squares.run(tmp_path / "other", seed=5, **settings)))
    assert same[0] == same[1]
    assert other["train_loss"] != same[0]["train_loss"]


# ---- killed and resumed ----

KILLED = {"method": "vpt", "prompts": 4, "dropout": 0.2}  # dropout: the generators' states matter too
SETTINGS = {"epochs": 8, "lr": 0.03, "limit": 120}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(squares.run(folder, KILLED, **SETTINGS))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    ["model.safetensors", *(pytest.param(name, marks=pytest.mark.slow) for name in ("trainer_state.json", "run.yaml"))],
)
def test_a_killed_run_ends_with_the_numbers_of_one_that_was_not(
    tmp_path: Path, uninterrupted: Path, moment: str
) -> None:
    """Killed after a checkpoint, inside one, and before the first."""
    folder = tmp_path / "run"
    run = squares.run(folder, KILLED, **SETTINGS)
    _kill_when(run, folder, f"checkpoints/checkpoint-*/{moment}" if moment != "run.yaml" else moment)
    assert not (folder / "metrics.json").exists()
    with pytest.raises(FileExistsError, match=r"holds a run already \(unfinished\): --resume continues it"):
        train(run)
    metrics = train(run, resume=True)
    assert numbers(metrics) == numbers(json.loads((uninterrupted / "metrics.json").read_text()))
    assert history(folder) == history(uninterrupted)
    ours, theirs = (gm.load(f / "adapter").state_dict() for f in (folder, uninterrupted))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def _kill_when(run: Any, folder: Path, sign: str, how: signal.Signals = signal.SIGKILL) -> tuple[int, str]:
    """Starts the run in another process and ends it when the second file of that name, or the only one, appears.

    Returns its exit code and what it said on stderr.
    """
    from gossamer.runs.run_file import to_yaml

    file = folder.with_suffix(".yaml")
    file.write_text(to_yaml(run))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(gm.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", "gossamer", "train", str(file)], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        wanted, limit = (2 if "*" in sign else 1), time.monotonic() + 120
        while len(list(folder.glob(sign))) < wanted:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < limit
            time.sleep(0.002)
    finally:
        process.send_signal(how)
        _, said = process.communicate()
    return process.returncode, said


@pytest.mark.slow
def test_sigterm_ends_a_run_as_ctrl_c_does_and_it_goes_on(tmp_path: Path, uninterrupted: Path) -> None:
    folder = tmp_path / "run"
    run = squares.run(folder, KILLED, **SETTINGS)
    code, said = _kill_when(run, folder, "checkpoints/checkpoint-*/trainer_state.json", signal.SIGTERM)
    assert code == 143
    assert said.endswith("gossamer train: ended by SIGTERM; the same command with --resume continues\n")
    assert "Traceback" not in said
    assert numbers(train(run, resume=True)) == numbers(json.loads((uninterrupted / "metrics.json").read_text()))


@pytest.mark.parametrize("state", ['{"global_st', "{}", "[]", '{"global_step": "9"}', "", "[" * 9999])
def test_a_checkpoint_that_says_no_step_is_none(tmp_path: Path, state: str) -> None:
    for step, text in ((3, '{"global_step": 3}'), (10, '{"global_step": 10}'), (99, state)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    (tmp_path / "checkpoint-7").mkdir()
    assert newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


@pytest.mark.parametrize("file", ["optimizer.pt", pytest.param("model.safetensors", marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    run = squares.run(folder, KILLED, **{**SETTINGS, "epochs": 2, "limit": 40})

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("gossamer.training.train._conclude", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(run)
    newest = newest_checkpoint(folder / "checkpoints")
    assert newest is not None
    Path(newest, file).write_bytes(b"torn")
    with pytest.raises(UserError, match=rf"{newest} is damaged; without it an older one is taken"):
        train(run, resume=True)


def test_a_disk_that_fills_up_is_named_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        UserError, match=r"the checkpoint of step 2 could not be written to .*checkpoints, where [\d,]+ bytes"
    ):
        train(squares.run(tmp_path / "run", limit=40, epochs=1, validation=0.0, batch=20))


def test_a_run_that_another_process_trains_is_refused(tmp_path: Path) -> None:
    run = squares.run(tmp_path / "run", limit=40)
    with filelock.FileLock(tmp_path / "lock"):  # as a process of its own would
        (tmp_path / "run").mkdir()
        other = filelock.FileLock(tmp_path / "run" / ".lock", thread_local=False)
        with other, pytest.raises(BlockingIOError, match=r"another process works in .*run"):
            train(run)
    train(run)
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.slow
def test_a_torn_checkpoint_is_passed_over(tmp_path: Path, uninterrupted: Path) -> None:
    folder = tmp_path / "run"
    run = squares.run(folder, KILLED, **SETTINGS)
    _kill_when(run, folder, "checkpoints/checkpoint-*/trainer_state.json")
    newest = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    (newest / "trainer_state.json").write_text('{"global_st')
    (newest / "model.safetensors").write_bytes(b"torn")
    assert numbers(train(run, resume=True)) == numbers(json.loads((uninterrupted / "metrics.json").read_text()))


def test_a_finished_run_is_not_trained_again(uninterrupted: Path) -> None:
    run = squares.run(uninterrupted, KILLED, **SETTINGS)
    before = (uninterrupted / "metrics.json").stat().st_mtime_ns
    assert train(run, resume=True) == json.loads((uninterrupted / "metrics.json").read_text())
    assert (uninterrupted / "metrics.json").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match=r"holds a run already \(finished\)"):
        train(run)


def test_a_run_is_not_resumed_with_other_settings(uninterrupted: Path) -> None:
    other = squares.run(uninterrupted, KILLED, **{**SETTINGS, "lr": 0.02})
    with pytest.raises(ValueError, match=r"begun with other settings \(training.lr; .*training.lr=0.03, now 0.02\)"):
        train(other, resume=True)


def test_overwriting_removes_what_a_run_left_and_nothing_else(tmp_path: Path) -> None:
    shutil.copytree(squares.trained(), tmp_path, dirs_exist_ok=True)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(KeyError, match="no block 9"):
        train(squares.run(tmp_path, {"method": "vpt", "blocks": [9]}), overwrite=True)
    assert (tmp_path / "metrics.json").is_file(), "a run that cannot begin removes nothing"
    train(squares.run(tmp_path, {"method": "linear_probe"}, limit=40), overwrite=True)
    assert not (tmp_path / "history.jsonl").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="--resume continues a run and --overwrite removes it"):
        train(squares.run(tmp_path), resume=True, overwrite=True)


# ---- what is refused ----


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
def test_a_loss_that_is_not_finite_is_an_error_that_names_the_step(tmp_path: Path) -> None:
    with pytest.raises(
        FloatingPointError, match=r"the loss is nan at step \d+ of 32: training has diverged; lower training.lr"
    ):
        train(squares.run(tmp_path, {"method": "full"}, lr=1e30, clip=0.0, validation=0.0, epochs=4, limit=250))


def test_a_head_that_would_not_be_trained_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gossamer.training import train as module

    plain = module.adapt
    monkeypatch.setattr(module, "adapt", lambda *args, **kwargs: plain(*args, **kwargs, train_head=False))
    with pytest.raises(ValueError, match=r"the head of .* would not be trained, so it could not learn the 2 classes"):
        train(squares.run(tmp_path))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"method": "vtp"}, r"no method 'vtp'; there are adapter, .*did you mean 'vpt'"),
        ({"method": "vpt", "promts": 3}, r"vpt has no setting 'promts'; it has prompts.*did you mean 'prompts'"),
        ({"prompts": 3}, "no method None; there are adapter"),
    ],
)
def test_unknown_methods_and_settings_are_refused_before_anything_is_written(
    tmp_path: Path, method: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(squares.run(tmp_path / "run", method))
    assert not (tmp_path / "run").exists()


def test_an_image_that_cannot_be_read_is_named_before_training(tmp_path: Path) -> None:
    bad = squares.save_images(tmp_path / "images", train=3, test=2) / "test" / "same" / "001.png"
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(ValueError, match=rf"{bad.name} cannot be read as an image"):
        train(squares.run(tmp_path / "run", data=tmp_path / "images", validation=0.0))


def test_a_run_that_could_not_begin_does_not_block_its_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"no block 9: the vision stack .* has 3"):
        train(squares.run(tmp_path, {"method": "vpt", "blocks": [9]}, limit=40))
    train(squares.run(tmp_path, {"method": "linear_probe"}, limit=40))


def test_a_class_without_training_images_is_named(tmp_path: Path) -> None:
    folder = squares.save_images(tmp_path / "images", train=3, test=2)
    for path in (folder / "train" / "same").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"class folder .*same is empty"):
        train(squares.run(tmp_path / "run", data=folder))


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file; give the name of a folder"):
        train(squares.run(tmp_path / "file"))


# ---- optimisation ----


def adapted(*methods: Any) -> gm.Adapted:
    return gm.adapt(zoo.load(squares.backbone(), task="image-classification", num_labels=2), list(methods))


def test_rates_belong_to_methods_and_head_and_biases_do_not_decay() -> None:
    model = adapted(gm.VPT(prompts=2), gm.Adapter(), gm.VPT(prompts=3))
    named = {id(p): name for name, p in model.trainable().items()}
    found = {}
    for group in groups(model, Training(weight_decay=0.1, head_lr=0.5)):
        found |= {named[id(p)]: (group["lr"], group["weight_decay"]) for p in group["params"]}
    assert found.keys() == model.trainable().keys()
    assert found["vpt.vision.blocks.0.prompts"] == found["vpt_2.vision.blocks.2.prompts"] == (gm.VPT.learning_rate, 0.1)
    assert found["head.weight"] == (0.5, 0.1)
    assert found["head.bias"] == (0.5, 0.0)
    own = {p.ndim: g["weight_decay"] for g in groups(model, Training(head_weight_decay=2.0)) for p in g["params"]
           if named[id(p)].startswith("head.")}  # fmt: skip
    assert own == {2: 2.0, 1: 0.0}
    of_adapter = {name: value for name, value in found.items() if name.startswith("adapter.")}
    assert {value for name, value in of_adapter.items() if name.endswith("weight")} == {(1e-3, 0.1)}
    assert {value for name, value in of_adapter.items() if name.endswith("bias")} == {(1e-3, 0.0)}


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_the_run_names_the_optimizer(tmp_path: Path, name: str, kind: type) -> None:
    chosen = Training(optimizer=name, lr=0.3, weight_decay=0.1)  # type: ignore[arg-type]
    trainer = ClassifierTrainer(adapted(gm.VPT(prompts=2)), TrainingArguments(str(tmp_path)), chosen=chosen)
    made = trainer.create_optimizer()
    assert type(made) is kind
    assert {group["lr"] for group in made.param_groups} == {0.3, 1e-3}
    assert made.defaults.get("momentum", 0.9) == 0.9


def test_momentum_is_what_the_run_says_whatever_the_schedule(tmp_path: Path) -> None:
    for kind in ("one-cycle", "cosine", "linear", "constant"):
        rule = optimizer(adapted(gm.VPT(prompts=2)), Training(optimizer="sgd"))
        moving = schedule(kind, rule, 20)
        seen = set()
        for _ in range(20):
            seen |= {group["momentum"] for group in rule.param_groups}
            rule.step()
            moving.step()
        assert seen == {0.9}, kind


def test_one_rate_for_all_methods_where_it_is_given() -> None:
    rates = {group["lr"] for group in groups(adapted(gm.VPT(prompts=2), gm.Adapter()), Training(lr=0.3, head_lr=0.1))}
    assert rates == {0.3, 0.1}


@pytest.mark.parametrize(
    ("kind", "peak", "first", "last"),
    [("one-cycle", 0.3, 0.04, 4e-6), ("cosine", 0.1, 0.0, 0.0), ("linear", 0.1, 0.0, 0.0), ("constant", 0.0, 1.0, 1.0)],
)
def test_schedules_rise_and_fall_where_they_say(kind: str, peak: float, first: float, last: float) -> None:
    steps, rates = 100, [2.0, 0.5]
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates])
    scheduler = schedule(kind, optimizer, steps)
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] / rate for group, rate in zip(optimizer.param_groups, rates, strict=True)])
        optimizer.step()
        scheduler.step()
    assert all(a == pytest.approx(b) for a, b in seen)
    shares = [a for a, _ in seen]
    assert shares[0] == pytest.approx(first, abs=1e-9)
    assert max(shares) == pytest.approx(1.0)
    assert abs(shares.index(max(shares)) - peak * steps) <= 1
    assert shares[-1] == pytest.approx(last, abs=0.02)


def test_a_method_that_learns_from_the_data_does_so_before_training(tmp_path: Path) -> None:
    run = squares.run(tmp_path / "spt", {"method": "spt", "prompts": 4, "images": 7, "seed": 3}, limit=61, epochs=1)
    metrics = train(run)
    assert "preparing spt on 49 images" in (tmp_path / "spt" / "train.log").read_text()
    prepared = json.loads((tmp_path / "spt" / "prepared.json").read_text())["seconds"]
    assert metrics["seconds"] > prepared > 0
    same = gm.load(tmp_path / "spt" / "adapter")
    assert gm.methods.spt.unharvested(same) == []
    assert gm.evaluate.evaluate(same, gm.data.load(squares.images(), "test")).n == 120


@pytest.mark.slow
def test_augmented_images_are_for_tuning_only_and_a_seed_fixes_them(tmp_path: Path) -> None:
    flips: list[Any] = ["horizontal-flip", "vertical-flip", "random-crop"]
    runs = [squares.run(tmp_path / name, limit=40, epochs=2) for name in "ab"]
    plain = train(runs[0])
    runs = [dataclasses.replace(r, images=dataclasses.replace(r.images, augment=flips)) for r in runs]
    first, second = train(runs[0], overwrite=True), train(runs[1])
    assert numbers(first) == numbers(second)
    assert first["warm_start"]["l2"] == plain["warm_start"]["l2"]
    assert first["train_loss"] != plain["train_loss"]


def test_each_augmentation_does_what_its_name_says() -> None:
    images = Prepared(gm.data.load(squares.images(), "train"), Preprocessing(size=squares.SIZE))
    flipped, upside = (Augmented(images, [name]) for name in ("horizontal-flip", "vertical-flip"))
    for some, axis in ((flipped, 2), (upside, 1)):
        pixels: Any = images[7]["pixel_values"].values
        drawn: list[Any] = [some[7]["pixel_values"].values for _ in range(30)]
        assert {torch.equal(d, pixels) for d in drawn} == {True, False}
        assert all(torch.equal(d, pixels) or torch.equal(d, pixels.flip(axis)) for d in drawn)
    crop = Augmented(images, ["random-crop"])
    one, two = (crop[7]["pixel_values"].values for _ in range(2))
    assert one.shape == (3, squares.SIZE, squares.SIZE)
    assert not torch.equal(one, two)
    with pytest.raises(ValueError, match=r"may name random-crop, .*; got mixup"):
        Augmented(images, ["mixup"])
