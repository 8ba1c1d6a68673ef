"""`gossamer ui`: a web page on this machine, from a folder of photographs to a trained classifier."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gossamer.documents import expanded
from gossamer.errors import MissingPackage


def command(arguments: Sequence[str]) -> None:
    """`gossamer ui`: serves the page until it is told to stop (Ctrl-C, SIGTERM); a training that runs is stopped with it."""
    asked = _parser().parse_args(arguments)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import uvicorn

        from gossamer.commands import ui_page
    except ModuleNotFoundError as error:
        raise MissingPackage(f"{error.name} is not installed: pip install 'gossamer[ui]'") from error
    from gossamer.commands.ui_work import Work

    home = expanded(asked.folder).absolute()
    home.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        uploads = stack.enter_context(tempfile.TemporaryDirectory(prefix="gossamer-ui-"))
        os.environ["GRADIO_TEMP_DIR"] = uploads
        door = stack.enter_context(socket.create_server(("127.0.0.1", asked.port)))
        work = stack.enter_context(contextlib.closing(Work(home, Path(uploads))))
        print(f"http://127.0.0.1:{door.getsockname()[1]} (Ctrl-C ends it); what is made lies in {home}", flush=True)
        config = uvicorn.Config(
            ui_page.application(work), log_level="warning", server_header=False, timeout_graceful_shutdown=1
        )
        stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        uvicorn.Server(config).run(sockets=[door])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gossamer ui",
        description="A web page on this machine: look at a folder of photographs, train on it, try the result, take it away. "
        "Nobody else can reach it, and it asks nobody for anything.",
    )
    parser.add_argument("--folder", default="gossamer-ui", help="where all that is made lies (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port; 0 takes a free one (default: %(default)s)")
    return parser
