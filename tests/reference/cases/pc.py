"""PC on the same ViT: gradients, scores, kept sets, and the model after deletion, in both forms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import gossamer as gm
from gossamer import condensation
from gossamer.condensation import scoring
from gossamer.methods.vpt import prompts_of

from . import Case, Check
from .vpt import hugging_face, load, timm_vit

COVERS = ("pc-vpt-deep", "pc-vpt-shallow")


def run(case: Case) -> Iterator[Check]:
    forms = ("exact", "sequence") if case.config["deep"] else ("sequence",)
    for build in (hugging_face, timm_vit):
        for form in forms:
            method = gm.VPT(prompts=case.config["p"], deep=case.config["deep"], form=form)
            yield from compare(case, build(case), method, list(case.tensors["P"]), f"{build.__name__}, {form}: ")


def compare(case: Case, model: nn.Module, method: gm.VPT, prompts: Sequence[Tensor], place: str) -> Iterator[Check]:
    """Prompts: one tensor [p, d] a block, with G in the same order."""
    t, data = case.tensors, Labelled(case.tensors["I"], case.tensors["t"])
    adapted = gm.adapt(model, method).eval()
    parts = [p.prompts for p in prompts_of(adapted).values()]
    load(parts, prompts)
    answer = adapted(pixel_values=t["I"], labels=t["t"])
    yield Check(place + "L", answer.loss, t["L"])
    yield Check(place + "y", answer.logits, t["y"])
    for i, (found, expected) in enumerate(zip(gradients(answer.loss, parts), rows(t, "G"), strict=True)):
        yield Check(f"{place}G[{i}]", found, expected, gradient=True)
    for name, score in {"s": "taylor", "s_norm": "norm", "s_gate": "gate"}.items():
        if name in t:
            found = torch.stack(list(scoring.scores(adapted, data, score=score, batch_size=2).values()))
            yield Check(place + name, found.float(), t[name], gradient=True)
    for name in [n for n in t if n.startswith(("M.", "M_local."))]:
        kind, _, ratio = name.partition(".")
        fresh = gm.adapt(adapted.detach(), method).eval()
        load([p.prompts for p in prompts_of(fresh).values()], prompts)
        ranking = "global" if kind == "M" else "local"
        done = condensation.condense(fresh, data, float(ratio), ranking=ranking)
        yield from condensed(case, fresh, done, name, ratio, place)
        fresh.detach()
        adapted.attach()


def condensed(
    case: Case, adapted: gm.Adapted, done: condensation.Condensed, name: str, ratio: str, place: str
) -> Iterator[Check]:
    t = case.tensors
    kept = torch.zeros(t[name].shape)
    for row, places in zip(kept, done.kept.values(), strict=True):
        row[places] = 1
    yield Check(place + name, kept, t[name].float())
    if not name.startswith("M."):
        return
    yield Check(f"{place}k.{ratio}", torch.tensor(done.counts["vpt"]).float(), t[f"k.{ratio}"].float())
    logits = adapted(pixel_values=t["I"]).logits
    yield Check(f"{place}y.{ratio}", logits, t[f"y.{ratio}"])
    finished = adapted.finalize()(t["I"])
    yield Check(f"{place}finalized y.{ratio}", getattr(finished, "logits", finished), t[f"y.{ratio}"])
    if f"dP.{ratio}" in t:
        parts = prompts_of(adapted)
        wanted = [adapted.head.weight, *(p.prompts for p in parts.values())]
        dW_h, *of_parts = gradients(logits.square().sum(), wanted)
        full, found = torch.zeros_like(t[f"dP.{ratio}"]), dict(zip(parts, of_parts, strict=True))
        for row, (key, places) in zip(full, done.kept.items(), strict=True):
            if places:
                row[places] = found[key]
        yield Check(f"{place}dP.{ratio}", full, t[f"dP.{ratio}"], gradient=True)
        yield Check(f"{place}dW_h.{ratio}", dW_h, t[f"dW_h.{ratio}"], gradient=True)


def rows(t: dict[str, Tensor], letter: str) -> list[Tensor]:
    """One tensor a block, of one tensor for all, or of one for each stage."""
    stages = [t[letter]] if letter in t else [t[n] for n in sorted(n for n in t if n.startswith(f"{letter}."))]
    return [row for stage in stages for row in stage]


def gradients(loss: Tensor, parts: Sequence[Any]) -> Sequence[Tensor]:
    return torch.autograd.grad(loss, parts, retain_graph=True)


class Labelled:
    """Images with labels as items by index."""

    def __init__(self, images: Tensor, labels: Tensor):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"pixel_values": self.images[i], "labels": self.labels[i]}
