"""The HTTP application: what can be asked, and what is answered."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse
from prometheus_client import CONTENT_TYPE_LATEST, Metric, generate_latest
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from torch import Tensor

from gossamer.errors import UnknownName, UserError
from gossamer.serving import page
from gossamer.serving.batching import Batcher, Full, Stopped
from gossamer.serving.catalogue import Catalogue, Served, probabilities
from gossamer.serving.guard import LOCAL, Guard, TooLarge, TooSlow
from gossamer.serving.images import TooManyPixels, decoded
from gossamer.serving.numbers import Counted, Numbers
from gossamer.version import __version__

DECODERS = 2  # threads that decode images: each may hold one of the largest
FIELD = "image"  # of a form
BODY = {"type": "string", "format": "binary"}
log = logging.getLogger("gossamer.serving")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server takes.

    Attributes:
        max_bytes: of a body.
        max_pixels: of an image.
        seconds: that a request may take to arrive, and as many that it may wait for its answer.
        room: requests that wait; further ones are sent away.
        max_batch: images in a batch.
        max_wait: seconds that the first of a batch waits for others.
    """

    max_bytes: int = 10_000_000
    max_pixels: int = 25_000_000
    seconds: float = 30.0
    room: int = 256
    max_batch: int = 32
    max_wait: float = 0.005


class Prediction(BaseModel):
    """What a classifier says of an image."""

    adapter: str
    label: str
    probability: float
    probabilities: dict[str, float]


class Described(BaseModel):
    """A classifier that is served."""

    name: str
    labels: list[str]
    size: int
    backbone: str


class Server:
    """Everything that lives as long as the server: classifiers, batches, numbers.

    Args:
        catalogue: what is served.
        limits: what is taken.

    Attributes:
        stopping: whether it is about to end; connections then end with the next answer.
    """

    def __init__(self, catalogue: Catalogue, limits: Limits):
        self.catalogue, self.limits, self.numbers = catalogue, limits, Numbers()
        self.stopping = False
        self.decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="images")
        self.batcher = Batcher(
            probabilities,
            max_batch=limits.max_batch,
            max_wait=limits.max_wait,
            room=limits.room,
            seen=self.numbers.batches.observe,
        )

    async def predict(self, name: str, data: bytes) -> dict[str, float]:
        """Label -> probability, likeliest first, of a file's bytes."""
        served = self.catalogue[name]
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(self.decoders, self._prepared, served, data)
        kind = id(served.mixed), served.preprocessing.size
        return await self.batcher.ask((served, pixels), kind)

    def _prepared(self, served: Served, data: bytes) -> Tensor:
        return served.preprocessing(decoded(data, self.limits.max_pixels))

    async def counted(self) -> list[Metric]:
        """What is counted, as things stand."""
        self.numbers.now(self.batcher.waiting.qsize(), self.catalogue)
        return list(self.numbers.registry.collect())

    def reload(self) -> str | None:
        """Reads the folders again. Where one cannot be read, the log says so, as the answer does, and all stay as they were."""
        try:
            self.catalogue.reload()
        except (UserError, OSError) as error:
            log.error("not reloaded, and as before: %s", error)
            return str(error)
        log.info("reloaded: %s", ", ".join(self.catalogue.served))
        return None

    def close(self) -> None:
        """Ends when what waited was answered."""
        self.stopping = True
        self.batcher.close()
        self.decoders.shutdown()


