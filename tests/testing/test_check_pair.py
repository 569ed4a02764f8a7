"""check_pair: right parts pass, each wrong one is refused in a line with its mend."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from components import FEATURES, LATENTS, LIKELIHOODS, PAIRS, a_vae, to_x, to_z
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors
from pyrovae.testing import check_pair

ROWS = 8
FEW = 500  # draws: what is right passes with any number

COMBINATIONS = [(p, "normal_fixed", q) for p, q in PAIRS if q != "delta"]
COMBINATIONS += [("standard_normal", x, "normal") for x in LIKELIHOODS]


@pytest.mark.parametrize("parts", COMBINATIONS, ids="-".join)
def test_every_part_of_ours_passes(parts):
    """None of 3,175 runs with 500 draws and of 2,667 with 2,000 failed; half had their parameters moved."""
    vae = a_vae(*parts)
    report = check_pair(vae.model, vae.guide, LIKELIHOODS[parts[1]].data(ROWS), num_samples=FEW)
    said = report.verified + report.unverified
    for site in ("site 'z' of the model", "site 'x' of the model", "site 'z' of the guide"):
        (line,) = [line for line in said if line.startswith(f"{site} (")]
        assert line.endswith("draws follow it") == (line in report.verified)
    assert any("get a finite gradient of Trace_ELBO" in line for line in report.verified)


class Altered(dist.TorchDistribution):
    """A distribution with log_prob moved by a constant, and draws stretched and moved."""

    arg_constraints = {}  # noqa: RUF012 (the tables are torch's)

    def __init__(self, base, *, by=0.0, stretch=1.0, shift=0.0):
        self.base, self.by, self.stretch, self.shift = base, by, stretch, shift
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self):
        return self.base.support

    def expand(self, batch_shape, _instance=None):
        base = self.base.expand(batch_shape)
        return type(self)(base, by=self.by, stretch=self.stretch, shift=self.shift)

    def sample(self, sample_shape=()):
        return self.stretch * self.base.sample(sample_shape) + self.shift

    def log_prob(self, value):
        return self.base.log_prob(value) + self.by


def altered(**how):
    return lambda: Altered(dist.Normal(torch.zeros(LATENTS), 1.0).to_event(1), **how)


class UnweighedMixture(Altered):
    def log_prob(self, value):
        return torch.stack([self.base.log_prob(value)] * 3).logsumexp(0)


class NanFarOut(Altered):
    def log_prob(self, value):
        return self.base.log_prob(value) + 0 * (value[..., 0] + 2).log()


class FixedShape(Altered):
    def sample(self, sample_shape=()):
        return torch.randn(1, LATENTS)


class DetachedNormal(dist.Normal):
    def expand(self, batch_shape, _instance=None):
        return DetachedNormal(self.loc.expand(batch_shape), self.scale.expand(batch_shape))

    def rsample(self, sample_shape=()):
        return super().rsample(sample_shape).detach()


class NoExpand(torch.distributions.Distribution):
    arg_constraints = {}  # noqa: RUF012


class Applied(nn.Module):
    """A function of a network's output, as a part that lists the network."""

    def __init__(self, net, function):
        super().__init__()
        self.net, self.function = net, function

    def forward(self, value):
        return self.function(self.net(value))


def detached_draws(parameters):
    q = guides.Normal(nn.Identity()).given(parameters).base_dist
    return DetachedNormal(q.loc, q.scale).to_event(1)


def decoder(*layers):
    return likelihoods.Normal(nn.Sequential(*layers), scale=1.0)


