"""Searches on a small backbone of which two blocks do nothing: they must be found, whatever happens on the way."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate
from transformers import ViTConfig, ViTForImageClassification

import gossamer as gm
from gossamer.anatomy.seams import Part
from gossamer.methods.base import Method, grow
from gossamer.methods.parts.bandit import Bandit
from gossamer.methods.parts.bridges import Bridge
from gossamer.runs import processes
from gossamer.runs.run import Search, Training
from gossamer.searching import generators
from gossamer.searching.savings import Savings
from gossamer.searching.search import Found, rate
from gossamer.searching.supernetwork import Batches, SuperNetwork
from gossamer.training.trainer import schedule

from ..contract.table import BACKBONES

IDLE = (1, 4)  # blocks whose branches give nothing
RULES: dict[str, Any] = {"interval": 1, "warmup": 1, "eta": 2.0}


def backbone(idle: tuple[int, ...] = IDLE, branches: tuple[str, ...] = ("attention.o_proj", "mlp.fc2")) -> Any:
    torch.default_generator.manual_seed(11)
    config = ViTConfig(
        hidden_size=24, num_hidden_layers=6, num_attention_heads=3, intermediate_size=40, image_size=16, patch_size=8,
        initializer_range=0.25, num_labels=5,
    )  # fmt: skip
    model = ViTForImageClassification(config).eval()
    with torch.no_grad():
        model.classifier.weight.mul_(6)  # sure of its own labels
        for i in idle:
            for name in branches:
                linear = model.vit.layers[i].get_submodule(name)
                linear.weight.zero_()
                linear.bias.zero_()
    return model


class Items(list[dict[str, Tensor]]):
    """Images with the labels that the backbone itself gives them."""

    def __init__(self, count: int, model: Any = None):
        pixels = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(12))
        with torch.no_grad():
            labels = (model or backbone())(pixels).logits.argmax(1)
        super().__init__({"pixel_values": p, "labels": y} for p, y in zip(pixels, labels, strict=True))


METHOD = gm.DAS(skip=2, rank=3, init="zero_up")
SETTINGS = Search(epochs=4, hold_out=0.25, rules=RULES, checkpoint=4)
TRAINING = Training(batch=16, lr=1e-4, head_lr=0.0)


def searched(method: Any = METHOD, settings: Search = SETTINGS, **options: Any) -> Found:
    model = options.pop("model", None) or backbone()
    training = options.pop("training", TRAINING)
    data = options.pop("data", None) or Items(200)
    return gm.search(model, method, data, settings=settings, training=training, **options)  # type: ignore[operator]


def test_idle_blocks_are_found(tmp_path: Path) -> None:
    model = backbone()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    records: list[Any] = []
    found = searched(model=model, folder=tmp_path, after_update=records.append)
    assert found.chosen == IDLE
    assert found.methods == (replace(METHOD, skip=IDLE),)
    assert found.arms == tuple(f"vision.blocks.{i}" for i in range(6))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any("forward" in m.__dict__ for m in model.modules())
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert history == json.loads(json.dumps(records))
    assert len(history) == found.updates == 3 * (150 // 16)
    assert [r["step"] for r in history] == list(range(9, 36))
    assert history[-1]["preferences"] == list(found.preferences)
    assert all(len({tuple(s) for s in r["subsets"]}) == 3 for r in history)
    assert (tmp_path / "preferences.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "state.safetensors").exists()
    gm.adapt(model, found.methods)  # nothing was left behind


def test_every_candidate_of_a_search_has_a_bridge_of_its_own() -> None:
    """Each with its closed-form start, which is the identity for an idle block; what is found is joined by runs again."""
    method = replace(METHOD, rank=0, bridge="per-run", bridge_start="closed")
    with torch.no_grad():
        network = SuperNetwork(backbone(), [method], 0, TRAINING)
        network.adapted.applied[0].prepare(network.adapted, Items(60))
    bridges = [m for m in network.board.modules() if isinstance(m, Bridge)]
    assert [m.span[0] for m in bridges] == [m.span[1] for m in bridges] == network.board.arms
    moved = [float(m.up.weight.detach().abs().max()) for m in bridges]
    assert [i for i, size in enumerate(moved) if size < 1e-5] == list(IDLE)
    (found,) = searched(method, replace(SETTINGS, epochs=2)).methods
    assert found == replace(method, skip=found.skip)


def test_idle_attentions_are_found_and_the_ffn_beside_them_stays() -> None:
    model = backbone((0, 3), ("attention.o_proj",))
    found = searched(
        replace(METHOD, modules="attention"), model=model, data=Items(200, backbone((0, 3), ("attention.o_proj",)))
    )
    assert found.chosen == (0, 3)


@dataclass(frozen=True, kw_only=True)
class Gate(Method):
    """A method of one arm with a place for it, as DVP is: the state behind one block is doubled."""

    place: int = 0
    name = "gate"

    def attach(self, anatomy: Any) -> Part:
        return Gates(anatomy, (self.place,))

    def parameters(self, anatomy: Any) -> int:
        return 1

    def bandit(self) -> Bandit:
        return replace(Bandit.dvp(), eta=0.05)

    def picks(self, anatomy: Any) -> int:
        return 1

    def supernet(self) -> Method:
        return AllGates()

    def found(self, chosen: Any) -> Gate:
        return Gate(place=chosen[0])


@dataclass(frozen=True, kw_only=True)
class AllGates(Method):
    name = "gate"
    kept: list[Any] = field(default_factory=list)

    def attach(self, anatomy: Any) -> Part:
        return Gates(anatomy, range(6))

    def parameters(self, anatomy: Any) -> int:
        return 6


class Gates(Part):
    def __init__(self, anatomy: Any, places: Any):
        super().__init__()
        self.arms, self.parts = [str(p) for p in places], []
        for place in places:
            part = Doubling(on=len(places) == 1)
            grow(self, f"vision.blocks.{place}", part)
            anatomy.middle(anatomy.blocks()[place], part, at="end")
            self.parts.append(part)

    def use(self, chosen: Any) -> None:
        for i, part in enumerate(self.parts):
            part.on = i in chosen


class Doubling(Part):
    def __init__(self, *, on: bool):
        super().__init__()
        self.scale, self.on = nn.Parameter(torch.tensor(3.0)), on

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x[:, :1].roll(1, -1) * torch.ones_like(x) if self.on else 0 * x


def test_a_method_that_places_one_thing_plugs_in() -> None:
    """Labels are those of the backbone with the gate at one place; the search must say which."""
    model = backbone(())
    teacher = gm.adapt(backbone(()), Gate(place=3))
    with torch.no_grad():
        data = [
            {**item, "labels": teacher(pixel_values=item["pixel_values"][None]).logits.argmax(1)[0]}
            for item in Items(200)
        ]
    found = searched(Gate(), Search(epochs=2, hold_out=0.25), model=model, data=data)
    assert found.methods == (Gate(place=3),)
    with pytest.raises(ValueError, match="need arms that take something away, which those of this method do not"):
        searched(Gate(), Search(saving=1.0), model=model, data=data)


def test_dvp_finds_a_place_for_its_prompt() -> None:
    row = BACKBONES["clip+bert"]
    model, inputs = row.model(), row.inputs()
    data = [{**{k: v[i % 3] for k, v in inputs.items()}, "labels": torch.tensor(i % 2)} for i in range(24)]
    settings = Search(epochs=2, hold_out=0.25, rules={"eta": 1.0, "reward": "100 exp(-loss)"})
    method = gm.DVP(block=1, heads=3, rank=2)
    records: list[Any] = []
    training = Training(batch=6)
    options: dict[str, Any] = {"model": model, "data": data, "training": training, "num_labels": 2}
    found = searched(method, settings, **options, after_update=records.append)
    assert found.updates == len(records) == 2 * 3
    assert all(len(r["subsets"]) == 5 and all(len(s) == 1 for s in r["subsets"]) for r in records)
    assert found.methods == (replace(method, block=found.chosen[0]),)
    assert len(found.arms) == len(found.preferences) >= 2
    network = SuperNetwork(model, [method], 0, training, 2)
    network.learn({k: torch.stack([d[k] for d in data[:6]]) for k in data[0]}, 6, (0,))
    generators = {n: p.grad for n, p in network.adapted.trainable().items() if ".prompt." in n}
    assert all((grad is None) == (".blocks.0." not in name) for name, grad in generators.items())


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_same_end(tmp_path: Path) -> None:
    method = [gm.DAS(skip=2, rank=4, form="router", dropout=0.1), gm.VPT(prompts=2)]
    quick = replace(SETTINGS, epochs=3)

    def one(folder: str, settings: Search = quick, **options: Any) -> Found:
        return searched(method, settings, folder=tmp_path / folder, model=backbone(()), **options)

    whole = one("whole")

    def kill_at(count: int) -> Any:
        def after(record: Any) -> None:
            if record["update"] == count:
                raise Killed

        return after

    for count in (2, 4, 17):  # at another place each time: before a state, behind one, in a later epoch
        with pytest.raises(Killed):
            one("torn", resume=count > 2, after_update=kill_at(count))
        with (tmp_path / "torn" / "history.jsonl").open("a") as file:
            file.write('{"update": 99, "st')
    assert one("torn", resume=True) == whole
    files = [(tmp_path / name / "history.jsonl").read_text() for name in ("whole", "torn")]
    assert files[0] == files[1]
    assert one("torn", resume=True) == whole  # finished: nothing is done
    with pytest.raises(
        FileExistsError, match=r"torn holds a search already \(finished\): resume continues it, overwrite removes"
    ):
        one("torn")
    with pytest.raises(ValueError, match=r"begun with other settings \(seed; for instance seed=0, now 1\)"):
        one("torn", resume=True, seed=1)
    with pytest.raises(ValueError, match="give one of them"):
        one("torn", resume=True, overwrite=True)
    assert one("torn", replace(quick, epochs=2), overwrite=True).updates == 9


@pytest.mark.parametrize("count", [pytest.param(3, marks=pytest.mark.slow), 9])
def test_a_resumed_search_draws_what_it_would_have_drawn(tmp_path: Path, count: int) -> None:
    """Dropout by torch, and changes of the images by numpy's and Python's generators; whoever calls finds these as they were."""
    method = gm.DAS(skip=2, rank=4, form="router", dropout=0.3)
    quick = replace(SETTINGS, epochs=2, dropout=True, checkpoint=2)

    def collate(items: list[Any]) -> dict[str, Tensor]:
        batch = default_collate(items)
        return batch | {
            "pixel_values": batch["pixel_values"] * (1 + 0.2 * random.random()) + 0.2 * float(np.random.rand())
        }

    def one(folder: str, **options: Any) -> Found:
        random.seed(5)
        np.random.seed(6)
        before = generators.state()
        try:
            return searched(method, quick, folder=tmp_path / folder, collate=collate, **options)
        finally:
            after = generators.state()
            assert all(torch.equal(before[name], after[name]) for name in ("python", "numpy"))

    def kill(record: Any) -> None:
        if record["update"] == count:
            raise Killed

    whole = one("whole")
    with pytest.raises(Killed):
        one("torn", after_update=kill)
    random.seed(99)
    np.random.seed(99)
    assert one("torn", resume=True) == whole
    assert (tmp_path / "torn" / "history.jsonl").read_text() == (tmp_path / "whole" / "history.jsonl").read_text()


def test_the_state_of_every_generator_is_kept() -> None:
    names = {"torch", "python", "numpy"} | {f"cuda.{i}" for i in range(torch.cuda.device_count())}
    random.gauss(0, 1)  # leaves a second one behind
    np.random.randn()
    before = generators.state()
    assert set(before) == names
    drawn = [(random.gauss(0, 1), float(np.random.randn()), float(torch.rand(()))) for _ in range(3)]
    generators.restore(before)
    assert [(random.gauss(0, 1), float(np.random.randn()), float(torch.rand(()))) for _ in range(3)] == drawn
    before = generators.state()
    with generators.as_before():
        random.random(), np.random.rand(), torch.rand(3)
    after = generators.state()
    assert all(torch.equal(before[name], after[name]) for name in names)


def test_a_search_of_other_processes_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(record: Any) -> None:
        if record["update"] == 5:
            raise Killed

    monkeypatch.setattr(processes, "gathered", lambda value: [value, {k: v.clone() for k, v in value.items()}])
    with pytest.raises(Killed):
        searched(folder=tmp_path, after_update=kill)
    monkeypatch.undo()
    with pytest.raises(
        ValueError,
        match=r"was begun by 2 processes, whose random numbers .* with as many, not 1",
    ):
        searched(folder=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("settings.json", b"[]", r"settings.json is none of a search's files: overwrite begins the search anew"),
        pytest.param("settings.json", b"{", r"settings.json, line 1, column 2 is not JSON", marks=pytest.mark.slow),
        pytest.param("settings.json", b"{}", r"begun with other settings", marks=pytest.mark.slow),
        ("state.safetensors", b"torn", r"state.safetensors is damaged .*: overwrite begins the search anew"),
        pytest.param(
            "result.json",
            b"{}",
            r"this is no result of a search: it has nothing, not methods, arms",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_damaged_folder_is_named(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    def kill(record: Any) -> None:
        if record["update"] == 5:
            raise Killed

    with pytest.raises(Killed):
        searched(folder=tmp_path, after_update=kill)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        searched(folder=tmp_path, resume=True)
    assert searched(folder=tmp_path, overwrite=True).chosen == IDLE


def test_a_search_that_another_process_makes_is_refused(tmp_path: Path) -> None:
    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(BlockingIOError, match="another process works in"):
        searched(folder=tmp_path)


def test_what_arms_save_is_measured_where_the_model_is() -> None:
    net, batches = network()
    here = net.savings(batches.few(1), "macs")
    net.adapted.to("meta")
    assert net.savings(batches.few(1), "macs") == here
    assert min(here.arms) > 0


@pytest.mark.slow
def test_the_same_is_found_with_checkpointing_and_by_another_run_of_the_seed() -> None:
    plain = searched(settings=replace(SETTINGS, epochs=2))
    saving = searched(settings=replace(SETTINGS, epochs=2), training=replace(TRAINING, gradient_checkpointing=True))
    assert plain.preferences == pytest.approx(saving.preferences, abs=1e-5)
    assert plain == searched(settings=replace(SETTINGS, epochs=2))
    assert plain != searched(settings=replace(SETTINGS, epochs=2), seed=1)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    code = (
        "import sys; from pathlib import Path; from tests.searching.test_searching import searched, SETTINGS, replace\n"
        "searched(settings=replace(SETTINGS, epochs=2, dropout=True), folder=Path(sys.argv[1]))"
    )
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], env={**environment, "RANK": rank, "LOCAL_RANK": rank},
            cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    alone = searched(settings=replace(SETTINGS, epochs=2, dropout=True))
    for process in running:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    together = Found.from_dict(json.loads((tmp_path / "result.json").read_text()))
    assert together.chosen == alone.chosen
    assert together.preferences == pytest.approx(alone.preferences, abs=1e-5)
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == alone.updates


def network(method: gm.DAS = METHOD) -> tuple[SuperNetwork, Batches]:
    torch.default_generator.manual_seed(0)
    found = SuperNetwork(backbone(), [method], 0, TRAINING, None)
    return found, Batches(Items(60), None, SETTINGS, TRAINING, None, 0)


def test_scoring_leaves_no_trace() -> None:
    net, batches = network(gm.DAS(skip=2, rank=3, dropout=0.5))
    net.learn(batches.training(0), 16, (0, 2))
    before = {k: v.clone() for k, v in net.adapted.state_dict().items()}
    gradients = {n: None if p.grad is None else p.grad.clone() for n, p in net.adapted.trainable().items()}
    random, modes = torch.get_rng_state(), [m.training for m in net.adapted.modules()]
    calm = net.score(batches.scoring(0), (1, 4), dropout=False, right=True)
    wild = net.score(batches.scoring(0), (1, 4), dropout=True, right=True)
    assert calm != wild
    assert calm == net.score(batches.scoring(0), (1, 4), dropout=False, right=True)
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in net.adapted.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in net.adapted.state_dict().items())
    for name, parameter in net.adapted.trainable().items():
        assert (parameter.grad is None) == (gradients[name] is None)
        assert parameter.grad is None or torch.equal(parameter.grad, gradients[name])  # type: ignore[arg-type]


def test_what_does_not_run_in_a_step_is_not_moved() -> None:
    net, batches = network()
    for subset in ((0, 2), (0, 2), (1, 5)):  # the second time the first ones have momentum
        before = {k: v.clone() for k, v in net.adapted.state_dict().items()}
        net.learn(batches.training(0), 16, subset)
        net.move(lambda largest: 1.0)
        after = net.adapted.state_dict()
        for i in range(6):
            names = [n for n in before if n.startswith(f"das.vision.blocks.{i}.")]
            asleep = [n for n in names if ("shortcut" in n) != (i in subset)]
            assert asleep
            assert all(torch.equal(before[n], after[n]) for n in asleep)
            assert any(not torch.equal(before[n], after[n]) for n in names)


def test_batches_depend_on_their_number_alone() -> None:
    _, batches = network()
    assert (len(batches.items), len(batches.held_items), batches.steps_per_epoch) == (45, 15, 2)
    assert not set(batches.items) & set(batches.held_items)
    epoch = torch.cat([batches.training(step)["pixel_values"] for step in (2, 3)])
    assert len({float(p.sum()) for p in epoch}) == 32
    assert not torch.equal(batches.training(0)["pixel_values"], batches.training(2)["pixel_values"])
    turns = [float(p.sum()) for update in range(15) for p in batches.scoring(update)["pixel_values"]]
    assert all(turns.count(value) == 15 for value in set(turns)), "every held-out item scores equally often"
    assert len(set(turns)) == 15
    other = Batches(Items(60), Items(9), SETTINGS, TRAINING, None, 0)
    assert (len(other.items), other.reward_batch) == (60, 9)


def test_rates_rise_and_fall() -> None:
    linear = [rate("linear", step, 20, 1.0) for step in range(20)]
    assert linear[:3] == [0.5, 1.0, 1.0]
    assert linear[-1] == pytest.approx(1 / 18)
    assert max(abs((linear[i] - linear[i + 1]) - 1 / 18) for i in range(2, 19)) < 1e-9
    for kind in ("cosine", "one-cycle"):
        values = [rate(kind, step, 20, 1.0) for step in range(20)]
        top = values.index(max(values))
        assert values[: top + 1] == sorted(values[: top + 1])
        assert values[top:] == sorted(values[top:], reverse=True)
        assert max(values) == 1.0
    assert {rate("constant", step, 20, 1.0) for step in range(20)} == {1.0}


@pytest.mark.parametrize("kind", ["constant", "poly"])
def test_rates_that_do_not_rise_are_those_of_training(kind: str) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    falls, trained = schedule(kind, optimizer, 20), []
    for _ in range(20):
        trained.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        falls.step()
    assert [0.01 * rate(kind, step, 20, 0.01) for step in range(20)] == pytest.approx(trained)


# ---- ours: cost ----


@pytest.mark.slow
def test_savings_are_those_of_the_finished_models() -> None:
    net, batches = network()
    found = net.savings(batches.few(1), "macs")
    costs = {m: gm.adapt(backbone(), gm.DAS(skip=m, rank=3)).cost().finished.counted for m in ((), (0,), (2, 3))}
    assert found.full == costs[()]
    assert found.full - found.of((0,)) == costs[(0,)]
    assert found.full - found.of((2, 3)) == costs[(2, 3)]
    assert found.bare == gm.adapt(backbone(), gm.LinearProbe()).cost().bare.counted
    seconds = net.savings(batches.few(4), "latency")
    assert 0 < seconds.bare < 10
    assert 0 < seconds.full < 10
    assert len(seconds.arms) == 6


@pytest.mark.slow
def test_a_budget_decides_how_many_are_skipped() -> None:
    found = searched(settings=replace(SETTINGS, budget=0.74, epochs=3, rules={**RULES, "candidates": 4}))
    assert set(IDLE) <= set(found.chosen)
    sheet = gm.adapt(backbone(), found.methods).cost()
    assert sheet.ratios["finished"] <= 0.74
    fewer = gm.adapt(backbone(), replace(METHOD, skip=found.chosen[:-1])).cost()
    assert fewer.ratios["finished"] > 0.74
    with pytest.raises(
        ValueError, match=r"budget=0.05: with all candidates but one skipped the model still costs 0\.\d+ times"
    ):
        searched(settings=replace(SETTINGS, budget=0.05))


def test_rewards_by_saving() -> None:
    savings = Savings(bare=100.0, full=110.0, arms=(10.0, 30.0, 20.0, 20.0))
    assert savings.weight((0, 1), 2, 1.0) == 1.0
    assert savings.weight((1, 2), 2, 1.0) == pytest.approx(50 / 40)
    assert savings.weight((0, 2), 2, 2.0) == pytest.approx((30 / 40) ** 2)
    assert savings.weight((0,), 1, 0.0) == 1.0
    enough = savings.enough(0.8)
    assert [enough(s) for s in ((1,), (0, 2), (0, 2, 3))] == [True, True, True]
    assert not enough((2,))


def test_among_equals_the_one_that_saves_most_is_found() -> None:
    """Attention costs less than a block of FFN: blocks with a wider FFN save more, and all of these do nothing."""
    torch.default_generator.manual_seed(3)
    model, wide = backbone((0, 1, 2, 3, 4, 5)), nn.Linear(24, 400)
    model.vit.layers[2].mlp.fc1, model.vit.layers[2].mlp.fc2 = wide, nn.Linear(400, 24)
    nn.init.zeros_(model.vit.layers[2].mlp.fc2.weight)
    nn.init.zeros_(model.vit.layers[2].mlp.fc2.bias)
    data = Items(80, model)
    settings = replace(SETTINGS, saving=0.5, epochs=5, rules={**RULES, "eta": 5.0})
    found = searched(gm.DAS(skip=1, rank=3, init="zero_up"), settings, model=model, data=data)
    assert found.chosen == (2,)
    assert found.saved[2] == max(found.saved) > found.saved[0] == found.saved[1]


# ---- mistakes ----


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (gm.VPT(prompts=2), {}, r"exactly one method with something to choose, such as DAS\(skip=3\), and got vpt"),
        ([METHOD, METHOD], {}, "exactly one method with something to choose.*got das, das"),
        (gm.DAS(skip=0), {}, "picks between 1 and all of its 6 arms, not 0"),
        (METHOD, {"rules": {"etta": 1}}, "search.rules has no rule 'etta'; it has policy, sharpness, candidates"),
        (METHOD, {"rules": {"candidates": 16}}, "6 arms have 15 subsets of 2, fewer than the candidates=16"),
        (METHOD, {"epochs": 1}, r"warmup=1 epochs of 1 leave none in which the preferences move"),
    ],
)
def test_what_cannot_be_searched(method: Any, settings: dict[str, Any], message: str) -> None:
    model = backbone()
    with pytest.raises(ValueError, match=message):
        gm.search(model, method, Items(40), settings=Search(**settings), training=TRAINING)  # type: ignore[operator]
    gm.adapt(model, METHOD)  # nothing was left behind


def test_data_without_labels_and_losses_that_diverge() -> None:
    data = [{"pixel_values": item["pixel_values"]} for item in Items(40)]
    with pytest.raises(ValueError, match="the model gives no loss for these batches: they need labels"):
        searched(data=data)
    with pytest.raises(
        FloatingPointError, match=r"the loss is nan: the search has diverged; lower training.lr or head_lr"
    ):
        searched(training=replace(TRAINING, lr=1e30, clip=0.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "search.epochs must be 1 or more, got 0"),
        ({"hold_out": 0.0}, "search.hold_out must be between 0 and 1, got 0.0"),
        ({"budget": 0.0}, "search.budget must be above 0, got 0.0"),
        ({"saving": -1.0}, "search.saving must not be negative, got -1.0"),
        ({"reward_batch": 0}, "search.reward_batch must be 1 or more, got 0"),
        ({"checkpoint": 0}, "search.checkpoint must be 1 or more, got 0"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Search(**settings)
