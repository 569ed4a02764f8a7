"""What parts refuse: data outside their support, networks of another width, arguments without sense."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from components import (
    FEATURES,
    LATENTS,
    LIKELIHOODS,
    a_vae,
    binary,
    counts,
    levels,
    net,
    real,
    to_x,
    to_z,
    unit,
)

import pyrovae as pv
from pyrovae import flows, guides, likelihoods, networks, priors

DATA = {
    "bits": binary,
    "levels": levels,
    "dequantised": unit,
    "bytes": lambda n: 255 * levels(n),
    "counts": counts,
    "large counts": lambda n: 300 * counts(n) + 256,
    "reals": real,
}
TAKEN = {  # which data each kind of likelihood takes, by what its events are
    "bernoulli": {"bits"},
    "continuous_bernoulli": {"bits", "levels", "dequantised"},
    "beta": {"dequantised"},
    "categorical": {"bits", "levels"},
    "discretized_logistic": {"bits", "levels"},
    "discretized_mixture": {"bits", "levels"},
    "binomial": {"bits", "bytes", "counts"},
    **{
        name: {"bits", "bytes", "counts", "large counts"}
        for name in ("poisson", "negative_binomial", "zero_inflated", "multinomial")
    },
    **{name: set(DATA) for name in LIKELIHOODS if name.startswith(("normal", "laplace", "student"))},
}
CLASSES = {likelihood.make().__class__.__name__: name for name, likelihood in LIKELIHOODS.items()}


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("kind", DATA)
def test_a_likelihood_takes_its_data_and_names_one_that_takes_other_data(name, kind):
    p = LIKELIHOODS[name].make()(torch.randn(20, LATENTS))
    x = DATA[kind](20)
    if kind in TAKEN[name]:
        likelihoods.check_support(p, x)
        assert p.log_prob(x).isfinite().all()
        return
    with pytest.raises(
        ValueError, match=r"site 'x': value [-\d.e+]+ in row \d+ of the batch is outside"
    ) as raised:
        likelihoods.check_support(p, x)
    message = str(raised.value)
    assert "\n" not in message
    advice = message.split(": ", 2)[2]
    advised = [CLASSES[word] for word in re.findall(r"[A-Z]\w+", advice) if word in CLASSES]
    assert advised or "binarise" in advice or "dequantise" in advice
    rescaled = x / 255 if "divide 8-bit values by 255" in advice else x
    for other in advised:
        takes = LIKELIHOODS[other].make()(torch.randn(20, LATENTS))
        fits = [likely for likely in (x, rescaled) if takes.support.check(likely).all()]
        assert fits, f"{other} is advised for {kind}, and does not take them"


def test_the_first_bad_value_is_named():
    x = binary(20)
    x[7, 3], x[9, 0] = 0.25, -4
    with pytest.raises(ValueError, match=r"value 0\.25 in row 7"):
        likelihoods.check_support(LIKELIHOODS["bernoulli"].make()(torch.randn(20, LATENTS)), x)
    x[2, 5] = torch.nan
    with pytest.raises(ValueError, match=r"value nan in row 2 .* drop the row or fill it in"):
        likelihoods.check_support(LIKELIHOODS["bernoulli"].make()(torch.randn(20, LATENTS)), x)


def test_beta_for_bits_is_refused_in_training_and_evaluation():
    vae = a_vae(likelihood="beta")
    for call in (
        lambda: pv.fit(vae.model, vae.guide, binary(8), num_epochs=1, progress=False),
        lambda: pv.evaluate(vae.model, vae.guide, binary(8), progress=False),
    ):
        with pytest.raises(ValueError, match="outside OpenBeta: for binary data use Bernoulli"):
            call()


WRONG_WIDTHS = {
    "guides.Normal": (lambda: guides.Normal(to_z(7)), "loc and log variance, an even width; it gives 7"),
    "guides.LowRankNormal": (
        lambda: guides.LowRankNormal(to_z(8), 4, rank=1),
        r"12 numbers, 4 of loc \+ 4 of log variance \+ 4 of factor; it gives 8",
    ),
    "guides.FullRankNormal": (
        lambda: guides.FullRankNormal(to_z(8), 4),
        r"14 numbers, .* 6 of below the diagonal; it gives 8",
    ),
    "guides.GaussianMixture": (
        lambda: guides.GaussianMixture(to_z(8), 4, components=2),
        r"18 numbers, 2 of logits \+ 8 of locs",
    ),
    "guides.PowerSpherical": (
        lambda: guides.PowerSpherical(to_z(8), 4),
        r"5 numbers, 4 of direction \+ 1 of concentration; it gives 8",
    ),
    "guides.Categorical": (
        lambda: guides.Categorical(to_z(7), num_categories=2),
        "2 logits a variable, a multiple of 2; it gives 7",
    ),
    "guides.LogNormal": (lambda: guides.LogNormal(to_z(7)), "an even width; it gives 7"),
    "guides.LogisticNormal": (lambda: guides.LogisticNormal(to_z(7)), "an even width; it gives 7"),
    "priors.ConditionalNormal": (lambda: priors.ConditionalNormal(to_z(7)), "an even width; it gives 7"),
    "likelihoods.Normal": (lambda: likelihoods.Normal(to_z(7)), "an even width; it gives 7"),
    "likelihoods.Beta": (
        lambda: likelihoods.Beta(to_z(7)),
        "the logit of the mean and log concentration, an even width; it gives 7",
    ),
    "likelihoods.Categorical": (
        lambda: likelihoods.Categorical(to_z(7)),
        "256 logits a feature, a multiple of 256; it gives 7",
    ),
    "likelihoods.DiscretizedLogistic": (
        lambda: likelihoods.DiscretizedLogistic(to_z(7), components=2),
        "a multiple of 6; it gives 7",
    ),
    "likelihoods.ZeroInflatedNegativeBinomial": (
        lambda: likelihoods.ZeroInflatedNegativeBinomial(to_z(7), features=3),
        "an even width; it gives 7",
    ),
    "likelihoods.NegativeBinomial": (
        lambda: likelihoods.NegativeBinomial(to_z(7), features=3),
        "3 features, and the network gives means of 7",
    ),
    "likelihoods.Laplace": (
        lambda: likelihoods.Laplace(to_z(7), scale=torch.ones(3)),
        "3 scales for 7 features",
    ),
}


@pytest.mark.parametrize("name", WRONG_WIDTHS)
def test_a_network_of_another_width_is_told_which_is_wanted_and_why(name):
    make, message = WRONG_WIDTHS[name]
    with pytest.raises(ValueError, match=message) as raised:
        make()(torch.rand(3, FEATURES))
    assert str(raised.value).startswith(name)
    assert "\n" not in str(raised.value)


def test_the_program_says_whose_network_it_is():
    decoder = likelihoods.Bernoulli(networks.MLP(LATENTS + 1, FEATURES))
    vae = pv.VAE(priors.StandardNormal(LATENTS), decoder, guides.Normal(to_z()))
    with pytest.raises(ValueError, match=r"likelihood: MLP: expected shape \(..., 5\), got \(8, 4\)"):
        pv.log_weights(vae.model, vae.guide, binary(8))
    vae = pv.VAE(priors.StandardNormal(LATENTS), likelihoods.Bernoulli(to_x()), guides.Normal(net(7, 8)))
    with pytest.raises(ValueError, match=r"guide: MLP: expected shape \(..., 7\), got \(8, 6\)"):
        pv.log_weights(vae.model, vae.guide, binary(8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: priors.GaussianMixture(4, 0), "components is 0: at least 1"),
        (lambda: priors.GaussianMixture(1, 3), "dim must be at least 2"),
        (
            lambda: priors.GaussianMixture(4, 3, codes=torch.zeros(9, 5)),
            r"at least 3 rows of 4, got shape \(9, 5\)",
        ),
        (lambda: priors.Laplace(4, scale=-1.0), "priors.Laplace: scale must be positive, got -1"),
        (lambda: priors.StudentT(4, df=0.0), "priors.StudentT: df must be positive, got 0"),
        (lambda: priors.Normal(4, scale=float("nan")), "priors.Normal: scale must be positive, got nan"),
        (lambda: priors.Dirichlet(1), "dim must be at least 2"),
        (lambda: priors.Dirichlet(3, concentration=-2), "concentration must be positive, got -2"),
        (lambda: priors.UniformSphere(1), "dim must be at least 2"),
        (lambda: priors.Categorical(0), "num_categories is 0"),
        (lambda: priors.AutoregressiveBernoulli(1), "for one variable, use priors.Bernoulli"),
        (lambda: priors.AutoregressiveCategorical(3, size=1), "for one variable, use priors.Categorical"),
        (
            lambda: priors.VampPrior(guides.Normal(to_z()), torch.rand(3, 7)),
            r"refuses pseudo-inputs of shape \(3, 7\): MLP: expected shape \(..., 6\)",
        ),
        (lambda: priors.VampPrior(guides.Normal(to_z()), torch.rand(0, 6)), r"got shape \(0, 6\)"),
        (lambda: priors.VampPrior(guides.Normal(to_z()), torch.rand(6)), r"\[K, \*event\], got shape \(6,\)"),
        (
            lambda: likelihoods.Normal(to_x(), scale=-0.1),
            "likelihoods.Normal: scale must be positive, got -0.1",
        ),
        (lambda: likelihoods.Normal(to_x(), learn_scale=True), "learn_scale needs a scale to start from"),
        (lambda: likelihoods.StudentT(to_x(), df=-1), "df must be positive, got -1"),
        (lambda: likelihoods.Categorical(to_x(), levels=1), "levels must be at least 2"),
        (lambda: likelihoods.DiscretizedLogistic(to_x(), components=0), "components is 0"),
        (lambda: likelihoods.Binomial(to_x(), total_count=0), "total_count is 0"),
        (lambda: guides.GaussianMixture(to_z(), 4, components=0), "components is 0"),
        (lambda: guides.LowRankNormal(to_z(), 4, rank=0), "rank is 0"),
        (lambda: guides.Widened(guides.Normal(to_z()), -2), "Widened: scale must be positive, got -2"),
        (
            lambda: guides.Defensive(guides.Normal(to_z()), priors.StandardNormal(4), 1.0),
            "strictly between 0 and 1",
        ),
        (lambda: guides.Refined(flows.NSF(4, 6), None), "needs a net and given"),
        (lambda: guides.Refined(guides.Normal(to_z()), None, 0), "steps is 0"),
        (
            lambda: guides.StraightThrough(guides.Bernoulli(to_z()), 0),
            "StraightThrough: temperature must be positive",
        ),
        (
            lambda: guides.RelaxedCategorical(to_z(), num_categories=2, temperature=-1),
            "guides.RelaxedCategorical: temperature must be at least 0.1, got -1",
        ),
        (lambda: priors.RelaxedCategorical(1), "num_categories must be at least 2, got 1"),
        (
            lambda: priors.RelaxedCategorical(3, temperature=0.05),
            "temperature must be at least 0.1, got 0.05.*StraightThrough",
        ),
    ],
)
def test_arguments_without_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_guides_that_cannot_be_wrapped_say_why():
    x = torch.rand(3, FEATURES)
    for guide, message in (
        (guides.Dirichlet(to_z(4)), "Widened: Dirichlet is not over all real vectors.*use Defensive"),
        (guides.Bernoulli(to_z(4)), "Widened: Bits is not over all real vectors"),
        (flows.NSF(4, FEATURES), "Widened: NormalizingFlow has no mean"),
    ):
        with pytest.raises(ValueError, match=message):
            guides.Widened(guide, 2.0)(x)
    with pytest.raises(ValueError, match="Defensive: the guide's Normal does not fit the prior's Dirichlet"):
        guides.Defensive(guides.Normal(to_z()), priors.Dirichlet(LATENTS))(x)
    with pytest.raises(ValueError, match=r"events of shape \(4,\), the prior of \(5,\)"):
        guides.Defensive(guides.Normal(to_z()), priors.StandardNormal(5))(x)
    vae = a_vae("bernoulli", "bernoulli", "bernoulli")
    with pytest.raises(ValueError, match=r"StraightThrough: takes a guide over bits or one-hot.*got Normal"):
        guides.StraightThrough(guides.Normal(to_z()))(x)
    with pytest.raises(ValueError, match="draws of Bernoulli carry no gradient"):
        guides.Refined(vae.guide.part, vae.model)(binary(3))


def test_a_guide_without_a_mean_says_how_to_reconstruct():
    vae = a_vae(guide="nsf")
    with pytest.raises(ValueError, match="NormalizingFlow has no mean in closed form: decode draws of it"):
        vae.reconstruct(binary(3))


def test_flows_without_zuko_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    monkeypatch.setitem(sys.modules, "zuko.flows", None)
    for make in (lambda: flows.NSF, lambda: flows.IAF(4)):
        with pytest.raises(ImportError, match=r"pip install 'pyrovae\[flows\]'"):
            make()


def test_unknown_flows_name_the_known_ones():
    with pytest.raises(AttributeError, match=r"flows has no 'NSFF': there are .*IAF, MAF, .*NSF"):
        _ = flows.NSFF


def test_parts_leave_zuko_alone_until_a_flow_is_named():
    """Importing zuko switches torch's argument validation off for the whole process."""
    code = (
        "import sys, torch, pyrovae as pv; from pyrovae import priors, guides, likelihoods, models, flows; "
        "assert 'zuko' not in sys.modules; flows.NSF; assert 'zuko' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
