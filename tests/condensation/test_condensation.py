"""Prompt condensation: what must hold of scores, of the choice, and of the model that is left (docs/pc.md)."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import gossamer as gm
from gossamer import architectures
from gossamer.anatomy import memory
from gossamer.batches import on
from gossamer.condensation import cut, number, select
from gossamer.condensation.scoring import importance, scores
from gossamer.data import Preprocessing
from gossamer.methods.vpt import prompts_of
from gossamer.runs.prepared import Prepared
from gossamer.tasks.classifying_images import classify

from .. import squares
from ..contract.table import BACKBONES, disturb, prepared, run

VIT = BACKBONES["vit"]
IMAGES = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(6))
LABELS = torch.tensor([0, 2, 1, 1, 0, 2, 2])
DATA = [{"pixel_values": x, "labels": y} for x, y in zip(IMAGES, LABELS, strict=True)]
FORMS = pytest.mark.parametrize("form", ["exact", "sequence"])


def vpt(**options: Any) -> gm.Adapted:
    """A tiny ViT with prompts of size 1, as after training."""
    torch.default_generator.manual_seed(3)
    adapted = gm.adapt(VIT.model(), gm.VPT(**{"prompts": 5, **options})).eval()
    with torch.no_grad():
        for part in prompts_of(adapted).values():
            part.prompts.normal_()
    return adapted


def logits(adapted: Any) -> Tensor:
    return adapted(pixel_values=IMAGES).logits


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).detach().abs().max()) <= tolerance * (1 + float(expected.detach().abs().max()))


def flat(found: dict[str, Tensor]) -> Tensor:
    return torch.cat(list(found.values()))


# ---- scores ----


@FORMS
@pytest.mark.parametrize("score", ["taylor", "norm", "grad", "gate"])
def test_scores_do_not_depend_on_batches_or_order(score: Any, form: str) -> None:
    adapted = vpt(form=form)
    whole = scores(adapted, DATA, score=score, batch_size=7)
    assert [list(s.shape) for s in whole.values()] == [[5]] * 3
    for data, size in ((DATA, 3), (DATA, 1), (DATA[::-1], 4)):
        found = scores(adapted, data, score=score, batch_size=size)
        assert float((flat(found) - flat(whole)).abs().max()) <= 1e-6 * float(flat(whole).max())
    loader = DataLoader(DATA, batch_size=4, drop_last=True)  # type: ignore[arg-type]
    close(flat(scores(adapted, loader, score=score)), flat(whole), 1e-6)


def test_scores_are_those_of_the_mean_loss() -> None:
    adapted = vpt()
    parts = [part.prompts for part in prompts_of(adapted).values()]
    gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(logits(adapted), LABELS), parts)  # type: ignore
    for name, formula in {
        "taylor": lambda g, p: (g * p).abs().sum(1),
        "norm": lambda g, p: g.square().sum(1).sqrt() * p.square().sum(1).sqrt(),
        "grad": lambda g, p: g.square().sum(1).sqrt(),
        "magnitude": lambda g, p: p.square().sum(1).sqrt(),
    }.items():
        expected = torch.cat([formula(g, p) for g, p in zip(gradients, parts, strict=True)])
        close(flat(scores(adapted, DATA, score=name, batch_size=2)).float(), expected, 1e-6)


def test_scores_of_each_sample_are_averaged_behind_the_absolute_value() -> None:
    adapted = vpt()
    alone = [flat(scores(adapted, [item])) for item in DATA]
    found = flat(scores(adapted, DATA, per_sample=True))
    close(found, torch.stack(alone).mean(0), 1e-6)
    assert (found > flat(scores(adapted, DATA)) * 1.001).all()


def test_scoring_leaves_no_trace() -> None:
    adapted = vpt().train()
    adapted.methods["vpt"].eval()
    next(iter(prompts_of(adapted).values())).prompts.requires_grad_(False)  # type: ignore[union-attr]
    logits(adapted).sum().backward()
    before = {n: (p.detach().clone(), p.requires_grad, p.grad) for n, p in adapted.named_parameters()}
    modes = [m.training for m in adapted.modules()]
    buffers = {n: b.clone() for n, b in adapted.named_buffers()}
    drawn = torch.get_rng_state()
    for score in ("taylor", "gate"):
        scores(adapted, DATA, score=score)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), drawn)
    assert [m.training for m in adapted.modules()] == modes
    for name, parameter in adapted.named_parameters():
        value, flag, gradient = before[name]
        assert torch.equal(parameter, value)
        assert parameter.requires_grad == flag
        assert parameter.grad is gradient
    assert all(torch.equal(b, buffers[n]) for n, b in adapted.named_buffers())
    found = memory.memory_of(adapted.anatomy.blocks()[0].part("attention"))
    assert found is None or found.log_weights is None


@pytest.mark.parametrize("options", [{}, {"deep": False}, {"form": "sequence"}])
def test_gate_is_the_derivative_in_the_weight_of_a_key(options: dict[str, Any]) -> None:
    adapted = vpt(**options).double()
    found = flat(scores(adapted, [{**d, "pixel_values": d["pixel_values"].double()} for d in DATA], score="gate"))
    deep, step = options.get("deep", True), 1e-4

    def loss(block: int, place: int, weight: float) -> float:
        logs = torch.zeros(5, dtype=torch.float64)
        logs[place] = math.log(weight)
        start = 1 if options else 0
        with torch.no_grad(), memory_of(adapted, block if deep else None, start, logs):
            return float(torch.nn.functional.cross_entropy(adapted(pixel_values=IMAGES.double()).logits, LABELS))

    for i, (block, place) in enumerate(itertools.product(range(3 if deep else 1), range(5))):
        slope = (loss(block, place, 1 + step) - loss(block, place, 1 - step)) / (2 * step)
        assert found[i].item() == pytest.approx(abs(slope), rel=1e-5)


class memory_of:
    """Weights of key columns in one block, or in all."""

    def __init__(self, adapted: gm.Adapted, block: int | None, start: int, logs: Tensor):
        blocks = adapted.anatomy.blocks(indices=None if block is None else [block])
        self.contexts = [memory.weighted(b, start, logs) for b in blocks]

    def __enter__(self) -> None:
        for context in self.contexts:
            context.__enter__()

    def __exit__(self, *error: Any) -> None:
        for context in reversed(self.contexts):
            context.__exit__(*error)


def test_inner_below_taylor_below_norm() -> None:
    generator = torch.Generator().manual_seed(1)
    G, P = (torch.randn(40, 9, generator=generator) for _ in range(2))
    inner, taylor, norm = (importance(G, P, score) for score in ("inner", "taylor", "norm"))
    assert (inner <= taylor).all()
    assert (taylor <= norm * (1 + 1e-6)).all()


def test_deep_prompts_have_no_inner_product_and_shallow_ones_have() -> None:
    deep, shallow = vpt(), vpt(deep=False)
    with pytest.warns(UserWarning, match="rounding noise in pre-norm blocks"):
        ratio = flat(scores(deep, DATA, score="inner")) / flat(scores(deep, DATA))
    assert ratio.max() < 1e-3
    assert (flat(scores(shallow, DATA, score="inner")) / flat(scores(shallow, DATA))).mean() > 100 * ratio.mean()


def test_the_scale_of_a_deep_prompt_does_not_matter() -> None:
    adapted = vpt()
    before = {s: flat(scores(adapted, DATA, score=s)) for s in ("taylor", "norm", "gate", "grad")}  # type: ignore
    with torch.no_grad():
        for part in prompts_of(adapted).values():
            part.prompts.mul_(torch.tensor([[0.5], [3.0], [1.0], [2.0], [7.0]]))
    after = {s: flat(scores(adapted, DATA, score=s)) for s in before}  # type: ignore[arg-type]
    for score in ("taylor", "norm", "gate"):
        torch.testing.assert_close(after[score], before[score], rtol=1e-4, atol=1e-9)
    assert not torch.allclose(after["grad"], before["grad"], rtol=0.1)


# ---- the choice ----


def test_numbers_are_rounded_half_up_as_written() -> None:
    assert [number(r, t) for r, t in ((0.3, 20), (0.3, 15), (0.29, 50), (0.01, 3), (1.0, 7), (0.3, 0))] == [
        6, 5, 15, 1, 7, 0,
    ]  # fmt: skip


def test_global_ranking_keeps_the_largest() -> None:
    found = [torch.tensor(s) for s in ([0.1, 0.9, 0.2], [0.8, 0.7, 0.95], [0.05, 0.01, 0.02])]
    assert select(found, 0.45) == [[1], [0, 1, 2], []]
    kept = [s[i] for s, places in zip(found, select(found, 0.45), strict=True) for i in places]
    removed = sorted(torch.cat(found).tolist())[:5]
    assert min(kept) >= max(removed)
    assert select(found, 0.45, min_per_block=1) == [[1], [0, 2], [0]]
    assert select(found, 0.5, ranking="local") == [[1, 2], [0, 2], [0, 2]]
    assert select(found, 0.1, ranking="local", min_per_block=2) == [[1, 2], [0, 2], [0, 2]]
    with pytest.raises(ValueError, match=r"asks for 6 prompts and keep=0.3 leaves 3 of 9: keep more"):
        select(found, 0.3, min_per_block=2)


def test_equal_scores_keep_the_earlier() -> None:
    equal = [torch.ones(3), torch.ones(4)]
    assert select(equal, 0.6) == [[0, 1, 2], [0]]
    assert select(equal, 0.5, ranking="local") == [[0, 1], [0, 1]]


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.5, 0.77])
@pytest.mark.parametrize("ranking", ["global", "local"])
def test_as_many_stay_as_asked(keep: float, ranking: Any) -> None:
    adapted = vpt()
    done = gm.condense(adapted, DATA, keep, ranking=ranking)
    expected = number(keep, 15) if ranking == "global" else 3 * number(keep, 5)
    assert done.before == 15
    assert done.after == sum(done.counts["vpt"]) == expected
    assert adapted.applied[0].prompts == tuple(done.counts["vpt"])  # type: ignore[attr-defined]
    assert adapted.metadata["condensed"]["prompts_after"] == expected


def test_keeping_all_touches_nothing() -> None:
    adapted = vpt()
    before, output = adapted.trainable(), logits(adapted)
    done = gm.condense(adapted, DATA, 1.0)
    assert done.before == done.after == 15
    assert all(adapted.trainable()[n] is p for n, p in before.items())
    assert torch.equal(logits(adapted), output)
    assert adapted.applied == (gm.VPT(prompts=5),)


def test_rounds_end_with_the_same_number_and_score_anew() -> None:
    once, thrice = vpt(), vpt()
    one, three = gm.condense(once, DATA, 0.2), gm.condense(thrice, DATA, 0.2, rounds=3)
    assert one.after == three.after == 3
    for name, part in prompts_of(thrice).items():
        original = prompts_of(vpt())[name].prompts
        assert torch.equal(part.prompts, original[three.kept[name]])  # type: ignore[arg-type,index]
    assert three.scores != one.scores


def test_controls() -> None:
    chosen = [gm.condense(vpt(), None, 0.4, score="random", seed=seed).kept for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    adapted = vpt()
    norms = torch.stack([p.prompts.norm(dim=1) for p in prompts_of(adapted).values()]).detach()  # type: ignore
    kept = gm.condense(adapted, None, 0.4, score="magnitude").kept
    largest = set(norms.flatten().topk(6).indices.tolist())
    assert {5 * b + i for b, places in enumerate(kept.values()) for i in places} == largest


def test_given_scores() -> None:
    adapted = vpt()
    given = {name: torch.arange(5.0) for name in prompts_of(adapted)}
    assert set(map(tuple, gm.condense(adapted, None, 0.4, score=given).kept.values())) == {(3, 4)}
    with pytest.raises(ValueError, match=r"scores were given for .*: 5.*and the prompts of this model are .*: 2"):
        gm.condense(adapted, None, 0.4, score=given)


# ---- the model that is left ----


@FORMS
def test_deleting_is_hiding_the_key_and_not_zeroing_the_prompt(form: str) -> None:
    kept = {"vpt.vision.blocks.0": [0, 3], "vpt.vision.blocks.1": [], "vpt.vision.blocks.2": [1, 2, 3, 4]}
    deleted, hidden, zeroed = vpt(form=form), vpt(form=form), vpt(form=form)
    cut(deleted, kept)
    contexts = []
    for block, places in zip(hidden.anatomy.blocks(), kept.values(), strict=True):
        logs = torch.full((5,), -1e30)
        logs[places] = 0
        contexts.append(memory.weighted(block, 0 if form == "exact" else 1, logs))
    with contexts[0], contexts[1], contexts[2]:
        masked = logits(hidden)
    with torch.no_grad():
        for part, places in zip(prompts_of(zeroed).values(), kept.values(), strict=True):
            part.prompts[[i for i in range(5) if i not in places]] = 0.0  # type: ignore[index]
    close(logits(deleted), masked, 1e-6)
    assert float((logits(zeroed) - masked).detach().abs().max()) > 1e-3


@pytest.mark.parametrize(
    "family",
    [
        *("vit", "bert", "t5-gated-encoder", "timm-swin"),
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("timm", "vilt", "llama-classifier", "swin")),
    ],
)
def test_uneven_and_empty_blocks_are_the_same_in_both_forms(family: str, tmp_path: Path) -> None:
    backbone, results = BACKBONES[family], []
    options = {} if backbone.num_labels is None else {"num_labels": backbone.num_labels}
    for form in ("exact", "sequence"):
        torch.default_generator.manual_seed(3)
        adapted = disturb(gm.adapt(backbone.model(), gm.VPT(prompts=4, form=form), **options)).eval()  # type: ignore
        names = list(prompts_of(adapted))
        cut(adapted, dict(zip(names, ([0, 2, 3], [], [1]), strict=True)))
        output = run(adapted, backbone.inputs())
        output.square().sum().backward()
        results.append((output, {n: p.grad for n, p in adapted.trainable().items()}))
        adapted.save_pretrained(tmp_path / form)
        again = gm.load(tmp_path / form, backbone.model())
        assert torch.equal(run(again, backbone.inputs()), output)
        close(run(adapted.finalize(), backbone.inputs()), output, 1e-6)
    close(results[0][0], results[1][0])
    for name, gradient in results[1][1].items():
        if gradient is not None:
            close(results[0][1][name], gradient)


def test_removed_prompts_exist_nowhere_and_kept_ones_learn(tmp_path: Path) -> None:
    adapted = vpt()
    original = {n: p.prompts.detach().clone() for n, p in prompts_of(adapted).items()}  # type: ignore[union-attr]
    done = gm.condense(adapted, DATA, 0.3, score={n: torch.arange(5.0) + 9 * (i == 0) for i, n in enumerate(original)})
    assert done.counts == {"vpt": [5, 0, 0]}
    state = adapted.tensors()
    assert sum(t.numel() for t in state.values()) == 5 * 12 + 3 * 13
    assert {n for n in state if "prompts" in n} == {"vpt.vision.blocks.0.prompts"}
    assert all(p.numel() for p in adapted.trainable().values())
    assert torch.equal(state["vpt.vision.blocks.0.prompts"], original["vpt.vision.blocks.0"])
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=0.1)
    adapted.train()(pixel_values=IMAGES, labels=LABELS).loss.backward()
    optimizer.step()
    assert not torch.equal(adapted.state_dict()["vpt.vision.blocks.0.prompts"], original["vpt.vision.blocks.0"])
    adapted.eval().save_pretrained(tmp_path / "a")
    again = gm.load(tmp_path / "a", VIT.model())
    assert torch.equal(logits(again), logits(adapted))
    assert again.applied == adapted.applied == (gm.VPT(prompts=(5, 0, 0)),)
    assert again.metadata["condensed"] == adapted.metadata["condensed"]
    further = gm.condense(again, DATA, 0.4)
    assert further.counts == {"vpt": [2, 0, 0]}


def test_a_condensed_model_can_be_detached_copied_and_cut_again() -> None:
    adapted = vpt(deep=False, prompts=8)
    gm.condense(adapted, DATA, 0.5)
    expected = logits(adapted)
    assert torch.equal(logits(copy.deepcopy(adapted)), expected)
    adapted.detach()
    adapted.attach()
    assert torch.equal(logits(adapted), expected)
    assert adapted.cost().method_parameters == 4 * 12


@pytest.mark.parametrize(
    "method",
    [
        gm.VPT(prompts=4, project=3),
        gm.VPT(prompts=4, deep=False, blocks=(1,)),
        gm.VPT(prompts=4, stay=True),
        gm.SPT(prompts=4),
        gm.SPT(prompts=4, deep=False),
        [gm.VPT(prompts=3), gm.SPT(prompts=2), gm.Adapter(rank=2)],
    ],
    ids=str,
)
def test_other_prompts(method: Any, tmp_path: Path) -> None:
    adapted = disturb(prepared(gm.adapt(VIT.model(), method).eval(), VIT.inputs()))
    total = sum(len(p.prompts) for p in prompts_of(adapted).values())  # type: ignore[arg-type]
    done = gm.condense(adapted, DATA, 0.4)
    assert done.after == number(0.4, total)
    adapted.save_pretrained(tmp_path / "a")
    again = gm.load(tmp_path / "a", VIT.model())
    assert torch.equal(logits(again), logits(adapted))
    close(logits(adapted.finalize()), logits(adapted), 1e-6)
    sheet = adapted.cost()
    assert sheet.method_parameters == sum(p.numel() for n, p in adapted.trainable().items() if "head" not in n)
    if not isinstance(method, list):
        assert sheet.finished.closed == sheet.finished.counted


def test_checkpointing_goes_on() -> None:
    adapted = vpt()
    adapted.gradient_checkpointing_enable()
    gm.condense(adapted, DATA, 0.4, score="gate")
    assert adapted.checkpointing


# ---- cost ----


def test_cost_is_the_papers() -> None:
    anatomy = gm.read(architectures.build("vit-b16"))

    def macs(prompts: Any, form: Any = "sequence") -> float:
        bare = 12 * (12 * 197 * 768**2 + 2 * 197**2 * 768) + 196 * 768 * 3 * 16**2
        return (bare + gm.VPT(prompts=prompts, form=form).macs(anatomy, {"vision": 197})) / 1e9

    assert macs(100) == pytest.approx(26.97, abs=0.005)
    even, packed = (30,) * 12, (100, 100, 100, 60) + (0,) * 8
    assert macs(even) == pytest.approx(20.346, abs=0.001)
    assert macs(even) < macs(packed) == pytest.approx(20.381, abs=0.001)
    assert macs(even, "exact") == macs(packed, "exact") < 17.7
    table = {0: 17.6, 50: 22.2, 100: 26.9, 150: 31.8, 200: 36.7}
    assert all(abs(macs(p) - paper) < 0.1 for p, paper in table.items())
    assert gm.VPT(prompts=packed).parameters(anatomy) == 276_480


# ---- what it is for ----


@torch.no_grad()
def accuracy(adapted: gm.Adapted, images: Prepared) -> float:
    return float((classify(adapted, images).argmax(1) == images.labels).float().mean())


@pytest.mark.slow
def test_taylor_tells_what_matters_and_random_does_not() -> None:
    """A real training on a task that needs its prompts; the rank correlation is with the loss when one prompt is deleted."""
    prepare = Preprocessing(size=squares.SIZE, mean=(0.5,) * 3, std=(0.5,) * 3)
    train = Prepared(gm.data.load(str(squares.images()), "train").subset(range(60, 240)), prepare)
    correlations, chosen, drawn = [], [], []
    for seed in range(5):
        adapted = trained(train, seed)
        found = scores(adapted, train, batch_size=100)
        correlations.append(correlation(flat(found), leave_one_out(adapted, train)))
        one, two = adapted, copy.deepcopy(adapted)
        gm.condense(one, train, 0.3, score=found)
        gm.condense(two, train, 0.3, score="random", seed=seed)
        chosen.append(accuracy(one, train))
        drawn.append(accuracy(two, train))
    assert sum(chosen) > sum(drawn)
    assert sum(correlations) / len(correlations) > 0.5


def trained(images: Prepared, seed: int) -> gm.Adapted:
    from transformers import ViTForImageClassification

    torch.default_generator.manual_seed(seed)
    model = ViTForImageClassification.from_pretrained(squares.backbone())
    adapted = gm.adapt(model, gm.VPT(prompts=6), num_labels=2).train()
    optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=0.03)
    batch = on(torch.device("cpu"), next(iter(DataLoader(images, batch_size=len(images)))))
    for _ in range(40):
        optimizer.zero_grad()
        adapted(**batch).loss.backward()
        optimizer.step()
    return adapted.eval()


@torch.no_grad()
def leave_one_out(adapted: gm.Adapted, images: Prepared) -> Tensor:
    """Loss without each prompt, less the loss with all."""
    batch = on(torch.device("cpu"), next(iter(DataLoader(images, batch_size=len(images)))))
    whole, changes = adapted(**batch).loss, []
    for block, part in zip(adapted.anatomy.blocks(), prompts_of(adapted).values(), strict=True):
        for place in range(len(part.prompts)):  # type: ignore[arg-type]
            logs = torch.zeros(len(part.prompts))  # type: ignore[arg-type]
            logs[place] = -1e30
            with memory.weighted(block, 0, logs):
                changes.append(adapted(**batch).loss - whole)
    return torch.stack(changes)


def correlation(one: Tensor, two: Tensor) -> float:
    """Spearman's."""
    ranks = torch.stack([x.double().argsort().argsort().double() for x in (one, two)])
    return float(torch.corrcoef(ranks)[0, 1])


