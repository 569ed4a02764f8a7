"""Serve the page until Ctrl-C."""

from __future__ import annotations

import os
import socket
import threading
import webbrowser
from pathlib import Path

import uvicorn

from pyrovae.reports.explorer.server import app

__all__ = ["serve"]

HOST = "127.0.0.1"
"""Never another: whoever reaches the page can make the machine compute."""

PATIENCE = 10
"""Seconds that a computation may take to notice the end: it looks every time the model is run."""


def serve(
    run_folder: Path, *, port: int = 0, root: str | os.PathLike[str] | None = None, browser: bool = False
) -> None:
    """Serve a run's page on 127.0.0.1, and print its address; Ctrl-C ends it.

    Args:
        run_folder: Of a run that was trained.
        port: Where; a free one if 0.
        root: Folder of the data sets; see :func:`pyrovae.datasets.load`.
        browser: Open it in a browser.

    Raises:
        OSError: The port is taken, or not ours to take.
        FileNotFoundError: As :func:`app`.
        ValueError: Likewise.
    """
    with _bound(port) as listening:  # before the model is loaded, which takes seconds
        made = app(run_folder, root)
        listening.listen()
        address = f"http://{HOST}:{listening.getsockname()[1]}/"
        try:
            print(f"{run_folder}: {address} (Ctrl-C ends it)", flush=True)
            if browser:
                threading.Thread(target=_open, args=(address,), daemon=True).start()
            config = uvicorn.Config(
                made, lifespan="off", log_level="warning", timeout_graceful_shutdown=PATIENCE
            )
            server = uvicorn.Server(config)
            made.state.ending = lambda: server.should_exit
            server.run(sockets=[listening])
        except KeyboardInterrupt:  # the way it is meant to end, from the moment that it was said
            print()


def _bound(port: int) -> socket.socket:
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # Else a server that ended keeps its port for a minute.
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((HOST, port))
    except (OSError, OverflowError) as error:
        taken.close()
        reason = error.strerror if isinstance(error, OSError) else "out of range"
        raise OSError(f"port {port} cannot be had ({reason}): name another, or 0 for a free one") from error
    return taken


def _open(address: str) -> None:
    """In a browser with windows: one of text would take the terminal."""
    try:
        found = webbrowser.get()
    except webbrowser.Error:
        return
    if type(found) is not webbrowser.GenericBrowser:
        found.open(address)
