"""From a name to a pre-trained model in the zoo's cache: built, trained, scored on held-out drawings, stored with its hashes.

A run that was killed at any moment continues from its last checkpoint, and ends with the weights of one that was not.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from gossamer import carriers, zoo
from gossamer.data import ImageTextDataset, Preprocessing
from gossamer.data.easy_vqa import easy_vqa
from gossamer.documents import read_json
from gossamer.errors import UserError
from gossamer.pretraining import captions, starting
from gossamer.pretraining.captions import Facts
from gossamer.pretraining.objectives import Drawn, Reader, WordsAndMatching, scores
from gossamer.quiet import quiet
from gossamer.runs.folder import newest_checkpoint
from gossamer.runs.progress import Bar, Journal
from gossamer.runs.sets import apart
from gossamer.tasks.texts import Pictures
from gossamer.training.trainer import WatchedTrainer, schedule, trainer_arguments
from gossamer.zoo import cache

RECORD = "pretraining.json"  # recipe and scores, stored with the model
SAVES = 20  # checkpoints in a run


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a pre-trained model depends on.

    Attributes:
        model: vilt or meter; see `starting`.
        frozen: modules that keep what they came with.
        fresh: beginnings of the names of modules that came with nothing, beside the heads; they learn at `fresh_lr`.
        vision: the DINOv2 in it.
        words: the BERT in it.
        image_size: pixels a side.
        steps: of training.
        batch: captions a step, every second one with masked words, the others to be matched.
        lr: largest learning rate of what came with weights.
        fresh_lr: of the rest. Both rise for a tenth of the steps and fall to 0; AdamW with the authors' betas and decay.
        held_out: share of the training drawings on which the scores are taken.
        scored: captions on which they are taken.
        seed: of everything that is drawn.
    """

    model: Literal["vilt", "meter"]
    frozen: tuple[str, ...]
    fresh: tuple[str, ...]
    vision: str = "dinov2-small"
    words: str = "minilm-l6"
    image_size: int = 56
    steps: int
    batch: int = 32
    lr: float = 1e-4
    fresh_lr: float = 5e-4
    held_out: float = 0.1
    scored: int = 2000
    seed: int = 0


RECIPES = {
    "vilt-small-easy": Recipe(
        model="vilt",
        frozen=("embeddings.text_embeddings.word_embeddings",),
        fresh=("pooler.", "embeddings.token_type_embeddings."),
        steps=900,
    ),
    "meter-small-easy": Recipe(model="meter", frozen=("vision_model", "text_model"), fresh=("",), steps=1500),
}


def pretrain(name: str, recipe: Recipe | None = None) -> Path:
    """Folder of the pre-trained model in the zoo's cache, trained first where it is not there, damaged, or made by another recipe.

    Args:
        name: what the zoo knows it by.
        recipe: None: that of `RECIPES`.

    Raises:
        ValueError: there is no recipe of this name.
        FileNotFoundError: a carrier of weights or data is not installed.
        FloatingPointError: the loss is not finite; the message names the step.
    """
    if recipe is None and name not in RECIPES:
        raise UserError(f"no recipe for {name!r}; there are {', '.join(RECIPES)}")
    recipe = recipe or RECIPES[name]
    parts = {part: zoo.resolve(part) / "model.safetensors" for part in (recipe.vision, recipe.words)}
    parts["easy-vqa"] = carriers.locate("easy-vqa", "easy_vqa/data/train/questions.json")
    source = {part: carriers.sha256(file) for part, file in parts.items()} | {"recipe": json.dumps(asdict(recipe))}
    return cache.entry(name, source, functools.partial(_build, name, recipe))


