"""What an adapter's metadata say of its training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gossamer.data import Preprocessing
from gossamer.errors import UserError

if TYPE_CHECKING:
    from gossamer.adapting import Adapted


def recorded(adapted: Adapted, section: str) -> Any:
    """What an adapter's metadata say of one thing; ValueError where they say nothing."""
    if section not in adapted.metadata:
        raise UserError(
            f"this adapter does not record its {section}; adapters made by gossamer train do, others can set "
            f"adapted.metadata[{section!r}] before saving"
        )
    return adapted.metadata[section]


def labels_of(adapted: Adapted) -> list[str]:
    """Names of the classes that an adapter was trained on."""
    return recorded(adapted, "labels")


def preprocessing_of(adapted: Adapted) -> Preprocessing:
    """How images were prepared when an adapter was trained."""
    return Preprocessing.from_dict(recorded(adapted, "preprocessing"))
