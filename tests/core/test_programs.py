"""inspect: each way a pair can fail to have a weight per datum is named with its mend."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormalMessenger

from pyrovae.core.programs import Structure, inspect

X = torch.zeros(4, 3)
NORMAL = dist.Normal(torch.zeros(2), 1).to_event(1)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", NORMAL)
        pyro.sample("x", dist.Normal(z[..., :1], 1).to_event(1), obs=x[:, :1])


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", NORMAL)


def guide_without_z(x):
    pass


def guide_with_more(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", NORMAL)
        pyro.sample("w", NORMAL)


def delta_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Delta(torch.zeros(2)).to_event(1))


def global_latent_model(x):
    pyro.sample("scale", dist.Normal(0.0, 1.0))
    model(x)


def global_latent_guide(x):
    pyro.sample("scale", dist.Normal(0.0, 1.0))
    guide(x)


def model_without_plate(x):
    z = pyro.sample("z", NORMAL.expand([4]))
    pyro.sample("x", dist.Normal(z[..., :1], 1).to_event(1), obs=x[:, :1])


def guide_without_plate(x):
    pyro.sample("z", NORMAL.expand([4]))


def model_without_to_event(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", NORMAL)
        pyro.sample("x", dist.Normal(z[..., :1].expand(4, 3), 1), obs=x)


def square_model_without_to_event(x):
    with pyro.plate("data", 3):
        z = pyro.sample("z", NORMAL)
        pyro.sample("x", dist.Normal(z[..., :1].expand(3, 3), 1), obs=x[:3])


def square_guide(x):
    with pyro.plate("data", 3):
        pyro.sample("z", NORMAL)


def mixed_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("a", dist.Delta(torch.zeros(())))
        pyro.sample("z", NORMAL)


def mixed_model(x):
    with pyro.plate("data", len(x)):
        pyro.sample("a", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", NORMAL)
        pyro.sample("x", dist.Normal(z[..., :1], 1).to_event(1), obs=x[:, :1])


def auxiliary_guide_without_delta(x):
    with pyro.plate("data", len(x)):
        u = pyro.sample("u", NORMAL, infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(u, 1).to_event(1))


def guide_that_observes(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", NORMAL)
        pyro.sample("x", dist.Normal(torch.zeros(1), 1).to_event(1), obs=x[:, :1])


def random_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", NORMAL)
        noise = torch.rand(())
        pyro.sample("x", dist.Normal(z[..., :1] + noise, 1).to_event(1), obs=x[:, :1])


def subsampling(program):
    def run(x):
        with pyro.plate("data", 100, subsample_size=4):
            pyro.sample("z", NORMAL)
            if program == "model":
                pyro.sample("x", dist.Normal(torch.zeros(1), 1).to_event(1), obs=x[:, :1])

    return run


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (model, guide_without_z, r"site 'z' is a latent of the model and missing in the guide: add"),
        (model, guide_with_more, r"site 'w' of the guide is no latent of the model: rename it"),
        (model, delta_guide, r"site 'z' has a Delta guide: a point has no density"),
        (mixed_model, mixed_guide, r"site 'a' has a Delta guide: a point has no density"),
        (model, auxiliary_guide_without_delta, r"site 'u' is auxiliary, and no latent is a Delta"),
        (model, guide_that_observes, r"site 'x' is observed in the model and present in the guide"),
        (model, AutoNormalMessenger(model), r"site 'x' is observed in the model and present in"),
        (random_model, guide, r"site 'x': its density changes from run to run.*evaluation mode"),
        (model, AutoDiagonalNormal(model), r"lies outside the data plate.*such as AutoNormal"),
        (global_latent_model, global_latent_guide, r"site 'scale', batch_shape \(\), lies outside"),
        (model_without_plate, guide_without_plate, r"site 'z' is in no plate.*with pyro.plate\('data'"),
        (model_without_to_event, guide, r"site x dim -1, 4 vs 3. Did you forget .to_event\(1\)"),
        (
            square_model_without_to_event,
            square_guide,
            r"site 'x': batch_shape \(3, 3\), expected \(3,\). Did you forget .to_event\(1\)",
        ),
        (subsampling("model"), subsampling("guide"), r"plate 'data' draws 4 of 100 rows at random"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(model, guide, message):
    with pytest.raises(ValueError, match=message) as raised:
        inspect(model, guide, X)
    assert "\n" not in str(raised.value)


def test_structure_of_a_single_plate():
    assert inspect(model, guide, X) == Structure("data", -1, len(X), -2, "density")


def test_structure_of_nested_plates_takes_the_plate_all_sites_share():
    def program(x, observed):
        with pyro.plate("documents", 4, dim=-2):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            if observed:
                with pyro.plate("words", 3, dim=-1):
                    pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    found = inspect(lambda x: program(x, True), lambda x: program(x, False), X)
    assert found == Structure("documents", -2, 4, -3, "density")


def test_auxiliary_sites_and_deterministic_ones_are_allowed():
    def auxiliary_guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", NORMAL, infer={"is_auxiliary": True})
            pyro.deterministic("twice", 2 * u)
            pyro.sample("z", dist.Delta(u).to_event(1))

    assert inspect(model, auxiliary_guide, X).plate == "data"


def test_a_global_latent_may_be_conditioned_away():
    conditioned = poutine.condition(global_latent_model, {"scale": torch.tensor(0.5)})
    with pytest.raises(ValueError, match="site 'scale'"):
        inspect(conditioned, guide, X)
    blocked = poutine.block(conditioned, hide=["scale"])
    assert inspect(blocked, guide, X).plate == "data"


def test_the_callers_random_state_is_left_alone():
    before = torch.get_rng_state()
    inspect(model, guide, X)
    assert torch.equal(torch.get_rng_state(), before)


def test_plates_may_be_called_differently_in_model_and_guide():
    def other_guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", NORMAL)

    assert inspect(model, other_guide, X).dim == -1
