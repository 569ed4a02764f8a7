"""Whole models: one contract over all, and each against an exact answer."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import binary, counts
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import nn
from torch.distributions import MultivariateNormal

import pyrovae as pv
from pyrovae import guides, likelihoods, models, networks, priors

FEATURES, CLASSES = 6, 3


def net(inputs: int, outputs: int) -> nn.Module:
    return networks.MLP(inputs, outputs, hidden=[7], activation=nn.Tanh)


def two_layers(make=models.two_layers, upper_from: int = 4) -> models.Pair:
    return make(
        priors.StandardNormal(2),
        guides.Normal(net(2, 8)),
        likelihoods.Bernoulli(net(4, FEATURES)),
        lower=guides.Normal(net(FEATURES, 8)),
        upper=guides.Normal(net(upper_from, 4)),
    )


def conditional(prior: nn.Module | None = None) -> models.Pair:
    return models.conditional(
        prior or priors.ConditionalNormal(net(CLASSES, 4)),
        likelihoods.Bernoulli(net(2 + CLASSES, FEATURES)),
        guides.Normal(net(FEATURES + CLASSES, 4)),
    )


def semi_supervised(alpha: float = 0.1, dim: int = 1) -> models.Pair:
    return models.semi_supervised(
        priors.StandardNormal(dim),
        likelihoods.Bernoulli(net(dim + CLASSES, FEATURES)),
        guides.Normal(net(FEATURES + CLASSES, 2 * dim)),
        net(FEATURES, CLASSES),
        num_classes=CLASSES,
        alpha=alpha,
    )


def gaussian_mixture() -> models.Pair:
    likelihood, q = likelihoods.Bernoulli(net(2, FEATURES)), guides.Normal(net(FEATURES, 4))
    return models.gaussian_mixture(priors.GaussianMixture(2, CLASSES), likelihood, q)


ENUMERATING = TraceEnum_ELBO(max_plate_nesting=1)
LABELS = torch.tensor([0, 1, 2, -1, -1] * 4)
ALL = {
    "two_layers": (two_layers, Trace_ELBO(), lambda: (binary(20),)),
    "ladder": (lambda: two_layers(models.ladder, FEATURES), Trace_ELBO(), lambda: (binary(20),)),
    "conditional": (conditional, Trace_ELBO(), lambda: (binary(20), torch.eye(CLASSES)[LABELS])),
    "conditional, one prior": (
        lambda: conditional(priors.Normal(2)),
        Trace_ELBO(),
        lambda: (binary(20), torch.eye(CLASSES)[LABELS]),
    ),
    "semi_supervised": (semi_supervised, ENUMERATING, lambda: (binary(20), LABELS)),
    "gaussian_mixture": (gaussian_mixture, ENUMERATING, lambda: (binary(20),)),
    "discrete": (lambda: models.discrete(FEATURES, size=2, hidden=[7]), Trace_ELBO(), lambda: (binary(20),)),
    "prod_lda": (lambda: models.prod_lda(FEATURES, 3, hidden=[7]), Trace_ELBO(), lambda: (counts(20),)),
}


@pytest.mark.parametrize("name", ALL)
class TestEveryModel:
    def test_is_a_pair_that_trains_and_is_evaluated(self, name):
        make, loss, data = ALL[name]
        pair, data = make(), data()
        loss(pair.model, pair.guide)(*data).backward()
        for parameter_name, parameter in pair.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.abs().sum() > 0, parameter_name
        history = pv.fit(pair.model, pair.guide, data, loss=loss, num_epochs=3, progress=False)
        assert all(map(math.isfinite, history.loss))
        result = pv.evaluate(pair.model, pair.guide, data, num_samples=30, progress=False)
        assert result.log_evidence.isfinite().all()
        assert (result.gap > -1e-6).all()

    def test_generates_rows_of_its_data(self, name):
        make, _, data = ALL[name]
        pair, (x, *rest) = make(), data()
        draws = pair.sample(y=rest[0]) if name.startswith("conditional") else pair.sample(20)
        assert draws.shape == x.shape
        assert not draws.requires_grad
        pair.model(draws, *rest)  # within the likelihood's support

    def test_weights_are_the_same_in_chunks_and_after_a_round_trip(self, name):
        make, _, data = ALL[name]
        first, second, data = make(), make(), data()
        second.load_state_dict(first.state_dict())
        found = []
        for pair, chunk_size in ((first, None), (first, 1), (second, None)):
            pyro.set_rng_seed(0)
            weights = pv.log_weights(pair.model, pair.guide, *data, num_samples=3, chunk_size=chunk_size)
            found.append(weights)
        torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-4)
        assert torch.equal(found[2], found[0])

    def test_is_written_down_as_a_graph_and_still_refuses_bad_data(self, name):
        make, loss, data = ALL[name]
        pair, (x, *rest) = make(), data()
        compiled = pv.compile(loss(pair.model, pair.guide), (x, *rest), backend="none")
        assert compiled.graphs.cause is None  # what cannot be a graph warns, and says why
        losses = []
        for each in (loss(pair.model, pair.guide), compiled):
            pyro.set_rng_seed(0)
            losses.append(each(x, *rest))
        torch.testing.assert_close(*losses)
        with pytest.raises(ValueError, match="outside"):
            pair.model(x - 7, *rest)

    def test_is_no_program_itself(self, name):
        with pytest.raises(TypeError, match="is two programs: pass"):
            ALL[name][0]()(binary(3))


# ------------------------------------------------------------------------------ layers


def linear(weight: torch.Tensor, log_variance: float) -> nn.Module:
    """A network that gives a linear loc, and the same log variance everywhere."""
    net = nn.Linear(weight.shape[1], 2 * len(weight))
    with torch.no_grad():
        net.weight.copy_(torch.cat([weight, torch.zeros_like(weight)]))
        net.bias.copy_(torch.cat([torch.zeros(len(weight)), torch.full((len(weight),), log_variance)]))
    return net


def gaussian_layers(noise: float, middle: float):
    """x = z1 + noise, z1 = W z2 + noise: the parts of the model, W, and log p(x)."""
    weight = torch.randn(3, 2)
    parts = (
        priors.StandardNormal(2),
        guides.Normal(linear(weight, math.log(middle))),
        likelihoods.Normal(nn.Identity(), scale=noise**0.5),
    )
    exact = MultivariateNormal(torch.zeros(3), weight @ weight.T + (noise + middle) * torch.eye(3))
    return parts, weight, exact


class ExactUpper(nn.Module):
    """p(z2 | x) of linear layers, where x = W z2 + noise of this variance."""

    def __init__(self, weight: torch.Tensor, variance: float) -> None:
        super().__init__()
        self.covariance = torch.linalg.inv(torch.eye(2) + weight.T @ weight / variance)
        self.gain = self.covariance @ weight.T / variance

    def forward(self, x: torch.Tensor) -> dist.TorchDistribution:
        return dist.MultivariateNormal(x @ self.gain.T, self.covariance)


def test_ladder_of_linear_layers_holds_the_exact_posterior():
    """Each log-weight is then log p(x): the guide's product of normals is right to the last bit."""
    parts, weight, exact = gaussian_layers(noise=0.3, middle=0.5)
    lower = guides.Normal(linear(torch.eye(3), math.log(0.3)))
    pair = models.ladder(*parts, lower=lower, upper=ExactUpper(weight, 0.8))
    x = exact.sample((10,))
    weights = pv.log_weights(pair.model, pair.guide, x, num_samples=20)
    torch.testing.assert_close(weights, exact.log_prob(x).double().expand(20, -1), rtol=0, atol=1e-4)


