"""Scores of the vision-language benchmarks, each a function of answers and what people said: nothing here knows a model."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.errors import MissingPackage, UserError

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
           "eight": "8", "nine": "9", "ten": "10"}  # fmt: skip
_ARTICLES = ("a", "an", "the")
_SPELLINGS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's how'd
    how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't
    'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
    they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've
    who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd
    you'd've you'll you're you've
"""
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _SPELLINGS.split()
    for place in (match.start() for match in re.finditer("'", word))
} | {"somebody'd": "somebodyd"}
"""The spellings that the evaluator puts right: those above with one apostrophe missing, and one that it puts wrong."""


def normalize_answer(answer: str) -> str:
    """An answer as VQA's official evaluator compares it: "The two dogs!" -> "2 dogs", "dont know" -> "don't know".

    Punctuation goes, and becomes a space between two words; so do full stops that no digit follows, and articles. Numbers up to ten
    become digits, missing apostrophes are put in, letters are small. Source: VQA's evaluation tools (Goyal et al., arXiv
    1612.00837), whose table of contractions is followed to the letter, mistakes included.
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    thousands = re.search(r"\d,\d", text) is not None
    found = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if beside_space or thousands else " ")
    found = re.sub(r"\.(?!\d)", "", found)
    words = (_DIGITS.get(word, word) for word in found.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """How far people agree with an answer, 0 to 1: the mean over all but one of them of min(1, agreeing / 3).

    For ten people: 0, 0.3, 0.6, 0.9, 1 where none, one, two, three, four or more said it. Where they do not all say the same,
    answers are compared after `normalize_answer`, as VQA's official evaluator does.
    """
    if not references:
        raise UserError("vqa_accuracy needs what people answered, and there is nothing")
    if len({reference.strip() for reference in references}) > 1:
        answer, references = normalize_answer(answer), [normalize_answer(reference) for reference in references]
    agrees = [reference.strip() == answer.strip() for reference in references]
    others = (sum(agrees) - own for own in agrees)
    return sum(min(1.0, agreeing / 3) for agreeing in others) / len(agrees)


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 if the answer is the first reference, case and spaces around it apart, else 0: for GQA, ScienceQA, NLVR2, SNLI-VE."""
    if not references:
        raise UserError("exact_match needs the right answer, and there is none")
    return float(answer.strip().lower() == references[0].strip().lower())


def by_group(scores: Sequence[float], groups: Sequence[Sequence[str]]) -> dict[str, float]:
    """The mean of the scores, "all" first, then that of every group; an item may be in several groups or none."""
    if not scores or len(scores) != len(groups):
        raise UserError(
            f"by_group needs one group list for each score, got {len(scores)} scores and {len(groups)} lists"
        )
    members: dict[str, list[float]] = {}
    for score, names in zip(scores, groups, strict=True):
        for name in names:
            members.setdefault(name, []).append(score)
    means = {name: sum(of) / len(of) for name, of in sorted(members.items())}
    return {"all": sum(scores) / len(scores), **means}


