"""The page's server: a few files, a few questions, one computation at a time, for this machine alone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pyrovae.core.checks import one_line
from pyrovae.reports.explorer.answers import Explored, StoppedError, explored
from pyrovae.reports.explorer.asked import Code, Datum, Draw, Evaluated

__all__ = ["app"]

HOSTS = ["127.0.0.1", "localhost"]
"""Names of this machine. A page elsewhere whose name is made to point here (DNS rebinding) has another."""

LARGEST = 1 << 19
"""Bytes of a question: 16,384 numbers and some."""

LOOK = 0.1
"""Seconds from one look to the next whether anybody waits for an answer still."""

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
FILES = {path.name: path for path in Path(__file__).parent.iterdir() if path.suffix in TYPES}

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def app(run_folder: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> FastAPI:
    """The application that serves a run's page, to be run on 127.0.0.1; see :func:`serve`.

    ``GET /`` is the page and ``GET /about`` what it is laid out by. ``POST /decode``, ``/draw``, ``/encode``
    and ``/evaluate`` take and give JSON; what cannot be answered has ``{"error": "one line"}``.

    Args:
        run_folder: Of a run that was trained.
        root: Folder of the data sets; see :func:`pyrovae.datasets.load`.

    Raises:
        FileNotFoundError: There is no run, or there are no data.
        ValueError: It is damaged, or the data are others than it was trained on.
    """
    run = explored(Path(run_folder), root)
    # No pages of documentation: they load their scripts from the network.
    made = FastAPI(title="pyrovae explore", docs_url=None, redoc_url=None, openapi_url=None)
    made.state.ending = lambda: False  # whether the server is about to; see serving.py
    _routes(made, run)
    made.add_middleware(_Guard)
    made.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)
    made.add_exception_handler(RequestValidationError, _invalid)
    made.add_exception_handler(HTTPException, _refused)
    return made


def _routes(made: FastAPI, run: Explored) -> None:
    # Pyro's stack of handlers and torch's generator are the process's: two computations would mix them up.
    one_at_a_time = asyncio.Lock()

    async def answer(request: Request, compute: Callable[[Any], dict[str, Any]], asked: Any) -> Response:
        async with one_at_a_time:
            run.stop.clear()
            computing = asyncio.ensure_future(run_in_threadpool(compute, asked))
            while not computing.done():
                await asyncio.wait({computing}, timeout=LOOK)
                if made.state.ending() or await request.is_disconnected():
                    run.stop.set()
        try:
            return JSONResponse(computing.result())
        except StoppedError:
            return _error(503, "stopped before there was an answer")
        except (ValueError, RuntimeError, NotImplementedError) as error:
            return _error(422, one_line(error))

    @made.get("/")
    async def page() -> Response:
        return FileResponse(FILES["page.html"], media_type=TYPES[".html"])

    @made.get("/about")
    async def about() -> Response:
        return JSONResponse(run.about())

    @made.get("/{name}")
    async def file(name: str) -> Response:
        if name not in FILES:
            raise HTTPException(404)
        return FileResponse(FILES[name], media_type=TYPES[FILES[name].suffix])

    @made.post("/decode")
    async def decode(request: Request, asked: Code) -> Response:
        return await answer(request, run.decode, asked)

    @made.post("/draw")
    async def draw(request: Request, asked: Draw) -> Response:
        return await answer(request, run.draw, asked)

    @made.post("/encode")
    async def encode(request: Request, asked: Datum) -> Response:
        return await answer(request, run.encode, asked)

    @made.post("/evaluate")
    async def evaluate(request: Request, asked: Evaluated) -> Response:
        return await answer(request, run.evaluate, asked)


class _Guard:
    """Refuses what a page of another site could send, and what is too large, before anything is read."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = _refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send_with_headers)


def _refusal(request: Request) -> Response | None:
    origin = request.headers.get("origin")
    if origin is not None and origin != f"{request.url.scheme}://{request.headers.get('host')}":
        return _error(403, f"a page of {origin} may not ask: open this server's own")
    if request.method != "POST":
        return None
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return _error(415, "send JSON, with Content-Type: application/json")
    length = request.headers.get("content-length", "")
    if not length.isascii() or not length.isdigit():
        return _error(411, "send a Content-Length")
    digits = length.lstrip("0")  # of a number that may be longer than Python reads
    if len(digits) > 9 or int(digits or 0) > LARGEST:
        return _error(413, f"at most {LARGEST:,} bytes are read")
    return None


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [
        (".".join(map(str, e["loc"][1:])), e["msg"].removeprefix("Value error, ")) for e in error.errors()
    ]
    said = [f"{where}: {what}" if where else what for where, what in found]
    more = f"; and {len(said) - 2:,} more" if len(said) > 2 else ""
    return _error(422, " ".join(f"{'; '.join(said[:2])}{more}".split()))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _error(404, f"{request.url.path}: there is no such page, open /")
    return _error(error.status_code, f"{request.method} {request.url.path}: {error.detail}")


def _error(status: int, said: str) -> Response:
    return JSONResponse({"error": said}, status)
