"""What prompts do, as arrays held against other computations, and as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gossamer as gm
from gossamer import pictures
from gossamer.anatomy.seams import Part
from gossamer.methods.cvpt import CrossPrompts

from . import squares
from .contract.table import BACKBONES, disturb

PNG = b"\x89PNG"
VIT = BACKBONES["vit"]


def vpt(row: str = "vit", attention: str = "sdpa", **options: Any) -> gm.Adapted:
    torch.default_generator.manual_seed(3)
    return disturb(gm.adapt(BACKBONES[row].model(attention), gm.VPT(**{"prompts": 5, **options}))).eval()


def close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


# ---- effective rank ----


def test_effective_rank_counts_what_holds_nine_tenths() -> None:
    matrices = torch.stack([torch.eye(20), torch.ones(20, 20), torch.diag(torch.tensor([3.0, 1.0] + [0.0] * 18))])
    assert pictures.effective_rank(matrices).tolist() == [18, 1, 1]
    assert pictures.effective_rank(matrices, share=0.95).tolist() == [19, 1, 2]
    assert pictures.effective_rank(torch.eye(4)[:2]).item() == 2


def test_the_rank_of_attention_is_that_of_the_models_own_weights() -> None:
    adapted = vpt(attention="eager", form="sequence")
    weights = adapted(**VIT.inputs(), output_attentions=True).attentions
    found = pictures.attention_rank(adapted, **VIT.inputs())
    assert found == {
        f"vision.blocks.{i}": pytest.approx(float(pictures.effective_rank(w.detach()).double().mean()))
        for i, w in enumerate(weights)
    }


# ---- attention to prompts ----


@pytest.mark.parametrize("form", ["exact", "sequence"])
def test_maps_are_the_models_own_weights(form: Any) -> None:
    adapted = vpt(attention="eager", form=form, prompts=(3, 0, 2))
    weights = adapted(**VIT.inputs(), output_attentions=True).attentions
    maps = pictures.prompt_attention(adapted, **VIT.inputs())
    assert {key: tuple(m.shape) for key, m in maps.items()} == {
        "vision.blocks.0": (3, 3, 4, 4), "vision.blocks.2": (3, 2, 4, 4),
    }  # fmt: skip
    for block, count in ((0, 3), (2, 2)):
        start = 0 if form == "exact" else 1  # behind the class token
        own = weights[block].mean(1)[:, -16:, start : start + count]
        close(maps[f"vision.blocks.{block}"], own.transpose(1, 2).view(3, count, 4, 4))


@pytest.mark.parametrize("row", ["vit", "timm", "timm-avg", "dinov2-registers", "siglip"])
def test_both_forms_have_the_same_maps(row: str) -> None:
    inputs = BACKBONES[row].inputs()
    options = {} if BACKBONES[row].num_labels is None else {"num_labels": 3}
    maps = []
    for form in ("exact", "sequence"):
        torch.default_generator.manual_seed(3)
        adapted = disturb(gm.adapt(BACKBONES[row].model(), gm.VPT(prompts=5, form=form), **options)).eval()  # type: ignore
        maps.append(pictures.prompt_attention(adapted, **inputs))
    assert len(maps[0]) == 3
    for key, expected in maps[1].items():
        close(maps[0][key], expected)
        assert 0 < float(expected.sum(1).max()) < 1


def test_shallow_prompts_are_read_in_every_block_from_where_they_enter() -> None:
    maps = pictures.prompt_attention(vpt(deep=False, prompts=4, blocks=(1,)), **VIT.inputs())
    assert list(maps) == ["vision.blocks.1", "vision.blocks.2"]
    assert all(m.shape == (3, 4, 4, 4) for m in maps.values())


class Foreign(gm.LinearProbe):
    """Inserts three tokens into every block, which are nobody's prompts."""

    def attach(self, anatomy: Any) -> Part:
        for block in anatomy.blocks():
            anatomy.insert(block, Tokens())
        return Part()


class Tokens(Part):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linspace(-1, 1, 3 * x.shape[2]).view(1, 3, -1).expand(len(x), -1, -1)


