"""Every pixel gets a class: a vision transformer of one width, and a head on the tokens behind some of its blocks."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.modeling_outputs import SemanticSegmenterOutput

from gossamer import anatomy, hosts, reading
from gossamer.anatomy.session import Session
from gossamer.anatomy.stack import Stack
from gossamer.anatomy.states import states, tokens_of
from gossamer.anatomy.tap import Tap
from gossamer.errors import UserError, WrongKind
from gossamer.hosts import dense
from gossamer.methods import check_settings

SETR = {"setr-pup": (4, 2), "setr-naive": (2, 4)}  # kind -> D, k
AUXILIARY = SETR["setr-naive"]
WEIGHT = 0.4  # of each auxiliary head's loss
PUBLISHED = (10, 15, 20, 24)  # taps of the SETR heads, blocks of 24
MOST = 65536  # outputs, channels, blocks: what a file may ask for


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """What reads the tokens.

    Args:
        outputs: classes.
        kind: "linear": one Linear a patch, behind the last norm; "setr-pup": four convolutions, each twice as fine;
            "setr-naive": two, each four times as fine.
        taps: blocks behind which heads read, 0 first; the last is the main head's, and with a SETR head the others have an
            auxiliary head each. None: linear the last block; SETR the published 9, 14, 19, 23 of 24, in proportion.
        auxiliary: whether there are auxiliary heads. They work in training alone.
        channels: of the convolutions. The paper: 256.
        norm: in them, "batch", or "group" for batches of few images.
        dropout: of channels before the logits.
        average: the loss over "labelled" pixels, or over "all", as mmsegmentation has it.
    """

    outputs: int
    kind: Literal["linear", "setr-pup", "setr-naive"] = "linear"
    taps: tuple[int, ...] | None = None
    auxiliary: bool = True
    channels: int = 256
    norm: Literal["batch", "group"] = "batch"
    dropout: float = 0.0
    average: dense.Average = "labelled"

    def __post_init__(self) -> None:
        check_settings(Decoder, {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, "decoder")
        for name in ("outputs", "channels"):
            if not 1 <= getattr(self, name) <= MOST:
                raise UserError(f"decoder.{name} must be 1 to {MOST:,}, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"decoder.dropout must be in [0, 1), got {self.dropout}")
        if self.taps is not None and (not self.taps or list(self.taps) != sorted(set(self.taps))):
            raise UserError(f"decoder.taps must be numbers of blocks, each once and in order, got {self.taps}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Decoder:
        """From JSON.

        Raises:
            UserError: an unknown field, or a value of the wrong kind.
        """
        check_settings(cls, dict(values), "decoder")
        if "outputs" not in values:
            raise UserError("decoder has no outputs: how many classes are there?")
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def tapped(self, blocks: int) -> tuple[int, ...]:
        """The blocks that are read, of so many.

        Raises:
            UserError: there is no such block.
        """
        if self.taps is not None:
            if self.taps[0] < 0 or self.taps[-1] >= blocks:
                raise UserError(f"decoder.taps={self.taps}: the model has blocks 0 to {blocks - 1}")
            return self.taps
        if self.kind == "linear":
            return (blocks - 1,)
        places = {max(1, math.floor(blocks * tap / PUBLISHED[-1] + 0.5)) - 1 for tap in PUBLISHED}
        return tuple(sorted(places))

    def main(self, width: int) -> nn.Module:
        """The head whose logits count."""
        if self.kind == "linear":
            return dense.DenseLinear(width, self.outputs, dropout=self.dropout)
        return self._setr(width, *SETR[self.kind])

    def auxiliaries(self, width: int, count: int) -> list[nn.Module]:
        """One for each of `count` other taps."""
        return [self._setr(width, *AUXILIARY) for _ in range(count)]

    def _setr(self, width: int, convs: int, up: int) -> nn.Module:
        return dense.Setr(
            width, self.outputs, channels=self.channels, convs=convs, up=up, norm=self.norm, dropout=self.dropout
        )


class SegmenterConfig(PreTrainedConfig):
    """What Trainer and cost sheets ask a model's configuration for."""

    model_type = "gossamer_segmenter"

    def __init__(self, image_size: Any = None, num_channels: int = 3, hidden_size: int | None = None, **options: Any):
        super().__init__(**options)
        self.image_size, self.num_channels, self.hidden_size = image_size, num_channels, hidden_size


