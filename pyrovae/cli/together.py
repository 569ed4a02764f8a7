"""A command in one of several processes, started by torchrun. Torch is imported only in that case."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from pyrovae.core import launch
from pyrovae.runs.folder import check_folder
from pyrovae.storage.locks import locked

__all__ = ["all_agree", "prepared", "together"]


@contextmanager
def together() -> Iterator[None]:
    """Join the group of all processes inside the block, where the first one prints."""
    if launch.place() is None:
        yield
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # the error has the message, without C++ stacks
    from pyrovae.core.distributed import is_first, joined

    try:
        with joined(), ExitStack() as stack:
            if not is_first():
                stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            yield
    except Exception as error:
        if not (isinstance(error, FloatingPointError) or hasattr(error, "common")):
            error.own = True  # type: ignore[attr-defined]
        raise


def all_agree() -> Any:
    """A block that all processes leave together; an error in one is raised in all."""
    if launch.place() is None:
        return nullcontext()
    from pyrovae.core.distributed import collective

    return collective()


@contextmanager
def prepared(folder: Path, prepare: Callable[[], Any]) -> Iterator[None]:
    """Lock and prepare a run's folder in the first process, while the others wait for it."""
    with ExitStack() as stack:
        with all_agree():
            if launch.is_main_process():
                check_folder(folder)
                stack.enter_context(locked(folder / "lock"))
                prepare()
        yield
