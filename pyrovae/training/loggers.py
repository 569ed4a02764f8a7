"""Where the numbers of each epoch go: a JSON file, TensorBoard, Weights & Biases. No torch.

Pass loggers to fit among its callbacks. Any object with the three methods of :class:`Logger` is one; wrap a
plain function of a row in :class:`pyrovae.callbacks.Log`.
"""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pyrovae.storage.files import write_file

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["JSONLines", "Logger", "TensorBoard", "WandB", "needs", "of_run"]


@runtime_checkable
class Logger(Protocol):
    """What takes the rows of a training: an epoch's numbers by their names in :class:`pyrovae.History`.

    A run that was killed repeats the epochs after its last checkpoint; ``open`` keeps them from being there
    twice. A logger that raises is warned of once, and training goes on.
    """

    def open(self, epoch: int) -> int:
        """Called once, before the first row: drop rows of this epoch and of later ones.

        Returns:
            The first epoch whose row the log lacks, this one at most; rows are written from there on.
        """

    def write(self, row: dict[str, float]) -> None:
        """Write one epoch's row, so that a kill does not lose it."""

    def close(self) -> None:
        """Close files and connections."""


class JSONLines:
    """Append each epoch to a file as a line of JSON, with every digit; each run folder has such a log.

    Args:
        path: The file, in a folder that exists.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = JSONLines(Path(folder) / "log.jsonl")
        ...     first = log.open(0)
        ...     log.write({"epoch": 0, "elbo": -90.5})
        ...     print(log.path.read_text(), end="")
        {"epoch": 0, "elbo": -90.5}
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def open(self, epoch: int) -> int:
        """Keep the complete lines of the epochs before, as far as these follow one another."""
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []
        kept: list[bytes] = []
        for line in lines[:epoch]:
            if _epoch(line) != len(kept):
                break
            kept.append(line + b"\n")
        write_file(self.path, b"".join(kept))
        return len(kept)

    def write(self, row: dict[str, float]) -> None:
        """Append a line, and wait until it is on the disk."""
        with self.path.open("ab") as file:
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Nothing is held open."""


class TensorBoard:
    """Write scalars for TensorBoard, float32, with the epoch as step, by PyTorch's SummaryWriter.

    Args:
        folder: Folder of one training's event files, for ``tensorboard --logdir``.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        needs("tensorboard")
        self.folder = Path(folder)
        self._writer: SummaryWriter | None = None

    def open(self, epoch: int) -> int:
        """Begin a file of events; readers skip this epoch and later ones in older files."""
        from torch.utils.tensorboard import SummaryWriter

        exists = any(self.folder.glob("events.out.tfevents.*"))
        self._writer = SummaryWriter(str(self.folder), purge_step=epoch if exists else None)
        return epoch if exists else 0

    def write(self, row: dict[str, float]) -> None:
        """Write a scalar for each number, and flush."""
        assert self._writer is not None, "open comes first"
        for name in row.keys() - {"epoch"}:
            self._writer.add_scalar(name, row[name], int(row["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


class WandB:
    """Write rows to Weights & Biases, with the epoch as step.

    The W&B run begins at once, so that a missing login is noticed before training. Without a network set
    ``WANDB_MODE=offline``, and run ``wandb sync`` later.

    Args:
        folder: Folder of its files and of the run's id, by which a resumed training is the same W&B run.
        options: Options of ``wandb.init``, such as ``project``, ``name`` and ``config``.

    Raises:
        ImportError: wandb is not installed.
        OSError: wandb does not start.
    """

    def __init__(self, folder: str | os.PathLike[str], **options: Any) -> None:
        needs("wandb")
        import wandb

        path = Path(folder) / "id"
        self._known = path.is_file()
        identity = path.read_text().strip() if self._known else os.urandom(4).hex()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(dir=str(folder), id=identity, resume="allow", **options)
        except Exception as error:
            raise OSError(
                f"wandb does not start ({' '.join(str(error).split())}): log in by `wandb login`, or set "
                f"WANDB_MODE=offline"
            ) from error
        write_file(path, identity + "\n")

    def open(self, epoch: int) -> int:
        """Write all rows of a new run, or those from this epoch on."""
        return epoch if self._known else 0

    def write(self, row: dict[str, float]) -> None:
        """Log the row."""
        self._run.log(row, step=int(row["epoch"]))

    def close(self) -> None:
        """End the W&B run."""
        self._run.finish()


def of_run(folder: Path, name: str | None, config: dict[str, Any]) -> list[Logger]:
    """The loggers of a run folder: ``log.jsonl``, and "tensorboard" or "wandb" in ``logs/`` if asked for."""
    loggers: list[Logger] = [JSONLines(folder / "log.jsonl")]
    if name == "tensorboard":
        loggers.append(TensorBoard(folder / "logs" / name))
    if name == "wandb":
        options = {"project": os.environ.get("WANDB_PROJECT", "pyrovae"), "name": folder.absolute().name}
        loggers.append(WandB(folder / "logs" / name, config=config, **options))
    return loggers


def needs(name: str) -> None:
    """Raise an ImportError that names the extra, unless a logger's package is installed."""
    try:
        file = import_module(name).__file__  # None for a folder of that name, as wandb leaves them
    except ImportError:
        file = None
    if file is None:
        raise ImportError(f"logging to {name} needs {name}: pip install 'pyrovae[{name}]'")


def _epoch(line: bytes) -> Any:
    try:
        return json.loads(line)["epoch"]
    except (ValueError, KeyError, TypeError):
        return None