WRONG_PRIORS = {
    "off by 0.1": (altered(by=0.1), r"\(Altered\): its density integrates to 1.1\d* .*subtract 0.1"),
    "off by -0.1": (altered(by=-0.1), r"\(Altered\): its density integrates to 0.[89]\d* .*add (0.1|0.09)"),
    "no constant": (
        altered(by=LATENTS * math.log(2 * math.pi) / 2),
        r"integrates to 39.* lacks the normal's -log\(2 pi\) / 2 for each of 4 numbers",
    ),
    "no weights": (
        lambda: UnweighedMixture(dist.Normal(torch.zeros(LATENTS), 1.0).to_event(1)),
        r"integrates to (3|2.9)\d*.* must weigh the 3 components, log_softmax",
    ),
    "wider draws": (altered(stretch=1.2), r"'z' of the model .*draws do not follow its density.*same param"),
    "narrower draws": (altered(stretch=0.8), r"'z' of the model .*draws do not follow its density.*same pa"),
    "moved draws": (altered(shift=0.3), r"'z' of the model .*draws do not follow its density.*same param"),
    "far narrower draws": (
        altered(stretch=0.1),
        r"its density integrates to .*or, if log_prob is right, let",
    ),
    "nan": (altered(by=math.nan), r"'z' of the model: its log density is nan on its own draws: look for"),
    "nan far out": (
        lambda: NanFarOut(dist.Normal(torch.zeros(LATENTS), 1.0).to_event(1)),
        r"log_prob is nan on \d% of its own draws in row \d: look for a log|is nan on its own draws",
    ),
    "no to_event": (
        lambda: dist.Normal(torch.zeros(LATENTS), 1.0),
        r"at site z dim -1, 8 vs 4. Did you forget .to_event\(1\)\?",
    ),
    "a dim too many": (
        lambda: dist.Normal(torch.zeros(1, LATENTS), 1.0).to_event(2),
        r"site 'z': the guide draws events of shape \(4,\), the prior of shape \(1, 4\): did you forget",
    ),
    "draws of a fixed shape": (
        lambda: FixedShape(dist.Normal(torch.zeros(LATENTS), 1.0).to_event(1)),
        r"site 'z' of the model: its draws have shape \(1, 4\), expected \(8, 4\)",
    ),
    "no expand": (lambda: NoExpand(event_shape=(LATENTS,)), r"NoExpand.expand is not implemented: .* needs"),
    "too wide": (
        lambda: priors.StandardNormal(LATENTS + 1)(),
        r"takes inputs of width 4 and gets shape \(8, 5\), where 5 is the width of site 'z': make its in_fe",
    ),
    "another support": (
        lambda: priors.Dirichlet(LATENTS)(),
        r"'z': the guide's Normal does not fit the prior's Dirichlet: one is over real values, the other ove",
    ),
}

WRONG_LIKELIHOODS = {
    "net takes another width": (
        lambda: likelihoods.Normal(networks.MLP(LATENTS + 1, FEATURES), scale=1.0),
        r"'likelihood.net' \(MLP\) takes inputs of width 5 and gets shape \(8, 4\), where 4 is the width of "
        r"site 'z': make its in_features 4, or what goes in 5 wide",
    ),
    "layers of another width": (
        lambda: decoder(nn.Linear(LATENTS, 3), nn.Linear(5, FEATURES)),
        r"'likelihood.net.1' \(Linear\) takes inputs of width 5 and gets shape \(8, 3\): make its in_feat",
    ),
    "net gives another width": (
        lambda: likelihoods.Normal(networks.MLP(LATENTS, 9), scale=1.0),
        r"data of shape \(8, 6\), and the likelihood's Normal has rows of \(9,\): make its network",
    ),
    "softmax over draws or rows": (
        lambda: decoder(nn.Linear(LATENTS, FEATURES), nn.Softmax(dim=1)),
        r"site 'x': a draw has another density among others.*dim=-1; look at likelihood.net.1 \(Softmax, d",
    ),
    "softmax over rows": (
        lambda: decoder(nn.Linear(LATENTS, FEATURES), nn.Softmax(dim=-2)),
        r"site 'x': a row's density changes when other rows are left out.*\(Softmax, dim -2\)",
    ),
    "batch norm": (
        lambda: decoder(nn.Linear(LATENTS, 5), nn.BatchNorm1d(5), nn.Linear(5, FEATURES)),
        r"several at once, \[draws, batch, ...\], do not .*net.1 \(BatchNorm1d: use LayerNorm\)",
    ),
    "detached": (
        lambda: Applied(
            nn.Identity(), lambda z: likelihoods.Normal(nn.Identity(), scale=1.0)(z.detach()[..., [0] * 6])
        ),
        r"site 'z' of the guide: no gradient of the model's other sites comes back .* out of what the model",
    ),
    "off by 0.1": (
        lambda: Applied(to_x(), lambda loc: Altered(dist.Normal(loc, 1.0).to_event(1), by=0.1)),
        r"site 'x' of the model \(Altered\): its density integrates to 1.1",
    ),
    "nan gradient": (
        lambda: Applied(to_x(), lambda loc: dist.Normal((0 * loc).square().sqrt() + 1, 1.0).to_event(1)),
        r"parameter .*: the gradient of Trace_ELBO is not finite: look for a root",
    ),
}

