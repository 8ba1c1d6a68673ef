"""`gossamer completion SHELL`: the lines by which a shell completes commands, options and settings; and what they ask.

What a command takes is read from its own help, so it stands in one place.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from collections.abc import Sequence

from gossamer import cli

BASH = """\
_gossamer() {
  local IFS=$'\\n' word="${COMP_WORDS[COMP_CWORD]}"
  COMPREPLY=($(compgen -W "$(gossamer completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "$word"))
  if [[ ${COMPREPLY[0]-} == *= ]]; then compopt -o nospace 2>/dev/null; fi
}
complete -o default -F _gossamer gossamer
"""
SCRIPTS = {
    "bash": BASH,
    "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{BASH}",
    "fish": 'complete -c gossamer -a "(gossamer completion words -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)"\n',
}
"""Shell -> what it is to run. Where nothing fits it completes names of files, as it does anyway."""
TAKES = re.compile(r"(?<![\w-])--[A-Za-z][\w.-]*")
SETTING = re.compile(r"--(\w+(?:\.\w+)+)")


def words(typed: Sequence[str]) -> list[str]:
    """What the last of the words typed behind `gossamer` can become: a command, or an option or setting of the first one."""
    *before, last = typed or [""]
    if not before:
        return [name for name in cli.COMMANDS if name.startswith(last)]
    if before[0] not in cli.COMMANDS:
        return []
    with contextlib.redirect_stdout(io.StringIO()) as said:
        cli.main([before[0], "--help"])
    options = dict.fromkeys(TAKES.findall(said.getvalue()))
    settings = [f"{found[1]}=" for option in options if (found := SETTING.fullmatch(option))]
    return [word for word in [*options, *settings] if word.startswith(last) and (last or word.startswith("--"))]


def command(arguments: Sequence[str]) -> None:
    """Prints the lines for a shell, or what the words behind `--` can become."""
    parser = argparse.ArgumentParser(
        prog="gossamer completion",
        description="Completion with the tabulator. In ~/.bashrc or ~/.zshrc: source <(gossamer completion bash) or zsh; "
        "in fish's config.fish: gossamer completion fish | source",
    )
    parser.add_argument("shell", choices=[*SCRIPTS, "words"], help="words: what those behind -- can become")
    parser.add_argument("typed", nargs="*", help="what was typed so far, behind gossamer")
    asked = parser.parse_args(arguments)
    print("\n".join(words(asked.typed)) if asked.shell == "words" else SCRIPTS[asked.shell], end="")
