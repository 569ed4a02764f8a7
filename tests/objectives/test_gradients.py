"""Gradient estimators: unbiased ones against exact gradients or one another, biased ones known as such.

Each comparison is of projections of the gradient, in units of the standard error over repeats: a false
alarm at 4.5 has a chance of 7 in a million.
"""

from __future__ import annotations

import copy
import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import a_vae, binary, net
from objectives import EVERY
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

import pyrovae as pv
from pyrovae import guides, likelihoods, models, priors
from pyrovae.models import distributions
from pyrovae.objectives import CIWAE, ELBO, IWAE, MIWAE, PIWAE, TVO, WakeSleep, kl_weight
from pyrovae.testing import LinearGaussian

REPEATS = 60


def gradients(loss, pair, x, part: str, repeats: int = REPEATS) -> torch.Tensor:
    """Projections of the gradient of a datum on three fixed directions: [repeats, 3]."""
    return by_part(loss, pair, x, part, repeats=repeats)[part]


def by_part(loss, pair, x, *parts: str, repeats: int = REPEATS) -> dict[str, torch.Tensor]:
    """Those of several parts, of the same draws."""
    module = loss(pair.model, pair.guide)
    parameters = [list(getattr(pair, part).parameters()) for part in parts]
    sizes = [sum(parameter.numel() for parameter in each) for each in parameters]
    directions = [torch.randn(size, 3, generator=torch.Generator().manual_seed(0)) for size in sizes]
    found = []
    for _ in range(repeats):
        taken = torch.autograd.grad(
            module(x) / len(x), [parameter for each in parameters for parameter in each]
        )
        flat = torch.cat([gradient.flatten() for gradient in taken]).split(sizes)
        found.append([each @ direction for each, direction in zip(flat, directions, strict=True)])
    return {part: torch.stack(each) for part, each in zip(parts, zip(*found, strict=True), strict=True)}


