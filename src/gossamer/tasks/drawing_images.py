"""Images drawn of texts: a denoiser learns to predict the noise in images with captions, or in those of one subject.

A subject is a few images and one prompt with a rare word. That its class is not forgotten, images of the class that the frozen
model draws are learnt beside them (DreamBooth's prior preservation); they are drawn from the run's seed before training, and again
when a run is resumed.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from gossamer import noising, zoo
from gossamer.data import CaptionedImages, Preprocessing
from gossamer.data.captioned import CAPTIONS
from gossamer.data.images import every
from gossamer.drawing import Drawing
from gossamer.errors import UserError
from gossamer.hosts.diffusers import predicted
from gossamer.runs.prepared import BATCH
from gossamer.runs.run import Drawing as Settings
from gossamer.runs.run import Run
from gossamer.tasks.base import Task
from gossamer.tasks.recorded import recorded

if TYPE_CHECKING:
    from typing_extensions import Self

    from gossamer.adapting import Adapted

LEVELS = 8  # timesteps at which a score looks at each image
SHOWN = 4  # captions that are drawn where no prompts are named
TEXTS = ("encoder_hidden_states", "encoder_attention_mask")


@dataclass(frozen=True, kw_only=True)
class DrawingScores:
    """How well noise is predicted on n images, the same noise and timesteps for every model.

    `loss` is the mean squared distance, `accuracy` the share of the target's square that is explained, 1 - loss / mean square.
    """

    n: int
    loss: float
    accuracy: float

    def headline(self) -> dict[str, float]:
        """The share that is explained."""
        return {"accuracy": self.accuracy}

    def to_dict(self) -> dict[str, Any]:
        """The scores as JSON."""
        return dataclasses.asdict(self)


class PreparedDrawings(Dataset):
    """Images as latents, and their texts as states, both computed once; item i is {"place": i}.

    Args:
        images: with their texts.
        task: of the run.
        teaches: whether texts are left out at random, and images of the prior come along.
    """

    labels = None
    subjects = None

    def __init__(self, images: CaptionedImages, task: DrawingImages, *, teaches: bool):
        self.images, self.task, self.teaches = images, task, teaches
        pixels = torch.stack(list(every(len(images), lambda i: task.preprocessing(images.open(i)))))
        self.latents, self.spread = task.system.codec.encode(pixels)
        known = list(dict.fromkeys(images.texts))
        self.places = torch.tensor([known.index(text) for text in images.texts])
        self.texts = task.system.reader.states([*known, ""])

    def __len__(self) -> int:
        return len(self.images) * (self.task.settings.repeats if self.teaches else 1)

    def __getitem__(self, i: int) -> dict[str, int]:
        return {"place": i % len(self.images)}

    def teaching(self) -> PreparedDrawings:
        """The same for training."""
        found = copy.copy(self)
        found.teaches = True
        return found

    def settle(self, adapted: Adapted) -> None:
        """Lets the frozen model draw what must not be forgotten, for all sets of a run."""
        settings = self.task.settings
        if settings.prior is not None and not self.task.prior:
            self.task.prior["latents"] = self.task.drawn_prior(adapted)
            self.task.prior.update(self.task.system.reader.states([settings.prior]))

    def collate(self, items: Sequence[dict[str, int]]) -> dict[str, Tensor]:
        """Latents and texts of a batch, `labels` their places; where a prior is learnt, behind them as many images of it."""
        places = torch.tensor([item["place"] for item in items])
        texts, count = self.places[places], len(places)
        if self.teaches:
            texts = texts.where(
                torch.rand(count) >= self.task.settings.empty, torch.tensor(len(self.texts[TEXTS[0]]) - 1)
            )
        batch = {"labels": places, "latents": self.latents[places], **{n: v[texts] for n, v in self.texts.items()}}
        if self.spread is not None:
            batch["spread"] = self.spread[places]
        if self.teaches and self.task.prior:
            known = self.task.prior["latents"]
            beside = {"latents": known[torch.randint(len(known), (count,))]}
            beside |= {n: v.expand(count, *v.shape[1:]) for n, v in self.task.prior.items() if n in TEXTS}
            beside |= {"spread": torch.zeros_like(beside["latents"])} if "spread" in batch else {}
            batch |= {name: torch.cat([batch[name], value]) for name, value in beside.items()}
        return batch


@dataclass(frozen=True)
class DrawingImages(Task):
    """A denoiser of a system, taught by noise prediction.

    Args:
        system: texts, schedule, and what latents are of images.
        preprocessing: of images, to [-1, 1].
        settings: of the run.
        shown: prompts that are drawn after every epoch.
        seed: of what is drawn.
        prior: latents of images of the class [n, C, h, w] and the states of its prompt, once they are drawn.
    """

    system: Drawing
    preprocessing: Preprocessing
    settings: Settings
    shown: tuple[str, ...]
    seed: int = 0
    prior: dict[str, Tensor] = field(default_factory=dict, compare=False)

    name: ClassVar[str] = "drawing"
    unit: ClassVar[str] = "pictures"
    measure: ClassVar[str] = "noise explained"
    reads: ClassVar[tuple[str, ...]] = ("drawing",)

    @classmethod
    def begin(cls, run: Run, train: CaptionedImages) -> Self:
        """With the system that model.name names; images have the size of its own, or images.size."""
        system = Drawing.read(run.model.name)
        size = run.images.size or system.size
        shown = run.drawing.shown or list(dict.fromkeys(train.texts))[:SHOWN]
        return cls(system, _preprocessing(system, size), run.drawing, tuple(shown), run.seed)

    @classmethod
    def of(cls, adapted: Adapted) -> Self:
        """From `drawing`."""
        told = recorded(adapted, "drawing")
        system = Drawing.read(told["model"])
        settings = Settings(**told["settings"])
        return cls(system, _preprocessing(system, told["pixels"]), settings, tuple(told["shown"]), told["seed"])

    def record(self) -> dict[str, Any]:
        """The system, the size of images, and everything that training depended on, the prior's prompt and number among it."""
        told = {
            "model": self.system.name,
            "pixels": self.preprocessing.size,
            "shown": list(self.shown),
            "seed": self.seed,
        }
        return {"drawing": {**told, "settings": dataclasses.asdict(self.settings)}}

    @property
    def outputs(self) -> None:
        """The model needs no head."""
        return

    def sizes(self) -> dict[str, Any]:
        """The map that the denoiser reads, its texts, and steps with or without guidance."""
        guided = {"steps": self.settings.steps, "guidance": self.settings.guidance != 1}
        return {
            "image_size": self.system.codec.side(self.preprocessing.size),
            "tokens": self.system.reader.tokens,
            **guided,
        }

    def backbone(self, run: Run) -> nn.Module:
        """The denoiser of the system."""
        return zoo.load(self.system.denoiser)

    def prepare(self, items: CaptionedImages) -> PreparedDrawings:
        """Latents and states of texts."""
        if not isinstance(items, CaptionedImages):
            raise UserError(f"this adapter draws images of texts, and {items.name} has no captions ({CAPTIONS})")
        return PreparedDrawings(items, self, teaches=False)

    def varied(self, prepared: PreparedDrawings, run: Run) -> PreparedDrawings:  # type: ignore[override]
        """The set for training: texts are left out at random, images come `repeats` times, and the prior beside them."""
        return prepared.teaching()

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Noise prediction at a timestep of its own for every image; with a prior that of both halves."""
        settings, latents = self.settings, batch["latents"]
        x0 = latents + batch["spread"] * torch.randn_like(latents) if "spread" in batch else latents
        noise = torch.randn_like(x0)
        if settings.offset:
            noise = noise + settings.offset * torch.randn(*x0.shape[:2], 1, 1, device=x0.device)
        timesteps = torch.randint(len(self.system.schedule.alphas_cumprod), (len(x0),), device=x0.device)
        found, wanted, ab = self.predictions(model, x0, noise, timesteps, batch)
        weights = None if settings.min_snr is None else noising.min_snr(ab, settings.min_snr, self.predicts)
        if len(batch["labels"]) < len(x0):
            return noising.with_prior(found, wanted, weights, settings.prior_weight)
        return noising.loss(found, wanted, weights)

    @property
    def predicts(self) -> noising.Predicts:
        """What the denoiser was pre-trained to predict."""
        found = self.system.schedule.config["prediction_type"]
        if found not in ("epsilon", "v_prediction"):
            raise UserError(f"{self.system.name} predicts {found!r}, and runs teach epsilon and v_prediction")
        return found

    def predictions(
        self, model: Any, x0: Tensor, noise: Tensor, timesteps: Tensor, told: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What a model predicts of noised images, what it should, and ab_t [B]."""
        ab, texts = self.system.alphas(timesteps), {name: told[name] for name in TEXTS if name in told}
        found = model(sample=noising.noised(x0, noise, ab), timestep=timesteps, **texts).sample
        return predicted(found, noise), noising.target(self.predicts, x0, noise, ab), ab

    @torch.no_grad()
    def score(
        self, adapted: Adapted, prepared: PreparedDrawings, *, batch: int = BATCH, workers: int = 0
    ) -> DrawingScores:
        """At 8 timesteps of each image, evenly spread, with noise of one seed."""
        adapted.eval()
        device, draw = next(adapted.parameters()).device, torch.Generator().manual_seed(0)
        last, apart, square, seen = len(self.system.schedule.alphas_cumprod) - 1, 0.0, 0.0, 0
        for first in range(0, len(prepared), batch):
            told = prepared.collate([prepared[i] for i in range(first, min(first + batch, len(prepared)))])
            told = {name: value.to(device) for name, value in told.items()}
            for level in range(LEVELS):
                x0 = told["latents"]
                noise = torch.randn(x0.shape, generator=draw).to(x0)
                t = torch.full((len(x0),), round((level + 0.5) / LEVELS * last), device=device)
                found, wanted, _ = self.predictions(adapted, x0, noise, t, told)
                apart += float((found.float() - wanted).square().sum())
                square, seen = square + float(wanted.square().sum()), seen + wanted.numel()
        return DrawingScores(n=len(prepared), loss=apart / seen, accuracy=1 - apart / square)

    def asked(self, prepared: PreparedDrawings) -> dict[str, Tensor]:
        """The latents of a whole set at the middle of the schedule, with their texts."""
        told = prepared.collate([prepared[i] for i in range(len(prepared))])
        middle = torch.full((len(told["latents"]),), len(self.system.schedule.alphas_cumprod) // 2)
        return {"sample": told["latents"], "timestep": middle, **{name: told[name] for name in TEXTS if name in told}}

    def draw_texts(self, denoiser: Any, texts: list[str], seed: int) -> Tensor:
        """Images [n, 3, S, S] in [0, 1], as the run says."""
        size, settings = self.preprocessing.size, self.settings
        options: dict[str, Any] = {"steps": settings.steps, "guidance": settings.guidance}
        return self.system.draw(denoiser, texts, pixels=(size, size), seed=seed, **options)

    def drawn_prior(self, adapted: Adapted) -> Tensor:
        """Latents of the images of the class that the model draws without its methods."""
        prompt, count, found = self.settings.prior, self.settings.prior_images, list[Tensor]()
        assert prompt is not None, "it is asked for where there is one"
        adapted.eval()
        with adapted.anatomy.bare():
            for first in range(0, count, BATCH):
                images = self.draw_texts(adapted.backbone, [prompt] * min(BATCH, count - first), self.seed + 1 + first)
                found.append(self.system.codec.encode(2 * images.cpu() - 1)[0].cpu())
        return torch.cat(found)

    def watch(self, adapted: Adapted, folder: Path, epoch: int) -> None:
        """`samples/epoch_NNN.png`: the shown prompts, side by side, always from the same noise."""
        drawn = self.draw_texts(adapted, list(self.shown), self.seed)
        (folder / "samples").mkdir(exist_ok=True)
        picture(torch.cat(list(drawn), dim=-1)).save(folder / "samples" / f"epoch_{epoch:03d}.png")

    def named(self, given: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
        """Texts alone."""
        return (), given

    def replies(self, adapted: Adapted, files: Sequence[Path], texts: Sequence[str]) -> list[dict[str, Any]]:
        """Nothing to say.

        Raises:
            UserError: always: an image is drawn to a file.
        """
        raise UserError("an image is drawn of each text: say where it goes, --output x.png (--seed 0 for its noise)")

    def write_to(
        self, adapted: Adapted, files: Sequence[Path], texts: Sequence[str], place: Path, seed: int
    ) -> list[dict[str, Any]]:
        """The image of a text as a file; of several texts NAME_1.png, NAME_2.png, ... in their order."""
        if place.suffix.lower() != ".png":
            raise UserError(f"--output {place}: images are drawn as PNG, so the file is called NAME.png")
        names = [place] if len(texts) == 1 else [place.with_stem(f"{place.stem}_{i}") for i in range(1, len(texts) + 1)]
        place.parent.mkdir(parents=True, exist_ok=True)
        drawn = self.draw_texts(adapted.eval(), list(texts), seed)
        for name, image in zip(names, drawn, strict=True):
            picture(image).save(name)
        return [{"file": str(name), "answer": text} for name, text in zip(names, texts, strict=True)]

    @staticmethod
    def table(scores: dict[str, Any]) -> str:
        """Number of images, share of the noise that is explained, and loss."""
        return "\n".join([
            f"{'images':<20}{scores['n']:>9,}", f"{'noise explained':<20}{scores['accuracy']:>9.2%}",
            f"{'loss':<20}{scores['loss']:>9.4f}",
        ])  # fmt: skip


def picture(image: Tensor) -> Image.Image:
    """A tensor [3, H, W] in [0, 1] as an image."""
    return Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def _preprocessing(system: Drawing, size: int) -> Preprocessing:
    """The shorter side bilinear, the centre cut out, to [-1, 1]."""
    system.codec.side(size)
    half = (0.5, 0.5, 0.5)
    return Preprocessing(size=size, mean=half, std=half, interpolation="bilinear")
