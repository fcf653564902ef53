"""What a program of its own is seen to do."""

import subprocess
import sys

import pytest

from benchmarks.processes import run, uncached
from benchmarks.records import ROOT


def python(code, **options):
    return run([sys.executable, "-c", code], **options)


def test_seconds_memory_and_lines(tmp_path):
    code = "import time; a = b'x' * 2**29; time.sleep(0.3); print('noise'); print('{\"a\": 1}')"
    finished = python(code, cwd=tmp_path)
    assert finished.failure is None
    assert 0.3 < finished.seconds < 30
    assert 512 < finished.peak_mib < 4096
    assert finished.records() == [{"a": 1}]


def test_each_process_has_its_own_peak():
    """Asked by a small process: the one that runs the tests has held more than these do."""
    code = (
        "import sys; from benchmarks.processes import run\n"
        "for code in (\"b'x' * 2**29\", 'pass'):\n"
        "    print(run([sys.executable, '-c', code]).peak_mib)"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    large, small = map(float, done.stdout.split())
    assert small < large - 256


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("raise SystemExit(3)", "exit code 3: no message"),
        ("raise ValueError('no such thing')", "exit code 1: ValueError: no such thing"),
        ("import os; os.abort()", "exit code -6: no message"),
    ],
)
def test_a_failure_is_told(code, failure):
    assert python(code).failure == failure


def test_caches_of_programs_are_not_handed_on(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "somewhere")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    env = uncached()
    assert not [name for name in env if "CACHE" in name and name.startswith("JAX")]
    assert env["JAX_PLATFORMS"] == "cpu"