def sigmas(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference of means, in standard errors."""
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    return ((a.mean(0) - b.mean(0)).abs() / error).max().item()


def a_pair(kind: str):
    """A small pair and one datum many times over, off its optimum."""
    pyro.set_rng_seed(7)
    if kind == "one layer":
        return a_vae(), binary(1).expand(400, -1)
    layers = models.two_layers if kind == "two layers" else models.ladder
    pair = layers(
        priors.StandardNormal(2),
        guides.Normal(net(2, 6)),
        likelihoods.Bernoulli(net(3, 6)),
        lower=guides.Normal(net(6, 6)),
        upper=guides.Normal(net(3 if kind == "two layers" else 6, 4)),
    )
    return pair, binary(1).expand(400, -1)


@pytest.mark.parametrize("kind", ["one layer", "two layers", "ladder"])
@pytest.mark.parametrize(
    ("name", "gradient"), [("elbo", "stl"), *((n, "dreg") for n in EVERY if n != "elbo")]
)
def test_unbiased_estimators_agree_with_the_standard_one(kind, name, gradient):
    """With hierarchical guides too, where a lower draw moves the density of the upper one."""
    pair, x = a_pair(kind)
    standard = by_part(EVERY[name](), pair, x, "guide", "model")
    other = by_part(EVERY[name](gradient=gradient), pair, x, "guide", "model")
    for part, found in other.items():
        assert sigmas(standard[part], found) < 4.5, part


@pytest.mark.parametrize("name", ["iwae", "miwae"])
@pytest.mark.parametrize("by", ["scale", "term"])
def test_a_weight_on_the_kl_has_the_same_gradient_whatever_the_estimator(name, by):
    """It is outside the bound: the weights of the doubly reparameterised gradient must not reach it."""
    pair, x = a_pair("one layer")
    with torch.no_grad():
        pair.guide.part.net.layers[-1].bias.add_(0.5)  # off the posterior, where they differ
    terms = {"terms": [kl_weight(3.0)]} if by == "term" else {}
    tempered = Tempered(pair, 3.0) if by == "scale" else pair
    standard = by_part(EVERY[name](**terms), tempered, x, "guide", "model")
    other = by_part(EVERY[name](gradient="dreg", **terms), tempered, x, "guide", "model")
    for part, found in other.items():
        assert sigmas(standard[part], found) < 4.5, part
    twin = gradients(EVERY[name](terms=[kl_weight(3.0)]), pair, x, "guide")
    assert sigmas(twin, standard["guide"]) < 4.5


@pytest.mark.parametrize("gradient", ["standard", "stl", "dreg"])
def test_piwae_has_a_gradient_where_its_groups_are_far_apart(gradient):
    """A sharp likelihood: one group has all the weight, and the others' guide learns as MIWAE's does."""
    x = torch.randn(8, 20)
    decoder = nn.Linear(2, 20)
    vae = pv.VAE(priors.StandardNormal(2), likelihoods.Normal(decoder, scale=0.05), guides.Normal(net(20, 4)))
    parameters = list(vae.guide.parameters())
    found = []
    for loss in (PIWAE(2, 2, gradient=gradient), MIWAE(2, 2, gradient=gradient)):
        loss.loss(vae.model, vae.guide, x)
        pyro.set_rng_seed(2)
        taken = torch.autograd.grad(loss.differentiable_loss(vae.model, vae.guide, x), parameters)
        found.append(torch.cat([each.flatten() for each in taken]))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3 * found[1].abs().max().item())


@pytest.mark.parametrize(
    "loss", [IWAE(1, gradient="dreg"), IWAE(3, gradient="dreg"), PIWAE(1, 1), PIWAE(2, 2)]
)
def test_paths_find_their_dims_beside_plates_within_the_data(loss):
    shift = nn.Parameter(torch.zeros(2))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("views", 3, dim=-2):
                u = pyro.sample("u", dist.Normal(z[..., 0], 1.0))
                pyro.sample("x", dist.Normal(u + z[..., 1], 1.0), obs=x.T)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(shift + x.mean(-1, keepdim=True), 1.0).to_event(1))
            with pyro.plate("views", 3, dim=-2):
                pyro.sample("u", dist.Normal(z[..., 0] * shift[0] + x.T, 0.7))

    x = torch.randn(1, 3).expand(200, -1)
    plain = type(loss)(*getattr(loss, "groups", (loss.num_particles,)))
    found = []
    for each in (loss, plain if isinstance(loss, IWAE) else MIWAE(*loss.groups)):
        taken = [
            torch.autograd.grad(each.differentiable_loss(model, guide, x) / 200, shift)[0]
            for _ in range(REPEATS)
        ]
        found.append(torch.stack(taken))
    assert sigmas(*found) < 4.5


@pytest.mark.parametrize("loss", [ELBO(2, gradient="stl"), IWAE(2, gradient="dreg"), WakeSleep(2), TVO(2)])
def test_a_guide_that_changes_from_run_to_run_is_refused_where_it_is_run_again(loss):
    vae, x = a_vae(), binary(9)
    vae.guide = guides.Normal(nn.Sequential(nn.Dropout(0.5), vae.guide.part.net))
    with pytest.raises(ValueError, match="site 'z': its density changes from run to run on the same draws"):
        loss.loss(vae.model, vae.guide, x)
    assert IWAE(2).loss(vae.model, vae.guide, x)
    assert loss.loss(vae.eval().model, vae.guide, x)


def test_the_geometric_mean_of_the_others_stands_for_the_draw_left_out():
    """VIMCO's signals of three draws, as in its paper, equation 10."""
    weights = torch.tensor([[0.3], [-1.0], [2.0]], dtype=torch.float64)
    a, b, c = weights[:, 0]
    full = weights.exp().mean().log()

    def without(kept, other):
        return torch.stack([kept, other, (kept + other) / 2]).exp().mean().log()

    expected = torch.stack([full - without(b, c), full - without(a, c), full - without(a, b)])[:, None]
    torch.testing.assert_close(IWAE(3, gradient="vimco")._signals(weights, None), expected)
    outside = torch.tensor([[1.0], [4.0], [-2.0]], dtype=torch.float64)  # a weight on the KL: leave-one-out
    extra = torch.tensor([[1 - 1.0], [4 + 0.5], [-2 - 2.5]], dtype=torch.float64) / 3
    torch.testing.assert_close(IWAE(3, gradient="vimco")._signals(weights, outside), expected + extra)


def test_straight_through_takes_the_slope_of_its_temperature():
    """Of a very warm relaxation it is known: p (1 - p) / tau."""
    bits, logits = torch.zeros(5, requires_grad=True), torch.zeros(5, 1, 4, requires_grad=True)
    z = distributions.StraightThroughBits(bits, 1000.0).rsample((2,))
    torch.testing.assert_close(
        torch.autograd.grad(z.sum(), bits)[0], torch.full((5,), 2 * 0.25 / 1000), rtol=0.02, atol=0
    )
    z = distributions.StraightThroughOneHots(logits, 1000.0).rsample()
    slope = torch.autograd.grad(z[:, 0].sum(), logits)[0][:, 0]
    torch.testing.assert_close(
        slope, torch.tensor([3, -1, -1, -1.0]).expand(5, -1) / 16_000, rtol=0.05, atol=1e-7
    )


class Tempered(nn.Module):
    """A pair with a scale on its latents."""

    def __init__(self, pair, scale: float) -> None:
        super().__init__()
        self.model, self.guide = _Scaled(pair.model, scale), _Scaled(pair.guide, scale)


class _Scaled(nn.Module):
    def __init__(self, program, scale: float) -> None:
        super().__init__()
        self.program, self.scale = program, scale

    def forward(self, *args):
        with Scaling(self.scale):
            return self.program(*args)


class Scaling(pyro.poutine.messenger.Messenger):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def _pyro_sample(self, msg):
        if msg["name"] == "z":
            msg["scale"] = msg["scale"] * self.scale


@pytest.mark.parametrize("name", ["iwae", "renyi", "ciwae"])
def test_sticking_the_landing_of_several_draws_is_biased_for_the_guide(name):
    pair, x = a_pair("one layer")
    with torch.no_grad():
        pair.guide.part.net.layers[-1].bias.add_(1.0)  # far from the posterior, where it shows
    standard = gradients(EVERY[name](), pair, x, "guide", 200)
    assert sigmas(standard, gradients(EVERY[name](gradient="stl"), pair, x, "guide", 200)) > 8
    standard = gradients(EVERY[name](), pair, x, "model")
    assert sigmas(standard, gradients(EVERY[name](gradient="stl"), pair, x, "model")) < 4.5


def test_piwae_is_one_bound_for_the_model_and_another_for_the_guide():
    pair, x = a_pair("one layer")
    iwae, miwae = by_part(IWAE(4), pair, x, "model", "guide"), gradients(MIWAE(2, 2), pair, x, "guide")
    for gradient in ("standard", "dreg"):
        ours = by_part(PIWAE(2, 2, gradient=gradient), pair, x, "model", "guide")
        assert sigmas(ours["model"], iwae["model"]) < 4.5
        assert sigmas(ours["guide"], miwae) < 4.5
        assert sigmas(ours["guide"], iwae["guide"]) > 6


class Gaussian(nn.Module):
    """A linear-Gaussian model with a guide whose every datum has the same, free, covariance."""

    def __init__(self) -> None:
        super().__init__()
        self.oracle = LinearGaussian(torch.randn(4, 2))
        self.shift = nn.Parameter(torch.zeros(2))
        self.scale_tril = nn.Parameter(torch.linalg.cholesky(self.oracle.posterior_covariance))
        self.model = self.oracle.model

    def posterior(self, x):
        loc = self.oracle.posterior(x).loc + self.shift
        return dist.MultivariateNormal(loc, scale_tril=self.scale_tril.tril(), validate_args=False)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))

    def elbo(self, x):
        exact = self.oracle.posterior(x)
        q = MultivariateNormal(exact.loc + self.shift, scale_tril=self.scale_tril.tril())
        return (self.oracle.log_evidence(x) - kl_divergence(q, exact)).sum()


