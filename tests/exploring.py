"""Runs to explore, and their page at an address of its own."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager

import torch
import uvicorn

from pyrovae.runs.build import build, load_data
from pyrovae.runs.folder import describe
from pyrovae.runs.recipe import Recipe
from pyrovae.runs.saving import save

HERE = "http://127.0.0.1"


def stored(folder, root=None, **recipe):
    """A run that was not trained, which makes no difference here."""
    recipe = Recipe(**{"hidden": (16,), **recipe})
    dataset = load_data(recipe, root)
    features = dataset.train.values.shape[1]
    torch.manual_seed(0)
    vae = build(recipe, features, dataset.train.shape, dataset.train)
    save(vae, folder, describe(recipe, dataset, features))
    return folder


@contextmanager
def served(app):
    """The application at an address of its own, in a thread."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"{HERE}:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(60)


def request_of(path, **question):
    text = json.dumps(question)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(text)}\r\n"
    return f"{head}Content-Type: application/json\r\n\r\n{text}".encode()
