"""Finding the anatomy of a model: which family knows it, and where the parts that the family names are."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Collection, Iterable, Mapping

from torch import nn

from gossamer.anatomy.anatomy import Anatomy
from gossamer.anatomy.block import Block, attribute, get, has, lacking, listed, lists, wanting
from gossamer.anatomy.call import SPELLINGS, Arguments
from gossamer.anatomy.places import STACK_ORDER
from gossamer.anatomy.probe import probe
from gossamer.anatomy.resemblance import resembling
from gossamer.anatomy.sizes import hollowed
from gossamer.anatomy.stack import Stack
from gossamer.errors import UnknownName, WrongKind
from gossamer.families import FAMILIES
from gossamer.families.refused import REFUSED


def read(model: nn.Module, family: str | None = None) -> Anatomy:
    """The anatomy of a model: every stack of blocks that a known family describes.

    Args:
        model: of any library.
        family: blocks that no family describes are read as those of this one: a model type such as "llama", or a class of timm's
            such as "timm.VisionTransformer" (docs/backbones.md has them).

    Raises:
        TypeError: no family knows the model, or a part that the family names is missing (the message names it); of a family that
            was named also where a trial of a block shows another structure, or nothing is left that it could describe.
        KeyError: there is no such family.
    """
    found, unfit = _read(model, family)
    found.check_known()
    if unfit:
        raise WrongKind(found.why)
    return found


def survey(model: nn.Module, family: str | None = None) -> Anatomy:
    """The anatomy of any model, as far as families describe it.

    Of a model that no family knows it has no stack, and says why as soon as one is asked for. Blocks that are not as a family
    describes them are among its `unread` ones, with the reason. `family` and errors
    about it as in `read`.
    """
    return _read(model, family)[0]


def _read(model: nn.Module, family: str | None) -> tuple[Anatomy, dict[str, str]]:
    """The anatomy of a model, and path -> reason of the lists of blocks that look like a family's and are not."""
    stacks: dict[str, list[Block]] = {}
    owners: dict[str, str] = {}
    unfit: dict[str, str] = {}
    for name, module in model.named_modules():
        for stack in _descriptions(module, family):
            found = list(listed(module, stack))
            if not found:
                continue
            if any(blocks[0].module is found[0][2] for blocks in stacks.values()):
                continue  # the same list, reached through a wrapper of the owner
            problem = _problem(name, module, stack, found)
            if problem is not None:
                unfit[_path(name, found[0][1]).rpartition(".")[0]] = problem
                continue
            if stack.name in stacks and owners[stack.name] != name:
                continue  # a second stack of one name: among the unread
            stacks.setdefault(stack.name, []).extend(
                _blocks(name, module, stack, found, len(stacks.get(stack.name, [])))
            )
            owners[stack.name] = name
    if family is not None:
        _check_named(family, stacks, unfit, model)
    order = getattr(model, "stack_order", STACK_ORDER)  # models composed of two say which comes first
    known = {name: stacks[name] for name in order if name in stacks}
    read = {block.name.rpartition(".")[0] for blocks in known.values() for block in blocks}
    unfit = {path: problem for path, problem in unfit.items() if path not in read}  # others describe them as they are
    unread = {**_unread(model, known, owners), **unfit}
    return Anatomy(
        model, known, owners, unread=unread, why="" if known and not unfit else _unknown(model, unfit.values(), unread)
    ), unfit


def _descriptions(module: nn.Module, family: str | None) -> tuple[Stack, ...]:
    """What families say of a module; where none knows it, what the one says that was named."""
    return _described(frozenset(_kinds(module))) or _described(frozenset({family}))


@functools.cache  # asked for every module of a model
def _described(kinds: frozenset[str | None]) -> tuple[Stack, ...]:
    """The stacks whose owner is of one of some kinds."""
    return tuple(stack for stack in FAMILIES if not kinds.isdisjoint(stack.owners))


