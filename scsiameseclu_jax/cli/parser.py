"""The command line: ``scsiameseclu`` and what each of its commands takes.

Results go to standard output, with ``--json`` as one object, everything else to standard error.
Exit codes: 0 for success, 1 for a failure while running, 2 for wrong usage or input, 3 if training
diverged and ended before its time (results are written then, as of before), 130 if interrupted,
143 if terminated, 129 if hung up; 134 if jax ended it, because another process was lost.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scsiameseclu_jax.cli import signals
from scsiameseclu_jax.cli.completion import SHELLS
from scsiameseclu_jax.config import CHECKPOINT_EVERY

__all__ = ["main"]

_NAME = "scsiameseclu"
_WIDTH = 79  # of a line
_CODES = {
    0: "success",
    1: "failure while running",
    2: "wrong usage or input",
    3: "training diverged and ended before its time: results are of the last good state",
    130: "interrupted",
    143: "terminated",
}
_EXAMPLES = {
    "demo": "demo --out first",
    "check": "check counts.h5ad --batch-key donor",
    "cluster": """\
cluster counts.h5ad clustered.h5ad
  cluster counts.h5ad clustered.h5ad --n-clusters 8 --labels cell_type --plot clusters.png
  cluster counts.h5ad clustered.h5ad --resamples 10 --min-confidence 0.7 --save model""",
    "fit": "fit reference.h5ad --save model",
    "predict": "predict model new.h5ad clustered.h5ad",
    "questions": """\
questions clustered.h5ad questions.csv
  cluster counts.h5ad again.h5ad --answers questions.csv""",
    "report": "report clustered.h5ad report.html --labels cell_type",
    "doctor": "doctor --json > doctor.json",
    "completion": """\
completion bash > ~/.local/share/bash-completion/completions/scsiameseclu
  completion zsh > "${fpath[1]}/_scsiameseclu"
  completion fish > ~/.config/fish/completions/scsiameseclu.fish""",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv
        Words after the program's name; None takes those of the process.

    Raises
    ------
    SystemExit
        Of code 2 for wrong usage, 0 after ``--help`` and ``--version``.
    """
    args = _parser().parse_args(argv)

    # What takes seconds to import is not for those who ask for help or mistype a word.
    from scsiameseclu_jax.cli.failures import describe
    from scsiameseclu_jax.files import BAD_INPUT, FAILURES, WriteError
    from scsiameseclu_jax.files.whole import discard_unfinished, is_naming

    signals.clean_up_by(discard_unfinished, is_naming)
    room, name = args.command.split(".")
    command = getattr(import_module(f"scsiameseclu_jax.cli.{room}"), name)
    try:
        with _logging(quiet=getattr(args, "quiet", False)), warnings.catch_warnings():
            # What dependencies tell developers is not for those who run a program.
            for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            warnings.filterwarnings("ignore", "Writing zarr v2", UserWarning)
            code = command(args)
            _flush()
    except KeyboardInterrupt:
        code = _complain("interrupted", 130)
        if argv is None:
            # Not through Python's own end, which crashes under a computation of jax's threads.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code
    except BrokenPipeError:  # Who read the results has gone, for example `head`.
        return 1
    except (WriteError, *FAILURES) as error:
        return _complain(f"error: {describe(error)}", 1)
    except BAD_INPUT as error:
        return _complain(f"error: {describe(error)}", 2)
    except Exception as error:  # noqa: BLE001, of what is left none may end in a traceback
        return _complain(f"error: {describe(error)}", 1)
    return code or 0


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        from scsiameseclu_jax.files import WriteError, message

        msg = f"Could not write to standard output: {message(error)}"
        raise WriteError(msg) from error


