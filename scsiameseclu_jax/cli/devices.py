"""Devices and processes that a command of the command line runs on."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps

import jax

import scsiameseclu_jax as scs
from scsiameseclu_jax.machine import check_devices

_SECONDS = 30  # after which processes that hear nothing of another take it for dead
_TIMEOUTS = {"heartbeat_timeout_seconds": _SECONDS, "shutdown_timeout_seconds": _SECONDS}


# what jax says if another process cannot be reached
_LOST = ("Gloo", "NCCL", "oordination service", "heartbeat", "closed by peer")


class Helped(Exception):  # noqa: N818
    """A process that is not the first has done its part: the first one writes."""


def on_several(command: Callable[[argparse.Namespace], int]) -> Callable[..., int]:
    """Run a command on the devices that its words name, together with the other processes."""

    @wraps(command)
    def run(args: argparse.Namespace) -> int:
        _join(args)
        check_devices()
        several = args.devices is not None or jax.process_count() > 1
        args.mesh = scs.cell_mesh(args.devices) if several else None
        code = 0
        try:
            code = command(args)
        except Helped:
            pass
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() > 1 and any(word in str(error) for word in _LOST):
                raise RuntimeError(_lost(error)) from error
            raise
        if args.coordinator is not None:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("done")  # the first may still be writing
        return code

    return run


def leave_to_the_first() -> None:
    """End the command here on all processes but the first.

    Raises
    ------
    Helped
        On all others.
    """
    if jax.process_index():
        raise Helped


def leave_at_once(code: int) -> None:
    """End a process that failed: jax would wait for the others, which wait for it, then abort."""
    if jax.distributed.is_initialized():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _lost(error: Exception) -> str:
    first = str(error).partition("\n")[0]
    return (
        f"Could not go on without another of the {jax.process_count()} processes, which has ended "
        f"or cannot be reached: what it printed says why. With --checkpoint DIR the same command "
        f"goes on from there, on any number of devices. ({first})"
    )


def _join(args: argparse.Namespace) -> None:
    # jax's handler of SIGTERM would take the place of ours, and not end the process
    jax.config.update("jax_enable_preemption_service", False)  # noqa: FBT003
    numbers = args.process_id, args.num_processes
    if args.coordinator is None:
        if numbers != (None, None):
            msg = "Expected --coordinator with --process-id and --num-processes, found none."
            raise ValueError(msg)
        return
    if args.coordinator == "auto":
        jax.distributed.initialize(**_TIMEOUTS)
        return
    if None in numbers or not 0 <= args.process_id < args.num_processes:
        msg = (
            "Expected --process-id I and --num-processes M with --coordinator, 0 <= I < M, found "
            f"{args.process_id} and {args.num_processes}."
        )
        raise ValueError(msg)
    if not args.coordinator.rpartition(":")[2].isdigit() or ":" not in args.coordinator:
        msg = f"Expected --coordinator to be HOST:PORT or auto, found {args.coordinator!r}."
        raise ValueError(msg)
    jax.distributed.initialize(args.coordinator, args.num_processes, args.process_id, **_TIMEOUTS)
