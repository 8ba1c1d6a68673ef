"""The command line: `gossamer COMMAND ...`. Each command is a function of its own module, imported when it is called."""

from __future__ import annotations

import importlib
import io
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gossamer.errors import out_of_memory, told
from gossamer.version import __version__

COMMANDS = {
    "demo": ("gossamer.commands.demo", "teach a small vision transformer to find defective solar cells, in minutes"),
    "init": ("gossamer.commands.init", "look at a folder of images and write a run file for it"),
    "inspect": ("gossamer.commands.inspect", "show where the parts of a model sit and what can be done to them"),
    "cost": ("gossamer.commands.cost", "parameters and multiply-adds of a model with a method, without weights"),
    "pretrain": ("gossamer.commands.pretrain", "make a small vision-language model to learn on, in minutes"),
    "train": ("gossamer.commands.train", "adapt a model to labelled images or texts about images"),
    "plan": ("gossamer.commands.plan", "say what is worth trying on a set of images, and what it would take here"),
    "search": (
        "gossamer.commands.search",
        "find which layers a method such as DAS should skip, for the task of a run file, by bandit or race",
    ),
    "scan": (
        "gossamer.commands.scan",
        "show where in its depth a model decides the task of a run file or a finished run",
    ),
    "condense": ("gossamer.commands.condense", "keep the prompts of a finished run that matter, and tune them further"),
    "shrink": ("gossamer.commands.shrink", "find and train the cheapest model within a point of a finished run"),
    "evaluate": ("gossamer.commands.evaluate", "score a trained adapter"),
    "compare": (
        "gossamer.commands.compare",
        "methods x tasks x seeds from one file, and a report of accuracy against cost",
    ),
    "predict": ("gossamer.commands.predict", "labels of image files, answers to questions about them"),
    "ui": ("gossamer.commands.ui", "a web page on this machine: photographs in, a trained classifier out"),
    "serve": ("gossamer.commands.serve", "classify images over HTTP with adapters that share backbones"),
    "protocol": ("gossamer.commands.protocol", "write the run files of a published protocol on VTAB-1k or FGVC"),
    "export": ("gossamer.commands.export", "write a trained classifier as one file: ONNX or torch.export"),
    "methods": ("gossamer.commands.methods", "which methods there are, and the settings of each"),
    "completion": (
        "gossamer.completion",
        "the lines by which bash, zsh or fish complete commands, options and settings",
    ),
    "new": ("gossamer.commands.new", "in a checkout of Gossamer: the skeleton of a new method or family"),
}
"""Name -> module with a function `command(arguments)`, and one line of help."""

_RESUMED = "; the same command with --resume continues"
_CONTINUED = "; the same command continues"
AGAIN = {
    "train": _RESUMED,
    "search": _RESUMED,
    "condense": _RESUMED,
    "compare": _CONTINUED,
    "shrink": _CONTINUED,
    "pretrain": _CONTINUED,
}
LESS_MEMORY = {
    "train": "lower training.batch or images.size, or set training.gradient_checkpointing=true",
    "search": "lower training.batch, search.reward_batch or images.size",
    "condense": "lower training.batch",
    "evaluate": "lower --batch",
}
"""What takes less memory, by command."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which a batch system ends a job: a command ends as after Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    0; 1 where a part failed (a cell of a comparison, a file of a prediction); 2 for a mistake of the user, said in one sentence on
    stderr; 130 after Ctrl-C and 143 after SIGTERM, with all that was saved before. A bug of ours goes through, with its traceback.

    Args:
        argv: the arguments without the program's name. None: those of the process. `--debug` among them lets the user's mistakes
            through with their traceback too.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
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
    lines = [f"  {name:<11}{summary}" for name, (_, summary) in COMMANDS.items()]
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
        with _ended_by_sigterm():
            importlib.import_module(COMMANDS[name][0]).command(arguments)
    except SystemExit as end:  # argparse has printed its help or its complaint
        return end.code if isinstance(end.code, int) else 2
    except KeyboardInterrupt as end:
        terminated = isinstance(end, Terminated)
        how = "ended by SIGTERM" if terminated else "interrupted"
        print(f"gossamer {name}: {how}{AGAIN.get(name, '')}", file=sys.stderr)
        return 128 + (signal.SIGTERM if terminated else signal.SIGINT)
    except Exception as error:
        sentence = told(error)
        if sentence is None or debug:
            raise
        advice = f"; {LESS_MEMORY[name]}" if name in LESS_MEMORY and out_of_memory(error) else ""
        print(f"gossamer {name}: {sentence}{advice}", file=sys.stderr)
        return 2
    return 0


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Within the block SIGTERM is `Terminated`; a thread other than the first has no say in signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
