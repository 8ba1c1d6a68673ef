"""SPT: what must hold of its strategies, its harvest and the prompts that it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import LoraConfig
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from transformers import ViTConfig, ViTForImageClassification

import gossamer as gm
from gossamer import architectures
from gossamer.methods import spt

from ..contract.table import BACKBONES, disturb

IMAGES = 5
PATCHES = 9
EXACTLY = "donot_use_mm_for_euclid_dist"


def vit() -> Any:
    torch.default_generator.manual_seed(1)
    sizes: dict[str, Any] = {
        "hidden_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 28, "image_size": 12,
        "patch_size": 4, "num_labels": 3,
    }  # fmt: skip
    model = ViTForImageClassification(ViTConfig(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def images(count: int = IMAGES, size: int = 12) -> list[Tensor]:
    return list(torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2)))


def harvested(data: Any = None, batch_size: int = 2, **options: Any) -> tuple[gm.Adapted, Tensor]:
    """A model with SPT, and its prompts [layers, m, d]."""
    options.setdefault("prompts", 4)
    adapted = gm.adapt(vit(), gm.SPT(**options)).eval()
    spt.harvest(adapted, data or images(), batch_size=batch_size)
    return adapted, prompts_of(adapted)


def prompts_of(adapted: gm.Adapted) -> Tensor:
    tree: Any = adapted.methods["spt"]
    return torch.stack([p.prompts for p in tree.prompts()]).detach()


@torch.no_grad()
def banks(pixels: list[Tensor], **inputs: Any) -> list[Tensor]:
    """Every layer's tokens [images, n, d], from the hidden states that the model itself gives out."""
    model = vit().vit
    x = torch.stack(pixels)
    states = model(x, output_hidden_states=True, **inputs).hidden_states
    return [model.embeddings.patch_embeddings(x), *(s[:, 1:] for s in states[1:-1])]


def drawn(seed: int, count: int = IMAGES) -> list[Tensor]:
    """The images in the order in which SPT draws them."""
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(seed))[:count]
    return [images()[i] for i in order.tolist()]


def rows_of(prompts: Tensor, bank: Tensor) -> list[int]:
    """The row of the bank that each prompt is, bit for bit in float32, which harvested tokens are kept in."""
    equal = (prompts.float()[:, None] == bank.float()[None]).all(dim=-1)
    assert (equal.sum(dim=1) == 1).all()
    return equal.int().argmax(dim=1).tolist()


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).detach().abs().max()) <= tolerance * (1 + float(expected.detach().abs().max()))


# ---- strategies ----


@pytest.mark.usefixtures("in_float64")  # where rows of a batch in another order are the same, rounded to float32
def test_random_prompts_are_rows_of_their_own_layer() -> None:
    _, prompts = harvested(prompts=6)
    for layer, bank in enumerate(banks(images())):
        assert len(set(rows_of(prompts[layer], bank.flatten(0, 1)))) == 6


def test_the_kept_rows_are_the_smallest_of_the_noise() -> None:
    _, prompts = harvested(prompts=6, seed=7)
    generator = torch.Generator().manual_seed(7)
    torch.randperm(IMAGES, generator=generator)
    for layer, bank in enumerate(banks(drawn(7))):
        noise = torch.rand(IMAGES * PATCHES, generator=generator)
        close(prompts[layer], bank.flatten(0, 1)[noise.argsort()[:6]])
    assert spt.smallest(torch.tensor([0.5, 0.1, 0.9, 0.3]), 3).tolist() == [1, 3, 0]


@pytest.mark.parametrize("strategy", spt.STRATEGIES)
def test_batches_and_memory_do_not_matter(strategy: str) -> None:
    _, one = harvested(strategy=strategy, batch_size=1)
    _, all_at_once = harvested(strategy=strategy, batch_size=7)
    close(one, all_at_once)
    adapted = gm.adapt(vit(), gm.SPT(prompts=4, strategy=strategy))  # type: ignore[arg-type]
    spt.harvest(adapted, images(), batch_size=7, memory=4 * 20 * IMAGES * PATCHES)  # one layer at a time
    assert torch.equal(prompts_of(adapted), all_at_once)


