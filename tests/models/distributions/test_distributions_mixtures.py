"""Mixtures, stretched distributions and proportions: densities, draws, and gradients of draws."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from densities import SURE
from scipy import stats

from pyrovae import guides, priors
from pyrovae.models.distributions import Defensive, GaussianMixture, Widened

TWO = torch.tensor([[0.0, 0.0], [2.0, 1.0]]), torch.ones(2, 2), torch.tensor([0.0, 0.5])
NARROW = TWO[0], torch.tensor([[0.5, 1.0], [0.7, 0.3]]), TWO[2]
THREE = (
    torch.tensor([[0.0, 0.0], [2.0, 1.0], [-1.0, 1.0]]),
    torch.tensor([[0.5, 1.0], [0.7, 0.3], [1.0, 2.0]]),
    torch.tensor([0.0, 0.5, 0.2]),
)
MIXTURES = {"unit_scales": TWO, "other_scales": NARROW, "three": THREE}


def plane(limit=12.0, points=601):
    axis = torch.linspace(-limit, limit, points, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), (axis[1] - axis[0]) ** 2


def f(z):
    return z[..., 0].cos() + (z[..., 1] + z[..., 0] / 2) ** 2


def mean_of_f(loc, scale):
    """E[f(z)] under normals, in closed form."""
    wave = loc[..., 0].cos() * (-(scale[..., 0] ** 2) / 2).exp()
    return wave + (loc[..., 1] + loc[..., 0] / 2) ** 2 + scale[..., 1] ** 2 + scale[..., 0] ** 2 / 4


def check_gradients(draw, exact, parameters, n=40_000):
    """Of E[f] by each parameter, from n draws each with parameters of its own."""
    parameters = [each.double().requires_grad_() for each in parameters]
    expected = torch.autograd.grad(exact(*parameters), parameters)
    rows = [each.detach().expand(n, *each.shape).clone().requires_grad_() for each in parameters]
    found = torch.autograd.grad(f(draw(*rows)).sum(), rows)
    for each, value in zip(found, expected, strict=True):
        error = each.std(0) / n**0.5
        assert ((each.mean(0) - value).abs() < SURE * error + 1e-9).all(), (each.mean(0), value)


@pytest.mark.parametrize("name", MIXTURES)
class TestGaussianMixture:
    def test_density_is_the_weighted_sum(self, name):
        locs, scales, logits = MIXTURES[name]
        z = 3 * torch.randn(50, 2)
        each = dist.Normal(locs, scales).to_event(1).log_prob(z[:, None])
        expected = (logits.log_softmax(0) + each).logsumexp(-1)
        torch.testing.assert_close(GaussianMixture(*MIXTURES[name]).log_prob(z), expected)

    def test_gradients_of_draws_are_those_of_the_mean(self, name):
        """By locs, scales and weights, at scales other than 1 too: false alarms 7 in a million."""
        check_gradients(
            lambda locs, scales, logits: GaussianMixture(locs, scales, logits).rsample(),
            lambda locs, scales, logits: logits.softmax(-1) @ mean_of_f(locs, scales),
            MIXTURES[name],
        )

    def test_variance_is_that_of_the_draws(self, name):
        p = GaussianMixture(*MIXTURES[name])
        z = p.sample((40_000,))
        square = (z - p.mean) ** 2
        assert ((square.mean(0) - p.variance).abs() < SURE * square.std(0) / 200).all()


@pytest.mark.parametrize("draws", [(), (2,), (7,), (3, 2)])
def test_each_row_of_a_mixture_draws_from_its_own_components(draws):
    """Rows a thousand scales apart: with a sample shape Pyro's own mixture takes one row's for another's."""
    locs = 1000 * torch.arange(5.0)[:, None, None].expand(5, 3, 2)
    z = GaussianMixture(locs, torch.ones(5, 3, 2), torch.zeros(5, 3)).rsample(draws)
    assert z.shape == (*draws, 5, 2)
    assert (z - locs[:, 0]).abs().max() < 10


@pytest.mark.parametrize("width", [2, 64, 200])
@pytest.mark.parametrize("scale", [1.0, 0.03])
@pytest.mark.parametrize("apart", [0.0, 0.1, 30.0])
def test_gradients_of_a_mixture_are_finite(width, scale, apart):
    """In many dimensions, where densities overflow, and where components coincide or lie far apart."""
    parameters = [apart * torch.randn(3, width), torch.full((3, width), scale), torch.zeros(3)]
    parameters = [each.requires_grad_() for each in parameters]
    z = GaussianMixture(*parameters).rsample((100,))
    for gradient in torch.autograd.grad(z.sum(), parameters):
        assert gradient.isfinite().all()


