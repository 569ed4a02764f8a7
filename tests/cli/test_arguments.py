"""What the command line does with arguments: right, half right, wrong and none; all of it before torch."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyrovae as pv
from pyrovae import cli
from pyrovae.cli.commands import BAD_INPUT, COMMANDS, DONE, FAILED, INTERRUPTED, TERMINATED, find
from pyrovae.cli.complaints import complaint
from pyrovae.runs.recipe import Recipe

WRONG = {
    # No command, and no such command.
    "": "no command: choose one of train, evaluate, compare",
    "tran RUN": "unknown command 'tran': did you mean 'train'?",
    "EVALUATE RUN": "unknown command 'EVALUATE': did you mean 'evaluate'?",
    "zzz": "unknown command 'zzz': choose one of train, evaluate",
    "--foo": "unknown option '--foo': pyrovae itself takes --help and --version",
    "--tyro-print-completion foo": "unknown shell 'foo': choose one of bash, zsh",
    # train
    "train": "train: PATH is missing (Folder to write): see `pyrovae train --help`",
    "train RUN --latent-dm 3": "train: unknown option '--latent-dm': did you mean '--latent-dim'?",
    "train RUN --latent_dm=3": "train: unknown option '--latent-dm': did you mean '--latent-dim'?",
    "train RUN --zzz": "train: unknown option '--zzz': see `pyrovae train --help`",
    "train RUN --no-overwrit": "train: unknown option '--overwrit': did you mean '--overwrite'?",
    "train RUN more": "train: one argument too many, more: see `pyrovae train --help`",
    "train RUN -x": "train: one argument too many, -x: see `pyrovae train --help`",
    "train RUN --latent-dim": "train: --latent-dim has no value: see `pyrovae train --help`",
    "train RUN --latent-dim three": "train: --latent-dim is 'three': a whole number is needed",
    "train RUN --latent-dim 0": "latent_dim: Input should be greater than or equal to 1, got 0",
    "train RUN --learning-rate nan": "learning_rate: Input should be a finite number, got nan",
    "train RUN --learning-rate x": "train: --learning-rate is 'x': a number is needed",
    "train RUN --hidden a": "train: --hidden cannot be 'a': see `pyrovae train --help`",
    "train RUN --hidden 0": "every width must be at least 1",
    "train RUN --dataset mnist-mni": "unknown data set 'mnist-mni': did you mean 'mnist-mini'?",
    "train RUN --dataset linear-gaussian": "real-valued",
    "train RUN --dataset static-mnist --root RUN": "static-mnist: neither",
    "train RUN --binarisation dinamic": ": choose one of 'dynamic', 'none', 'static', 'threshold'\n",
    "train RUN --precision tf3": "train: --precision is 'tf3': choose one of 'float32', 'tf32', 'bfloat16'",
    "train RUN --prior": "train: --prior has no value",
    "train RUN --prior Lapalce": "prior: unknown prior 'Lapalce': did you mean 'Laplace'?",
    "train RUN --prior Laplace(": "train: --prior: 'Laplace(' is no part: write Name or Name(keyword=value",
    "train RUN --config none.json": "none.json: there is no such recipe",
    "train RUN --overwrite --resume": "--resume goes on with a run, and --overwrite starts anew: pass one of",
    "train RUN --resume": "no recipe.json, so no run",
    "train /proc/run": "pyrovae: /proc/run: No such file or directory",
    "train /dev/null/run": "/dev/null",
    # evaluate
    "evaluate": "evaluate: PATH is missing (Folder of the run): see `pyrovae evaluate --help`",
    "evaluate RUN": "no recipe.json, so no run: train one with `pyrovae train ",
    "evaluate RUN --sed 3": "evaluate: unknown option '--sed': did you mean '--seed'?",
    "evaluate RUN --num-samples": "evaluate: --num-samples has no value",
    "evaluate RUN --num-samples x": "evaluate: --num-samples is 'x': a whole number is needed",
    "evaluate RUN --num-samples 0": "--num-samples is 0: at least 1 is needed",
    "evaluate RUN --seed -1": "--seed is -1: at least 0 is needed",
    "evaluate RUN --max-samples x": "evaluate: --max-samples is 'x': a whole number is needed",
    "evaluate RUN --target-se x": "evaluate: --target-se is 'x': a number is needed",
    "evaluate RUN --method iss": "evaluate: --method is 'iss': choose one of 'is', 'ais'",
    "evaluate RUN --split tst": "unknown split 'tst': did you mean 'test'?",
    "evaluate RUN --certify --method ais": "--certify anneals beside importance sampling: leave --method",
    # compare
    "compare": "compare: no run given, at least 2 are needed: pyrovae compare RUN RUN",
    "compare RUN": "compare: 1 run given, at least 2 are needed",
    "compare RUN RUN": "run is given twice: name each run once",
    "compare RUN RUN2": "evaluation.nc is missing: evaluate the run first, pyrovae evaluate ",
    "compare RUN RUN2 --split tst": "unknown split 'tst': did you mean 'test'?",
    "compare RUN RUN2 --reference": "compare: --reference has no value",
    "compare RUN RUN2 --referense RUN": "compare: unknown option '--referense': did you mean '--reference'?",
    # sample
    "sample": "sample: PATH is missing (Folder of the run): see `pyrovae sample --help`",
    "sample RUN": "no recipe.json, so no run",
    "sample RUN --out x.jpg": "--out is x.jpg: end its name in .png, .npz or .safetensors",
    "sample RUN --num-samples 0": "--num-samples is 0: at least 1 is needed",
    "sample RUN --seed -1": "--seed is -1: at least 0 is needed",
    "sample RUN --num 3": "sample: unknown option '--num': ",
    # report and explore
    "report": "report: no run given, at least 1 is needed",
    "report RUN": "no recipe.json, so no run",
    "report RUN --split tst": "unknown split 'tst': did you mean 'test'?",
    "report RUN --num-samples 0": "--num-samples is 0: at least 1 is needed",
    "report RUN --seed -1": "--seed is -1: at least 0 is needed",
    "report RUN --outt x": "report: unknown option '--outt': did you mean '--out'?",
    "explore": "explore: PATH is missing (Folder of the run): see `pyrovae explore --help`",
    "explore RUN": "no recipe.json, so no run",
    "explore RUN --port 99999": "--port is 99999: 1 to 65535 are possible, or 0 for a free one",
    "explore RUN --porrt 1": "explore: unknown option '--porrt': did you mean '--port'?",
    # sweep
    "sweep": "sweep: PATH is missing",
    "sweep RUN RUN2": "there is no such sweep: name a file of JSON",
    "sweep RUN RUN2 --workers 0": "--workers is 0: at least 1 is needed",
    "sweep RUN RUN2 --cluster slrum": "sweep: --cluster is 'slrum': choose one of",
    "sweep RUN RUN2 --dryrun": "sweep: unknown option '--dryrun': did you mean '--dry-run'?",
    # list and doctor
    "list priorz": "list: unknown kind of part 'priorz': did you mean 'priors'?",
    "list priors guides": "list: one argument too many, guides: see `pyrovae list --help`",
    "list --jsn": "list: unknown option '--jsn': did you mean '--json'?",
    "doctor RUN": "doctor: one argument too many, ",
    "doctor --rot x": "doctor: unknown option '--rot': did you mean '--root'?",
}


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_a_command_that_is_advised_can_be_typed_as_it_stands(command, tmp_path, capsys):
    folder = str(tmp_path / "a b")
    assert cli.main([command, folder, str(tmp_path)] if command == "compare" else [command, folder]) == 2
    assert re.search(rf"pyrovae (train|evaluate) '{re.escape(folder)}'", capsys.readouterr().err)


@pytest.mark.parametrize("line", WRONG)
def test_bad_input_is_one_line_and_exit_code_two(line, tmp_path, capsys):
    words = [str(tmp_path / word.lower()) if word.startswith("RUN") else word for word in line.split()]
    code = cli.main(words)
    said = capsys.readouterr()
    assert code == 2
    assert WRONG[line] in said.err
    assert said.err.startswith("pyrovae: ")
    assert said.err.count("\n") == 1
    assert not said.out


def test_every_command_has_its_errors_in_the_table():
    assert set(COMMANDS) <= {line.split()[0] for line in WRONG if line}


BOXES = (
    """╭─ Parsing error ───────────────╮