@pytest.mark.parametrize("strategy", spt.STRATEGIES)
def test_the_seed_decides(strategy: str) -> None:
    _, first = harvested(strategy=strategy, seed=3)
    torch.default_generator.manual_seed(99)
    _, again = harvested(strategy=strategy, seed=3)
    _, other = harvested(strategy=strategy, seed=4)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("strategy", ["mean_pooling", "max_pooling"])
@pytest.mark.parametrize("compat", [False, True])
def test_pooled_prompts_are_windows_over_all_images(strategy: str, compat: bool) -> None:
    _, prompts = harvested(strategy=strategy, compat=compat, images=3, seed=5)
    generator = torch.Generator().manual_seed(5)
    order = torch.randint(IMAGES, (3,), generator=generator)
    if not compat:
        order = torch.randperm(IMAGES, generator=generator.manual_seed(5))[:3]
    for layer, bank in enumerate(banks([images()[i] for i in order.tolist()])):
        windows = [bank[:, w] for w in spt.windows(PATCHES, 4, compat=compat)]
        pooled = [w.mean(dim=1) if strategy == "mean_pooling" else w.amax(dim=1) for w in windows]
        rows = torch.stack(pooled).flatten(0, 1)
        close(prompts[layer], rows[torch.rand(12, generator=generator).argsort()[:4]])


def test_maximum_is_above_mean() -> None:
    tokens = torch.randn(49, 6)
    for window in spt.windows(49, 5):
        assert (spt.pool(tokens, window, "max_pooling") >= spt.pool(tokens, window, "mean_pooling")).all()


def test_compat_windows() -> None:
    windows = spt.windows(196, 20, compat=True)
    assert [w.stop - w.start for w in windows] == [10] * 19 + [6]
    assert [i for w in windows for i in range(w.start, w.stop)] == list(range(196))
    tokens = torch.randn(196, 5)
    sizes = torch.tensor([w.stop - w.start for w in windows])
    means = torch.stack([spt.pool(tokens, w, "mean_pooling") for w in windows])
    close((means * sizes[:, None]).sum(dim=0) / 196, tokens.mean(dim=0))
    assert spt.windows(48, 13, compat=True)[-1] == slice(0, 48)  # 48 is a multiple of the window's 4
    used = {i for w in spt.windows(49, 20, compat=True) for i in range(w.start, w.stop)}
    assert set(range(49)) - used == set(range(38, 48))
    assert spt.windows(49, 1, compat=True) == [slice(0, 49)]
    with pytest.raises(ValueError, match="compat=True cuts 9 tokens into 10 windows, which would be empty"):
        spt.windows(9, 11, compat=True)


@pytest.mark.parametrize("count", [1, 4, 9, 14])
def test_even_windows_are_adaptive_pooling(count: int) -> None:
    tokens = torch.randn(9, 5)
    pooled = torch.stack([spt.pool(tokens, w, "mean_pooling") for w in spt.windows(9, count)])
    close(pooled, torch.nn.functional.adaptive_avg_pool1d(tokens.T[None], count)[0].T)


def test_kmeans_centres_are_means_and_inertia_falls() -> None:
    generator = torch.Generator().manual_seed(1)
    bank = torch.randn(301, 7, generator=generator) + 3 * torch.randint(0, 3, (301, 1), generator=generator)
    start = bank[spt.kmeans_start(bank, 6, generator)]
    centres, assignment, inertia = spt.kmeans(bank, start)
    for j in range(6):
        close(centres[j], bank[assignment == j].mean(dim=0))
    nearest = (bank[:, None] - centres).square().sum(dim=-1)
    assert torch.equal(nearest.argmin(dim=1), assignment)
    close(inertia, nearest.amin(dim=1).sum())
    assert inertia < (bank[:, None] - start).square().sum(dim=-1).amin(dim=1).sum()


def test_kmeans_at_its_ends() -> None:
    rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
    bank = rows.repeat(3, 1)
    generator = torch.Generator().manual_seed(0)
    start = spt.kmeans_start(bank, 5, generator)
    assert len({i % 5 for i in start.tolist()}) == 5
    centres, _, inertia = spt.kmeans(bank, bank[start])
    assert float(inertia) < 1e-10
    close(centres[torch.argsort(centres[:, 0])], rows[torch.argsort(rows[:, 0])])
    mean, _, _ = spt.kmeans(bank, bank[:1])
    close(mean[0], bank.mean(dim=0))
    far = torch.full((1, 4), 100.0)  # nothing is near it: it stays
    centres, _, _ = spt.kmeans(bank, torch.cat([bank[:1], far]))
    assert torch.equal(centres[1:], far)
    assert len(spt.kmeans_start(torch.ones(4, 2), 3, generator)) == 3


