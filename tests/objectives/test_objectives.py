"""Objectives: their values against exact ones, and how they are used."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import a_vae, binary
from helpers import all_moved, snapshot
from objectives import EVERY
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO

import pyrovae as pv
from pyrovae.objectives import CIWAE, ELBO, IWAE, MIWAE, PIWAE, TVO, Renyi, WakeSleep, kl_weight, warmup
from pyrovae.testing import LinearGaussian, Quadrature


class Subsampled:
    """Linear-Gaussian programs of some rows of the data, which stand for all of them."""

    def __init__(self, widen: float = 1.0) -> None:
        self.oracle = LinearGaussian(torch.randn(4, 2), widen=widen)
        self.x = self.oracle.sample(30)

    def model(self, rows):
        oracle = self.oracle
        with pyro.plate("data", len(self.x), subsample=rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            p = dist.Normal(z @ oracle.weight.T + oracle.mean, oracle.noise.sqrt()).to_event(1)
            pyro.sample("x", p, obs=self.x[rows])

    def guide(self, rows):
        q = self.oracle.posterior(self.x[rows])
        with pyro.plate("data", len(self.x), subsample=rows):
            scale_tril = self.oracle.widen * q.scale_tril
            pyro.sample("z", dist.MultivariateNormal(q.loc, scale_tril=scale_tril))

    def log_evidence(self, rows):
        return self.oracle.log_evidence(self.x[rows])


@pytest.mark.parametrize("name", EVERY)
def test_exact_guide_gives_the_exact_answer_whatever_a_row_stands_for(name):
    pair, rows = Subsampled(), torch.arange(5)
    exact = 6 * pair.log_evidence(rows).sum().item()
    assert -EVERY[name]().loss(pair.model, pair.guide, rows) == pytest.approx(exact, rel=1e-5)


def test_scales_stay_out_of_the_logarithm():
    """Trap: Pyro's RenyiELBO has N/B inside, and reports more than log p(x); the mean of ours is below."""
    pair, rows = Subsampled(widen=1.5), torch.arange(5)
    exact = 6 * pair.log_evidence(rows).sum().item()
    ours, theirs = (
        -torch.tensor([loss.loss(pair.model, pair.guide, rows) for _ in range(200)])
        for loss in (IWAE(20), RenyiELBO(alpha=0, num_particles=20, vectorize_particles=True))
    )
    assert ours.mean() - 4 * ours.std() / 200**0.5 < exact
    assert theirs.mean() - 4 * theirs.std() / 200**0.5 > exact
    whole = -torch.tensor([IWAE(20).loss(pair.model, pair.guide, torch.arange(30)) for _ in range(200)])
    of_rows = 6 * pair.log_evidence(rows).sum() - pair.log_evidence(torch.arange(30)).sum()
    assert abs(ours.mean() - whole.mean() - of_rows) < 5 * (ours.var() / 200 + whole.var() / 200).sqrt() + 2


