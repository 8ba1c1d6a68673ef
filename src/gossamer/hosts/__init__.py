"""What differs between the libraries that backbones come from: inputs, heads, labels, read-outs, checkpointing.

One file a kind of host, and one object of it for all its models; which is a model's own is asked once, by `of`, where the model is
read. A new kind is known by its line here.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from gossamer import reading
from gossamer.anatomy import Anatomy
from gossamer.errors import WrongKind
from gossamer.hosts import heads
from gossamer.hosts.around import Around
from gossamer.hosts.base import Host, ReadOut
from gossamer.hosts.composed import Composed, Halves
from gossamer.hosts.diffusers import Diffusers
from gossamer.hosts.hugging_face import HuggingFace
from gossamer.hosts.timm import Timm
from gossamer.hosts.timm_wrapper import TimmWrapper
from gossamer.hosts.wrappers import check_plain

HOSTS: tuple[Host, ...] = (Composed(), TimmWrapper(), Timm(), HuggingFace(), Diffusers(), Around())

__all__ = [
    "HOSTS", "Around", "Composed", "Diffusers", "Halves", "Host", "HuggingFace", "ReadOut", "Timm", "TimmWrapper", "check_plain",
    "of", "read",
]  # fmt: skip


def of(model: nn.Module) -> Host:
    """The kind of host that a model is.

    Raises:
        TypeError: it is none of `HOSTS`.
    """
    for host in HOSTS:
        if host.knows(model):
            return host
    raise WrongKind(
        f"{type(model).__name__} of {type(model).__module__} is no model that can be adapted here; those that can are of "
        f"{', '.join(host.kind for host in HOSTS)}"
    )


def read(model: nn.Module, head: Any = None, family: str | None = None) -> Anatomy:
    """The anatomy of a model, with its task heads and its output layer; without any stack where no family knows it.

    Args:
        head: the modules that are its heads, as in `heads.named`; None: those that the model itself declares.
        family: of blocks that no family describes, as in `gossamer.read`.

    Raises:
        TypeError: no host knows the model, or it is not of the family that was named.
    """
    found, host = reading.survey(model, family), of(model)
    found.heads = host.heads(model, found) if head is None else heads.named(model, head)
    found.unread = {p: b for p, b in found.unread.items() if not any(f"{p}.".startswith(f"{n}.") for n in found.heads)}
    found.output = host.output_embeddings(model)
    return found
