"""Runs a program as a process of its own, and says how long it took and how much memory it held."""

import json
import os
import platform
import resource
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_KEPT = 300  # characters of a failure


class Finished(NamedTuple):
    """What a program was seen to do."""

    seconds: float
    """From start to end, by the wall."""
    peak_mib: float
    """Peak resident memory."""
    output: str
    """What it printed."""
    failure: str | None
    """The last line of its complaint, if it failed."""

    def records(self) -> list[dict[str, Any]]:
        """Return its lines of JSON; other lines are its own affair."""
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]


def mib(usage: resource.struct_rusage) -> float:
    """Return the peak resident memory, which Linux counts in KiB and macOS in bytes."""
    return usage.ru_maxrss * (1 if platform.system() == "Darwin" else 1024) / 2**20


def uncached() -> dict[str, str]:
    """Return the environment of this process, without a cache of jax's compiled programs."""
    named = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")
    return {name: value for name, value in os.environ.items() if not name.startswith(named)}


def run(
    words: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Finished:
    """Run a program to its end.

    On Linux a process begins with the peak of the one that starts it: who measures has to be small.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(words, stdout=out, stderr=err, env=env, cwd=cwd)
        try:
            # not `wait`: of all processes that have ended, `getrusage` tells the largest only
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output, complaint = (_text(file) for file in (out, err))
    failure = None
    if process.returncode:
        last = (complaint.strip().splitlines() or ["no message"])[-1]
        failure = f"exit code {process.returncode}: {last}"[:_KEPT]
    return Finished(seconds, mib(usage), output, failure)


def _text(file: Any) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
