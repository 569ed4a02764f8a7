"""Recipes: read and written without loss, strict about names, and enough to build the same model again."""

from __future__ import annotations

import copy
import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pyro.infer import Trace_ELBO

import pyrovae as pv
from pyrovae import objectives, registry
from pyrovae.core.checks import one_line
from pyrovae.core.random import stream
from pyrovae.models.networks import ConvDecoder
from pyrovae.runs.build import build, training
from pyrovae.runs.named import NESTED, PartSpec
from pyrovae.runs.recipe import FORMAT, Recipe, Run, changes, read_config, read_run

DATA = Path(__file__).parents[1] / "data"

# --------------------------------------------------------------------------- there and back

keys = st.sampled_from(["scale", "num_particles", "gradient", "hidden", "x1", "_private", "Größe"])
numbers = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
plain = numbers | st.text(max_size=5)
values = plain | st.lists(plain, max_size=2)


def parts(kind: str, inner: int = 1) -> st.SearchStrategy[PartSpec]:
    """Any part of a kind, with keywords of any name, and now and then a part inside."""
    keywords = st.dictionaries(keys, values, max_size=2)
    if inner:
        inside = st.sampled_from(list(NESTED)).flatmap(
            lambda key: (parts(NESTED[key], inner - 1) | numbers).map(lambda value: {key: value})
        )
        keywords = st.builds(dict.__or__, keywords, st.just({}) | inside)
    return st.builds(
        lambda name, given: PartSpec(name, **given), st.sampled_from(registry.names(kind)), keywords
    )


recipes = st.builds(
    Recipe,
    dataset=st.sampled_from(["mnist-mini", "mnist", "static-mnist"]),
    binarisation=st.sampled_from([None, "dynamic", "static", "threshold", "none"]),
    dequantise=st.booleans(),
    hidden=st.lists(st.integers(1, 10**6), max_size=3).map(tuple),
    learning_rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    precision=st.sampled_from(["float32", "bfloat16"]),
    compile=st.booleans(),
    seed=st.integers(0, 2**63),
    **{name: st.integers(1, 10**9) for name in ("latent_dim", "num_epochs", "batch_size")},
    **{name: parts(kind) for name, kind in Recipe.kinds.items()},
)


@given(recipes)
@settings(max_examples=40)
def test_a_recipe_comes_back_from_json_as_it_was(recipe):
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert again == recipe
    assert hash(again) == hash(recipe)
    assert again.model_dump_json() == recipe.model_dump_json()
    assert Recipe.model_validate(json.loads(recipe.model_dump_json())) == recipe
    assert not changes(recipe, again)


@given(st.sampled_from(list(Recipe.kinds.values())).flatmap(lambda kind: parts(kind, 3)))
def test_a_part_comes_back_from_what_is_typed_as_it_was(part):
    assert PartSpec.parse(str(part)) == part
    assert PartSpec.read(json.loads(json.dumps(part.to_json()))) == part
    assert copy.deepcopy(part) == part
    assert pickle.loads(pickle.dumps(part)) == part


@given(st.text() | st.text(alphabet="Ab(=,[]){}'\"1.-+*:; \n", max_size=40))
def test_any_text_is_a_part_or_one_error(text):
    try:
        part = PartSpec.parse(text)
    except ValueError:
        return
    assert PartSpec.parse(str(part)) == part


@given(st.dictionaries(st.text(max_size=8), values | st.dictionaries(st.text(max_size=4), plain), max_size=4))
def test_any_json_is_a_recipe_or_one_line(content):
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        said = one_line(error)
    else:
        assert recipe == Recipe()
        return
    assert said
    assert "\n" not in said


