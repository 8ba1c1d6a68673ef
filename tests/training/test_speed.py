"""Settings of speed: when the loss is looked at, what reads images, how products and steps are computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gossamer as gm
from gossamer.cost import machine
from gossamer.errors import Diverged, UserError
from gossamer.runs.run import Training
from gossamer.training.train import train
from gossamer.training.trainer import LOOK_EVERY, ClassifierTrainer, optimizer, trainer_arguments

from .. import squares
from ..contract.table import BACKBONES, METHODS, adapt
from ..contract.test_devices import Looks


def trainer(tmp_path: Path, losses: list[float]) -> ClassifierTrainer:
    """One whose steps have these losses."""
    given = iter(losses)

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(pixel_values=batch["pixel_values"]).logits.square().mean() * 0 + next(given)

    adapted = adapt(BACKBONES["vit"], METHODS["vpt"])
    made = ClassifierTrainer(
        adapted, trainer_arguments(tmp_path, max_steps=len(losses), report_to="none"), chosen=Training(), loss=loss
    )
    made.current_gradient_accumulation_steps = 1
    made.create_optimizer()
    return made


def test_a_step_looks_at_its_loss_every_so_often_and_names_the_first_that_diverged(tmp_path: Path) -> None:
    batch = {"pixel_values": BACKBONES["vit"].inputs()["pixel_values"]}
    made = trainer(tmp_path, [1.0, 1.0, float("inf"), float("nan"), 1.0])
    assert made.look_every == 1, "on a CPU nothing is waited for"
    made.look_every = 5
    for step in range(4):
        made.state.global_step = step
        with Looks() as looks:
            made.training_step(made.model, batch)
        assert looks.count == 0
    made.state.global_step = 4
    with pytest.raises(Diverged, match=r"the loss is inf at step 3 of"):
        made.training_step(made.model, batch)


def test_no_state_is_written_of_a_run_that_diverged_since_the_last_look(tmp_path: Path) -> None:
    made = trainer(tmp_path, [float("nan")])
    made.look_every = LOOK_EVERY
    made.training_step(made.model, {"pixel_values": BACKBONES["vit"].inputs()["pixel_values"]})
    with pytest.raises(Diverged, match="at step 1 of"):
        made._save_checkpoint(made.model, None)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_processes_read_images_where_an_accelerator_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert Training().readers == 0
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert Training().readers == 6
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert Training().readers == 8
    assert Training(workers=0).readers == 0
    with pytest.raises(ValueError, match=r"training.workers must not be negative, got -1"):
        Training(workers=-1)


def test_tf32_is_for_accelerators_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, has in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda c=capability: c)
        assert machine.tf32() is has
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not machine.tf32()


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_fused_step_is_the_same_step(kind: Any) -> None:
    found = []
    for fused in (False, True, "auto"):
        adapted = adapt(BACKBONES["vit"], METHODS["vpt"])
        rule = optimizer(adapted, Training(optimizer=kind, fused=fused))
        assert bool(rule.defaults["fused"]) is (fused is True), "auto: not on a CPU"
        adapted(**BACKBONES["vit"].inputs()).logits.square().mean().backward()
        rule.step()
        found.append(torch.cat([p.detach().flatten() for p in adapted.trainable().values()]))
    assert torch.equal(found[0], found[2])
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_a_run_that_is_compiled_ends_where_one_that_is_not_does(tmp_path: Path) -> None:
    """Its optimizer steps are fused ones, which differ in the last bits."""
    options = {"limit": 60, "epochs": 1, "validation": 0.0}
    plain = train(squares.run(tmp_path / "plain", {"method": "vpt", "prompts": 2}, **options))
    compiled = train(
        squares.run(
            tmp_path / "compiled",
            {"method": "vpt", "prompts": 2},
            **options,
            torch_compile="eager",
            fused=True,
            tf32=True,
        )
    )
    assert compiled["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-4)
    assert gm.load(tmp_path / "compiled" / "adapter").attached
    assert json.loads((tmp_path / "compiled" / "metrics.json").read_text()) == compiled


def test_an_unknown_backend_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"training.torch_compile=fast is no backend of torch.compile; here are .*inductor"
    ):
        train(squares.run(tmp_path, {"method": "vpt", "prompts": 2}, torch_compile="fast", limit=40))