@pytest.mark.parametrize(
    ("name", "gradient"), [(n, g) for n in EVERY for g in ("stl", "dreg") if (n, g) != ("elbo", "dreg")]
)
def test_at_the_exact_posterior_paths_have_no_noise(name, gradient):
    pair = Gaussian().double()
    pair.oracle = LinearGaussian(torch.randn(4, 2, dtype=torch.float64))
    pair.model = pair.oracle.model
    with torch.no_grad():
        pair.scale_tril.copy_(torch.linalg.cholesky(pair.oracle.posterior_covariance))
    x = pair.oracle.sample(10)
    noisy = EVERY[name]().differentiable_loss(pair.model, pair.guide, x)
    quiet = EVERY[name](gradient=gradient).differentiable_loss(pair.model, pair.guide, x)
    assert torch.autograd.grad(noisy, pair.scale_tril)[0].abs().max() > 1e-2
    for parameter in (pair.shift, pair.scale_tril):
        taken = torch.autograd.grad(quiet, parameter, retain_graph=True)[0]
        assert taken.abs().max() < 1e-8


@pytest.mark.parametrize("gradient", ["standard", "stl"])
def test_elbo_has_the_gradient_of_its_closed_form(gradient):
    pair = Gaussian()
    with torch.no_grad():
        pair.shift.add_(0.3)
        pair.scale_tril.mul_(1.4)
    x = pair.oracle.sample(1).expand(300, -1)
    parameters = [pair.shift, pair.scale_tril]
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(-pair.elbo(x[:1]), parameters)])
    loss, found = ELBO(2, gradient=gradient), []
    for _ in range(REPEATS):
        taken = torch.autograd.grad(loss.differentiable_loss(pair.model, pair.guide, x) / 300, parameters)
        found.append(torch.cat([g.flatten() for g in taken]))
    found = torch.stack(found)
    error = found.std(0) / REPEATS**0.5 + 1e-5
    assert ((found.mean(0) - exact).abs() < 4.5 * error).all()


