"""Text-to-image systems: a denoiser with its schedule, the tower that reads the texts, and what latents are of images.

Two layouts of a folder are read: a pipeline as diffusers saves it (`unet`, `scheduler`, `text_encoder`, `tokenizer`, `vae`), and a
denoiser with `drawing.json` beside it, which names a text tower of the zoo and folds pixels into channels in place of a VAE
(`diffusion-small-desk`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer

from gossamer import zoo
from gossamer.documents import read_json
from gossamer.errors import UserError
from gossamer.hosts.diffusers import predicted
from gossamer.quiet import quiet
from gossamer.zoo import denoisers
from gossamer.zoo.sources import read_by_library

FILE, PIPELINE = "drawing.json", "model_index.json"
PARTS = ("unet", "scheduler", "text_encoder", "tokenizer", "vae")


class Codec(Protocol):
    """What latents are of images."""

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images [B, 3, H, W] in [-1, 1] -> mean and deviation of their latents [B, C, h, w]; None: they are certain."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> images [B, 3, H, W] in [0, 1]."""
        ...

    @property
    def factor(self) -> int:
        """Pixels to a place, along each side."""
        ...

    def side(self, pixels: int) -> int:
        """Places of a latent along so many pixels.

        Raises:
            UserError: they do not divide.
        """
        if pixels % self.factor:
            raise UserError(f"images of {pixels} pixels do not divide into places of {self.factor}: give a multiple")
        return pixels // self.factor


