"""Classification by words: a frozen pair of an image and a text tower; the class whose words lie nearest to the image wins.

    t_cj = unit(text vector of template j with class c)      h_c = unit(mean over j of t_cj)
    logits = exp(tau) unit(image vector) h^T (+ bias)        tau, bias: the pair's own, frozen

CLIP, SigLIP (with its bias) and any `VisionTextDualEncoderModel` whose two towers a family describes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import ImageClassifierOutput

from gossamer import hosts, reading
from gossamer.anatomy.session import Session
from gossamer.errors import UserError, WrongKind
from gossamer.hosts import heads
from gossamer.methods.parts.words import vector_width
from gossamer.models.words import TEMPLATES, Words

NEEDS = ("get_image_features", "get_text_features", "logit_scale")
WHOLE = ("siglip", "siglip2")  # pool their last position, whatever stands there: texts have the full length
AT_ONCE = 256  # texts in one pass of the text tower


class ZeroShot(hosts.Halves):
    """A classifier of images by words.

    Args:
        pair: CLIPModel, SiglipModel or VisionTextDualEncoderModel. Both towers, projections and scale stay as they are.
        words: the classes; `ZeroShot.of` makes them of names, or a dictionary that `Words.to_dict` wrote.

    Raises:
        TypeError: it is no such pair.
        ValueError: a text is longer than the text tower reads, or has tokens that it does not know.
    """

    halves = ("pair",)
    fields: ClassVar[dict[str, type]] = {"words": dict}
    base_model_prefix = ""  # peft lets transformers look for names of older checkpoints here
    accepts_loss_kwargs = False
    main_input_name = "pixel_values"

    pair: Any
    ids: Tensor
    mask: Tensor
    fixed: Tensor | None

    def __init__(self, pair: nn.Module, words: Words | dict[str, Any]):
        super().__init__()
        check_pair(pair)
        self.pair, self.config = pair, pair.config
        self.entry, self.compare = Entry(), Cosine()  # a method may put another in the place of each
        self.register_buffer("fixed", None)  # class vectors of a finished model, which has no text tower
        self.register_buffer("ids", None, persistent=False)
        self.register_buffer("mask", None, persistent=False)
        self._kept: Kept | None = None
        self.session = Session()
        self.tell(words if isinstance(words, Words) else Words.from_dict(words))

    @classmethod
    def of(
        cls, pair: nn.Module, names: Sequence[str], tokenizer: Any, templates: Sequence[str] = TEMPLATES
    ) -> ZeroShot:
        """A classifier by names.

        Args:
            pair: as above.
            names: of the classes, in the order of their labels.
            tokenizer: the pair's.
            templates: sentences with {} for a name; a class vector is the mean over them.
        """
        check_pair(pair)
        return cls(pair, Words.of(names, templates, Tokens(pair, tokenizer)))

    # ---- words ----

    def tell(self, words: Words) -> None:
        """Classifies by other words from now on.

        Raises:
            UserError: the model is finished, or the text tower cannot read them.
        """
        if self.fixed is not None:
            raise UserError(
                "a finished classifier by words has no text tower to read other words; use what it was made of"
            )
        ids, mask = words.padded()
        longest, known = _limits(self.pair)
        if ids.shape[1] > longest or int(ids.max()) >= known:
            raise UserError(
                f"{type(self.pair).__name__} reads texts of up to {longest} tokens out of {known:,}; these words have up to "
                f"{ids.shape[1]}, and token {int(ids.max())}"
            )
        device = next(self.pair.parameters()).device
        self.words, self.ids, self.mask = words, ids.to(device), mask.to(device)
        self.forget()

    def check_room(self, count: int) -> None:
        """Nothing, where so many tokens may stand behind the first of every text.

        Raises:
            UserError: there is no room, or the first is a word.
        """
        longest, _ = _limits(self.pair)
        if self.pair.config.model_type in WHOLE:
            raise UserError(
                f"texts of {type(self.pair).__name__} begin with a word and fill all its positions: there is no place for vectors"
            )
        if self.ids.shape[1] + count > longest:
            raise UserError(
                f"{count} vectors beside texts of {self.ids.shape[1]} tokens are more than the {longest} that are read; take fewer"
            )

    @property
    def num_labels(self) -> int:
        """C."""
        return len(self.words.names)

    def forget(self) -> None:
        """Drops the class vectors that were kept."""
        self._kept = None

    def class_vectors(self) -> Tensor:
        """h, unit vectors [C, e].

        With gradients where something is trained that they depend on and gradients are asked for. Else they are kept, until what
        they depend on changes.
        """
        if self.fixed is not None:
            return self.fixed
        if self._kept is None or not self._kept.holds(self.session.turns):
            # Recorded also where nobody asks for gradients: autograd alone knows what they depend on and is trained.
            with torch.inference_mode(False), torch.enable_grad():
                vectors = []
                for ids, seen in zip(*(t.split(AT_ONCE) for t in self.entry(self.ids, self.mask)), strict=True):
                    vectors.append(unit(_vector(self.pair.get_text_features(input_ids=ids, attention_mask=seen))))
                each = torch.cat(vectors).unflatten(0, (self.num_labels, -1))
                found = unit(each.mean(1))
            trained = leaves(found)
            if trained and torch.is_grad_enabled():
                return found
            self._kept = Kept(found.detach(), trained, self.session.turns)
        return self._kept.vectors

    # ---- images ----

    def image_vectors(self, pixel_values: Tensor, **options: Any) -> Tensor:
        """Images [B, 3, H, W] -> what the image tower and its projection make of them [B, e], not normalised."""
        return _vector(self.pair.get_image_features(pixel_values=pixel_values, **options))

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        class_vectors: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """Logits [B, C] of images [B, 3, H, W], and the mean cross-entropy with labels [B].

        `class_vectors` [C, e]: in place of those of the words. `options` go to the image tower (`interpolate_pos_encoding`).
        """
        h = self.class_vectors() if class_vectors is None else class_vectors
        u = self.image_vectors(pixel_values, **options)
        logits = self.compare(u, h.to(u.device), self.scale)
        bias = dict(self.pair.named_parameters(recurse=False)).get("logit_bias")  # SigLIP's
        logits = logits if bias is None else logits + bias
        loss = None if labels is None else heads.loss(logits, labels)
        answer = ImageClassifierOutput(loss=loss, logits=logits)  # type: ignore[arg-type]
        return answer.to_tuple() if return_dict is False else answer

    @property
    def scale(self) -> Tensor:
        """exp(tau)."""
        return self.pair.logit_scale.exp()

    # ---- checkpointing ----

    def activation_checkpointing_enable(self, activation_checkpointing_kwargs: Any = None, **options: Any) -> None:
        """Blocks compute their activations again in the backward pass."""
        hosts.of(self.pair).checkpoint(self.pair, activation_checkpointing_kwargs, **options)

    def activation_checkpointing_disable(self) -> None:
        """Blocks keep their activations again."""
        hosts.of(self.pair).keep_activations(self.pair)

    def disable_input_require_grads(self) -> None:
        """Nothing: inputs never required gradients."""

    # ---- being composed ----

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The pair."""
        return {"pair": self.pair}

    def said(self) -> dict[str, Any]:
        """The words."""
        return {"words": self.words.to_dict()}

    def classifies(self, num_labels: int) -> bool:
        """Yes, where there are as many classes.

        Raises:
            UserError: there are not.
        """
        if num_labels != self.num_labels:
            raise UserError(
                f"num_labels={num_labels}: this classifier has words for {self.num_labels} classes and needs no head; tell it "
                "other words, or leave num_labels out"
            )
        return True

    def once(self) -> tuple[list[nn.Module], dict[str, Any]]:
        """The text side, and class vectors: a cost sheet is of an image alone."""
        owner = reading.survey(self.pair).owners.get("text", "")
        modules = [getattr(self.pair, name, None) for name in (owner.partition(".")[0], "text_projection")]
        like, e = next(self.pair.parameters()), vector_width(self)
        return [m for m in modules if isinstance(m, nn.Module)], {"class_vectors": like.new_zeros(self.num_labels, e)}

    def own_macs(self, image: tuple[int, int] | None) -> int:
        """C e: the comparison."""
        return self.num_labels * vector_width(self)

    def finish(self) -> None:
        """Keeps the class vectors for good, and lets the text tower go."""
        with torch.no_grad():
            self.fixed = self.class_vectors().clone()
        self.forget()
        setattr(self.pair, reading.survey(self.pair).owners["text"].partition(".")[0], None)

    def _apply(self, *args: Any, **options: Any) -> Any:
        self.forget()
        return super()._apply(*args, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}  # versions of a copy's parameters begin anew


