"""Checks of programs by running them: shapes, gradients, and densities that depend on nothing beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pyrovae.core.modules import Program, modules_of
from pyrovae.core.programs import Site, Structure, log_density, plain_errors, sample_sites, traces
from pyrovae.core.scoring import trace_draws
from pyrovae.core.supports import is_delta
from pyrovae.testing.densities import Finding

__all__ = [
    "Arguments",
    "check_draws_apart",
    "check_gradients",
    "check_rows_apart",
    "check_shapes",
    "few_rows",
    "one_line",
    "run",
]

DRAWS = 3  # that are computed at once and one by one

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@contextmanager
def one_line() -> Iterator[None]:
    """Raise what a program says of values and shapes as a ValueError of one line."""
    try:
        with plain_errors():
            yield
    except NotImplementedError as error:
        raise ValueError(_missing_method(error)) from error
    except (RuntimeError, TypeError, IndexError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def _missing_method(error: NotImplementedError) -> str:
    """Which method of which class is missing, by the frame that raised the error."""
    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    owner = frame.tb_frame.f_locals.get("self") if frame else None
    message = " ".join(str(error).split())
    if owner is None or frame is None:
        return message or "a function that a program uses is not implemented"
    what = f"{type(owner).__name__}.{frame.tb_frame.f_code.co_name} is not implemented"
    return (
        f"{what}{f' ({message})' if message else ''}: a part's distribution needs sample, log_prob and expand"
    )


def run(whose: str, program: Program, given: Arguments) -> poutine.Trace:
    """The trace of one run; a network whose input has another width than its ``in_features`` is named."""
    names = {module: name for owner in modules_of(program, program) for name, module in owner.named_modules()}
    with poutine.trace() as tracer, ExitStack() as stack, one_line():
        # Hooked into every module: the networks of a plain function are in no list.
        check = _width_check(names, given, tracer.trace)
        stack.callback(register_module_forward_pre_hook(check).remove)
        try:
            program(*given[0], **given[1])
        except RuntimeError as error:
            if type(error) is not RuntimeError:
                raise
            sites = list(sample_sites(tracer.trace))
            last = sites[-1] if sites else None
            after = f" after site '{last['name']}' of shape {tuple(last['value'].shape)}" if last else ""
            raise ValueError(f"the {whose} fails{after}: {error}") from error
    return tracer.trace


def _width_check(
    names: dict[nn.Module, str], given: Arguments, trace: poutine.Trace
) -> Callable[[nn.Module, Any], None]:
    def check(module: nn.Module, inputs: Any) -> None:
        x, wanted = inputs[0] if inputs else None, getattr(module, "in_features", None)
        if not (isinstance(wanted, int) and isinstance(x, Tensor) and x.dim()) or x.shape[-1] == wanted:
            return
        kind, width = type(module).__name__, x.shape[-1]
        who = f"'{names[module]}' ({kind})" if names.get(module) else f"a {kind}"
        flat = next((i for i in range(1, x.dim() - 1) if math.prod(x.shape[i:]) == wanted), None)
        mend = f"make its in_features {width}, or what goes in {wanted} wide"
        mend = mend if flat is None else f"flatten the rows, x.flatten({flat})"
        sources = [(f"site '{site['name']}'", site["value"]) for site in reversed(list(sample_sites(trace)))]
        sources += [(f"argument {key}", value) for key, value in [*enumerate(given[0]), *given[1].items()]]
        same = [name for name, value in sources if isinstance(value, Tensor) and value.shape[-1:] == (width,)]
        reason = f", where {width} is the width of {same[0]}" if same else ""
        raise ValueError(
            f"{who} takes inputs of width {wanted} and gets shape {tuple(x.shape)}{reason}: {mend}"
        )

    return check


def check_shapes(guide_trace: poutine.Trace, model_trace: poutine.Trace) -> None:
    """Compare shapes of draws and data with the densities that they meet; these have to be finite."""
    guided = {site["name"]: site for site in sample_sites(guide_trace)}
    for site in sample_sites(model_trace):
        name, event = site["name"], tuple(site["fn"].event_shape)
        shape = tuple(site["value"].shape)
        if site["is_observed"] and (shape[-len(event) :] if event else ()) != event:
            raise ValueError(
                f"site '{name}': data of shape {shape}, and the density has events of shape {event}: make "
                f"its network as wide as the data"
            )
        theirs = tuple(guided[name]["fn"].event_shape) if name in guided else event
        if not site["is_observed"] and theirs != event:
            mend = (
                "give both the same width; the guide's network has to give the parameters of "
                f"{math.prod(event)} numbers"
            )
            if len(theirs) != len(event):
                mend = "did you forget .to_event(1)? A vector has one event dim in both"
            raise ValueError(
                f"site '{name}': the guide draws events of shape {theirs}, the prior of shape {event}: {mend}"
            )
    for whose, trace in (("guide", guide_trace), ("model", model_trace)):
        for site in sample_sites(trace):
            _check_draw(f"site '{site['name']}' of the {whose}", site)


def _check_draw(where: str, site: Site) -> None:
    value, fn, observed = site["value"], site["fn"], site["is_observed"]
    expected = fn.batch_shape + fn.event_shape
    if not observed and value.shape != expected:
        raise ValueError(
            f"{where}: its draws have shape {tuple(value.shape)}, expected {tuple(expected)}, its batch and "
            f"event shape: let sample() return those"
        )
    with one_line(), torch.no_grad():
        log_prob = log_density(site)
    if not log_prob.is_floating_point():
        raise ValueError(f"{where}: log_prob is {log_prob.dtype}, expected a floating point dtype")
    bad = ~(log_prob.isfinite() | log_prob.isneginf()) if observed else ~log_prob.isfinite()
    if bad.any():
        raise ValueError(
            f"{where}: its log density is {log_prob[bad][0].item():g} on "
            f"{'the data' if observed else 'its own draws'}: look for a log, a root or a division of zero, a "
            f"scale that is not positive, or data of nan"
        )


def check_gradients(model: Program, guide: Program, given: Arguments) -> list[Finding]:
    """Whether gradients pass through the guide's draws and reach the parameters, which stay untouched."""
    with one_line(), poutine.trace(param_only=True) as met, torch.enable_grad():
        guide_trace, model_trace = traces(model, guide, *given)
        sites = list(sample_sites(guide_trace))
        drawn = [s for s in sites if not s["is_observed"] and not s["infer"].get("is_auxiliary")]
        findings = [_check_draw_gradient(s, model_trace) for s in drawn if s["fn"].has_rsample]
        if not all(log_density(site).isfinite().all() for site in [*sites, *sample_sites(model_trace)]):
            text = "the ELBO of this batch is not finite, and its gradient was not looked at"
            return [*findings, Finding("parameters", text, False)]
        loss = Trace_ELBO().differentiable_loss(model, guide, *given[0], **given[1])
    parameters = _parameters(model, guide, met.trace)
    if not torch.is_tensor(loss) or not loss.requires_grad or not parameters:
        text = "none are in sight: networks of a plain function are not looked into"
        return [*findings, Finding("parameters", text, False)]
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    without = []
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is None or not gradient.any():
            without.append(name)
        elif not gradient.isfinite().all():
            raise ValueError(
                f"parameter {name}: the gradient of Trace_ELBO is not finite: look for a root, a log or a "
                f"norm at zero, or a scale that can reach it"
            )
    guides = [name for name in parameters if name.startswith("guide ")]
    if guides and set(guides) <= set(without):
        raise ValueError(
            f"no parameter of the guide gets a gradient from Trace_ELBO, {guides[0]} for one: take "
            f".detach(), .data and torch.no_grad() out of the guide"
        )
    text = f"all {len(parameters)} get a finite gradient of Trace_ELBO"
    if without:
        more = f" and {len(without) - 5} more" if len(without) > 5 else ""
        text = f"no gradient of Trace_ELBO for {', '.join(without[:5])}{more}"
    return [*findings, Finding("parameters", text, not without)]