def _check_named(family: str, stacks: Mapping[str, list[Block]], unfit: Mapping[str, str], model: nn.Module) -> None:
    """Nothing, where blocks that no family describes are as the named one describes its own, and trials of each say so too.

    Raises:
        TypeError: they are not, or there are none.
        KeyError: there is no such family.
    """
    known = sorted({owner for stack in FAMILIES for owner in stack.owners})
    if family not in known:
        near = difflib.get_close_matches(family, known, n=3, cutoff=0.5)
        raise UnknownName(f"no family {family!r}: there are {', '.join(near or known)}{' and others' * bool(near)}")
    read = [b for blocks in stacks.values() for b in blocks if family in b.stack.owners and _by_name(b)]
    if not read:
        why = (
            "; ".join(unfit.values()) or "it has no list of blocks that no family describes, where this one has its own"
        )
        raise WrongKind(f"{type(model).__name__} cannot be read as {family!r}: {why}")
    for block in read:
        if apart := probe(block).apart:
            raise WrongKind(
                f"{type(model).__name__} cannot be read as {family!r}: {block.name} ({type(block.module).__name__}) has all parts "
                f"of such a block, and in a trial of it {'; '.join(dict.fromkeys(apart.values()))}"
            )


def _by_name(block: Block) -> bool:
    """Whether its family was named by the user, and does not know the model by itself."""
    return set(_kinds(block.owner)).isdisjoint(block.stack.owners)


def _path(owner: str, name: str) -> str:
    return f"{owner}.{name}" if owner else name


def _problem(name: str, owner: nn.Module, stack: Stack, found: list[tuple[int, str, nn.Module]]) -> str | None:
    """Why the blocks that a family names in a model, or what is around them, are not as it describes them; None if they are."""
    for _, path, block in found:
        if (why := _missing_part(block, stack)) is not None:
            return f"{name or type(owner).__name__}.{path} ({type(block).__name__}) {why}"
    standing = [block for _, _, block in found if hollowed(block) is None]
    if stack.cross is not None and standing and all(lacking(block, stack.cross) for block in standing):
        return f"{name or type(owner).__name__} has no {lacking(standing[0], stack.cross)} in any block"
    around = [stack.patch_convolution, stack.final_norm]
    lacks = next((names for names in around if names and not any(has(owner, name) for name in names)), None)
    return None if lacks is None else f"{name or type(owner).__name__} has no {' or '.join(lacks)}"


def _unread(model: nn.Module, stacks: Mapping[str, list[Block]], owners: Mapping[str, str]) -> dict[str, str]:
    """Path -> class of the blocks of every list of blocks that no family describes: equal modules of two matrices or more each.

    Where it is known why none does, that is said behind the class. Lists inside of blocks, known or not, belong to these; those
    that a family leaves aside are described.
    """
    known = [block.name for blocks in stacks.values() for block in blocks]
    for name, blocks in stacks.items():
        stack, owner = blocks[0].stack, blocks[0].owner
        beside = [*stack.aside, *(path for _, path in lists(owner, stack))]
        known += [_path(owners[name], path) for path in beside]
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        children = list(module.children())
        if not isinstance(module, nn.ModuleList | nn.Sequential) or len({type(child) for child in children}) != 1:
            continue
        if any(f"{path}.".startswith(f"{other}.") for other in [*known, *found]):
            continue
        holds_known = any(name.startswith(f"{path}.") for name in known)
        if not holds_known and all(sum(map(_is_matrix, child.modules())) > 1 for child in children):
            found[path] = f"{type(children[0]).__name__}{_refusal(model, path)}"
    return found


def _refusal(model: nn.Module, path: str) -> str:
    """Why no description carries the blocks at a path, behind a colon; empty where nothing is known against it."""
    above = path.split(".")
    inside = [model.get_submodule(".".join(above[:depth])) for depth in range(len(above), -1, -1)]
    kinds = [kind for module in inside for kind in _kinds(module)]
    return next((f": {REFUSED[kind]}" for kind in kinds if kind in REFUSED), "")