@pytest.mark.parametrize("one", [ELBO(1), IWAE(1), Renyi(0.3, 1), MIWAE(1, 1), CIWAE(0.2, 1), PIWAE(1, 1)])
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_of_one_draw_all_are_the_elbo_with_any_weight_on_the_kl(one, beta):
    vae, x = a_vae(), binary(9)

    def tempered(x):
        with pyro.plate("data", 90, subsample=torch.arange(len(x))):
            with poutine.scale(scale=beta):
                z = pyro.sample("z", vae.prior())
            pyro.sample("x", vae.decode(z), obs=x)

    def guide(x):
        with pyro.plate("data", 90, subsample=torch.arange(len(x))), poutine.scale(scale=beta):
            pyro.sample("z", vae.encode(x))

    one.loss(tempered, guide, x)  # the first call looks at the structure, with noise of its own
    pyro.set_rng_seed(0)
    ours = one.loss(tempered, guide, x)
    pyro.set_rng_seed(0)
    assert ours == pytest.approx(Trace_ELBO().loss(tempered, guide, x), rel=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_a_scale_of_everything_stays_out_of_the_logarithm_too(name):
    """The idiom ``poutine.scale(program, 1 / N)``."""
    pair, rows = Subsampled(widen=1.5), torch.arange(5)
    values = []
    for scale in (1.0, 1 / 32):
        model, guide = (poutine.scale(program, scale) for program in (pair.model, pair.guide))
        loss = EVERY[name]()
        loss.loss(model, guide, rows)
        pyro.set_rng_seed(3)
        values.append(loss.loss(model, guide, rows) / scale)
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_a_scale_for_each_row_is_refused_by_name():
    vae, x = a_vae(), binary(9)
    weights = torch.rand(9)
    model, guide = (poutine.scale(program, weights) for program in (vae.model, vae.guide))
    with pytest.raises(
        ValueError, match=r"site '\w' has a scale of shape \(9,\): the objectives take a number"
    ):
        IWAE(3).loss(model, guide, x)


def test_a_swapped_part_is_looked_at_again():
    vae, x, loss = a_vae(), binary(9), IWAE(3)
    loss.loss(vae.model, vae.guide, x)
    vae.prior = pv.priors.Dirichlet(4)
    with pytest.raises(ValueError, match="the guide's Normal does not fit the prior's Dirichlet"):
        loss.loss(vae.model, vae.guide, x)


def test_more_draws_raise_the_bound_and_never_beyond_log_p():
    oracle = Quadrature(pv.likelihoods.Bernoulli(pv.networks.MLP(2, 6)), latents=2)
    vae, x = (
        pv.VAE(pv.priors.StandardNormal(2), oracle.likelihood, pv.guides.Normal(pv.networks.MLP(6, 4))),
        binary(9),
    )
    exact = oracle.log_evidence(x).sum().item()
    means, errors = [], []
    for loss in (IWAE(1), IWAE(3), IWAE(10), IWAE(100)):
        values = -torch.tensor([loss.loss(vae.model, vae.guide, x) for _ in range(150)])
        means.append(values.mean().item())
        errors.append(values.std().item() / 150**0.5)
    assert means == sorted(means)
    assert all(mean < exact + 4 * error for mean, error in zip(means, errors, strict=True))
    assert means[-1] > exact - 1


def test_bounds_of_a_known_tensor():
    weights = torch.tensor([[0.0], [1.0], [2.0], [4.0]], dtype=torch.float64)
    mean, evidence = weights.mean(), weights.exp().mean().log()
    halves = (weights[:2].exp().mean().log() + weights[2:].exp().mean().log()) / 2
    for objective, expected in (
        (ELBO(4), mean),
        (IWAE(4), evidence),
        (Renyi(0.0, 4), evidence),
        (Renyi(1.0, 4), mean),
        (Renyi(1 - 1e-5, 4), mean),
        (Renyi(0.5, 4), 2 * (0.5 * weights).exp().mean().log()),
        (Renyi(2.0, 4), -(-weights).exp().mean().log()),
        (MIWAE(2, 2), halves),
        (MIWAE(4, 1), mean),
        (MIWAE(1, 4), evidence),
        (CIWAE(0.25, 4), 0.25 * mean + 0.75 * evidence),
        (PIWAE(2, 2), evidence),
    ):
        assert objective.bound(weights).item() == pytest.approx(expected.item(), abs=2e-5)
    assert Renyi(1 - 1e-5, 4).bound(weights) != Renyi(1.0, 4).bound(weights)


# ------------------------------------------------------------------------------ use


@pytest.mark.parametrize("name", EVERY)
def test_serves_svi_torch_and_fit(name):
    vae, x = a_vae(), binary(20)
    before = snapshot(vae)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=EVERY[name]())
    assert isinstance(svi.step(x), float)
    assert all_moved(before, vae)
    assert isinstance(svi.evaluate_loss(x), float)

    before = snapshot(vae)
    loss = EVERY[name]()(vae.model, vae.guide)
    optimizer = torch.optim.Adam(loss.parameters())
    loss(x).backward()
    optimizer.step()
    assert all_moved(before, vae)

    before = snapshot(vae)
    history = pv.fit(vae.model, vae.guide, x, loss=EVERY[name](), num_epochs=2, validation=x, progress=False)
    assert all_moved(before, vae)
    assert len(history) == 2


