"""Precisions of the networks: what they change, and that settings of torch are put back."""

from __future__ import annotations

import pytest
import torch
from components import a_vae, binary

import pyrovae as pv
from pyrovae.core.precision import networks_in


def settings():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("before", [("highest", True), ("high", False)])
def test_what_a_gpu_multiplies_by_is_set_inside_and_put_back(monkeypatch, before):
    kept = settings()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    try:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
        with networks_in("float32"):
            assert settings() == ("highest", False)
            with networks_in("tf32"):
                assert settings() == ("high", True)
            assert settings() == ("highest", False)
        assert settings() == before
        with pytest.raises(KeyError), networks_in("tf32"):
            raise KeyError
        assert settings() == before
    finally:
        torch.set_float32_matmul_precision(kept[0])
        torch.backends.cudnn.allow_tf32 = kept[1]


def test_tf32_is_float32_on_a_cpu_and_bfloat16_is_not():
    vae, x = a_vae(), binary(5)
    exact, tf32, narrow = (
        pv.evaluate(vae.model, vae.guide, x, num_samples=20, precision=precision, progress=False).log_evidence
        for precision in ("float32", "tf32", "bfloat16")
    )
    assert torch.equal(exact, tf32)
    assert not torch.equal(exact, narrow)
    torch.testing.assert_close(narrow, exact, rtol=0, atol=0.3)