def application(server: Server, *, token: str | None = None, hosts: tuple[str, ...] = LOCAL) -> Any:
    """The ASGI application of a server, which it closes in the end.

    Args:
        server: what answers.
        token: that requests must bring; None: none.
        hosts: names by which it may be called, "*" for any.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.close)

    app = FastAPI(title="Gossamer", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.server = server
    app.add_api_route(
        "/adapters", adapters, methods=["GET"], response_description="names, labels, sizes of images and backbones"
    )
    app.add_api_route(
        "/adapters/{name}/predict", predict, methods=["POST"], response_description="the likeliest label, and probabilities",
        responses={code: {"description": said} for code, said in SAID.items()},
        openapi_extra={"requestBody": {"required": True, "content": {
            "image/*": {"schema": BODY},
            "multipart/form-data": {"schema": {"type": "object", "properties": {FIELD: BODY}, "required": [FIELD]}},
        }}},
    )  # fmt: skip
    app.add_api_route("/health", health, methods=["GET"], response_description="they are; 503 while it stops")
    app.add_api_route(
        "/metrics", metrics, methods=["GET"], response_class=Response, response_description="a number a line"
    )
    app.add_api_route("/docs", docs, methods=["GET"], response_class=HTMLResponse, include_in_schema=False)
    app.add_middleware(
        Guard,
        token=token,
        max_bytes=server.limits.max_bytes,
        seconds=server.limits.seconds,
        stopping=lambda: server.stopping,
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    return app


SAID = {
    400: "there is no image in the body",
    401: "the token is missing or wrong",
    404: "there is no such adapter",
    408: "the body did not arrive in time",
    413: "the body has too many bytes, or the image too many pixels",
    415: "the body is no image that can be read",
    422: "`top` is no number from 1 on",
    503: "too many requests wait, or the server is stopping",
    504: "the answer took too long",
}
"""What each status means."""


async def adapters(request: Request) -> list[Described]:
    """The classifiers that are served."""
    served: Mapping[str, Served] = request.app.state.server.catalogue.served
    return [
        Described(name=name, labels=list(s.labels), size=s.preprocessing.size, backbone=s.backbone)
        for name, s in served.items()
    ]


async def predict(request: Request, name: str, top: Annotated[int | None, Query(ge=1)] = None) -> Prediction:
    """The label of an image: the body is an image file, or a form with one in the field `image`.

    `top`: how many of the likeliest labels are listed; all by default.
    """
    server: Server = request.app.state.server
    began, status, known = time.perf_counter(), 500, name if name in server.catalogue.served else ""
    try:
        found = await _answered(server, request, name)
        status = 200
    except HTTPException as error:
        status = error.status_code
        raise
    finally:
        server.numbers.answered(known, status, time.perf_counter() - began)
    label, share = next(iter(found.items()))
    return Prediction(adapter=name, label=label, probability=share, probabilities=dict(list(found.items())[:top]))


async def _answered(server: Server, request: Request, name: str) -> dict[str, float]:
    limits = server.limits
    try:
        server.catalogue[name]
        data = await _image(request)
        return await asyncio.wait_for(server.predict(name, data), limits.seconds)
    except UnknownName as error:
        raise HTTPException(404, str(error)) from error
    except TooManyPixels as error:
        raise HTTPException(413, str(error)) from error
    except UserError as error:
        raise HTTPException(415, str(error)) from error
    except TooLarge as error:
        raise HTTPException(413, f"the body has more than {limits.max_bytes:,} bytes", CLOSE) from error
    except TooSlow as error:
        raise HTTPException(408, f"the body did not arrive within {limits.seconds:g} s", CLOSE) from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the body ended early", CLOSE) from error
    except (Full, Stopped) as error:
        raise HTTPException(503, str(error), {"retry-after": "1"}) from error
    except asyncio.TimeoutError as error:
        raise HTTPException(504, f"there was no answer within {limits.seconds:g} s") from error


CLOSE = {"connection": "close"}  # what is left of the body is not read


async def _image(request: Request) -> bytes:
    """The bytes of the image in a request."""
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        async with request.form(max_files=1, max_fields=1) as form:
            file = form.get(FIELD)
            data = await file.read() if isinstance(file, UploadFile) else b""
    else:
        data = await request.body()
    if not data:
        raise HTTPException(400, f"there is no image: send a file as the body, or as the field {FIELD!r} of a form")
    return data


async def health(request: Request) -> dict[str, str]:
    """Whether requests are taken."""
    if request.app.state.server.stopping:
        raise HTTPException(503, "the server is stopping")
    return {"status": "ok"}


async def metrics(request: Request) -> Response:
    """Numbers in the form of Prometheus."""
    server: Server = request.app.state.server
    return Response(generate_latest(Counted(await server.counted())), media_type=CONTENT_TYPE_LATEST)


async def docs(request: Request) -> str:
    """This description, for people."""
    return page.of(request.app.openapi())