def _check_draw_gradient(site: Site, model_trace: poutine.Trace) -> Finding:
    """Parameters reach the draws of one site of the guide, and the draws reach the model's other sites."""
    where, value = f"site '{site['name']}' of the guide", site["value"]
    if not value.requires_grad:
        if is_delta(site["fn"]) or not site["fn"].log_prob(value.detach()).requires_grad:
            return Finding(where, "its draws depend on no parameter", False)
        raise ValueError(
            f"{where}: its distribution has_rsample, and its draws carry no gradient: let rsample() compute "
            f"them from the parameters without .detach() or no_grad, or set has_rsample = False"
        )
    others = [log_density(each).sum() for each in sample_sites(model_trace) if each["name"] != site["name"]]
    total, reached = sum(others, torch.zeros(())), None
    if total.requires_grad:
        (reached,) = torch.autograd.grad(total, value, allow_unused=True, retain_graph=True)
    if reached is None:
        raise ValueError(
            f"{where}: no gradient of the model's other sites comes back to its draws: take .detach(), .data "
            f"and torch.no_grad() out of what the model makes of '{site['name']}'"
        )
    return Finding(where, "gradients pass through its draws", True)


def _parameters(model: Program, guide: Program, met: poutine.Trace) -> dict[str, Tensor]:
    """Leaves by name: of the guide's modules, of the model's, and those of ``pyro.param``."""
    named: list[tuple[str, Any]] = []
    for whose, program in (("guide", guide), ("model", model)):
        for module in modules_of(program, program)[:1]:
            named += [(f"{whose} '{name}'", parameter) for name, parameter in module.named_parameters()]
    for name, site in met.nodes.items():
        value: Any = site["value"]
        named.append((f"'{name}'", value.unconstrained() if hasattr(value, "unconstrained") else value))
    found: dict[int, tuple[str, Tensor]] = {}
    for name, leaf in named:
        found.setdefault(id(leaf), (name, leaf))
    return {name: leaf for name, leaf in found.values() if leaf.requires_grad and leaf.is_leaf}


