"""The registry: every name is found, none is a path, and a plug-in that fails harms no other."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest

from pyrovae import cli, guides, likelihoods, networks, objectives, priors, registry
from pyrovae.runs.recipe import Recipe, versions
from pyrovae.training import optimisers

EVERY = [(kind, name) for kind in registry.KINDS for name in registry.names(kind)]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two packages with entry points, as an installer leaves them."""

    def install(package: str, code: str, **groups: str) -> None:
        (tmp_path / f"{package}.py").write_text(code)
        about = tmp_path / f"{package}-1.2.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        points = [f"[pyrovae.{kind}]\n{lines}\n" for kind, lines in groups.items()]
        (about / "entry_points.txt").write_text("\n".join(points))

    horseshoe = (
        "from pyrovae.models.priors import Laplace\nclass Horseshoe(Laplace):\n    'A horseshoe. Wide.'\n"
    )
    install("my_priors", horseshoe, priors="Horseshoe = my_priors:Horseshoe\nDouble = my_priors:Horseshoe")
    broken = "raise RuntimeError('no licence\\n found')"
    install(
        "my_broken",
        broken,
        priors="Broken = my_broken:Broken\nDouble = my_broken:Broken",
        guides="B = my_broken:B",
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry._entry_points.cache_clear()
    yield
    registry._entry_points.cache_clear()
    for name in ("my_priors", "my_broken"):
        sys.modules.pop(name, None)


@pytest.fixture
def registered():
    yield
    registry._registered.clear()


@pytest.mark.parametrize(("kind", "name"), [each for each in EVERY if each[0] != "datasets"])
def test_every_name_is_found_and_described(kind, name):
    assert callable(registry.find(kind, name))
    said = registry.describe(kind, name)
    assert said
    assert "\n" not in said
    assert registry.canonical(kind, name.lower().replace("_", "-")) == name
    assert registry.package_of(kind, name) is None


def test_every_part_of_this_package_has_a_name():
    for module in (priors, likelihoods, guides, networks):
        kind = module.__name__.split(".")[-1]
        classes = {name for name in module.__all__ if inspect.isclass(getattr(module, name))}
        assert classes - {"ConditionalNormal"} <= set(registry.names(kind))  # which needs a condition
    listed = {name for kind in ("objectives", "terms", "weights") for name in registry.names(kind)}
    assert set(objectives.__all__) <= listed
    assert set(registry.names("schedules")) == {"burda", "constant", "cosine"} <= set(optimisers.__all__)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("priors", "Lapalce", "unknown prior 'Lapalce': did you mean 'Laplace'?"),
        ("guides", "normal-flow", "unknown guide 'normal-flow': did you mean"),
        ("optimizers", "adan", "unknown optimizer 'adan': did you mean 'Adam'?"),
        ("datasets", "mnist-mni", "unknown data set 'mnist-mni': did you mean 'mnist-mini'?"),
        ("networks", "torch.nn.Linear", "unknown network 'torch.nn.Linear': choose one of MLP"),
        ("objectives", "os:system", "unknown objective 'os:system'"),
        ("priors", "pyrovae.priors:Laplace", "unknown prior 'pyrovae.priors:Laplace'"),
        ("activations", "Module", "unknown activation 'Module'"),
    ],
)
def test_only_names_are_known_and_the_nearest_is_told(kind, name, message):
    for ask in (registry.canonical, registry.find):
        with pytest.raises(ValueError, match=f"^{message.replace('?', '[?]')}"):
            ask(kind, name)


def test_entry_points_add_names(packages):
    assert sorted(registry.names("priors")[-3:]) == ["Broken", "Double", "Horseshoe"]
    assert registry.canonical("priors", "horse-shoe") == "Horseshoe"
    assert registry.find("priors", "Horseshoe").__name__ == "Horseshoe"
    assert registry.describe("priors", "Horseshoe") == "A horseshoe"
    assert registry.package_of("priors", "Horseshoe") == ("my_priors", "1.2")
    recipe = Recipe(prior="horseshoe")
    assert versions(recipe)["my_priors"] == "1.2"
    assert "my_broken" not in versions(recipe)


