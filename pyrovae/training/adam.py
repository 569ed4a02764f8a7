"""Adam's step by its kernel alone, without torch's bookkeeping, which is 4% of a compiled step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW
from torch.optim import optimizer as shared

__all__ = ["DirectStep"]

UNUSUAL = ("amsgrad", "maximize", "capturable", "differentiable")


class DirectStep:
    """Step an optimiser: a fused Adam by its kernel alone, with the same state, any other by its ``step``.

    Example:
        >>> x, y = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
        >>> step = DirectStep(torch.optim.Adam([x], lr=0.1, fused=True))
        >>> other = torch.optim.Adam([y], lr=0.1)
        >>> for _ in range(3):
        ...     x.grad, y.grad = x.detach() ** 2, y.detach() ** 2
        ...     _ = step(), other.step()
        >>> torch.allclose(x, y)
        True
    """

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.trained: list[list[Tensor]] | None = None  # the parameters of each group that have gradients

    def __call__(self, *, check: bool = True) -> None:
        """Take a step; ``check`` looks whether groups, state or hooks of the optimiser were changed."""
        trained = self._with_gradients()
        if check or self.trained is None or _ids(trained) != _ids(self.trained):
            self.optimizer.step()
            self.trained = trained if self._is_plain() else None
            return
        for options, parameters in zip(self.optimizer.param_groups, trained, strict=True):
            if parameters:
                self._step(options, parameters)

    def _with_gradients(self) -> list[list[Tensor]]:
        groups = self.optimizer.param_groups
        return [[each for each in group["params"] if each.grad is not None] for group in groups]

    def _is_plain(self) -> bool:
        """Whether the kernel does all that the options ask for."""
        optimizer = self.optimizer
        hooks = [optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks]
        hooks += [shared._global_optimizer_pre_hooks, shared._global_optimizer_post_hooks]
        if type(optimizer) not in (Adam, AdamW) or any(hooks):
            return False
        for group in optimizer.param_groups:
            kinds = {(each.device, each.dtype) for each in group["params"]}
            if not group["fused"] or len(kinds) > 1 or any(group[name] for name in UNUSUAL):
                return False
        return True

    @torch.no_grad()
    def _step(self, options: dict[str, Any], parameters: list[Tensor]) -> None:
        states = [self.optimizer.state[each] for each in parameters]
        counts, found_inf = [each["step"] for each in states], getattr(self.optimizer, "found_inf", None)
        torch._foreach_add_(counts, 1)
        kernel = torch._fused_adamw_ if options["decoupled_weight_decay"] else torch._fused_adam_
        kernel(
            parameters,
            [each.grad for each in parameters],  # type: ignore[misc]
            [each["exp_avg"] for each in states],
            [each["exp_avg_sq"] for each in states],
            [],
            counts,
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
            torch._foreach_sub_(counts, [found_inf] * len(counts))


def _ids(groups: list[list[Tensor]]) -> list[list[int]]:
    return [[id(each) for each in group] for group in groups]
