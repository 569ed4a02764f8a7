"""``pyrovae explore``: a page to move through a run's latent space, and to look at single data."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import tyro

from pyrovae.runs.recipe import read_run

__all__ = ["Explore"]


class Explore:
    """Serve a local page to move through a run's latent space, and to see what it makes of a datum."""

    def __init__(
        self,
        run: tyro.conf.Positional[Path],
        /,
        port: int = 0,
        browser: bool = True,
        root: Path | None = None,
    ) -> None:
        """Take the arguments.

        Args:
            run: Folder of the run.
            port: Where on 127.0.0.1; a free port if 0.
            browser: Open the page in a browser too.
            root: Folder of the data sets, where not $PYROVAE_DATA.
        """
        if not 0 <= port < 2**16:
            raise ValueError(f"--port is {port}: 1 to 65535 are possible, or 0 for a free one")
        self.folder, self.port, self.browser, self.root = run, port, browser, root

    def run(self) -> int:
        """Serve until Ctrl-C, which is its good end: exit code 0."""
        read_run(self.folder)
        for name in ("fastapi", "uvicorn"):
            if find_spec(name) is None:
                raise ImportError(f'explore needs {name}: pip install "pyrovae[explore]"')

        from pyrovae.reports.explorer import serve

        serve(self.folder, port=self.port, root=self.root, browser=self.browser)
        return 0
