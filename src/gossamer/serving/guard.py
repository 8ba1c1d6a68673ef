"""What stands before the application: whose requests are taken, how large they may be, and how long they may take to arrive."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1")  # names of this machine: under another, some page elsewhere asks
OPEN = ("/health", "/docs", "/openapi.json")  # asked for without a token

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class TooLarge(Exception):
    """A request has more bytes than are taken."""


class TooSlow(Exception):
    """A request takes longer to arrive than is waited for."""


class Guard:
    """An ASGI application before another: checks the token, and gives the other a body within bounds.

    Args:
        app: the other.
        token: that requests must bring as `Authorization: Bearer TOKEN`; None: none.
        max_bytes: of a body.
        seconds: that its bytes may take to arrive, all together.
        stopping: whether connections end with their next answer.
    """

    def __init__(self, app: Any, *, token: str | None, max_bytes: int, seconds: float, stopping: Callable[[], bool]):
        self.app, self.token, self.max_bytes, self.seconds, self.stopping = app, token, max_bytes, seconds, stopping

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self.token is not None and scope["path"] not in OPEN and not self._known(headers.get(b"authorization", b"")):
            await _refuse(
                send, 401, "a token is needed: Authorization: Bearer TOKEN", [(b"www-authenticate", b"Bearer")]
            )
            return
        length, bounded = headers.get(b"content-length", b"0"), Bounded(receive, self.max_bytes, self.seconds)
        if length.isdigit() and int(length) > self.max_bytes:
            if b"expect" not in headers:  # such a client waits for leave to send
                await bounded.let_go()
            await _refuse(send, 413, f"the body has {int(length):,} bytes; at most {self.max_bytes:,} are taken", [])
            return

        async def ending(message: Message) -> None:
            if message["type"] == "http.response.start" and self.stopping():
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self.app(scope, bounded, ending)

    def _known(self, said: bytes) -> bool:
        return hmac.compare_digest(said, b"Bearer " + (self.token or "").encode())


class Bounded:
    """The messages of a request, as long as they are within bounds."""

    def __init__(self, receive: Receive, max_bytes: int, seconds: float):
        self.receive, self.left, self.whole = receive, max_bytes, False
        self.end = asyncio.get_running_loop().time() + seconds

    async def __call__(self) -> Message:
        """The next message.

        Raises:
            TooLarge: the body has too many bytes.
            TooSlow: it did not arrive in time.
        """
        if self.whole:
            return await self.receive()  # it waits for the client to go
        message = await self._next()
        self.left -= len(message.get("body", b""))
        if self.left < 0:
            await self.let_go()
            raise TooLarge
        return message

    async def let_go(self) -> None:
        """Reads what is still to come, and keeps nothing, as long as a body may take to arrive.

        A client that is sent away while it sends sees a broken connection, and never the reason.
        """
        with contextlib.suppress(TooSlow):
            while not self.whole:
                await self._next()

    async def _next(self) -> Message:
        try:
            message = await asyncio.wait_for(self.receive(), max(0.0, self.end - asyncio.get_running_loop().time()))
        except asyncio.TimeoutError as error:
            raise TooSlow from error
        self.whole = not message.get("more_body", False)
        return message


async def _refuse(send: Send, status: int, detail: str, headers: list[tuple[bytes, bytes]]) -> None:
    body = json.dumps({"detail": detail}).encode()
    told = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": [*told, *headers]})
    await send({"type": "http.response.body", "body": body})
