"""What an adapted model costs: parameters, multiply-adds of the forward pass, FLOPs of a training step, against the bare backbone.

Works on models with weights and on the meta device alike; see docs/cost.md for what is counted.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gossamer import hosts, methods
from gossamer.adapted import AdaptedModule, Finished, finish
from gossamer.anatomy import Anatomy
from gossamer.anatomy.seams import Part
from gossamer.cost.counting import Sample, closed_macs, count, on_meta
from gossamer.errors import UserError
from gossamer.methods.base import Method, added, foreseen
from gossamer.methods.linear_probe import LinearProbe

STEPS = 50  # that a denoiser takes to draw an image where none are asked for
UNITS = "1 MAC = 1 multiplication + 1 addition = 2 FLOPs; MACs and FLOPs are those of one sample"


@dataclass(frozen=True, kw_only=True)
class Macs:
    """Multiply-adds, counted by torch and by closed form (None where there is no formula)."""

    counted: int
    closed: int | None


@dataclass(frozen=True, kw_only=True)
class CostSheet:
    """Cost of a model. Parameters are numbers, MACs and FLOPs those of one sample; 1 MAC = 2 FLOPs.

    Attributes:
        model: class of the backbone.
        methods: what it is adapted by, as JSON; empty for a bare backbone.
        image: height and width in pixels, of a denoiser in places of its map; None for models without images.
        tokens: of the text, the encoder and the decoder, where the model has them.
        batch: samples that share what is computed once per batch.
        backbone_parameters, method_parameters, head_parameters: pre-trained ones without task heads; those that the methods train
            (new or, for BitFit and full fine-tuning, the backbone's own); those of the task heads.
        trained_parameters, all_parameters: what is trained, and everything there is, each tensor once.
        bare: forward pass of the backbone with its head, without methods.
        adapted: forward pass of the model in training, without what it computes once per batch (`per_batch`).
        finished: forward pass after `finalize()`.
        training_flops: forward and backward pass of one training step, the share of `per_batch` included.
        full_training_flops: the same for full fine-tuning of the same backbone and head.
        passes: forward passes of a denoiser for one image: its steps, twice that with guidance; None for other models.
    """

    model: str
    methods: tuple[dict[str, Any], ...]
    image: tuple[int, int] | None
    tokens: dict[str, int]
    batch: int
    backbone_parameters: int
    method_parameters: int
    head_parameters: int
    trained_parameters: int
    all_parameters: int
    bare: Macs
    adapted: Macs
    per_batch: Macs
    finished: Macs
    training_flops: int
    full_training_flops: int
    passes: int | None = None

    @property
    def trained_percent(self) -> float:
        """100 trained / all parameters."""
        return 100 * self.trained_parameters / self.all_parameters

    @property
    def ratios(self) -> dict[str, float]:
        """Forward passes against the bare backbone's, a training step against full fine-tuning's."""
        return {
            "adapted": (self.adapted.counted + self.per_batch.counted / self.batch) / self.bare.counted,
            "finished": self.finished.counted / self.bare.counted,
            "training": self.training_flops / self.full_training_flops,
        }

    def to_dict(self) -> dict[str, Any]:
        """The sheet as JSON, with percentage, ratios and units."""
        values = dataclasses.asdict(self)
        values["image"] = None if self.image is None else list(self.image)
        values["methods"] = list(self.methods)
        return {**values, "trained_percent": self.trained_percent, "ratios": self.ratios, "units": UNITS}

    def __str__(self) -> str:
        head = "  ".join(filter(None, [self.model, " + ".join(brief(m) for m in self.methods), self._sample()]))
        once = f" with {_giga(self.per_batch.counted)} once per batch of {self.batch}" if self.per_batch.counted else ""
        rows = [
            ("parameters", "", ""),
            ("  backbone", f"{self.backbone_parameters:,}", ""),
            ("  methods", f"{self.method_parameters:,}", ""),
            ("  head", f"{self.head_parameters:,}", ""),
            ("  trained", f"{self.trained_parameters:,}", f"{self.trained_percent:.3g} % of all"),
            ("forward pass, GMACs per sample", "", ""),
            ("  bare backbone", _giga(self.bare.counted), "x 1.000"),
            ("  adapted, in training", _giga(self.adapted.counted), f"x {self.ratios['adapted']:.3f}{once}"),
            ("  finished", _giga(self.finished.counted), f"x {self.ratios['finished']:.3f}"),
            *self._drawing(),
            ("training step, GFLOPs per sample", "", ""),
            ("  adapted", _giga(self.training_flops), f"x {self.ratios['training']:.3f}"),
            ("  full fine-tuning", _giga(self.full_training_flops), "x 1.000"),
        ]
        if not self.methods:
            rows = [
                row for row in rows if row[0].split(",")[0] not in ("  methods", "  trained", "  adapted", "  finished")
            ]
        lines = [f"{name:<34}{value:>15}  {remark}".rstrip() for name, value, remark in rows]
        return "\n".join([head, *lines, self._agreement(), UNITS])

    def _drawing(self) -> list[tuple[str, str, str]]:
        """Rows on one image of a denoiser, whose passes alone say little."""
        if self.passes is None:
            return []
        return [
            (f"one image, {self.passes} passes, GMACs", "", "without decoder and text"),
            ("  bare backbone", _giga(self.passes * self.bare.counted), "x 1.000"),
            ("  finished", _giga(self.passes * self.finished.counted), f"x {self.ratios['finished']:.3f}"),
        ]

    def _sample(self) -> str:
        unit = "pixels" if self.passes is None else "places"
        parts = [] if self.image is None else [f"{self.image[0]} x {self.image[1]} {unit}"]
        parts += [f"{count} {'' if side == 'text' else side + ' '}tokens" for side, count in self.tokens.items()]
        return ", ".join(parts)

    def _agreement(self) -> str:
        pairs = {n: getattr(self, n) for n in ("bare", "adapted", "per_batch", "finished")}
        unknown = [n.replace("_", " ") for n, m in pairs.items() if m.closed is None]
        apart = [n.replace("_", " ") for n, m in pairs.items() if m.closed not in (None, m.counted)]
        if apart:
            closed = ", ".join(f"{n} {_giga(pairs[n.replace(' ', '_')].closed)}" for n in apart)
            return f"counted by torch; the closed form does not know every part of this model ({closed})"
        return "counted by torch" + (f"; no closed form: {', '.join(unknown)}" if unknown else " = closed form")


def _giga(count: int) -> str:
    return f"{count / 1e9:,.3f}"


def brief(method: dict[str, Any]) -> str:
    """A method with its first setting and those that differ from their defaults: `vpt(prompts=100, form=sequence)`."""
    if method["method"] == "peft":
        shown = {k: method[k] for k in ("peft_type", "r", "target_modules") if method.get(k) is not None}
    else:
        fields = dataclasses.fields(methods.METHODS[method["method"]])  # type: ignore[arg-type]
        shown = {f.name: method[f.name] for i, f in enumerate(fields) if i == 0 or method[f.name] != f.default}
    return method["method"] + "(" + ", ".join(f"{k}={v}" for k, v in shown.items()) + ")"


def cost(
    model: AdaptedModule | nn.Module,
    *,
    image_size: int | tuple[int, int] | None = None,
    tokens: int | dict[str, int] | None = None,
    batch: int = 1,
    steps: int | None = None,
    guidance: bool = True,
) -> CostSheet:
    """The cost sheet of an adapted model, or of a bare backbone.

    Everything is counted on a copy on the meta device, in seconds and without memory for weights. A model that looks at values
    while it runs (some classifiers look for the last token) is counted on a real copy, which needs its memory once more.

    Args:
        model: adapted, or any model of transformers or timm.
        image_size: pixels a side, or (height, width), of a denoiser places of its map. None: what the model was made for.
        tokens: length of the text; {"encoder": n, "decoder": m} for two. None: 32, of a denoiser 77.
        batch: samples that share what is computed once per batch (keys and values of exact prompts).
        steps: that a denoiser takes to draw an image. None: 50, of a denoiser.
        guidance: whether each of these steps is two passes, with the text and without.

    Raises:
        ValueError: sizes that the model cannot read, a model that needs values and has none, or one that needs more inputs than
            an image and texts of so many tokens.
    """
    if not isinstance(batch, int) or batch < 1:
        raise UserError(f"batch must be a whole number from 1, got {batch!r}")
    backbone: Any = model.backbone if isinstance(model, AdaptedModule) else model
    sample = Sample.of(backbone, image_size, tokens)
    passes = _passes(backbone, steps, guidance)
    try:
        with torch.random.fork_rng(devices=[]):
            return dataclasses.replace(_counted(model, backbone, sample, batch), passes=passes)
    except UserError:
        raise
    except Exception as error:
        if not (reason := _obstacle(model, backbone, sample)):
            raise
        raise UserError(
            f"{type(backbone).__name__} cannot be counted, since it does not run on {sample}: {reason}"
        ) from error


def _passes(backbone: nn.Module, steps: int | None, guidance: bool) -> int | None:
    inside = hosts.of(backbone).inner(backbone)
    if hosts.of(inside).latent(inside) is None:
        if steps is not None:
            raise UserError(f"{type(backbone).__name__} is no denoiser, so steps={steps} mean nothing to it")
        return None
    steps = STEPS if steps is None else steps
    if not isinstance(steps, int) or steps < 1:
        raise UserError(f"steps must be a whole number from 1, got {steps!r}")
    return steps * (2 if guidance else 1)


def _counted(model: nn.Module, backbone: nn.Module, sample: Sample, batch: int) -> CostSheet:
    try:
        return _sheet(on_meta(model), sample, batch)
    except (RuntimeError, NotImplementedError) as error:
        if "meta" not in str(error).lower():
            raise
        if any(p.is_meta for p in model.parameters()):
            raise UserError(
                f"{type(backbone).__name__} looks at values while it runs, so it cannot be counted without weights: "
                f"load them, or count the encoder without its head ({error})"
            ) from error
    twin = copy.deepcopy(model)
    for part in twin.modules():
        if isinstance(part, Part):
            part.ready = True  # sizes alone matter here, so that what still waits for training data counts as well
    return _sheet(twin, sample, batch)


@torch.no_grad()
def _obstacle(model: nn.Module, backbone: nn.Module, sample: Sample) -> str | None:
    """Why the bare backbone, without anything of ours, does not run on a sample; None where it does."""
    with model.anatomy.bare() if isinstance(model, AdaptedModule) else nullcontext():
        modes = {module: module.training for module in backbone.modules()}
        backbone.eval()
        try:
            hosts.of(backbone).run(backbone, (), sample.inputs(backbone, 1))
        except Exception as error:  # whatever upstream says
            return str(error) or type(error).__name__
        finally:
            for module, mode in modes.items():
                module.training = mode
    return None


def _sheet(model: Any, sample: Sample, batch: int) -> CostSheet:
    """The sheet of a model that is taken apart on the way."""
    config = getattr(model, "config", None)
    if config is not None and getattr(config, "pad_token_id", 0) is None:
        config.pad_token_id = 0  # some classifiers refuse batches without one
    if not isinstance(model, AdaptedModule):
        return _bare_sheet(model, sample, batch)
    once, forward, step = _training(model.train(), sample, batch)
    finished = finish(model)
    parts = _parts(finished)
    finished_macs = Macs(counted=count(finished, parts[0], sample)[0], closed=_closed(*parts, sample))
    parameters = {
        "method_parameters": _size(p for p in model.methods.parameters() if p.requires_grad),
        "trained_parameters": _size(model.trainable().values()),
        "all_parameters": _size([*model.parameters(), *model.methods.parameters()]),
    }
    applied, labels, headed, head = model.applied, model.num_labels, bool(model.head_modules()), model.head_built
    named, family = model.head_named, model.family_named
    bare: Any = model.detach()
    if headed:
        bare = AdaptedModule(bare, [LinearProbe()], num_labels=labels, head=named, family=family)
        bare.head_built = head  # which the method may have chosen
    sheet = _bare_sheet(bare, sample, batch)
    more, overhead, closed_once = _formulas(applied, _parts(bare)[2], sample)
    return dataclasses.replace(
        sheet,
        **parameters,
        methods=tuple(methods.to_dict(m) for m in applied),
        adapted=Macs(counted=forward, closed=_sum(sheet.bare.closed, more, overhead)),
        per_batch=Macs(counted=once, closed=None if sheet.bare.closed is None else closed_once),
        finished=Macs(counted=finished_macs.counted, closed=_sum(finished_macs.closed, more)),
        training_flops=round(step / batch),
    )


def _training(model: AdaptedModule, sample: Sample, batch: int) -> tuple[int, int, int]:
    """MACs that a batch costs once, MACs that each sample costs, and FLOPs of a training step of the batch."""
    forward, step = count(model, model.backbone, sample, batch, backward=True)
    other = 2 if batch == 1 else 1
    each = (forward - count(model, model.backbone, sample, other)[0]) // (batch - other)
    return forward - batch * each, each, step


def _bare_sheet(model: Any, sample: Sample, batch: int) -> CostSheet:
    """The sheet of a backbone, with its head if it has one; full fine-tuning is the only training it knows."""
    backbone, head, anatomy = _parts(model)
    parameters = list(model.parameters())
    task_heads = [head] if head is not None else list(anatomy.heads.values())
    in_heads = {id(p) for h in task_heads for p in h.parameters()}
    for parameter in parameters:
        parameter.requires_grad_(parameter.is_floating_point())
    forward, step = count(model.train(), backbone, sample, backward=True)
    macs = Macs(counted=forward, closed=_closed(backbone, head, anatomy, sample))
    return CostSheet(
        model=type(backbone).__name__,
        methods=(),
        image=sample.image,
        tokens=sample.texts(),
        batch=batch,
        backbone_parameters=_size(p for p in parameters if id(p) not in in_heads),
        method_parameters=0,
        head_parameters=_size(p for p in parameters if id(p) in in_heads),
        trained_parameters=0,
        all_parameters=_size(parameters),
        bare=macs,
        adapted=macs,
        per_batch=Macs(counted=0, closed=0),
        finished=macs,
        training_flops=step,
        full_training_flops=step,
    )


def _parts(model: Any) -> tuple[nn.Module, nn.Module | None, Anatomy]:
    """Backbone, head that was built beside it, and anatomy."""
    if isinstance(model, AdaptedModule):
        return model.backbone, model.head_built, model.anatomy
    backbone, head = (model.backbone, model.head) if isinstance(model, Finished) else (model, None)
    return backbone, head, hosts.read(backbone)


def _closed(backbone: nn.Module, head: nn.Module | None, anatomy: Anatomy, sample: Sample) -> int | None:
    return closed_macs(backbone, head, anatomy, sample) if _known(anatomy) else None


def _known(anatomy: Anatomy) -> bool:
    """Whether what the bare model computes has a closed form."""
    return anatomy.whole and all(block.stack.closed for block in anatomy)


def _formulas(
    applied: tuple[Method, ...], anatomy: Anatomy, sample: Sample
) -> tuple[int | None, int | None, int | None]:
    """What methods add by closed form: to the finished model, to it in training, once per batch; None where unknown."""
    if not _known(anatomy):
        return None, None, None
    tokens = sample.tokens(anatomy)
    anatomy.sites = [site for method in applied for site in method.skipped(anatomy)]
    plan = foreseen(applied, anatomy, tokens)
    more = sample.images * added(applied, anatomy, tokens)
    try:
        overheads = [m.training_macs(plan) for m in applied]
    except ValueError:
        return more, None, None
    return more, sample.images * sum(o[0] for o in overheads), sample.images * sum(o[1] for o in overheads)


def _sum(*terms: int | None) -> int | None:
    return None if None in terms else sum(t for t in terms if t is not None)


def _size(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in {id(p): p for p in parameters}.values())
