"""Adapters by name: taken up, let go, chosen; what is refused; what lies in memory once."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

import gossamer as gm
from gossamer.errors import UserError, WrongKind

from ..contract.backbones import BACKBONES

VIT, LLAMA = BACKBONES["vit"], BACKBONES["llama"]


def adapter(number: int, method: object = None, labels: int = 3) -> gm.Adapted:
    """An adapter of its own values, by default of prompts."""
    found = gm.adapt(VIT.model(), method or gm.VPT(prompts=2 + number), num_labels=labels).eval()
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in found.trainable().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return found


def images(count: int = 3) -> dict[str, torch.Tensor]:
    return VIT.inputs(count)


def test_names_as_peft_has_them() -> None:
    cells, dogs = adapter(1), adapter(2)
    mixed = gm.Mixed(VIT.model(), {"cells": cells})
    mixed.add("dogs", dogs)
    assert mixed.active_adapters == ["cells"]
    assert list(mixed.adapters) == ["cells", "dogs"]
    torch.testing.assert_close(mixed(**images()).logits, cells(**images()).logits)
    mixed.set_adapter("dogs")
    assert mixed.active_adapters == ["dogs"]
    torch.testing.assert_close(mixed(**images()).logits, dogs(**images()).logits)
    torch.testing.assert_close(mixed(**images(), adapter="cells").logits, cells(**images()).logits)
    both = mixed(**images(2), adapter_names=["dogs", "cells"]).logits
    torch.testing.assert_close(both, mixed(**images(2), adapter=["dogs", "cells"]).logits)
    torch.testing.assert_close(both[:1], dogs(**images(1)).logits)


def test_from_folders_with_their_labels(tmp_path: Path, uncounted: None) -> None:
    model, found = VIT.model(), {}
    for name, labels in (("cells", 2), ("dogs", 5)):
        found[name] = adapter(len(name), LoraConfig(r=2), labels)
        found[name].save_pretrained(tmp_path / name)
    mixed = gm.Mixed(model, {name: tmp_path / name for name in found})
    logits = mixed(**images(), adapter=["dogs", "cells", "dogs"]).logits
    assert logits.shape == (3, 5)
    assert bool((logits[1, 2:] == -torch.inf).all())
    torch.testing.assert_close(logits[1, :2], found["cells"](**images()).logits[1])
    torch.testing.assert_close(logits[2], found["dogs"](**images()).logits[2])
    assert mixed.adapters["dogs"].config.num_labels == 5
    assert mixed.adapters["cells"].config.num_labels == 2


def test_what_several_groups_answer_comes_together() -> None:
    prompts, merging = adapter(1), adapter(2, [gm.ToMe(r=2), LoraConfig(r=2)], labels=4)
    shallow, also = adapter(3, gm.VPT(prompts=2, deep=False)), adapter(4, gm.VPT(prompts=2, deep=False))
    longer = adapter(5, gm.VPT(prompts=3, deep=False))
    all_five = {"prompts": prompts, "merging": merging, "shallow": shallow, "also": also, "longer": longer}
    mixed = gm.Mixed(VIT.model(), all_five)
    assert [(g.names, g.why) for g in mixed.groups()] == [
        (("prompts",), None),
        (("merging",), "peft, tome works on all samples of a pass at once (shorten)"),
        (("shallow", "also"), "depth or length is another in vision.blocks.0, vision.blocks.2"),
        (("longer",), "depth or length is another in vision.blocks.0, vision.blocks.2"),
    ]
    who = ["merging", "also", "longer", "prompts", "shallow", "merging"]
    inputs = {"pixel_values": torch.cat([images()["pixel_values"], 2 * images()["pixel_values"]])}
    logits = mixed(**inputs, adapter=who).logits
    for row, name in enumerate(who):
        alone = all_five[name](pixel_values=inputs["pixel_values"][row : row + 1]).logits[0]
        torch.testing.assert_close(logits[row, : len(alone)], alone)


def test_one_that_is_replaced_or_removed_while_others_run() -> None:
    first, second = adapter(1), adapter(2)
    mixed = gm.Mixed(VIT.model(), {"a": first, "b": second})
    expected = mixed(**images(2), adapter=["a", "b"]).logits
    stop, failed = threading.Event(), list[BaseException]()

    def changing() -> None:
        try:
            for number in range(3, 5):
                mixed.add("c", adapter(number))
                mixed.remove("c")
        except BaseException as error:
            failed.append(error)
        stop.set()

    thread = threading.Thread(target=changing)
    thread.start()
    while not stop.is_set():
        assert torch.equal(mixed(**images(2), adapter=["a", "b"]).logits, expected)
    thread.join()
    assert not failed
    mixed.add("b", first)
    torch.testing.assert_close(mixed(**images(2), adapter=["a", "b"]).logits, first(**images(2)).logits)
    mixed.remove("a")
    assert mixed.active_adapters == ["b"]
    with pytest.raises(KeyError, match="no adapter 'a': there are b"):
        mixed(**images(), adapter="a")


def test_rows_are_answered_as_by_finished_models() -> None:
    made = {"prompts": gm.VPT(prompts=2), "shares": gm.CVPT(), "low": LoraConfig(r=2), "scaled": gm.SSF()}
    adapters = {name: adapter(number, method) for number, (name, method) in enumerate(made.items())}
    mixed = gm.Mixed(VIT.model(), adapters)
    assert [group.names for group in mixed.groups()] == [tuple(made)]
    inputs = {"pixel_values": torch.cat([images()["pixel_values"], images(1)["pixel_values"]])}
    logits = mixed(**inputs, adapter=list(made)).logits
    finished: dict[str, Any] = {name: one.finalize() for name, one in adapters.items()}
    for row, name in enumerate(made):
        alone = finished[name](pixel_values=inputs["pixel_values"][row : row + 1]).logits[0]
        torch.testing.assert_close(logits[row], alone)
    stored = finished["prompts"].gossamer.state_dict()
    held = mixed.adapters["prompts"].placement.methods.state_dict()  # type: ignore[union-attr]
    assert sorted(held) == sorted(stored)
    assert all(name.endswith(("keys", "values")) and torch.equal(held[name], stored[name]) for name in stored)


def test_the_backbone_lies_in_memory_once_and_stays_as_it_was() -> None:
    model = VIT.model()
    before, where = copy.deepcopy(model.state_dict()), {n: p.data_ptr() for n, p in model.named_parameters()}
    made = {"prompts": gm.VPT(prompts=2), "biases": gm.BitFit(), "low": LoraConfig(r=2)}
    mixed = gm.Mixed(model, {name: adapter(len(name), method) for name, method in made.items()})
    mixed(**images(), adapter=list(made))
    for name, one in mixed.adapters.items():
        found = {n.replace(".base_layer", ""): p.data_ptr() for n, p in one.backbone.named_parameters()}
        apart = {n for n in where if found[n] != where[n]}
        assert apart == {n for n in where if n.startswith("classifier") or (name == "biases" and n.endswith("bias"))}
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert gm.adapt(model, gm.VPT(prompts=2))  # nobody sits on it


def test_an_adapter_that_stepped_aside_is_taken_up_too() -> None:
    model = VIT.model()
    first = gm.adapt(model, gm.VPT(prompts=2), num_labels=3).eval()
    expected = first(**images()).logits
    second = gm.adapt(first.detach(), gm.VPT(prompts=3), num_labels=3)
    mixed = gm.Mixed(VIT.model(), {"first": first, "second": second})
    torch.testing.assert_close(mixed(**images(), adapter="first").logits, expected)
    assert second.attached
    assert not first.attached


def test_texts_of_groups_are_padded() -> None:
    made = {"low": LoraConfig(r=2), "shallow": gm.VPT(prompts=2, deep=False)}
    mixed = gm.Mixed(LLAMA.model(), {n: gm.adapt(LLAMA.model(), m).eval() for n, m in made.items()})
    inputs: dict[str, Any] = dict(LLAMA.inputs(2))
    inputs["attention_mask"][:] = 1
    written = mixed.generate(**inputs, adapter=["shallow", "low"], max_new_tokens=5, do_sample=False)
    for row, name in enumerate(("shallow", "low")):
        alone = mixed.adapters[name].generate(
            **{k: v[row : row + 1] for k, v in inputs.items()}, max_new_tokens=5, do_sample=False
        )[0]
        assert torch.equal(written[row, : len(alone)], alone)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"adapter": ["a", "b"]}, "2 names of adapters for 3 samples: give one for all, or one for each"),
        ({"adapter": ["a", "a", "z"]}, "no adapter 'z': there are a"),
        ({"labels": torch.zeros(3).long()}, "a batch for several adapters has no loss"),
        ({"pixel_mask": torch.ones(2, 4)}, "pixel_mask has 2 rows and others 3"),
        ({"adapter": ["a", ["a"], "a"]}, r"no adapter \['a'\]: there are a"),
        ({"adapter": ["a", None, "a"]}, "no adapter None: there are a"),
        ({"adapter": 3}, "adapters are named by a text, or by one for each sample; got 3"),
        ({"adapter": "a", "adapter_names": ["a"] * 3}, "adapter= and adapter_names= are two names for the same"),
        (
            {"pixel_values": torch.ones(0, 3, 4, 4), "adapter": []},
            "there are no samples to answer: pixel_values has no rows",
        ),
    ],
)
def test_calls_that_are_refused(given: dict, says: str) -> None:
    mixed = gm.Mixed(VIT.model(), {"a": adapter(1)})
    with pytest.raises((UserError, KeyError), match=says):
        mixed(**images() | given)


def test_what_is_refused(tmp_path: Path, uncounted: None) -> None:
    taken = adapter(1)
    with pytest.raises(UserError, match=r"an adapter is attached to this backbone: detach\(\) it"):
        gm.Mixed(taken.backbone)
    mixed = gm.Mixed(VIT.model())
    with pytest.raises(UserError, match="there is no adapter yet"):
        mixed(**images())
    with pytest.raises(UserError, match="no tensor is given"):
        mixed()
    with pytest.raises(WrongKind, match="is no adapter: add the adapted model itself"):
        mixed.add("done", taken.finalize())  # type: ignore[arg-type]
    taken.finalize(save=tmp_path / "done")
    with pytest.raises(gm.AdapterError, match="holds a finished model, not an adapter"):
        mixed.add("done", tmp_path / "done")
    for wrong in (None, 3, gm.VPT(prompts=2)):
        with pytest.raises(
            WrongKind, match="is no adapter: add an adapted model, its folder, or a repository of the hub"
        ):
            mixed.add("wrong", wrong)  # type: ignore[arg-type]
    for name in (3, "", None):
        with pytest.raises(WrongKind, match="an adapter is called by a text, not by"):
            mixed.add(name, taken)  # type: ignore[arg-type]
    assert mixed.adapters == {}
    with pytest.raises(KeyError, match="no adapter 'x': there are none"):
        mixed.remove("x")
    with pytest.raises(UserError, match="move it before Mixed is made of it"):
        mixed.double()
    other = VIT.model()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    with pytest.raises(gm.AdapterError):
        gm.Mixed(other).add("a", taken)
    assert not mixed.train().training