def test_what_is_typed_reads_as_python():
    part = PartSpec.parse(
        "ELBO(terms=[kl_weight(weight=warmup(length=500)), free_bits(nats=0.05)], gradient=stl)"
    )
    assert part == PartSpec(
        "ELBO",
        terms=[
            PartSpec("kl_weight", weight=PartSpec("warmup", length=500)),
            PartSpec("free_bits", nats=0.05),
        ],
        gradient="stl",
    )
    assert part.to_json()["terms"][0] == {"name": "kl_weight", "weight": {"name": "warmup", "length": 500}}
    assert PartSpec.parse("vamp-prior(pseudo_inputs=3)").canonical("priors") == PartSpec(
        "VampPrior", pseudo_inputs=3
    )
    assert PartSpec("MLP", activation="Tanh") == PartSpec.parse("MLP(activation=Tanh)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('true')", "is no part: write Name or Name"),
        ("Laplace(scale=__import__('os'))", "__import__: ''os'' has no keyword"),
        ("Laplace(scale=open('x').read())", r"is no number, text, list or part"),
        ("Laplace(scale=(lambda: 1)())", "is no number, text, list or part"),
        ("Laplace(3)", "Laplace: '3' has no keyword: write keyword=value"),
        ("Laplace(**{'scale': 3})", "is no keyword, or one that is there already"),
        ("Laplace(scale=1, scale=2)", "keyword argument repeated|there already"),
        ("Laplace(scale=1", "write Name or Name"),
        ("Laplace(scale=1)(scale=2)", "is no number, text, list or part"),
        ("Laplace(scale=1) + 1", "write Name or Name"),
        ("Laplace(scale=1e999)", "'scale' is inf: numbers have to be finite"),
        ("Laplace(scale={1: 2})", "numbers, text, True, False, None and lists of them"),
        ("Laplace(scale=b'x')", "numbers, text, True, False"),
        ("torch.nn:Linear", "is no part"),
        ("", "is no part"),
        ("A" + "(x=A" * 500 + ")" * 500, "is no part"),
    ],
)
def test_nothing_that_is_typed_is_run(text, message):
    with pytest.raises(ValueError, match=message) as raised:
        PartSpec.parse(text)
    assert isinstance(raised.value, ValueError)


def test_a_part_is_frozen():
    with pytest.raises(AttributeError, match="cannot assign"):
        PartSpec("Laplace").name = "Normal"


# ------------------------------------------------------------------------------- strictness


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"latent_dm": 3}, "unknown key 'latent_dm': did you mean 'latent_dim'?"),
        ({"optimiser": "Adam"}, "unknown key 'optimiser': did you mean 'optimizer'?"),
        ({"prior": "Lapalce"}, "prior: unknown prior 'Lapalce': did you mean 'Laplace'?"),
        ({"prior": "torch.nn:Linear"}, "prior: 'torch.nn:Linear' is no part"),
        ({"prior": {"name": "os.system"}}, "prior: 'os.system' is no name of a part"),
        ({"prior": {"nme": "Laplace"}}, "prior: {'nme': 'Laplace'} is no part"),
        ({"prior": 3}, "prior: 3 is no part"),
        (
            {"encoder": {"name": "MLP", "activation": "tahn"}},
            "unknown activation 'tahn': did you mean 'Tanh'?",
        ),
        (
            {"objective": "ELBO(terms=[kl_wieght(weight=1)])"},
            "unknown term 'kl_wieght': did you mean 'kl_weight'",
        ),
        ({"dataset": "mnist_min"}, "dataset: unknown data set 'mnist_min': did you mean 'mnist-mini'?"),
        ({"learning_rate": math.inf}, "learning_rate: Input should be a finite number"),
        ({"learning_rate": math.nan}, "learning_rate: Input should be"),
        ({"dataset": "linear-gaussian"}, "'linear-gaussian' is real-valued"),
        ([], "Input should be a valid dictionary"),
    ],
)
def test_what_a_recipe_refuses(content, message):
    with pytest.raises(ValidationError) as raised:
        Recipe.model_validate(content)
    assert message in one_line(raised.value)


def test_a_recipe_of_the_first_format_is_read(tmp_path):
    (tmp_path / "recipe.json").write_bytes((DATA / "recipe_1.json").read_bytes())
    run = read_run(tmp_path)
    assert run.recipe == Recipe(latent_dim=2, hidden=(20,), num_epochs=1)
    assert (run.format, run.fingerprint, run.features) == (FORMAT, None, 784)
    assert read_config(tmp_path) == read_config(tmp_path / "recipe.json") == run