def test_kmeans_prompts() -> None:
    _, prompts = harvested(strategy="kmeans", prompts=3, seed=6)
    for layer, bank in enumerate(banks(drawn(6))):
        rows = bank.flatten(0, 1)
        again, _, _ = spt.kmeans(rows, prompts[layer])
        close(again, prompts[layer])


def test_one_kmeans_prompt_is_the_mean() -> None:
    _, prompts = harvested(strategy="kmeans", prompts=1)
    for layer, bank in enumerate(banks(images())):
        close(prompts[layer][0], bank.mean(dim=(0, 1)))


def test_prompts_have_the_statistics_of_their_bank() -> None:
    data = images(60)
    _, prompts = harvested(data, prompts=270)
    for layer, bank in enumerate(banks(data)):
        assert float(prompts[layer].std()) == pytest.approx(float(bank.std()), rel=0.1)
        assert float((prompts[layer].mean(dim=0) - bank.mean(dim=(0, 1))).abs().max()) < 0.25 * float(bank.std())


# ---- harvest ----


def test_layer_0_is_harvested_before_positions() -> None:
    _, before = harvested(prompts=4, seed=2)
    _, behind = harvested(prompts=4, seed=2, with_pos=True)
    assert torch.equal(before[1:], behind[1:])
    positions = vit().vit.embeddings.position_embeddings[0, 1:].detach()
    difference = behind[0] - before[0]
    distance = (difference[:, None] - positions).abs().amax(dim=-1)
    assert (distance.amin(dim=1) < 1e-5).all()


def test_the_harvest_sees_the_frozen_model() -> None:
    adapted = gm.adapt(vit(), [gm.SPT(prompts=4), gm.CVPT(prompts=3), LoraConfig(r=2, init_lora_weights=False)])
    disturb(adapted)
    spt.harvest(adapted, images(), batch_size=2)
    _, alone = harvested()
    assert torch.equal(prompts_of(adapted), alone)
    before = disturb(adapted).eval()(torch.stack(images())).logits
    spt.harvest(adapted, images(), batch_size=2)  # once more, over prompts that were trained: the same
    assert torch.equal(prompts_of(adapted), alone)
    assert not torch.equal(adapted(torch.stack(images())).logits, before)


def test_the_harvest_leaves_things_as_they_were() -> None:
    adapted = gm.adapt(vit(), gm.SPT(prompts=4)).train()
    parameters = list(adapted.trainable().values())
    spt.harvest(adapted, images())
    assert adapted.training
    assert all(a is b for a, b in zip(adapted.trainable().values(), parameters, strict=True))
    assert len(adapted.anatomy.log) == 3
    before = vit().state_dict()
    assert all(torch.equal(v, before[k]) for k, v in adapted.detach().state_dict().items())


@pytest.mark.parametrize("strategy", ["random", "mean_pooling", "max_pooling"])
def test_only_images_that_were_hit_are_forwarded(strategy: str) -> None:
    opened: set[int] = set()

    class Counted(list):  # type: ignore[type-arg]
        def __getitem__(self, index: Any) -> Any:
            opened.add(index)
            return super().__getitem__(index)

    data = Counted(images(200))
    adapted = gm.adapt(vit(), gm.SPT(prompts=2, strategy=strategy))  # type: ignore[arg-type]
    spt.harvest(adapted, data)
    assert len(opened) <= 1 + 3 * 2


def test_the_model_runs_no_further_than_needed() -> None:
    adapted = gm.adapt(vit(), gm.SPT(prompts=2, deep=False))
    ran = []
    for i, block in enumerate(adapted.anatomy.blocks()):
        block.module.register_forward_hook(lambda *_, i=i: ran.append(i))
    spt.harvest(adapted, images())
    assert ran == []


