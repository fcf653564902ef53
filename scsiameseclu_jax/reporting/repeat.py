"""The section on what was run: settings, and commands and code that run it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.preprocessing.constraints import OPTIONS
from scsiameseclu_jax.reporting.markup import (
    Column,
    Html,
    Section,
    code,
    details,
    join,
    paragraphs,
    small,
    table,
    tag,
)
from scsiameseclu_jax.reporting.result import Result
from scsiameseclu_jax.tl.ties import restriction_of

Settings = Mapping[str, Mapping[str, Any]]

_DEFAULT_KEY = "siameseclu"
_LINE = 88


def settings(result: Result) -> Section:
    """Say what was run, and how to run it again."""
    config = plain(result.params.get("config", {}))
    changed = differing(config)
    parts: list[object] = [_changes(changed)]
    words, reason = shell(result), _only_in_python(result.params) or _with_own_code(result)
    parts.append(tag("h3", "From the shell"))
    parts.append(code(words, "Commands") if reason is None else paragraphs(reason))
    if changed and not result.predicted and reason is None:
        parts.append(paragraphs("with these settings in settings.toml:"))
        parts.append(code(toml(changed), "Settings that differ, as TOML"))
    parts += [tag("h3", "In Python"), code(python(result), "Python code")]
    parts.append(small("File names stand for your own."))
    if config:
        parts.append(details("All settings", code(toml(config), "All settings, as TOML")))
    return Section("run", "What was run", join(parts))


def _changes(changed: Settings) -> Html:
    if not changed:
        return paragraphs("All settings had their defaults.")
    defaults = _defaults()
    rows = [
        [f"{part}.{name}", json.dumps(value), json.dumps(defaults.get(part, {}).get(name))]
        for part, values in changed.items()
        for name, value in values.items()
    ]
    columns = [Column("Setting"), Column("Value", numbers=True), Column("Default", numbers=True)]
    return table("Settings that differ from the default", columns, rows)


def plain(config: Settings) -> dict[str, dict[str, Any]]:
    """Return settings as they were before a file sorted them and made arrays of lists."""
    defaults = Config().to_dict()
    order = {part: i for i, part in enumerate(defaults)}
    made: dict[str, dict[str, Any]] = {}
    for part in sorted(map(str, config), key=lambda name: order.get(name, len(order))):
        names = {name: i for i, name in enumerate(defaults.get(part, {}))}
        made[part] = {
            name: _plain(config[part][name])
            for name in sorted(config[part], key=lambda name: names.get(name, len(names)))
        }
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def differing(config: Settings) -> dict[str, dict[str, Any]]:
    """Return the settings that differ from their defaults, by section.

    Examples
    --------
    >>> differing({"losses": {"zinb": 0.0, "features": 1.0}, "fusion": {"local": True}})
    {'losses': {'zinb': 0.0}}
    """
    defaults = _defaults()
    found = {
        part: {n: v for n, v in values.items() if defaults.get(part, {}).get(n) != v}
        for part, values in config.items()
    }
    return {part: values for part, values in found.items() if values}


def _defaults() -> dict[str, dict[str, Any]]:
    return Config().to_dict() | {"losses": {term.name: term.weight for term in F.TERMS}}


def toml(config: Settings) -> str:
    """Return settings as a TOML file.

    Examples
    --------
    >>> print(toml({"losses": {"zinb": 0.0}, "fusion": {"local": False, "gate": "fixed"}}))
    [losses]
    zinb = 0.0
    <BLANKLINE>
    [fusion]
    local = false
    gate = "fixed"
    """
    # Numbers, words, truth values and lists are written as in JSON.
    tables = (
        "\n".join([f"[{part}]", *(f"{name} = {json.dumps(v)}" for name, v in values.items())])
        for part, values in config.items()
    )
    return "\n\n".join(tables)


def shell(result: Result) -> str:
    """Return the commands that run it again, one a line."""
    params = result.params
    options: dict[str, Any] = {}
    if result.predicted:
        words = ["predict", "model", "new.h5ad", "clustered.h5ad"]
        options["--alpha"] = params.get("alpha")
    else:
        words = ["cluster", "counts.h5ad", "clustered.h5ad"]
        options["--n-clusters"] = params.get("n_clusters", "auto")
        options["--seed"] = result.manifest.get("seed", 0)
        options["--resamples"] = result.n_resamples
        options["--use-rep"] = params.get("use_rep")
        options["--batch-key"] = params.get("batch_key")
        options |= {f"--{o.replace('_', '-')}": f"{o}.csv" for o in OPTIONS if o in params}
        options["--answers"] = "answers.csv" if "answers" in result.record else None
        if differing(plain(params.get("config", {}))):
            options["--config"] = "settings.toml"
    if params.get("layer", "counts") != "counts":
        options["--layer"] = params["layer"]
    options["--min-confidence"] = params.get("min_confidence")
    options["--key-added"] = None if result.key == _DEFAULT_KEY else result.key
    for name, value in options.items():
        if value is not None:
            words += [name, str(value)]
    page = ["report", "clustered.h5ad", "report.html"]
    page += [] if result.key == _DEFAULT_KEY else ["--key", result.key]
    return "\n".join(shlex.join(["scsiameseclu", *line]) for line in (words, page))


def _only_in_python(params: Mapping[str, Any]) -> str | None:
    for name in ("neighbors_key", "restrict_to"):
        if name in params:
            return f"The command line has no counterpart of {name}; see below for Python."
    return None


def _with_own_code(result: Result) -> str | None:
    choices = result.record.get("manifest", {}).get("choices")
    if not choices:
        return None
    named = ", ".join(f"{name}: {own}" for name, own in choices.items())
    return f"It was made with code of the user's own, handed to SiameseClu in Python ({named})."


def python(result: Result) -> str:
    """Return Python code that runs it again."""
    params = result.params
    lines = ["import scsiameseclu_jax as scs", ""]
    options: dict[str, Any] = {}
    layer = str(params.get("layer", "counts"))
    if layer != "counts":
        options["layer"] = None if layer == "X" else layer
    if result.predicted:
        lines += ['adata = scs.datasets.read("new.h5ad")', 'model = scs.SiameseClu.load("model")']
        function, words = "scs.tl.predict", ["adata", "model"]
        options["alpha"] = params.get("alpha", 0.05)
    else:
        lines.append('adata = scs.datasets.read("counts.h5ad")')
        k = params.get("n_clusters", "auto")
        function, words = "scs.tl.siameseclu", ["adata", repr(k if k == "auto" else int(k))]
        for name in ("use_rep", "neighbors_key", "batch_key"):
            if name in params:
                options[name] = str(params[name])
        pairs = [name for name in OPTIONS if name in params]
        lines += [f'{name} = scs.datasets.read_pairs("{name}.csv")' for name in pairs]
        if "answers" in result.record:
            lines[:1] = ["import pandas as pd", *lines[:1]]
            lines.append('answers = pd.read_csv("answers.csv", keep_default_na=False)')
            pairs.append("answers")
        words += [f"{name}={name}" for name in pairs]
        restriction = restriction_of(params)
        if restriction is not None:
            options["restrict_to"] = restriction
        if result.stability is not None:
            options["n_resamples"] = result.n_resamples
    if "min_confidence" in params:
        options["min_confidence"] = float(params["min_confidence"])
    if not result.predicted:
        options["rng"] = int(result.manifest.get("seed", 0))
    if result.key != _DEFAULT_KEY:
        options["key_added"] = result.key
    changed = differing(plain(params.get("config", {})))
    words += [f"{name}={value!r}" for name, value in options.items()]
    if changed and not result.predicted:
        lines.append(_call("config = scs.Config.from_dict", [repr(changed)]))
        words.append("config=config")
    lines.append(_call(function, words))
    named = [] if result.key == _DEFAULT_KEY else [f"key={result.key!r}"]
    lines.append(_call("scs.report", ["adata", '"report.html"', *named]))
    return "\n".join(lines)


def _call(function: str, words: list[str]) -> str:
    line = f"{function}({', '.join(words)})"
    if len(line) <= _LINE:
        return line
    return "\n".join([f"{function}(", *(f"    {word}," for word in words), ")"])