def test_a_recipe_of_this_format_is_read_and_built():
    run = read_config(DATA / "recipe_2.json")
    assert Run.model_validate_json(run.model_dump_json()) == run
    vae = build(run.recipe, run.features, run.shape)
    assert vae.prior.pseudo_inputs.shape == (50, 784)
    assert isinstance(vae.guide.part.net.layers[1], torch.nn.Tanh)
    assert isinstance(vae.likelihood.net, ConvDecoder)
    assert vae.sample(2).shape == (2, 784)
    keywords = training(run.recipe, num_data=5000)
    assert isinstance(keywords["loss"], objectives.ELBO)
    assert len(keywords["loss"].terms) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 3}', "format 3, and this version of pyrovae reads up to 2: install a newer pyrovae"),
        ('{"recipe": {}, "feature": 3}', "unknown key 'feature': did you mean 'features'?"),
        ('{"seed": 1, "latent": 3}', "unknown key 'latent': did you mean 'latent_dim'?"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ("[" * 100_000, "recursion"),
        ("\x00", "Expecting value"),
        ("<html>", "Expecting value"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path, content, message):
    path = tmp_path / "räksmörgås och mellanslag.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="not a recipe this version reads") as raised:
        read_config(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_other_files_are_named(tmp_path):
    (tmp_path / "recipe.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"recipe.json: not a recipe this version reads: 'utf-8' codec"):
        read_run(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none.json: there is no such recipe"):
        read_config(tmp_path / "none.json")


def test_a_part_whose_package_is_not_here_is_named_with_the_package(tmp_path):
    content = json.loads((DATA / "recipe_2.json").read_text())
    content["recipe"]["prior"] = "Horseshoe"
    content["versions"]["my-priors"] = "1.2"
    (tmp_path / "recipe.json").write_text(json.dumps(content))
    said = r"unknown prior 'Horseshoe': .*; it was trained with my-priors 1.2, which is not installed here"
    with pytest.raises(ValueError, match=said):
        read_run(tmp_path)


# --------------------------------------------------------------------------------- building

PRIORS = {
    "GaussianMixture": "components=3",
    "VampPrior": "pseudo_inputs=5",
    "Categorical": "num_categories=2, size=2",
    "AutoregressiveCategorical": "num_categories=2, size=2",
    "RelaxedCategorical": "num_categories=2, size=2",
    "MAF": "transforms=1",
    "NSF": "transforms=1",
    "RealNVP": "transforms=2",
}
GUIDES = {  # keywords, and a prior over the same
    "LowRankNormal": ("rank=2", "StandardNormal"),
    "GaussianMixture": ("components=2", "StandardNormal"),
    "Flow": ("flow=MAF(context=8, transforms=1)", "StandardNormal"),
    "LogNormal": ("", None),
    "Dirichlet": ("", "Dirichlet"),
    "LogisticNormal": ("", "LogisticNormal"),
    "PowerSpherical": ("", "UniformSphere"),
    "Bernoulli": ("", "AutoregressiveBernoulli"),
    "Categorical": ("", "AutoregressiveCategorical(num_categories=2, size=2)"),
    "RelaxedCategorical": ("", "RelaxedCategorical(num_categories=2, size=2)"),
    "StraightThrough": ("guide=Bernoulli", "Bernoulli"),
    "Widened": ("guide=FullRankNormal, scale=1.2", "Laplace"),
    "Refined": ("steps=2", "Laplace"),
}
OF_PRIOR = {
    "Dirichlet": "Dirichlet",
    "LogisticNormal": "LogisticNormal",
    "UniformSphere": "PowerSpherical",
    "Bernoulli": "Bernoulli",
    "AutoregressiveBernoulli": "Bernoulli",
    "Categorical": "Categorical",
    "AutoregressiveCategorical": "Categorical",
    "RelaxedCategorical": "RelaxedCategorical",
}
LIKELIHOODS = {"DiscretizedLogistic": "components=2", "Binomial": "total_count=1", "Categorical": "levels=4"}
PAIRS = [
    *((f"{name}({PRIORS.get(name, '')})", OF_PRIOR.get(name, "Normal")) for name in registry.names("priors")),
    *(
        (prior, f"{name}({keywords})")
        for name in registry.names("guides")
        for keywords, prior in [GUIDES.get(name, ("", "StandardNormal"))]
        if prior is not None and name != "Delta"
    ),
]


def weights_are_finite(recipe: Recipe, x: torch.Tensor, shape: tuple[int, ...] | None = None) -> None:
    vae = build(recipe, x.shape[1], shape)
    found = pv.log_weights(vae.model, vae.guide, x, num_samples=3)
    assert found.shape == (3, len(x))
    assert found.isfinite().all()


@pytest.mark.parametrize(("prior", "guide"), PAIRS)
def test_every_prior_and_every_guide_is_built_from_its_name(prior, guide):
    weights_are_finite(Recipe(prior=prior, guide=guide, latent_dim=4, hidden=(5,)), torch.eye(6))


@pytest.mark.parametrize("name", registry.names("likelihoods"))
def test_every_likelihood_is_built_from_its_name(name):
    x = torch.full((3, 6), 0.5) if name == "Beta" else torch.eye(6)[:3]
    likelihood = f"{name}({LIKELIHOODS.get(name, '')})"
    weights_are_finite(Recipe(likelihood=likelihood, latent_dim=2, hidden=(5,)), x)


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [("GatedMLP", "GatedMLP"),
     ("ConvEncoder(channels=[2])", "ConvDecoder(channels=[2], activation=ELU(alpha=2.0))"),
     ("ResidualEncoder(channels=[2])", "ResidualDecoder(channels=[2])")],
)  # fmt: skip
def test_networks_are_as_wide_as_the_parts_ask(encoder, decoder):
    recipe = Recipe(
        encoder=encoder,
        decoder=decoder,
        guide="FullRankNormal",
        likelihood="DiscretizedLogistic(components=2)",
        latent_dim=3,
        hidden=(5,),
    )
    weights_are_finite(recipe, torch.eye(12)[:2], (3, 4))


def test_a_guide_over_positive_latents_and_a_point_are_built_too():
    for name in ("LogNormal", "Delta"):
        vae = build(Recipe(guide=name, latent_dim=3, hidden=()), features=6)
        assert vae.encode(torch.eye(6)).event_shape == (3,)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"prior": "Laplace(scal=2)"}, "unknown keyword of prior 'Laplace' 'scal': did you mean 'scale'?"),
        ({"prior": "GaussianMixture"}, "prior 'GaussianMixture' needs components: give it with the name"),
        ({"prior": "Laplace(scale=-1)"}, "Laplace: scale must be positive"),
        ({"prior": "Laplace(scale=[1, 2])"}, "prior 'Laplace': .*number.*'tuple'"),
        ({"prior": "VampPrior(pseudo_inputs=0)"}, "pseudo_inputs is 0: give how many rows"),
        ({"guide": "Categorical"}, "guide 'Categorical' needs num_categories=, and the prior has none"),
        (
            {"prior": "VampPrior", "guide": "Defensive"},
            "prior VampPrior is made of guide Defensive is made of prior",
        ),
        ({"encoder": "MLP(hidden=[0])"}, "hidden"),
        ({"encoder": "ConvEncoder"}, "network 'ConvEncoder' needs shape"),
        (
            {"encoder": "MLP(activation=3)"},
            "network 'MLP': activation is 3: give a name, see pyrovae list",
        ),
        ({"guide": "Flow(flow=3)"}, "guide 'Flow': flow is 3: give a name, see pyrovae list flows"),
        ({"guide": "Widened(guide=None, scale=2)"}, "guide 'Widened': guide is None: give a name"),
        ({"guide": "Normal(flow=IAF)"}, "unknown keyword of guide 'Normal' 'flow'"),
        (
            {"guide": "Widened(guide=Normal(net=3), scale=2)"},
            "Normal: net is that of the recipe: leave it out",
        ),
    ],
)
def test_parts_that_cannot_be_built_say_why(recipe, message):
    with pytest.raises(ValueError, match=message.replace("?", "[?]")) as raised:
        build(Recipe(**recipe), features=6)
    assert "\n" not in str(raised.value)


