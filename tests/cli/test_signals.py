"""Ctrl-C and the like: the process of the command ends at once, whatever it does, and cleans up."""

import os
import signal
import subprocess
import sys

import pytest

from scsiameseclu_jax.cli import main, signals
from tests.test_architecture import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")

# Where exceptions of Python are only printed, as in the callbacks of jax and llvmlite.
CALLBACK = """
import ctypes
def work():
    print("ready", flush=True)
    while True:
        pass
ctypes.CFUNCTYPE(None)(work)()
"""
# The interpreter is not asked while C waits.
IN_C = """
import ctypes
print("ready", flush=True)
ctypes.CDLL(None).sleep(100)
"""
WRITING = """
from pathlib import Path
from scsiameseclu_jax.files import whole
signals.clean_up_by(whole.discard_unfinished, whole.is_naming)
def writer(new):
    new.mkdir()
    print("ready", flush=True)
    for i in range(10**9):
        (new / str(i % 100)).write_text("half")
whole.write_whole(Path("out"), writer)
"""
NAMING = """
import time
from pathlib import Path
from scsiameseclu_jax.files import whole
signals.clean_up_by(whole.discard_unfinished, whole.is_naming)
def exchange(one, other):
    other.rename("old")
    print("ready", flush=True)
    time.sleep(0.5)
    one.rename(other)
    return True
whole.exchange = exchange
Path("out").mkdir()
whole.write_whole(Path("out"), lambda new: new.mkdir() or (new / "a").write_text("new"))
time.sleep(10)
print("too far")
"""
ASKING = """
import ctypes
def lost():
    print("ready", flush=True)
    while not signals._listener.heard:
        pass
    while True:
        pass
with signals.as_exception() as check:
    ctypes.CFUNCTYPE(None)(lost)()
    try:
        check()
    except KeyboardInterrupt:
        print("heard")
print("kept", flush=True)
signals.signal.raise_signal(signals.signal.SIGTERM)
"""


@pytest.fixture(autouse=True)
def _heeded():
    """Ctrl-C is not to be ignored, as it is in the background of some shells."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ends(code, number, folder):
    """Send a signal to a process that is ready, and return how it ends."""
    program = f"from scsiameseclu_jax.cli import signals\nsignals.install()\n{code}"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    options = {"cwd": folder, "env": os.environ | {"PYTHONPATH": path}, "text": True}
    streams = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", program], **options, **streams) as process:
        try:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    return process.returncode, out, err


@pytest.mark.parametrize("code", [CALLBACK, IN_C], ids=["callback", "in C"])
def test_ctrl_c_is_heeded_at_once(tmp_path, code):
    assert ends(code, signal.SIGINT, tmp_path) == (130, "", "scsiameseclu: interrupted\n")


def test_what_is_half_written_goes(tmp_path):
    found = ends(WRITING, signal.SIGTERM, tmp_path)
    assert found == (143, "", "scsiameseclu: terminated\n")
    assert list(tmp_path.iterdir()) == []


def test_what_gets_its_name_gets_it(tmp_path):
    found = ends(NAMING, signal.SIGINT, tmp_path)
    assert found == (130, "", "scsiameseclu: interrupted\n")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert (tmp_path / "out" / "a").read_text() == "new"


def test_ctrl_c_while_asking_is_an_exception_that_is_not_lost(tmp_path):
    code, out, err = ends(ASKING, signal.SIGINT, tmp_path)
    assert (code, out) == (143, "heard\nkept\n")
    assert "KeyboardInterrupt" in err  # what is printed of the one that was lost
    assert err.endswith("scsiameseclu: terminated\n")


def test_a_forked_process_hears_for_itself(tmp_path):
    code = "import os, signal, warnings\nears, mouth = os.pipe()\n"
    code += "warnings.simplefilter('ignore', DeprecationWarning)  # of a fork beside threads\n"
    code += "pid = os.fork()\n"
    code += "if not pid:\n    os.write(mouth, b'x')\n    signal.alarm(20)\n    signal.pause()\n"
    code += "os.read(ears, 1)\nos.kill(pid, signal.SIGTERM)\n"
    code += "assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGTERM\n"
    found = ends(code + IN_C, signal.SIGINT, tmp_path)
    assert found == (130, "", "scsiameseclu: interrupted\n")


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGINT])
def test_what_is_to_be_ignored_is(tmp_path, ignored):
    before = signal.signal(ignored, signal.SIG_IGN)  # as `nohup` does, and a shell with `&`
    try:
        code = f"signals.signal.raise_signal({ignored:d})\n{IN_C}"
        found = ends(code, signal.SIGTERM, tmp_path)
    finally:
        signal.signal(ignored, before)
    assert found == (143, "", "scsiameseclu: terminated\n")


def test_a_call_from_python_leaves_signals_alone(tmp_path, monkeypatch, capsys):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.chdir(tmp_path)
    assert main(["cluster", "none.h5ad", "out.h5ad"]) == 2
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert signals._listener is None
