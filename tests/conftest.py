"""Options, and a fixed start for every test: seed, dtype, an empty parameter store."""

from __future__ import annotations

import os
import signal

import pyro
import pytest
import torch
from hypothesis import settings

# The same examples in every run, and none kept on disk.
settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.load_profile("fixed")

if "PYTEST_XDIST_WORKER" in os.environ:  # a core each, for the processes that tests start too
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it leaves in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the models are tested: cpu, cuda, ...")
    parser.addoption("--dtype", default="float32", choices=["float32", "float64"], help="default dtype")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(autouse=True)
def fixed_start(request: pytest.FixtureRequest):
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, request.config.getoption("--dtype")))
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    yield
    torch.set_default_dtype(before)