@pytest.fixture
def registered():
    yield
    registry._registered.clear()


def test_parts_of_ones_own_are_filled_by_the_names_of_their_arguments(registered):
    class Mine(pv.guides.Normal):
        @staticmethod
        def net_width(dim: int, spread: int) -> int:
            return 2 * dim

        def __init__(self, net, prior, *, spread: int) -> None:
            super().__init__(net)
            self.prior_too, self.spread = prior, spread

    class Dumb(pv.guides.Normal):
        net_width = None

    registry.register("guides", "Mine", Mine)
    registry.register("guides", "Dumb", Dumb)
    vae = build(Recipe(guide="mine(spread=3)", latent_dim=2, hidden=()), features=6)
    assert vae.guide.part.spread == 3
    assert vae.guide.part.prior_too is vae.prior
    with pytest.raises(ValueError, match="guide 'Dumb' does not say how wide its network is"):
        build(Recipe(guide="Dumb"), features=6)
    vae = build(Recipe(guide="Dumb", encoder="MLP(out_features=4)", latent_dim=2, hidden=()), features=6)
    assert vae.encode(torch.eye(6)).event_shape == (2,)


def test_weights_start_from_the_data_where_a_part_does():
    digits = pv.datasets.load("mnist-mini")
    recipe = Recipe(prior="VampPrior(pseudo_inputs=7)", latent_dim=2, hidden=(5,))
    vae = build(recipe, 784, (28, 28), digits.train)
    mean = torch.logit(digits.train.mean, eps=1e-3)
    assert torch.equal(vae.likelihood.net.layers[-1].bias, mean)
    with digits.train.drawing("pseudo-inputs", 0):
        assert torch.equal(vae.prior.pseudo_inputs, digits.train[:7])
    with pytest.raises(ValueError, match="pseudo_inputs is 5,001, and there are 5,000 rows"):
        build(Recipe(prior="VampPrior(pseudo_inputs=5001)"), 784, (28, 28), digits.train)


