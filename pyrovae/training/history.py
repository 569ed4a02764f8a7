"""The history of a training."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["History"]


@dataclass
class History:
    """A list per quantity, with a value per epoch, in nats per datum.

    The training columns are means over the epoch's batches, each at its own parameters; the validation
    columns are of the epoch's end. ``elbo = reconstruction - kl``: E_q[log p(x|z)] less KL(q || p(z)), both
    unscaled; ``loss`` has all its scales. ``seconds`` count from the start of training, without pauses before
    a resumption; ``compile_seconds`` of them went into compiling.

    Example:
        >>> history = History()
        >>> history.append(epoch=0, elbo=-101.5, reconstruction=-80.0, kl=21.5)
        >>> len(history), history.elbo
        (1, [-101.5])
    """

    epoch: list[int] = field(default_factory=list)
    elbo: list[float] = field(default_factory=list)
    reconstruction: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    validation_elbo: list[float] = field(default_factory=list)
    validation_reconstruction: list[float] = field(default_factory=list)
    validation_kl: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    compile_seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.epoch)

    def append(self, **row: float) -> None:
        """Add one epoch."""
        for name, value in row.items():
            getattr(self, name).append(value)

    def row(self, index: int = -1) -> dict[str, float]:
        """One epoch's numbers by name, by default the latest.

        Example:
            >>> History(epoch=[0, 1], elbo=[-90.0, -80.0]).row(0)
            {'epoch': 0, 'elbo': -90.0}
        """
        columns = vars(self).items()
        return {name: values[index] for name, values in columns if isinstance(values, list) and values}
