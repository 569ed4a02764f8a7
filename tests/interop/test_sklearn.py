"""score_samples: evaluate's own numbers, as NumPy has them; and what scikit-learn does with a Density."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from components import a_vae, binary

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors
from pyrovae.testing import LinearGaussian

pytest.importorskip("sklearn")
from pyrovae.interop import Density

QUICK = {"num_epochs": 2, "num_samples": 20, "training": {"batch_size": 16, "compile": False}}


def test_scores_are_those_of_evaluate_to_the_last_bit():
    vae, x = a_vae(), binary(70)
    expected = pv.evaluate(vae.model, vae.guide, x, num_samples=30, seed=3, progress=False).log_evidence
    for given in (x.numpy(), x.numpy().astype(np.float64), x.bool().numpy(), x.tolist(), x):
        found = Density(vae, num_samples=30, seed=3).score_samples(given)
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.float64
        assert (found == expected.numpy()).all()
        assert (vae.score_samples(given, num_samples=30, seed=3) == found).all()
    assert Density(vae, num_samples=30, seed=3).score(x.numpy()) == expected.numpy().mean()


def test_scores_of_hand_written_programs_are_exact_where_the_guide_is():
    oracle = LinearGaussian(torch.ones(3, 1))
    x = oracle.sample(5)
    found = Density((oracle.model, oracle.guide), num_samples=10).score_samples(x.numpy())
    # float32 sums of three terms: measured below 1e-6.
    np.testing.assert_allclose(found, oracle.log_evidence(x).numpy(), atol=1e-5)


def test_fit_trains_a_copy_and_leaves_the_given_as_it_was():
    vae, x = a_vae(), binary(40)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    density = Density(vae, **QUICK)
    assert density.fit(x.numpy()) is density
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert len(density.history_) == 2
    expected = pv.fit(vae.model, vae.guide, x, num_epochs=2, progress=False, **QUICK["training"])
    assert density.history_.elbo == expected.elbo
    assert (density.score_samples(x) == vae.score_samples(x, num_samples=20)).all()


def test_a_guide_that_the_prior_shares_is_shared_in_the_copy():
    q, x = guides.Normal(networks.MLP(5, 4)), binary(40)
    vae = pv.VAE(priors.VampPrior(q, torch.rand(3, 5)), likelihoods.Bernoulli(networks.MLP(2, 5)), q)
    fitted = Density(vae, **QUICK).fit(x[:, :5].numpy()).pair_
    ids = [{id(each) for each in program.parameters()} for program in (fitted.model, fitted.guide)]
    assert ids[0] & ids[1] == {id(each) for each in fitted.guide.parameters()}
    assert not ids[0] & {id(each) for each in vae.parameters()}


def test_samples_are_those_of_the_model():
    density = Density(a_vae())
    drawn = density.sample(7)
    assert drawn.shape == binary(7).shape
    assert set(np.unique(drawn)) <= {0.0, 1.0}
    assert (density.sample(7) == drawn).all()
    assert (density.sample(7, random_state=1) != drawn).any()
    with pytest.raises(TypeError, match=r"takes no size=: draw by pyro\.infer\.Predictive"):
        Density((lambda x: x, lambda x: x)).sample(3)


def test_samples_are_drawn_in_evaluation_mode():
    """Batch statistics would make a sample depend on the others, and change the model."""

    class Net(torch.nn.Sequential):
        def forward(self, z):
            return super().forward(z.reshape(-1, 2)).reshape(*z.shape[:-1], 5)

    net = Net(torch.nn.Linear(2, 5), torch.nn.BatchNorm1d(5))
    vae = pv.VAE(priors.StandardNormal(2), likelihoods.Bernoulli(net), guides.Normal(networks.MLP(5, 4)))
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    assert Density(vae).sample(1).shape == (1, 5)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert vae.training
    torch.manual_seed(0)
    drawn = [Density(vae).sample(20, random_state=None) for _ in range(2)]
    assert (drawn[0] != drawn[1]).any()


def test_scikit_learn_searches_and_cross_validates():
    """Each fold's score is that of a fit of one's own."""
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV, KFold, cross_val_score

    density, x, folds = Density(a_vae(), **QUICK), binary(48).numpy(), KFold(2)
    scores = cross_val_score(density, x, cv=folds)
    for score, (train, test) in zip(scores, folds.split(x), strict=True):
        assert clone(density).fit(x[train]).score(x[test]) == score
    search = GridSearchCV(density, {"num_epochs": [1, 2]}, cv=folds).fit(x)
    assert search.cv_results_["mean_test_score"][1] == scores.mean()
    assert search.best_estimator_.score_samples(x).shape == (48,)
    with pytest.raises(ValueError, match=r"Invalid parameter 'epochs' for estimator Density"):
        density.set_params(epochs=3)


def test_a_missing_scikit_learn_is_said_and_only_density_needs_it():
    command = (
        "import sys; sys.modules['sklearn'] = sys.modules['sklearn.base'] = None\n"
        "import torch, pyrovae as pv; pv.interop.score_samples\n"
        "try:\n    pv.interop.Density\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "Density needs scikit-learn: pip install 'pyrovae[sklearn]'\n"
