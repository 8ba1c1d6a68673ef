"""Denoisers of diffusers: a noised latent, a timestep and a text as inputs, the predicted noise as output, no head."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils.generic import ModelOutput

from gossamer.anatomy import Anatomy
from gossamer.anatomy.stack import Modality
from gossamer.errors import UserError, WrongKind
from gossamer.hosts import checkpointing, settings
from gossamer.hosts.base import Host, Latent, ReadOut


@dataclass
class Denoised(ModelOutput):
    """What a denoiser predicts for each sample [B, C or 2 C, h, w], and how far it is from its target."""

    loss: Tensor | None = None
    sample: Tensor | None = None


class Diffusers(Host):
    """A model of diffusers, or of a class that inherits from one."""

    kind = "diffusers"

    def knows(self, model: nn.Module) -> bool:
        """Whether its class, or one that it inherits from, is a model of diffusers'."""
        return any(c.__name__ == "ModelMixin" and c.__module__.startswith("diffusers.") for c in type(model).__mro__)

    def check_called(self, model: Any) -> None:
        """Its projections run: diffusers' fused ones are copies beside them, and pass by what is placed there."""
        fused = next((n for n, m in model.named_modules() if _fused(m)), None)
        if fused is not None:
            raise UserError(
                f"the projections of this {type(model).__name__} are fused ({fused} and others): copies of them run, and nothing "
                "that is placed or trained in them would have an effect; call unfuse_qkv_projections() first"
            )

    # ---- inputs and outputs ----

    def modality(self, model: Any) -> Modality:
        """Latents."""
        return "latent"

    def latent(self, model: Any) -> Latent:
        """What its configuration says."""
        config, side = model.config, model.config.get("sample_size")
        read = config.get("encoder_hid_dim") or config.get("caption_channels") or config.get("cross_attention_dim")
        return Latent(
            channels=config["in_channels"],
            side=(side, side) if isinstance(side, int) else None if side is None else (side[0], side[1]),
            text_width=read[0] if isinstance(read, tuple | list) else read,
        )

    def denoising(self, model: Any, batch: int, side: tuple[int, int], text: int | None) -> dict[str, Any]:
        """Zeros under the names of its `forward`, and what else it reads: a class (DiT), a vector of the text and sides (SDXL)."""
        config, told, first = model.config, self.latent(model), next(model.parameters())
        like: dict[str, Any] = {"device": first.device, "dtype": first.dtype}
        names = inspect.signature(model.forward).parameters
        given: dict[str, Any] = {
            next(iter(names)): torch.zeros(batch, told.channels, *side, **like),
            "timestep": torch.zeros(batch, dtype=torch.long, device=first.device),
        }
        if text is not None:
            given["encoder_hidden_states"] = torch.zeros(batch, text, told.text_width or 0, **like)
        if config.get("norm_type") == "ada_norm_zero":
            given["class_labels"] = torch.zeros(batch, dtype=torch.long, device=first.device)
        if getattr(model, "use_additional_conditions", False):
            sides = {"resolution": torch.zeros(batch, 2, **like), "aspect_ratio": torch.zeros(batch, 1, **like)}
            given["added_cond_kwargs"] = sides
        if config.get("addition_embed_type") == "text_time":
            width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
            beside = {"text_embeds": torch.zeros(batch, width, **like), "time_ids": torch.zeros(batch, 6, **like)}
            given["added_cond_kwargs"] = beside
        return given

    def check_readable(self, model: Any, readout: ReadOut) -> None:
        """No head is built on it.

        Raises:
            TypeError: always.
        """
        raise _headless(model)

    def run(self, model: Any, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Any:
        """Inputs as they are."""
        return model(*args, **inputs)

    def respond(
        self, model: Any, readout: ReadOut, args: tuple[Any, ...], inputs: Mapping[str, Any], labels: Tensor | None
    ) -> Any:
        """The model's own output; given the target of its prediction as labels, with `loss`, their mean squared distance."""
        if labels is None:
            return model(*args, **inputs)
        as_tuple, inputs = self.wants_tuple(model, inputs)
        output = model(*args, **inputs)
        loss = F.mse_loss(predicted(output.sample, labels).float(), labels.float())
        answer = Denoised(loss=loss, sample=output.sample)  # type: ignore[arg-type]
        return answer.to_tuple() if as_tuple else answer

    def features(self, model: Any, readout: ReadOut, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Tensor:
        """Nothing: no head is built on it."""
        raise _headless(model)

    def accepts_loss_kwargs(self, model: Any) -> bool:
        """Never: the loss is ours."""
        return False

    # ---- heads and labels ----

    def heads(self, model: Any, anatomy: Anatomy) -> dict[str, nn.Module]:
        """None."""
        return {}

    def outputs(self, model: Any) -> int | None:
        """None: it has no labels."""
        return None

    def output_embeddings(self, model: Any) -> nn.Module | None:
        """None: no language models."""
        return None

    def width(self, anatomy: Anatomy) -> int:
        """Not asked for: no head is built on it."""
        raise _headless(anatomy.model)

    def labels(self, model: Any) -> dict[str, Any]:
        """Nothing."""
        return {}

    def tell_labels(self, model: Any, said: Mapping[str, Any]) -> None:
        """Nothing to tell."""

    def tell_outputs(self, model: Any, num_labels: int) -> None:
        """Nothing to tell."""

    def place_head(
        self, anatomy: Anatomy, num_labels: int, make: Callable[[int, int], nn.Module] = nn.Linear
    ) -> nn.Module | None:
        """None is built.

        Raises:
            TypeError: always.
        """
        raise _headless(anatomy.model)

    # ---- checkpointing ----

    def checkpoint(self, model: Any, kwargs: dict[str, Any] | None, **options: Any) -> None:
        """By diffusers' own switch, which has no options and is never re-entrant."""
        checkpointing.never_reentrant(kwargs)
        model.enable_gradient_checkpointing()

    def keep_activations(self, model: Any) -> None:
        """By diffusers' own switch."""
        model.disable_gradient_checkpointing()

    # ---- where it came from ----

    def name(self, model: Any) -> str | None:
        """The folder or repository that it was loaded from, as its configuration says."""
        return model.config.get("_name_or_path") or None

    def revision(self, model: Any) -> str | None:
        """None: diffusers does not say."""
        return None

    def options(self, model: Any) -> dict[str, Any]:
        """What its configuration says and its class does not."""
        defaults = settings.plain({n: p.default for n, p in inspect.signature(type(model).__init__).parameters.items()})
        said = settings.plain({n: v for n, v in model.config.items() if not n.startswith("_")})
        return {name: value for name, value in said.items() if value != defaults.get(name)}

    def restoring(self, model: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing: its folder says all.

        Raises:
            UserError: the options are others than those of the published model.
        """
        found = settings.apart(options, self.options(model))
        if found:
            raise UserError(f"it was published with other settings: {'; '.join(found)}")
        return {}


def predicted(sample: Tensor, like: Tensor) -> Tensor:
    """What of a model's output [B, C or 2 C, ...] is the prediction: the first half of those that learn a variance as well."""
    return sample.chunk(2, dim=1)[0] if sample.shape[1] == 2 * like.shape[1] else sample


def _fused(module: Any) -> bool:
    """Whether an attention goes past its projections; some keep the setting for good, and their processor says it."""
    if not getattr(module, "fused_projections", False):
        return False
    return hasattr(module, "unfuse_projections") or type(module.processor).__name__.startswith("Fused")


def _headless(model: nn.Module) -> WrongKind:
    return WrongKind(
        f"{type(model).__name__} gives a map of predicted noise for each sample, which no head reads: leave num_labels out"
    )
