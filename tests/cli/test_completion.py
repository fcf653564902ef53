"""Scripts that complete words in shells: tried in those that there are."""

import shutil
import subprocess

import pytest

from scsiameseclu_jax.cli import parser as cli
from scsiameseclu_jax.cli.completion import SHELLS

HERE = {shell: shutil.which(shell) for shell in SHELLS}


@pytest.fixture(params=["bash", "fish"])
def shell(request):
    if HERE[request.param] is None:
        pytest.skip(f"there is no {request.param}")
    return request.param


@pytest.fixture
def path(shell, tmp_path, capsys):
    assert cli.main(["completion", shell]) == 0
    found = tmp_path / f"completion.{shell}"
    found.write_text(capsys.readouterr().out)
    (tmp_path / "counts.h5ad").touch()
    (tmp_path / "folder").mkdir()
    return found


def run(shell, text, folder):
    words = [HERE[shell], "-c", text]
    options = {"capture_output": True, "text": True, "cwd": folder, "timeout": 60}
    done = subprocess.run(words, env={"HOME": str(folder), "PATH": "/bin:/usr/bin"}, **options)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.split("\n")


def complete(shell, path, *words):
    """Return what a shell completes the last of some words to."""
    folder = path.parent
    if shell == "fish":
        line = " ".join(["scsiameseclu", *words])
        found = run(shell, f"source {path}; complete -C '{line}'", folder)
        return {line.split("\t")[0] for line in found if line}
    array = " ".join(f"'{word}'" for word in ("scsiameseclu", *words))
    text = f"source {path}; COMP_WORDS=({array}); COMP_CWORD={len(words)}; _scsiameseclu"
    return set(run(shell, f'{text}; printf "%s\\n" "${{COMPREPLY[@]}}"', folder)) - {""}


def test_commands(shell, path):
    assert complete(shell, path, "c") == {"check", "cluster", "completion"}


def test_options_of_a_command_alone(shell, path):
    assert complete(shell, path, "cluster", "--no-") == {"--no-cache"}
    assert complete(shell, path, "report", "--no-") == {"--no-markers"}
    assert complete(shell, path, "check", "--res") == set()
    assert "--resamples" in complete(shell, path, "fit", "in.h5ad", "--re")


def test_values(shell, path):
    assert complete(shell, path, "cluster", "--lazy", "a") == {"auto", "always"}
    assert complete(shell, path, "cluster", "--n-clusters", "") == {"auto"}
    assert complete(shell, path, "cluster", "--seed", "") == set()
    assert complete(shell, path, "completion", "z") == {"zsh"}


def test_files_and_folders(shell, path):
    assert {"counts.h5ad"} <= complete(shell, path, "cluster", "co") <= {"counts.h5ad", path.name}
    found = complete(shell, path, "cluster", "--save", "f")
    assert {name.rstrip("/") for name in found} == {"folder"}


@pytest.mark.skipif(HERE["zsh"] is None, reason="there is no zsh")
def test_what_zsh_is_told(tmp_path, capsys):
    assert cli.main(["completion", "zsh"]) == 0
    path = tmp_path / "completion.zsh"
    path.write_text(capsys.readouterr().out)
    stubs = """
compdef() { print "$1 for $2" }
_describe() { print -rl -- $commands }
_arguments() { print -rl -- "$@" }
"""
    asked = "words=(scsiameseclu c); CURRENT=2; _scsiameseclu"
    asked += "\nwords=(scsiameseclu fit --s); CURRENT=3; _scsiameseclu"
    told = run("zsh", f"{stubs}\nsource {path}\n{asked}", tmp_path)
    assert told[0] == "_scsiameseclu for scsiameseclu"
    assert "fit:Fit a model to the cells of a file of raw counts and keep it for `predict`." in told
    assert "*--save[folder to make]:value:_files -/" in told
    assert "*--seed[default\\: 0]:value: " in told
    assert any(
        word.startswith("*--lazy[") and word.endswith("(auto always never)") for word in told
    )
    assert not any("--alpha" in word for word in told)


def test_all_shells_have_all_commands(capsys):
    for shell in SHELLS:
        assert cli.main(["completion", shell]) == 0
        text = capsys.readouterr().out
        for name in ("demo", "check", "cluster", "fit", "predict", "questions", "report", "doctor"):
            assert name in text
    with pytest.raises(SystemExit):
        cli.main(["completion", "tcsh"])
