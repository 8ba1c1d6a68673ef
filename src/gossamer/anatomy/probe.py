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

from gossamer.anatomy import memory
from gossamer.anatomy.block import Block, get, has, place
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
def probe(block: Block) -> Findings:
    """Tries a block that nobody has changed; others of its kind are built alike."""
    first = next(block.module.parameters(), None)
    if first is None or first.device.type == "meta" or _fake(first):
        return Findings()
    findings, names, tokens = Findings(), _places(block), block.prefix + TOKENS
    try:
        with _quietly(block.module, first.device.type), _calling_all(block):
            seen, x, output = _trial(block, names, tokens)
            _compare(findings, block, seen, x, output)
            if block.window is None and block.stack.fixed is None:
                _, _, longer = _trial(block, (), tokens + 2)
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


@contextmanager
def _calling_all(block: Block) -> Iterator[None]:
    """A block whose attention calls the projections that its own goes past, for as long as the context lasts."""
    if not block.attention.bypassed:
        yield
        return
    memory.attach(block)
    try:
        yield
    finally:
        memory.detach(block)


def _trial(block: Block, names: tuple[str, ...], tokens: int) -> tuple[Recorder, Tensor, Any]:
    """What the named parts read and give in one call of a block, its states and its output."""
    recorder = Recorder()
    args, kwargs, x = _arguments(block, tokens)
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
        """Keeps what it gives, as it is now: some add to it in place."""
        self.recorder.gave.setdefault(self.name, _flat(states(output)).clone())


def _flat(x: Tensor) -> Tensor:
    return x if x.dim() == 3 else tokens_of(x)


