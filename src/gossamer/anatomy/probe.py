"""Trials of a real block: whether it is built as its family says, so that every verb does what it promises, or refuses.

One small call of the block, with made-up states, shows what its parts read and give. A description is a handful of equations
between those; a verb needs some of them. Nothing is changed, and nothing is probed on the meta device, where there are no values.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.anatomy.block import Block, get, has, place
from gossamer.anatomy.call import Call
from gossamer.anatomy.states import states, tokens_of

TOKENS = 5
HOOKS = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs")
ATTENTION, FFN, STREAM, LENGTH, RETURNS = "attention", "ffn", "stream", "length", "returns"
NEEDS = {  # which equations a verb relies on, by branch
    ("add", "attention"): (ATTENTION, STREAM),
    ("add", "cross"): (STREAM,),
    ("add", "ffn"): (FFN,),
    ("middle", "middle"): (STREAM, FFN),
    ("middle", "ffn"): (FFN,),
    ("middle", "attention"): (ATTENTION,),
    ("remember", "attention"): (ATTENTION,),
    ("insert", "attention"): (LENGTH,),
    ("shorten", "attention"): (ATTENTION, FFN, STREAM, LENGTH),
    ("replace", "attention"): (RETURNS,),
}


@dataclass
class Findings:
    """What a trial showed: by equation, why it does not hold; none where all do."""

    apart: dict[str, str] = field(default_factory=dict)

    def against(self, verb: str, branch: str) -> str | None:
        """Why a verb cannot work on a branch (or a place of the stream), as far as equations say; None where it can."""
        return next((self.apart[e] for e in NEEDS.get((verb, branch), ()) if e in self.apart), None)


@torch.no_grad()
def probe(block: Block, owner: nn.Module) -> Findings:
    """Tries a block that nobody has changed.

    Args:
        block: any block of a stack; others of its kind are built alike.
        owner: runs the stack.
    """
    first = next(block.module.parameters(), None)
    if first is None or first.device.type == "meta" or _fake(first):
        return Findings()
    findings, names = Findings(), _places(block)
    try:
        with _quietly(block.module, first.device.type):
            seen, x, output = _trial(block, owner, names, TOKENS)
            _compare(findings, block, seen, x, output)
            if block.window is None:
                _, _, longer = _trial(block, owner, (), TOKENS + 2)
                _lengths(findings, block, states(output), states(longer))
    except Exception as error:  # whatever a block says about a call that is not the one it knows
        reason = f"a trial of it failed ({type(error).__name__}: {str(error).splitlines()[0][:200]})"
        findings.apart = dict.fromkeys((ATTENTION, FFN, STREAM, LENGTH, RETURNS), reason)
    return findings


# ---- one call ----


@contextmanager
def _quietly(module: nn.Module, device: str) -> Iterator[None]:
    """A module in evaluation mode and full precision while the context lasts, seen by nobody who has hooked onto its parts."""
    modes = {part: part.training for part in module.modules()}
    hooks = {part: {name: vars(part)[name] for name in HOOKS} for part in module.modules()}
    module.eval()
    for part in hooks:
        vars(part).update({name: OrderedDict() for name in HOOKS})
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode
            vars(part).update(hooks[part])


def _trial(block: Block, owner: nn.Module, names: tuple[str, ...], tokens: int) -> tuple[Recorder, Tensor, Any]:
    """What the named parts read and give in one call of a block, its states and its output."""
    recorder = Recorder()
    args, kwargs, x = _arguments(block, owner, tokens)
    handles = [h for name in names for h in recorder.hooks(name, get(block.module, name))]
    try:
        output = block.module(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return recorder, tokens_of(x), output


class Recorder:
    """First input and output of modules, by name, as [B, N, d] where they are grids."""

    def __init__(self) -> None:
        self.read: dict[str, Tensor] = {}
        self.gave: dict[str, Tensor] = {}

    def hooks(self, name: str, module: nn.Module) -> list[Any]:
        """Hooks onto a module."""
        watch = Watch(self, name)
        return [
            module.register_forward_pre_hook(watch.before, with_kwargs=True, prepend=True),
            module.register_forward_hook(watch.after),
        ]


class Watch:
    """One module that is recorded."""

    def __init__(self, recorder: Recorder, name: str):
        self.recorder, self.name = recorder, name

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps what it reads."""
        first = args[0] if args else next(iter(kwargs.values()))
        self.recorder.read.setdefault(self.name, _flat(first))

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Keeps what it gives."""
        self.recorder.gave.setdefault(self.name, _flat(states(output)))


def _flat(x: Tensor) -> Tensor:
    return tokens_of(x) if x.dim() == 4 else x


def _arguments(block: Block, owner: nn.Module, tokens: int) -> tuple[tuple[Any, ...], dict[str, Any], Tensor]:
    """A call of the block with two samples: no mask, no cache, positions in order."""
    sizes, takes, names = block.sizes, block.arguments, block.stack.windows
    like = get(block.module, block.ffn.up).weight
    dtype = next((p.dtype for p in block.module.parameters() if p.is_floating_point()), torch.float32)
    others: dict[str, Any] = {}
    if names is not None:
        grid = tuple(getattr(block.module, names.grid))
        x = _states((2, *grid, sizes.width), like.device, dtype)
        if names.dimensions is not None:
            x, others[names.dimensions] = tokens_of(x), grid
    else:
        x = _states((2, tokens, sizes.width), like.device, dtype)
    call = Call(states=x, others=others)
    if block.stack.rotary is not None:
        positions = torch.arange(tokens, device=like.device)[None]
        call.rotary = owner.get_submodule(block.stack.rotary)(x, positions)
    if block.stack.cross is not None:
        width = getattr(block.part("cross.k"), "in_features", sizes.width)
        call.context = _states((2, 3, width), like.device, dtype)
    required = [
        p.name for p in inspect.signature(type(block.module).forward).parameters.values() if p.default is p.empty
    ]
    given = {name: None for name in takes.order if name in required and name not in others}
    args, kwargs = takes.write(call, (), {**given, **others})
    kwargs.pop(takes.names["states"])
    return (x, *args), kwargs, x


def _states(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    count = torch.Size(shape).numel()
    return torch.arange(count, device=device, dtype=torch.float32).mul(0.7).sin().view(shape).to(dtype)


def _fake(tensor: Tensor) -> bool:
    return type(tensor).__name__ == "FakeTensor" or type(tensor.data).__name__ == "FakeTensor"


# ---- what a description says ----


def _places(block: Block) -> tuple[str, ...]:
    attention, cross, ffn = block.attention, block.stack.cross, block.ffn
    entering = attention.fused if attention.fused and has(block.module, attention.fused) else attention.q
    paths = [entering, attention.out, attention.norm, attention.after, attention.layer_scale]
    paths += [ffn.up, ffn.down, ffn.norm, ffn.after, ffn.layer_scale]
    paths += [] if cross is None else [cross.q, cross.out, cross.norm, cross.after]
    return tuple(dict.fromkeys(p for p in paths if p is not None and has(block.module, p)))


def _compare(findings: Findings, block: Block, seen: Recorder, x: Tensor, output: Any) -> None:
    """Pre-norm: u = norm(x), x + s branch(u). Post-norm: norm(x + branch(x))."""
    tolerance = 1e-4 if x.dtype in (torch.float32, torch.float64) else 3e-2
    branches: list[tuple[str, Any]] = [(ATTENTION, block.attention)]
    branches += [] if block.stack.cross is None else [("cross", block.stack.cross)]
    for name, names in branches:
        x = _branch(findings, block, seen, x, name, names, tolerance)
    ffn = block.ffn
    x = _branch(findings, block, seen, x, FFN, ffn, tolerance)
    y = states(output)
    if FFN not in findings.apart and not _equal(tokens_of(y) if y.dim() == 4 else y, x, tolerance):
        findings.apart[FFN] = "what it returns is not the stream behind its FFN"
    count = len(output) if isinstance(output, tuple) else 0
    if bool(block.stack.returns_tuple) != isinstance(output, tuple):
        findings.apart[RETURNS] = f"it returns {'a tuple' if count else 'states alone'}, which its family does not say"


def _branch(
    findings: Findings, block: Block, seen: Recorder, x: Tensor, name: str, names: Any, tolerance: float
) -> Tensor:
    """Holds one branch against its description; the stream behind it, as the description has it."""
    windowed = block.stack.windows is not None and name != FFN  # what its attention reads is cut into windows
    first = names.up if name == FFN else names.q if names.q in seen.read else names.fused
    last = names.down if name == FFN else names.out
    stream = FFN if name == FFN else STREAM
    if names.norm is not None:
        if not _equal(seen.read.get(names.norm), x, tolerance):
            findings.apart.setdefault(name, f"{names.norm} does not read what enters the branch")
        if not windowed and not _equal(seen.read.get(first), seen.gave.get(names.norm), tolerance):
            findings.apart.setdefault(name, f"{first} does not read what {names.norm} gives")
    elif not _equal(seen.read.get(first), x, tolerance):
        findings.apart.setdefault(name, f"{first} does not read what enters the branch")
    answer, behind = seen.gave.get(last), None
    damping = None if names.layer_scale is None else place(block.module, names.layer_scale)
    if names.layer_scale is not None and names.layer_scale in seen.gave:
        answer = seen.gave[names.layer_scale]
    elif isinstance(damping, Tensor) and answer is not None:
        answer = damping * answer
    if answer is not None and answer.shape == x.shape and not windowed:
        behind = x + answer
    if names.after is not None:
        if not _equal(seen.read.get(names.after), behind, tolerance):
            findings.apart.setdefault(stream, f"{names.after} does not read the sum of the stream and {last}")
        return seen.gave.get(names.after, x)
    if name == FFN:
        return x if behind is None else behind
    follower = _reads_next(block, seen, name)
    if follower is not None and not windowed and not _equal(follower, behind, tolerance):
        findings.apart.setdefault(stream, f"what follows does not read the sum of the stream and {last}")
    return x if follower is None else follower


def _reads_next(block: Block, seen: Recorder, name: str) -> Tensor | None:
    """The stream as the branch behind this one reads it."""
    cross, ffn = block.stack.cross, block.ffn
    if name == ATTENTION and cross is not None:
        return seen.read.get(cross.norm or cross.q)
    return seen.read.get(ffn.norm or ffn.up)


def _lengths(findings: Findings, block: Block, short: Tensor, long: Tensor) -> None:
    """More tokens are let in, and in blocks that look both ways the others see them."""
    if long.shape[1] != short.shape[1] + 2:
        findings.apart[LENGTH] = f"given {TOKENS + 2} tokens it returns {long.shape[1]}"
    elif not block.stack.causal and torch.equal(long[:, : short.shape[1]], short):
        findings.apart[LENGTH] = "its tokens do not see two more"


def _equal(found: Tensor | None, expected: Tensor | None, tolerance: float) -> bool:
    if found is None or expected is None or found.shape != expected.shape:
        return False
    return float((found.float() - expected.float()).abs().max()) <= tolerance * (
        1 + float(expected.float().abs().max())
    )
