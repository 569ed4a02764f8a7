"""Flows of zuko by name, such as ``flows.NSF(16)`` for a prior, and IAF, which zuko has no name for.

Everything but IAF is zuko's own class. Importing zuko switches torch's argument validation off for
the whole process, and that happens when the first flow is named here, never before.
"""

from __future__ import annotations

from typing import Any

__all__ = ["IAF"]


def IAF(features: int, context: int = 0, **keywords: Any) -> Any:  # noqa: N802 (a flow, named as zuko's are)
    r"""Inverse autoregressive flow: the inverse of zuko's MAF, so that a draw takes one pass.

    .. math:: z_i = s_i(\epsilon_{<i}) \, \epsilon_i + m_i(\epsilon_{<i}), \qquad
        \epsilon \sim \mathcal N(0, I)

    The density of a draw costs nothing more; that of another value takes a pass for each feature.

    Args:
        features: Width of z.
        context: Width of the context; 0 for none.
        keywords: Keywords of ``zuko.flows.MAF``: transforms, hidden_features, and so on.

    Raises:
        ImportError: zuko is not installed.

    References:
        Kingma et al., Improved Variational Inference with Inverse Autoregressive Flow, 2016. arXiv:1606.04934

    Example:
        >>> IAF(16)().rsample().shape
        torch.Size([16])
    """
    flows = _zuko_flows()
    forwards = flows.MAF(features, context, **keywords)
    return flows.Flow(forwards.transform.inv, forwards.base)


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'pyrovae.flows' has no attribute '{name}'")
    flows = _zuko_flows()
    if not hasattr(flows, name):
        known = ", ".join(sorted(["IAF", *(each for each in dir(flows) if each.isupper())]))
        raise AttributeError(f"flows has no '{name}': there are {known}")
    return getattr(flows, name)


def _zuko_flows() -> Any:
    try:
        import zuko.flows
    except ImportError as error:
        raise ImportError("flows need zuko: pip install 'pyrovae[flows]'") from error
    return zuko.flows
