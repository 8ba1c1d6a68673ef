"""One decorator makes a method known: under its name in run files, under its class in the package, and nowhere listed again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

import gossamer as gm
from gossamer import methods
from gossamer.methods.base import Method, method


def test_what_the_package_offers_is_what_is_registered() -> None:
    """The package reads the names from the source, the registry is filled by importing it."""
    assert {kind.__name__ for kind in gm.METHODS.values()} <= set(gm.__all__)
    for name, kind in gm.METHODS.items():
        assert getattr(gm, kind.__name__) is kind
        assert getattr(methods, kind.__name__) is kind
        assert kind.name == name


def test_every_file_but_the_base_and_pefts_makes_a_method_known() -> None:
    files = {path.stem for path in Path(methods.__file__).parent.glob("*.py")} - {"__init__", "base", "peft"}
    assert {kind.__module__.rpartition(".")[2] for kind in gm.METHODS.values()} == files


def test_a_name_is_taken_once_and_must_be_ones_own() -> None:
    with pytest.raises(ValueError, match="two methods are called 'vpt': VPT and Other"):

        @method
        @dataclass(frozen=True, kw_only=True)
        class Other(gm.VPT):
            name = "vpt"

    with pytest.raises(ValueError, match="Nameless has no name of its own: set one, such as name = 'nameless'"):

        @method
        @dataclass(frozen=True, kw_only=True)
        class Nameless(gm.VPT):
            pass

    assert gm.METHODS["vpt"] is gm.VPT


def test_a_method_that_takes_something_from_training_data_says_what() -> None:
    with pytest.raises(ValueError, match=r"Forgetful has a prepare\(\), and learns_from nothing"):

        @method
        @dataclass(frozen=True, kw_only=True)
        class Forgetful(gm.VPT):
            name = "forgetful"

            def prepare(self, adapted: object, data: object, collate: object = None) -> None:
                """Would take something."""

    assert "forgetful" not in gm.METHODS


def test_a_method_that_there_is_not() -> None:
    with pytest.raises(AttributeError, match=r"no method 'VTP'; there are Adapter, APT, .*VPT"):
        methods.VTP  # noqa: B018
    assert issubclass(methods.VPT, Method)
