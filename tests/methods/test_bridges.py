"""Bridges of DAS: the affine map that is nearest to a run of blocks, and what stands where the run stood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers.models.vit.modeling_vit import ViTLayer

import gossamer as gm
from gossamer.methods import das, from_dict, to_dict
from gossamer.methods.parts.bridges import Bridge, Moments

from ..contract.table import BACKBONES, run


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).detach().abs().max()) <= tolerance * (1 + float(expected.detach().abs().max()))


def moments(x: Tensor, added: Tensor, pieces: int = 3) -> Moments:
    found = Moments(x.shape[1])
    for some, more in zip(x.chunk(pieces), added.chunk(pieces), strict=True):
        found.add(some, more)
    return found


def items(row: str) -> list[dict[str, Any]]:
    inputs = BACKBONES[row].inputs()
    return [{k: v[i] for k, v in inputs.items()} for i in range(len(next(iter(inputs.values()))))]


def test_the_closed_form_is_ridge_regression_on_centred_tokens() -> None:
    torch.default_generator.manual_seed(0)
    x = torch.randn(57, 7, dtype=torch.float64) + 3
    added = torch.randn(57, 7, dtype=torch.float64) - 1
    a, b = moments(x, added).affine(0.04)
    centred, target = x - x.mean(0), added - added.mean(0)
    ridge = 0.04 * torch.linalg.eigvalsh(centred.T @ centred).mean()
    expected = torch.linalg.solve(centred.T @ centred + ridge * torch.eye(7), centred.T @ target)
    close(a, expected, 1e-9)
    close(b, added.mean(0) - x.mean(0) @ expected, 1e-9)


def test_a_rank_is_the_best_fit_of_that_rank() -> None:
    """Of all A of rank 2 the one nearest in X A: the SVD of X A cut off."""
    torch.default_generator.manual_seed(1)
    x, added = torch.randn(40, 6, dtype=torch.float64), torch.randn(40, 6, dtype=torch.float64)
    found = moments(x, added)
    whole, _ = found.affine(0.01)
    a, _ = found.affine(0.01, rank=2)
    u, s, v = torch.linalg.svd((x - x.mean(0)) @ whole, full_matrices=False)
    close((x - x.mean(0)) @ a, (u[:, :2] * s[:2]) @ v[:2], 1e-9)
    assert int(torch.linalg.matrix_rank(a)) == 2


def test_tokens_that_span_less_than_the_width_have_a_least_squares_fit() -> None:
    torch.default_generator.manual_seed(2)
    basis, exact = torch.randn(3, 8, dtype=torch.float64), torch.randn(8, 8, dtype=torch.float64)
    x = torch.randn(30, 3, dtype=torch.float64) @ basis
    a, b = moments(x, x @ exact + 2).affine(0.0)
    close(x @ a + b, x @ exact + 2, 1e-8)


class Affine(ViTLayer):
    """A block that adds an affine map of its input, which its own (unused) weights stand beside."""

    affine: nn.Linear

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states + self.affine(hidden_states)


def affine(model: Any, indices: tuple[int, ...]) -> Any:
    """A ViT of which these blocks are affine."""
    torch.default_generator.manual_seed(0)
    for block in (layer for i, layer in enumerate(model.vit.layers) if i in indices):
        block.__class__ = Affine
        block.affine = nn.Linear(model.config.hidden_size, model.config.hidden_size)
        nn.init.normal_(block.affine.weight, std=0.3)
    return model


@torch.no_grad()
def test_a_bridge_of_linear_blocks_is_exact() -> None:
    """Two affine blocks in a row are one affine map, and the last of them feeds the final norm."""
    model = affine(BACKBONES["vit"].model(), (1, 2)).double()
    inputs = {
        "pixel_values": torch.randn(40, *BACKBONES["vit"].inputs()["pixel_values"].shape[1:], dtype=torch.float64)
    }
    expected = run(model, inputs)
    method = gm.DAS(skip=(1, 2), rank=3, init="zero_up", bridge="per-run", bridge_start="closed", bridge_ridge=0.0)
    adapted = gm.adapt(model, method).double().eval()
    das.start(adapted, [{"pixel_values": x} for x in inputs["pixel_values"]])
    close(run(adapted, inputs), expected, 1e-6)


def test_a_bridge_without_its_start_refuses_to_run() -> None:
    adapted = gm.adapt(BACKBONES["vit"].model(), gm.DAS(skip=(1,), rank=2, bridge_start="closed"))
    with pytest.raises(RuntimeError, match="have no start yet"):
        run(adapted, BACKBONES["vit"].inputs())
    das.start(adapted, items("vit"))
    run(adapted, BACKBONES["vit"].inputs())


@torch.no_grad()
@pytest.mark.parametrize("rank", [None, 4])
def test_a_run_is_one_map_and_the_others_pass(rank: int | None) -> None:
    """By hand: hidden states behind skipped neighbours are equal, x + x A + b, and keep their number."""
    method = gm.DAS(skip=(0, 1), rank=0, shortcut_rank=rank, bridge="per-run", bridge_start="closed")
    adapted = gm.adapt(BACKBONES["vit"].model(), method).eval()
    bare = BACKBONES["vit"].model().eval()
    inputs = BACKBONES["vit"].inputs()
    das.start(adapted, items("vit"))
    (bridge,) = [m for m in adapted.modules() if isinstance(m, Bridge)]
    states = adapted(**inputs, output_hidden_states=True).hidden_states
    before = bare(**inputs, output_hidden_states=True).hidden_states
    assert len(states) == len(before)
    weight = bridge.up.weight if bridge.down is None else bridge.up.weight @ bridge.down.weight
    close(states[2], before[0] + before[0] @ weight.T + bridge.up.bias)
    assert torch.equal(states[1], states[2])
    x = before[0].flatten(0, 1)
    a, b = moments(x, before[2].flatten(0, 1) - x).affine(1e-2, rank)
    close(weight.T, a.float(), 1e-4)
    close(bridge.up.bias, b.float(), 1e-4)


def test_runs_are_by_column() -> None:
    """METER's last text block and first image block are no neighbours, though their numbers are."""
    adapted = gm.adapt(BACKBONES["meter"].model(), gm.DAS(skip=(0,), rank=2, init="zero_up"))
    texts, images = adapted.anatomy.columns("fusion")
    first = len(texts)
    adapted.detach()
    chosen = tuple(range(1, first + 1))  # all text blocks but one, and one image block
    adapted = gm.adapt(adapted.backbone, gm.DAS(skip=chosen, rank=2, bridge="per-run"))
    found = {m.span for m in adapted.modules() if isinstance(m, Bridge)}
    assert found == {(texts[1].key, texts[-1].key), (images[0].key, images[0].key)}


