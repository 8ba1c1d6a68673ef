"""A class that a small denoiser never saw, from 16 images: APT, with a prior and without, LoRA, full tuning, and the frozen model.

    python benchmarks/subject.py                                # rates, then all: 5 methods, 3 seeds; half an hour on one core
    python benchmarks/subject.py --methods frozen APT --seeds 0
    python benchmarks/subject.py --table                        # the table of what has been run
    python benchmarks/subject.py --picture docs/pictures/subject.png      # what seed 0 draws

`diffusion-small-desk` (made first where it is not there: some 20 minutes) learns bags as "a photo of sks bag"; the prior is "a
photo of a dress", drawn by the frozen model. Scored with the same noise for every model: the mean squared distance of predicted
noise on 200 test images of bags and on 10 of each other caption. 64 drawn bags, and 4 images of each other caption, are judged by a
linear classifier on DINOv2-S features (images enlarged to 56 pixels), of real images of all 20 captions; the kernel distance
is the unbiased one of arXiv 1801.01401, k(x, y) = (x y / D + 1)^3, between drawn bags and test images in them. Rates are
chosen once for each method, at seed 0, by the noise on 64 other training images of bags. One row of JSON for each run goes to
benchmarks/results/subject.jsonl, and none is made twice. Needs Fashion-MNIST and the carriers (docs/data.md).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from functools import cache
from pathlib import Path
from typing import Any

import rows
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

import gossamer as gm
from gossamer import data, report, tasks, zoo
from gossamer.drawing import Folded
from gossamer.pretraining import denoising
from gossamer.runs.run import Data, Drawing, Model, Run, Training
from gossamer.tasks.drawing_images import picture
from gossamer.training.train import train

RESULTS = Path(__file__).parent / "results" / "subject.jsonl"
RUNS = Path("runs/subject")
SEEDS = (0, 1, 2)
PROMPT, PRIOR = "a photo of sks bag", "a photo of a dress"
TAUGHT, HELD, TESTED, EACH = (
    16,
    64,
    200,
    10,
)  # images: learnt from, for choosing, of bags and of each other caption for the test
DRAWN, DRAWN_EACH, SIDE = 64, 4, 56
BAG = denoising.GARMENTS.index(denoising.WITHHELD)
KNOWN = [caption for i, caption in enumerate(denoising.CAPTIONS) if i != BAG]
LORA = {"method": "peft", "peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["q", "v"]}
APT = {"method": "apt", "prompts": 16, "rank": 4}
Settings = dict[str, Any]
METHODS: dict[str, tuple[Settings, bool, list[float]]] = {  # whether there is a prior, and rates to choose among
    "frozen": ({"method": "untrained"}, False, [0.0]),
    "full": ({"method": "full"}, True, [1e-4, 3e-4]),
    "LoRA": (LORA, True, [3e-3, 1e-2]),
    "APT": (APT, True, [3e-3, 1e-2]),
    "APT, no prior": (APT, False, [3e-3, 1e-2]),
}


@cache
def latents(split: str) -> list[Tensor]:
    """Of every caption its images."""
    return denoising.pictures(split)


def written(name: str, images: list[Tensor], texts: list[str]) -> Path:
    """A folder of images, with their texts where they have any, made where it is not there."""
    folder = RUNS / "data" / name
    if not folder.is_dir():
        folder.mkdir(parents=True)
        for i, image in enumerate(images):
            picture(Folded(denoising.FOLD).decode(image[None])[0]).save(folder / f"{i:03d}.png")
        lines = [json.dumps({"file_name": f"{i:03d}.png", "text": text}) for i, text in enumerate(texts)]
        if lines:
            (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def subject(seed: int) -> Path:
    """Images of bags that a run learns from."""
    found = latents("train")[BAG][HELD:]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    return written(f"bags-{seed}", list(found[order[:TAUGHT]]), [])


def scored(name: str) -> Any:
    """Images with texts: "held", "bags", "known"."""
    train_, test = latents("train"), latents("test")
    found = {
        "held": ([*train_[BAG][:HELD]], [PROMPT] * HELD),
        "bags": ([*test[BAG][:TESTED]], [PROMPT] * TESTED),
        "known": (
            [image for i, of in enumerate(test) if i != BAG for image in of[:EACH]],
            [caption for caption in KNOWN for _ in range(EACH)],
        ),
    }
    return data.load_captions(str(written(name, *found[name])), "train")


@cache
def reader() -> Any:
    """DINOv2-S."""
    return zoo.load("dinov2-small").eval()


@torch.no_grad()
def features(images: Tensor) -> Tensor:
    """Images [n, 3, S, S] in [0, 1] -> class tokens [n, 384] of DINOv2-S."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = (F.interpolate(images, (SIDE, SIDE), mode="bilinear") - mean) / std
    return torch.cat([reader()(pixel_values=some).pooler_output for some in pixels.split(64)])