WRONG_GUIDES = {
    "net takes another width": (
        lambda: guides.Normal(networks.MLP(FEATURES + 1, 2 * LATENTS)),
        r"'part.net' \(MLP\) takes inputs of width 7 .* where 6 is the width of argument 0: make its in_f",
    ),
    "net gives another width": (
        lambda: guides.Normal(to_z(10)),
        r"the guide draws events of shape \(5,\), the prior of shape \(4,\): .* parameters of 4 numbers",
    ),
    "net gives an odd width": (
        lambda: guides.Normal(to_z(9)),
        r"loc and log variance, an even width; it gives 9",
    ),
    "another support": (
        lambda: guides.LogNormal(to_z()),
        r"'z': the guide's LogNormal does not fit the prior's Normal: it cannot reach .* use a guide over",
    ),
    "detached net": (
        lambda: Applied(to_z(), lambda h: guides.Normal(nn.Identity()).given(h.detach())),
        r"no parameter of the guide gets a gradient from Trace_ELBO, guide 'part.net.*take .detach\(\)",
    ),
    "detached draws": (
        lambda: Applied(to_z(), detached_draws),
        r"site 'z' of the guide: its distribution has_rsample, and its draws carry no gradient: let rsample",
    ),
    "wider draws": (
        lambda: Applied(to_z(4), lambda h: Altered(dist.Normal(h, 1.0).to_event(1), stretch=1.2)),
        r"site 'z' of the guide \(Altered\): its draws do not follow its density",
    ),
    "a point": (
        lambda: guides.Delta(to_z(4)),
        r"site 'z' has a Delta guide: .* of some width, such as guides.N",
    ),
}

WRONG = [("prior", *case) for case in WRONG_PRIORS.values()]
WRONG += [("likelihood", *case) for case in WRONG_LIKELIHOODS.values()]
WRONG += [("guide", *case) for case in WRONG_GUIDES.values()]
NAMES = [
    f"{part}: {name}"
    for part in ("prior", "likelihood", "guide")
    for name in globals()[f"WRONG_{part.upper()}S"]
]


@pytest.mark.parametrize(("part", "make", "message"), WRONG, ids=NAMES)
def test_what_is_wrong_is_said_in_one_line_with_its_mend(part, make, message):
    vae = a_vae("standard_normal", "normal_fixed", "normal")
    setattr(vae, part, make if part == "prior" else make())
    with pytest.raises(ValueError, match=message) as raised:
        check_pair(vae.model, vae.guide, LIKELIHOODS["normal_fixed"].data(ROWS))
    assert "\n" not in str(raised.value)


# Programs written by hand


class Ladder:
    """Two latents, one above the other; data, and a label where it is given."""

    def __init__(self):
        self.to_z1, self.to_x = networks.MLP(2, LATENTS), networks.MLP(LATENTS, FEATURES)
        self.from_x, self.from_z1 = networks.MLP(FEATURES, 2 * LATENTS), networks.MLP(LATENTS, 4)

    def model(self, x, y=None, *, scale=1.0):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.to_z1(z2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.to_x(z1), scale).to_event(1), obs=x)
            if y is not None:
                pyro.sample("y", dist.Normal(z1[..., 0], 1.0), obs=y)

    def guide(self, x, y=None, *, scale=1.0, squash=lambda z: z):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", guides.Normal(self.from_x)(x))
            pyro.sample("z2", guides.Normal(self.from_z1)(squash(z1)))


@pytest.fixture
def ladder():
    return Ladder()


def test_several_sites_and_conditions(ladder):
    x, y = torch.randn(ROWS, FEATURES), torch.randn(ROWS)
    report = check_pair(ladder.model, ladder.guide, x, y, scale=0.5, num_samples=FEW)
    for site in (
        "z2' of the model",
        "z1' of the model",
        "x' of the model",
        "y' of the model",
        "z2' of the gui",
    ):
        assert sum(f"'{site}" in line and "integrates to 1" in line for line in report.verified) == 1
    assert report.unverified == [
        "parameters: none are in sight: networks of a plain function are not looked into"
    ]
    assert str(report).startswith("verified\n  programs: plate 'data'")


def test_a_guide_that_mistakes_draws_for_rows_is_caught(ladder):
    def guide(x):
        ladder.guide(x, squash=lambda z: z.softmax(1))

    with pytest.raises(ValueError, match="site 'z2': a draw has another density among others"):
        check_pair(ladder.model, guide, torch.randn(ROWS, FEATURES), num_samples=FEW)