@pytest.mark.parametrize("kind", ["dictionaries", "pairs", "loader", "loader of pairs"])
def test_kinds_of_data(kind: str) -> None:
    pixels = images()
    data: Any = {
        "dictionaries": [{"pixel_values": x, "labels": 0} for x in pixels],
        "pairs": [(x, 0) for x in pixels],
        "loader": DataLoader([{"pixel_values": x, "label": 0} for x in pixels], batch_size=3, shuffle=True),  # type: ignore
        "loader of pairs": DataLoader([(x, 0) for x in pixels], batch_size=2),  # type: ignore[arg-type]
    }[kind]
    _, found = harvested(data)
    close(found, harvested()[1])


def test_collation_of_ones_own() -> None:
    adapted = gm.adapt(vit(), gm.SPT(prompts=4))
    data = [{"photo": x} for x in images()]
    spt.harvest(
        adapted, data, batch_size=2, collate=lambda items: {"pixel_values": torch.stack([i["photo"] for i in items])}
    )
    assert torch.equal(prompts_of(adapted), harvested()[1])


def test_a_bfloat16_backbone() -> None:
    adapted = gm.adapt(vit().to(torch.bfloat16), gm.SPT(prompts=4))
    spt.harvest(adapted, [x.to(torch.bfloat16) for x in images()])
    prompts = prompts_of(adapted)
    assert prompts.dtype == torch.float32
    close(prompts, harvested()[1], 0.1)


def test_padding_and_prefix_are_no_tokens() -> None:
    model = BACKBONES["bert"].model()
    inputs = BACKBONES["bert"].inputs()
    data = [{k: v[i] for k, v in inputs.items()} for i in range(3)]
    adapted = gm.adapt(model, gm.SPT(prompts=16, with_pos=True))  # 6 + 4 + 6 tokens: all of them
    with pytest.raises(ValueError, match="prompts=17, but 3 images give only 16 rows"):
        spt.harvest(gm.adapt(BACKBONES["bert"].model(), gm.SPT(prompts=17)), data)
    spt.harvest(adapted, data)
    with torch.no_grad(), adapted.anatomy.bare():
        states = adapted.backbone(**inputs, output_hidden_states=True).hidden_states
    keep = inputs["attention_mask"].bool()
    keep[:, 0] = False
    for layer, prompts in enumerate(prompts_of(adapted)):
        rows = states[layer][keep]
        close(prompts[prompts[:, 0].argsort()], rows[rows[:, 0].argsort()])


def test_of_text_and_image_the_patches_are_taken() -> None:
    backbone = BACKBONES["vilt"]
    inputs = backbone.inputs()
    data = [{k: v[i] for k, v in inputs.items()} for i in range(3)]
    adapted = gm.adapt(backbone.model(), gm.SPT(prompts=48))  # 3 images of 16 patches
    spt.harvest(adapted, data)
    with pytest.raises(ValueError, match="give only 48 rows"):
        spt.harvest(gm.adapt(backbone.model(), gm.SPT(prompts=49)), data)
    with torch.no_grad(), adapted.anatomy.bare():
        first = adapted.backbone(**inputs, output_hidden_states=True).hidden_states[0][:, 7 + 1 :].flatten(0, 1)
    distance = torch.cdist(prompts_of(adapted)[0], first, compute_mode=EXACTLY)
    assert float(distance.amin(dim=1).max()) < 1e-5


def test_padded_images_are_refused() -> None:
    backbone = BACKBONES["vilt"]
    mask = torch.ones(16, 16, dtype=torch.long)
    mask[:, 8:] = 0
    item = {k: v[0] for k, v in backbone.inputs().items()} | {"pixel_mask": mask}
    with pytest.raises(ValueError, match=r"the pixel_mask hides a part of an image, .* resize images to one size"):
        spt.harvest(gm.adapt(backbone.model(), gm.SPT(prompts=3)), [item, item])


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({"prompts": 46}, images(), "prompts=46, but 5 images give only 45 rows to choose from: harvest more images"),
        ({"images": 6}, images(), "images=6, but there are 5 and none is taken twice"),
        (
            {"prompts": 40},
            [*images(3), *images(2, 16)],
            "has 16 tokens and the first had 9|has 9 tokens and the first had 16",
        ),
    ],
)
def test_what_cannot_be_harvested(options: dict[str, Any], data: Any, message: str) -> None:
    adapted = gm.adapt(vit(), gm.SPT(**options))
    with pytest.raises(ValueError, match=message):
        spt.harvest(adapted, data, collate=any_size, batch_size=1)
    with pytest.raises(RuntimeError, match="not set yet"):
        adapted(torch.stack(images()))


