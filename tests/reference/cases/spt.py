"""SPT: prompts from given banks by every strategy; the harvest and both read-outs of a whole ViT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import gossamer as gm
from gossamer.methods import spt
from gossamer.methods.parts.bank import Bank, bare

from . import Case, Check
from .vpt import hugging_face, in_these_letters, timm_vit

COVERS = (
    "spt-init",
    "spt-forward",
    "SPT prompt construction from a fixed token set (every strategy)",
    "SPT token harvest and shallow/deep forward (class-token and mean-pool read-out)",
)


def run(case: Case) -> Iterator[Check]:
    if "P_values" in case.config:
        yield from construction(case)
        yield from clustering(case)
    else:
        for build in (hugging_face, timm_vit):
            yield from harvest(case, build)
            for form in ("exact", "sequence"):
                for depth in ("deep", "shallow"):
                    yield from forward(case, build(in_these_letters(case)), depth, form, f"{build.__name__}, ")
        for form in ("exact", "sequence"):
            for depth in ("deep", "shallow"):
                averaging = timm_vit(in_these_letters(case), global_pool="avg")
                yield from forward(case, averaging, depth, form, "timm_vit, ", ".meanpool")


class Given:
    """A bank whose tokens stand in the case."""

    def __init__(self, case: Case, layers: int):
        self.tensors, self.layers, self.data = case.tensors, list(range(layers)), range(case.config["n_images"])
        self.width, self.images = case.config["d"], torch.empty(0)
        self.lengths: list[int] = []

    def draw(self, images: Tensor) -> None:
        self.images = images
        self.lengths = [z.shape[0] for z in self.tensors["Z.0"]]

    def tokens(self, places: Any, layers: Any) -> Iterator[tuple[int, list[Tensor]]]:
        return ((place, [self.tensors[f"Z.{layer}"][place] for layer in layers]) for place in places)


def construction(case: Case) -> Iterator[Check]:
    c, t = case.config, case.tensors
    for name in [n for n in t if n.startswith("P.")]:
        _, depth, strategy, count = name.split(".")
        m = int(count.removeprefix("P"))
        bank: Any = Given(case, c["layers"] if depth == "deep" else 1)
        config = gm.SPT(prompts=m, strategy=strategy, images=c["B"], compat=True, seed=c["seed"])  # type: ignore
        yield Check(name, spt.prompts_from(bank, config), t[name])
        yield Check(f"{name}: image_index", bank.images.float(), t["image_index"].float())
        for layer in bank.layers:
            key = f"{depth}.{strategy}.{count}.{layer}"
            yield Check(f"idx.{key}", spt.smallest(t[f"u.{key}"], m).float(), t[f"idx.{key}"].float())


def clustering(case: Case) -> Iterator[Check]:
    t = case.tensors
    for layer in range(case.config["layers"]):
        bank = t[f"Z.{layer}"].flatten(0, 1)
        centres, assignment, inertia = spt.kmeans(bank, bank[t[f"kmeans.idx0.{layer}"]])
        yield Check(f"kmeans.assign.{layer}", assignment.float(), t[f"kmeans.assign.{layer}"].float())
        yield Check(f"kmeans.P.{layer}", centres, t[f"kmeans.P.{layer}"])
        yield Check(f"kmeans.inertia.{layer}", inertia.view(1), t[f"kmeans.inertia.{layer}"])


def harvest(case: Case, build: Any) -> Iterator[Check]:
    c, t = case.config, case.tensors
    adapted = gm.adapt(build(in_these_letters(case)), gm.SPT(prompts=c["P_deep"])).eval()
    with bare(adapted) as anatomy:
        bank = Bank(adapted, anatomy, anatomy.blocks(), list(t["x_harvest"]))
        bank.draw(torch.arange(len(t["x_harvest"])))
        found = [tokens for _, tokens in bank.tokens(range(len(t["x_harvest"])), bank.layers)]
        frozen = adapted(pixel_values=t["x"]).logits
    for layer in range(c["layers"]):
        z = torch.stack([tokens[layer] for tokens in found])
        yield Check(f"{build.__name__}: Z.{layer}", z, t[f"Z.{layer}"])
        yield Check(f"{build.__name__}: P.deep[{layer}]", z.flatten(0, 1)[t["idx.deep"][layer]], t["P.deep"][layer])
    z = torch.stack([tokens[0] for tokens in found]).flatten(0, 1)
    yield Check(f"{build.__name__}: P.shallow", z[t["idx.shallow"]][None], t["P.shallow"])
    yield Check(f"{build.__name__}: logits.frozen", frozen, t["logits.frozen"])


def forward(case: Case, model: nn.Module, depth: str, form: str, place: str, pooled: str = "") -> Iterator[Check]:
    t, prompts = case.tensors, case.tensors[f"P.{depth}"]
    method = gm.SPT(prompts=prompts.shape[1], deep=depth == "deep", form=form, stay=bool(pooled))  # type: ignore
    adapted = gm.adapt(model, method).eval()
    tree: Any = adapted.methods["spt"]
    tree.set(prompts)
    logits = adapted(pixel_values=t["x"]).logits
    logits.square().sum().backward()
    place, suffix = f"{place}{form}: ", f".{depth}{pooled}"
    yield Check(f"{place}f{suffix}", adapted.features(pixel_values=t["x"]), t[f"f{suffix}"])
    yield Check(f"{place}logits{suffix}", logits, t[f"logits{suffix}"])
    grad = torch.stack([p.prompts.grad for p in tree.prompts()])
    yield Check(f"{place}grad_P{suffix}", grad, t[f"grad_P{suffix}"], gradient=True)
    yield Check(f"{place}grad_W_head{suffix}", adapted.head.weight.grad, t[f"grad_W_head{suffix}"], gradient=True)
    yield Check(f"{place}grad_b_head{suffix}", adapted.head.bias.grad, t[f"grad_b_head{suffix}"], gradient=True)
    finished = adapted.finalize()(t["x"])
    yield Check(f"{place}finalized logits{suffix}", getattr(finished, "logits", finished), t[f"logits{suffix}"])