def test_the_default_recipe_draws_the_weights_it_always_drew():
    """Decoder first: the README's numbers hang on it."""
    with stream("weights", 0):
        vae = build(Recipe(latent_dim=2, hidden=(5,)), features=9)
    with stream("weights", 0):
        decoder, encoder = pv.networks.MLP(2, 9, hidden=[5]), pv.networks.MLP(9, 4, hidden=[5])
    for mine, theirs in ((vae.likelihood.net, decoder), (vae.guide.part.net, encoder)):
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))


# --------------------------------------------------------------------------------- training


def test_training_is_what_the_recipe_says():
    keywords = training(Recipe(), num_data=9)
    assert type(keywords["loss"]) is Trace_ELBO
    optimizer = keywords["optimizer"]([torch.nn.Parameter(torch.ones(1))])
    assert type(optimizer) is torch.optim.Adam
    assert (optimizer.defaults["lr"], optimizer.defaults["fused"]) == (1e-3, True)
    recipe = Recipe(
        objective="IWAE(num_particles=5, gradient=dreg)",
        optimizer="AdamW(betas=[0.8, 0.9], foreach=False)",
        learning_rate=0.1,
        num_epochs=7,
        batch_size=3,
        seed=5,
        precision="bfloat16",
        compile=True,
    )
    keywords = training(recipe, num_data=9)
    assert (keywords["loss"].num_particles, keywords["loss"].gradient) == (5, "dreg")
    optimizer = keywords["optimizer"]([torch.nn.Parameter(torch.ones(1))])
    assert (optimizer.defaults["lr"], optimizer.defaults["betas"]) == (0.1, (0.8, 0.9))
    assert not optimizer.defaults["fused"]
    assert [keywords[name] for name in ("num_epochs", "batch_size", "seed")] == [7, 3, 5]
    assert (keywords["precision"], keywords["compile"]) == ("bfloat16", True)
    assert not training(Recipe(), num_data=9)["compile"]


