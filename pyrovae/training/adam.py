"""Adam's step as one kernel, without the optimiser's bookkeeping in Python before each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim import optimizer as shared

__all__ = ["DirectStep"]


class DirectStep:
    """Steps an optimiser; a fused Adam by its kernel alone, any other by its own ``step``.

    The optimiser's state stays what it would be, and learning rates are read at each step. On two cores
    the bookkeeping is a twentieth of a compiled step of a small VAE.

    Args:
        optimizer: Of torch.

    Example:
        >>> x, y = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
        >>> step = DirectStep(torch.optim.Adam([x], lr=0.1, fused=True))
        >>> other = torch.optim.Adam([y], lr=0.1)
        >>> for _ in range(3):
        ...     x.grad, y.grad = x.detach() ** 2, y.detach() ** 2
        ...     step(), other.step()
        (None, None)
        (None, None)
        (None, None)
        >>> torch.allclose(x, y)
        True
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer: Any = optimizer
        self.groups: list[_Group] | None = None

    def __call__(self, *, check: bool = True) -> None:
        """Take a step.

        Args:
            check: Look whether the optimiser was changed: its groups, its state, its hooks.
        """
        if check:
            self.groups = None
        if self.groups is None or not all(group.ready() for group in self.groups):
            self.optimizer.step()
            self.groups = self._found()
            return
        for group in self.groups:
            group.step(getattr(self.optimizer, "found_inf", None))

    def _found(self) -> list[_Group] | None:
        """The groups, if one kernel can step each."""
        optimizer = self.optimizer
        hooks = [optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks]
        hooks += [shared._global_optimizer_pre_hooks, shared._global_optimizer_post_hooks]
        if type(optimizer) not in (Adam, AdamW) or any(hooks):
            return None
        groups = [_Group(options, optimizer.state) for options in optimizer.param_groups]
        return groups if all(group.plain() for group in groups) else None


class _Group:
    """Parameters with the same options."""

    def __init__(self, options: dict[str, Any], state: Any) -> None:
        self.options = options
        self.parameters = [each for each in options["params"] if each.grad is not None]
        self.rest = [each for each in options["params"] if each.grad is None]
        self.states = [state[each] for each in self.parameters]
        self.means: list[Tensor] = [each["exp_avg"] for each in self.states]
        self.squares: list[Tensor] = [each["exp_avg_sq"] for each in self.states]
        self.counts: list[Tensor] = [each["step"] for each in self.states]
        self.count: Tensor | None = None

    def plain(self) -> bool:
        """Whether the kernel does all that the options ask for; the counts are then made one tensor."""
        names = ("amsgrad", "maximize", "capturable", "differentiable")
        kinds = {(each.device, each.dtype) for each in self.parameters}
        if not self.options["fused"] or any(self.options[name] for name in names) or len(kinds) > 1:
            return False
        if self.counts:
            self.count = torch.stack(self.counts)
            self.counts = list(self.count.unbind())
            for state, count in zip(self.states, self.counts, strict=True):
                state["step"] = count
        return True

    def ready(self) -> bool:
        """Whether the same parameters have gradients as before."""
        return all(each.grad is not None for each in self.parameters) and all(
            each.grad is None for each in self.rest
        )

    @torch.no_grad()
    def step(self, found_inf: Tensor | None) -> None:
        """Count, and run the kernel."""
        if self.count is None:
            return
        options = self.options
        self.count += 1
        kernel = torch._fused_adamw_ if options["decoupled_weight_decay"] else torch._fused_adam_
        kernel(
            self.parameters,
            [each.grad for each in self.parameters],
            self.means,
            self.squares,
            [],
            self.counts,
            lr=options["lr"],
            beta1=options["betas"][0],
            beta2=options["betas"][1],
            weight_decay=options["weight_decay"],
            eps=options["eps"],
            amsgrad=False,
            maximize=False,
            grad_scale=None,
            found_inf=found_inf,
        )
        if found_inf is not None:
            self.count -= found_inf
