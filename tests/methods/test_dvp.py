"""DVP: properties of its specification, on whole tiny models and on the authors' shapes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

import gossamer as gm
from gossamer import architectures
from gossamer.anatomy.leading import hide, open_mask
from gossamer.cost.counting import Sample, count
from gossamer.methods.dvp import attend, choose, placements, pooled

from ..models.seeing import CLASSIFIED, SPOKEN, adapted, close, composed, images, texts

PIXELS = torch.stack(images(16, 16))
SMALL = {"heads": 3, "rank": 2, "init_std": 0.5}


class Generator:
    """A generator's weights, for calls of the pure function."""

    def __init__(self, d: int = 6, d_v: int = 4, c: int = 8, heads: int = 2):
        self.q, self.k, self.v, self.o = nn.Linear(d, c), nn.Linear(d_v, c), nn.Linear(d_v, c), nn.Linear(c, d)
        self.heads = heads

    def __call__(self, q: Tensor, visual: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.o(attend(self.q(q), self.k(visual), self.v(visual), self.heads, mask))


# ---- the generator ----


def test_visual_tokens_have_no_order_may_be_doubled_and_masking_is_leaving_out() -> None:
    generate, q, visual = Generator(), torch.randn(3, 1, 6), torch.randn(3, 5, 4)
    expected = generate(q, visual)
    close(generate(q, visual[:, torch.randperm(5)]), expected)
    close(generate(q, torch.cat([visual, visual], dim=1)), expected)
    mask = torch.tensor([[True, False, True, True, False]]).expand(3, -1)
    close(generate(q, visual, mask), generate(q, visual[:, [0, 2, 3]]))


def test_one_visual_token_is_the_answer_to_every_query() -> None:
    generate, visual = Generator(), torch.randn(3, 1, 4)
    close(generate(torch.randn(3, 2, 6), visual), generate.o(generate.v(visual)).expand(-1, 2, -1))


def test_queries_do_not_know_each_other() -> None:
    generate, q, visual = Generator(), torch.randn(3, 4, 6), torch.randn(3, 5, 4)
    close(generate(q, visual), torch.cat([generate(q[:, i : i + 1], visual) for i in range(4)], dim=1))


def test_a_mean_leaves_padding_out() -> None:
    states, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    close(pooled(states, mask)[0, 0], states[0, :2].mean(0))
    close(pooled(states, mask)[1], pooled(states, None)[1])


# ---- where it enters ----


def watched(model: Any) -> dict[str, list[Tensor]]:
    """What the generator gives, and what enters and leaves each block of the stack it is in, before it is stripped."""
    kept: dict[str, list[Tensor]] = {"prompt": [], "in": [], "out": []}
    prompt = next(m for n, m in model.methods.named_modules() if n.endswith(".prompt"))
    prompt.register_forward_hook(lambda m, a, o: kept["prompt"].append(o))
    for block in model.anatomy.blocks(model.anatomy.readout.name):
        block.module.register_forward_pre_hook(
            lambda m, a, k: kept["in"].append(a[0] if a else k["hidden_states"]), with_kwargs=True
        )
        block.module.register_forward_hook(
            lambda m, a, o: kept["out"].append(o[0] if isinstance(o, tuple) else o), prepend=True
        )
    return kept


@pytest.mark.parametrize("language", ["bert", "t5", "llama"])
def test_the_prompt_lives_from_its_block_to_the_last(language: str) -> None:
    model = adapted("clip", CLASSIFIED[language], gm.DVP(block=1, **SMALL), labels=3)
    kept = watched(model)
    model(**texts(6, 6), pixel_values=PIXELS)
    n = 1 if language == "t5" else 6
    assert [x.shape[1] for x in kept["out"]] == [n] + [n + 1] * (len(kept["out"]) - 1)
    output = model.backbone(**texts(6, 6), pixel_values=PIXELS)
    assert output.last_hidden_state.shape[1] == n
    at = 1 if language == "bert" else 0
    modality = next((p for k, p in model.trainable().items() if k.endswith("modality")), None)
    expected = kept["prompt"][0] if modality is None else kept["prompt"][0] + modality[0]  # it comes without E_0
    close(kept["in"][1][:, at : at + 1], expected)


@pytest.mark.parametrize("language", ["bert", "llama"])
def test_the_image_is_unknown_before_its_block(language: str) -> None:
    model = adapted("clip", CLASSIFIED[language], gm.DVP(block=2, **SMALL), labels=3)
    kept = watched(model)
    model(**texts(6, 6), pixel_values=PIXELS)
    model(**texts(6, 6), pixel_values=PIXELS + 1)
    first, second = kept["out"][:3], kept["out"][3:]
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[2], second[2])


