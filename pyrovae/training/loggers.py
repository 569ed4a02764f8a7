"""Where the numbers of a training go, epoch by epoch: a file, TensorBoard, Weights & Biases. No torch.

Pass them to fit among its callbacks; a logger of one's own is any object with the three methods of
:class:`Logger`, and a plain function of a row is :class:`pyrovae.callbacks.Log`'s.
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
    """What takes the rows of a training.

    A row has the epoch's numbers by their names in :class:`pyrovae.History`, ``epoch`` among them; a row is
    complete when it is written, and a killed process loses none that was. A run that is killed goes on from
    its last checkpoint, and repeats what came after: ``open`` sees to it that no epoch is there twice. A
    logger has no part in what is trained. One that raises is warned of once, and training goes on.
    """

    def open(self, epoch: int) -> int:
        """Called once, before the first row: drop what is there of this epoch and of later ones.

        Returns:
            The first epoch whose row the log lacks, this one at most: rows are written from there on.
        """

    def write(self, row: dict[str, float]) -> None:
        """Write one epoch's row."""

    def close(self) -> None:
        """Let go of files and connections. Rows that were written are there without it."""


class JSONLines:
    """A line of JSON for each epoch, appended, with every digit: the log that each run folder has.

    Args:
        path: The file; its folder is there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = JSONLines(Path(folder) / "log.jsonl")
        ...     log.open(0)
        ...     log.write({"epoch": 0, "elbo": -90.5})
        ...     print(log.path.read_text(), end="")
        0
        {"epoch": 0, "elbo": -90.5}
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def open(self, epoch: int) -> int:
        """Keep the lines of the epochs before, as far as they follow one another; one cut short goes."""
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []
        kept: list[bytes] = []
        for line in lines:
            if len(kept) == epoch or _epoch(line) != len(kept):
                break
            kept.append(line + b"\n")
        write_file(self.path, b"".join(kept))
        return len(kept)

    def write(self, row: dict[str, float]) -> None:
        """Append a line, and see to it that it is on the disk."""
        with self.path.open("ab") as file:
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Nothing is held open."""


class TensorBoard:
    """Scalars for TensorBoard, at the epoch as step, float32; by PyTorch's own writer.

    Args:
        folder: Of its event files, one training's: ``tensorboard --logdir`` on it, or above it.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        needs("tensorboard")
        self.folder = Path(folder)
        self._writer: SummaryWriter | None = None

    def open(self, epoch: int) -> int:
        """Begin a file of events; readers pass over what older ones have of this epoch and later ones."""
        from torch.utils.tensorboard import SummaryWriter

        there = any(self.folder.glob("events.out.tfevents.*"))
        self._writer = SummaryWriter(str(self.folder), purge_step=epoch if there else None)
        return epoch if there else 0

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
    """Rows for Weights & Biases, at the epoch as step.

    A run of theirs begins at once, so that a missing login is told of before anything is trained. Without
    a network: ``WANDB_MODE=offline``, and ``wandb sync`` later.

    Args:
        folder: Where its files go. The run's id is kept there, so that a training that goes on is the same
            run; of an epoch that comes again W&B keeps the row that it has.
        options: Of ``wandb.init``, such as ``project``, ``name`` and ``config``.

    Raises:
        ImportError: wandb is not installed.
        OSError: It does not start.
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
        """All rows, of a run that is new; else from this epoch on."""
        return epoch if self._known else 0

    def write(self, row: dict[str, float]) -> None:
        """Log the row."""
        self._run.log(row, step=int(row["epoch"]))

    def close(self) -> None:
        """End their run."""
        self._run.finish()


def of_run(folder: Path, name: str | None, config: dict[str, Any]) -> list[Logger]:
    """The loggers of a run folder: ``log.jsonl``, and the one that was asked for, in ``logs/``.

    Args:
        folder: Of the run.
        name: "tensorboard", "wandb" or None.
        config: What is trained.
    """
    found: list[Logger] = [JSONLines(folder / "log.jsonl")]
    if name == "tensorboard":
        found.append(TensorBoard(folder / "logs" / name))
    if name == "wandb":
        project = os.environ.get("WANDB_PROJECT", "pyrovae")
        about = {"project": project, "name": folder.absolute().name, "config": config}
        found.append(WandB(folder / "logs" / name, **about))
    return found


def needs(name: str) -> None:
    """Make sure that a logger's package is there.

    Raises:
        ImportError: It is not; the extra is named.
    """
    try:
        found = import_module(name).__file__  # None of a folder of that name, as wandb leaves them
    except ImportError:
        found = None
    if found is None:
        raise ImportError(f"logging to {name} needs {name}: pip install 'pyrovae[{name}]'")


def _epoch(line: bytes) -> Any:
    try:
        return json.loads(line)["epoch"]
    except (ValueError, KeyError, TypeError):
        return None