def _build(name: str, recipe: Recipe, folder: Path) -> None:
    """Trains in a folder beside the cache's entries, where a killed run finds its checkpoints, and writes the entry."""
    work = cache.cache_folder() / f".{name}.training"
    work.mkdir(exist_ok=True)
    journal = Journal(work / "train.log")
    _begin(work, recipe)
    processor = _processor(recipe)
    known = [_facts(part) for part in apart(easy_vqa("train"), recipe.held_out, recipe.seed)]
    journal.say(
        f"{name}: drawings of easy-vqa's training part, {len(known[0]):,} to train on and {len(known[1]):,} held out"
    )
    pictures = Pictures([file for part in known for file in part], Preprocessing.from_processor(processor))
    reader = Reader(zoo.tokenizer(recipe.words))
    torch.manual_seed(recipe.seed)
    learner = WordsAndMatching(_start(recipe), recipe.frozen)
    train = Drawn(known[0], pictures, reader, recipe.steps * recipe.batch, recipe.seed)
    _train(learner, train, recipe, work, journal)
    found = scores(learner, Drawn(known[1], pictures, reader, recipe.scored, recipe.seed))
    journal.say("on held-out drawings: " + ", ".join(f"{what} {share:.1%}" for what, share in found.items()))
    with quiet():
        learner.model.cpu().save_pretrained(folder)
        reader.tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2), encoding="utf-8")
    (folder / RECORD).write_text(json.dumps({"recipe": asdict(recipe), "held_out": found}, indent=2), encoding="utf-8")
    shutil.rmtree(work)


def _begin(work: Path, recipe: Recipe) -> None:
    """Forgets checkpoints of another recipe."""
    settings, mine = work / "recipe.json", json.dumps(asdict(recipe))
    if not settings.is_file() or settings.read_text(encoding="utf-8") != mine:
        for old in work.glob("checkpoint-*"):
            shutil.rmtree(old)
        settings.write_text(mine, encoding="utf-8")


def _processor(recipe: Recipe) -> dict[str, Any]:
    """The vision model's own image processor, but the whole image at the recipe's size."""
    published = read_json(zoo.resolve(recipe.vision) / "preprocessor_config.json")
    size = {"height": recipe.image_size, "width": recipe.image_size}
    return {**published, "size": size, "crop_size": size, "do_center_crop": False}


def _facts(texts: ImageTextDataset) -> dict[Path, Facts]:
    """What the records of each drawing tell of it."""
    records = defaultdict(list)
    for example in texts.examples:
        records[example.images[0]].append((example.text, example.references[0]))
    return {file: captions.facts(of) for file, of in records.items()}


def _start(recipe: Recipe) -> Any:
    vision: Any = zoo.load(recipe.vision)
    words: Any = zoo.load(recipe.words)
    if recipe.model == "meter":
        return starting.meter(vision, words)
    return starting.vilt(vision, words, recipe.image_size)


def _train(learner: WordsAndMatching, drawn: Drawn, recipe: Recipe, work: Path, journal: Journal) -> None:
    optimizer = torch.optim.AdamW(_groups(learner, recipe), betas=(0.9, 0.98))
    often = math.ceil(recipe.steps / SAVES)
    arguments = trainer_arguments(
        work,
        num_train_epochs=1,
        per_device_train_batch_size=recipe.batch,
        max_grad_norm=1.0,
        seed=recipe.seed,
        save_strategy="steps",
        save_steps=often,
        logging_steps=often,
        label_names=["words", "fits"],
        report_to="none",
    )
    trainer = WatchedTrainer(
        learner,
        arguments,
        remedy="lower the recipe's rates",
        train_dataset=drawn,
        data_collator=drawn.reader.collate,
        optimizers=(optimizer, schedule("linear", optimizer, recipe.steps)),
        callbacks=[Bar(journal, lambda log: None)],
    )
    checkpoint = newest_checkpoint(work)
    if checkpoint is not None:
        journal.say(f"continuing from {Path(checkpoint).name} of {recipe.steps} steps")
    trainer.train(resume_from_checkpoint=checkpoint)


def _groups(learner: WordsAndMatching, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters for the optimizer: rates of what came with weights and what is fresh, decay on matrices alone."""
    of: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in learner.named_parameters():
        came = name.startswith("model.") and not name.removeprefix("model.").startswith(recipe.fresh)
        if parameter.requires_grad:
            of[recipe.lr if came else recipe.fresh_lr, 0.01 if parameter.ndim > 1 else 0.0].append(parameter)
    return [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in of.items()]
