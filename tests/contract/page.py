"""The page of backbones: which method works on which, as the contract has it. `python -m tests.contract.page` writes it.

A cell is what the contract tests: "yes" is a life from adapting to detaching, a number a refusal with that reason.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from gossamer.families.refused import REFUSED

from .table import BACKBONES, METHODS, Backbone, Row

PAGE = Path(__file__).parents[2] / "docs" / "backbones.md"
COLUMNS = {  # method of the contract -> its heading
    "lora": "LoRA", "linear-probe": "probe", "full": "full", "bitfit": "BitFit", "houlsby": "adapters", "ssf": "SSF",
    "vpt": "VPT", "vpt-sequence": "VPT, tokens", "vpt-cross": "VPT, cross", "cvpt": "CVPT", "apt": "APT", "spt": "SPT",
    "das": "DAS", "das-attention": "DAS, attention", "das-router": "DAS, router", "dvp": "DVP", "memvp": "MemVP",
    "visual-tokens": "visual tokens", "tome+lora": "ToMe, LoRA", "evit+vpt": "EViT, VPT",
}  # fmt: skip
NOT_APPLICABLE = {"sees", "crosses", "headed", "biases"}  # facts without which there is nothing for a method to do
REASONS = {  # fact that is missing -> why the method is refused
    "unwindowed": "its blocks attend in windows",
    "apart": "the states of its tower are rows of all images, none of which belongs to one sample",
    "grows": "every block gives each of its tokens a position of its own, and has none for tokens that are let in; or its tokens "
    "are the places of a map, or its states rows of all images",
    "damps_apart": "it damps its attention in the sum itself, and would damp what takes the attention's place",
    "pre_norm": "no norm stands before its attention, which that form reads",
    "between": "its FFN stands beside its attention, so no stream is between them",
    "alone": "its FFN and its attention read what one norm gives, and none of them reads alone",
    "merges": "its tokens have an order, or places in windows, or no norm stands before its attention: none can become one",
    "projected": "norms stand between the projections of its queries and keys and their attention, which are read as projected",
    "classed": "it has no class token by which tokens are chosen",
    "untapped": "its tower is read behind a block before the last, where tokens that run through would be too many",
    "takes_more": "it reads its own answer by position, or its tower's row by row, so tokens cannot stay in it",
    "one_width": "its blocks differ in width",
    "weighed": "its norms have no weights that could be scaled",
    "drops": "the windows of a sample share what is dropped, and an attention does not know whose windows it sees",
    "dense": "its FFN sends each token to some of its experts, whose weights are no Linears",
    "flat": "its blocks read a map, which peft's OFT takes for the input of a convolution",
}
NUMBERS = {fact: number for number, fact in enumerate(REASONS, start=1)}

HEAD = """# Backbones

Which method works on which backbone. `python -m tests.contract.page` writes this page from the tables of the contract, and a test
holds it current. Each cell is one of the contract's tests, on a small random model of odd sizes: *yes* is a whole life (one step,
saved and loaded bit for bit, finished equal, detached without a trace), a number is a refusal when the model is adapted, with the
reason below, and · means that there is nothing for the method to do (DVP on a model that sees no images, BitFit without biases).

```bash
gossamer inspect dinov2-small
```

says of one model which stacks it has, which verbs work on its blocks, and why others do not.

```bash
python benchmarks/backbones.py
```

builds the 129 models that users of this field bring, tiny and with random weights, adapts each by LoRA, VPT, CVPT, APT and DAS,
takes a step, saves, loads and compares; it prints a line for each, the counts, and ends with 1 where one was accepted and broke. Of
129 LoRA works on 123, VPT and APT on 112, CVPT on 109 and DAS on 105; the others are refused, and none is accepted and breaks.
"""

QUANTISED = """## Quantised backbones

A frozen backbone may be quantised before `adapt`: by torchao (int8 and int4, weights only) or with bitsandbytes' 8-bit Linears.
Prompts, adapters, LoRA, SSF, APT, DAS and what is read from states work as on any other. Nothing is merged into a quantised weight,
which would be rounded again: in a finished model LoRA, SSF and APT's factor go on running beside it. Full fine-tuning and CVPT's
folded and learnable forms, which change or read the matrices, are refused. A folder keeps the fingerprint of the quantised
weights, and is refused beside others. bitsandbytes' 4-bit Linears rewrite their weights when they are called on a CPU: an adapter
is not saved there."""


def cell(backbone: Backbone, row: Row) -> str:
    """What the page says of a pair."""
    fact = next((fact for fact in row.needs if not getattr(backbone, fact)), None)
    return "yes" if fact is None else "·" if fact in NOT_APPLICABLE else str(NUMBERS[fact])


def matrix() -> list[str]:
    """Every backbone of the contract by every method of the page; rows that are built alike stand in the same words."""
    lines = [f"| backbone | {' | '.join(COLUMNS.values())} |", f"|---|{'---|' * len(COLUMNS)}"]
    for name, backbone in BACKBONES.items():
        lines.append(f"| {name} | {' | '.join(cell(backbone, METHODS[m]) for m in COLUMNS)} |")
    return lines


def described() -> list[str]:
    """Every family: its file, the models that it describes by their model type or class, and what it is."""
    lines = ["| family | read as one of it | what it is |", "|---|---|---|"]
    families = importlib.import_module("gossamer.families")
    for file in pkgutil.iter_modules(families.__path__):
        module = importlib.import_module(f"{families.__name__}.{file.name}")
        owners = sorted({owner for stack in module.STACKS for owner in stack.owners})
        if not owners:
            continue  # what is refused has a table of its own
        what = (module.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        lines.append(f"| {file.name} | {', '.join(owners)} | {what} |")
    return lines


def refused() -> list[str]:
    """What no family can describe, and why."""
    by_reason: dict[str, list[str]] = {}
    for kind, why in REFUSED.items():
        by_reason.setdefault(why, []).append(kind)
    return [
        "LoRA and the other tuners of peft, full fine-tuning and a linear probe reach these too; methods that need blocks refuse\n"
        "them.\n",
        *(f"- {', '.join(kinds)}: {why}." for why, kinds in by_reason.items()),
    ]


def text() -> str:
    """The page."""
    reasons = [f"{NUMBERS[fact]}. {reason[0].upper()}{reason[1:]}." for fact, reason in REASONS.items()]
    parts = [
        HEAD.strip(),
        "## Families",
        "\n".join(described()),
        "## Refused",
        "\n".join(refused()),
        "## Methods",
        "\n".join(matrix()),
        "\n".join(reasons),
        QUANTISED,
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
