"""What the command line does with arguments: right, half right, wrong and none; all of it before torch."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyrovae as pv
from pyrovae import cli
from pyrovae.cli.commands import BAD_INPUT, COMMANDS, DONE, FAILED, INTERRUPTED, TERMINATED, find
from pyrovae.runs.recipe import Recipe

WRONG = {
    # No command, and no such command.
    "": "no command: choose one of train, evaluate, compare",
    "tran RUN": "unknown command 'tran': did you mean 'train'?",
    "EVALUATE RUN": "unknown command 'EVALUATE': did you mean 'evaluate'?",
    "zzz": "unknown command 'zzz': choose one of train, evaluate",
    "--foo": "unknown command '--foo': choose one of train, evaluate",
    "--tyro-print-completion foo": "unknown shell 'foo': choose one of bash, zsh",
    # train
    "train": "train: Missing from pyrovae train: RUN Folder to write. (required): see `pyrovae train --help`",
    "train RUN --latent-dm 3": "Perhaps you meant: --latent-dim INT",
    "train RUN --latent_dm=3": "Perhaps you meant: --latent-dim INT",
    "train RUN --zzz": "train: Unrecognized options: --zzz: see `pyrovae train --help`",
    "train RUN --no-overwrit": "train: Unrecognized options: --no-overwrit; Perhaps you meant: --overwrite, ",
    "train RUN more": "train: Unrecognized options: more: see `pyrovae train --help`",
    "train RUN -x": "train: Unrecognized options: -x: see `pyrovae train --help`",
    "train RUN --latent-dim": "Missing value for argument '--latent-dim'. Expected 1 values",
    "train RUN --latent-dim three": "Error parsing --latent-dim: invalid literal for int()",
    "train RUN --latent-dim 0": "latent_dim: Input should be greater than or equal to 1, got 0",
    "train RUN --learning-rate nan": "learning_rate: Input should be a finite number, got nan",
    "train RUN --learning-rate x": "Error parsing --learning-rate: could not convert string to float: 'x'",
    "train RUN --hidden a": "Error parsing --hidden: Could not find valid parse for arguments: ['a']: see",
    "train RUN --hidden 0": "hidden.0: Input should be greater than 0, got 0",
    "train RUN --dataset mnist-mni": "unknown data set 'mnist-mni': did you mean 'mnist-mini'?",
    "train RUN --dataset linear-gaussian": "real-valued",
    "train RUN --dataset static-mnist --root RUN": "static-mnist: neither",
    "train RUN --binarisation dinamic": "invalid choice 'dinamic' for argument '--binarisation'",
    "train RUN --precision tf3": "invalid choice 'tf3' for argument '--precision'.",
    "train RUN --prior": "train: Missing value for argument '--prior'",
    "train RUN --prior Lapalce": "prior: unknown prior 'Lapalce': did you mean 'Laplace'?",
    "train RUN --prior Laplace(": "train: Error parsing --prior: 'Laplace(' is no part: write Name or Name(",
    "train RUN --config none.json": "none.json: there is no such recipe",
    "train RUN --overwrite --resume": "--resume goes on with a run, and --overwrite starts anew: pass one of",
    "train RUN --resume": "no recipe.json, so no run",
    "train /proc/run": "pyrovae: /proc/run: No such file or directory",
    "train /dev/null/run": "/dev/null",
    # evaluate
    "evaluate": "Missing from pyrovae evaluate: RUN Folder of the run. (required)",
    "evaluate RUN": "no recipe.json, so no run: train one with `pyrovae train ",
    "evaluate RUN --sed 3": "evaluate: Unrecognized options: --sed, 3; Perhaps you meant: --seed INT",
    "evaluate RUN --num-samples": "evaluate: Missing value for argument '--num-samples'",
    "evaluate RUN --num-samples x": "evaluate: Error parsing --num-samples: no type matching {None}|INT",
    "evaluate RUN --num-samples 0": "--num-samples is 0: at least 1 is needed",
    "evaluate RUN --seed -1": "--seed is -1: at least 0 is needed",
    "evaluate RUN --max-samples x": "evaluate: Error parsing --max-samples: no type matching {None}|INT",
    "evaluate RUN --target-se x": "evaluate: Error parsing --target-se: no type matching {None}|FLOAT",
    "evaluate RUN --method iss": "choice 'iss' for argument '--method'. Expected one of ('is', 'ais')",
    "evaluate RUN --split tst": "unknown split 'tst': did you mean 'test'?",
    "evaluate RUN --certify --method ais": "--certify anneals beside importance sampling: leave --method",
    # compare
    "compare": "compare: no run given, at least 2 are needed: pyrovae compare RUN RUN",
    "compare RUN": "compare: 1 run given, at least 2 are needed",
    "compare RUN RUN": "run is given twice: name each run once",
    "compare RUN RUN2": "evaluation.nc is missing: evaluate the run first, pyrovae evaluate ",
    "compare RUN RUN2 --split tst": "unknown split 'tst': did you mean 'test'?",
    "compare RUN RUN2 --reference": "compare: Missing value for argument '--reference'",
    "compare RUN RUN2 --referense RUN": "Perhaps you meant: --reference {None}|PATH The run",
    # sample
    "sample": "Missing from pyrovae sample: RUN Folder of the run. (required): see `pyrovae sample --help`",
    "sample RUN": "no recipe.json, so no run",
    "sample RUN --out x.jpg": "--out is x.jpg: end its name in .png, .npz or .safetensors",
    "sample RUN --num-samples 0": "--num-samples is 0: at least 1 is needed",
    "sample RUN --seed -1": "--seed is -1: at least 0 is needed",
    "sample RUN --num 3": "sample: Unrecognized options: --num, 3; Perhaps you meant: --num-samples INT",
    # report and explore
    "report": "report: no run given, at least 1 is needed",
    "report RUN": "no recipe.json, so no run",
    "report RUN --split tst": "unknown split 'tst': did you mean 'test'?",
    "report RUN --num-samples 0": "--num-samples is 0: at least 1 is needed",
    "report RUN --seed -1": "--seed is -1: at least 0 is needed",
    "report RUN --outt x": "report: Unrecognized options: --outt, x; Perhaps you meant: --out {None}|PATH",
    "explore": "Missing from pyrovae explore: RUN Folder of the run. (required)",
    "explore RUN": "no recipe.json, so no run",
    "explore RUN --port 99999": "--port is 99999: 1 to 65535 are possible, or 0 for a free one",
    "explore RUN --porrt 1": "explore: Unrecognized options: --porrt, 1; Perhaps you meant: --port INT",
    # sweep
    "sweep": "sweep: Missing from pyrovae sweep: SWEEP",
    "sweep RUN RUN2": "there is no such sweep: name a file of JSON",
    "sweep RUN RUN2 --workers 0": "--workers is 0: at least 1 is needed",
    "sweep RUN RUN2 --cluster slrum": "invalid choice 'slrum' for argument '--cluster'. Expected one of (",
    "sweep RUN RUN2 --dryrun": "sweep: Unrecognized options: --dryrun; Perhaps you meant: --dry-run",
    # list and doctor
    "list priorz": "unknown kind of part 'priorz': did you mean 'priors'?",
    "list priors guides": "list: Unrecognized options: guides: see `pyrovae list --help`",
    "list --jsn": "list: Unrecognized options: --jsn; Perhaps you meant: --json",
    "doctor RUN": "doctor: Unrecognized options: ",
    "doctor --rot x": "doctor: Unrecognized options: --rot, x; Perhaps you meant: --root {None}|PATH",
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


def test_errors_are_one_line_where_output_is_ascii(tmp_path):
    """There tyro draws another frame."""
    command = [sys.executable, "-m", "pyrovae", "train", str(tmp_path), "--latent-dim", "x"]
    here = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=here)
    assert done.stderr == (
        "pyrovae: train: Error parsing --latent-dim: invalid literal for int() with base 10: 'x': "
        "see `pyrovae train --help`\n"
    )


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
        if "Positional" not in str(each.annotation)
        and each.annotation != "RunFolder"
        and each.name != "recipe"
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
