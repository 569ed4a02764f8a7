"""A pair of programs for Lightning: a LightningModule with fit's loss, and checkpoints that pv.load reads.

Lightning is an extra and takes seconds to import, so that its base classes are looked up at the first use.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor

from pyrovae.core.clock import Clock
from pyrovae.core.modules import Program, copy_into, of_programs
from pyrovae.core.programs import plain_errors
from pyrovae.runs.folder import MODEL
from pyrovae.runs.saving import describe_model
from pyrovae.storage.checkpoints import CHECKPOINTS, Checkpoints
from pyrovae.storage.files import write_file
from pyrovae.training.loss import TrackedLoss
from pyrovae.training.optimisers import MakeOptimizer, MakeScheduler, make_optimizer, make_scheduler

PARTS = ("loss", "elbo", "reconstruction", "kl")


def lightning_module(
    model: Program,
    guide: Program,
    loss: ELBO | None = None,
    optimizer: torch.optim.Optimizer | MakeOptimizer | None = None,
    *,
    scheduler: MakeScheduler | None = None,
    example: Tensor | tuple[Tensor, ...] | None = None,
) -> Any:
    """The training of a pair as a ``lightning.LightningModule``.

    Each step has the loss of :func:`pyrovae.fit`, a sum over the batch, and logs per datum ``loss``,
    ``elbo``, ``reconstruction`` and ``kl``, and ``validation_elbo`` and so on for validation data, as
    :class:`pyrovae.History` has them. Noise and order are Lightning's: ``lightning.seed_everything`` fixes
    them, and training resumes at the start of an epoch. Compiled steps, exact resuming and rollback are
    ``fit``'s alone.

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z | x).
        loss: A Pyro ELBO; by default ``Trace_ELBO()``.
        optimizer: A torch optimiser of all parameters, or a function that makes one from the list of
            parameters; by default fused ``Adam`` with learning rate 1e-3.
        scheduler: A function that makes a learning-rate scheduler of torch from the optimiser; it steps after
            each epoch.
        example: A few rows of data, for programs that make their parameters when they first run.

    Returns:
        The module. Its batches are tensors, or tuples of them: the arguments of the programs.

    Raises:
        ImportError: Lightning is not installed.
        ValueError: There is no trainable parameter.
        TypeError: The loss has no value to differentiate.

    Example:
        >>> import pyrovae as pv
        >>> from pyrovae import guides, likelihoods, networks, priors
        >>> q = guides.Normal(networks.MLP(9, 4))
        >>> vae = pv.VAE(priors.StandardNormal(2), likelihoods.Bernoulli(networks.MLP(2, 9)), q)
        >>> module = lightning_module(vae.model, vae.guide)  # doctest: +SKIP
        >>> trainer = lightning.Trainer(plugins=[lightning_checkpoints(module)])  # doctest: +SKIP
        >>> trainer.fit(module, torch.utils.data.DataLoader(x, 128, shuffle=True))  # doctest: +SKIP
        >>> vae = pv.load(trainer.checkpoint_callback.best_model_path, vae)  # doctest: +SKIP
    """
    return _module_class()(model, guide, loss or Trace_ELBO(), optimizer, scheduler, example)


def lightning_checkpoints(module: Any) -> Any:
    """A CheckpointIO plugin whose checkpoints are folders that :func:`pyrovae.load` reads.

    ``pv.load(path, vae)`` loads the weights into a model built the same way; Lightning's ``ckpt_path``
    resumes the training. Files are complete or absent, carry their SHA-256, and hold no pickle.

    Args:
        module: The module of :func:`lightning_module` that is trained.

    Returns:
        The plugin, for ``lightning.Trainer(plugins=[...])``.

    Raises:
        ImportError: Lightning is not installed.
    """
    return _checkpoints_class()(module)


class _Steps:
    """The methods of the module."""

    log_dict: Any
    current_epoch: Any

    def __init__(
        self,
        model: Program,
        guide: Program,
        loss: ELBO,
        optimizer: Any,
        scheduler: MakeScheduler | None,
        example: Any,
    ) -> None:
        super().__init__()
        self.meter = TrackedLoss(model, guide, loss)
        if not hasattr(loss, "differentiable_loss"):
            raise TypeError(
                f"lightning_module: {type(loss).__name__} adds gradients itself, and Lightning "
                f"differentiates a value: use pyrovae.fit, or a loss that has differentiable_loss"
            )
        self.programs = self.meter.module  # so that Lightning sees the parameters, and moves them
        if example is not None:
            self.trained = self.meter.parameters(_arguments(example))
        else:
            self.trained = [each for each in self.programs.parameters() if each.requires_grad]
        if not self.trained:
            raise ValueError(
                "lightning_module: no trainable parameter in model or guide: pass example=, some rows of "
                "data, if they are made at the first run"
            )
        if hasattr(loss, "clock"):
            loss.clock = Clock()  # finding the parameters was no step
        self.optimizer, self.scheduler = optimizer, scheduler

    def training_step(self, batch: Any, index: int) -> Tensor:
        with plain_errors(f"epoch {self.current_epoch}, batch {index}"):
            loss = self.meter.forward(*_arguments(batch))
            sums = self.meter.sums(loss)
        self._log(sums, batch, PARTS)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        with plain_errors("validation"):
            sums = self.meter.sums(self.meter.value(*_arguments(batch)))
        self._log(sums[1:], batch, tuple(f"validation_{name}" for name in PARTS[1:]))

    def on_train_epoch_start(self) -> None:
        objective = self.meter.objective
        if hasattr(objective, "clock"):
            objective.clock = objective.clock._replace(epoch=self.current_epoch)

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.optimizer, self.trained, self.meter)
        scheduler = make_scheduler(self.scheduler, optimizer)
        return optimizer if scheduler is None else {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if hasattr(self.meter.objective, "clock"):
            checkpoint["pyrovae_clock"] = list(self.meter.objective.clock)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "pyrovae_clock" in checkpoint:
            self.meter.objective.clock = Clock(*checkpoint["pyrovae_clock"])

    def weights(self) -> dict[str, Tensor]:
        """Parameters and buffers of the programs, by their names in checkpoints."""
        return of_programs(self.meter.model.program, self.meter.guide.program, self.trained)

    def _log(self, sums: Tensor, batch: Any, names: tuple[str, ...]) -> None:
        rows = len(_arguments(batch)[0])
        means = dict(zip(names, (sums / rows).unbind(), strict=True))
        # Averages over an epoch and over processes are weighted by the rows: per datum, as fit's are.
        self.log_dict(means, batch_size=rows, on_step=False, on_epoch=True, sync_dist=True)


class _Folders:
    """The methods of the plugin."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / MODEL, describe_model(self.module.meter.model.program) + "\n")
        rest = {name: value for name, value in checkpoint.items() if name != "state_dict"}  # the weights
        Checkpoints(folder / CHECKPOINTS).add({"weights": self.module.weights(), "lightning": rest})

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        state = Checkpoints(Path(path) / CHECKPOINTS).newest()
        if state is None or "lightning" not in state:
            raise FileNotFoundError(f"{path}: no checkpoint that Lightning wrote by lightning_checkpoints")
        copy_into(self.module.weights(), state["weights"], str(path))
        return {**state["lightning"], "state_dict": self.module.state_dict()}

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        shutil.rmtree(path, ignore_errors=True)


@cache
def _module_class() -> Callable[..., Any]:
    return type("Programs", (_Steps, _lightning().LightningModule), {})


@cache
def _checkpoints_class() -> Callable[..., Any]:
    _lightning()
    from lightning.fabric.plugins import CheckpointIO

    return type("Folders", (_Folders, CheckpointIO), {})


def _lightning() -> Any:
    try:
        import lightning
    except ImportError as error:
        raise ImportError(
            f"interop: Lightning cannot be imported ({error}): pip install 'pyrovae[lightning]'"
        ) from error
    return lightning


def _arguments(batch: Any) -> tuple[Tensor, ...]:
    return tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