class TestWidened:
    q = staticmethod(
        lambda: dist.Normal(torch.tensor([0.5, -1.0]).double(), torch.tensor([0.3, 2.0]).double())
    )

    def test_density_integrates_to_one_and_is_the_wider_normal(self):
        z, cell = plane(limit=30)
        wide = Widened(self.q().to_event(1), 1.7)
        assert (wide.log_prob(z).exp().sum() * cell).item() == pytest.approx(1, abs=1e-9)
        base = self.q()
        torch.testing.assert_close(
            wide.log_prob(z), dist.Normal(base.loc, 1.7 * base.scale).log_prob(z).sum(-1)
        )

    def test_gradients_of_draws_are_those_of_the_mean(self):
        """Of a mixture stretched about its mean, which is not any component's: 7 false alarms a million."""

        def exact(locs, scales, logits):
            weights = logits.softmax(-1)
            mean = weights @ locs
            return weights @ mean_of_f(mean + 1.5 * (locs - mean), 1.5 * scales)

        check_gradients(lambda *rows: Widened(GaussianMixture(*rows), 1.5).rsample(), exact, THREE)

    def test_draws_have_the_density(self):
        """The distribution function of the first coordinate: 1e-7 false alarms."""
        z = Widened(self.q().to_event(1), 1.7).sample((20_000,))
        assert stats.kstest(z[:, 0], stats.norm(0.5, 0.51).cdf).pvalue > 1e-7
        torch.testing.assert_close(Widened(self.q().to_event(1), 1.7).stddev, 1.7 * self.q().scale)


class TestDefensive:
    def test_density_integrates_to_one_and_is_the_weighted_sum(self):
        q, p = (dist.Normal(torch.full((2,), at).double(), 1.0).to_event(1) for at in (2.0, -1.0))
        z, cell = plane()
        mixed = Defensive(q, p, 0.1)
        assert (mixed.log_prob(z).exp().sum() * cell).item() == pytest.approx(1, abs=1e-9)
        expected = 0.9 * q.log_prob(z).exp() + 0.1 * p.log_prob(z).exp()
        torch.testing.assert_close(mixed.log_prob(z).exp(), expected)

    def test_the_second_is_drawn_as_often_as_its_weight_says_for_each_row_apart(self):
        """Binomial counts: false alarms 7 in a million each."""
        far = [dist.Normal(torch.full((3, 2), at), 1.0).to_event(1) for at in (0.0, 100.0)]
        z = Defensive(*far, 0.1).sample((10_000,))
        second = (z > 50).all(-1)
        assert torch.equal(second, (z > 50).any(-1))
        assert ((second.double().mean(0) - 0.1).abs() < SURE * 0.3 / 100).all()
        both = (second[:, 0] & second[:, 1]).double().mean()
        assert abs(both - 0.01) < SURE * 0.1 / 100

    def test_where_both_are_nought_it_is_nought(self):
        uniform = dist.Uniform(torch.zeros(2), torch.ones(2), validate_args=False).to_event(1)
        assert Defensive(uniform, uniform, 0.3).log_prob(torch.tensor([2.0, 2.0])) == -math.inf


def of_proportions(z, loc, scale):
    """log density of the logistic normal at z, by sums of what is left of the stick, in float64."""
    width = z.shape[-1]
    left = z.flip(-1).cumsum(-1).flip(-1)
    share = z[..., :-1].log() - left[..., 1:].log() + torch.arange(width - 1, 0, -1).double().log()
    volume = z[..., :-1].log() + left[..., 1:].log() - left[..., :-1].log()
    return dist.Normal(loc.double(), scale.double()).log_prob(share).sum(-1) - volume.sum(-1)


@pytest.mark.parametrize("width", [2, 4, 50])
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("role", ["guide", "prior"])
class TestLogisticNormal:
    def distribution(self, role, scale, width):
        loc = torch.linspace(-1, 1, width - 1)
        if role == "guide":
            log_variance = torch.full((width - 1,), 2 * math.log(scale))
            return guides.LogisticNormal(torch.nn.Identity())(torch.cat([loc, log_variance])), loc
        prior = priors.LogisticNormal(width)
        prior.loc.data, prior.log_scale.data = loc, torch.full((width - 1,), math.log(scale))
        return prior(), loc

    def test_single_precision_is_enough_where_parts_are_tiny(self, role, scale, width):
        """Once some parts take nearly all, what 1 less their sum leaves is noise."""
        p, loc = self.distribution(role, scale, width)
        z = p.sample((1000,))
        assert (z > 0).all()
        torch.testing.assert_close(z.sum(-1), torch.ones(1000))
        exact = of_proportions(z.double(), loc, torch.tensor(scale))
        torch.testing.assert_close(p.log_prob(z).double(), exact, rtol=1e-5, atol=1e-4)

    def test_draws_have_the_density(self, role, scale, width):
        """The last break of the stick is normal: 18 tests of 1e-7 false alarms."""
        p, loc = self.distribution(role, scale, width)
        z = p.sample((5000,)).double()
        share = z[:, -2].log() - z[:, -1].log()
        assert stats.kstest(share, stats.norm(loc[-1].item(), scale).cdf).pvalue > 1e-7

    def test_gradients_are_finite_where_parts_are_tiny(self, role, scale, width):
        p, _ = self.distribution(role, scale, width)
        parameters = p.loc.detach().requires_grad_(), p.scale.detach().requires_grad_()
        q = type(p)(*parameters)
        z = q.rsample((1000,))
        for value in (z.log().sum(), q.log_prob(z).sum()):
            for gradient in torch.autograd.grad(value, parameters, retain_graph=True):
                assert gradient.isfinite().all()