class Entry(nn.Module):
    """Texts as they enter the text tower."""

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and mask [n, L], as they are."""
        return ids, mask


class Cosine(nn.Module):
    """exp(tau) cos."""

    def forward(self, u: Tensor, h: Tensor, scale: Tensor) -> Tensor:
        """Image vectors [B, e], not normalised, and class vectors [C, e] -> logits [B, C]."""
        u = unit(u)
        return scale * u @ h.to(u.dtype).T


class Kept:
    """Class vectors [C, e] that were computed once, the trained parameters that they depend on, and the session's turn at which."""

    def __init__(self, vectors: Tensor, trained: Sequence[Tensor], turn: int):
        self.vectors, self.turn = vectors, turn
        self.trained = [(tensor, tensor._version) for tensor in trained]

    def holds(self, turn: int) -> bool:
        """Whether they are still what would be computed; never where gradients are to pass through them."""
        if turn != self.turn or (self.trained and torch.is_grad_enabled()):
            return False
        return all(tensor._version == version for tensor, version in self.trained)


class Tokens:
    """Texts as the text tower of a pair reads them."""

    def __init__(self, pair: Any, tokenizer: Any):
        self.longest, self.tokenizer = _limits(pair)[0], tokenizer
        self.whole = pair.config.model_type in WHOLE

    def __call__(self, texts: list[str]) -> list[list[int]]:
        """Their ids, cut by the tokenizer, which keeps the end, to what the tower reads."""
        padding = "max_length" if self.whole else False
        return self.tokenizer(texts, padding=padding, truncation=True, max_length=self.longest)["input_ids"]


