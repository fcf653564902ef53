"""What each command of the command line does, from checks to the table it prints."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pandas as pd

import scsiameseclu_jax as scs
from scsiameseclu_jax.certainty import stability
from scsiameseclu_jax.checks import check_key, check_share
from scsiameseclu_jax.cli import asking, reading
from scsiameseclu_jax.cli.cache import keep_programs
from scsiameseclu_jax.cli.completion import script
from scsiameseclu_jax.cli.devices import leave_to_the_first, on_several
from scsiameseclu_jax.cli.rest import Rest
from scsiameseclu_jax.files import (
    OUTPUTS,
    PAGES,
    PLOTS,
    TABLES,
    check_apart,
    check_model_folder,
    check_model_space,
    check_output,
    check_separate,
    check_target,
    write_anndata,
    write_whole,
)
from scsiameseclu_jax.machine import check_devices
from scsiameseclu_jax.preprocessing.counts import layer_of
from scsiameseclu_jax.tl.clusters import write_clusters
from scsiameseclu_jax.tl.record import RESULTS, UNASSIGNED, tree_columns
from scsiameseclu_jax.tl.umap import layout
from scsiameseclu_jax.training.checkpoint import check_folder

if TYPE_CHECKING:
    from anndata import AnnData

DIVERGED = 3
"""Exit code of a fit with a stage of training that ended before its time."""


def demo(args: argparse.Namespace) -> None:
    """Cluster the bundled cells, name the clusters, score, draw and report."""
    check_devices()
    args.out.mkdir(parents=True, exist_ok=True)
    out, plot, page = (args.out / f"demo{suffix}" for suffix in (".h5ad", ".png", ".html"))
    for target, suffixes in ((out, OUTPUTS), (plot, PLOTS), (page, PAGES)):
        check_output(target, suffixes, overwrite=True)

    keep_programs(args.cache, keep=not args.no_cache)
    adata = scs.datasets.pbmc68k_reduced()
    started = time.perf_counter()
    with _put_aside(adata, "cell_type") as labels:
        scs.tl.siameseclu(adata, args.n_clusters, rng=args.seed)
        seconds = time.perf_counter() - started
        scs.tl.markers(adata)
        scs.tl.annotate_markers(adata, "blood")
        scs.tl.umap(adata)
        question = scs.tl.questions(adata, 1)
    with Rest(as_json=args.json) as rest:
        with rest.part():
            found = adata.obs["siameseclu"]
            _print_table(adata, found, _why(args), labels, seconds, rest=rest)
        with rest.part(out, lambda: adata.obs[["siameseclu", "siameseclu_confidence"]]):
            write_anndata(out, adata)
        with rest.part(plot):
            write_whole(plot, lambda path: _draw(path, adata, "siameseclu", "cell_type"))
        with rest.part(page):
            scs.report(adata, page, labels="cell_type", overwrite=True)
        rest.facts["question"] = _question(question)
    if args.json:
        return
    print()
    if not len(question):
        print(asking.NONE_LEFT)
        return
    print("Which clusters are right? You may know. Are these cells of one type?")
    print("\n".join(asking.question_lines(question.iloc[0])))
    again = ["scsiameseclu", "cluster", str(out), str(args.out / "answered.h5ad"), "--ask", "3"]
    again += ["--n-clusters", str(args.n_clusters), "--seed", str(args.seed)]
    print(f"To answer it, and two more:\n  {shlex.join(again)}")


@on_several
def cluster(args: argparse.Namespace) -> int:
    """Cluster the cells of a file; return the exit code."""
    targets = [(args.out, OUTPUTS)] + ([] if args.plot is None else [(args.plot, PLOTS)])
    asking.check_terminal(args.ask)
    _check_words(args, targets)

    key = args.key_added
    check_key(key)
    config = _config(args)
    adata = _read(args, config)
    wrong = [k for k in args.levels or [] if not 2 <= k < adata.n_obs]
    if wrong:
        msg = f"Expected --levels between 2 and n_obs - 1 ({adata.n_obs - 1}), found {wrong[0]}."
        raise ValueError(msg)
    with Rest(as_json=args.json) as rest:
        with _put_aside(adata, args.labels) as labels:
            model, seconds = _fit_model(adata, args, config, rest)
        if args.save is not None:
            with rest.part(args.save):
                model.save(args.save, overwrite=args.overwrite)
        levels: list[str] = []
        with rest.part(args.out, lambda: _table(model, adata)):
            with _put_aside(adata, args.labels):
                write_clusters(adata, model, min_confidence=args.min_confidence, key_added=key)
            with rest.part():  # how many levels there are is not known before
                if args.levels:
                    scs.tl.cluster_tree(adata, args.levels, key)
                    levels = tree_columns(adata, key)
            reading.write(args, adata)
        if args.plot is not None:
            with rest.part(args.plot):
                write_whole(args.plot, lambda path: _draw(path, adata, key, args.labels))
        with rest.part():
            found = adata.obs[key]
            rest.facts["levels"] = levels
            rows = [("levels", f"{', '.join(levels)} (columns of obs)")] if levels else []
            more: dict[str, Any] = {"answers": _answered(model), "rest": rest}
            _print_table(adata, found, _why(args), labels, seconds, rows, **more)
    return _code(model)


@on_several
def fit(args: argparse.Namespace) -> int:
    """Fit a model to the cells of a file and save it; return the exit code."""
    _check_words(args, [])
    config = _config(args)
    adata = _read(args, config)
    with Rest(as_json=args.json) as rest:
        with _put_aside(adata, args.labels) as labels:
            model, seconds = _fit_model(adata, args, config, rest)
        with rest.part(args.save, lambda: _table(model, adata)):
            model.save(args.save, overwrite=args.overwrite)
        with rest.part():
            found = pd.Series(model.labels, index=adata.obs_names)
            more: dict[str, Any] = {"answers": _answered(model), "rest": rest}
            _print_table(adata, found, _why(args), labels, seconds, **more)
    return _code(model)


def predict(args: argparse.Namespace) -> None:
    """Cluster the cells of a file by a saved model."""
    check_devices()
    _check_words(args, [(args.out, OUTPUTS)])

    key = args.key_added
    check_key(key)
    try:
        model = scs.SiameseClu.load(args.model)
    except FileNotFoundError as error:
        order = "the order is `scsiameseclu predict MODEL IN OUT`"
        raise FileNotFoundError(f"{str(error).rstrip('.')}; {order}.") from error
    adata = _read(args)
    started = time.perf_counter()
    with _put_aside(adata, args.labels) as labels:
        scs.tl.predict(
            adata,
            model,
            layer=layer_of(adata, args.layer),
            alpha=args.alpha,
            min_confidence=args.min_confidence,
            key_added=key,
        )
    seconds = time.perf_counter() - started
    with Rest(as_json=args.json) as rest:
        with rest.part(args.out, lambda: adata.obs[[key, f"{key}_confidence", f"{key}_is_novel"]]):
            reading.write(args, adata)
        with rest.part():
            n_novel = int(adata.obs[f"{key}_is_novel"].sum())
            more = [("novel", f"{n_novel} unlike the cells of the fit: their clusters say little")]
            why = f"of the model's {model.proba.shape[1]}"
            rest.facts["novel"] = n_novel
            _print_table(adata, adata.obs[key], why, labels, seconds, more, rest=rest)


def report(args: argparse.Namespace) -> None:
    """Write a web page about a clustering."""
    check_devices()
    check_apart(args.source, args.out)
    check_output(args.out, PAGES, overwrite=args.overwrite)

    adata = reading.read(args)
    scs.report(
        adata,
        args.out,
        args.key,
        labels=args.labels,
        title=args.title or args.source.stem,
        markers=not args.no_markers,
        overwrite=args.overwrite,
    )
    size = args.out.stat().st_size
    if args.json:
        print(json.dumps({"bytes": size, "wrote": [str(args.out)]}, indent=1))
    else:
        print(f"wrote {args.out} ({size / 1e6:.2f} MB)")


def questions(args: argparse.Namespace) -> None:
    """Write the table of the next questions about a clustering."""
    check_devices()
    check_apart(args.source, args.out)
    check_output(args.out, TABLES, overwrite=args.overwrite)

    table = scs.tl.questions(reading.read(args), args.n, key=args.key)
    asking.write_questions(args.out, table)
    if args.json:
        print(json.dumps({"questions": len(table), "wrote": [str(args.out)]}, indent=1))
        return
    if not len(table):
        print(asking.NONE_LEFT)
    print(f"wrote {args.out} (questions: {len(table)})")


def completion(args: argparse.Namespace) -> None:
    """Print a script that completes commands and options in a shell."""
    print(script(args.shell, args.parser))


def _check_words(args: argparse.Namespace, targets: Sequence[tuple[Path, tuple[str, ...]]]) -> None:
    for target, suffixes in targets:
        into = target == getattr(args, "out", None) and reading.in_place(args)
        if not into:
            check_apart(args.source, target)
        check_output(target, suffixes, overwrite=args.overwrite)
        if into:
            reading.check_writable(args)
    if getattr(args, "save", None) is not None:
        check_apart(args.source, args.save)
        check_model_folder(args.save, overwrite=args.overwrite)
        for target, _ in targets:
            check_separate(target, args.save)

    if getattr(args, "checkpoint", None) is not None:
        check_folder(args.checkpoint)
        check_apart(args.source, args.checkpoint)
        save = [] if args.save is None else [args.save]
        for target in [*(target for target, _ in targets), *save]:
            check_separate(target, args.checkpoint)

    check_share("min_confidence", getattr(args, "min_confidence", None))


def _why(args: argparse.Namespace) -> str:
    return "K chosen without labels" if args.n_clusters == "auto" else "K given"


def _config(args: argparse.Namespace) -> scs.Config | None:
    return None if args.config is None else scs.Config.from_toml(args.config)


def _read(args: argparse.Namespace, config: scs.Config | None = None) -> AnnData:
    keep_programs(args.cache, keep=not args.no_cache)
    adata = reading.read(args, config)
    if getattr(args, "save", None) is not None:
        check_model_space(args.save, adata.n_obs)
    if hasattr(args, "out"):
        check_target(args.out, adata, args.key_added)
        reading.check_copy(args)
    if args.labels is not None:
        key, batch_key = (getattr(args, name, None) for name in ("key_added", "batch_key"))
        _check_labels(adata, args.labels, key, batch_key)
    return adata


def _fit_model(
    adata: AnnData, args: argparse.Namespace, config: scs.Config | None, rest: Rest
) -> tuple[scs.SiameseClu, float]:
    must_link, cannot_link = (
        None if file is None else scs.datasets.read_pairs(file)
        for file in (args.must_link, args.cannot_link)
    )
    answers = asking.read_answers(args.answers, adata) if args.answers else None
    started = time.perf_counter()
    model = scs.SiameseClu(args.n_clusters, config=config)
    if args.resamples:
        stability.check(args.resamples, adata.n_obs, args.n_clusters, model.config)
    model.fit(
        adata,
        layer=layer_of(adata, args.layer),
        use_rep=args.use_rep,
        batch_key=args.batch_key,
        must_link=must_link,
        cannot_link=cannot_link,
        rng=args.seed,
        mesh=args.mesh,
        progress=False if args.quiet or jax.process_index() else None,
        checkpoint_dir=args.checkpoint,
        every=args.checkpoint_every,
    )
    leave_to_the_first()
    if args.save is not None and (args.resamples or getattr(args, "ask", 0)):
        with rest.part():  # what follows may take long, and be interrupted
            model.save(args.save, overwrite=args.overwrite)
            args.overwrite = True  # it is saved again
    if answers is not None:
        with rest.part():
            model.answer(adata, answers)
    before = time.perf_counter()
    if getattr(args, "ask", 0):
        with rest.part():
            asking.ask(model, adata, args.ask)
    started += time.perf_counter() - before  # a user may think for long
    if args.resamples:
        progress = False if args.quiet else None
        with rest.part():
            options = {"rng": args.seed, "mesh": args.mesh, "progress": progress}
            model.assess(adata, n_resamples=args.resamples, **options)
    return model, time.perf_counter() - started


def _code(model: scs.SiameseClu) -> int:
    found = model.manifest.get("diverged", {})
    return DIVERGED if any(one["ended"] for one in found.values()) else 0


def _answered(model: scs.SiameseClu) -> str | None:
    """Say how many answers were given, and how many are kept; None without any."""
    if not len(model.answers):
        return None
    found = model.manifest["answers"]
    unsure = len(model.answers) - found["given"]
    text = f"{found['given']} given, {found['kept']} kept"
    return f"{text}, {unsure} unsure" if unsure else text


def _table(model: scs.SiameseClu, adata: AnnData) -> pd.DataFrame:
    """Return the clusters of the cells, for a result that cannot be written."""
    columns = {"cluster": model.labels, "confidence": model.confidence}
    return pd.DataFrame(columns, index=adata.obs_names)


def _draw(path: Path, adata: AnnData, key: str, column: str | None) -> None:
    if f"X_{key}_umap" not in adata.obsm:  # not for OUT, which is there already
        adata.obsm[f"X_{key}_umap"] = layout(adata, key)
    scs.pl.overview(adata, key, labels=column)[0].figure.savefig(path, dpi=150)


@contextmanager
def _put_aside(adata: AnnData, column: str | None) -> Iterator[pd.Series | None]:
    """Take a column out of ``obs`` for as long as the context lasts, so that nothing can see it."""
    if column is None:
        yield None
        return
    place = adata.obs.columns.get_loc(column)
    labels = adata.obs.pop(column)
    yield labels
    # columns may be gone: those that said something of other clusters
    adata.obs.insert(min(place, adata.obs.shape[1]), column, labels)


def _question(table: pd.DataFrame) -> dict[str, Any] | None:
    """Return the first of some questions for programs, without the names of its cells."""
    if not len(table):
        return None
    row = table.iloc[0].drop([name for name in table if name.startswith("cells_")])
    return {str(k): v.item() if isinstance(v, np.generic) else v for k, v in row.items()}


def _print_table(
    adata: AnnData,
    found: pd.Series,
    why: str,
    labels: pd.Series | None,
    seconds: float,
    more: Sequence[tuple[str, str]] = (),
    *,
    answers: str | None = None,
    rest: Rest | None = None,
) -> None:
    """Print what was found, or hand it to `rest` if that prints for programs."""
    left = int((found == UNASSIGNED).sum())
    facts: dict[str, Any] = {"cells": adata.n_obs, "genes": adata.n_vars}
    facts["clusters"] = int(found[found != UNASSIGNED].nunique())
    facts |= {"how": why, "unassigned": left, "answers": answers, "scores": None}
    rows = [
        ("cells", f"{adata.n_obs}"),
        ("genes", f"{adata.n_vars}"),
        ("clusters", f"{found[found != UNASSIGNED].nunique()} ({why})"),
        *more,
        *([("unsure", f"{left} cells are {UNASSIGNED}, in none of these")] if left else []),
        *([] if answers is None else [("answers", answers)]),
    ]
    if labels is not None:
        known, sure = labels.notna().to_numpy(), (found != UNASSIGNED).to_numpy()
        after = "training" if answers is None else "training and answers"
        note = f"after {after}, against the {labels.nunique()} types of {labels.name!r}"
        if (known & sure).any():
            values = scs.metrics.scores(labels[known & sure], found[known & sure])
            rows += [(name, f"{100 * values[name]:.2f} %") for name in ("ACC", "NMI", "ARI")]
            facts["scores"] = {name: float(value) for name, value in values.items()}
        if not known.all():
            note += f", without {int((~known).sum())} cells that have none"
        if not sure.all():
            note += f", without {int((known & ~sure).sum())} that are {UNASSIGNED}"
        rows.append(("scored", note))
    rows.append(("seconds", f"{seconds:.1f}"))
    if rest is not None and rest.as_json:
        rest.facts |= facts | {"seconds": round(seconds, 3)}
        return
    print("\n".join(f"{name:<10}{value}" for name, value in rows))


def _check_labels(adata: AnnData, column: str, key: str | None, batch_key: str | None) -> None:
    if column not in adata.obs:
        found = [str(name) for name in adata.obs.columns]
        msg = f"Expected --labels to be a column of obs, one of {found}, found {column!r}."
        raise KeyError(msg)
    if column == key or column in {f"{key}_{name}" for name in RESULTS}:
        msg = f"Expected --labels to be another column than the result, found {column!r} for both."
        raise ValueError(msg)
    if column == batch_key:
        msg = f"Expected --labels to be another column than --batch-key, found {column!r} for both."
        raise ValueError(msg)
    if adata.obs[column].isna().all():
        msg = f"Expected --labels to name a column with values, found {column!r} empty."
        raise ValueError(msg)