def test_discrete_latents_and_nested_plates():
    net = networks.MLP(2, 3)

    def model(x):
        with pyro.plate("documents", len(x), dim=-2):
            kind = pyro.sample("kind", dist.Categorical(logits=torch.zeros(3)))
            topics = pyro.sample("topics", dist.Dirichlet(torch.full((2,), 0.5)))
            with pyro.plate("words", x.shape[1], dim=-1):
                logits = net(topics) + torch.eye(3)[kind]
                pyro.sample("x", dist.Categorical(logits=logits), obs=x)

    def guide(x):
        with pyro.plate("documents", len(x), dim=-2):
            pyro.sample("kind", dist.Categorical(logits=torch.zeros(3)))
            pyro.sample("topics", dist.Dirichlet(torch.full((2,), 0.7)))

    report = check_pair(model, guide, torch.randint(3, (5, 4)), num_samples=FEW)
    assert (
        "site 'x' of the model (Categorical): sums to 1.0000, over 3 values; draws follow it"
        in report.verified
    )
    assert any(line.startswith("site 'topics' of the model (Dirichlet): integ") for line in report.verified)
    assert "rows: the same densities among other rows and without them" in report.verified


def test_hand_written_programs_of_the_wrong_width(ladder):
    x = torch.randn(ROWS, FEATURES)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(LATENTS), 1.0).to_event(1))

    def model(net):
        def run(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(LATENTS), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

        return run

    for net, message in (
        (
            nn.Linear(3, FEATURES),
            r"^a Linear takes inputs of width 3 and .* 4 is the width of site 'z': make",
        ),
        (nn.Linear(LATENTS, 7), r"site 'x': data of shape \(8, 6\), .* events of shape \(7,\): make its net"),
        (lambda z: z @ torch.ones(3, 6), r"the model fails after site 'z' of shape \(8, 4\): mat1 and mat2"),
    ):
        with pytest.raises(ValueError, match=message):
            check_pair(model(net), guide, x)
    with pytest.raises(
        ValueError, match=r"width 6 and gets shape \(8, 2, 3\), .*: flatten the rows, x.flatten\(1\)"
    ):
        check_pair(ladder.model, ladder.guide, x.reshape(ROWS, 2, 3))


def test_an_autoguide_is_checked_as_far_as_it_goes(ladder):
    x = torch.randn(ROWS, FEATURES)
    report = check_pair(ladder.model, AutoNormal(ladder.model), x, num_samples=FEW)
    assert any(
        line.startswith("rows: the programs do not run on the first 3 alone") for line in report.unverified
    )
    assert "site 'z1' of the guide (Delta): a point has no density to integrate" in report.unverified
    assert any(line.startswith("parameters: all 4 get") for line in report.verified)


def test_zero_weights_are_allowed_unless_a_row_has_no_others():
    def model(x, width):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Uniform(z - width, z + width, validate_args=False), obs=x)

    def guide(x, width):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    report = check_pair(model, guide, torch.zeros(ROWS), 1.0, num_samples=FEW)
    assert any("log-weights: finite, but for" in line for line in report.verified)
    assert any("the ELBO of this batch is not finite" in line for line in report.unverified)
    with pytest.raises(ValueError, match=r"log-weights: all 8 of row 2 are -inf, as if p\(x\) = 0"):
        check_pair(model, guide, torch.tensor([0.0, 0.0, 50.0]), 1.0, num_samples=FEW)


def test_a_parameter_without_a_gradient_is_named():
    vae = a_vae("standard_normal", "normal_fixed", "normal")
    vae.guide.part.register_parameter("idle", nn.Parameter(torch.zeros(3)))
    report = check_pair(vae.model, vae.guide, LIKELIHOODS["normal_fixed"].data(ROWS), num_samples=FEW)
    assert report.unverified == ["parameters: no gradient of Trace_ELBO for guide 'part.idle'"]


def test_all_is_left_as_it_was():
    vae = pv.VAE(
        priors.StandardNormal(LATENTS),
        decoder(nn.Linear(LATENTS, FEATURES), nn.Dropout()),
        guides.Normal(to_z()),
    )
    for parameter in vae.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    x, state = torch.randn(ROWS, FEATURES), torch.get_rng_state()
    first, second = (check_pair(vae.model, vae.guide, x, num_samples=FEW, seed=3) for _ in range(2))
    assert str(first) == str(second)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert all((parameter.grad == 7).all() for parameter in vae.parameters())
    assert all(module.training for module in vae.modules())
    assert torch.distributions.Distribution._validate_args == pyro.infer.util.is_validation_enabled()


def test_masked_rows_are_checked_like_others(ladder):
    masked = poutine.mask(ladder.model, mask=torch.tensor(False))
    check_pair(masked, ladder.guide, torch.randn(ROWS, FEATURES), num_samples=FEW)


def test_no_draws_are_refused(ladder):
    with pytest.raises(ValueError, match="num_samples is 0: at least 1 is needed"):
        check_pair(ladder.model, ladder.guide, torch.randn(ROWS, FEATURES), num_samples=0)
