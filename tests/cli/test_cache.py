"""The folder of compiled programs: where it is, how large, and what happens if it is no good."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax.cli import cache
from scsiameseclu_jax.cli import parser as cli

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's cache folder to be made, in a process whose environment names none to jax."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "home"
    for name, value in before.items():
        jax.config.update(name, value)


def compiled(tmp_path, *, words="None", numbers=range(6), most=2**20, warnings="default"):
    """Keep the programs of a few functions, in a process of its own; return what it says."""
    code = f"""
import jax
from scsiameseclu_jax.cli import cache
cache._MIN_SECONDS, cache._MAX_BYTES = 0.0, {most}
cache.keep_programs({words})
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
for i in {list(numbers)}:
    assert jax.jit(lambda x: x**2 + i)(3.0) == 9 + i
print(hits.count("/jax/compilation_cache/cache_hits"))
"""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    source = str(Path(scs.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join([source, environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", warnings, "-c", code]
    options = {"env": environment, "timeout": 100, "capture_output": True, "text": True}
    done = subprocess.run(command, check=False, **options)
    assert done.returncode == 0, done.stderr
    return int(done.stdout), done.stderr


def programs(folder):
    return list(folder.rglob("*-cache"))


def test_programs_are_read_and_what_cannot_be_is_said_once(tmp_path):
    assert compiled(tmp_path) == (0, "")
    found = programs(tmp_path / "scsiameseclu_jax")
    assert len(found) >= 6
    assert compiled(tmp_path)[0] >= 6
    for path in found:
        path.write_bytes(path.read_bytes()[:50])
    hits, said = compiled(tmp_path, warnings="error")
    assert hits == 0
    assert len(said.splitlines()) == 1
    assert f"delete {tmp_path}" in said


def test_the_usual_folder_is_bounded_and_another_is_not(tmp_path):
    compiled(tmp_path / "one")
    size = sum(path.stat().st_size for path in programs(tmp_path / "one"))
    compiled(tmp_path / "two", most=size // 2)
    assert 0 < sum(path.stat().st_size for path in programs(tmp_path / "two")) <= size // 2
    mine = f"cache.Path({str(tmp_path / 'mine')!r})"
    compiled(tmp_path / "three", words=mine, most=size // 2)
    assert len(programs(tmp_path / "mine")) == len(programs(tmp_path / "one"))
    assert not programs(tmp_path / "three")


def test_nothing_is_kept_if_nothing_is_to_be(tmp_path):
    assert compiled(tmp_path, words="None, keep=False") == (0, "")
    assert not list(tmp_path.iterdir())


def test_the_usual_folder(home):
    cache.keep_programs(None)
    assert jax.config.jax_compilation_cache_dir == str(home / "scsiameseclu_jax" / "programs")
    assert jax.config.jax_compilation_cache_max_size > 2**20
    cache.keep_programs(None, keep=False)
    assert jax.config.jax_compilation_cache_dir is None


def test_the_folder_of_the_environment_comes_before_the_usual_one(home, tmp_path):
    jax.config.update("jax_compilation_cache_dir", "theirs")
    cache.keep_programs(None)
    assert jax.config.jax_compilation_cache_dir == "theirs"
    assert not home.exists()
    cache.keep_programs(tmp_path / "mine")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")


def test_a_folder_that_cannot_be_written_to(home, tmp_path, caplog, capsys):
    home.write_text("in the way")
    with caplog.at_level("INFO"):
        cache.keep_programs(None)
    assert "compiled programs are not kept" in caplog.text
    assert jax.config.jax_compilation_cache_dir is None
    scs.datasets.simulate(n_cells=20, n_genes=30, n_clusters=2).write_h5ad(tmp_path / "in.h5ad")
    words = ["cluster", str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad"), "--cache", str(home)]
    assert cli.main(words) == 2
    assert "Expected `--cache` to be a folder to write to" in capsys.readouterr().err


def test_a_user_without_a_home(home, caplog, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with caplog.at_level("INFO"):
        cache.keep_programs(None)
    assert "compiled programs are not kept" in caplog.text
    assert not list(tmp_path.iterdir())


def test_one_or_the_other(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--cache", "there", "--no-cache"])
    assert stop.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
