"""The command line: `gossamer COMMAND ...`. Each command is a function of its own module, imported when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from gossamer.version import __version__

COMMANDS = {
    "demo": ("gossamer.commands.demo", "teach a small vision transformer to find defective solar cells, in minutes"),
    "inspect": ("gossamer.commands.inspect", "show where the parts of a model sit and what can be done to them"),
    "cost": ("gossamer.commands.cost", "parameters and multiply-adds of a model with a method, without weights"),
    "pretrain": ("gossamer.commands.pretrain", "make a small vision-language model to learn on, in minutes"),
    "train": ("gossamer.commands.train", "adapt a model to labelled images or texts about images"),
    "search": (
        "gossamer.commands.search",
        "find which layers a method such as DAS should skip, for the task of a run file",
    ),
    "condense": ("gossamer.commands.condense", "keep the prompts of a finished run that matter, and tune them further"),
    "evaluate": ("gossamer.evaluate", "score a trained adapter"),
    "compare": (
        "gossamer.comparison.sweep",
        "methods x tasks x seeds from one file, and a report of accuracy against cost",
    ),
    "predict": ("gossamer.predict", "labels of image files, answers to questions about them"),
    "protocol": ("gossamer.protocols", "write the run files of a published protocol on VTAB-1k or FGVC"),
    "export": ("gossamer.export", "write a trained classifier as one file: ONNX or torch.export"),
}
"""Name -> module with a function `command(arguments)`, and one line of help."""

_RESUMED = "; the same command with --resume continues"
_CONTINUED = "; the same command continues"
AGAIN = {
    "train": _RESUMED,
    "search": _RESUMED,
    "condense": _RESUMED,
    "compare": _CONTINUED,
    "pretrain": _CONTINUED,
}
USER_ERRORS = (ValueError, KeyError, TypeError, OSError, ImportError, ArithmeticError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 2 for a mistake of the user (one sentence on stderr), 130 when interrupted.

    Args:
        argv: the arguments without the program's name. None: those of the process. `--debug` among them lets errors through with
            their traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"gossamer {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"gossamer: no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return _run(name, rest, debug)


def usage() -> str:
    """The help of the whole program."""
    lines = [f"  {name:<10}{summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: gossamer COMMAND ...",
            "",
            "Adapt vision and vision-language transformers by training a sliver of their parameters.",
            "",
            *lines,
            "",
            "gossamer COMMAND --help explains one. --debug anywhere shows where an error came from; --version the version.",
        ]
    )


def _run(name: str, arguments: list[str], debug: bool) -> int:
    try:
        importlib.import_module(COMMANDS[name][0]).command(arguments)
    except SystemExit as end:  # argparse has printed its help or its complaint
        return end.code if isinstance(end.code, int) else 2
    except KeyboardInterrupt:
        hint = AGAIN.get(name, "")
        print(f"gossamer {name}: interrupted{hint}", file=sys.stderr)
        return 130
    except USER_ERRORS as error:
        if debug:
            raise
        print(f"gossamer {name}: {_sentence(error)}", file=sys.stderr)
        return 2
    return 0


def _sentence(error: BaseException) -> str:
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(message).split()) or type(error).__name__
