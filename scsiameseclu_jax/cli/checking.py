"""What is known of a file before a fit, printed for people or for programs."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import scsiameseclu_jax as scs
from scsiameseclu_jax.cli.failures import in_shell
from scsiameseclu_jax.files import BAD_INPUT, message
from scsiameseclu_jax.inputs import free_memory
from scsiameseclu_jax.pp import Finding
from scsiameseclu_jax.preprocessing.counts import layer_of

_WIDTH = 79  # of a line; in the last column some terminals break it
_SEVERITY, _ABOUT = 8, 14  # of the columns before the text


def check(args: argparse.Namespace) -> int:
    """Print what is known of a file; return 2 if a fit would refuse it, else 0."""
    shape = None
    try:
        config = None if args.config is None else scs.Config.from_toml(args.config)
        adata = scs.datasets.read(args.source)
        shape, layer = adata.shape, layer_of(adata, args.layer)
        options = {name: getattr(args, name) for name in ("use_rep", "neighbors_key", "batch_key")}
        findings = scs.pp.check(adata, layer=layer, config=config, **options)
        if min(shape):
            findings.append(_memory(shape, config))
    except BAD_INPUT as error:
        if not args.json:
            raise
        findings = [Finding("error", "file", message(error), "")]
    findings = [f._replace(found=in_shell(f.found), mend=in_shell(f.mend)) for f in findings]
    blocking = sum(finding.severity == "error" for finding in findings)
    if args.json:
        cells, genes = (None, None) if shape is None else shape
        content: dict[str, Any] = {"file": str(args.source), "cells": cells, "genes": genes}
        content |= {"starts": not blocking, "findings": [f._asdict() for f in findings]}
        print(json.dumps(content, indent=1))
    else:
        print("\n".join(_lines(findings)))
        why = "would not start: mend the errors first" if blocking else "would start"
        print(f"\nA fit of {args.source} {why}.")
    return 2 if blocking else 0


def _memory(shape: tuple[int, int], config: scs.Config | None) -> Finding:
    need, free = scs.estimate_memory(*shape, config).total, free_memory()
    text = f"A fit takes about {need / 2**30:.1f} GiB"
    text += "." if free is None else f"; {free / 2**30:.1f} GiB are free."
    return Finding("note", "memory", text, "")


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield a line or more for each finding: how bad, about what, what, and what to do."""
    indent = " " * (_SEVERITY + _ABOUT)
    for finding in findings:
        start = f"{finding.severity:<{_SEVERITY}}{finding.about:<{_ABOUT}}"
        options: dict[str, Any] = {"break_on_hyphens": False, "break_long_words": False}
        options["subsequent_indent"] = indent
        yield from textwrap.wrap(finding.found, _WIDTH, initial_indent=start, **options)
        if finding.mend:
            yield from textwrap.wrap(finding.mend, _WIDTH, initial_indent=f"{indent}-> ", **options)
