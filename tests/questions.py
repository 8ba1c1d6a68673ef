"""Tiny random models that read images and text, with tokenizers, and tiny sets in the form of published benchmarks."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers.utils import logging

from gossamer.models.meter import MeterConfig
from gossamer.models.meter_heads import MeterForQuestionAnswering
from gossamer.runs.run import Data, Images, Model, Run, Texts, Training

from . import squares

SIZE = 16
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 220)}
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
WORDS = (
    *("what", "colour", "is", "it", "the", "square", "both", "same", "?", ":", "Question", "Answer", "yes", "no"),
    *COLOURS,
)
FRAMES = {"bert": "<s> $A </s>", "llama": "$A", "t5": "$A </s>"}  # what a tokenizer of the family puts around a text
TOWER = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40, "image_size": SIZE,
    "patch_size": 4, "initializer_range": 0.2,
}  # fmt: skip
TEXT = {
    "hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "initializer_range": 0.2,
    "vocab_size": len(SPECIAL + WORDS), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
T5 = {
    "d_model": 20, "d_kv": 5, "d_ff": 32, "num_layers": 2, "num_heads": 3, "vocab_size": len(SPECIAL + WORDS),
    "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0,
}  # fmt: skip
MODELS: dict[str, tuple[Any, str | None]] = {
    "vit": (lambda: tf.ViTModel(tf.ViTConfig(**TOWER)), None),
    "bert": (lambda: tf.BertModel(tf.BertConfig(**TEXT)), "bert"),
    "words": (lambda: tf.BertModel(tf.BertConfig(**TEXT)), "bert"),
    "llama": (lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**TEXT, tie_word_embeddings=False)), "llama"),
    "t5": (lambda: tf.T5ForConditionalGeneration(tf.T5Config(**T5)), "t5"),
    "roberta": (lambda: tf.RobertaModel(tf.RobertaConfig(**ROBERTA)), "bert"),
    "bart": (lambda: tf.BartForConditionalGeneration(tf.BartConfig(**BART)), "bert"),
    "vilt": (lambda: tf.ViltForQuestionAnswering(tf.ViltConfig(**{**TOWER, **VILT})), "bert"),
    "meter": (lambda: MeterForQuestionAnswering(MeterConfig(TOWER, ROBERTA, FUSION, num_labels=5)), "bert"),
}
VILT = {"vocab_size": len(SPECIAL + WORDS), "num_labels": 5, "num_images": -1, "modality_type_vocab_size": 2}
ROBERTA = {**TEXT, "max_position_embeddings": 60}
BART = {
    "d_model": 20, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 28, "vocab_size": len(SPECIAL + WORDS), "max_position_embeddings": 60,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None,
}  # fmt: skip
FUSION = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "initializer_range": 0.2,
}  # fmt: skip


@functools.cache
def model(name: str) -> Path:
    """A model of `MODELS` in the Hugging Face layout."""
    build, family = MODELS[name]
    folder = squares.home() / f"{name}-for-questions"
    logging.disable_progress_bar()
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(7)
        build().save_pretrained(folder)
    if family is not None:
        _tokenizer(family).save_pretrained(folder)
    return folder


def _tokenizer(family: str) -> tf.PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    made.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=FRAMES[family], special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    return tf.PreTrainedTokenizerFast(tokenizer_object=made, **names)


def picture(path: Path, colour: str, draw: random.Random) -> Path:
    """A square of a colour on grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (SIZE, SIZE), (draw.randrange(90, 110),) * 3)
    image.paste(COLOURS[colour], (draw.randrange(0, 6), draw.randrange(0, 6), 14, 15))
    image.save(path)
    return path


@functools.cache
def gqa() -> Path:
    """Two questions about each of 60, 0 and 15 images, one answer each; one of testdev's answers is no answer of training."""
    folder, draw = squares.home() / "gqa", random.Random(1)
    for part, count in (("train", 60), ("val", 1), ("testdev", 15)):
        records = {}
        for i in range(count):
            colour = draw.choice(sorted(COLOURS))
            picture(folder / "images" / f"{part}{i}.jpg", colour, draw)
            asked = (("what colour is it ?", colour, "query"), ("is the square red ?", _yes(colour == "red"), "verify"))
            for question, answer, kind in asked:
                types = {"structural": kind, "semantic": "attr"}
                record = {"question": question, "answer": answer, "imageId": f"{part}{i}", "types": types}
                records[f"{part}{i}{kind}"] = record
        if part == "testdev":
            records["testdev0query"]["answer"] = "mauve"
        (folder / f"{part}_balanced_questions.json").write_text(json.dumps(records))
    return folder


@functools.cache
def vqav2() -> Path:
    """Two questions about each of 30 and 12 images, ten answers each; those of test-dev have none."""
    folder, draw = squares.home() / "vqav2", random.Random(2)
    for part, count in (("train2014", 30), ("val2014", 12), ("test-dev2015", 3)):
        questions, annotations = [], []
        images = part.replace("-dev", "")
        for i in range(count):
            colour = draw.choice(sorted(COLOURS))
            picture(folder / images / f"COCO_{images}_{i:012d}.jpg", colour, draw)
            for j, (text, answer, kind) in enumerate(
                (("what colour is it ?", colour, "other"), ("is it blue ?", _yes(colour == "blue"), "yes/no"))
            ):
                said = [answer] * 7 + ["red", "yes", "beige"]
                questions.append({"question_id": 10 * i + j, "image_id": i, "question": text})
                annotations.append(
                    {
                        "question_id": 10 * i + j,
                        "multiple_choice_answer": answer,
                        "answer_type": kind,
                        "answers": [{"answer": a} for a in said],
                    }
                )
        name = f"v2_OpenEnded_mscoco_{part}_questions.json"
        (folder / name).write_text(json.dumps({"questions": questions}))
        if "test" not in part:
            (folder / f"v2_mscoco_{part}_annotations.json").write_text(json.dumps({"annotations": annotations}))
    return folder