@dataclass(frozen=True)
class Folded(Codec):
    """Grey pixels in squares of `fold` become channels: exact both ways."""

    fold: int

    @property
    def factor(self) -> int:
        """The fold."""
        return self.fold

    def encode(self, images: Tensor) -> tuple[Tensor, None]:
        """[B, 3, H, W] -> [B, fold^2, H / fold, W / fold]."""
        return F.pixel_unshuffle(images.mean(dim=1, keepdim=True), self.fold), None

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse, grey in three channels."""
        grey = F.pixel_shuffle(latents, self.fold)
        return ((grey + 1) / 2).clamp(0, 1).expand(-1, 3, -1, -1)


class Vae(Codec):
    """diffusers' AutoencoderKL, in float32, its latents scaled as its configuration says."""

    def __init__(self, model: Any):
        self.model = model.float().eval().requires_grad_(False)
        self.scale: float = model.config["scaling_factor"]

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of its posterior, times its scaling factor."""
        posterior = self.model.encode(images.to(self._device, torch.float32)).latent_dist
        return self.scale * posterior.mean, self.scale * posterior.std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """What it draws of them."""
        drawn = self.model.decode(latents.to(self._device, torch.float32) / self.scale).sample
        return ((drawn + 1) / 2).clamp(0, 1)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def factor(self) -> int:
        """2 for each level but the last."""
        return 2 ** (len(self.model.config["block_out_channels"]) - 1)


class Reader:
    """The text tower: frozen, its last states, texts cut and padded to `tokens`; `masked`: padding is hidden from the denoiser."""

    def __init__(self, tokenizer: Any, tower: Any, tokens: int, *, masked: bool):
        self.tokenizer, self.tower = tokenizer, tower.eval().requires_grad_(False)
        self.tokens, self.masked = tokens, masked

    @torch.no_grad()
    def states(self, texts: list[str]) -> dict[str, Tensor]:
        """Inputs of a denoiser: `encoder_hidden_states` [n, L, d_c] and, where padding is hidden, its mask [n, L]."""
        batch = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.tokens, return_tensors="pt"
        )
        device = next(self.tower.parameters()).device
        ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        if not self.masked:
            return {"encoder_hidden_states": self.tower(ids).last_hidden_state}
        states = self.tower(ids, attention_mask=mask).last_hidden_state
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


@dataclass(frozen=True)
class Drawing:
    """A system without its denoiser, which adapters are put on: `denoiser` is the name that `zoo.load` knows it by."""

    name: str
    denoiser: str
    schedule: Any
    reader: Reader
    codec: Codec

    @classmethod
    def read(cls, name: str) -> Drawing:
        """The system that a run file, or an adapter, names.

        Raises:
            UserError: it is none of the two layouts, or a part is missing; the message says which.
        """
        folder = Path(name).expanduser()
        if (folder / PIPELINE).is_file():
            return cls._of_pipeline(name, folder)
        folder = zoo.resolve(name)
        if not (folder / FILE).is_file():
            raise UserError(
                f"{name} draws nothing: it is neither the folder of a pipeline of diffusers ({PIPELINE}, {', '.join(PARTS)}) nor a "
                f"denoiser with {FILE}, such as diffusion-small-desk"
            )
        told = read_json(folder / FILE)
        reader = Reader(zoo.tokenizer(told["text"]), zoo.load(told["text"]), told["tokens"], masked=True)
        return cls(name, name, _schedule(folder), reader, Folded(told["fold"]))

    @classmethod
    def _of_pipeline(cls, name: str, folder: Path) -> Drawing:
        if missing := [part for part in PARTS if not (folder / part).is_dir()]:
            raise UserError(
                f"the pipeline in {name} has no {', '.join(missing)}; images are drawn with {', '.join(PARTS)}, as Stable "
                "Diffusion 1 and 2 have them"
            )
        if (folder / "text_encoder_2").is_dir():
            raise UserError(f"the pipeline in {name} reads texts by two towers (SDXL), and runs draw with one")
        with quiet(), read_by_library(folder / "tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", trust_remote_code=False)
        tower = zoo.load(folder / "text_encoder")
        reader = Reader(tokenizer, tower, tokenizer.model_max_length, masked=False)
        return cls(name, str(folder / "unet"), _schedule(folder / "scheduler"), reader, Vae(zoo.load(folder / "vae")))

    @property
    def size(self) -> int:
        """Pixels a side of the images that its denoiser was made for.

        Raises:
            UserError: it does not say.
        """
        side = read_json(zoo.resolve(self.denoiser) / "config.json").get("sample_size")
        if not isinstance(side, int):
            raise UserError(f"the denoiser of {self.name} does not say how large its maps are: give images.size")
        return side * self.codec.factor

    def alphas(self, timesteps: Tensor) -> Tensor:
        """ab_t [B] of the schedule at timesteps [B]."""
        return self.schedule.alphas_cumprod.to(timesteps.device)[timesteps]

    @torch.no_grad()
    def draw(
        self,
        denoiser: Any,
        texts: list[str],
        *,
        pixels: tuple[int, int],
        seed: int,
        steps: int = 20,
        guidance: float = 2.0,
    ) -> Tensor:
        """One image [n, 3, H, W] in [0, 1] of each text, by DDIM; image i begins with noise of the seed `seed + i`.

        Args:
            denoiser: adapted, finished or bare, in evaluation mode.
            texts: what is asked for.
            pixels: height and width.
            seed: of the noise that images begin with, the one thing that is drawn.
            steps: of DDIM; with guidance each is two passes in one batch, without the text and with it.
            guidance: g of e_0 + g (e_c - e_0); 1: the text alone.
        """
        first = next(denoiser.parameters())
        schedule = denoisers.library("drawing").DDIMScheduler.from_config(self.schedule.config)
        schedule.set_timesteps(steps)
        shape = denoiser.config["in_channels"], *(self.codec.side(side) for side in pixels)
        starts = [torch.randn(shape, generator=torch.Generator().manual_seed(seed + i)) for i in range(len(texts))]
        x, guided = torch.stack(starts).to(first.device, first.dtype), guidance != 1
        told = self.reader.states([*([""] * len(texts) if guided else []), *texts])
        told = {name: value.to(first.device) for name, value in told.items()}
        told["encoder_hidden_states"] = told["encoder_hidden_states"].to(first.dtype)
        for t in schedule.timesteps:
            given = torch.cat([x, x]) if guided else x
            answer = predicted(denoiser(sample=given, timestep=t.expand(len(given)).to(x.device), **told).sample, given)
            if guided:
                empty, asked = answer.chunk(2)
                answer = empty + guidance * (asked - empty)
            x = schedule.step(answer, t, x).prev_sample
        return self.codec.decode(x.float())


def _schedule(folder: Path) -> Any:
    config = read_json(folder / "scheduler_config.json")
    return denoisers.library("a schedule").DDPMScheduler.from_config(config)
