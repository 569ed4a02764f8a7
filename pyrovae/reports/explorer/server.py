"""The page's server: a few files and questions, one computation at a time, for this machine alone."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from torch import Tensor

from pyrovae.core.checks import one_line
from pyrovae.reports.explorer.answers import QUESTIONS, StoppedError, open_run

__all__ = ["app", "serve"]

HOST = "127.0.0.1"  # never another: whoever reaches the page can make the machine compute
LARGEST = 1 << 19  # bytes of a question: 16,384 numbers and some
LOOK, PATIENCE = 0.1, 10  # seconds from look to look whether anybody waits, and for a computation to end
FILES = {
    path.name: path for path in Path(__file__).parent.iterdir() if path.suffix in (".html", ".css", ".js")
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def serve(
    run_folder: Path, *, port: int = 0, root: str | os.PathLike[str] | None = None, browser: bool = False
) -> None:
    """Serve a run's page on 127.0.0.1 at ``port``, a free one if 0, and print its address; Ctrl-C ends it."""
    try:
        listening = socket.create_server((HOST, port))  # before the model is loaded, which takes seconds
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise OSError(f"port {port} cannot be had ({reason}): name another, or 0 for a free one") from error
    with listening:
        application = app(run_folder, root)
        address = f"http://{HOST}:{listening.getsockname()[1]}/"
        try:
            print(f"{run_folder}: {address} (Ctrl-C ends it)", flush=True)
            if browser:
                _open(address)
            options: dict[str, Any] = {"lifespan": "off", "log_level": "warning"}
            server = uvicorn.Server(
                uvicorn.Config(application, timeout_graceful_shutdown=PATIENCE, **options)
            )
            application.state.ending = lambda: server.should_exit
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            print()


def _open(address: str) -> None:
    """Open a browser with windows: a text browser would take the terminal."""
    with suppress(webbrowser.Error):
        if type(found := webbrowser.get()) is not webbrowser.GenericBrowser:
            found.open(address)


def app(run_folder: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> FastAPI:
    """The application that serves a run's page, to be run on 127.0.0.1; see :func:`serve`.

    ``GET /`` is the page and ``GET /about`` what it is laid out by. ``POST /decode``, ``/draw``, ``/encode``
    and ``/evaluate`` take and give JSON; what cannot be answered has ``{"error": "one line"}``.
    """
    run = open_run(Path(run_folder), root)
    # Pyro's stack of handlers and torch's generator are the process's: two computations would mix them up.
    one_at_a_time = asyncio.Lock()
    # No pages of documentation: they load their scripts from the network.
    made = FastAPI(title="pyrovae explore", docs_url=None, redoc_url=None, openapi_url=None)
    made.state.ending = lambda: False  # whether the server is about to end
    made.add_middleware(_Guard)
    # A page elsewhere whose name is made to point here (DNS rebinding) has another host.
    made.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)
    made.add_exception_handler(HTTPException, _refused)

    @made.get("/about")
    async def about() -> Response:
        return JSONResponse(_plain(run.about))

    @made.get("/")
    @made.get("/{name}")
    async def file(name: str = "page.html") -> Response:
        if name not in FILES:
            raise HTTPException(404, "there is no such page, open /")
        return FileResponse(FILES[name])

    @made.post("/{name}")
    async def answer(name: str, request: Request) -> Response:
        if name not in QUESTIONS:
            raise HTTPException(404, "there is no such page, open /")
        try:
            question = QUESTIONS[name].model_validate_json(await request.body())
        except ValidationError as error:
            problems = one_line(error).split("; ")
            more = [f"and {len(problems) - 2:,} more"] if len(problems) > 2 else []
            return _error(422, "; ".join(problems[:2] + more))
        async with one_at_a_time:
            run.stop.clear()
            computing = asyncio.ensure_future(run_in_threadpool(getattr(run, name), question))
            while not computing.done():
                await asyncio.wait({computing}, timeout=LOOK)
                if made.state.ending() or await request.is_disconnected():
                    run.stop.set()
        try:
            return JSONResponse(_plain(computing.result()))
        except StoppedError:
            return _error(503, "stopped before there was an answer")
        except (ValueError, RuntimeError) as error:
            return _error(422, one_line(error))

    return made


class _Guard:
    """Refuses, before anything is read, what a page of another site could send, and what is too large.

    Plain ASGI: through Starlette's BaseHTTPMiddleware nobody sees that a client has gone.
    """

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
    if not length.isdecimal():
        return _error(411, "send a Content-Length")
    if len(length.lstrip("0")) > len(str(LARGEST)) or int(length) > LARGEST:
        return _error(413, f"at most {LARGEST:,} bytes are read")
    return None


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, f"{request.method} {request.url.path}: {error.detail}")


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)


def _plain(value: Any) -> Any:
    """Tensors as lists; inf and nan, which JSON lacks, as words."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
