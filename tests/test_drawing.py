"""Runs that teach a denoiser to draw: captions, a subject with a prior, resumption, samples, and images drawn of texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizer

import gossamer as gm
from gossamer import noising, zoo
from gossamer.cli import main
from gossamer.drawing import Drawing, Folded
from gossamer.errors import UserError
from gossamer.runs import run_file
from gossamer.runs.trained import load_adapter
from gossamer.tasks.drawing_images import DrawingImages
from gossamer.training.train import train

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "red", "blue", "square", "sks"]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny denoiser with its schedule, and a text tower beside it."""
    folder = tmp_path_factory.mktemp("system")
    torch.default_generator.manual_seed(5)
    BertModel(
        BertConfig(
            vocab_size=len(WORDS), hidden_size=10, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12
        )
    ).save_pretrained(folder / "words")
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder / "words")
    diffusers.UNet2DConditionModel(
        sample_size=6, block_out_channels=(8, 12), layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=2, norm_num_groups=4, cross_attention_dim=10,
    ).save_pretrained(folder / "desk")  # fmt: skip
    diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(folder / "desk")
    told = {"text": str(folder / "words"), "tokens": 7, "fold": 2}
    (folder / "desk" / "drawing.json").write_text(json.dumps(told))
    return folder / "desk"


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five grey images of sizes that are not square, with captions."""
    folder = tmp_path_factory.mktemp("captioned")
    draw = np.random.default_rng(0)
    lines = []
    for i in range(5):
        Image.fromarray(draw.integers(0, 256, (13 + i, 17), dtype=np.uint8)).save(folder / f"{i}.png")
        lines.append({"file_name": f"{i}.png", "text": f"a photo of a {'red' if i % 2 else 'blue'} square"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def run(system: Path, images: Path, output: Path, **changed: Any) -> Any:
    values: dict[str, Any] = {
        "model": {"name": str(system)}, "data": {"name": str(images), "validation": 0.4}, "output": str(output),
        "methods": [{"method": "apt", "prompts": 3, "rank": 2}], "drawing": {"steps": 2},
        "training": {"epochs": 2, "batch": 2, "lr": 1e-2},
    }  # fmt: skip
    return run_file.build(gm.runs.run.Run, run_file.merged(values, changed))


def test_captions_are_taught_and_what_was_learnt_draws_again(
    system: Path, captioned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    metrics = train(run(system, captioned, folder))
    assert metrics["pictures"] == {"train": 3, "val": 2}
    assert 0 < metrics["val"]["loss"] < 10
    assert metrics["val"]["accuracy"] == pytest.approx(
        1 - metrics["val"]["loss"], abs=0.3
    )  # noise has a mean square of about 1
    assert sorted(p.name for p in (folder / "samples").iterdir()) == ["epoch_001.png", "epoch_002.png"]
    with Image.open(folder / "samples" / "epoch_002.png") as shown:
        assert shown.size == (2 * 12, 12)  # both captions, at the size that the denoiser was made for

    main(["predict", str(folder), "a photo of a red square", "--output", str(tmp_path / "x.png"), "--seed", "3"])
    main(["predict", str(folder), "a photo of a red square", "--output", str(tmp_path / "y.png"), "--seed", "3"])
    main(["predict", str(folder), "a photo of a red square", "--output", str(tmp_path / "z.png"), "--seed", "4"])
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes() != (tmp_path / "z.png").read_bytes()
    assert "x.png" in capsys.readouterr().out
    adapted = load_adapter(folder)
    task: Any = gm.tasks.of(adapted)
    assert isinstance(task, DrawingImages)
    assert task.score(adapted, task.prepare(gm.data.load_captions(str(captioned), "train"))).n == 5
    assert main(["predict", str(folder), "a photo"]) == 2
    assert "say where it goes, --output" in capsys.readouterr().err


@pytest.mark.slow
def test_the_frozen_denoiser_is_a_run(system: Path, captioned: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    metrics = train(run(system, captioned, folder, methods=[{"method": "untrained"}], training={"epochs": 0}))
    assert metrics["trainable_parameters"] == 0
    adapted, images = load_adapter(folder), torch.randn(2, 4, 6, 6)
    given = {"timestep": torch.tensor([3, 900]), "encoder_hidden_states": torch.randn(2, 5, 10)}
    with torch.no_grad():
        found = adapted(sample=images, **given).sample
        assert torch.equal(found, adapted.detach()(images, **given).sample)


def test_a_run_that_was_killed_ends_as_one_that_was_not(
    system: Path, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(run(system, captioned, tmp_path / "whole"))
    watch = DrawingImages.watch

    def killed(self: DrawingImages, adapted: Any, folder: Path, epoch: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt
        watch(self, adapted, folder, epoch)

    monkeypatch.setattr(DrawingImages, "watch", killed)
    with pytest.raises(KeyboardInterrupt):
        train(run(system, captioned, tmp_path / "killed"))
    monkeypatch.setattr(DrawingImages, "watch", watch)
    again = train(run(system, captioned, tmp_path / "killed"), resume=True)
    assert again["val"] == whole["val"]
    assert again["train_loss"] == whole["train_loss"]


def test_a_run_learns_the_prior_and_leaves_texts_out(
    system: Path, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Tensor]] = []
    loss = DrawingImages.loss

    def watched(self: DrawingImages, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        seen.append(batch)
        return loss(self, model, batch)

    monkeypatch.setattr(DrawingImages, "loss", watched)
    subject = tmp_path / "subject"
    subject.mkdir()
    shutil.copy(captioned / "0.png", subject)
    drawing = {"prompt": "a sks square", "prior": "a square", "prior_images": 2, "repeats": 24, "empty": 0.5}
    one = {"data": {"validation": 0.0}, "training": {"epochs": 1}}
    taught = train(run(system, subject, tmp_path / "with", drawing=drawing, **one))
    known, texts = (
        [len(b["latents"]) - len(b["labels"]) for b in seen],
        torch.cat([b["encoder_hidden_states"][:2] for b in seen]),
    )
    assert known == [2] * 12  # as many of the prior as of the subject, in every batch
    assert len(texts.unique(dim=0)) == 2  # the prompt, or none
    seen.clear()
    alone = train(
        run(
            system,
            subject,
            tmp_path / "without",
            drawing={"prompt": "a sks square", "repeats": 24, "empty": 0.5},
            **one,
        )
    )
    assert all(len(b["latents"]) == len(b["labels"]) == 2 for b in seen)
    assert taught["train_loss"] != alone["train_loss"]


@pytest.mark.slow
def test_a_subject_with_a_prior(system: Path, captioned: Path, tmp_path: Path) -> None:
    subject = tmp_path / "subject"
    subject.mkdir()
    for i in range(3):
        shutil.copy(captioned / f"{i}.png", subject)
    drawing = {
        "prompt": "a photo of sks square",
        "prior": "a photo of a square",
        "prior_images": 4,
        "min_snr": 5.0,
        "repeats": 3,
    }
    chosen = run(system, subject, tmp_path / "run", drawing=drawing, data={"validation": 0.0}, training={"epochs": 1})
    metrics = train(chosen)
    assert metrics["pictures"] == {"train": 3}
    told = load_adapter(tmp_path / "run").metadata["drawing"]
    assert told["settings"]["prior"] == "a photo of a square"
    assert told["shown"] == ["a photo of sks square"]
    assert (
        json.loads((tmp_path / "run" / "history.jsonl").read_text().splitlines()[-1])["step"] == 5
    )  # of 9 images two by two


class Constant(nn.Module):
    """Predicts one number everywhere."""

    def forward(self, sample: Tensor, **told: Tensor) -> Any:
        return type("Answer", (), {"sample": torch.full_like(sample, 0.25)})()


def test_the_loss_weighs_the_subjects_half_alone(system: Path, captioned: Path) -> None:
    chosen = run(
        system, captioned, Path("unused"), drawing={"prompt": "sks", "prior": "a", "prior_weight": 0.5, "min_snr": 2.0}
    )
    images = gm.data.load_subject(str(captioned), "sks")
    task = DrawingImages.begin(chosen, images)
    prepared = task.prepare(images).teaching()
    task.prior.update({"latents": torch.randn(4, 4, 6, 6), **task.system.reader.states(["a"])})
    batch = prepared.collate([prepared[i] for i in range(3)])
    assert batch["latents"].shape == (6, 4, 6, 6)
    assert batch["encoder_hidden_states"].shape == (6, 7, 10)
    assert torch.equal(batch["encoder_hidden_states"][3], task.system.reader.states(["a"])["encoder_hidden_states"][0])
    torch.default_generator.manual_seed(7)
    found = task.loss(Constant(), batch)
    torch.default_generator.manual_seed(7)
    noise, t = torch.randn(6, 4, 6, 6), torch.randint(1000, (6,))
    each = (0.25 - noise).square().mean(dim=(1, 2, 3))
    ab = task.system.schedule.alphas_cumprod[t]
    weights = noising.snr(ab).clamp(max=2.0) / noising.snr(ab)
    assert torch.allclose(found, (weights[:3] * each[:3]).mean() + 0.5 * each[3:].mean())


def test_guidance_of_one_is_the_text_alone_and_pixels_fold_both_ways(system: Path) -> None:
    drawing, model = Drawing.read(str(system)), zoo.load(system)
    images = torch.rand(2, 1, 6, 10).expand(-1, 3, -1, -1)
    assert torch.allclose(Folded(2).decode(Folded(2).encode(2 * images - 1)[0]), images, atol=1e-6)
    texts, options = ["a red square"], {"pixels": (12, 20), "seed": 1, "steps": 2}
    alone = drawing.draw(model, texts, guidance=1, **options)
    assert alone.shape == (1, 3, 12, 20)
    assert torch.equal(alone, drawing.draw(model, texts, guidance=1, **options))
    assert not torch.equal(alone, drawing.draw(model, texts, guidance=3, **options))
    several = drawing.draw(model, ["a", *texts], **{**options, "seed": 0})
    assert torch.allclose(several[1:], drawing.draw(model, texts, **options), atol=1e-5)
    with pytest.raises(UserError, match="13 pixels do not divide into places of 2"):
        drawing.draw(model, texts, **{**options, "pixels": (13, 12)})


@pytest.mark.slow
def test_a_pipeline_of_diffusers_is_a_system(system: Path, captioned: Path, tmp_path: Path) -> None:
    torch.default_generator.manual_seed(9)
    root = tmp_path / "pipeline"
    zoo.load(system).save_pretrained(root / "unet")  # type: ignore[operator]
    diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4, layers_per_block=1,
    ).save_pretrained(root / "vae")  # fmt: skip
    diffusers.PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True).save_pretrained(root / "scheduler")
    shutil.copytree(system.parent / "words", root / "text_encoder")
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, model_max_length=8).save_pretrained(
        root / "tokenizer"
    )
    (root / "model_index.json").write_text("{}")
    metrics = train(run(root, captioned, tmp_path / "run", training={"epochs": 1}))
    assert metrics["pictures"] == {"train": 3, "val": 2}
    with Image.open(tmp_path / "run" / "samples" / "epoch_001.png") as shown:
        assert shown.size == (24, 12)
    shutil.rmtree(root / "vae")
    with pytest.raises(UserError, match="has no vae"):
        Drawing.read(str(root))


@pytest.mark.parametrize(("line", "message"), [
    ('{"file_name": "9.png", "text": "a"}', "1 of 1 images are not there"),
    ('{"file_name": "../0.png", "text": "a"}', "leads out of"),
    ('{"file_name": "0.png"}', "has no field 'text'"),
    ("", "has no line"),
])  # fmt: skip
def test_captions_that_cannot_be_read_are_named(captioned: Path, tmp_path: Path, line: str, message: str) -> None:
    shutil.copy(captioned / "0.png", tmp_path)
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises((UserError, FileNotFoundError), match=message):
        gm.data.load_captions(str(tmp_path), "train")


def test_settings_that_mean_nothing_are_refused(system: Path, captioned: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"drawing\.prior is of a subject: give drawing\.prompt"):
        run(system, captioned, tmp_path, drawing={"prior": "a"})
    with pytest.raises(UserError, match=r"drawing\.empty must be 0 to 1"):
        run(system, captioned, tmp_path, drawing={"empty": 1.5})
    with pytest.raises(UserError, match=r"leave out data\.shots"):
        train(run(system, captioned, tmp_path / "a", data={"shots": 2}))
    with pytest.raises(UserError, match="draws nothing"):
        train(run(system.parent / "words", captioned, tmp_path / "b"))