def test_history_tells_the_plain_elbo_beside_the_bound():
    oracle = LinearGaussian(torch.randn(4, 2), widen=2.0)
    x = oracle.sample(2000)
    scale = torch.nn.Parameter(torch.ones(()))

    def guide(x):
        with pyro.plate("data", len(x)):
            q = oracle.posterior(x)
            pyro.sample("z", dist.MultivariateNormal(q.loc, scale_tril=2 * scale * q.scale_tril))

    history = pv.fit(
        oracle.model,
        guide,
        x,
        loss=IWAE(10, gradient="dreg"),
        optimizer=torch.optim.SGD([scale], lr=0.0),
        num_epochs=1,
        validation=x,
        progress=False,
    )
    elbo = (oracle.log_evidence(x) - oracle.gap(x)).mean().item()
    assert history.elbo[0] == pytest.approx(elbo, abs=0.1)  # standard error 0.02
    assert history.validation_elbo[0] == pytest.approx(elbo, abs=0.1)
    assert -history.loss[0] > elbo + 0.5


def test_evaluation_knows_nothing_of_weights_in_training():
    vae, x = a_vae(), binary(20)

    def tempered(x):
        with poutine.scale(scale=4.0):
            return vae.model(x)

    plain, weighted = (
        pv.evaluate(model, vae.guide, x, num_samples=20, progress=False).log_evidence
        for model in (vae.model, tempered)
    )
    assert torch.equal(plain, weighted)


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IWAE(0), "IWAE: num_particles is 0: at least 1"),
        (lambda: Renyi(-0.5, 4), "alpha must be at least 0 and finite, got -0.5"),
        (lambda: Renyi(float("inf"), 4), "alpha must be at least 0 and finite"),
        (lambda: CIWAE(1.5, 4), "beta must be between 0 and 1, got 1.5"),
        (lambda: MIWAE(0, 4), "MIWAE: num_groups is 0"),
        (lambda: PIWAE(2, 0), "PIWAE: group_size is 0"),
        (lambda: ELBO(terms=kl_weight(0.5)), "ELBO: terms is a list of kl_weight"),
        (lambda: ELBO(terms=[warmup(5)]), "a schedule goes into one, kl_weight"),
        (lambda: IWAE(1, gradient="vimco"), "num_particles must be at least 2"),
        (lambda: ELBO(2, gradient="dreg"), "ELBO: gradient is 'dreg', it has standard, stl, score"),
        (lambda: PIWAE(2, 2, gradient="vimco"), "PIWAE: gradient is 'vimco', it has standard, stl, dreg"),
    ],
)
def test_arguments_without_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("gradient", ["standard", "stl", "dreg"])
def test_discrete_sites_are_told_what_would_do(gradient):
    vae, x = a_vae("bernoulli", "bernoulli", "bernoulli"), binary(9)
    with pytest.raises(
        ValueError, match=r"IWAE: site 'z': its draws carry no gradient.*use gradient='vimco'"
    ):
        IWAE(3, gradient=gradient)(vae.model, vae.guide)(x)


def test_programs_that_do_not_fit_are_refused_in_one_line():
    vae, x = a_vae(), binary(9)

    def empty(x):
        pass

    with pytest.raises(
        ValueError, match="site 'z' is a latent of the model and missing in the guide"
    ) as raised:
        IWAE(3).loss(vae.model, empty, x)
    assert "\n" not in str(raised.value)


# ------------------------------------------------------------------------------ draws that stand still


