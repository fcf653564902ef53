"""Progress of a fit: a bar on a terminal, quiet log lines elsewhere; the seconds of its stages."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import jax.monitoring
import numpy as np

from scsiameseclu_jax.checks import in_ipython

logger = logging.getLogger(__name__)

_SECONDS = 10.0  # between two log lines of a stage
_MOMENT = 0.5  # seconds between two looks at what is going on
_CLOCK = "{desc} [{elapsed}]"  # of a stage without steps
_SHOWN = ("loss", "zinb", "clustering", "changed")

# What jax calls its tracing, lowering and compilation; the last one includes looking for the
# program among those that are kept on disk, which takes a moment.
_COMPILATION = "/jax/core/compile/"
_COMPILER = "/jax/core/compile/backend_compile_duration"


class Progress:
    """Say what a fit does, and measure it: a context, told of each stage when it begins.

    What happens between two calls of :meth:`stage` belongs to the first of them. That jax compiles
    is heard from jax itself: of a process that fits in several threads it is that of all of them.

    Parameters
    ----------
    stage
        The first stage.
    show
        True for a bar, False for nothing, None for a bar on a terminal and in a notebook, and log
        lines at level INFO otherwise: one at the end of each stage, and one each ten seconds.
    """

    def __init__(self, stage: str, *, show: bool | None = None) -> None:
        self._stage, self._total, self._done, self._losses = stage, 0, 0, ""
        self._seconds: dict[str, float] = {}
        self._compilation = 0.0
        self._spans: list[tuple[float, float]] = []
        self._compiles_since: float | None = None
        self._logs = show is None and not (sys.stderr.isatty() or in_ipython())
        self._bar: Any = None
        if show or (show is None and not self._logs):
            from tqdm.auto import tqdm

            self._bar = tqdm(desc=self._name(), bar_format=_CLOCK, unit="step", leave=False)
        self._over = threading.Event()
        # The clock of a stage without steps goes on, and so does what is said of a compilation.
        self._teller = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> Self:
        jax.monitoring.register_scalar_listener(self._begins)
        jax.monitoring.register_event_time_span_listener(self._ends)
        self._began = self._measured = self._logged = time.perf_counter()
        if self._logs or self._bar is not None:
            self._teller.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        jax.monitoring.unregister_scalar_listener(self._begins)
        jax.monitoring.unregister_event_time_span_listener(self._ends)
        self._over.set()
        if self._teller.is_alive():
            self._teller.join()
        if self._bar is not None:
            self._bar.close()
        elif self._logs and error is None:
            self._log()

    def stage(self, name: str, n_steps: int = 0) -> None:
        """End the stage before and begin one, of so many training steps if it has any."""
        if name == self._stage:
            return
        self._measure()
        if self._logs:
            self._log()
        self._stage, self._total, self._done, self._losses = name, n_steps, 0, ""
        self._began = time.perf_counter()
        if self._bar is not None:
            self._bar.bar_format = None if n_steps else _CLOCK
            self._bar.set_postfix_str("", refresh=False)
            self._bar.set_description_str(self._name(), refresh=False)
            self._bar.reset(total=n_steps)

    def update(self, n_steps: int, losses: Mapping[str, np.ndarray]) -> None:
        """Report so many more steps of the stage, and the last value of its losses."""
        self._done += n_steps
        shown = {name: f"{losses[name][-1]:.3g}" for name in _SHOWN if name in losses}
        self._losses = ", ".join(f"{name} {value}" for name, value in shown.items())
        if self._bar is not None:
            self._bar.set_postfix_str(self._losses, refresh=False)
            self._bar.update(n_steps)

    def seconds(self) -> dict[str, float]:
        """Return what each stage took so far, in their order, ``compilation`` and the ``total``.

        ``compilation`` is while jax traced, compiled or read a compiled program, in whichever
        stage; stages are without it. So the total is the sum of all.
        """
        self._measure()
        parts = self._seconds | {"compilation": self._compilation}
        rounded = {name: round(value, 3) for name, value in parts.items()}
        return rounded | {"total": round(sum(rounded.values()), 3)}

    def _measure(self) -> None:
        """Give the time since this was last done to the stage and to compilation."""
        now = time.perf_counter()
        spans, self._spans = self._spans, []
        taken = now - self._measured
        compilation = min(_covered(spans), taken)
        self._compilation += compilation
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + taken - compilation
        self._measured = now

    def _begins(self, event: str, started: float, **_: Any) -> None:
        """Hear from jax that something begins."""
        if event == _COMPILER:
            self._compiles_since = started

    def _ends(self, event: str, started: float, ended: float, **_: Any) -> None:
        """Hear from jax that something has ended."""
        if event.startswith(_COMPILATION):
            self._spans.append((started, ended))
        if event == _COMPILER:
            self._compiles_since = None

    def _tell(self) -> None:
        """Say again and again what goes on, until the end."""
        while not self._over.wait(_MOMENT):
            if self._bar is not None:
                self._bar.set_description_str(self._name())
            elif time.perf_counter() - self._logged > _SECONDS:
                self._log(" so far")

    def _name(self) -> str:
        """Name the stage, and compilation if it takes longer than to read a kept program does."""
        since, name = self._compiles_since, self._stage.replace("_", " ")
        long = since is not None and time.time() - since > _MOMENT
        return f"{name}, compiling (first run of this size)" if long else name

    def _log(self, far: str = "") -> None:
        text = f"{self._name()}, {time.perf_counter() - self._began:.1f} s{far}"
        if self._total:
            text += f", step {self._done} of {self._total}"
        logger.info(f"{text}: {self._losses}" if self._losses else text)
        self._logged = time.perf_counter()


def _covered(spans: list[tuple[float, float]]) -> float:
    """Return the length of what spans of time cover: one may lie in another."""
    covered, until = 0.0, 0.0
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered
