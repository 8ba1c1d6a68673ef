"""Classes in words: their names, the templates that make texts of them, and the texts as a text tower reads them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gossamer.errors import UserError

PLACE = "{}"
TEMPLATES = ("a photo of a {}.",)
FIELDS = {"names": list, "templates": list, "ids": list}


@dataclass(frozen=True, kw_only=True)
class Words:
    """What classes are called.

    Attributes:
        names: of the classes, in the order of their labels.
        templates: sentences with {} for a name; text j of a class is template j.
        ids: for each class and template the tokens of the text, without padding. With these no tokenizer is needed any more.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]
    ids: tuple[tuple[tuple[int, ...], ...], ...]

    @classmethod
    def of(
        cls, names: Sequence[str], templates: Sequence[str], tokenize: Callable[[list[str]], Sequence[Sequence[int]]]
    ) -> Words:
        """Names and templates as tokens; `tokenize` gives the ids of texts.

        Raises:
            UserError: no class, no template, a name twice, or a template without a place for the name.
        """
        if isinstance(names, str) or isinstance(templates, str):
            raise UserError("names and templates are lists of texts, not one text")
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise UserError(
                f"two classes are called {twice!r}: texts cannot tell them apart; give each words of its own"
            )
        if not names or not templates:
            raise UserError("classes by words need at least one name and one template")
        if wrong := [t for t in templates if t.count(PLACE) != 1]:
            raise UserError(f"the template {wrong[0]!r} must have one {PLACE}, where the name of the class goes")
        texts = [template.replace(PLACE, name) for name in names for template in templates]
        ids = iter(tuple(int(i) for i in text) for text in tokenize(texts))
        return cls(
            names=tuple(names), templates=tuple(templates), ids=tuple(tuple(itertools.islice(ids, len(templates))) for _ in names)
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The words as JSON."""
        ids = [[list(text) for text in texts] for texts in self.ids]
        return {"names": list(self.names), "templates": list(self.templates), "ids": ids}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Words:
        """What `to_dict` wrote.

        Raises:
            UserError: a field is missing, unknown or of another kind, or there are not as many texts as names and templates.
        """
        if set(values) != set(FIELDS):
            raise UserError(f"words have the fields {', '.join(FIELDS)}, found {', '.join(map(str, values)) or 'none'}")
        names, templates, ids = (values[field] for field in FIELDS)
        if not _texts(names) or not _texts(templates):
            raise UserError("names and templates of words must be lists of texts, with one or more in each")
        classes = ids if isinstance(ids, list) else []
        if len(classes) != len(names) or not all(isinstance(c, list) and len(c) == len(templates) for c in classes):
            raise UserError(f"words must have tokens for {len(names)} names and {len(templates)} templates each")
        if not all(isinstance(text, list) and text and all(map(_is_id, text)) for c in classes for text in c):
            raise UserError("tokens of words must be lists of whole numbers from 0 on")
        return cls(names=tuple(names), templates=tuple(templates), ids=tuple(tuple(map(tuple, c)) for c in classes))

    def padded(self) -> tuple[Tensor, Tensor]:
        """Tokens and mask of every text, class by class, [C J, n] each, cut to the longest of them; padding is 0 in both."""
        texts = [torch.tensor(text) for texts in self.ids for text in texts]
        pad = torch.nn.utils.rnn.pad_sequence
        return pad(texts, batch_first=True), pad([torch.ones_like(text) for text in texts], batch_first=True)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _is_id(value: Any) -> bool:
    return type(value) is int and value >= 0