# ---- what is refused ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0.0}, r"keep is the share of prompts that stays, above 0 and up to 1, got 0.0"),
        ({"keep": 30}, r"above 0 and up to 1, got 30"),
        ({"score": "best"}, r"score must be one of taylor, norm, grad, gate, inner, magnitude, random, got 'best'"),
        ({"ranking": "layer"}, r"ranking must be one of global, local, got 'layer'"),
        ({"min_per_block": -1}, r"min_per_block must be 0 or more, got -1"),
        ({"rounds": 0}, r"rounds must be 1 or more, got 0"),
        ({"score": {}, "rounds": 2}, r"rounds=2 scores anew before each cut, and scores were given: use rounds=1"),
        ({"data": []}, r"there are no samples to score prompts by"),
        ({"data": [{"pixel_values": IMAGES[0]}]}, r"data must have 'labels'; a batch has pixel_values"),
        ({"data": [IMAGES[0]]}, r"data must have 'labels'; a batch has Tensor"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    adapted = vpt()
    before = logits(adapted)
    with pytest.raises(ValueError, match=message):
        gm.condense(adapted, options.pop("data", DATA), **options)
    assert torch.equal(logits(adapted), before)


def test_models_that_cannot_be_condensed() -> None:
    with pytest.raises(
        ValueError, match="only prompts of VPT and SPT can be condensed, and this model is adapted by adapter"
    ):
        gm.condense(gm.adapt(VIT.model(), gm.Adapter(rank=2)), DATA)
    half = gm.adapt(VIT.model().to(torch.bfloat16), gm.VPT(prompts=2))
    with pytest.raises(ValueError, match=r"scores need a model in float32, and this one is in torch.bfloat16"):
        gm.condense(half, DATA)
    bare = gm.adapt(BACKBONES["vit-bare"].model(), gm.VPT(prompts=2))
    with pytest.raises(ValueError, match="ViTModel gives no loss for labels; adapt it with a head"):
        gm.condense(bare, DATA)
    two = gm.adapt(VIT.model(), [gm.VPT(prompts=2), gm.VPT(prompts=2, deep=False)])
    with pytest.raises(ValueError, match="the gate score finds key columns of one method's prompts"):
        gm.condense(two, DATA, score="gate")
    none = gm.adapt(VIT.model(), gm.VPT(prompts=0))
    with pytest.warns(UserWarning, match="there are no prompts to condense: the model stays as it is"):
        assert gm.condense(none, DATA).after == 0


def test_uneven_prompts_must_fit_the_blocks() -> None:
    with pytest.raises(ValueError, match=r"prompts=\(3, 1\) gives numbers for 2 blocks, and 3 are prompted"):
        gm.adapt(VIT.model(), gm.VPT(prompts=(3, 1)))
    with pytest.raises(ValueError, match=r"only the same number for all blocks can be harvested"):
        prepared(gm.adapt(VIT.model(), gm.SPT(prompts=(3, 1, 0))), VIT.inputs())