def test_a_plug_in_that_raises_is_named_and_harms_no_other(packages, capsys, tmp_path):
    said = (
        "prior 'Broken' of package my_broken 1.2 cannot be imported (RuntimeError: no licence found): "
        "mend or uninstall that package; other names work without it"
    )
    with pytest.raises(ImportError) as raised:
        registry.find("priors", "Broken")
    assert str(raised.value) == said
    assert registry.describe("priors", "Broken") == said
    assert registry.find("priors", "Laplace") is priors.Laplace
    assert cli.main(["train", str(tmp_path / "run"), "--prior", "Broken"]) == 1
    assert capsys.readouterr().err == f"pyrovae: {said} (`pyrovae doctor` looks at what is installed)\n"
    assert cli.main(["list", "priors"]) == 0
    listed = capsys.readouterr().out
    assert said in listed
    assert "Horseshoe" in listed
    assert "components, *, codes=None" in listed
    assert all(name in listed for name in registry.names("priors"))


def test_two_packages_with_one_name_are_told_apart(packages):
    with pytest.raises(
        ValueError, match=r"'Double' is in package my_\w+ 1.2 and in package my_\w+ 1.2: uninstall"
    ):
        registry.find("priors", "Double")


def test_a_part_of_ones_own_is_registered_for_the_process(registered):
    registry.register("priors", "Mine", priors.Laplace)
    assert Recipe(prior="mine").prior.name == "Mine"
    assert registry.find("priors", "Mine") is priors.Laplace
    registry.register("priors", "Mine", priors.Normal)  # a notebook's cell runs twice
    for kind, name, message in (
        ("priors", "laplace", "there is a prior 'Laplace' already"),
        ("prior", "Other", "unknown kind of part 'prior': did you mean 'priors'"),
        ("priors", "a.b", "is no name"),
    ):
        with pytest.raises(ValueError, match=message):
            registry.register(kind, name, priors.Laplace)


def test_a_missing_optional_package_is_named_with_the_mend(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "zuko", None)
    monkeypatch.setitem(sys.modules, "zuko.flows", None)
    assert registry.describe("priors", "MAF") == "flows need zuko: pip install 'pyrovae[flows]'"
    assert cli.main(["train", str(tmp_path / "run"), "--prior", "maf"]) == 1
    assert "pyrovae: flows need zuko: pip install 'pyrovae[flows]'" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"lock"}


def test_names_are_known_without_torch():
    code = (
        "import sys; from pyrovae import registry\n"
        "assert 'VampPrior' in registry.names('priors')\n"
        "assert registry.canonical('guides', 'normal') == 'Normal'\n"
        "assert not {'torch', 'pyro', 'zuko'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["priors", "likelihoods", "guides", "objectives", "datasets"])
def test_every_part_of_this_package_says_where_it_is_from(kind):
    for name in set(registry._built_in(kind)) - {"shards"}:  # files of the user's own
        form = r"arXiv:\d{4}\.\d{4,5}|doi:10\.\d+/\S+|www\.\S+" if kind == "datasets" else FORM
        assert re.fullmatch(form, registry.reference(kind, name)), name


FORM = r"arXiv:\d{4}\.\d{4,5}|doi:10\.\d+/\S+|https?://\S+"


def test_a_reference_is_the_first_of_the_docstrings(registered, monkeypatch):
    def part() -> None:
        """One. Two.

        References:
            Author, Title, 2001.
            doi:10.1000/182. Another, 2002. arXiv:0000.11111

        Example:
            arXiv:2222.33333
        """

    registry.register("priors", "Mine", part)
    assert registry.reference("priors", "Mine") == "doi:10.1000/182"
    part.__doc__ = "One.\n\nReferences:\n    A book, 1999.\n\nSee arXiv:2222.33333"
    assert registry.reference("priors", "Mine") == ""
    monkeypatch.setitem(sys.modules, "zuko", None)
    monkeypatch.setitem(sys.modules, "zuko.flows", None)
    assert registry.reference("priors", "MAF") == ""
