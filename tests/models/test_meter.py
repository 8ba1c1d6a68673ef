"""METER: the model against its definition, what a token can see, its heads, and the authors' key names both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers as tf
from torch import Tensor, nn
from torch.nn import functional as F

import gossamer as gm
from gossamer import architectures, zoo
from gossamer.models import checkpoints, find, meter_checkpoint
from gossamer.models.meter import MeterConfig, MeterModel
from gossamer.models.meter_heads import (
    MeterForImagesAndTextClassification,
    MeterForQuestionAnswering,
    MeterForRetrieval,
    MeterForVisualEntailment,
)

SIZES: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20, "image_size": 12,
        "patch_size": 4,
    },
    "text_config": {
        "hidden_size": 10, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 50,
        "max_position_embeddings": 40,
    },
    "cross_modal_config": {"hidden_size": 18, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 14},
}  # fmt: skip


def build(kind: Any = MeterModel, layers: int = 3, **options: Any) -> Any:
    torch.default_generator.manual_seed(1)
    sizes = {**SIZES, "cross_modal_config": {**SIZES["cross_modal_config"], "num_hidden_layers": layers}}
    model = kind(MeterConfig(**sizes, **options))
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn(tensor.shape))
    return model.eval()


def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(4, 50, (3, 7), generator=generator)
    ids[1, 5:] = 1
    return {
        "input_ids": ids,
        "attention_mask": (ids != 1).long(),
        "pixel_values": torch.randn(3, 3, 12, 12, generator=generator),
    }


# ---- the model ----


def by_hand(
    model: Any, x: Tensor, y: Tensor, mask: Tensor, P: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Both streams behind the fusion, from the weights alone; P: prompts behind the first token of each, seen by all."""
    if P is not None:
        x, y = (torch.cat([s[:, :1], p.expand(len(s), -1, -1), s[:, 1:]], 1) for s, p in zip((x, y), P, strict=True))
        mask = torch.cat([mask[:, :1], torch.ones(len(mask), P[0].shape[0]), mask[:, 1:]], 1)
    hidden = (1 - mask.float())[:, None, None] * -1e30
    for text, image in zip(model.text_layers, model.image_layers, strict=True):
        x, y = layer(text, x, y, hidden, None), layer(image, y, x, None, hidden)
    if P is not None:
        x, y = (torch.cat([s[:, :1], s[:, 1 + len(p) :]], 1) for s, p in zip((x, y), P, strict=True))
    return x, y


def layer(module: Any, own: Tensor, other: Tensor, own_mask: Tensor | None, other_mask: Tensor | None) -> Tensor:
    a = branch(module.attention, own, own, own_mask)
    c = branch(module.crossattention, a, other, other_mask)
    return module.output.LayerNorm(c + module.output.dense(F.gelu(module.intermediate.dense(c))))


def branch(module: Any, x: Tensor, read: Tensor, mask: Tensor | None) -> Tensor:
    heads = [f(s).unflatten(-1, (3, -1)).transpose(1, 2) for f, s in
             ((module.self.query, x), (module.self.key, read), (module.self.value, read))]  # fmt: skip
    scores = heads[0] @ heads[1].transpose(2, 3) / heads[0].shape[-1] ** 0.5
    attended = (scores if mask is None else scores + mask).softmax(-1) @ heads[2]
    return module.output.LayerNorm(x + module.output.dense(attended.transpose(1, 2).flatten(2)))