@pytest.mark.parametrize("loss", [WakeSleep(8), WakeSleep(8, wake=0.0, sleep=1.0), TVO(8, 3)])
@pytest.mark.parametrize("latents", ["bernoulli", "normal"])
def test_draws_that_stand_still_serve_discrete_and_continuous_sites(loss, latents):
    vae = a_vae("bernoulli" if latents == "bernoulli" else "standard_normal", "bernoulli", latents)
    x = binary(20)
    before = snapshot(vae)
    pv.fit(vae.model, vae.guide, x, loss=loss, num_epochs=2, validation=x, progress=False)
    assert all_moved(before, vae)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=loss)
    assert isinstance(svi.step(x), float)


def test_wake_sleep_reports_the_importance_weighted_bound_and_tvo_lies_between():
    vae, x = a_vae(), binary(9)
    for loss in (IWAE(6), WakeSleep(6), TVO(6, 1), ELBO(6), TVO(6, 5), TVO(6, 4000, first=1e-6)):
        loss.loss(vae.model, vae.guide, x)
        pyro.set_rng_seed(1)
        loss.value = loss.loss(vae.model, vae.guide, x)
        if isinstance(loss, IWAE):
            evidence = loss.value
        elif isinstance(loss, ELBO):
            mean = loss.value
        elif isinstance(loss, WakeSleep):
            assert loss.value == pytest.approx(evidence, rel=1e-6)
        elif len(loss.betas) == 2:
            first = loss.value
        elif len(loss.betas) == 6:
            assert first == pytest.approx(mean, rel=1e-6)
            assert evidence < loss.value < mean
        else:
            assert loss.value == pytest.approx(evidence, rel=1e-3)


def test_wake_sleep_gives_the_model_the_gradient_of_the_importance_weighted_bound():
    vae, x = a_vae(), binary(9)
    found = []
    for loss in (IWAE(6), WakeSleep(6)):
        loss.loss(vae.model, vae.guide, x)
        pyro.set_rng_seed(1)
        taken = torch.autograd.grad(
            loss.differentiable_loss(vae.model, vae.guide, x), list(vae.model.parameters())
        )
        found.append(torch.cat([gradient.flatten() for gradient in taken]))
    torch.testing.assert_close(*found)


def test_sleep_teaches_the_guide_the_posterior_of_what_the_model_dreams():
    """Linear-Gaussian: at the exact posterior the mean gradient of the sleep loss is zero, else not."""
    for shift, at_rest in ((0.0, True), (0.3, False)):
        oracle = LinearGaussian(torch.randn(4, 2))
        free = torch.nn.Parameter(torch.full((2,), shift))

        def guide(x, free=free, oracle=oracle):
            with pyro.plate("data", len(x)):
                q = oracle.posterior(x)
                pyro.sample("z", dist.MultivariateNormal(q.loc + free, scale_tril=q.scale_tril))

        x = oracle.sample(200)
        loss = WakeSleep(2, wake=0.0, sleep=1.0)
        taken = torch.stack(
            [
                torch.autograd.grad(loss.differentiable_loss(oracle.model, guide, x), free)[0]
                for _ in range(50)
            ]
        )
        sigmas = (taken.mean(0) / (taken.std(0) / 50**0.5)).abs().max()
        assert (sigmas < 4.5) == at_rest


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WakeSleep(1), "num_particles must be at least 2, got 1"),
        (lambda: WakeSleep(2, wake=0.0), "wake and sleep must be weights, got 0 and 0"),
        (lambda: TVO(1), "num_particles must be at least 2"),
        (lambda: TVO(4, 0), "num_partitions is 0"),
        (lambda: TVO(4, 2, first=1.5), "first must be strictly between 0 and 1, got 1.5"),
    ],
)
def test_still_objectives_refuse_arguments_without_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_sleep_says_what_it_dreams_of():
    vae, x = a_vae(), binary(9)
    with pytest.raises(ValueError, match="no site 'data set' to dream: name it with site="):
        WakeSleep(2, sleep=1.0, site="data set")(vae.model, vae.guide)(x)