def _is_matrix(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    return weight is not None and weight.dim() == 2 and not isinstance(module, nn.Embedding)


def _blocks(
    name: str, owner: nn.Module, stack: Stack, found: list[tuple[int, str, nn.Module]], first: int
) -> list[Block]:
    """The blocks of one column, numbered from `first`; those behind a merging of patches with it."""
    prefix, blocks = _prefix(owner, stack), list[Block]()
    for i, (stage, path, module) in enumerate(found, start=first):
        block = Block(stack, i, module, _path(name, path), owner, prefix, stage)
        if stack.windows is not None and stack.windows.merging is not None and blocks and blocks[-1].stage < stage:
            merges = stage if stack.windows.merges_first else stage - 1
            block.merging = get(owner, stack.windows.merging.replace("*", str(merges)))
        blocks.append(block)
    return blocks


def _unknown(model: nn.Module, missing: Collection[str], unread: Collection[str]) -> str:
    without = "Methods that need no blocks work: LoRA and the other tuners of peft, full fine-tuning, a linear probe"
    if missing:
        return f"{type(model).__name__} looks like a known family, but {'; '.join(missing)}. {without}"
    refused = {kind: REFUSED[kind] for module in model.modules() for kind in _kinds(module) if kind in REFUSED}
    if refused:
        reasons = "; ".join(f"{kind}: {why}" for kind, why in refused.items())
        return f"cannot read {type(model).__name__} ({reasons}). {without} (docs/backbones.md)"
    kinds = next((k for k in _kinds(model)), type(model).__name__)
    known = sorted({owner for stack in FAMILIES for owner in stack.owners})
    like = [words for path in unread if (words := resembling(model, path, FAMILIES)) is not None]
    return (
        f"cannot read {type(model).__name__} ({kinds}): it has no list of blocks that a family describes. "
        f"{''.join(f'{words}. ' for words in like)}{without}. To teach Gossamer a new family, see CONTRIBUTING.md. There are "
        f"{', '.join(known)}"
    )


def _kinds(module: nn.Module) -> Iterable[str]:
    config = getattr(module, "config", None)
    model_type = getattr(config, "model_type", None)
    if model_type:
        yield model_type
    for cls in type(module).__mro__:
        yield f"{cls.__module__.partition('.')[0]}.{cls.__name__}"


def _missing_part(block: nn.Module, stack: Stack) -> str | None:
    if hollowed(block) is not None:
        return None  # what stood there is gone on purpose
    if (why := next((REFUSED[kind] for kind in _kinds(block) if kind in REFUSED), None)) is not None:
        return f"is of a kind that is refused: {why}"
    if stack.kinds and not {cls.__name__ for cls in type(block).__mro__} & set(stack.kinds):
        return f"is no {' or '.join(stack.kinds)}"
    if any(isinstance(m, nn.MultiheadAttention) for m in block.modules()):
        return "uses nn.MultiheadAttention, whose output projection is never called as a module, so nothing can be added to it"
    if (why := _missing_argument(block, stack)) is not None:
        return why
    if all(lacking(block, names) for names in stack.attention):
        return f"has no {' or '.join(str(lacking(block, names)) for names in stack.attention)}"
    if all(wanting(block, names) for names in stack.ffn):
        return f"has no {' or '.join(str(wanting(block, names)) for names in stack.ffn)}"
    return None


def _missing_argument(block: nn.Module, stack: Stack) -> str | None:
    """What a block of this kind must be given and does not take, under any name that we know."""
    takes = Arguments(block)
    needed = {
        "cache": stack.causal and not stack.whole,
        "rotary": stack.rotary is not None or stack.patch_rotary,
        "bias": stack.relative_bias,
        "context": stack.cross is not None,
        "mask": stack.modality != "vision",
    }
    for meaning in (name for name, wanted in needed.items() if wanted and not takes.takes(name)):
        return (
            f"takes no {meaning} under any name that Gossamer knows ({', '.join(SPELLINGS[meaning])}); it takes "
            f"{', '.join(takes.order)}"
        )
    return None


def _prefix(owner: nn.Module, stack: Stack) -> int:
    if isinstance(stack.prefix, int):
        return stack.prefix
    for path in stack.prefix:
        value = attribute(owner, path)
        if value is not None:
            return int(value) + stack.extra_prefix
    raise WrongKind(f"{type(owner).__name__} has none of {', '.join(stack.prefix)}: cannot count its prefix tokens")