# ------------------------------------------------------------------------------ discrete sites


def exact_bound(vae, x, bound, draws: int, beta: float = 1.0):
    """The mean of a bound over all tuples of draws of two bits, by enumeration, with a weight on the KL."""
    codes = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 2)
    log_q = vae.encode(x[None]).log_prob(codes)
    log_weights = vae.prior().log_prob(codes) + vae.decode(codes).log_prob(x) - log_q
    tuples = torch.tensor(list(itertools.product(range(4), repeat=draws)))
    values = bound(log_weights[tuples].unsqueeze(-1))[..., 0]
    kl = (log_q.exp() * (log_q - vae.prior().log_prob(codes))).sum()
    return (log_q[tuples].sum(1).exp() * values).sum() + (1 - beta) * kl


@pytest.mark.parametrize(
    ("loss", "draws"),
    [
        (ELBO(1, gradient="score"), 1),
        (ELBO(3, gradient="score"), 3),
        (IWAE(3, gradient="score"), 3),
        (IWAE(3, gradient="vimco"), 3),
        (CIWAE(0.4, 2, gradient="vimco"), 2),
        (MIWAE(2, 2, gradient="vimco"), 4),
    ],
)
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_score_estimators_have_the_gradient_of_the_enumerated_bound(loss, draws, beta):
    loss = copy.copy(loss)
    loss.terms = () if beta == 1 else (kl_weight(beta),)
    pyro.set_rng_seed(5)
    vae = pv.VAE(priors.Bernoulli(2), likelihoods.Bernoulli(net(2, 6)), guides.Bernoulli(net(6, 2)))
    x = binary(1)[0]
    exact = -exact_bound(vae, x, loss.bound, draws, beta)
    for part in ("guide", "model"):
        parameters = list(getattr(vae, part).parameters())
        wanted = torch.cat([g.flatten() for g in torch.autograd.grad(exact, parameters, retain_graph=True)])
        directions = torch.randn(len(wanted), 3, generator=torch.Generator().manual_seed(0))
        found = gradients(loss, vae, x.expand(1000, -1), part, 40)
        error = found.std(0) / 40**0.5
        assert ((found.mean(0) - wanted @ directions).abs() < 4.5 * error).all(), part