def test_two_layers_of_linear_parts_reach_the_exact_answer():
    """The bottom-up posterior is linear too: q(z1 | x), then q(z2 | z1) which is exact."""
    parts, weight, exact = gaussian_layers(noise=0.3, middle=0.5)
    prior_z1 = weight @ weight.T + 0.5 * torch.eye(3)
    covariance = torch.linalg.inv(torch.linalg.inv(prior_z1) + torch.eye(3) / 0.3)

    def lower(x):
        return dist.MultivariateNormal(x @ covariance / 0.3, covariance)

    pair = models.two_layers(*parts, lower=lower, upper=ExactUpper(weight, 0.5))
    x = exact.sample((10,))
    weights = pv.log_weights(pair.model, pair.guide, x, num_samples=20)
    torch.testing.assert_close(weights, exact.log_prob(x).double().expand(20, -1), rtol=0, atol=1e-4)


# ------------------------------------------------------------------------------ classes


def test_conditional_gives_log_p_of_x_given_y():
    """z ~ N(a y, 1), x = W z + c y + noise: log N(x; (W a + c) y, W W' + noise)."""
    a, c, weight = torch.randn(2, CLASSES), torch.randn(4, CLASSES), torch.randn(4, 2)
    pair = models.conditional(
        priors.ConditionalNormal(linear(a, 0.0)),
        lambda both: dist.Normal(both[..., :2] @ weight.T + both[..., 2:] @ c.T, 0.7).to_event(1),
        lambda both: dist.Normal(torch.zeros(len(both), 2), 2.0).to_event(1),
    )
    y = torch.eye(CLASSES)[torch.tensor([0, 1, 2, 1, 0])]
    mean = y @ (weight @ a + c).T
    exact = MultivariateNormal(mean, weight @ weight.T + 0.49 * torch.eye(4))
    x = mean + 0.3
    weights = pv.log_weights(pair.model, pair.guide, x, y, num_samples=20_000)
    error = (pv.log_evidence(weights) - exact.log_prob(x)).abs()
    assert (error < 4.5 * pv.standard_error(weights)).all()


