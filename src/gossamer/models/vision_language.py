"""A frozen vision tower and a frozen language model as one model that reads images and text.

Nothing connects the two until a method does (DVP, MemVP, VisualTokens): without one, the answer is the language model's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from gossamer import hosts, reading
from gossamer.anatomy import call as calls
from gossamer.anatomy.session import Layout, Scene, Session
from gossamer.anatomy.sight import Seen, Sight
from gossamer.anatomy.tap import Tap
from gossamer.errors import UserError, WrongKind


class VisionLanguageConfig(PreTrainedConfig):
    """The configurations of the two halves; what Trainer and cost sheets ask a model's configuration for."""

    model_type = "gossamer_vision_language"

    def __init__(self, vision_config: Any = None, text_config: Any = None, **options: Any):
        super().__init__(**options)
        self.vision_config, self.text_config = vision_config, text_config


class VisionLanguage(hosts.Halves):
    """A language model that can be made to see.

    Args:
        vision: a vision tower of transformers (CLIP, SigLIP, ViT, DeiT, DINOv2), without a task head or with one that is ignored.
        language: BERT, RoBERTa, T5, BART or LLaMA of transformers: bare for classification, a language model for generation.

    Raises:
        TypeError: one of the two is no model that a family describes, not of this kind, or a tower in stages (Swin).
        ValueError: the language model has a task head of its own.
    """

    halves = ("vision", "language")
    stack_order = ("encoder", "text", "decoder", "vision")  # methods go to the language model unless told otherwise
    accepts_loss_kwargs = False
    base_model_prefix = ""  # peft lets transformers look for names of older checkpoints here

    def __init__(self, vision: nn.Module, language: nn.Module):
        super().__init__()
        tower, reader = reading.read(vision), reading.read(language)
        if list(tower.stacks) != ["vision"] or not isinstance(hosts.of(vision), hosts.HuggingFace):
            raise WrongKind(
                f"{type(vision).__name__} is no vision tower of transformers: it has {', '.join(tower.stacks)}"
            )
        if tower.blocks()[-1].stack.windows is not None:
            raise WrongKind(
                f"{type(vision).__name__} attends in windows and merges its patches: what comes out of its blocks are no tokens "
                "that a method could read; compose a tower of one width (CLIP, SigLIP, ViT, DeiT, DINOv2)"
            )
        if "vision" in reader.stacks or "fusion" in reader.stacks:
            raise WrongKind(f"{type(language).__name__} is no language model: it has {', '.join(reader.stacks)}")
        for half, parts in ((vision, tower), (language, reader)):
            if found := hosts.of(half).heads(half, parts):
                raise UserError(
                    f"{type(half).__name__} has a task head ({', '.join(found)}): compose the bare model, "
                    "and ask adapt() for a head with num_labels"
                )
        self.vision, self.language = vision, language
        self.config = VisionLanguageConfig(vision_config=vision.config, text_config=language.config)  # type: ignore[attr-defined]
        self.session = Session()
        self.sight = Sight(self.session)
        self.tap, self.image_size = Tap([tower.blocks()[-1].module]), _pair(tower.owner().config.image_size)  # type: ignore[union-attr]
        self.decoder_only = reader.readout.causal and list(reader.stacks) == ["decoder"]
        self.class_first = next(iter(reader.stacks.values()))[0].prefix > 0

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The two halves by name; an adapter refers to each."""
        return {"vision": self.vision, "language": self.language}

    @property
    def names_outputs(self) -> bool:
        """As the language model's configuration says, whose outputs they are."""
        return bool(self.language.config.return_dict)  # type: ignore[union-attr]

    # ---- seeing ----

    def see(self, pixel_values: Tensor | Sequence[Tensor]) -> Seen:
        """Images as the methods keep them, computed once; give the result as `seen` to any number of calls.

        Args:
            pixel_values: [I, 3, H, W], or images [3, H_i, W_i] of different sizes. Sizes other than the tower's own interpolate
                its position table.
        """
        if isinstance(pixel_values, Tensor):
            return self.keep(self.states(pixel_values))
        sizes = [tuple(image.shape[-2:]) for image in pixel_values]
        found: dict[int, Tensor] = {}
        for size in dict.fromkeys(sizes):
            places = [i for i, s in enumerate(sizes) if s == size]
            states = self.states(torch.stack([pixel_values[i] for i in places]))
            found |= dict(zip(places, states, strict=True))
        rows = [found[i] for i in range(len(sizes))]
        if len({len(r) for r in rows}) == 1:
            return self.keep(torch.stack(rows))
        lengths = torch.tensor([len(r) for r in rows], device=rows[0].device)
        states = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return self.keep(states, torch.arange(states.shape[1], device=states.device) < lengths[:, None])

    def keep(self, states: Tensor, mask: Tensor | None = None) -> Seen:
        """What the methods keep of features that are there already.

        Args:
            states: [I, N, d_v], every token behind the vision tower's last block, before its last norm.
            mask: [I, N], which tokens exist; None: all.
        """
        readers: list[Any] = self.sight.readers
        return Seen([reader(states, mask) for reader in readers], states.shape[0])

    def states(self, pixel_values: Tensor) -> Tensor:
        """Images [I, 3, H, W] -> every token [I, N, d_v] behind the tower's last block; give them to `keep`, or to any call."""
        takes = inspect.signature(self.vision.forward).parameters  # DINOv2 always interpolates
        other = "interpolate_pos_encoding" in takes and pixel_values.shape[-2:] != self.image_size
        options = {"interpolate_pos_encoding": True} if other else {}
        return self.tap.of(lambda: self.vision(pixel_values=pixel_values, **options))[0]

    def _layout(self, given: Layout | None, mask: Tensor | None, index: Tensor | None, seen: Seen | None) -> Layout:
        """What the caller says of a batch, else what its tensors say; in a graph, which cannot look, what holds for any."""
        if given is not None:
            found = given
        elif torch.compiler.is_compiling():
            found = Layout("none" if mask is None else "right", "all" if index is None else "some")
        else:
            found = Layout.of(None if mask is None or mask.dim() != 2 or mask.is_meta else mask, index)
        if found.padding == "left" and self.class_first:
            raise UserError(
                f"{type(self.language).__name__} has its class token at the first place, where a text of this batch is padded: "
                "pad on the right"
            )
        return found if seen is not None else replace(found, images="none")

    def _scene(self, seen: Seen | None, index: Tensor | None, question: Tensor | None, layout: Layout) -> Scene:
        if seen is None or layout.images == "none":
            return Scene(None, None, question, layout)
        readers: list[Any] = self.sight.readers
        present = None if index is None or layout.images == "all" else index >= 0
        rows = [reader.rows(kept, index, present) for reader, kept in zip(readers, seen.kept, strict=True)]
        return Scene(rows, present, question, layout)

    # ---- being a language model ----

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | Sequence[Tensor] | None = None,
        image_index: Tensor | None = None,
        seen: Seen | None = None,
        states: Tensor | None = None,
        labels: Tensor | None = None,
        layout: Layout | None = None,
        **inputs: Any,
    ) -> Any:
        """What the language model returns for the texts, each with its image.

        Args:
            input_ids: [B, n]; `inputs_embeds` instead is passed on.
            attention_mask: [B, n], 0 where padding stands.
            pixel_values: see `see`.
            image_index: [B], the image of each text, -1 for none; None: text i belongs to image i.
            seen: what `see` gave, in place of `pixel_values`.
            states: what `states` gave, in place of `pixel_values`.
            labels: tokens to predict, -100 where none is asked for; in decoder-only models what has a label is the answer, and
                what stands before it the question.
            layout: what a collator knows of masks and indices, which are then not looked at: on an accelerator that would wait.
                None: they are, once, before anything is computed.
            inputs: what else the language model takes.

        Raises:
            ValueError: images and texts do not belong together, or a text is padded on the left where a class token stands first.
        """
        text: Any = input_ids if input_ids is not None else inputs["inputs_embeds"]
        seen = self._seen(pixel_values, seen, states)
        if layout is None:
            _check_index(image_index, text.shape[0], seen)
        layout = self._layout(layout, attention_mask, image_index, seen)
        if layout.padding == "none" and attention_mask is not None and attention_mask.dim() == 2:
            attention_mask = None  # of ones: attention without a mask is faster, and nobody has to look at it again
        question = _question(attention_mask, labels if self.decoder_only else None)
        scene = self._scene(seen, image_index, question, layout)
        named = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        given = {k: v for k, v in named.items() if v is not None} | inputs
        with self.session.showing(scene):
            return self.language(**self._positions(given), **self._start(given, text), **given)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | Sequence[Tensor] | None = None,
        image_index: Tensor | None = None,
        seen: Seen | None = None,
        states: Tensor | None = None,
        layout: Layout | None = None,
        **options: Any,
    ) -> Any:
        """The language model's `generate` with its options; images are looked at once, for all steps and beams.

        Raises:
            TypeError: the language model does not generate.
            ValueError: as `forward`.
        """
        language: Any = self.language
        if not hasattr(language, "generate"):
            raise WrongKind(
                f"{type(language).__name__} does not generate: compose a language model such as LlamaForCausalLM"
            )
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        seen = self._seen(pixel_values, seen, states)
        if layout is None:
            _check_index(image_index, input_ids.shape[0], seen)
        layout = self._layout(layout, mask, image_index, seen)
        scene = self._scene(seen, image_index, mask.bool(), layout)
        with self.session.showing(scene):
            return language.generate(input_ids=input_ids, attention_mask=mask, **options)

    def _seen(self, pixel_values: Any, seen: Seen | None, states: Tensor | None) -> Seen | None:
        if sum(given is not None for given in (pixel_values, seen, states)) > 1:
            raise UserError("give one of pixel_values, seen and states")
        if states is not None:
            return self.keep(states)
        return self.see(pixel_values) if pixel_values is not None else seen

    def _positions(self, given: dict[str, Any]) -> dict[str, Tensor]:
        """Positions that count real tokens, so that padding on the left moves nothing; for decoder-only models."""
        mask = given.get("attention_mask")
        placed = "position_ids" in given or calls.one_of("cache", given) is not None
        if mask is None or mask.dim() != 2 or placed or not self.decoder_only:
            return {}
        return {"position_ids": (mask.long().cumsum(-1) - 1).clamp(min=0)}

    def _start(self, given: dict[str, Any], text: Tensor) -> dict[str, Tensor]:
        """The start token alone as decoder input of a bare encoder-decoder, whose one state is classified."""
        config: Any = self.language.config
        asked = {"decoder_input_ids", "decoder_inputs_embeds", "labels"} & set(given)
        if not config.is_encoder_decoder or asked or self.get_output_embeddings() is not None:
            return {}
        start = torch.full((text.shape[0], 1), config.decoder_start_token_id, dtype=torch.long, device=text.device)
        return {"decoder_input_ids": start}

    def get_output_embeddings(self) -> nn.Module | None:
        """The language model's output layer; None for a bare one."""
        return hosts.of(self.language).output_embeddings(self.language)

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        return next(self.language.parameters()).device

    # ---- checkpointing ----

    def activation_checkpointing_enable(self, activation_checkpointing_kwargs: Any = None, **options: Any) -> None:
        """Blocks of both halves compute their activations again in the backward pass, seeing what they saw."""
        kwargs = dict(activation_checkpointing_kwargs or {})
        hosts.of(self.vision).checkpoint(self.vision, kwargs, **options)
        hosts.of(self.language).checkpoint(self.language, {**kwargs, "context_fn": self.session.again}, **options)

    def activation_checkpointing_disable(self) -> None:
        """Both halves keep activations again."""
        for part in self.parts.values():
            hosts.of(part).keep_activations(part)

    def disable_input_require_grads(self) -> None:
        """Nothing: the halves were told already."""


def _check_index(index: Tensor | None, batch: int, seen: Seen | None) -> None:
    """UserError where it is not said, or said wrongly, which of the images belongs to each of `batch` texts."""
    if seen is None:
        return
    if index is None and seen.images != batch:
        raise UserError(
            f"{seen.images} images and {batch} texts: say with image_index [{batch}] which image belongs to each text "
            "(-1: none)"
        )
    if index is not None and not torch.compiler.is_compiling():
        first, last = int(index.min()), int(index.max())
        if index.shape != (batch,) or not -1 <= first <= last < seen.images:
            raise UserError(
                f"image_index must give each of {batch} texts one of {seen.images} images (0 is the first), or -1; "
                f"it is {list(index.shape)} long and reaches from {first} to {last}"
            )


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _question(mask: Tensor | None, labels: Tensor | None) -> Tensor | None:
    """[B, n], tokens that are neither padding nor answer; None: all."""
    real = None if mask is None or mask.dim() != 2 else mask.bool()
    if labels is None:
        return real
    answered = (labels != -100).cumsum(dim=1) > 0
    answered = answered & answered[:, -1:]  # a row without labels is all question
    return ~answered if real is None else real & ~answered