@cache
def judge() -> tuple[Any, float]:
    """A classifier of real images into the 20 captions, and its accuracy on test images."""
    both = []
    for split, most in (("train", 150), ("test", 30)):
        images = [Folded(denoising.FOLD).decode(of[:most]) for of in latents(split)]
        x = features(torch.cat(images)).numpy()
        both.append((x, [i for i, of in enumerate(images) for _ in range(len(of))]))
    made = LogisticRegression(max_iter=2000, C=0.1).fit(*both[0])
    return made, float(made.score(*both[1]))


@cache
def real_bags() -> Tensor:
    """Features of test images of bags."""
    return features(Folded(denoising.FOLD).decode(latents("test")[BAG][:TESTED]))


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased squared distance of means, k(a, b) = (a b / D + 1)^3: [n, D], [m, D] -> a number."""
    xx, yy, xy = ((a.double() @ b.double().T / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    own = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (xx, yy)]
    return float(own[0] + own[1] - 2 * xy.mean())


def planned(method: str, seed: int, rate: float) -> Run:
    """One run; of the frozen model one that tunes nothing."""
    settings, prior, _ = METHODS[method]
    return Run(
        model=Model(name="diffusion-small-desk"),
        data=Data(name=str(subject(seed)), validation=0.0),
        drawing=Drawing(prompt=PROMPT, prior=PRIOR if prior else None, repeats=40),
        methods=[settings],
        training=Training(epochs=5 if rate else 0, batch=TAUGHT, lr=rate or None, schedule="linear"),
        output=str(RUNS / method.replace(", ", "-") / f"{rate:g}-{seed}"),
        seed=seed,
    )


def perform(method: str, seed: int, rate: float, *, choosing: bool) -> dict[str, Any]:
    """The row of a run, which is made where it is not there."""
    row: dict[str, Any] = {"method": method, "rate": rate, "choosing": choosing}
    if (there := rows.there(RESULTS, row | {"seed": seed})) is not None:
        return there
    metrics = train(planned(method, seed, rate), overwrite=True)
    adapted = restored(method, seed, rate)
    task: Any = tasks.of(adapted)
    sets = ("held",) if choosing else ("bags", "known")
    row |= {f"noise_{name}": task.score(adapted, task.prepare(scored(name))).loss for name in sets}
    if not choosing:
        row |= drawn(adapted, task)
    row |= {"trainable_parameters": metrics["trainable_parameters"], "seconds": metrics["seconds"]}
    row |= rows.describe(seed)
    rows.append(RESULTS, [row])
    return row


def restored(method: str, seed: int, rate: float) -> Any:
    """The model that a run left."""
    return gm.load(RUNS / method.replace(", ", "-") / f"{rate:g}-{seed}" / "adapter").eval()


def drawn(adapted: Any, task: Any) -> dict[str, float]:
    """How what the model draws is judged."""
    made, real = judge()
    bags = features(task.draw_texts(adapted, [PROMPT] * DRAWN, 0).cpu())
    texts = [caption for caption in KNOWN for _ in range(DRAWN_EACH)]
    wanted = [i for i in range(len(denoising.CAPTIONS)) if i != BAG for _ in range(DRAWN_EACH)]
    others = features(task.draw_texts(adapted, texts, 1).cpu())
    return {
        "judged_bags": float((made.predict(bags.numpy()) == BAG).mean()),
        "known_right": float((made.predict(others.numpy()) == wanted).mean()),
        "kernel_distance": kernel_distance(bags, real_bags()),
        "judge_on_real": real,
    }


def best(method: str) -> float:
    """The rate of a method with the least noise on held-out training images."""
    rates = METHODS[method][2]
    if len(rates) == 1:
        return rates[0]
    found = [perform(method, 0, rate, choosing=True) for rate in rates]
    return min(found, key=lambda row: row["noise_held"])["rate"]


COLUMNS = {"noise_bags": 1, "noise_known": 1, "judged_bags": 100, "known_right": 100, "kernel_distance": 1}


def shown() -> str:
    """Mean and standard deviation over seeds; shares in percent."""
    finals = [row for row in rows.known(RESULTS) if not row["choosing"]]
    lines = [
        f"{'method':<15}{'rate':>8}{'parameters':>12}" + "".join(f"{name:>18}" for name in COLUMNS) + f"{'seeds':>7}"
    ]
    for method in METHODS:
        some = [row for row in finals if row["method"] == method]
        if some:
            cells = []
            for name, factor in COLUMNS.items():
                values = [factor * row[name] for row in some]
                wide = f" ± {statistics.stdev(values):.3g}" if len(values) > 1 else ""
                cells.append(f"{statistics.fmean(values):.3g}{wide}".rjust(18))
            begun = f"{method:<15}{some[0]['rate']:>8g}{some[0]['trainable_parameters']:>12,}"
            lines.append(begun + "".join(cells) + f"{len(some):>7}")
    return "\n".join(lines)


def draw(file: Path) -> None:
    """A line of bags, and a dress and a coat, for each method at seed 0 as far as it has been run; real bags first."""
    finals = {row["method"]: row for row in rows.known(RESULTS) if not row["choosing"] and row["seed"] == 0}
    bags = Folded(denoising.FOLD).decode(latents("test")[BAG][:10])
    lines = {"real bags": torch.cat([bags, torch.ones(2, *bags.shape[1:])])}
    for method in [name for name in METHODS if name in finals]:
        adapted = restored(method, 0, finals[method]["rate"])
        task: Any = tasks.of(adapted)
        lines[method] = task.draw_texts(adapted, [PROMPT] * 10 + [PRIOR, "a photo of a coat"], 0).cpu()
    figure, axes = report.figure_of(8, 0.75 * len(lines) + 0.6, rows=len(lines))
    for one, (name, line) in zip(axes, lines.items(), strict=True):
        sheet = torch.cat(list(F.pad(line, (1, 1, 1, 1), value=1.0)), dim=-1)
        one.imshow(sheet.permute(1, 2, 0), interpolation="nearest")
        one.set_ylabel(name, rotation=0, ha="right", va="center")
        one.set(xticks=[], yticks=[])
        one.spines[:].set_visible(False)
    figure.suptitle("A photo of sks bag, from the same noise; at the right a dress and a coat")
    report.save_figure(figure, file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--table", action="store_true", help="print what has been run")
    parser.add_argument("--picture", type=Path, help="draw what the runs of seed 0 draw to this file")
    given = parser.parse_args()
    if given.picture is not None:
        draw(given.picture)
    elif not given.table:
        denoising.denoise()
        for seed, method in itertools.product(given.seeds, given.methods):
            perform(method, seed, best(method), choosing=False)
    print(shown())