def test_conditional_says_what_it_wants_of_y():
    pair, x = conditional(), binary(4)
    with pytest.raises(ValueError, match=r"called with \(x, y\): pass the data as a tuple"):
        pv.log_weights(pair.model, pair.guide, x)
    with pytest.raises(ValueError, match=r"of labels make one_hot\(y, num_classes\).float\(\)"):
        pv.log_weights(pair.model, pair.guide, x, torch.arange(4))

    with pytest.raises(ValueError, match=r"to generate a row for each condition, pair.sample\(y=y\)"):
        pair.sample(5)


class Flow(torch.nn.Module):
    """As zuko's: a context that may be left out, or that has to be there."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.loc = torch.nn.Linear(max(context, 1), 2)
        self.context = context

    def forward(self, c=None):
        if bool(self.context) != (c is not None):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return dist.Normal(self.loc(torch.zeros(1) if c is None else c), 1.0).to_event(1)


@pytest.mark.parametrize("kind", ["function of y", "function", "flow of y", "flow", "distribution"])
def test_conditional_gives_y_to_priors_that_take_it(kind):
    slope = torch.randn(3, 2)
    prior = {
        "function of y": lambda y: dist.Normal(y @ slope, 1.0).to_event(1),
        "function": lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1),
        "flow of y": Flow(3),
        "flow": Flow(0),
        "distribution": dist.Normal(torch.zeros(2), 1.0).to_event(1),
    }[kind]
    likelihood = likelihoods.Bernoulli(networks.MLP(2 + 3, 6))
    pair = models.conditional(prior, likelihood, guides.Normal(networks.MLP(6 + 3, 4)))
    x, y = binary(9), torch.eye(3).repeat(3, 1)
    trace = pyro.poutine.trace(pair.model).get_trace(x, y)
    of_y = trace.nodes["z"]["fn"].mean
    assert ("of y" in kind) == bool((of_y != of_y[0]).any())
    assert pv.log_weights(pair.model, pair.guide, x, y, num_samples=4).isfinite().all()


def test_parts_that_cannot_be_added_up_are_refused():
    pair = models.ladder(
        priors.StandardNormal(2),
        guides.FullRankNormal(networks.MLP(2, 3 + 3 + 3), 3),
        likelihoods.Bernoulli(networks.MLP(3, 6)),
        guides.Normal(networks.MLP(6, 2 * 3)),
        guides.Normal(networks.MLP(6, 2 * 2)),
    )
    with pytest.raises(ValueError, match=r"models.ladder: the middle part must be a diagonal normal"):
        pv.log_weights(pair.model, pair.guide, binary(4))
    with pytest.raises(TypeError, match=r"must be a priors.GaussianMixture, got StandardNormal.*pv.VAE"):
        models.gaussian_mixture(priors.StandardNormal(2), None, None)


def semi_supervised_by_sums(pair, x):
    """log p(x, y) by quadrature over the one latent, for every class: [classes, rows]."""
    z = torch.linspace(-8, 8, 2001)[:, None, None]
    found = []
    for label in torch.eye(CLASSES):
        both = torch.cat([z, label.expand(2001, 1, CLASSES)], -1)
        with torch.no_grad():
            log_joint = dist.Normal(0.0, 1.0).log_prob(z[..., 0]) + pair.model.likelihood(both).log_prob(x)
        found.append(log_joint.double().logsumexp(0) + math.log(16 / 2000) - math.log(CLASSES))
    return torch.stack(found)


def test_semi_supervised_sums_over_classes_where_none_is_known():
    pair, x = semi_supervised(), binary(20)
    by_class = semi_supervised_by_sums(pair, x)
    unlabelled = pv.log_weights(pair.model, pair.guide, x, num_samples=20_000)
    error = (pv.log_evidence(unlabelled) - by_class.logsumexp(0)).abs()
    assert (error < 4.5 * pv.standard_error(unlabelled)).all()

    weights = pv.log_weights(pair.model, pair.guide, x, LABELS, num_samples=20_000)
    known = LABELS >= 0
    exact = torch.where(known, by_class[LABELS.clamp(min=0), torch.arange(20)], by_class.logsumexp(0))
    assert ((pv.log_evidence(weights) - exact).abs() < 4.5 * pv.standard_error(weights)).all()


def test_enumerated_classes_give_the_bound_that_draws_give():
    pair, x = semi_supervised(), binary(20)
    pair.eval()
    with torch.no_grad():
        enumerated = torch.tensor([ENUMERATING.loss(pair.model, pair.guide, x, LABELS) for _ in range(400)])
    drawn = pv.log_weights(pair.model, pair.guide, x, LABELS, num_samples=10_000).sum(1)
    error = (enumerated.var() / 400 + drawn.var() / 10_000).sqrt()
    assert abs(-enumerated.mean() - drawn.mean()) < 4.5 * error
    assert enumerated.std() < drawn.std()


def test_classifier_is_taught_in_training_only():
    pair, x = semi_supervised(alpha=2.0), binary(20)
    losses = {}
    for training in (True, False):
        pair.train(training)
        pyro.set_rng_seed(3)
        losses[training] = ENUMERATING.loss(pair.model, pair.guide, x, LABELS)
    known = LABELS >= 0
    logits = pair.guide.classifier(x).log_softmax(-1)
    taught = logits[known, LABELS[known]].sum()
    assert losses[True] - losses[False] == pytest.approx(-2.0 * taught.item(), rel=1e-4)
    pair.train()
    pyro.set_rng_seed(4)
    first = pv.log_weights(pair.model, pair.guide, x, LABELS, num_samples=4)
    pair.eval()
    pyro.set_rng_seed(4)
    assert torch.equal(first, pv.log_weights(pair.model, pair.guide, x, LABELS, num_samples=4))


def test_labels_of_a_few_rows_teach_the_classes():
    """Three classes with bits of their own, 5% of rows labelled: accuracy 1/3 before."""
    truth = torch.arange(600) % CLASSES
    probabilities = torch.where(torch.eye(CLASSES).repeat_interleave(2, 1).bool(), 0.9, 0.1)
    x = torch.bernoulli(probabilities[truth])
    labels = torch.where(torch.arange(600) < 30, truth, -1)
    pair = semi_supervised(alpha=5.0)
    optimizer = torch.optim.Adam(pair.parameters(), lr=1e-2)
    pv.fit(
        pair.model,
        pair.guide,
        (x, labels),
        loss=ENUMERATING,
        num_epochs=15,
        batch_size=60,
        optimizer=optimizer,
        progress=False,
    )
    accuracy = (pair.guide.classifier(x).argmax(-1) == truth).double().mean()
    assert accuracy > 0.9  # 0.933 to 0.958 over ten seeds


@pytest.mark.parametrize(
    ("labels", "message"),
    [(torch.zeros(20), "integer labels"), (torch.full((20,), 3), "from 0 to 2"), (LABELS[:5], r"\[20\]")],
)
def test_bad_labels_are_refused(labels, message):
    pair = semi_supervised()
    with pytest.raises(ValueError, match=message):
        pv.log_weights(pair.model, pair.guide, binary(20), labels)
    with pytest.raises(ValueError, match="at least 2"):
        models.semi_supervised(None, None, None, nn.Identity(), num_classes=1)


def test_a_graph_cannot_look_at_labels_and_has_no_number_for_bad_ones():
    pair, x, bad = semi_supervised(), binary(20), LABELS.clamp(max=0) + 3
    compiled = pv.compile(ENUMERATING(pair.model, pair.guide), (x, LABELS), backend="none")
    assert compiled(x, LABELS).isfinite()
    assert compiled(x, bad).isnan()
    with pytest.raises(ValueError, match="from 0 to 2"), pyro.validation_enabled(False):
        pair.guide(x, bad)


def test_mixture_with_its_component_is_the_vae_with_the_mixture_as_prior():
    pair, x = gaussian_mixture(), binary(20)
    vae = pv.VAE(pair.model.prior, pair.model.likelihood, pair.guide.guide)
    pyro.set_rng_seed(0)
    with_component = pv.log_weights(pair.model, pair.guide, x)  # z is drawn first in both
    pyro.set_rng_seed(0)
    summed_out = pv.log_weights(vae.model, vae.guide, x)
    torch.testing.assert_close(with_component, summed_out, rtol=0, atol=1e-5)
    pyro.set_rng_seed(0)
    enumerated = ENUMERATING.loss(pair.model, pair.guide, x)
    pyro.set_rng_seed(0)
    assert enumerated == pytest.approx(Trace_ELBO().loss(vae.model, vae.guide, x), abs=1e-3)


# ------------------------------------------------------------------------------ ready-made


def test_discrete_agrees_with_the_sum_over_all_codes():
    vae, x = models.discrete(FEATURES, size=2, num_categories=3, hidden=[7]), binary(20)
    codes = vae.prior().enumerate_support()
    assert codes.shape == (9, 6)
    with torch.no_grad():
        log_joint = vae.prior().log_prob(codes)[:, None] + vae.decode(codes[:, None]).log_prob(x)
        log_q = vae.encode(x).log_prob(codes[:, None])
    weights = pv.log_weights(vae.model, vae.guide, x, num_samples=20_000)
    error = (pv.log_evidence(weights) - log_joint.logsumexp(0)).abs()
    assert (error < 4.5 * pv.standard_error(weights)).all()
    summed = ENUMERATING.loss(vae.model, config_enumerate(vae.guide), x)
    assert -summed == pytest.approx((log_q.exp() * (log_joint - log_q)).sum().item(), abs=1e-3)


def test_prod_lda_finds_planted_topics():
    """Three topics with words of their own, three to a topic."""
    theta = torch.distributions.Dirichlet(torch.full((3,), 0.1)).sample((500,))
    words = torch.eye(3).repeat_interleave(3, 1) / 3
    x = torch.distributions.Multinomial(60, theta @ words).sample()
    vae = models.prod_lda(9, 3, hidden=[20])
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-2)
    pv.fit(vae.model, vae.guide, x, num_epochs=40, batch_size=50, optimizer=optimizer, progress=False)
    topics = vae.likelihood.net[1].weight.T.softmax(-1)
    found = topics.reshape(3, 3, 3).sum(-1)  # of each topic, the weight of each group of words
    assert found.max(1).values.min() > 0.9  # 0.934 to 0.948 over ten seeds
    assert sorted(found.argmax(1).tolist()) == [0, 1, 2]


def test_a_bag_has_a_total_of_its_own():
    vae, x = models.prod_lda(FEATURES, 2, hidden=[7]), torch.stack([torch.ones(6), torch.zeros(6)])
    weights = pv.log_weights(vae.model, vae.guide, x, num_samples=2000)
    assert pv.log_evidence(weights)[1].exp().item() == pytest.approx(1, abs=0.1)  # no words: certain