def _arguments(block: Block, tokens: int) -> tuple[tuple[Any, ...], dict[str, Any], Tensor]:
    """A call of the block with two samples: no mask, no cache, positions in order."""
    sizes, takes, names = block.sizes, block.arguments, block.stack.windows
    device = block.device
    dtype = next((p.dtype for p in block.module.parameters() if p.is_floating_point()), torch.float32)
    others: dict[str, Any] = {}
    if names is not None and names.lets_in:
        grid = tuple(getattr(block.module, names.grid))
        x = made_up((2, *grid, sizes.width), device, dtype)
        if names.dimensions is not None:
            x, others[names.dimensions] = tokens_of(x), grid
    else:
        extent: tuple[int, ...] = (tokens,)
        if block.stack.fixed is not None:
            taken, others = block.stack.fixed(block.module)
            extent = (taken,) if isinstance(taken, int) else taken
        ahead = {None: (2,), "rows": (), "sequence": (1,)}[block.stack.packed]
        x = made_up((*ahead, *extent, sizes.width), device, dtype)
    given = {**required(block.module), **others}
    call = takes.read((), given)
    call.states = x
    places = torch.arange(x.shape[-2], device=device)[None]
    if takes.takes("rotary"):
        call.rotary = block.tables(x, places)
    if takes.takes("positions"):
        call.positions = places
    if block.alibi:
        call.bias = x.new_zeros(2, sizes.inner // block.head_width, 1, tokens)
    if block.cross is not None:
        call.context = made_up((2, 3, sizes.context), device, dtype)
    args, kwargs = takes.write(call, (), given)
    kwargs.pop(takes.names["states"])
    return (x, *args), kwargs, x


def required(module: nn.Module) -> dict[str, None]:
    """Arguments that a module must be given, be it None."""
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return {p.name: None for p in named if p.default is p.empty}


def made_up(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """States of a shape, the same ones each time."""
    count = torch.Size(shape).numel()
    return torch.arange(count, device=device, dtype=torch.float32).mul(0.7).sin().view(shape).to(dtype)


def _fake(tensor: Tensor) -> bool:
    return type(tensor).__name__ == "FakeTensor" or type(tensor.data).__name__ == "FakeTensor"


# ---- what a description says ----


def _places(block: Block) -> tuple[str, ...]:
    attention, cross, ffn = block.attention, block.cross, block.ffn
    entering = attention.fused if attention.fused and has(block.module, attention.fused) else attention.q
    paths = [entering, attention.out, attention.norm, attention.after, attention.closing, attention.layer_scale]
    paths += [ffn.up, ffn.gate, ffn.down, ffn.norm, ffn.after, ffn.closing, ffn.layer_scale]
    paths += [] if cross is None else [cross.q, cross.out, cross.norm, cross.after]
    return tuple(dict.fromkeys(p for p in paths if p is not None and has(block.module, p)))


def _compare(findings: Findings, block: Block, seen: Recorder, x: Tensor, output: Any) -> None:
    """Pre-norm: u = norm(x), x + s branch(u). Post-norm: norm(x + branch(x)). Parallel: x + s attention(u) + s' ffn(u')."""
    tolerance = 1e-4 if x.dtype in (torch.float32, torch.float64) else 3e-2
    branches: list[tuple[str, Any]] = [(ATTENTION, block.attention)]
    branches += [] if block.cross is None else [("cross", block.cross)]
    entered = x
    for name, names in branches:
        x = _branch(findings, block, seen, x, x, name, names, tolerance)
    x = _branch(findings, block, seen, x, entered if block.parallel else x, FFN, block.ffn, tolerance)
    y = states(output)
    if FFN not in findings.apart and not _equal(_flat(y), x, tolerance):
        findings.apart[FFN] = "what it returns is not the stream behind its FFN"
    count = len(output) if isinstance(output, tuple) else 0
    if bool(block.stack.returns_tuple) != isinstance(output, tuple):
        findings.apart[RETURNS] = f"it returns {'a tuple' if count else 'states alone'}, which its family does not say"


def _branch(
    findings: Findings, block: Block, seen: Recorder, x: Tensor, reads: Tensor, name: str, names: Any, tolerance: float
) -> Tensor:
    """Holds one branch, beside a stream x, against its description; the stream behind it, as the description has it."""
    windowed = block.stack.windows is not None and name != FFN  # what its attention reads is cut into windows
    first = names.up if name == FFN else names.q if names.q in seen.read else names.fused
    last = names.down if name == FFN else names.out
    stream = FFN if name == FFN else STREAM
    if names.norm is not None:
        if not _equal(seen.read.get(names.norm), reads, tolerance):
            findings.apart.setdefault(name, f"{names.norm} does not read what enters the branch")
        if not windowed and not _equal(seen.read.get(first), seen.gave.get(names.norm), tolerance):
            findings.apart.setdefault(name, f"{first} does not read what {names.norm} gives")
    elif not windowed and not _equal(seen.read.get(first), reads, tolerance):
        findings.apart.setdefault(name, f"{first} does not read what enters the branch")
    answer, behind = _answer(findings, block, seen, name, names, last, windowed, tolerance), None
    if answer is not None and answer.numel() == x.numel() and not windowed:
        behind = x + answer.reshape(x.shape)
    if names.after is not None:
        if not _is_sum(seen.read.get(names.after), behind, answer, tolerance):
            findings.apart.setdefault(stream, f"{names.after} does not read the sum of the stream and {last}")
        return seen.gave.get(names.after, x)
    if name == FFN or block.parallel:
        return x if behind is None else behind
    follower = _reads_next(block, seen, name)
    if follower is not None and not windowed and not _is_sum(follower, behind, answer, tolerance):
        findings.apart.setdefault(stream, f"what follows does not read the sum of the stream and {last}")
    return x if follower is None else follower


def _answer(
    findings: Findings, block: Block, seen: Recorder, name: str, names: Any, last: str, windowed: bool, tolerance: float
) -> Tensor | None:
    """What a branch adds to the stream: behind its own norm and LayerScale, where there are any."""
    answer = seen.gave.get(last)
    if names.closing is not None:
        if not windowed and not _equal(seen.read.get(names.closing), answer, tolerance):
            findings.apart.setdefault(name, f"{names.closing} does not read what {last} gives")
        answer = seen.gave.get(names.closing)
    damping = None if names.layer_scale is None else place(block.module, names.layer_scale)
    if names.layer_scale is not None and names.layer_scale in seen.gave:
        return seen.gave[names.layer_scale]
    return damping * answer if isinstance(damping, Tensor | float) and answer is not None else answer


def _reads_next(block: Block, seen: Recorder, name: str) -> Tensor | None:
    """The stream as the branch behind this one reads it."""
    cross, ffn = block.cross, block.ffn
    if name == ATTENTION and cross is not None:
        return seen.read.get(cross.norm or cross.q)
    return seen.read.get(ffn.norm or ffn.up)


def _lengths(findings: Findings, block: Block, short: Tensor, long: Tensor) -> None:
    """More tokens are let in, and in blocks that look both ways the others see them."""
    both_ways = not block.stack.causal and short.dtype in (
        torch.float32,
        torch.float64,
    )  # in others it may be rounded away
    if long.shape[1] != short.shape[1] + 2:
        findings.apart[LENGTH] = f"given {TOKENS + 2} tokens it returns {long.shape[1]}"
    elif both_ways and torch.equal(
        long[0, : short.shape[1]], short[0]
    ):  # of one sample, whose first are the same in both
        findings.apart[LENGTH] = "its tokens do not see two more"


def _equal(found: Tensor | None, expected: Tensor | None, tolerance: float) -> bool:
    if found is None or expected is None or found.numel() != expected.numel():
        return False
    found = found.reshape(expected.shape)  # OPT's FFN reads the rows of all samples as one
    return float((found.float() - expected.float()).abs().max()) <= tolerance * (
        1 + float(expected.float().abs().max())
    )


def _is_sum(found: Tensor | None, expected: Tensor | None, added: Tensor | None, tolerance: float) -> bool:
    """Whether what is found is a sum up to rounding, and misses nothing of what was added, however small (as new weights are)."""
    if added is None or not _equal(found, expected, tolerance):
        return False
    apart = (found.reshape(expected.shape).float() - expected.float()).abs().max()  # type: ignore[union-attr]
    rounding = 8 * torch.finfo(added.dtype).eps * (1 + float(expected.float().abs().max()))  # type: ignore[union-attr]
    return float(apart) <= rounding + tolerance * float(added.float().abs().max())
