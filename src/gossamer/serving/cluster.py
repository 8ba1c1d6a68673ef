"""The same application as a Ray Serve deployment: several processes, of one machine or of many, behind one address.

Ray takes the connections, and hands each request to one of the processes, which answers it as it would alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from accelerate import PartialState
from prometheus_client import Metric
from ray import serve

from gossamer.errors import UserError
from gossamer.serving.app import Limits, Server, application
from gossamer.serving.catalogue import Catalogue
from gossamer.serving.numbers import together
from gossamer.serving.stopping import SECONDS

NAME = "gossamer"  # of the application, and of its deployment
WAITING = 60  # seconds that replicas have to read their folders again
WHY = "is Gossamer of this version on every machine of the cluster? The logs of Ray Serve say more"
log = logging.getLogger("gossamer.serving")


class Member(Server):
    """A server that is one of several: it tells what all of them count."""

    async def counted(self) -> list[Metric]:
        """What each of the replicas counts, by their names."""
        asked = serve.get_deployment_handle(NAME, NAME).broadcast("counted")
        found = await asked.results_async(timeout_s=self.limits.seconds, return_exceptions=True)
        return together(dict(one for one in found if not isinstance(one, BaseException)))


class Replica:
    """One process of the deployment: classifiers, batches and numbers of its own.

    Args:
        folders: by name, as `Catalogue` takes them.
        limits: of this process.
        token: see `application`.
        hosts: see `application`.
    """

    def __init__(self, folders: Mapping[str, Path], limits: Limits, token: str | None, hosts: tuple[str, ...]):
        self.server = Member(Catalogue(folders, PartialState().device or "cpu"), limits)
        self.token, self.hosts = token, hosts

    def __serve_build_asgi_app__(self) -> Any:
        """The application, under the name by which Ray Serve asks for it."""
        return application(self.server, token=self.token, hosts=self.hosts)

    async def counted(self) -> tuple[str, list[Metric]]:
        """The name of this replica, and what it counts."""
        return serve.get_replica_context().replica_id.unique_id, await Server.counted(self.server)

    async def reload(self) -> str | None:
        """Reads the folders again; what is wrong with them, None: nothing."""
        return await asyncio.to_thread(self.server.reload)

    async def end(self) -> None:
        """Connections end with their next answer from now on."""
        self.server.stopping = True


class Cluster:
    """Replicas of the application on the Ray cluster that RAY_ADDRESS names; without one, on a cluster of this machine alone.

    Args:
        folders: by name; every machine has them under the same path.
        limits: of each replica.
        token: that requests must bring; None: none.
        hosts: names by which the application may be called.
        host: address to listen at.
        port: port; 0 takes a free one.
        replicas: how many, each with a processor, and a GPU where the cluster has any.

    Attributes:
        port: the one that is listened at.

    Raises:
        OSError: the address cannot be listened at.
        UserError: a folder cannot be served, Ray Serve runs on this cluster already, or no replica can be started there.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        limits: Limits,
        *,
        token: str | None,
        hosts: tuple[str, ...],
        host: str,
        port: int,
        replicas: int,
    ):
        folders = {name: folder.resolve() for name, folder in folders.items()}
        Catalogue(folders)  # what is wrong with a folder is said here, before anything starts
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
            self.port = free.getsockname()[1]
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        _enter(replicas)
        deployment = serve.deployment(
            serve.ingress()(Replica), name=NAME, num_replicas=replicas,
            ray_actor_options={"num_cpus": 1, "num_gpus": 1 if ray.cluster_resources().get("GPU") else 0},
            max_ongoing_requests=2 * limits.room + limits.max_batch, max_queued_requests=limits.room,
            graceful_shutdown_timeout_s=2 * limits.seconds,
        )  # fmt: skip
        try:
            serve.start(http_options={"host": host, "port": self.port, "keep_alive_timeout_s": 5})
            bound = deployment.bind(folders, limits, token, hosts)
            self.handle = serve.run(bound, name=NAME, logging_config={"enable_access_log": False})
        except RuntimeError as error:
            _leave()
            raise UserError(f"Ray could not start the replicas; {WHY}: {error}") from error

    def reload(self) -> None:
        """Every replica reads its folders again; says in the log where one cannot be read: it goes on with what it had."""
        found = self.handle.broadcast("reload").results(timeout_s=WAITING, return_exceptions=True)
        for wrong in found:
            if wrong is not None:
                log.error("not reloaded, and as before: %s", wrong)
        log.info("reloaded: %d of %d replicas", found.count(None), len(found))

    def close(self) -> None:
        """Ends when what came in was answered, and leaves the cluster, which ends if it was begun here."""
        try:
            self.handle.broadcast("end").results(timeout_s=WAITING, return_exceptions=True)
            time.sleep(SECONDS)
            serve.delete(NAME)
        finally:
            _leave()


def _enter(replicas: int) -> None:
    """Connects to the cluster that RAY_ADDRESS names, or begins one."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not os.environ.get("RAY_ADDRESS"):
        ray.init("local", num_cpus=replicas, include_dashboard=False, **quiet)
        return
    ray.init(**quiet)
    if serve.status().proxies:
        ray.shutdown()
        raise UserError(
            "Ray Serve runs on this cluster already, and listens where it was told to then: end it (serve shutdown), or take "
            "a cluster of its own"
        )


def _leave() -> None:
    """Ends Ray Serve, and the cluster that was begun here."""
    serve.shutdown()
    ray.shutdown()