class Segmenter(hosts.Halves):
    """A vision transformer that gives every pixel logits of C classes.

    Args:
        backbone: of transformers or timm (`num_classes=0`), without a task head, its tokens a grid of one width.
        decoder: what reads the tokens, or a dictionary of its settings.

    Raises:
        TypeError: a model without such tokens.
        ValueError: it has a task head, or blocks are asked for that it has not.
    """

    halves = ("backbone",)
    fields: ClassVar[dict[str, type]] = {"decoder": dict}
    base_model_prefix = ""  # peft lets transformers look for names of older checkpoints here
    accepts_loss_kwargs = False
    main_input_name = "pixel_values"

    def __init__(self, backbone: nn.Module, decoder: Decoder | dict[str, Any]):
        super().__init__()
        self.decoder = decoder if isinstance(decoder, Decoder) else Decoder.from_dict(decoder)
        found = reading.read(backbone)
        if "vision" not in found.stacks or found.blocks("vision")[0].stack.windows is not None:
            raise WrongKind(
                f"{type(backbone).__name__} has no tokens that form one grid behind every block: it has {', '.join(found.stacks)} "
                "stacks, or attends in windows and merges patches. Give a ViT, DINOv2, CLIP or SigLIP tower and the like; for "
                "Swin take a model of transformers that brings its head (UperNetForSemanticSegmentation)"
            )
        if heads := hosts.of(backbone).heads(backbone, found):
            raise UserError(
                f"{type(backbone).__name__} has a task head ({', '.join(heads)}) that would not be read: give the bare model "
                "(AutoModel of transformers, num_classes=0 of timm)"
            )
        blocks = found.blocks("vision")
        self.backbone, self.stack = backbone, blocks[0].stack
        self.stride = found.patch_steps("vision")
        self.taps = [blocks[i].name for i in self.decoder.tapped(len(blocks))]
        self.last_norm = found.around("vision").get("norm") if self.decoder.kind == "linear" else None
        width, size = blocks[-1].sizes.width, made_for(backbone, found)
        self.config = SegmenterConfig(size, hidden_size=width, num_labels=self.decoder.outputs)
        self.num_labels = self.decoder.outputs
        self.session = Session()
        tapped = [backbone.get_submodule(name) for name in self.taps]
        self.tap = Tap(tapped, partial(patches, self.session, self.stack, blocks[0].prefix))
        self.decode_head = self.decoder.main(width)
        others = len(self.taps) - 1 if self.decoder.auxiliary and self.decoder.kind != "linear" else 0
        self.auxiliary_head = nn.ModuleList(self.decoder.auxiliaries(width, others))

    # ---- reading ----

    def maps(self, pixel_values: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] -> what stands behind each tapped block, as maps [B, d, h, w] of the model's own patches.

        Sides that are no multiple of a patch are padded with zeros on the right and below.
        """
        (high, wide), (h, w) = self.stride, pixel_values.shape[-2:]
        pixel_values = F.pad(pixel_values, (0, -w % wide, 0, -h % high))
        rows, columns = pixel_values.shape[-2] // high, pixel_values.shape[-1] // wide
        found = self._tapped(pixel_values)
        if self.last_norm is not None:
            norm = self.backbone.get_submodule(self.last_norm)
            found = [norm(tokens) for tokens in found]
        return [tokens.transpose(1, 2).unflatten(2, (rows, columns)) for tokens in found]

    def _tapped(self, pixel_values: Tensor) -> list[Tensor]:
        """Tokens of patches [B, n, d] behind each tapped block, without class tokens, registers and what methods let in."""
        takes = inspect.signature(self.backbone.forward).parameters
        other = "interpolate_pos_encoding" in takes and tuple(pixel_values.shape[-2:]) != self.config.image_size
        inputs = {"pixel_values": pixel_values, **({"interpolate_pos_encoding": True} if other else {})}
        return self.tap.of(lambda: hosts.of(self.backbone).run(self.backbone, (), inputs))

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None, **options: Any
    ) -> Any:
        """Logits [B, C, H, W] of images [B, 3, H, W]; with labels [B, H', W'] (255: none) the loss, in training of all heads."""
        maps, size = self.maps(pixel_values), (pixel_values.shape[-2], pixel_values.shape[-1])
        logits = self._sized(self.decode_head(maps[-1]), size)
        loss = None
        if labels is not None:
            loss = dense.loss(logits, labels, average=self.decoder.average)
            for head, seen in zip(self.auxiliary_head if self.decode_head.training else (), maps, strict=False):
                loss = loss + WEIGHT * dense.loss(self._sized(head(seen), size), labels, average=self.decoder.average)
        answer = SemanticSegmenterOutput(loss=loss, logits=logits)  # type: ignore[arg-type]
        return answer.to_tuple() if return_dict is False else answer

    def _sized(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits of a padded image at the size of the image."""
        high, wide = (side + -side % step for side, step in zip(size, self.stride, strict=True))
        return dense.resize(logits, (high, wide))[..., : size[0], : size[1]]

    # ---- checkpointing ----

    def activation_checkpointing_enable(self, activation_checkpointing_kwargs: Any = None, **options: Any) -> None:
        """Blocks compute their activations again in the backward pass."""
        hosts.of(self.backbone).checkpoint(self.backbone, activation_checkpointing_kwargs, **options)

    def activation_checkpointing_disable(self) -> None:
        """Blocks keep their activations again."""
        hosts.of(self.backbone).keep_activations(self.backbone)

    def disable_input_require_grads(self) -> None:
        """Nothing: inputs never required gradients."""

    # ---- being composed ----

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The backbone."""
        return {"backbone": self.backbone}

    def said(self) -> dict[str, Any]:
        """The decoder, as it was made."""
        return {"decoder": self.decoder.to_dict()}

    def apart(self, said: Mapping[str, Any]) -> list[str]:
        """Settings of the decoder that differ; how many classes there are does not matter, since heads are resized."""
        mine, theirs = self.decoder.to_dict(), dict(said["decoder"])
        return [
            f"decoder.{name} was {theirs.get(name)} and is {value}"
            for name, value in mine.items()
            if name not in ("outputs", "average", "dropout") and theirs.get(name) != value
        ]

    def own_heads(self) -> dict[str, nn.Module]:
        """The main head and the auxiliary ones."""
        others = {f"auxiliary_head.{i}": head for i, head in enumerate(self.auxiliary_head)}
        return {"decode_head": self.decode_head, **others}

    def own_macs(self, image: tuple[int, int] | None) -> int:
        """Those of the main head."""
        assert image is not None, "it reads images"
        rows, columns = (-(-side // step) for side, step in zip(image, self.stride, strict=True))
        head: Any = self.decode_head
        return head.macs(rows, columns)

    def finish(self) -> None:
        """Auxiliary heads go, batch norms go into convolutions."""
        self.auxiliary_head = nn.ModuleList()
        dense.fold(self.decode_head)


def patches(session: Session, stack: Stack, prefix: int, output: Any) -> Tensor:
    """The tokens of patches [B, n, d] in what a block returned, by the ledger of what is in the stream."""
    rows, ledger = tokens_of(states(output)), session.ledger(stack)
    return rows[:, prefix:] if ledger is None else ledger.behind(rows)


def made_for(backbone: nn.Module, found: anatomy.Anatomy) -> tuple[int, int] | None:
    """Height and width in pixels that a model was made for; None where it does not say."""
    owner: Any = found.owner("vision")
    size = getattr(getattr(owner, "config", None), "image_size", None)
    if size is None:
        size = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    return (size, size) if isinstance(size, int) else None if size is None else (size[0], size[1])
