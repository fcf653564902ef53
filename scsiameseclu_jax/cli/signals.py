"""Ctrl-C and other requests to end: heeded from the first line of the command, at any moment.

An exception would do it only where Python lets it out: in a callback of jax or numba it is lost. So
a thread, which hears of the signal even while the main one computes, removes what is half-written,
says one line and ends the process. The main thread stands still as soon as Python lets it.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

_ENDS = {"SIGINT": (130, "interrupted"), "SIGTERM": (143, "terminated"), "SIGHUP": (129, "hung up")}
_SIGNALS = {getattr(signal, name): end for name, end in _ENDS.items() if hasattr(signal, name)}
_PATIENCE = 30.0  # seconds that the thread has, before the main one ends the process


class _Listener:
    """The thread, and what it is told."""

    def __init__(self) -> None:
        self.mouth, self.ear = socket.socketpair()
        self.mouth.settimeout(0)
        self.asking = self.heard = self.over = False
        self.is_busy: Callable[[], bool] = bool  # never
        self.clean_up: Callable[[], None] | None = None
        self.hear()
        threading.Thread(target=self.listen, daemon=True).start()

    def hear(self) -> None:
        """Let the system tell the thread of each signal."""
        signal.set_wakeup_fd(self.mouth.fileno(), warn_on_full_buffer=False)

    def listen(self) -> None:
        while True:
            for number in self.ear.recv(1):
                if number in _SIGNALS:
                    self.end(number)

    def end(self, number: int) -> NoReturn:
        if self.clean_up is not None:
            self.clean_up()
        code, word = _SIGNALS[signal.Signals(number)]
        with suppress(OSError):  # there may be nobody to tell
            # by the system: another thread may hold what Python writes with
            below = "\n" if os.isatty(2) else ""  # there is a bar, perhaps
            os.write(2, f"{below}scsiameseclu: {word}\n".encode())
        os._exit(code)

    def stand_still(self, number: int, _: FrameType | None) -> None:
        """Do what the main thread does on a signal."""
        if self.over:
            os._exit(_SIGNALS[signal.Signals(number)][0])
        if self.asking and number == signal.SIGINT:
            self.heard = True
            raise KeyboardInterrupt
        with suppress(OSError):
            self.mouth.send(bytes([number]))  # while questions are asked, the system does not
        if not self.is_busy():
            time.sleep(_PATIENCE)
            self.end(number)


_listener: _Listener | None = None


def install() -> None:
    """End this process at once on Ctrl-C and the like: it is the command, and nothing else."""
    global _listener
    if threading.current_thread() is not threading.main_thread():
        return
    _listener = _Listener()
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` wants it
            signal.signal(number, _listener.stand_still)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    """Let a process that this one forks end as usual: what it hears is not for this one."""
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def clean_up_by(clean_up: Callable[[], None], is_busy: Callable[[], bool]) -> None:
    """Tell what removes the half-written, and when the main thread must not be stopped."""
    if _listener is not None:
        _listener.clean_up, _listener.is_busy = clean_up, is_busy


def finish() -> None:
    """Say that all is done: the thread may end, with Python, before it hears of a signal."""
    if _listener is not None:
        _listener.over = True


@contextmanager
def as_exception() -> Iterator[Callable[[], None]]:
    """Make Ctrl-C a KeyboardInterrupt, as in Python; what is yielded raises one that was lost."""
    listener = _listener

    def check() -> None:
        if listener is not None and listener.heard:
            raise KeyboardInterrupt

    if listener is None:
        yield check
        return
    listener.asking, listener.heard = True, False
    signal.set_wakeup_fd(-1)
    try:
        yield check
    finally:
        listener.asking = False
        listener.hear()
