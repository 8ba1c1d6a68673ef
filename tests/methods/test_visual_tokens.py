"""Plain visual prompts, against language models that are given them as embeddings."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import gossamer as gm

from ..models.seeing import CLASSIFIED, SPOKEN, adapted, close, composed, images, texts

PIXELS = torch.stack(images(16, 16))


@pytest.mark.parametrize(
    "method", [gm.VisualTokens(), gm.VisualTokens(tokens="patches", rank=3)], ids=["linear", "mlp"]
)
def test_llama_reads_them_as_embeddings_in_front_of_the_text(method: gm.VisualTokens) -> None:
    """Text at 0, 1, ... behind tokens at -m .. -1 is text at m, m + 1, ... behind tokens at 0 .. m - 1."""
    model = adapted("clip", SPOKEN["llama"], method)
    given = texts(6, 6)
    found = model(input_ids=given["input_ids"], pixel_values=PIXELS).logits
    (visual,) = model.see(PIXELS).kept[0]
    bare = composed("clip", SPOKEN["llama"]).language
    embedded = torch.cat([visual, bare.get_input_embeddings()(given["input_ids"])], dim=1)
    m = visual.shape[1]
    assert m == (17 if method.tokens == "all" else 16)
    close(found, bare(inputs_embeds=embedded).logits[:, m:])


def test_t5s_encoder_reads_them_as_embeddings_in_front_of_the_text() -> None:
    """The relative bias counts them, on both sides of the largest distance."""
    model = adapted("clip", CLASSIFIED["t5"], gm.VisualTokens())
    given = texts(6, 6)
    found = model(input_ids=given["input_ids"], pixel_values=PIXELS).encoder_last_hidden_state
    (visual,) = model.see(PIXELS).kept[0]
    bare = composed("clip", CLASSIFIED["t5"]).language
    embedded = torch.cat([visual, bare.get_input_embeddings()(given["input_ids"])], dim=1)
    close(found, bare.encoder(inputs_embeds=embedded).last_hidden_state[:, visual.shape[1] :])


def test_dvp_at_the_input_is_one_embedding_in_front() -> None:
    with pytest.warns(UserWarning, match="block=0"):
        model = adapted("clip", SPOKEN["llama"], gm.DVP(block=0, heads=3, train="prompt"))
    prompts: list[torch.Tensor] = []
    prompt = next(m for n, m in model.methods.named_modules() if n.endswith(".prompt"))
    prompt.register_forward_hook(lambda m, a, o: prompts.append(o))
    ids = texts(6, 6)["input_ids"]
    found = model(input_ids=ids, pixel_values=PIXELS).logits
    bare = composed("clip", SPOKEN["llama"]).language
    embedded = torch.cat([prompts[0], bare.get_input_embeddings()(ids)], dim=1)
    close(found, bare(inputs_embeds=embedded).logits[:, 1:])


def test_the_projector() -> None:
    model = adapted("clip", SPOKEN["llama"], gm.VisualTokens(tokens="patches", rank=3))
    first, second = (
        model.trainable()[f"visual_tokens.decoder.blocks.0.visual.projector.linears.{i}.weight"] for i in (0, 1)
    )
    biases = [model.trainable()[f"visual_tokens.decoder.blocks.0.visual.projector.linears.{i}.bias"] for i in (0, 1)]
    vision = model.backbone.vision
    patches = vision.post_layernorm(vision(PIXELS).last_hidden_state[:, 1:])
    expected = F.linear(F.silu(F.linear(patches, first, biases[0])), second, biases[1])
    close(model.see(PIXELS).kept[0][0], expected)


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="tokens must be all or patches, got 'some'"):
        gm.VisualTokens(tokens="some")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rank must be at least 1"):
        gm.VisualTokens(rank=0)
    with pytest.raises(KeyError, match="no block 3"):
        gm.adapt(composed("clip", SPOKEN["llama"]), gm.VisualTokens(block=3))