def streams(model: Any, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What enters the fusion, with modality types."""
    types = model.token_type_embeddings.weight
    x = model.text_transform(model.encode_text(given["input_ids"], given["attention_mask"])) + types[0]
    return x, model.image_transform(model.encode_image(given["pixel_values"])) + types[1]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_fusion_is_what_the_paper_says(attention: str) -> None:
    model, given = build(attn_implementation=attention), inputs()
    output = model(**given)
    x, y = by_hand(model, *streams(model, given), given["attention_mask"])
    close(output.last_hidden_state, x)
    close(output.image_hidden_state, y)
    text = torch.tanh(model.text_pooler.dense(x[:, 0]))
    close(output.pooler_output, torch.cat([text, torch.tanh(model.image_pooler.dense(y[:, 0]))], -1))
    unmasked = model(given["input_ids"][:1], given["pixel_values"][:1])
    close(unmasked.pooler_output, output.pooler_output[:1])


def test_the_image_encoder_ends_with_a_norm_on_every_token() -> None:
    model, given = build(), inputs()
    tower = model.vision_model
    tokens = tower(given["pixel_values"]).last_hidden_state
    close(model.encode_image(given["pixel_values"]), tower.post_layernorm(tokens))
    assert tokens.shape[1] == 10


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_token_reacts_to_every_real_token_of_both_streams(attention: str) -> None:
    """Not causal, also where no mask is given; hidden tokens change nothing that is real."""
    model, mask = build(attn_implementation=attention), inputs()["attention_mask"]
    text, image = torch.randn(3, 7, 10), torch.randn(3, 10, 12)
    for given in (None, mask):
        base = model.fuse(text, image, given)
        for stream, tokens in ((text, 7), (image, 10)):
            for token in range(tokens):
                changed = stream.clone()
                changed[:, token] += 1.0
                pair = (changed, image) if stream is text else (text, changed)
                again = model.fuse(*pair, given)
                seen = (
                    mask[:, token].bool() if given is not None and stream is text else torch.ones(3, dtype=torch.bool)
                )
                for one, two in (
                    (base.last_hidden_state, again.last_hidden_state),
                    (base.image_hidden_state, again.image_hidden_state),
                ):
                    moved = (one - two).abs().amax(-1) > 1e-7
                    assert moved[seen].all()
                    rest = [i for i in range(one.shape[1]) if not (stream is text and one.shape[1] == 7 and i == token)]
                    assert not moved[~seen][:, rest].any()


def test_padding_and_ids_behind_the_mask_change_nothing() -> None:
    model, given = build(), inputs()
    output = model(**given)
    other = {**given, "input_ids": torch.where(given["attention_mask"].bool(), given["input_ids"], 33)}
    changed = model(**other)
    close(changed.image_hidden_state, output.image_hidden_state)
    close(changed.last_hidden_state[1, :5], output.last_hidden_state[1, :5])
    short = model(given["input_ids"][1:2, :5], given["pixel_values"][1:2])
    close(short.pooler_output, output.pooler_output[1:2])


def test_exchanging_the_roles_exchanges_the_outputs() -> None:
    model = build()
    x, y = torch.randn(2, 7, 18), torch.randn(2, 5, 18)
    layers = zip(model.text_layers, model.image_layers, strict=True)
    for text, image in layers:
        one = text(x, None, y, None), image(y, None, x, None)
        text_state, image_state = text.state_dict(), {k: v.clone() for k, v in image.state_dict().items()}
        image.load_state_dict({k: v.clone() for k, v in text_state.items()})
        text.load_state_dict(image_state)
        two = text(y, None, x, None), image(x, None, y, None)
        close(two[1], one[0])
        close(two[0], one[1])


def test_both_streams_read_the_old_ones() -> None:
    none, one = build(layers=0), build(layers=1)
    text, image = torch.randn(2, 7, 10), torch.randn(2, 10, 12)
    width = 18
    base, moved = none.fuse(text, image).pooler_output, none.fuse(text + 1, image).pooler_output
    assert torch.equal(base[:, width:], moved[:, width:])
    assert not torch.equal(base[:, :width], moved[:, :width])
    with torch.no_grad():
        before = one.fuse(text, image)
        for parameter in one.image_layers.parameters():
            parameter.add_(1.0)
        after = one.fuse(text, image)
    assert torch.equal(
        before.last_hidden_state, after.last_hidden_state
    )  # text reads y, not what the image layer makes of it
    assert not torch.equal(before.image_hidden_state, after.image_hidden_state)


def test_counts_of_the_published_base_model() -> None:
    model: Any = architectures.build("meter-b16")
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert count["vision_model"] == 79_003_392
    assert count["text_model"] == 124_055_040
    assert count["text_layers"] + count["image_layers"] == 113_421_312
    assert count["text_transform"] + count["image_transform"] == 1_181_184
    assert count["text_pooler"] + count["image_pooler"] == 1_181_184
    assert count["token_type_embeddings"] == 1_536
    anatomy = gm.read(model)
    tokens = {"text": 41, "vision": 577}
    fusion = sum(b.sizes.macs(b.tokens(tokens), b.context(tokens)) for b in anatomy.blocks("fusion"))
    assert fusion == 6 * (16 * 768**2 * 618 + 2 * 768 * 618**2)  # 38.51 G; profilers that count norms say 38.56
    assert [len(anatomy.blocks(s)) for s in ("fusion", "vision", "text")] == [12, 11, 12]
    with torch.device("meta"):
        heads = {
            MeterForQuestionAnswering: (7_173_177, {"num_labels": 3129}),
            MeterForImagesAndTextClassification: (4_726_274, {"image_types": 2}),
            MeterForRetrieval: (1_537, {}),
        }
        for kind, (expected, options) in heads.items():
            whole = kind(MeterConfig(**options))
            own = sum(p.numel() for n, p in whole.named_parameters() if not n.startswith("meter."))
            assert own == expected


# ---- heads ----


def test_question_answering_sums_over_answers() -> None:
    model, given = build(MeterForQuestionAnswering, num_labels=6), inputs()
    scores = torch.rand(3, 6, generator=torch.Generator().manual_seed(3))
    output = model(**given, labels=scores)
    p = output.logits.sigmoid()
    close(output.loss, -(scores * p.log() + (1 - scores) * (1 - p).log()).sum(1).mean())
    assert [type(m).__name__ for m in model.classifier] == ["Linear", "LayerNorm", "GELU", "Linear"]


def test_entailment_and_two_images() -> None:
    given, labels = inputs(), torch.tensor([0, 2, 1])
    model = build(MeterForVisualEntailment, num_labels=3)
    output = model(**given, labels=labels)
    close(output.loss, F.cross_entropy(output.logits, labels))
    model = build(MeterForImagesAndTextClassification, num_labels=2, image_types=2)
    images = torch.randn(3, 2, 3, 12, 12, generator=torch.Generator().manual_seed(4))
    pairs = {**given, "pixel_values": images}
    first = model.meter(**{**given, "pixel_values": images[:, 0]}).pooler_output
    second = model.meter(**{**given, "pixel_values": images[:, 1]}, image_type=2).pooler_output
    output = model(**pairs, labels=labels % 2)
    close(output.logits, model.classifier(torch.cat([first, second], -1)))
    with pytest.raises(ValueError, match=r"pixel_values must be \[B, 2, 3, S, S\], two images a sentence"):
        model(**given)
    with pytest.raises(ValueError, match=r"a model of two images has MeterConfig\(image_types=2\)"):
        build(MeterForImagesAndTextClassification, num_labels=2)(**pairs)
    with pytest.raises(ValueError, match=r"image_type=2, and this METER has image types 1..1"):
        build()(**given, image_type=2)


def test_a_model_of_two_images_is_adapted_counted_and_saved(tmp_path: Path) -> None:
    options = {"num_labels": 2, "image_types": 2, "layers": 1}
    adapted = gm.adapt(build(MeterForImagesAndTextClassification, **options), gm.APT(prompts=3, rank=2)).eval()
    adapted.save_pretrained(tmp_path / "two")
    sheet = json.loads((tmp_path / "two" / "adapter_config.json").read_text())["cost"]
    for part in ("bare", "adapted", "per_batch", "finished"):
        assert sheet[part]["counted"] == sheet[part]["closed"] > 0, part
    pairs = {**inputs(), "pixel_values": torch.randn(3, 2, 3, 12, 12)}
    again = gm.load(tmp_path / "two", build(MeterForImagesAndTextClassification, **options))
    assert torch.equal(again(**pairs).logits, adapted(**pairs).logits)


def test_retrieval_ranks_several_texts_for_each_image() -> None:
    model, given = build(MeterForRetrieval), inputs()
    ids, labels = given["input_ids"].repeat(4, 1).view(3, 4, 7), torch.tensor([0, 3, 1])
    before, output = model.rank_output.weight.clone(), model(ids, given["pixel_values"], (ids != 1).long(), labels)
    close(output.loss, F.cross_entropy(output.logits, labels))  # no matching head is known yet
    model.start_rank_head()
    assert torch.equal(model.rank_output.weight, before)
    model.itm_score.weight.normal_()
    model.itm_score.bias.normal_()
    model.start_rank_head()
    assert torch.equal(model.rank_output.weight, model.itm_score.weight[1:])
    output = model(ids, given["pixel_values"], (ids != 1).long(), labels)
    assert output.logits.shape == (3, 4)
    alone = model(ids[:, 2], given["pixel_values"], (ids[:, 2] != 1).long())
    close(output.logits[:, 2:3], alone.logits)
    no_match, match = (-output.matching_logits.log_softmax(-1)).unbind(-1)
    matching = 0.0
    for i, true in enumerate(labels.tolist()):
        matching += match[i, true] / 6 + sum(no_match[i, j] for j in range(4) if j != true) / 18
    close(output.loss, F.cross_entropy(output.logits, labels) + matching)
    adapted = gm.adapt(model, gm.LinearProbe())
    assert set(adapted.trainable()) == {"head.weight", "head.bias"}  # the matching head stays frozen


# ---- prompts in two columns ----


def test_shallow_prompts_enter_both_streams_and_are_seen_by_both() -> None:
    model, given = build(), inputs()
    x, y = streams(model, given)
    adapted = gm.adapt(model, gm.VPT(prompts=4, deep=False), num_labels=2).eval()
    P = tuple(p.detach() for n, p in adapted.trainable().items() if n.endswith("prompts"))
    assert [p.shape for p in P] == [(4, 18), (4, 18)]
    output = adapted.backbone(**given)
    adapted.detach()
    text, image = by_hand(model, x, y, given["attention_mask"], P)  # type: ignore[arg-type]
    close(output.last_hidden_state, text)
    close(output.image_hidden_state, image)


def test_tokens_that_the_other_column_does_not_read() -> None:
    """Inserted in one column for two layers, they are keys and queries there, and no context of the other."""
    model, given = build(), inputs()
    x, y = streams(model, given)
    adapted = gm.adapt(model, gm.VPT(prompts=2, form="sequence", blocks=(0,)), num_labels=2).eval()
    (P,) = (p.detach() for n, p in adapted.trainable().items() if n.endswith("prompts"))
    output = adapted.backbone(**given)
    adapted.detach()
    hidden = (1 - given["attention_mask"].float())[:, None, None] * -1e30
    wide = torch.cat([x[:, :1], P.expand(3, -1, -1), x[:, 1:]], 1)
    text, image = model.text_layers, model.image_layers
    new_y = layer(image[0], y, x, None, hidden)
    new_x = layer(text[0], wide, y, F.pad(hidden, (2, 0)), None)
    x, y = torch.cat([new_x[:, :1], new_x[:, 3:]], 1), new_y
    for i in (1, 2):
        x, y = layer(text[i], x, y, hidden, None), layer(image[i], y, x, None, hidden)
    close(output.last_hidden_state, x)
    close(output.image_hidden_state, y)


def test_prompts_of_cross_attention_are_context_of_the_other_stream() -> None:
    """Prepended to what cross-attention reads: the APT comparison's deep prompts on METER."""
    model, given = build(layers=1), inputs()
    x, y = streams(model, given)
    adapted = gm.adapt(model, gm.VPT(prompts=4, attention="cross"), num_labels=2).eval()
    assert gm.VPT(prompts=4, attention="cross").parameters(adapted.anatomy) == 2 * 4 * 18
    prompts = {n: p.detach() for n, p in adapted.trainable().items() if n.endswith("prompts")}
    assert list(prompts) == ["vpt.fusion.blocks.0.cross.prompts", "vpt.fusion.blocks.1.cross.prompts"]
    output, P = adapted.backbone(**given), list(prompts.values())
    finished: Any = adapted.finalize()
    close(finished.backbone(**given).pooler_output, output.pooler_output)
    adapted.detach()
    hidden = (1 - given["attention_mask"].float())[:, None, None] * -1e30
    expected = []
    for module, own, other, own_mask, other_mask, p in (
        (model.text_layers[0], x, y, hidden, None, P[0]),
        (model.image_layers[0], y, x, None, hidden, P[1]),
    ):
        read = torch.cat([p.expand(3, -1, -1), other], 1)
        expected.append(layer(module, own, read, own_mask, None if other_mask is None else F.pad(other_mask, (4, 0))))
    close(output.last_hidden_state, expected[0])
    close(output.image_hidden_state, expected[1])


def test_cross_attention_of_decoders_remembers_too() -> None:
    config = tf.BartConfig(
        d_model=12, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=20,
        decoder_ffn_dim=20, vocab_size=50, max_position_embeddings=40,
    )  # fmt: skip
    model = tf.BartForConditionalGeneration(config).eval()
    adapted = gm.adapt(model, gm.VPT(prompts=3, attention="both", stack="decoder")).eval()
    ids = torch.randint(4, 50, (2, 5))
    before = adapted(input_ids=ids, decoder_input_ids=ids).logits
    adapted.trainable()["vpt.decoder.blocks.1.cross.prompts"].data.add_(1.0)
    assert not torch.equal(adapted(input_ids=ids, decoder_input_ids=ids).logits, before)


# ---- the authors' names ----


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (MeterModel, {}),
        (MeterForQuestionAnswering, {"num_labels": 6}),
        (MeterForVisualEntailment, {"num_labels": 3}),
        (MeterForImagesAndTextClassification, {"num_labels": 2, "image_types": 2}),
        (MeterForRetrieval, {}),
    ],
)
@pytest.mark.parametrize("file", ["theirs.safetensors", "theirs.ckpt"])
def test_written_under_the_authors_names_and_loaded_back(kind: Any, options: Any, file: str, tmp_path: Path) -> None:
    model, path = build(kind, **options), tmp_path / file
    theirs = meter_checkpoint.export(model)
    assert "vit_model.visual.transformer.resblocks.1.attn.in_proj_weight" in theirs
    theirs["vit_model.ln_final.weight"] = torch.ones(8)  # left over from CLIP's text side in the published files
    theirs["text_transformer.embeddings.position_ids"] = torch.arange(40)[None]
    if file.endswith(".ckpt"):
        torch.save({"state_dict": theirs, "epoch": 9}, path)
    else:
        safetensors.torch.save_file({k: v.contiguous() for k, v in theirs.items()}, path)
    again = meter_checkpoint.load(
        path, kind, config=MeterConfig(**SIZES, **{k: v for k, v in options.items() if k != "num_labels"})
    )
    assert not again.training
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in again.state_dict().items())
    given = inputs()
    if kind is MeterForImagesAndTextClassification:
        given["pixel_values"] = torch.randn(3, 2, 3, 12, 12)
    close(again(**given)[0], model(**given)[0])
    again.save_pretrained(tmp_path / "ours")
    assert (tmp_path / "ours" / "model.safetensors").exists()
    close(kind.from_pretrained(tmp_path / "ours").eval()(**given)[0], model(**given)[0])


