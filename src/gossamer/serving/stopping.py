"""The end of a server: clients hear of it before their connections are closed."""

from __future__ import annotations

import asyncio
import socket

import uvicorn

from gossamer.serving.app import Server

SECONDS = 0.5


class Graceful(uvicorn.Server):
    """Told to stop, it takes no more connections, and answers on those that are there for a moment more.

    Every answer then says that its connection ends with it.
    A client that keeps its connection would else send its next request into one that is being closed, and lose it.

    Args:
        config: of uvicorn.
        server: what answers.
        seconds: how long.
    """

    def __init__(self, config: uvicorn.Config, server: Server, seconds: float = SECONDS):
        super().__init__(config)
        self.server, self.seconds = server, seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """What uvicorn does once it was told to stop."""
        for listening in self.servers:
            listening.close()
        self.server.stopping = True
        await asyncio.sleep(self.seconds)
        await super().shutdown(sockets)