def recall_at_k(similarity: Tensor, owner: Tensor, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Image-text retrieval, as {"TR@1": ..., "TR@5": ..., "IR@1": ...}, each 0 to 1.

    TR@k is the share of images with one of their texts among the k most similar texts; IR@k the share of texts whose image is among
    the k most similar images. A tie counts against, so that equal similarities everywhere find nothing.

    Args:
        similarity: [images, texts], higher is more similar.
        owner: [texts], the image of each text, as Karpathy's five captions to an image.
        ks: the values of k.

    Raises:
        ValueError: sizes do not fit, an image has no text, or a similarity is not a number.
    """
    images, texts = similarity.shape
    if owner.shape != (texts,) or not torch.equal(owner.unique(), torch.arange(images, device=owner.device)):
        raise UserError(
            f"owner must name one of the {images} images for each of the {texts} texts, and every image at least once"
        )
    if torch.isnan(similarity).any():
        raise UserError("a similarity is not a number")
    own = owner == torch.arange(images, device=owner.device)[:, None]
    best = similarity.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    before_text = ((similarity >= best) & ~own).sum(1)  # texts of others that come before an image's best own one
    right = similarity[owner, torch.arange(texts, device=owner.device)]
    before_image = (similarity >= right).sum(0) - 1
    return {
        f"{name}@{k}": float((before < k).double().mean())
        for name, before in (("TR", before_text), ("IR", before_image))
        for k in ks
    }


def require_caption_scorers() -> None:
    """ImportError without pycocoevalcap, the extra `captions`; FileNotFoundError without Java, in which parts of it are written."""
    if importlib.util.find_spec("pycocoevalcap") is None:
        raise MissingPackage("caption scores need pycocoevalcap: pip install 'gossamer[captions]'")
    if shutil.which("java") is None:
        raise FileNotFoundError(
            "caption scores need Java for COCO's tokenizer and METEOR, and there is no java on the path"
        )


def caption_scores(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """BLEU-1 to BLEU-4, METEOR, ROUGE-L and CIDEr of one caption an image against people's, by COCO's own evaluation code.

    SPICE is left out: its code fetches a parser from the network and needs Java 8.

    Args:
        captions: image -> caption.
        references: image -> what people wrote, for the same images.

    Raises:
        ValueError: the images differ.
        ImportError: pycocoevalcap, the extra `captions`, is not installed.
        FileNotFoundError: there is no Java, in which its tokenizer and METEOR are written.
    """
    if captions.keys() != references.keys() or not captions:
        odd = sorted(captions.keys() ^ references.keys())
        raise UserError(f"captions and references must be of the same images, one or more; they differ in {odd[:5]}")
    require_caption_scorers()
    from pycocoevalcap.bleu.bleu import Bleu  # pyright: ignore[reportMissingImports]
    from pycocoevalcap.cider.cider import Cider  # pyright: ignore[reportMissingImports]
    from pycocoevalcap.meteor.meteor import Meteor  # pyright: ignore[reportMissingImports]
    from pycocoevalcap.rouge.rouge import Rouge  # pyright: ignore[reportMissingImports]
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer  # pyright: ignore[reportMissingImports]

    people = {image: [{"caption": text} for text in of] for image, of in references.items()}
    ours = {image: [{"caption": text}] for image, text in captions.items()}
    meteor = Meteor()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the scorers report progress on it
            people, ours = PTBTokenizer().tokenize(people), PTBTokenizer().tokenize(ours)
            bleu = Bleu(4).compute_score(people, ours)[0]
            scorers = {"METEOR": meteor, "ROUGE-L": Rouge(), "CIDEr": Cider()}
            rest = {name: float(scorer.compute_score(people, ours)[0]) for name, scorer in scorers.items()}
    finally:
        meteor.meteor_p.kill()
        meteor.meteor_p.communicate()
    return {**{f"BLEU-{n}": bleu[n - 1] for n in range(1, 5)}, **rest}


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How predicted pixels lie over labelled ones, of a whole set.

    Attributes:
        iou: of each class K_cc / (row_c + column_c - K_cc); None for one that is neither labelled nor predicted.
        accuracy: of each class K_cc / row_c; None for one that is not labelled.
        miou, mean_accuracy: means over the classes that have one.
        pixel_accuracy: share of labelled pixels that are right.
    """

    iou: list[float | None]
    accuracy: list[float | None]
    miou: float
    mean_accuracy: float
    pixel_accuracy: float


def overlap(confusion: Tensor) -> Overlap:
    """The scores of numbers of pixels [true, predicted], all of a set counted together, as mmsegmentation counts them.

    Raises:
        UserError: no pixel was counted.
    """
    right, rows, columns = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    if int(rows.sum()) == 0:
        raise UserError("no pixel is labelled, so there is nothing to score")
    iou = [_share(n, of) for n, of in zip(right.tolist(), (rows + columns - right).tolist(), strict=True)]
    accuracy = [_share(n, of) for n, of in zip(right.tolist(), rows.tolist(), strict=True)]
    means = [sum(found) / len(found) for found in ([v for v in values if v is not None] for values in (iou, accuracy))]
    return Overlap(
        iou=iou, accuracy=accuracy, miou=means[0], mean_accuracy=means[1],
        pixel_accuracy=int(right.sum()) / int(rows.sum()),
    )  # fmt: skip


def _share(count: int, of: int) -> float | None:
    return count / of if of else None


def counted(predicted: Tensor, labels: Tensor, classes: int, ignore: int) -> Tensor:
    """Numbers of pixels [true, predicted] of predicted classes and labels of one shape; where the label is `ignore`, none."""
    kept = labels != ignore
    pairs = labels[kept].long() * classes + predicted[kept].long()
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)