def save(tensors: dict[str, Tensor], path: Path) -> Path:
    safetensors.torch.save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path)
    return path


def test_a_pretrained_file_makes_the_heads_of_a_task(tmp_path: Path) -> None:
    theirs = meter_checkpoint.export(build())
    theirs |= {
        "itm_score.fc.weight": torch.randn(2, 36),
        "itm_score.fc.bias": torch.randn(2),
        "mlm_score.bias": torch.zeros(50),
    }
    path = save(theirs, tmp_path / "pretrained.safetensors")
    rank = meter_checkpoint.load(path, MeterForRetrieval, config=MeterConfig(**SIZES))
    assert torch.equal(rank.rank_output.weight, theirs["itm_score.fc.weight"][1:])
    assert torch.equal(rank.itm_score.bias, theirs["itm_score.fc.bias"])
    two = meter_checkpoint.load(path, MeterForImagesAndTextClassification, config=MeterConfig(**SIZES), num_labels=2)
    types = two.meter.token_type_embeddings.weight
    assert types.shape == (3, 18)
    assert torch.equal(types[2], types[1])
    answers = meter_checkpoint.load(path, MeterForQuestionAnswering, config=MeterConfig(**SIZES), num_labels=7)
    assert answers.classifier[3].out_features == 7
    assert torch.equal(answers.meter.text_layers[0].output.dense.weight, rank.meter.text_layers[0].output.dense.weight)