def check_pair(pair: nn.Module) -> None:
    """Nothing, where a model is a pair of towers that families describe.

    Raises:
        TypeError: it is none.
    """
    missing = [name for name in NEEDS if not hasattr(pair, name)]
    stacks = reading.survey(pair).stacks
    if missing or not {"vision", "text"} <= stacks.keys():
        known = f"families know {', '.join(stacks) or 'nothing'} of it"
        raise WrongKind(
            f"{type(pair).__name__} is no pair of an image and a text tower that are compared: "
            f"{f'it has no {missing[0]}' if missing else known}; give a CLIPModel, a SiglipModel or a "
            "VisionTextDualEncoderModel of towers that are known"
        )


def unit(x: Tensor) -> Tensor:
    """x / |x| over the last dimension, in float32 or better: squares of float16 overflow."""
    return F.normalize(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, dim=-1, eps=1e-12)


def leaves(value: Tensor) -> list[Tensor]:
    """The parameters that a value was computed from and that gradients would reach."""
    found: list[Tensor] = []
    seen: set[Any] = set()
    ahead: list[Any] = [value.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # of AccumulateGrad, and of no other node
            found.append(node.variable)
        ahead += [following for following, _ in node.next_functions]
    return found


def _vector(features: Any) -> Tensor:
    """transformers 5 gives an output whose pooled state is projected already, 4 gave the tensor."""
    return features if isinstance(features, Tensor) else features.pooler_output


def _limits(pair: Any) -> tuple[int, int]:
    """Positions and tokens that the text tower knows."""
    config = pair.config.text_config
    return config.max_position_embeddings, config.vocab_size
