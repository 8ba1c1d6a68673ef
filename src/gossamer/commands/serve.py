"""`gossamer serve`: trained classifiers of images over HTTP."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.arguments import positive
from gossamer.errors import MissingPackage, UserError

if TYPE_CHECKING:
    from gossamer.serving.app import Limits, Server
    from gossamer.serving.cluster import Cluster

log = logging.getLogger("gossamer.serving")


def command(arguments: Sequence[str]) -> None:
    """`gossamer serve`: answers requests until it is told to stop (SIGTERM, Ctrl-C); SIGHUP reads the folders again."""
    asked = _parser().parse_args(arguments)
    token = _token(asked.token_file, asked.host)
    if asked.engine == "local" and asked.replicas != 1:
        raise UserError("--replicas is of --engine ray; one process answers here")
    try:
        from gossamer.serving.app import LOCAL, Limits
        from gossamer.serving.catalogue import named
    except ModuleNotFoundError as error:
        raise MissingPackage(f"{error.name} is not installed: pip install 'gossamer[serve]'") from error
    limits = Limits(
        max_bytes=asked.max_bytes, max_pixels=asked.max_pixels, seconds=asked.timeout, room=asked.queue,
        max_batch=asked.max_batch, max_wait=asked.max_wait / 1000,
    )  # fmt: skip
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    run = {"local": _here, "ray": _on_ray}[asked.engine]
    run(asked, named(asked.folders), limits, token, LOCAL if token is None else ("*",))


def _here(
    asked: argparse.Namespace, folders: dict[str, Path], limits: Limits, token: str | None, hosts: tuple[str, ...]
) -> None:
    """One process, this one."""
    import uvicorn
    from accelerate import PartialState

    from gossamer.serving.app import Server, application
    from gossamer.serving.catalogue import Catalogue
    from gossamer.serving.stopping import Graceful

    catalogue = Catalogue(folders, PartialState().device or "cpu")
    server = Server(catalogue, limits)
    log.info("serving %s", ", ".join(catalogue.served))
    _reload_on_hup(server)
    config = uvicorn.Config(
        application(server, token=token, hosts=hosts), host=asked.host, port=asked.port, log_level="info", access_log=False,
        limit_concurrency=2 * asked.queue + asked.max_batch, timeout_keep_alive=5, server_header=False,
    )  # fmt: skip
    with contextlib.suppress(KeyboardInterrupt):  # every request was answered when uvicorn passes the signal on
        Graceful(config, server).run()


def _on_ray(
    asked: argparse.Namespace, folders: dict[str, Path], limits: Limits, token: str | None, hosts: tuple[str, ...]
) -> None:
    """Replicas on a Ray cluster; this process waits for its end."""
    if not os.environ.get("RAY_ADDRESS"):
        # Ray listens at every address of this machine, and runs what it is given there unless a token is asked for. It reads
        # this when it is imported.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        from gossamer.serving.cluster import Cluster
    except ModuleNotFoundError as error:
        raise MissingPackage(f"--engine ray needs {error.name}: pip install 'gossamer[serve,cluster]'") from error
    cluster = Cluster(
        folders, limits, token=token, hosts=hosts, host=asked.host, port=asked.port, replicas=asked.replicas
    )
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    _reload_on_hup(cluster)
    log.info(
        "serving %s: %d replicas, running on http://%s:%d", ", ".join(folders), asked.replicas, asked.host, cluster.port
    )
    stopped.wait()
    cluster.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gossamer serve",
        description="Classify images over HTTP, with adapters that share backbones; GET /docs describes it.",
    )
    parser.add_argument("folders", nargs="+", metavar="[NAME=]FOLDER", help="folders of finished runs, or of adapters")
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="what runs it: this process, or a Ray cluster (default: %(default)s)",
    )
    parser.add_argument(
        "--replicas", type=positive, default=1, help="processes on a Ray cluster (default: %(default)s)"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine alone)"
    )
    parser.add_argument("--port", type=_port, default=8000, help="port; 0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--token-file", metavar="FILE", help="file with the token that requests must bring; needed elsewhere"
    )
    parser.add_argument("--max-batch", type=positive, default=32, help="images in a batch (default: %(default)s)")
    parser.add_argument(
        "--max-wait", type=_milliseconds, default=5.0, help="milliseconds a batch waits (default: %(default)s)"
    )
    parser.add_argument("--queue", type=positive, default=256, help="requests that may wait (default: %(default)s)")
    parser.add_argument("--max-bytes", type=positive, default=10_000_000, help="of a request (default: %(default)s)")
    parser.add_argument("--max-pixels", type=positive, default=25_000_000, help="of an image (default: %(default)s)")
    parser.add_argument("--timeout", type=positive, default=30, help="seconds for a request (default: %(default)s)")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535")
    return int(text)


def _milliseconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < 60_000:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no time to wait: 0 to 60000 milliseconds")


def _token(file: str | None, host: str) -> str | None:
    """The token of a file; None where there is none and none is needed.

    Raises:
        UserError: others than this machine can reach the host, or the file has no token to speak of.
    """
    if file is None:
        if _local(host):
            return None
        raise UserError(
            f"--host {host} can be reached from elsewhere: give --token-file FILE, whose token requests must bring"
        )
    token = Path(file).read_text(encoding="utf-8").strip()
    if len(token) < 16 or not token.isascii() or any(c.isspace() for c in token):
        raise UserError(
            f"{file}: a token is one word of at least 16 characters, such as what `openssl rand -hex 32` prints"
        )
    return token


def _local(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _reload_on_hup(server: Server | Cluster) -> None:
    """SIGHUP reads the folders again, in a thread, while requests are answered."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, Reloading(server).begin)


class Reloading:
    """Begins a reload when a signal asks for it; one that comes while one runs is heeded behind it."""

    def __init__(self, server: Server | Cluster):
        self.server, self.one = server, threading.Lock()

    def begin(self, number: int, frame: Any) -> None:
        """The signal's handler."""
        threading.Thread(target=self.run, name="reload", daemon=True).start()

    def run(self) -> None:
        """One reload."""
        with self.one:
            self.server.reload()
