"""Whose mistake it was: errors that the user can mend, told apart from bugs of ours.

What a function is given and cannot use it refuses with a `UserError`: what was asked, what was found, what is possible, what to do.
The command line prints that sentence alone. Every other exception is a bug of ours and keeps its traceback, so that none poses as a
mistake of the user's.
"""

from __future__ import annotations

import errno

FULL = (errno.ENOSPC, errno.EDQUOT)
MEMORY = (
    "DefaultCPUAllocator",
    "not enough memory",
    "Storage size calculation overflowed",
)  # torch's words, in a RuntimeError


class UserError(ValueError):
    """Something that was asked for or given cannot be used; the message is a sentence that says what, and what to do."""


class UnknownName(UserError, KeyError):
    """A part or place was asked for by a name or number that is not there."""

    __str__ = Exception.__str__  # a KeyError would show its message in quotes


class WrongKind(UserError, TypeError):
    """A model or object is of a kind that cannot be used here."""


class MissingPackage(UserError, ImportError):
    """A package is not installed that is needed for what was asked; the message names the command that installs it."""


class AdapterError(UserError):
    """An adapter cannot be saved or loaded as asked: the message says what was asked, what was found, what to do."""


class Diverged(UserError, FloatingPointError):
    """A loss is not finite."""


def told(error: BaseException) -> str | None:
    """One sentence about an error that is no bug of ours, on one line; None for a bug.

    Beside what was refused (`UserError`) these are what the operating system refuses, such as a file, the disk or the network
    (OSError), and memory that has run out.
    """
    if isinstance(error, OSError) and not isinstance(error, UserError):
        return _one_line(_of_the_system(error))
    if out_of_memory(error):
        return _one_line(f"out of memory: {error}" if str(error) else "out of memory")
    return _one_line(str(error)) if isinstance(error, UserError) else None


def _of_the_system(error: OSError) -> str:
    if error.strerror is None:
        return str(error) or type(error).__name__
    place = "" if error.filename is None else f"{error.filename}: "
    return f"{place}{error.strerror}{'; make room and run the command again' if error.errno in FULL else ''}"


def out_of_memory(error: BaseException) -> bool:
    """Whether memory has run out, of the machine or of an accelerator."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return type(error).__name__ == "OutOfMemoryError" or any(mark in str(error) for mark in MEMORY)


def _one_line(text: str) -> str:
    return " ".join(text.split())
