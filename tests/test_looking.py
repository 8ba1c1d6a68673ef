from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import gossamer as gm
from gossamer import cli
from gossamer.looking import looking
from gossamer.methods.dvp import VisualPrompt, attend, weights
from gossamer.training.train import train

from . import questions, squares
from .models.seeing import CLASSIFIED, METHODS, SPOKEN, adapted, close, images, texts


def test_the_weights_are_those_of_the_attention() -> None:
    q, k, v = torch.randn(3, 2, 12), torch.randn(3, 7, 12), torch.randn(3, 7, 12)
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1, 4:] = False
    found = weights(q, k, 3, mask)
    summed = (found @ v.unflatten(-1, (3, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)
    close(summed, attend(q, k, v, 3, mask))
    assert torch.equal(found[1, ..., 4:], torch.zeros(3, 2, 3))


@pytest.mark.parametrize("tower", ["clip", "siglip", "registers"])
def test_dvp_looks_where_its_prompt_comes_from(tower: str) -> None:
    """The prompt is made again from the map: with values that tell the patches apart, their mix is the map."""
    model = adapted(tower, CLASSIFIED["bert"], gm.DVP(block=1, heads=1, width=32), labels=4)
    part: Any = next(m for m in model.methods.modules() if isinstance(m, VisualPrompt))
    prefix, pixels = model.anatomy.blocks("vision")[0].prefix, torch.stack(images(20, 20))
    with looking(model, 20) as maps:
        model(**texts(6, 4), pixel_values=pixels)
    assert {key: tuple(m.shape) for key, m in maps.items()} == {"text.blocks.1": (2, 5, 5)}
    found: list[Any] = []
    handle = part.generator.o.register_forward_pre_hook(lambda module, args: found.append(args[0]))
    values = torch.zeros(2, prefix + 25, 32)
    values[:, prefix:, :25] = torch.eye(25)
    part.generator.v.register_forward_hook(lambda module, args, output: values)
    model(**texts(6, 4), pixel_values=pixels)
    handle.remove()
    close(maps["text.blocks.1"].flatten(1), found[0][:, 0, :25])


@pytest.mark.parametrize("language", ["llama", "bart"])
def test_memvp_looks_by_the_activation_of_its_slots(language: str) -> None:
    model = adapted("vit", SPOKEN[language], METHODS["memvp"])
    given, pixels = texts(5, 5), torch.stack(images(16, 16))
    with looking(model, 16) as maps:
        model.generate(**given, pixel_values=pixels, max_new_tokens=2)
    blocks = [key for key in maps if key.startswith("decoder" if language == "llama" else "encoder")]
    assert len(blocks) == 3
    first = model.anatomy.blocks("decoder" if language == "llama" else "encoder")[0]
    entered: list[Any] = []
    first.part("up").register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    model.generate(**given, pixel_values=pixels, max_new_tokens=2)
    keys = model.see(pixels).kept[0][0]
    by_hand = first.active("act")(entered[0] @ keys.transpose(1, 2)).abs().mean(1)[:, :16]
    close(maps[first.key], by_hand.view(2, 4, 4))


def test_looking_changes_nothing_and_needs_an_image() -> None:
    model = adapted("clip", CLASSIFIED["bert"], METHODS["memvp"], labels=4)
    given, pixels = texts(6, 4), torch.stack(images(16, 16))
    before = model(**given, pixel_values=pixels).logits
    with looking(model, 16) as maps:
        assert torch.equal(model(**given, pixel_values=pixels).logits, before)
    assert len(maps) == 3
    with looking(model, 16) as maps:
        model(**given)
    assert maps == {}
    plain = adapted("clip", CLASSIFIED["bert"], METHODS["tokens"], labels=4)
    with (
        pytest.raises(ValueError, match=r"only DVP and MemVP say where they look, .* adapted by visual_tokens"),
        looking(plain, 16),
    ):
        pass


def test_predict_draws_where_the_model_looked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(questions.run(tmp_path / "run", "bert", methods=({"method": "dvp", "block": 1, "heads": 4},), epochs=1))
    files = [str(questions.gqa() / "images" / f"testdev{i}.jpg") for i in (1, 2)]
    asked = ["predict", str(tmp_path / "run"), *files, "what colour is it ?", "--json"]
    assert cli.main(asked) == 0
    plain = json.loads(capsys.readouterr().out)
    assert cli.main([*asked, "--picture", str(tmp_path / "looked.png")]) == 0
    assert json.loads(capsys.readouterr().out) == plain
    assert (tmp_path / "looked.png").read_bytes().startswith(b"\x89PNG")
    image = str(next((squares.images() / "test" / "same").iterdir()))
    assert cli.main(["predict", str(squares.trained()), image, "--picture", str(tmp_path / "no.png")]) == 2
    assert "this is an adapter for image-classification" in capsys.readouterr().err
