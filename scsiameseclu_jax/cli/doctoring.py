"""``scsiameseclu doctor``: what the machine has and lacks."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator
from typing import Any

import scsiameseclu_jax as scs
from scsiameseclu_jax.cli.cache import keep_programs


def doctor(args: argparse.Namespace) -> int:
    """Print what the machine has and lacks; return 1 where jax or a stage does not work."""
    keep_programs(None)
    found = scs.doctor(test=not args.no_test)
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        print("\n".join(_lines(found)))
    return 0 if found["ok"] else 1


def _lines(found: dict[str, Any]) -> Iterator[str]:
    def size(n_bytes: int | None) -> str:
        return "memory unknown" if n_bytes is None else f"{n_bytes / 2**30:.1f} GiB"

    machine, versions = found["machine"], found["versions"]
    free = size(machine["free_memory"])
    yield f"machine   {machine['platform']}, {machine['processors']} processors, {free} free"
    for device in found["devices"]:
        if device["platform"] != "cpu":
            yield f"device    {device['platform']} {device['id']}: {device['kind']}" + (
                "" if device["memory"] is None else f", {size(device['memory'])}"
            )
    if {device["platform"] for device in found["devices"]} == {"cpu"}:
        yield "device    No GPU was found: fits run on the CPU, which is fine."
    card = "an NVIDIA card was seen" if machine["nvidia_card"] else "no NVIDIA card was seen"
    yield f"CUDA      {machine['cuda_build'] or 'no CUDA build of jax'} is installed, {card}"
    yield f"programs  kept in {machine['programs'] or 'no folder'}"
    words = [f"{name} {number}" for name, number in versions.items() if number]
    lines = textwrap.wrap(", ".join(words), 69, break_on_hyphens=False)
    yield from (f"{'' if i else 'versions':<10}{line}" for i, line in enumerate(lines))
    for name, stage in found["stages"].items():
        word = "ok" if stage["right"] else "WRONG"
        error = "not finite" if stage["error"] is None else f"{stage['error']:.0e}"
        yield f"{word:<10}{name}: error {error}, {stage['seconds']:.1f} s"
    for text in found["advice"] or ["none: this machine is ready"]:
        lines = textwrap.wrap(text, 69, break_on_hyphens=False)
        yield from (f"{'' if i else 'advice':<10}{line}" for i, line in enumerate(lines))
