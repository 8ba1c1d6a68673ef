"""Attention to a memory apart, merged by log-sum-exp, is one joint softmax over both."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.anatomy import apart
from tests.contract.table import BACKBONES, METHODS, adapt, disturb, run

B, HEADS, N, P, WIDTH = 3, 2, 5, 4, 6
SCALE = 0.7


def drawn(samples: int, keys: int = N, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Queries, keys and values of a sequence, keys and values of a memory; as Linears and heads lay them out."""
    torch.manual_seed(0)
    shapes = [(B, N), (B, keys), (B, keys), (samples, P), (samples, P)]
    rows = [torch.randn(b, n, HEADS, WIDTH, dtype=dtype).transpose(1, 2) for b, n in shapes]
    return [x.requires_grad_() for x in rows]


def joined(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """By hand: one softmax over the memory and what is visible [B or 1, 1, N or 1, M] of the sequence."""
    keys, values = (x.expand(B, -1, -1, -1) for x in (keys, values))
    scores = SCALE * q @ torch.cat([keys, k], dim=2).mT
    seen = F.pad(visible.expand(B, 1, N, -1), (keys.shape[2], 0), value=True)
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ torch.cat([values, v], dim=2)


def visible(kind: str, keys: int) -> Tensor:
    if kind == "causal":
        return torch.ones(N, keys, dtype=torch.bool).tril()[None, None]
    lengths = {"none": [keys] * B, "padded": [keys, keys - 2, 1], "nothing of one": [keys, 0, 2]}[kind]
    return (torch.arange(keys) < torch.tensor(lengths)[:, None])[:, None, None]


@pytest.mark.parametrize("samples", [1, B])
@pytest.mark.parametrize("kind", ["none", "causal", "padded", "nothing of one"])
@pytest.mark.parametrize("additive", [False, True])
def test_values_and_gradients_are_those_of_one_softmax(samples: int, kind: str, additive: bool) -> None:
    keys = N if kind == "causal" else 7
    tensors, seen = drawn(samples, keys), visible(kind, keys)
    mask = None if kind in ("none", "causal") else seen
    if mask is not None and additive:
        mask = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    expected = joined(*tensors, seen)
    found = apart.merged(*tensors[:3], (tensors[3], tensors[4]), mask=mask, causal=kind == "causal", scale=SCALE)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    weight = torch.randn(found.shape)
    for mine, right in zip(*(torch.autograd.grad((x * weight).sum(), tensors) for x in (found, expected)), strict=True):
        torch.testing.assert_close(mine, right, atol=1e-5, rtol=0)


def test_only_what_is_trained_is_computed() -> None:
    tensors = [x.detach() for x in drawn(1)]
    tensors[4].requires_grad_()
    seen = visible("none", N)
    found = apart.merged(*tensors[:3], (tensors[3], tensors[4]), mask=None, causal=False, scale=SCALE)
    (mine,) = torch.autograd.grad(found.sin().sum(), tensors[4:])
    (right,) = torch.autograd.grad(joined(*tensors, seen).sin().sum(), tensors[4:])
    torch.testing.assert_close(mine, right, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    tensors = drawn(1, dtype=dtype)
    found = apart.merged(*tensors[:3], (tensors[3], tensors[4]), mask=None, causal=False, scale=SCALE)
    expected = joined(*(x.double() for x in tensors), visible("none", N))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, atol=1e-12 if dtype == torch.float64 else 2e-2, rtol=0)


@pytest.mark.parametrize("backbone", ["vit", "timm", "bert", "bart", "clip-text"])
def test_models_attend_to_prompts_apart_as_they_do_joined(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With padding, causal flags and a cache; the prompts' gradients too."""
    adapted, inputs, used = disturb(adapt(BACKBONES[backbone], METHODS["vpt"])), BACKBONES[backbone].inputs(), []
    plain = apart.merged

    def merged(*args, **options) -> Tensor:
        used.append(args)
        return plain(*args, **options)

    def result() -> list[Tensor]:
        adapted.zero_grad()
        output = run(adapted, inputs)
        output.square().mean().backward()
        return [output.detach(), *(p.grad.clone() for p in adapted.trainable().values() if p.grad is not None)]

    monkeypatch.setattr(apart, "merged", merged)
    found = result()
    assert used
    monkeypatch.setattr(apart, "fits", lambda *args: False)
    for mine, right in zip(found, result(), strict=True):
        torch.testing.assert_close(mine, right, atol=1e-5, rtol=1e-5)


def test_nothing_is_concatenated_where_it_fits() -> None:
    q, k, v, keys, _ = drawn(1)
    mask = torch.ones(1, 1, 1, N, dtype=torch.bool)
    assert apart.fits(q, k, v, mask, 0.0)
    assert not apart.fits(q, k, v, mask, 0.1), "dropout of weights"
    assert not apart.fits(q, k[:, :1], v[:, :1], None, 0.0), "heads that share keys"
    assert not apart.fits(q, k, v, mask[..., :1], 0.0), "a mask of other keys"
    assert not apart.fits(*(x.detach().to("meta") for x in (q, k, v)), None, 0.0), "where nothing was measured"
    assert keys.shape[0] == 1
