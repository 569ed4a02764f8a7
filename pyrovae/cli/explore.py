"""``pyrovae explore``: a page on a run's latent space and on single data."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pyrovae.cli.commands import DONE, RunFolder
from pyrovae.runs.recipe import read_run

__all__ = ["Explore"]


@dataclass(kw_only=True)
class Explore:
    """Serve a local page to move through a run's latent space, and to see what it makes of a datum."""

    folder: RunFolder
    """Folder of the run."""
    port: int = 0
    """Port on 127.0.0.1; a free one if 0."""
    browser: bool = True
    """Open the page in a browser too."""
    root: Path | None = None
    """Folder of the data sets, if not $PYROVAE_DATA."""

    def run(self) -> int:
        """Serve until Ctrl-C, with exit code 0."""
        if not 0 <= self.port < 2**16:
            raise ValueError(f"--port is {self.port}: 1 to 65535 are possible, or 0 for a free one")
        read_run(self.folder)
        for name in ("fastapi", "uvicorn"):
            if find_spec(name) is None:
                raise ImportError(f'explore needs {name}: pip install "pyrovae[explore]"')

        from pyrovae.reports.explorer import serve

        serve(self.folder, port=self.port, root=self.root, browser=self.browser)
        return DONE
