"""Which versions of torch, transformers, peft and timm Gossamer was tested with, and a warning outside of them.

These four, whose insides we touch, are those of our requirements with an upper bound. The numbers stand in pyproject.toml alone.
"""

from __future__ import annotations

import functools
import importlib.metadata
import warnings

from packaging.requirements import Requirement


def outside() -> list[str]:
    """For each package that is not as tested, both sides: "transformers<5.25,>=5.20, and this is transformers 5.40.0".

    Raises:
        importlib.metadata.PackageNotFoundError: Gossamer runs without being installed, so nothing tells what was tested.
    """
    found = []
    for line in importlib.metadata.requires("gossamer") or ():
        wanted = Requirement(line)
        if not any(bound.operator == "<" for bound in wanted.specifier):
            continue
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that is not installed
        if not wanted.specifier.contains(version, prereleases=True):
            found.append(f"{wanted.name}{wanted.specifier}, and this is {wanted.name} {version}")
    return found


@functools.cache
def warn_outside() -> None:
    """Warns about what is `outside`, once in a process."""
    try:
        found = outside()
    except importlib.metadata.PackageNotFoundError:
        found = ["versions that only its installation knows, and it is not installed: pip install --no-deps -e ."]
    if found:
        warnings.warn(
            f"Gossamer was tested with {'; with '.join(found)}. A model may have parts there that Gossamer misses: "
            "install a tested version, or compare results before you rely on them",
            stacklevel=3,
        )
