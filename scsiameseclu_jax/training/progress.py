"""Progress of long work: a bar on a terminal, quiet log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Self

import numpy as np

logger = logging.getLogger(__name__)

_SECONDS = 10.0  # between two log lines


class Progress:
    """Report steps as they are taken.

    Parameters
    ----------
    total
        Number of steps.
    show
        True for a bar, False for nothing, None for a bar if standard error is a terminal and log
        lines at level INFO otherwise.
    """

    def __init__(self, total: int, *, show: bool | None = None) -> None:
        self._total, self._done, self._show = total, 0, show
        self._last = time.monotonic()
        self._bar = None
        if show or (show is None and sys.stderr.isatty()):
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, desc="compiling", unit="step")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, steps: int, stage: str, losses: dict[str, np.ndarray]) -> None:
        """Report `steps` more steps of a stage and the last value of its losses."""
        self._done += steps
        wanted = ("loss", "zinb", "clustering", "changed")
        shown = {name: f"{losses[name][-1]:.3g}" for name in wanted if name in losses}
        if self._bar is not None:
            self._bar.set_description(stage, refresh=False)
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(steps)
            return
        now = time.monotonic()
        if self._show is None and (now - self._last > _SECONDS or self._done == self._total):
            self._last = now
            text = ", ".join(f"{name} {value}" for name, value in shown.items())
            logger.info("step %d of %d (%s): %s", self._done, self._total, stage, text)
