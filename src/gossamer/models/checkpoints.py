"""Checkpoints that authors published under their own key names: read safely, renamed by a table, fitted strictly.

A table is a list of pairs (theirs, ours) of key patterns, in which `*` stands for one or more whole names. Where one of their
tensors is three of ours, joined along the first dimension, `ours` is a tuple of three.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from gossamer.errors import UnknownName, UserError
from gossamer.quiet import quiet

Pair = tuple[str, "str | tuple[str, str, str]"]
RANK: Pair = ("rank_output.*", "rank_output.*")
MATCHING: Pair = ("itm_score.fc.*", "itm_score.*")


def read(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a file of torch (.ckpt, .pt, .bin), bare or under "state_dict".

    Raises:
        ValueError: the file holds anything but tensors and plain values, which is never executed, or no tensors at all.
        OSError: there is no such file.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is no readable safetensors file: {error}") from error
    held = contents(path)
    held = held.get("state_dict", held) if isinstance(held, dict) else held
    named = held.items() if isinstance(held, dict) else ()
    tensors = {k: v for k, v in named if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no tensors by name")
    return tensors


def contents(path: Path) -> Any:
    """What a file of torch holds, read without executing anything in it: tensors in plain containers.

    Raises:
        ValueError: it holds anything else, or is damaged.
        OSError: there is no such file.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch and pickle fail in many ways at what is no such file
        said = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{path} holds more than tensors (or is damaged), and pickled objects are never loaded: open it once where nothing "
            f"can be harmed, and save its tensors alone; torch says: {said}"
        ) from error


def labels(tensors: Mapping[str, Tensor], asked: int | None, path: str | Path) -> int | None:
    """Outputs of the classifier among renamed tensors; those `asked` for where there is none.

    Raises:
        ValueError: it has others than asked for.
    """
    head = tensors.get("classifier.3.weight")
    if head is not None and asked not in (None, len(head)):
        raise UserError(f"num_labels={asked}, but the head in {path} has {len(head)}")
    return asked if head is None else len(head)