│ Something else                │
│ is wrong.                     │
│ ───────────────────────────── │
│ For full helptext, see --help │
╰───────────────────────────────╯""",
    """ Parsing error
 -------------------------------
  Something else
  is wrong.
  -------------------------------
  For full helptext, see --help
""",
)


@pytest.mark.parametrize("box", BOXES)
def test_what_no_rule_knows_is_said_as_it_is(box):
    """In either frame: tyro draws the second where standard output is not UTF-8."""
    assert complaint(box, ["train", "x"]) == "train: Something else is wrong: see `pyrovae train --help`"


def test_help_explains_commands_exit_codes_and_completion(capsys):
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    for text in (
        *COMMANDS,
        "--json",
        "--quiet",
        "--tyro-write-completion bash",
        "--tyro-write-completion zsh",
    ):
        assert text in said
    for code in (DONE, FAILED, BAD_INPUT, INTERRUPTED, TERMINATED):
        assert f" {code} " in said


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_option_with_its_default(name, capsys):
    assert cli.main([name, "--help"]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    options = {
        each.name: each.default
        for each in inspect.signature(find(name)).parameters.values()
        if each.kind != each.POSITIONAL_ONLY and each.name != "recipe"
    }
    if name == "train":
        options |= {field: about.get_default() for field, about in Recipe.model_fields.items()}
    for option, default in options.items():
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
        told = re.search(rf" --{option.replace('_', '-')}(?:,| [A-Z\[{{]).*?\(default: (.*?)\)", said)
        assert told, option
        assert told[1] == shown
        assert len(told[0].split()) > 4, option


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"pyrovae {pv.__version__}\n"


def test_errors_and_help_come_before_anything_slow_is_imported(tmp_path):
    """So they answer at once: torch alone takes seconds to import."""
    none = str(tmp_path / "none")
    lines = [[], ["--help"], *([name, "--help"] for name in COMMANDS), ["train", none, "--dataset", "mnst"]]
    lines += [["evaluate", none], ["compare", none, none], ["sample", none], ["list", "nothing"], ["trian"]]
    code = (
        "import sys; from pyrovae.cli.app import main\n"
        f"for line in {lines!r}:\n"
        "    main(line)\n"
        "    slow = {'torch', 'torchvision', 'pyro', 'arviz', 'matplotlib', 'numpy', 'scipy', 'tqdm'}\n"
        "    assert not slow & set(sys.modules), (line, slow & set(sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.fixture(scope="module")
def completions(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("completions")
    for shell in ("bash", "zsh"):
        assert cli.main(["--tyro-write-completion", shell, str(folder / shell)]) == 0
    return {shell: str(folder / shell) for shell in ("bash", "zsh")}


def bash(script: str) -> list[str]:
    return subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_options_and_choices(completions):
    path = completions["bash"]
    subprocess.run(["bash", "-n", path], check=True)

    def completed(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in ("pyrovae", *words))
        return bash(
            f"source '{path}'; function=$(complete -p pyrovae | sed 's/.*-F \\([^ ]*\\).*/\\1/');"
            f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; COMP_LINE='pyrovae {' '.join(words)}';"
            f'COMP_POINT=${{#COMP_LINE}}; "$function"; printf "%s\\n" "${{COMPREPLY[@]}}"'
        )

    assert set(COMMANDS) <= set(completed(""))
    assert completed("eval") == ["evaluate"]
    assert {"--latent-dim", "--learning-rate", "--log"} == set(completed("train", "--l")) - {"--likelihood"}
    assert set(completed("evaluate", "--method", "")) >= {"is", "ais"}


def test_zsh_has_commands_and_options(completions):
    script = Path(completions["zsh"]).read_text()
    assert script.startswith("#compdef pyrovae")
    assert all(name in script for name in (*COMMANDS, "--latent-dim", "--num-temperatures"))
    if shutil.which("zsh"):
        subprocess.run(["zsh", "-n", completions["zsh"]], check=True)
