"""Arguments of blocks by what they mean, whatever upstream calls them."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

import gossamer as gm
from gossamer.anatomy.call import SPELLINGS, Arguments, Call, one_of

from ..contract.backbones import LLAMA


class Old(nn.Module):
    def forward(self, hidden_states: Tensor, attention_mask: Any = None, past_key_values: Any = None) -> Tensor:
        return hidden_states


class New(nn.Module):
    def forward(self, x: Tensor, attn_mask: Any = None, *, cache: Any = None, **kwargs: Any) -> Tensor:
        return x


def wrapped(forward: Any) -> Any:
    """As a decorator upstream: its own code has other names."""

    @functools.wraps(forward)
    def inner(*args: Any, **kwargs: Any) -> Any:
        hidden = forward(*args, **kwargs)
        return hidden

    return inner


class Decorated(Old):
    forward = wrapped(Old.forward)


@pytest.mark.parametrize("kind", [Old, New, Decorated])
def test_a_call_is_read_by_meaning_and_written_back_as_it_came(kind: type[nn.Module]) -> None:
    takes, x, cache = Arguments(kind()), torch.zeros(2, 3, 5), object()
    name = takes.names["cache"]
    call = takes.read((x,), {name: cache})
    assert call.states is x
    assert call.cache is cache
    assert call.mask is None
    call.states, call.cache = x + 1, "another"
    args, kwargs = takes.write(call, (x,), {name: cache})
    assert torch.equal(args[0], x + 1)
    assert kwargs == {name: "another"}


def test_what_was_added_gets_the_modules_own_name_and_what_means_nothing_passes() -> None:
    takes, x = Arguments(New()), torch.zeros(2, 3, 5)
    call = takes.read((x, None), {"use_cache": True, "anything": 3})
    assert call.others == {"use_cache": True, "anything": 3}
    call.mask = torch.ones(2, 1, 3, 3)
    args, kwargs = takes.write(call, (x, None), {"use_cache": True, "anything": 3})
    assert args[1] is call.mask
    assert kwargs == {"use_cache": True, "anything": 3}


def test_an_older_name_through_an_open_signature_and_two_names_at_once() -> None:
    takes, x = Arguments(New()), torch.zeros(2, 3, 5)
    call = takes.read((x,), {"past_key_values": "kept"})
    assert call.cache == "kept"
    call.cache = "seen"
    assert takes.write(call, (x,), {"past_key_values": "kept"})[1] == {"past_key_values": "seen"}
    with pytest.raises(TypeError, match="New was given its cache twice, as cache and past_key_values"):
        takes.read((x,), {"past_key_values": "a", "cache": "b"})


def test_a_change_that_needs_what_the_module_does_not_take() -> None:
    takes, x = Arguments(Old()), torch.zeros(2, 3, 5)
    with pytest.raises(
        TypeError, match=r"Old takes no bias \(known as position_bias, .*\).*it takes hidden_states, attention"
    ):
        takes.write(Call(states=x, bias=torch.zeros(1, 2, 3, 3)), (x,), {})


def test_timms_mask_of_two_dimensions_is_for_all_samples_and_transformers_is_not() -> None:
    x, mask = torch.zeros(2, 3, 5), torch.ones(3, 3)
    assert Arguments(New()).read((x, mask), {}).mask.shape == (1, 1, 3, 3)  # type: ignore[union-attr]
    assert Arguments(Old()).read((x, mask), {}).mask.shape == (3, 3)  # type: ignore[union-attr]


def test_keyword_arguments_of_a_model() -> None:
    assert one_of("cache", {"past_key_values": 1, "cache": None}) == 1
    assert one_of("cache", {"input_ids": 1}) is None


def renamed(name: str, other: str) -> Any:
    """The forward of LLaMA's blocks with one argument under a name that nobody knows."""
    kind = type(tf.LlamaModel(tf.LlamaConfig(**LLAMA)).layers[0])

    class Renamed(kind):  # type: ignore[misc, valid-type]
        pass

    def forward(self: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        if other in kwargs:
            kwargs[name] = kwargs.pop(other)
        return kind.forward(self, hidden_states, **kwargs)

    parameters = ["attention_mask", "position_ids", "cache", "use_cache", "position_embeddings"]
    given = ", ".join(f"{other if p == name else p}=None" for p in parameters)
    scope: dict[str, Any] = {"forward": forward}
    passed = ", ".join(f"{p}={p}" for p in (other if p == name else p for p in parameters))
    exec(f"def taking(self, hidden_states, {given}): return forward(self, hidden_states, {passed})", scope)
    Renamed.forward = scope["taking"]  # type: ignore[method-assign]
    return Renamed


@pytest.mark.parametrize(
    ("name", "meaning"), [("cache", "cache"), ("position_embeddings", "rotary"), ("attention_mask", "mask")]
)
def test_a_renamed_argument_is_an_error_when_the_model_is_read(name: str, meaning: str) -> None:
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**LLAMA))
    kind = renamed(name, "something_new")
    for block in model.model.layers:
        block.__class__ = kind
    with pytest.raises(TypeError, match=rf"takes no {meaning} under any name that Gossamer knows.*something_new"):
        gm.read(model)


def test_an_argument_that_nobody_knows_stops_what_changes_the_sequence() -> None:
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**LLAMA))
    kind = renamed("use_cache", "distances")
    for block in model.model.layers:
        block.__class__ = kind
    gm.adapt(model, gm.Adapter(rank=3)).detach()
    for method in (gm.VPT(prompts=2, deep=False), gm.DAS(skip=1, rank=3)):
        with pytest.raises(ValueError, match="takes distances, which Gossamer does not know"):
            gm.adapt(model, method)


def test_names_of_upstream_stand_in_one_place() -> None:
    """No string of the code names an argument of a block, but in call.py and in the families."""
    names = {name for spelled in SPELLINGS.values() for name in spelled} - {"x", "mask", "cache"}
    root = Path(gm.__file__).parent
    for path in [*root.glob("anatomy/*.py"), *root.glob("methods/**/*.py"), root / "models/vision_language.py"]:
        if path.name == "call.py":
            continue
        tree = ast.parse(path.read_text())
        found = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value in names}
        if path.name in ("vision_language.py", "bank.py"):
            found -= {"attention_mask", "position_ids"}  # what whole models are called with
        assert not found, f"{path.name}: {found}"
        assert "co_varnames" not in path.read_text()