def test_at_block_0_the_prompt_does_not_depend_on_the_text() -> None:
    given = texts(6, 6)
    given["input_ids"][:, 0] = 5  # the class token
    for block, same in ((0, True), (1, False)):
        method = gm.DVP(block=block, **SMALL)
        if same:
            with pytest.warns(UserWarning, match="block=0: the query is a token before the first block"):
                model = gm.adapt(composed("clip", CLASSIFIED["bert"]), method, num_labels=3).eval()
        else:
            model = gm.adapt(composed("clip", CLASSIFIED["bert"]), method, num_labels=3).eval()
        kept = watched(model)
        model(**given, seen=model.see(PIXELS[:1]), image_index=torch.tensor([0, 0]))
        first, second = kept["prompt"][0]
        assert torch.equal(first, second) == same
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # T5's query comes from its encoder
        gm.adapt(composed("clip", CLASSIFIED["t5"]), gm.DVP(block=0, **SMALL), num_labels=3)


@pytest.mark.parametrize("language", ["bert", "t5", "flan", "bart", "llama"])
def test_without_an_image_the_model_is_the_frozen_one(language: str) -> None:
    given = texts(6, 6)
    bare = composed("clip", CLASSIFIED[language]).requires_grad_(False)
    model = adapted("clip", CLASSIFIED[language], gm.DVP(block=1, train="prompt", heads=3, init_std=0.5))
    together = model(**given, seen=model.see(PIXELS[:1]), image_index=torch.tensor([-1, 0])).last_hidden_state
    expected = bare(**given).last_hidden_state
    close(together[:1], expected[:1])
    assert float((together[1] - expected[1]).detach().abs().max()) > 1e-3
    assert torch.equal(model(**given).last_hidden_state, expected)


@pytest.mark.parametrize("language", ["bert", "t5", "llama"])
def test_adapters_that_start_from_zero_are_not_there(language: str) -> None:
    logits = []
    for train in ("adapters", "prompt"):
        model = gm.adapt(
            composed("clip", CLASSIFIED[language]), gm.DVP(block=1, heads=3, train=train), num_labels=3
        ).eval()
        torch.default_generator.manual_seed(5)
        with torch.no_grad():
            for name, parameter in sorted(model.trainable().items()):
                if ".adapters." in name and ".up." in name:
                    parameter.zero_()
                if ".prompt." in name or name.startswith("head"):
                    parameter.copy_(torch.randn(parameter.shape))
        logits.append(model(**texts(6, 6), pixel_values=PIXELS).logits)
    assert torch.equal(*logits)


def test_text_behind_the_end_has_no_say() -> None:
    model = adapted("clip", CLASSIFIED["llama"], gm.DVP(block=1, **SMALL), labels=3)
    given = texts(7, 5)
    before = model(**given, pixel_values=PIXELS).logits
    given["input_ids"][1, 5:] = 17
    close(model(**given, pixel_values=PIXELS).logits, before)


def test_gradients_reach_what_is_trained_and_only_the_chosen_placement() -> None:
    model = adapted("clip", CLASSIFIED["bert"], gm.DVP(block=1, **SMALL, super_network=True), labels=3).train()
    assert placements(model) == 3
    for k in (2, 0):
        choose(model, k)
        model.zero_grad(set_to_none=True)
        model(**texts(6, 6), pixel_values=PIXELS, labels=torch.tensor([0, 2])).loss.backward()
        for name, parameter in model.trainable().items():
            if ".prompt." in name:
                assert (parameter.grad is not None) == (f"blocks.{k}.prompt" in name), name
                assert parameter.grad is None or parameter.grad.any()
            else:
                assert parameter.grad is not None
        assert all(p.grad is None for p in model.backbone.vision.parameters())
    with pytest.raises(ValueError, match="no placement 3: this adapter has 0, 1, 2"):
        choose(model, 3)
    with pytest.raises(ValueError, match="no placement of a visual prompt: this model is adapted by memvp"):
        choose(gm.adapt(composed("clip", SPOKEN["llama"]), gm.MemVP(rank=2)), 1)


@pytest.mark.parametrize("language", ["bert", "t5", "llama"])
def test_a_chosen_placement_is_that_placement_alone(language: str) -> None:
    depth = 2 if language == "t5" else 3
    search = adapted("clip", CLASSIFIED[language], gm.DVP(block=0, **SMALL, super_network=True), labels=3)
    tensors = search.state_dict()
    for k in range(1, depth):
        choose(search, k)
        model = adapted("clip", CLASSIFIED[language], gm.DVP(block=k, **SMALL), labels=3)
        model.load_state_dict({n: tensors[n] for n in model.state_dict()})
        given = texts(6, 4)
        close(search(**given, pixel_values=PIXELS).logits, model(**given, pixel_values=PIXELS).logits, 1e-6)
        seen = search.see(PIXELS)
        choose(search, 0)
        with pytest.raises(RuntimeError, match="seen under another placement"):
            search(**given, seen=seen)


# ---- masks ----


