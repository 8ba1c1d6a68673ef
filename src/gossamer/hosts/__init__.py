"""What differs between the libraries that backbones come from: inputs, heads, labels, read-outs, checkpointing.

One file a kind of host, and one object of it for all its models; which is a model's own is asked once, by `of`, where the model is
read. A new kind is known by its line here.
"""

from __future__ import annotations

from torch import nn

from gossamer import anatomy
from gossamer.anatomy import Anatomy
from gossamer.errors import WrongKind
from gossamer.hosts.base import Host, ReadOut
from gossamer.hosts.composed import Composed, Halves
from gossamer.hosts.hugging_face import HuggingFace
from gossamer.hosts.timm import Timm

HOSTS: tuple[Host, ...] = (Composed(), Timm(), HuggingFace())

__all__ = ["HOSTS", "Composed", "Halves", "Host", "HuggingFace", "ReadOut", "Timm", "of", "read"]


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


def read(model: nn.Module) -> Anatomy:
    """The anatomy of a model, with its task heads and its output layer.

    Raises:
        TypeError: no family knows the model, or no host.
    """
    found, host = anatomy.read(model), of(model)
    found.heads, found.output = host.heads(model, found), host.output_embeddings(model)
    return found