def _complain(text: str, code: int) -> int:
    print(f"{_NAME}: {text}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_NAME,
        description="Cluster single cells from raw counts, without labels.",
        epilog=_end(_CODES, "demo", "cluster", "report"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {version('scsiameseclu-jax')}"
    )
    parsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(parsers)
    _add_check(parsers)
    _add_cluster(parsers)
    _add_fit(parsers)
    _add_predict(parsers)
    _add_questions(parsers)
    _add_report(parsers)
    _add_doctor(parsers)
    _add_completion(parsers, parser)
    return parser


def _add(parsers: Any, name: str, text: str, codes: Mapping[int, str]) -> argparse.ArgumentParser:
    """Add a command, whose help ends with examples and what its exit codes mean."""
    return parsers.add_parser(
        name,
        help=text,
        description=textwrap.fill(text, _WIDTH),
        epilog=_end(codes, name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _end(codes: Mapping[int, str], *names: str) -> str:
    """Return the end of a help text: examples, and exit codes."""
    lines = [line for name in names for line in _EXAMPLES[name].splitlines()]
    examples = [f"  {_NAME} {line.strip()}" for line in lines]
    meanings = "; ".join(f"{code} {meaning}" for code, meaning in codes.items())
    ends = textwrap.fill(f"Exit codes: {meanings}.", _WIDTH, break_on_hyphens=False)
    return "\n".join(["examples:", *examples, "", ends])


def _of(*codes: int) -> dict[int, str]:
    return {code: _CODES[code] for code in codes}


def _add_demo(parsers: Any) -> None:
    text = "Cluster 700 bundled blood cells; needs no download."
    demo = _add(parsers, "demo", text, _of(0, 1, 2, 130, 143))
    demo.set_defaults(command="commands.demo")
    demo.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="folder for demo.h5ad, .png and .html, which are replaced (default: the current one)",
    )
    _add_n_clusters(demo.add_argument)
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    _add_json(demo.add_argument)
    _add_cache(demo)


def _add_check(parsers: Any) -> None:
    text = "Say what a file holds, and what a fit would refuse or stumble over, and how to mend it."
    codes = {0: "a fit would start", 1: "failure while reading", 2: "a fit would not start"}
    check = _add(parsers, "check", text, codes)
    check.set_defaults(command="checking.check")
    _add_source(check)
    _add_layer(check)
    _add_representation(check.add_argument)
    check.add_argument("--neighbors-key", metavar="KEY", help="neighbour graph in uns to look at")
    check.add_argument("--config", type=Path, metavar="FILE.toml", help="settings of the fit")
    _add_json(check.add_argument)


def _add_cluster(parsers: Any) -> None:
    text = "Cluster the cells of a file of raw counts and write them with their clusters."
    cluster = _add(parsers, "cluster", text, _CODES)
    cluster.set_defaults(command="commands.cluster")
    _add_input(cluster)
    _add_output(cluster)
    _add_fitting(cluster)
    cluster.add_argument(
        "--ask",
        type=int,
        default=0,
        metavar="N",
        help="ask up to N questions in the terminal, whether two groups of cells are of one type, "
        "and choose the clusters by the answers (default: %(default)s)",
    )
    cluster.add_argument(
        "--levels",
        type=_numbers,
        metavar="K,K,...",
        help="other numbers of clusters to write as well, as columns NAME_K: those of the fit are "
        "merged and split",
    )
    cluster.add_argument("--save", type=Path, metavar="DIR", help="keep the model there, too")
    cluster.add_argument("--plot", type=Path, metavar="FILE", help=".png, .pdf or .svg to draw to")
    _add_common(cluster, "replace OUT, and the model and plot, if there already")


def _add_fit(parsers: Any) -> None:
    text = "Fit a model to the cells of a file of raw counts and keep it for `predict`."
    fit = _add(parsers, "fit", text, _CODES)
    fit.set_defaults(command="commands.fit")
    _add_input(fit)
    fit.add_argument("--save", type=Path, required=True, metavar="DIR", help="folder to make")
    _add_fitting(fit)
    _add_common(fit, "replace the model, if there already")


def _add_predict(parsers: Any) -> None:
    text = "Cluster cells that a model has not seen and write them with their clusters."
    predict = _add(parsers, "predict", text, _of(0, 1, 2, 130, 143))
    predict.set_defaults(command="commands.predict")
    predict.add_argument("model", type=Path, metavar="DIR", help="what `fit --save` wrote")
    _add_input(predict)
    _add_output(predict)
    predict.add_argument(
        "--alpha",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of cells like those of the fit that may be called novel (default: %(default)s)",
    )
    _add_common(predict, "replace OUT, if there already")


def _add_questions(parsers: Any) -> None:
    text = "Write a table of questions about what `cluster` wrote, to be answered (--answers)."
    questions = _add(parsers, "questions", text, _of(0, 1, 2, 130, 143))
    questions.set_defaults(command="commands.questions")
    _add_clustering(questions, ".csv")
    questions.add_argument(
        "-n", type=int, default=5, metavar="N", help="how many (default: %(default)s)"
    )


def _add_report(parsers: Any) -> None:
    text = "Write a web page, in one file, about what `cluster` or `predict` wrote."
    report = _add(parsers, "report", text, _of(0, 1, 2, 130, 143))
    report.set_defaults(command="commands.report")
    _add_clustering(report, ".html")
    report.add_argument(
        "--labels", metavar="COLUMN", help="known types in obs to compare the clusters with"
    )
    report.add_argument("--title", metavar="TEXT", help="main heading (default: name of IN)")
    report.add_argument(
        "--no-markers",
        action="store_true",
        help="do not look for marker genes, show them only if IN has them",
    )


def _add_doctor(parsers: Any) -> None:
    text = "Say what this machine has and lacks, and test whether each stage computes rightly."
    codes = {0: "all is right", 1: "jax does not start, or a stage computes wrongly"}
    doctor = _add(parsers, "doctor", text, codes)
    doctor.set_defaults(command="doctoring.doctor")
    _add_json(doctor.add_argument)
    doctor.add_argument("--no-test", action="store_true", help="leave out the self-test (seconds)")


def _add_completion(parsers: Any, parser: argparse.ArgumentParser) -> None:
    text = "Print a script by which a shell completes commands, options and files."
    completion = _add(parsers, "completion", text, _of(0, 2))
    completion.add_argument("shell", choices=SHELLS, help="to save where the shell looks for it")
    completion.set_defaults(command="commands.completion", parser=parser)


def _add_json(add: Any) -> None:
    add("--json", action="store_true", help="print for programs: one JSON object, nothing else")


def _add_clustering(command: Any, suffix: str) -> None:
    """Add what commands take that read a clustering and write a file about it."""
    add = command.add_argument
    add("source", type=Path, metavar="IN", help=".h5ad or .zarr with clusters")
    add("out", type=Path, metavar="OUT", help=suffix)
    _add_lazy(add)
    add(
        "--key",
        default="siameseclu",
        metavar="NAME",
        help="the --key-added of the clustering (default: %(default)s)",
    )
    add("--overwrite", action="store_true", help="replace OUT, if there already")
    _add_json(add)
    add("--quiet", action="store_true", help="no log, only warnings and results")


def _add_source(command: Any) -> None:
    formats = ".h5ad, zarr, 10x .h5 or matrix folder, or .h5 with X or exprs"
    command.add_argument("source", type=Path, metavar="IN", help=formats)


def _add_lazy(add: Any) -> None:
    add(
        "--lazy",
        choices=("auto", "always", "never"),
        default="auto",
        help="read counts in blocks of cells as they are needed, for files larger than memory: "
        "needs `pip install 'scsiameseclu-jax[dask]'` and an .h5ad or zarr file; auto does so if "
        "the counts would not fit (default: %(default)s). With always, OUT may be IN: results are "
        "then put into that file",
    )


def _add_layer(command: Any) -> None:
    command.add_argument(
        "--layer",
        default="counts",
        metavar="NAME",
        help="layer of raw counts, or X (default: the layer 'counts' if there is one, else X)",
    )


def _add_input(command: Any) -> None:
    _add_source(command)
    _add_lazy(command.add_argument)
    _add_layer(command)
    command.add_argument(
        "--labels",
        metavar="COLUMN",
        help="known types in obs: put aside, then used to print scores",
    )


def _add_output(command: Any) -> None:
    command.add_argument("out", type=Path, metavar="OUT", help=".h5ad or .zarr")
    command.add_argument(
        "--min-confidence",
        type=float,
        metavar="SHARE",
        help="least confidence, 0 to 1, of a cell's cluster; below it is 'Unassigned'",
    )
    command.add_argument(
        "--key-added", default="siameseclu", metavar="NAME", help="default: %(default)s"
    )


def _add_fitting(command: Any) -> None:
    add = command.add_argument
    _add_n_clusters(add)
    add("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    add(
        "--resamples",
        type=int,
        default=0,
        metavar="R",
        help="draws of 80 %% of the cells that are fitted again, from other plausible partitions: "
        "they say how stable clusters are and calibrate confidence; 0 or at least 2, better 10, "
        "each about as long as the fit (default: %(default)s)",
    )
    _add_representation(add)
    for name, meaning in (("--must-link", "one cluster"), ("--cannot-link", "different ones")):
        text = f"table of two columns without header, names of cells that belong to {meaning}"
        add(name, type=Path, metavar="FILE.csv", help=text)
    add(
        "--answers",
        type=Path,
        action="append",
        metavar="FILE.csv",
        help="answered table of `questions` to choose the clusters by; may be given several times",
    )
    add("--config", type=Path, metavar="FILE.toml", help="all other settings, a table per section")
    add(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="folder of its own to keep in what there is so far: the same command goes on from "
        "there after it was cut off, and it stays afterwards",
    )
    add(
        "--checkpoint-every",
        type=int,
        default=CHECKPOINT_EVERY,
        metavar="N",
        help="steps of training between two checkpoints (default: %(default)s)",
    )
    _add_devices(command)


def _add_devices(command: Any) -> None:
    add = command.add_argument_group("several devices and hosts").add_argument
    add("--devices", type=int, metavar="N", help="split the cells over the first N devices")
    add(
        "--coordinator",
        metavar="HOST:PORT",
        help="start the same command on each host: where process 0 listens; or auto, as the "
        "scheduler's environment (Slurm, Open MPI, Kubernetes, cloud TPU) says. Process 0 writes",
    )
    add("--process-id", type=int, metavar="I", help="which process this is, from 0")
    add("--num-processes", type=int, metavar="M", help="how many there are")


def _add_representation(add: Any) -> None:
    add("--use-rep", metavar="KEY", help="features in obsm to use instead of principal components")
    add("--batch-key", metavar="COLUMN", help="batches in obs to be ignored")


def _add_n_clusters(add: Any) -> None:
    add(
        "--n-clusters",
        type=_number_or_auto,
        default="auto",
        metavar="K",
        help="number of clusters, at least 2, or auto to choose one (default: %(default)s)",
    )


def _number_or_auto(word: str) -> int | str:
    if word == "auto":
        return word
    try:
        return int(word)
    except ValueError:
        msg = f"expected a whole number or auto, found {word!r}"
        raise argparse.ArgumentTypeError(msg) from None


def _numbers(words: str) -> list[int]:
    try:
        return [int(word) for word in words.split(",")]
    except ValueError:
        msg = f"expected whole numbers with commas between them, found {words!r}"
        raise argparse.ArgumentTypeError(msg) from None


def _add_common(command: Any, overwrite: str) -> None:
    add = command.add_argument
    _add_cache(command)
    add("--overwrite", action="store_true", help=overwrite)
    _add_json(add)
    add("--quiet", action="store_true", help="neither progress nor log, only warnings and results")


def _add_cache(command: Any) -> None:
    add = command.add_mutually_exclusive_group().add_argument
    add(
        "--cache",
        type=Path,
        metavar="DIR",
        help="keep compiled programs there, not in the user's cache folder: later runs on data of "
        "like size start sooner",
    )
    add("--no-cache", action="store_true", help="keep no compiled programs, and use none")


@contextmanager
def _logging(*, quiet: bool) -> Iterator[None]:
    """Send the package's log to standard error, above a progress bar if there is one."""
    from tqdm import tqdm

    from scsiameseclu_jax.cli.failures import in_shell

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tqdm.write(in_shell(self.format(record)), file=sys.stderr)

    handler = Handler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("scsiameseclu_jax")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