def test_padding_does_not_count() -> None:
    """A start from texts with padding is that from the same texts without."""
    starts = []
    for padded in (False, True):
        adapted = gm.adapt(BACKBONES["bert"].model(), gm.DAS(skip=(1,), rank=2, bridge_start="closed"), num_labels=3)
        some = items("bert")
        if padded:
            for item in some:
                for name, tensor in item.items():
                    item[name] = torch.cat([tensor, tensor.new_zeros(4)])
        das.start(adapted, some)
        starts.append(next(m for m in adapted.modules() if isinstance(m, Bridge)).up.weight.detach().clone())
    close(starts[1], starts[0], 1e-4)


def test_per_block_from_zero_is_what_it_was() -> None:
    """The settings of an adapter that was saved before there were bridges give the same modules with the same weights."""
    old = {k: v for k, v in to_dict(gm.DAS(skip=(1,), rank=3)).items() if not k.startswith("bridge")}
    old["shortcut_lr"] = 1.0
    weights = []
    for method in (from_dict(old), gm.DAS(skip=(1,), rank=3)):
        model = BACKBONES["vit"].model()
        torch.default_generator.manual_seed(0)
        adapted = gm.adapt(model, method)
        weights.append({k: v.clone() for k, v in adapted.methods["das"].state_dict().items()})
        assert method.rate("vision.blocks.1.shortcut.adapter.down.weight") == 1.0
    assert list(weights[0]) == list(weights[1])
    assert all(torch.equal(weights[0][k], v) for k, v in weights[1].items())
    assert not [name for name in weights[0] if "bridge" in name]


def test_rates_of_bridges() -> None:
    closed, zero = gm.DAS(bridge_start="closed"), gm.DAS(bridge="per-run")
    assert closed.rate("vision.blocks.1.bridge.up.weight") == 0.3
    assert zero.rate("vision.blocks.1.bridge.up.weight") == 1.0
    assert closed.rate("vision.blocks.1.attention.up.weight") == 1.0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"bridge": "none"}, "bridge must be one of per-block, per-run, got 'none'"),
        ({"bridge_start": "open"}, "bridge_start must be one of zero, closed"),
        ({"bridge": "per-run", "modules": "attention"}, "in place of whole blocks"),
        ({"bridge_ridge": -1.0}, "bridge_ridge must be 0 or more"),
    ],
)
def test_bad_settings(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        gm.DAS(**settings)


def test_a_finished_bridge_is_in_the_models_folder(tmp_path: Path) -> None:
    """Finished, through transformers' own folder, and back."""
    from transformers import AutoModelForImageClassification

    model = BACKBONES["vit"].model()
    adapted = gm.adapt(model, [gm.DAS(skip=(1, 2), rank=2, bridge="per-run", bridge_start="closed"), LoraConfig(r=2)])
    das.start(adapted, items("vit"))
    finished: Any = adapted.eval().finalize()
    finished.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(run(again, BACKBONES["vit"].inputs()), run(finished, BACKBONES["vit"].inputs()))