def any_size(items: list[Tensor]) -> dict[str, Any]:
    return {"pixel_values": torch.stack(items), "interpolate_pos_encoding": True}


def test_kmeans_over_memory() -> None:
    adapted = gm.adapt(vit(), gm.SPT(prompts=4, strategy="kmeans"))
    with pytest.raises(ValueError, match=r"for the 45 tokens of one layer, .* fewer images \(images=2\)"):
        spt.harvest(adapted, images(), memory=4 * 20 * 9 * 2)


def test_data_and_models_that_do_not_fit() -> None:
    class Stream(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[Tensor]:
            yield from images()

    adapted = gm.adapt(vit(), gm.SPT())
    for data in (Stream(), DataLoader(Stream()), iter(images())):
        with pytest.raises(TypeError, match=r"draws training images by index, and a .* has no items by index"):
            spt.harvest(adapted, data)
    with pytest.raises(ValueError, match="the training set is empty"):
        spt.harvest(adapted, [])
    with pytest.raises(ValueError, match="there is no SPT in this model"):
        spt.harvest(gm.adapt(vit(), gm.VPT()), images())


# ---- before and after ----


def test_without_a_harvest_nothing_runs() -> None:
    adapted = gm.adapt(vit(), gm.SPT(prompts=4))
    assert len(spt.unharvested(adapted)) == 1
    for mode in (True, False):
        with pytest.raises(
            RuntimeError, match=r"the prompts of SPT are not set yet: call gossamer\.methods\.spt\.harvest"
        ):
            adapted.train(mode)(torch.stack(images()))
    with pytest.raises(RuntimeError, match="not set yet"):
        adapted.finalize()
    adapted.detach()
    adapted.attach()
    with pytest.raises(RuntimeError, match="not set yet"):
        adapted(torch.stack(images()))
    spt.harvest(adapted, images())
    assert not spt.unharvested(adapted)
    adapted(torch.stack(images()))
    assert gm.adapt(vit(), gm.SPT(prompts=4)).cost().method_parameters == 3 * 4 * 20  # shapes need no values


def test_the_forward_pass_is_vpts() -> None:
    for options in ({}, {"deep": False}, {"form": "sequence"}, {"blocks": (0, 2)}, {"stay": True}):
        adapted, prompts = harvested(**options)  # type: ignore[arg-type]
        twin = gm.adapt(vit(), gm.VPT(prompts=4, **options)).eval()  # type: ignore[arg-type]
        with torch.no_grad():
            places = [p for n, p in twin.trainable().items() if n.endswith(".prompts")]
            for place, value in zip(places, prompts, strict=True):
                place.copy_(value)
        assert torch.equal(adapted(torch.stack(images())).logits, twin(torch.stack(images())).logits)


def test_no_prompts_is_the_frozen_model() -> None:
    adapted = gm.adapt(vit(), gm.SPT(prompts=0)).eval()
    assert not spt.unharvested(adapted)
    assert torch.equal(adapted(torch.stack(images())).logits, vit()(torch.stack(images())).logits)
    spt.harvest(adapted, images())


def test_saved_prompts_need_no_data(tmp_path: Path) -> None:
    adapted, _ = harvested()
    disturb(adapted).save_pretrained(tmp_path / "a")
    again = gm.load(tmp_path / "a", vit())
    assert not spt.unharvested(again)
    assert torch.equal(again(torch.stack(images())).logits, adapted(torch.stack(images())).logits)
    names = safetensors.torch.load_file(tmp_path / "a" / "adapter_model.safetensors")
    prompts = [f"spt.vision.blocks.{i}.prompts" for i in range(3)]
    assert sorted(names) == ["head.bias", "head.weight", "spt.harvested", *prompts]


def test_finalized() -> None:
    adapted, _ = harvested()
    finished: Any = disturb(adapted).finalize()
    close(finished(torch.stack(images())).logits, adapted(torch.stack(images())).logits, 1e-6)
    assert {n.rpartition(".")[2] for n in finished.gossamer.state_dict()} == {"keys", "values"}
    assert not any(m._forward_pre_hooks for m in finished.gossamer.modules())


def test_training_moves_prompts_and_head_only() -> None:
    adapted, prompts = harvested()
    before = {k: v.clone() for k, v in adapted.backbone.named_parameters()}
    optimizer = torch.optim.AdamW(adapted.train().trainable().values(), lr=0.1)
    adapted(pixel_values=torch.stack(images()), labels=torch.tensor([0, 2, 1, 1, 0])).loss.backward()
    optimizer.step()
    assert not torch.equal(prompts_of(adapted), prompts)
    frozen = {k: v for k, v in adapted.backbone.named_parameters() if not k.startswith("classifier")}
    assert all(v.grad is None and torch.equal(v, before[k]) for k, v in frozen.items())


def test_order_of_prompts_does_not_matter() -> None:
    adapted, prompts = harvested()
    tree: Any = adapted.methods["spt"]
    before = adapted(torch.stack(images())).logits
    tree.set(prompts.flip(1))
    close(adapted(torch.stack(images())).logits, before)


def averaging(**options: Any) -> tuple[gm.Adapted, Any]:
    adapted = gm.adapt(BACKBONES["timm-avg"].model(), gm.SPT(prompts=3, **options)).eval()
    spt.harvest(adapted, list(BACKBONES["timm-avg"].inputs()["pixel_values"]))
    return adapted, adapted.methods["spt"]


@pytest.mark.parametrize("form", ["exact", "sequence"])
def test_an_average_reads_prompts_that_stay(form: str) -> None:
    pixels = BACKBONES["timm-avg"].inputs()["pixel_values"]
    adapted, tree = averaging(form=form, stay=True)
    states = adapted.backbone.forward_features(pixels)
    assert states.shape == (3, 3 + 3 + 16, 12)  # class token and registers, prompts, patches
    features = adapted.features(pixel_values=pixels)
    close(features, adapted.backbone.fc_norm(states[:, 3:].mean(dim=1)))
    before = features.detach().clone()
    tree.set(prompts_of(adapted).flip(1))
    close(adapted.features(pixel_values=pixels), before)
    patches, _ = averaging(form=form)
    assert patches.backbone.forward_features(pixels).shape == (3, 3 + 16, 12)
    assert not torch.allclose(patches.features(pixel_values=pixels), before)


def test_prompts_that_stay_need_the_last_block() -> None:
    with pytest.raises(
        ValueError, match=r"stay=True keeps the prompts of the last block, 2, which blocks=\(0, 1\) leaves out"
    ):
        gm.adapt(vit(), gm.SPT(stay=True, blocks=(0, 1)))


def test_shallow_is_deep_with_one_layer() -> None:
    model = vit()
    model.vit.layers = model.vit.layers[:1]
    model.config.num_hidden_layers = 1
    results = []
    for deep in (True, False):
        adapted = gm.adapt(model, gm.SPT(prompts=4, deep=deep)).eval()
        spt.harvest(adapted, images())
        results.append(adapted(torch.stack(images())).logits)
        adapted.detach()
    close(results[0], results[1])


def test_counts_of_vit_b() -> None:
    anatomy = gm.read(architectures.build("vit-b16"))
    assert gm.SPT(prompts=100, deep=False).parameters(anatomy) == 76_800
    assert gm.SPT(prompts=20).parameters(anatomy) == 184_320
    tokens = {"vision": 197}
    assert round(gm.SPT(prompts=20, form="sequence").macs(anatomy, tokens) / 1e9, 3) == 1.851
    assert round(gm.SPT(prompts=100, deep=False).macs(anatomy, tokens) / 1e9, 2) == 9.40
    assert gm.SPT().overhead(anatomy, tokens) == gm.VPT(prompts=20).overhead(anatomy, tokens)


@pytest.mark.parametrize("options", [{"prompts": 3}, {"prompts": 3, "deep": False}, {"prompts": 3, "stay": True}])
def test_cost_sheet_counts_the_closed_form(options: dict[str, Any]) -> None:
    sheet = gm.adapt(vit(), gm.SPT(**options)).cost()
    assert sheet.finished.counted == sheet.finished.closed
    assert sheet.adapted.counted == sheet.adapted.closed
    assert sheet.per_batch.counted == sheet.per_batch.closed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": -1}, "prompts must be 0 or more, got -1"),
        ({"strategy": "medoids"}, "strategy must be one of random, mean_pooling, max_pooling, kmeans, got 'medoids'"),
        ({"images": 0}, "images must be at least 1 .* got 0"),
    ],
)
def test_settings_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gm.SPT(**options)