@dataclass(frozen=True)
class Table:
    """How one model's keys are called elsewhere: `pairs` of patterns, and patterns of their keys that we need not (`drop`)."""

    pairs: tuple[Pair, ...]
    drop: tuple[str, ...] = ()

    def ours(self, theirs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Their tensors under our names, and those of their keys that the table does not know."""
        found, unknown = {}, []
        for key, tensor in theirs.items():
            if any(_match(key, pattern) for pattern in self.drop):
                continue
            target = next((t for pattern, ours in self.pairs if (t := _renamed(key, pattern, ours)) is not None), None)
            if target is None or (not isinstance(target, str) and (not tensor.ndim or len(tensor) % 3)):
                unknown.append(key)
            elif isinstance(target, str):
                found[target] = tensor
            else:
                found |= dict(zip(target, tensor.chunk(3), strict=True))
        return found, unknown

    def theirs(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors under their names, three joined to one where they have one.

        Raises:
            KeyError: the table does not know a key.
        """
        found: dict[str, Tensor] = {}
        for key, tensor in ours.items():
            target = next((t for pair in self.pairs if (t := _their_name(key, pair)) is not None), None)
            if target is None:
                raise UnknownName(f"the authors' checkpoints have no name for {key}")
            name, third = target
            if third is None:
                found[name] = tensor
            elif third == 0:
                names = next(t for pattern, names in self.pairs if (t := _renamed(name, pattern, names)) is not None)
                found[name] = torch.cat([ours[n] for n in names])
        return found


def table(
    kind: type,
    body: type,
    prefix: str,
    pairs: tuple[Pair, ...],
    drop: tuple[str, ...],
    heads: Mapping[str, tuple[Pair, ...]],
) -> Table:
    """The authors' names for the keys of a backbone or of a class with a head; heads that only other classes have are dropped.

    Args:
        kind: the class.
        body: that of the backbone alone.
        prefix: where the backbone stands in the other classes.
        pairs: keys of the backbone.
        drop: keys that none of the classes needs.
        heads: name of a class -> keys of its heads.

    Raises:
        ValueError: no such class.
    """
    if kind is not body and kind.__name__ not in heads:
        raise UserError(f"no table for {kind.__name__}; there are {body.__name__}, {', '.join(heads)}")
    own = heads.get(kind.__name__, ())
    # mlm_score is the head of pre-training, which no class has
    others = {theirs for each in heads.values() for theirs, _ in each} - {theirs for theirs, _ in own}
    return Table((*(pairs if kind is body else under(prefix, pairs)), *own), (*drop, "mlm_score.*", *sorted(others)))


def under(prefix: str, pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """Pairs for a model that stands under `prefix` in another of ours."""
    return tuple(
        (theirs, prefix + ours if isinstance(ours, str) else (prefix + ours[0], prefix + ours[1], prefix + ours[2]))
        for theirs, ours in pairs
    )


def check_no_adapter(theirs: Iterable[str], where: str) -> None:
    """Nothing, if none of these keys is APT's or the learned classifier token that came with it.

    Raises:
        ValueError: some are; without them the model would compute something else.
    """
    found = [k for k in theirs if ".APT." in k or k == "token4classifier"]
    if found:
        raise UserError(
            f"{where} holds a backbone with APT inside ({found[0]}, {len(found)} tensors in all), and is not the same without: "
            "leave these keys out to have the backbone alone"
        )


def _their_name(key: str, pair: Pair) -> tuple[str, int | None] | None:
    """Their name for our key by one pair, and which third of theirs it is (None: all of it)."""
    theirs, ours = pair
    if isinstance(ours, str):
        name = _renamed(key, ours, theirs)
        return None if not isinstance(name, str) else (name, None)
    for third, pattern in enumerate(ours):
        name = _renamed(key, pattern, theirs)
        if isinstance(name, str):
            return name, third
    return None


def _match(key: str, pattern: str) -> re.Match[str] | None:
    return re.fullmatch(re.escape(pattern).replace(r"\*", "(.+)"), key)


def _renamed(key: str, pattern: str, target: Any) -> Any:
    """A key that fits a pattern, under the target's name or names; None where it does not fit."""
    match = _match(key, pattern)
    if match is None:
        return None
    if not isinstance(target, str):
        return tuple(_renamed(key, pattern, one) for one in target)
    parts = target.split("*")
    return "".join(a + b for a, b in zip(parts, [*match.groups(), ""], strict=True))


def build(
    kind: Any, config: Any, tensors: Mapping[str, Tensor], unknown: Iterable[str], where: str, new: tuple[str, ...] = ()
) -> Any:
    """A model of transformers with these tensors, every one of them, in evaluation mode.

    Args:
        kind: its class.
        config: its configuration.
        tensors: under the model's names.
        unknown: keys of the file that no table knows.
        where: the file, for messages.
        new: beginnings of names that a file may lack: a task head starts fresh then.

    Raises:
        ValueError: keys unknown, missing or left over, or of another shape, values that are not finite; the message lists them.
    """
    with torch.device("meta"), quiet():
        own = kind(copy.deepcopy(config)).state_dict()
    faults = {
        "unknown": sorted(unknown),
        "missing": [k for k in own if k not in tensors and not (new and k.startswith(new))],
        "left over": [k for k in tensors if k not in own],
        "of another shape": [
            f"{k} {tuple(t.shape)} for {tuple(own[k].shape)}"
            for k, t in tensors.items()
            if k in own and t.shape != own[k].shape
        ],
        "not finite": [k for k, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()],
    }
    found = [f"{what}: {', '.join(keys[:4])} ({len(keys)} in all)" for what, keys in faults.items() if keys]
    if found:
        raise UserError(f"{where} does not fit {kind.__name__}; {'; '.join(found)}")
    with quiet():
        return kind.from_pretrained(None, config=config, state_dict=dict(tensors)).eval()


def grid(rows: Tensor, size: int) -> Tensor:
    """A position table [1 + g g, d] for size x size patches: row 0 kept, the others resized as a picture, bicubic."""
    side = round((len(rows) - 1) ** 0.5)
    if side * side != len(rows) - 1:
        raise UserError(f"a position table of {len(rows)} rows is no class token and a square of patches")
    if side == size:
        return rows
    picture = rows[1:].float().T.reshape(1, -1, side, side)
    resized = F.interpolate(picture, size=(size, size), mode="bicubic", align_corners=False)
    return torch.cat([rows[:1], resized.flatten(2)[0].T.to(rows.dtype)])
