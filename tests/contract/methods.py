"""The methods of the contract: one row each, and every backbone meets it. A new method adds a row here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from peft import IA3Config, LoraConfig, OFTConfig

import gossamer as gm

WINDOWS = {"unwindowed": "attends in windows"}
GROWS = {"grows": "has none for others|its states are rows of all images|among which none can stand|let in have none"}
HARVESTS = {"one_width": "SPT harvests tokens of one width", "apart": "SPT harvests tokens of samples"}
BETWEEN = {"between": "its FFN stands beside its attention"}
ALONE = {"alone": "cannot be changed alone"}
STAYS = {"takes_more": "tokens cannot stay"}
RUNS = {**GROWS, "untapped": "it reads the states behind block -2"}
SEES = {"sees": "does not see"}
UNCOUNTED = {"counted": "of peft's methods only LoRA has a closed form here"}
MERGES = {"merges": "cannot shorten"}
DENSE = {"dense": "has no down"}
NOTHING = {"headed": "nothing would be trained"}


@dataclass(frozen=True)
class Row:
    """A method as a row: what to pass to `adapt`, what it promises, and what it needs.

    It meets every backbone and keeps every promise of the contract (the tests of `test_contract.py`). What it does not is said
    here with its reason: `needs` maps facts of a backbone to what the refusal says where the fact is missing, `excused` promises
    to why they mean nothing.
    """

    method: Any
    identity: bool = False  # leaves the outputs unchanged at the start
    needs: Mapping[str, str] = field(default_factory=dict)
    excused: Mapping[str, str] = field(default_factory=dict)
    meets_all: bool = False  # it meets every backbone by default; the others' full table is slow
    meets: tuple[str, ...] = ()  # beside those that meet every method, these by default

    @property
    def but(self) -> dict[str, str]:
        """Promises of the contract that mean nothing here, and why."""
        forms = isinstance(self.method, gm.VPT) and self.method.deep and self.method.form == "exact"
        return {**self.excused, **({} if forms else {"forms": "there is one form of it"})}


METHODS: dict[str, Row] = {
    "vpt": Row(gm.VPT(prompts=5), meets_all=True),
    "vpt-sequence": Row(gm.VPT(prompts=5, form="sequence"), needs=GROWS),
    "vpt-shallow": Row(gm.VPT(prompts=4, deep=False), needs=RUNS),
    "vpt-stay": Row(gm.VPT(prompts=4, deep=False, stay=True), needs={**STAYS, **RUNS}),
    "vpt-cross": Row(gm.VPT(prompts=4, attention="both"), needs={"crosses": "no cross-attention"}, meets=("meter",)),
    "vpt-none": Row(gm.VPT(prompts=0), identity=True, needs=NOTHING),
    "vpt-uneven": Row(gm.VPT(prompts=(3, 0, 2), blocks=(0, 1, 2))),
    "vpt-projected": Row(
        gm.VPT(prompts=3, project=7, blocks=(0, 2)), needs={"one_width": "project=7 maps to one width"}
    ),
    "vpt-dropout": Row(gm.VPT(prompts=3, dropout=0.3), needs={"drops": "windows of a sample share"}),
    "linear-probe": Row(gm.LinearProbe(), identity=True, needs=NOTHING),
    "full": Row(gm.FullFineTuning(), identity=True),
    "bitfit": Row(gm.BitFit(), identity=True, needs={"biases": "no bias vectors"}),
    "houlsby": Row(gm.Adapter(rank=5, placement="houlsby"), identity=True, meets_all=True),
    "pfeiffer": Row(gm.Adapter(rank=5, placement="pfeiffer", activation="gelu"), identity=True),
    "adaptformer": Row(gm.Adapter(rank=5, placement="parallel", scale=0.1, dropout=0.1), identity=True),
    "parallel-normed": Row(gm.Adapter(rank=5, placement="parallel-normed"), identity=True),
    "scaled-pa": Row(
        gm.Adapter(rank=5, placement="parallel-attention", scale=4.0, norm=True, blocks=(1,)), identity=True
    ),
    "lora": Row(LoraConfig(r=2, lora_alpha=6), identity=True, meets_all=True),
    "lora-roles": Row(LoraConfig(r=2, target_modules=["k", "down"]), identity=True, needs=DENSE),
    "ia3": Row(IA3Config(), identity=True, needs=DENSE, excused=UNCOUNTED),
    "oft": Row(
        OFTConfig(r=0, oft_block_size=2),
        identity=True,
        excused=UNCOUNTED,
        needs={"flat": "for the input of a convolution"},
    ),
    "cvpt": Row(gm.CVPT(prompts=3), needs=BETWEEN),
    "cvpt-projected": Row(gm.CVPT(prompts=4, placement=2, form="projected", dropout=0.2), needs=WINDOWS),
    "cvpt-learnt": Row(gm.CVPT(prompts=2, placement=4, learnable=True, start="identity"), identity=True, needs=ALONE),
    "cvpt-one": Row(gm.CVPT(prompts=1, placement=5, layer_scale=False, start="published")),
    "apt": Row(gm.APT(prompts=5, rank=2), meets=("meter",)),
    "apt-ffn": Row(gm.APT(prompts=3, rank=0, where="all", activation="softmax", gate="learned", start="declared")),
    "apt-none": Row(gm.APT(prompts=0), identity=True),
    "spt": Row(gm.SPT(prompts=5), needs=HARVESTS),
    "spt-shallow": Row(
        gm.SPT(prompts=3, deep=False, strategy="mean_pooling", images=2), needs={"apart": HARVESTS["apart"], **RUNS}
    ),
    "das": Row(gm.DAS(skip=(0,), rank=4), needs=WINDOWS, meets=("meter",)),
    "das-attention": Row(
        gm.DAS(skip=(0, 2), rank=3, modules="attention", init="zero_up", dropout=0.2),
        needs={**WINDOWS, "damps_apart": "damps its attention in the sum itself"},
    ),
    "das-router": Row(
        gm.DAS(skip=(0,), rank=4, form="router", shortcut_rank=6, before_ffn=True),
        needs={**WINDOWS, "pre_norm": "a post-norm block", **ALONE},
    ),
    "das-bottleneck": Row(
        gm.DAS(skip=0, rank=4, form="bottleneck"),
        identity=True,
        needs={**WINDOWS, "pre_norm": "a post-norm block", **ALONE},
    ),
    "das-run": Row(
        gm.DAS(skip=(1, 2), rank=3, bridge="per-run", bridge_start="closed", shortcut_rank=5),
        needs=WINDOWS,
        meets=("meter",),
    ),
    "das-bridge": Row(gm.DAS(skip=(0,), rank=0, bridge_start="closed"), needs=WINDOWS),
    "das-identity": Row(gm.DAS(skip=0, rank=2, bridge="per-run", init="zero_up"), identity=True, needs=WINDOWS),
    "apt+cvpt+lora": Row([gm.CVPT(prompts=2, placement=2), gm.APT(prompts=4, rank=1), LoraConfig(r=2)], needs=WINDOWS),
    "vpt+lora": Row([gm.VPT(prompts=3), LoraConfig(r=2)]),
    "cvpt+spt+lora": Row(
        [gm.CVPT(prompts=3, placement=1), gm.SPT(prompts=2, strategy="kmeans"), LoraConfig(r=2)],
        needs=HARVESTS,
    ),
    "vpt+das+lora": Row(
        [gm.VPT(prompts=3), gm.DAS(skip=(0,), rank=3), LoraConfig(r=2), gm.CVPT(prompts=2)],
        needs={**WINDOWS, **BETWEEN},
    ),
    "dvp": Row(gm.DVP(block=1, heads=3, rank=2), needs=SEES, meets_all=True),
    "dvp-all": Row(gm.DVP(block=1, query="all", width=8, heads=2, train="prompt"), needs=SEES),
    "dvp-search": Row(gm.DVP(block=1, heads=3, train="language", super_network=True), needs=SEES),
    "memvp": Row(
        gm.MemVP(rank=5, extra_slots=3, vision_rank=2, scale=0.7, visual_scale=0.3), needs=SEES, meets_all=True
    ),
    "visual-tokens": Row(gm.VisualTokens(), needs=SEES),
    "visual-tokens+lora": Row([gm.VisualTokens(tokens="patches", rank=3, block=1), LoraConfig(r=2)], needs=SEES),
    "vpt+adapter": Row(
        [gm.VPT(prompts=3, deep=False), gm.VPT(prompts=2, form="sequence"), gm.Adapter(rank=3)], needs=RUNS
    ),
    "ssf": Row(gm.SSF(), needs={"weighed": "has none"}),
    "tome+lora": Row([gm.ToMe(r=3), LoraConfig(r=2)], needs=MERGES),
    "tome+vpt": Row([gm.ToMe(r=2), gm.VPT(prompts=3), gm.Adapter(rank=3)], needs=MERGES),
    "tome+sequence+das": Row(
        [gm.VPT(prompts=2, form="sequence"), gm.DAS(skip=(1,), rank=3), gm.ToMe(r=2, proportional=False)],
        needs={"unwindowed": "attends in windows", "grows": "cannot insert", **MERGES},
    ),
    "tome+cvpt+apt": Row([gm.CVPT(prompts=2), gm.APT(prompts=2, rank=1), gm.ToMe(r=1)], needs={**BETWEEN, **MERGES}),
    "evit+vpt": Row(
        [gm.EViT(keep=0.6, blocks=(0, 1)), gm.VPT(prompts=3), LoraConfig(r=2)],
        needs={**MERGES, "classed": "has none", "projected": "as they are projected"},
    ),
}