def test_another_image_size_resizes_the_positions(tmp_path: Path) -> None:
    model = build()
    path = save(meter_checkpoint.export(model), tmp_path / "m.safetensors")
    larger = meter_checkpoint.load(path, config=MeterConfig(**SIZES), image_size=20)
    assert larger.config.vision_config.image_size == 20
    rows = model.vision_model.embeddings.position_embedding.weight.detach()
    assert torch.equal(larger.vision_model.embeddings.position_embedding.weight, checkpoints.grid(rows, 5))
    assert larger(inputs()["input_ids"], torch.randn(3, 3, 20, 20)).image_hidden_state.shape == (3, 26, 18)
    pixels = torch.randn(3, 3, 20, 20)
    close(
        larger(inputs()["input_ids"], pixels).pooler_output,
        model(inputs()["input_ids"], pixels, interpolate_pos_encoding=True).pooler_output,
    )
    with pytest.raises(ValueError, match="image_size=22 is no multiple of the patches of 4 pixels"):
        meter_checkpoint.load(path, config=MeterConfig(**SIZES), image_size=22)
    with pytest.raises(ValueError, match="a position table of 9 rows is no class token and a square of patches"):
        checkpoints.grid(torch.zeros(9, 4), 3)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    theirs, config = meter_checkpoint.export(build(MeterForQuestionAnswering, num_labels=6)), MeterConfig(**SIZES)
    where, missing = tmp_path / "m.safetensors", dict(theirs)
    del missing["cross_modal_text_transform.bias"]
    short = {**theirs, "cross_modal_image_pooler.dense.bias": torch.zeros(17)}
    nan = {**theirs, "vqa_classifier.0.bias": torch.full((36,), torch.nan)}
    apt = {
        **theirs,
        "cross_modal_text_layers.0.attention.output.APT.scale": torch.zeros(1),
        "token4classifier": torch.zeros(1, 1, 18),
    }
    for tensors, message in (
        ({**theirs, "swin.norm.weight": torch.ones(3)}, r"unknown: swin.norm.weight \(1 in all\)"),
        (missing, r"does not fit MeterForQuestionAnswering; missing: meter.text_transform.bias \(1 in all\)"),
        (short, r"of another shape: meter.image_pooler.dense.bias \(17,\) for \(18,\)"),
        (nan, "not finite: classifier.0.bias"),
        (apt, "holds a backbone with APT inside .*2 tensors in all.*leave these keys out to have the backbone alone"),
    ):
        with pytest.raises(ValueError, match=message):
            meter_checkpoint.load(save(tensors, where), MeterForQuestionAnswering, config=config)
    with pytest.raises(ValueError, match=r"num_labels=9, but the head in .* has 6"):
        meter_checkpoint.load(save(theirs, where), MeterForQuestionAnswering, config=config, num_labels=9)
    with pytest.raises(ValueError, match="of another shape"):
        meter_checkpoint.load(where, MeterForQuestionAnswering)  # the published sizes
    with pytest.raises(ValueError, match="no table for MeterLayer; there are MeterModel, MeterForQuestionAnswering"):
        meter_checkpoint.table(type("MeterLayer", (MeterModel,), {}))
    with pytest.raises(KeyError, match=r"the authors' checkpoints have no name for other.weight"):
        meter_checkpoint.table(MeterModel).theirs({"other.weight": torch.zeros(1)})


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "hostile.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "hyper_parameters": nn.Linear(1, 1)}, path)
    with pytest.raises(
        ValueError, match=r"holds more than tensors .* are never loaded: open it once where nothing can be harmed"
    ):
        checkpoints.read(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match="holds no tensors by name"):
        checkpoints.read(path)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(ValueError, match="is no readable safetensors file"):
        checkpoints.read(tmp_path / "cut.safetensors")
    with pytest.raises(FileNotFoundError):
        checkpoints.read(tmp_path / "none.ckpt")


def test_transformers_and_the_zoo_know_it(tmp_path: Path) -> None:
    model = build(MeterForQuestionAnswering, num_labels=6)
    model.save_pretrained(tmp_path)
    again = zoo.load(tmp_path)
    assert type(again) is MeterForQuestionAnswering is find("MeterForQuestionAnswering")
    assert torch.equal(again(**inputs()).logits, model(**inputs()).logits)
    other = zoo.load(tmp_path, task="visual-question-answering", num_labels=9)
    assert other(**inputs()).logits.shape == (3, 9)
    assert find("MeterForSegmentation") is None
    adapted = gm.adapt(again, gm.APT(prompts=2))
    adapted.save_pretrained(tmp_path / "adapter")
    assert torch.equal(gm.load(tmp_path / "adapter")(**inputs()).logits, adapted.eval()(**inputs()).logits)