def test_a_hidden_token_is_seen_by_itself_alone() -> None:
    x = torch.randn(2, 3, 4)
    mask = open_mask(x, past=0, length=3, causal=True)
    assert torch.equal(mask[0, 0] == 0, torch.ones(3, 3, dtype=torch.bool).tril())
    widened = nn.functional.pad(mask, (2, 0, 2, 0))  # two tokens in front, visible to all
    hidden = hide(widened, torch.tensor([[False, True], [True, True]]), 0, 2, rows=True)
    assert (hidden[0, 0, :, 0] == 0).tolist() == [True, False, False, False, False]
    assert bool((hidden[0, 0, 2:, 1] == 0).all())
    assert torch.equal(hidden[1], widened[1])
    later = open_mask(x[:, :1], past=4, length=1, causal=True)
    assert later.shape == (2, 1, 1, 5)
    assert not later.any()


# ---- the authors' shapes ----


def authors(language: str) -> gm.VisionLanguage:
    """CLIP ViT-B/16 with a bare language model, on the meta device."""
    published: Any = architectures.build({"bert": "bert-base", "t5": "t5-base", "llama": "llama-7b"}[language])
    with torch.device("meta"):
        kind: Any = {"bert": tf.BertModel, "t5": tf.T5Model, "llama": tf.LlamaModel}[language]
        options = {"add_pooling_layer": False} if language == "bert" else {}
        bare = kind(published.config, **options)
    return gm.VisionLanguage(architectures.build("clip-vit-b16"), bare.eval())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "alone", "heads"),
    [
        ("bert", 5_960_448, {3129: 11_953_977, 1843: 9_977_395, 3: 7_149_315}),
        ("t5", 11_310_720, {3129: 17_304_249, 1843: 15_327_667, 3: 12_499_587}),
        ("llama", 39_073_280, {3129: 42_777_145, 1843: 42_117_427, 3: 41_173_507}),
    ],
)
def test_parameters_of_the_authors_models(language: str, alone: int, heads: dict[int, int]) -> None:
    method = gm.DVP(block=4)
    assert method.parameters(gm.read(authors(language))) == alone
    for classes, total in heads.items():
        model = gm.adapt(authors(language), method, num_labels=classes)
        assert sum(p.numel() for p in model.trainable().values()) == total
    own = {n for n, p in model.backbone.language.named_parameters() if p.requires_grad}
    assert own
    assert all("norm" in n.lower() and "embeddings" not in n for n in own)


@pytest.mark.slow
def test_multiplications_of_the_authors_bert() -> None:
    """16 tokens of text and 197 of the image, in G; the vision tower, 17.56 G, is left out."""

    def language(method: Any) -> float:
        model = authors("bert")
        sample, text = Sample.of(model, tokens=16), Sample(None, 16, None)
        tower = count(model, model, sample)[0] - count(model.language, model.language, text)[0]
        finished: Any = gm.adapt(model, method).finalize()
        return round((count(finished, finished, sample)[0] - tower) / 1e9, 3)

    anatomy, methods = gm.read(authors("bert")), [gm.DVP(block=k, train="prompt") for k in range(12)]
    closed = [method.macs(anatomy, {"text": 16, "vision": 197}) for method in methods]
    assert closed == sorted(closed, reverse=True)
    assert [language(methods[k]) for k in (6, 11)] == [1.640, 1.605]
    with pytest.warns(UserWarning, match="block=0"):
        assert language(methods[0]) == 1.683
    assert language(gm.VisualTokens()) == pytest.approx(18.93 + 197 * 768**2 / 1e9, abs=0.005)  # with its projector


# ---- settings ----


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width must be at least 1"),
        ({"heads": 0}, "heads must be at least 1"),
        ({"rank": -1}, "rank must be at least 1"),
        ({"query": "first"}, "query must be one of token, mean, all, got 'first'"),
        ({"train": "all"}, "train must be one of adapters, language, prompt, got 'all'"),
        ({"init_std": -1.0}, "init_std must be 0 or more"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gm.DVP(block=1, **settings)


def test_settings_that_do_not_fit() -> None:
    bert = composed("clip", CLASSIFIED["bert"])
    with pytest.raises(KeyError, match="no block 3: the text stack"):
        gm.adapt(bert, gm.DVP(block=3))
    with pytest.raises(
        ValueError, match=r"5 heads do not divide the generator's width 12: choose DVP\(heads=..., width=...\)"
    ):
        gm.adapt(bert, gm.DVP(block=1, heads=5))
    with pytest.raises(ValueError, match="released_compat=True is about T5's relative bias"):
        gm.adapt(bert, gm.DVP(block=1, heads=3, released_compat=True))


def test_full_mode_trains_the_language_model_and_leaves_the_tower_alone() -> None:
    model = gm.adapt(
        composed("clip", lambda: tf.BertModel(tf.BertConfig(**BERT))),
        gm.DVP(block=1, heads=3, train="language"),
        num_labels=3,
    )
    owned = {n for n, p in model.backbone.named_parameters() if p.requires_grad}
    assert owned == {
        f"language.{n}" for n, _ in model.backbone.language.named_parameters() if not n.startswith("pooler")
    }
    model.train()
    assert all(m.training for m in model.backbone.language.modules())
    assert not any(m.training for m in model.backbone.vision.modules())
    model.eval()
    assert not any(m.training for m in model.modules())


BERT = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20, "vocab_size": 50}
