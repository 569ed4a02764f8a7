"""Running a pair for a check: errors in one line, with the widths that do not meet, and few rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pyrovae.core.modules import Program, modules_of
from pyrovae.core.programs import Site, log_density, plain_errors, sample_sites

__all__ = ["check_shapes", "few_rows", "one_line", "run", "suspects"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@contextmanager
def one_line() -> Iterator[None]:
    """Whatever a program raises about values and shapes, as a ValueError of one line."""
    try:
        with plain_errors():
            yield
    except NotImplementedError as error:
        raise ValueError(_missing_method(error)) from error
    except (RuntimeError, TypeError, IndexError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def run(whose: str, program: Program, given: Arguments) -> poutine.Trace:
    """The trace of one run. A network that gets another width than it takes is named, with the reason.

    Args:
        whose: "guide" or "model".
        program: It.
        given: What it is called with.

    Raises:
        ValueError: The program fails, or an input has not the width of a module's ``in_features``.
    """
    owners = modules_of(program, program)
    names = {module: name for owner in owners for name, module in owner.named_modules()}
    with poutine.trace() as tracer, ExitStack() as stack, one_line():
        # Of all modules: a program that is a plain function has networks that nothing lists.
        check = _width_check(names, given, tracer.trace)
        stack.callback(register_module_forward_pre_hook(check).remove)
        try:
            program(*given[0], **given[1])
        except RuntimeError as error:
            if type(error) is not RuntimeError:
                raise
            drawn = [
                f"site '{s['name']}' of shape {tuple(s['value'].shape)}" for s in sample_sites(tracer.trace)
            ]
            after = f" after {drawn[-1]}" if drawn else ""
            raise ValueError(f"the {whose} fails{after}: {error}") from error
    return tracer.trace


def check_shapes(guide_trace: poutine.Trace, model_trace: poutine.Trace) -> None:
    """What the guide draws, the prior draws and the data are, against what each other's densities take.

    Args:
        guide_trace: Of the guide, run by itself.
        model_trace: Of the model, run by itself.

    Raises:
        ValueError: A draw of another shape than its distribution says; draws or data of another
            event shape than the density they meet; a log density that is no finite float on its own
            draws.
    """
    guided = {site["name"]: site for site in sample_sites(guide_trace)}
    for site in sample_sites(model_trace):
        name, event = site["name"], tuple(site["fn"].event_shape)
        if site["is_observed"] and tuple(site["value"].shape[-len(event) :] if event else ()) != event:
            raise ValueError(
                f"site '{name}': data of shape {tuple(site['value'].shape)}, and the density has events of "
                f"shape {event}: make its network as wide as the data"
            )
        if not site["is_observed"] and name in guided:
            theirs = tuple(guided[name]["fn"].event_shape)
            if len(theirs) != len(event):
                raise ValueError(
                    f"site '{name}': the guide draws events of shape {theirs}, the prior of shape {event}: "
                    f"did you forget .to_event(1)? A vector has one event dim in both"
                )
            if theirs != event:
                raise ValueError(
                    f"site '{name}': the guide draws events of shape {theirs}, the prior of shape {event}: "
                    f"give both the same width; the guide's network has to give the parameters of "
                    f"{math.prod(event)} numbers"
                )
    for whose, trace in (("guide", guide_trace), ("model", model_trace)):
        for site in sample_sites(trace):
            _check_draw(f"site '{site['name']}' of the {whose}", site)


def few_rows(given: Arguments, size: int, rows: int) -> Arguments:
    """Arguments of the first rows alone: of every tensor as long as there are data."""

    def cut(value: Any) -> Any:
        of_rows = isinstance(value, Tensor) and value.dim() and len(value) == size
        return value[:rows] if of_rows else value

    args, kwargs = given
    return tuple(cut(value) for value in args), {key: cut(value) for key, value in kwargs.items()}


def suspects(*programs: Program) -> str:
    """What counts dims from the left, or mixes rows, by name: the first to look at."""
    found: dict[str, None] = {}
    for owner in modules_of(programs[0], programs[-1]):
        for name, module in owner.named_modules():
            dim = getattr(module, "dim", getattr(module, "start_dim", -1))
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                found[f"{name} ({type(module).__name__}: use LayerNorm)"] = None
            elif isinstance(module, nn.Softmax | nn.LogSoftmax | nn.GLU | nn.Flatten) and dim != -1:
                found[f"{name} ({type(module).__name__}, dim {dim})"] = None
    return f"; look at {', '.join(found)}" if found else ""


def _width_check(
    names: dict[nn.Module, str], given: Arguments, trace: poutine.Trace
) -> Callable[[nn.Module, Any], None]:
    def check(module: nn.Module, inputs: Any) -> None:
        x, wanted = inputs[0] if inputs else None, getattr(module, "in_features", None)
        if not (isinstance(wanted, int) and isinstance(x, Tensor) and x.dim()) or x.shape[-1] == wanted:
            return
        kind, got = type(module).__name__, x.shape[-1]
        who = f"'{names[module]}' ({kind})" if names.get(module) else f"a {kind}"
        flat = next((i for i in range(1, x.dim() - 1) if math.prod(x.shape[i:]) == wanted), None)
        mend = f"make its in_features {got}, or what goes in {wanted} wide"
        mend = mend if flat is None else f"flatten the rows, x.flatten({flat})"
        reason = _reason(got, given, trace)
        raise ValueError(
            f"{who} takes inputs of width {wanted} and gets shape {tuple(x.shape)}{reason}: {mend}"
        )

    return check


def _reason(width: int, given: Arguments, trace: poutine.Trace) -> str:
    """Where a width comes from: a site drawn before, or an argument."""
    for site in reversed(list(sample_sites(trace))):
        if site["value"].shape[-1:] == (width,):
            return f", where {width} is the width of site '{site['name']}'"
    for position, value in [*enumerate(given[0]), *given[1].items()]:
        if isinstance(value, Tensor) and value.shape[-1:] == (width,):
            return f", where {width} is the width of argument {position}"
    return ""


def _check_draw(where: str, site: Site) -> None:
    value, fn = site["value"], site["fn"]
    if not site["is_observed"] and value.shape != fn.batch_shape + fn.event_shape:
        raise ValueError(
            f"{where}: its draws have shape {tuple(value.shape)}, expected "
            f"{tuple(fn.batch_shape + fn.event_shape)}, its batch and event shape: let sample() return those"
        )
    with one_line(), torch.no_grad():
        log_prob = log_density(site)
    if not log_prob.is_floating_point():
        raise ValueError(f"{where}: log_prob is {log_prob.dtype}, expected a floating point dtype")
    bad = log_prob.isnan() | log_prob.isposinf()
    if not site["is_observed"]:
        bad = bad | log_prob.isneginf()
    if bad.any():
        of = "the data" if site["is_observed"] else "its own draws"
        raise ValueError(
            f"{where}: its log density is {log_prob[bad][0].item():g} on {of}: look for a log, a root or a "
            f"division of nought, a scale that is not positive, or data of nan"
        )


def _missing_method(error: NotImplementedError) -> str:
    """Which method of which class was asked for, from where the error was raised."""
    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    owner = frame.tb_frame.f_locals.get("self") if frame else None
    said = " ".join(str(error).split())
    if owner is None or frame is None:
        return said or "something that a program uses is not implemented"
    what = f"{type(owner).__name__}.{frame.tb_frame.f_code.co_name} is not implemented"
    return f"{what}{f' ({said})' if said else ''}: a part's distribution needs sample, log_prob and expand"