@functools.cache
def nlvr2() -> Path:
    """A statement about each of 30, 10 and 10 pairs of images."""
    folder, draw = squares.home() / "nlvr2", random.Random(3)
    for part, count in (("train", 30), ("dev", 10), ("test1", 10)):
        lines = []
        for i in range(count):
            pair = [draw.choice(sorted(COLOURS)) for _ in range(2)]
            for side, colour in enumerate(pair):
                below = folder / "images" / part / ("5" if part == "train" else "")
                picture(below / f"{part}-{i}-img{side}.png", colour, draw)
            record = {"identifier": f"{part}-{i}-0", "sentence": "both the same", "label": str(pair[0] == pair[1])}
            lines.append(json.dumps({**record, "directory": 5}) + "\n")
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "data" / f"{part}.json").write_text("".join(lines))
    return folder


def _yes(true: bool) -> str:
    return "yes" if true else "no"


@functools.cache
def snli_ve() -> Path:
    """A hypothesis about each of 30, 9 and 12 images."""
    folder, draw = squares.home() / "snli-ve", random.Random(4)
    for part, count in (("train", 30), ("dev", 9), ("test", 12)):
        lines = []
        for i in range(count):
            colour, said = draw.choice(sorted(COLOURS)), draw.choice(sorted(COLOURS))
            picture(folder / "flickr30k_images" / f"{part}{i}.jpg", colour, draw)
            label = draw.choice(("neutral", "entailment" if said == colour else "contradiction"))
            record = {"gold_label": label, "sentence2": f"the square is {said}", "Flickr30K_ID": f"{part}{i}"}
            lines.append(json.dumps({**record, "sentence1": "what is it", "pairID": f"{part}{i}.jpg#0"}) + "\n")
        (folder / f"snli_ve_{part}.jsonl").write_text("".join(lines))
    return folder


CAPTIONS = ("the square is {}", "it is a {} square", "{}", "what is {} ?", "{} , {}")


@functools.cache
def flickr30k() -> Path:
    """12, 5 and 7 images with five captions each, but six of the first of training and of testing."""
    return _captioned("flickr30k", lambda split, i: (f"{split}{i}.jpg", "flickr30k-images", {}))


@functools.cache
def coco() -> Path:
    """The same, with the folders and numbers that COCO's file has; some training images are restval."""

    def named(split: str, i: int) -> tuple[str, str, dict[str, Any]]:
        part = "train2014" if split == "train" and i % 2 else "val2014"
        name = f"COCO_{part}_{SPLITS.index(split)}{i:011d}.jpg"
        restval = {"split": "restval"} if split == "train" and part == "val2014" else {}
        return name, part, {"filepath": part, "cocoid": 100 * SPLITS.index(split) + i, **restval}

    return _captioned("coco", named)


SPLITS = ("train", "val", "test")


def _captioned(name: str, named: Any) -> Path:
    folder, draw, images = squares.home() / name, random.Random(5), []
    for split, count in zip(SPLITS, (12, 5, 7), strict=True):
        for i in range(count):
            file, below, more = named(split, i)
            colour = draw.choice(sorted(COLOURS))
            picture(folder / below / file, colour, draw)
            said = [text.replace("{}", colour) for text in CAPTIONS]
            sentences = [{"raw": f"{text}."} for text in ([*said, "both"] if i == 0 and split != "val" else said)]
            images.append({"imgid": len(images), "filename": file, "split": split, "sentences": sentences, **more})
    (folder / f"dataset_{name}.json").write_text(json.dumps({"images": images, "dataset": name}))
    return folder


SETS = {"gqa": gqa, "vqav2": vqav2, "nlvr2": nlvr2, "snli-ve": snli_ve, "flickr30k": flickr30k, "coco": coco}
VISUAL = {"method": "visual_tokens"}


def run(
    output: Path,
    name: str,
    data: str = "gqa",
    methods: Any = (VISUAL,),
    *,
    seed: int = 0,
    texts: Any = None,
    **training: Any,
) -> Run:
    """A run of a model of `MODELS` on one of `SETS`, with the tower where the model needs one; 2 epochs unless told."""
    of_data = {key: training.pop(key) for key in ("validation", "limit", "train") if key in training}
    composed = name not in ("vilt", "meter", "words")
    return Run(
        model=Model(name=str(model(name)), vision=str(model("vit")) if composed else None),
        data=Data(name=data, path=str(SETS[data]()), **of_data),
        images=Images(size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        texts=Texts(**(texts or {"answer_tokens": 3})),
        methods=list(methods),
        training=Training(**{"epochs": 2, "batch": 16, **training}),
        output=str(output),
        seed=seed,
    )