@torch.no_grad()
def test_straight_through_draws_have_the_discrete_guides_values():
    bits = a_vae("bernoulli", "bernoulli", "bernoulli")
    x, inner = binary(3), bits.guide.part
    plain = bits.encode(x)
    bits.guide = guides.StraightThrough(inner)
    z = bits.encode(x).rsample((9,))
    torch.testing.assert_close(bits.encode(x).log_prob(z), plain.log_prob(z), rtol=0, atol=0)
    through = z.clone().requires_grad_()
    with torch.enable_grad():
        torch.testing.assert_close(plain.log_prob(through), plain.log_prob(z))
        torch.testing.assert_close(bits.prior().log_prob(through), bits.prior().log_prob(z))


def test_straight_through_is_biased_and_less_noisy_than_the_score():
    pyro.set_rng_seed(5)
    vae = pv.VAE(priors.Bernoulli(2), likelihoods.Bernoulli(net(2, 6)), guides.Bernoulli(net(6, 2)))
    with torch.no_grad():
        vae.likelihood.net.layers[-1].weight.mul_(6)  # a likelihood that bends, which a straight path misses
    x = binary(1)[0]
    parameters = list(vae.guide.parameters())
    exact = -exact_bound(vae, x, ELBO(1).bound, 1)
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(exact, parameters)])
    wanted = wanted @ torch.randn(len(wanted), 3, generator=torch.Generator().manual_seed(0))
    scored = gradients(ELBO(1, gradient="score"), vae, x.expand(1000, -1), "guide", 40)
    vae.guide = guides.StraightThrough(vae.guide.part, 0.5)
    through = gradients(ELBO(1), vae, x.expand(1000, -1), "guide", 40)
    off = (through.mean(0) - wanted).abs() / (through.std(0) / 40**0.5)
    assert (off > 8).any()
    assert (through.std(0) < 0.5 * scored.std(0)).all()
    assert (through.mean(0) * wanted).sum() > 0


def test_baselines_take_the_noise_away():
    pyro.set_rng_seed(5)
    vae = pv.VAE(priors.Bernoulli(2), likelihoods.Bernoulli(net(2, 6)), guides.Bernoulli(net(6, 2)))
    x = binary(1).expand(50, -1)
    alone = gradients(ELBO(1, gradient="score"), vae, x.repeat(4, 1), "guide", 100).std(0)
    together = gradients(ELBO(4, gradient="score"), vae, x, "guide", 100).std(0)
    assert (together < 0.5 * alone).all()  # the same number of draws


def test_signal_of_the_guide_survives_many_draws_only_if_doubly_reparameterised():
    """Standard: signal to noise falls with S. DReG: it does not (Rainforth et al.; Tucker et al.)."""
    pair, x = a_pair("one layer")
    x = x[:20]

    def signal(draws, gradient, repeats):
        found = gradients(IWAE(draws, gradient=gradient), pair, x, "guide", repeats)
        return (found.mean(0).abs() / found.std(0)).max().item()

    # Of three seeds: at most 0.14 against 0.27 at least, and 6.6 against 1.8 at most.
    assert signal(64, "standard", 400) < 0.6 * signal(1, "standard", 400)
    assert signal(64, "dreg", 60) > 1.2 * signal(1, "dreg", 60)