@pytest.mark.parametrize(
    ("methods", "start"),
    [
        ([gm.VPT(prompts=4, deep=False), Foreign()], 4),
        ([gm.VPT(prompts=4, form="sequence"), Foreign()], 4),
        ([Foreign(), gm.VPT(prompts=4, form="sequence")], 1),
        ([gm.VPT(prompts=4), Foreign()], 0),
    ],
)
def test_tokens_of_others_are_no_prompts_and_no_patches(methods: Any, start: int) -> None:
    """The stream is class token, who entered last, who entered before, patches; remembered prompts are columns in front of all."""
    adapted = disturb(gm.adapt(VIT.model("eager"), methods)).eval()
    weights = adapted(**VIT.inputs(), output_attentions=True).attentions
    maps = pictures.prompt_attention(adapted, **VIT.inputs())
    assert len(maps) == 3
    for own, found in zip(weights, maps.values(), strict=True):
        assert own.shape[2:] == (20 if start == 0 else 24, 24)
        close(found, own.mean(1)[:, -16:, start : start + 4].transpose(1, 2).view(3, 4, 4, 4))


@pytest.mark.parametrize("others", [[], [Foreign()]], ids=["alone", "with-others"])
def test_maps_of_cvpt_are_the_weights_of_its_branch(others: list[Any]) -> None:
    cvpt = gm.CVPT(prompts=3, layer_scale=False, start="published")
    adapted = disturb(gm.adapt(VIT.model(), [*others, cvpt])).eval()
    seen: dict[str, Tensor] = {}
    parts = [m for m in adapted.methods.modules() if isinstance(m, CrossPrompts)]
    for part in parts:
        part.register_forward_pre_hook(lambda p, args: seen.update({p.block.key: args[0]}))
    maps = pictures.prompt_attention(adapted, **VIT.inputs())
    for part in parts:
        x, block = seen[part.block.key], part.block
        weights = part.weights(x)
        close(maps[block.key], weights.mean(1)[:, -16:].transpose(1, 2).view(3, 3, 4, 4))
        _, v = part.keys_values(part.prompts)  # type: ignore[arg-type]
        out = block.projection("out")((weights @ v).transpose(1, 2).flatten(2))
        close(part(x), out)


def test_watching_changes_nothing() -> None:
    adapted = vpt().train()
    before = adapted.eval()(**VIT.inputs()).logits
    adapted.train()
    held = [set(b.part("attention").__dict__) for b in adapted.anatomy.blocks()]
    pictures.attention_rank(adapted, **VIT.inputs())
    pictures.prompt_attention(adapted, **VIT.inputs())
    assert adapted.training
    assert [set(b.part("attention").__dict__) for b in adapted.anatomy.blocks()] == held
    assert torch.equal(adapted.eval()(**VIT.inputs()).logits, before)


@pytest.mark.parametrize(
    ("row", "method", "message"),
    [
        ("bert", gm.VPT(prompts=2), "has no grid of patches to draw over an image"),
        ("swin", gm.VPT(prompts=2), "in windows every prompt is read anew by each"),
        ("vit", gm.Adapter(rank=2), "there are no prompts: the model is adapted by adapter"),
        (
            "vit",
            [gm.VPT(prompts=2, deep=False), gm.VPT(prompts=3, blocks=(2,))],
            "several methods put prompts into vision.blocks.2, and a block has one map",
        ),
        (
            "vit",
            [gm.VPT(prompts=2), gm.VPT(prompts=3)],
            "several methods put prompts into vision.blocks.0, and a block has one map",
        ),
    ],
)
def test_what_cannot_be_drawn(row: str, method: Any, message: str) -> None:
    adapted = gm.adapt(BACKBONES[row].model(), method)
    with pytest.raises(ValueError, match=message):
        pictures.prompt_attention(adapted, **BACKBONES[row].inputs())


# ---- pictures ----


def test_pictures_are_written(tmp_path: Path) -> None:
    adapted = vpt()
    maps = pictures.prompt_attention(adapted, **VIT.inputs())
    pictures.prompt_maps(torch.rand(3, 3, 16, 16), maps["vision.blocks.1"], [0, 3], tmp_path / "maps.png", title="t")
    ranks = {p: pictures.attention_rank(vpt(prompts=p), **VIT.inputs()) for p in (1, 6)}
    pictures.attention_ranks(ranks, tmp_path / "ranks.png")
    pictures.kept_prompts({"vpt": [3, 0, 2], "spt": [4]}, tmp_path / "kept.png")
    for name in ("maps", "ranks", "kept"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)


def test_a_run_with_prompts_has_its_picture() -> None:
    assert (squares.trained() / "attention.png").read_bytes().startswith(PNG)


def test_a_run_shows_one_example_of_each_class() -> None:
    assert pictures.examples(torch.tensor([2, 2, 5, 0, 5, 0])) == [3, 0, 2]
    assert pictures.examples(torch.arange(30).flip(0)) == list(range(29, 21, -1))
