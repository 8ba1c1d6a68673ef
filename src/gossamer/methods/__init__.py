"""Methods: one file each. Every file of this folder is imported, and what it decorates with `base.method` is known."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import pkgutil
import types
import typing
from typing import Any

from gossamer.documents import MOST
from gossamer.errors import UserError, WrongKind
from gossamer.methods import peft
from gossamer.methods.base import METHODS as METHODS
from gossamer.methods.base import Method

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")  # each registers its own
globals().update({kind.__name__: kind for kind in METHODS.values()})


def __getattr__(name: str) -> Any:
    known = ", ".join(kind.__name__ for kind in METHODS.values())
    raise AttributeError(f"no method {name!r}; there are {known}")


def as_method(method: Any) -> Method:
    """A method as it is; a configuration of the peft library as a method.

    Raises:
        TypeError: neither.
    """
    if isinstance(method, Method):
        return method
    if type(method).__module__.partition(".")[0] == "peft" and hasattr(method, "peft_type"):
        return peft.Peft(config=method)
    known = ", ".join(m.__name__ for m in METHODS.values())
    raise WrongKind(
        f"{method!r} is no method: give one or a list of {known}, or a configuration of peft such as LoraConfig(...)"
    )


def to_dict(method: Method) -> dict[str, Any]:
    """A method as JSON: {"method": name, field: value, ...}."""
    if isinstance(method, peft.Peft):
        return peft.to_dict(method.config)
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(method).items()}  # type: ignore[call-overload]
    return {"method": method.name, **values}


def from_dict(values: dict[str, Any]) -> Method:
    """The method that `to_dict` wrote; fields left out have their defaults.

    Raises:
        ValueError: unknown method or field, or a value of the wrong kind; the message lists what is known.
    """
    values = dict(values)
    name = values.pop("method", None)
    if name == "peft":
        return peft.from_dict(values)
    if not isinstance(name, str) or name not in METHODS:
        raise UserError(f"no method {name!r}; there are {', '.join([*METHODS, 'peft'])}{_suggest(name, METHODS)}")
    check_settings(METHODS[name], values, name)
    try:
        return METHODS[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def check_settings(kind: type, values: dict[str, Any], name: str, what: str = "setting") -> None:
    """Nothing, where the values are of fields of the dataclass `kind` and of their types; they come from a file.

    Raises:
        UserError: one is not; the message names it as a setting of `name`, and lists what is known.
    """
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    for field, value in values.items():
        if field not in known:
            raise UserError(
                f"{name} has no {what} {field!r}; it has {', '.join(known) or 'none'}{_suggest(field, known)}"
            )
        if isinstance(value, int) and abs(value) > MOST:
            raise UserError(f"{name}.{field} must be at most {MOST:,}: nothing here counts further")
        if not _fits(value, hints[field]):
            raise UserError(f"{name}.{field} must be {known[field].type}, got {value!r:.60}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a field's type: plain types, Literal, tuple[int, ...] (a list in JSON) and unions of these."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, h) for h in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(v, arguments[0]) for v in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _suggest(name: Any, known: Any) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