def check_draws_apart(model: Program, guide: Program, given: Arguments, structure: Structure) -> None:
    """Several draws at once, ``[draws, batch, ...]``, have the densities that they have one by one."""
    try:
        with one_line():
            drawn = trace_draws(guide, DRAWS, structure, *given)
            together = drawn, trace_draws(model, DRAWS, structure, *given, known=drawn)
    except ValueError as error:
        raise ValueError(
            f"one draw at a time runs and several at once, [draws, batch, ...], do not ({error}): let "
            f"networks take any leading dims, as networks.by_rows does{_suspects(model, guide)}"
        ) from error
    for draw in range(DRAWS):
        values = {site["name"]: site["value"][draw] for site in sample_sites(together[0])}
        with one_line():
            alone = _replayed(model, guide, given, together[0], values)
        for whole, part in zip(together, alone, strict=True):
            if changed := _changed({s["name"]: log_density(s)[draw] for s in sample_sites(whole)}, part):
                raise ValueError(
                    f"site '{changed[0]}': a draw has another density among others, [draws, batch, ...], "
                    f"than by itself: let networks count dims from the right, dim=-1{_suspects(model, guide)}"
                )


def check_rows_apart(
    model: Program, guide: Program, given: Arguments, few: Arguments, rows: int, dim: int
) -> list[str]:
    """The first rows have the same densities without the other rows; ``few`` are their arguments.

    Sites of the guide whose densities change are returned by name: a proposal may look at all the data.
    """
    whole = traces(model, guide, *given)
    values = {
        site["name"]: site["value"].narrow(dim - len(site["fn"].event_shape), 0, rows)
        for site in sample_sites(whole[0])
    }
    part = _replayed(model, guide, few, whole[0], values)
    of_guide, of_model = (
        _changed({s["name"]: log_density(s).narrow(dim, 0, rows) for s in sample_sites(before)}, after)
        for before, after in zip(whole, part, strict=True)
    )
    if of_model:
        raise ValueError(
            f"site '{of_model[0]}': a row's density changes when other rows are left out, so that no datum "
            f"has a log p(x) of its own: keep networks from mixing the batch{_suspects(model, guide)}"
        )
    return of_guide


def few_rows(given: Arguments, size: int, rows: int) -> Arguments:
    """Arguments of the first rows alone: of every tensor as long as there are data."""

    def cut(value: Any) -> Any:
        return value[:rows] if isinstance(value, Tensor) and value.dim() and len(value) == size else value

    args, kwargs = given
    return tuple(cut(value) for value in args), {key: cut(value) for key, value in kwargs.items()}


def _replayed(
    model: Program, guide: Program, given: Arguments, drawn: poutine.Trace, values: dict[str, Tensor]
) -> tuple[poutine.Trace, poutine.Trace]:
    """Traces of both programs with other values of the latents that were drawn."""
    latents = poutine.Trace()
    for site in sample_sites(drawn):
        if not site["is_observed"]:
            latents.add_node(site["name"], **{**site, "value": values[site["name"]]})
    return traces(poutine.replay(model, trace=latents), poutine.replay(guide, trace=latents), *given)


def _changed(before: dict[str, Tensor], trace: poutine.Trace) -> list[str]:
    """Sites whose log densities differ from those before, by more than the rounding of a sum over pixels."""
    after = {site["name"]: log_density(site) for site in sample_sites(trace)}
    return [
        name
        for name, density in after.items()
        if before[name].shape != density.shape
        or not torch.allclose(before[name], density, rtol=1e-4, atol=1e-3, equal_nan=True)
    ]


def _suspects(model: Program, guide: Program) -> str:
    """Modules that count dims from the left, or mix rows, for the end of a message."""
    found: list[str] = []
    for owner in modules_of(model, guide):
        for name, module in owner.named_modules():
            dim = getattr(module, "dim", getattr(module, "start_dim", -1))
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                found.append(f"{name} ({type(module).__name__}: use LayerNorm)")
            elif isinstance(module, nn.Softmax | nn.LogSoftmax | nn.GLU | nn.Flatten) and dim != -1:
                found.append(f"{name} ({type(module).__name__}, dim {dim})")
    return f"; look at {', '.join(dict.fromkeys(found))}" if found else ""