@pytest.mark.parametrize("name", registry.names("optimizers"))
def test_every_optimizer_takes_a_step(name):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = training(Recipe(optimizer=name, learning_rate=0.1), 9)["optimizer"]([parameter])
    parameter.square().sum().backward()
    optimizer.step()
    assert (parameter < 1).all()


OBJECTIVES = {"IWAE": "num_particles=2", "Renyi": "alpha=0.5, num_particles=2",
              "MIWAE": "num_groups=2, group_size=2", "PIWAE": "num_groups=2, group_size=2",
              "CIWAE": "beta=0.5, num_particles=2",
              "WakeSleep": "num_particles=2", "TVO": "num_particles=2"}  # fmt: skip
TERMS = {"kl_weight": "weight=cyclical(period=3)", "free_bits": "nats=0.1",
         "capacity": "target=2.0, weight=1.0", "mmd": "weight=1.0",
         "total_correlation": "weight=2.0"}  # fmt: skip


@pytest.mark.parametrize(
    "objective",
    [*(f"{name}({OBJECTIVES.get(name, '')})" for name in registry.names("objectives")),
     *(f"ELBO(terms={name}({TERMS[name]}))" for name in registry.names("terms"))],
)  # fmt: skip
def test_every_objective_and_every_term_trains(objective):
    recipe = Recipe(objective=objective, latent_dim=2, hidden=(4,), num_epochs=1, batch_size=4)
    vae = build(recipe, features=6)
    before = [each.detach().clone() for each in vae.parameters()]
    history = pv.fit(vae.model, vae.guide, torch.eye(6), **training(recipe, 6), progress=False)
    assert math.isfinite(history.loss[0])
    assert any(not torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"optimizer": "Adam(lr=0.1)"}, "optimizer 'Adam': lr is the recipe's learning_rate"),
        (
            {"optimizer": "Adam(beta=0.1)"},
            "unknown keyword of optimizer 'Adam' 'beta': did you mean 'betas'?",
        ),
        ({"objective": "ELBO(terms=[mmd(weight=1), 3])"}, "objective 'ELBO': terms is .*3.: give a name"),
        ({"objective": "IWAE"}, "objective 'IWAE' needs num_particles"),
        (
            {"objective": "IWAE(num_particles=2, gradient=drag)"},
            "IWAE: gradient is 'drag', it has standard, stl",
        ),
        (
            {"schedule": "cosine(warmup=80)"},
            "cosine: warmup is 80 epochs, expected at least 0 and less than 80",
        ),
        ({"schedule": "cosine(final=2.0)"}, "cosine: final must be within"),
    ],
)
def test_trainings_that_cannot_be_say_why(recipe, message):
    with pytest.raises(ValueError, match=message.replace("?", "[?]")):
        training(Recipe(**recipe), num_data=9)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant(warmup=2)", [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ("cosine", [(1 + math.cos(math.pi * epoch / 6)) / 2 for epoch in range(6)]),
        (
            "cosine(warmup=2, final=0.5)",
            [1 / 3, 2 / 3, *(0.5 + (1 + math.cos(math.pi * e / 4)) / 4 for e in range(4))],
        ),
        ("burda", [10 ** (-i / 7) for i in (0, 1, 1, 1, 2, 2)]),
    ],
)
def test_schedules_are_torchs_and_set_the_rate_of_each_epoch(schedule, expected):
    keywords = training(Recipe(schedule=schedule, num_epochs=6, learning_rate=0.5), num_data=9)
    optimizer = keywords["optimizer"]([torch.nn.Parameter(torch.ones(1))])
    scheduler = keywords["scheduler"](optimizer)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    rates = []
    for _ in range(6):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.5 * factor for factor in expected])


def test_burdas_schedule_has_the_papers_epochs():
    factor = registry.find("schedules", "burda")(3280)
    lengths = [sum(factor(epoch) == 10 ** (-i / 7) for epoch in range(3280)) for i in range(8)]
    assert lengths == [3**i for i in range(8)]
