"""What the command line says of an error: one line; of one that nobody foresaw, with a log file."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import platformdirs

from scsiameseclu_jax.files import WriteError, message

_FORESEEN = ("Expected ", "Could not ")  # how errors begin that say what is wrong
_OF_THE_SYSTEM = (OSError, MemoryError, FloatingPointError)
_MEMORY = "RESOURCE_EXHAUSTED"  # what jax says where memory runs out
_PACKAGES = ("scsiameseclu-jax", "jax", "jaxlib", "anndata", "h5py", "zarr", "numpy", "pandas")
# Arguments of functions whose words in the shell are others.
_WORDS = {"checkpoint_dir": "checkpoint", "every": "checkpoint-every", "rng": "seed"}
_WORDS |= {"n_resamples": "resamples"}
_SAME = [
    *("alpha", "answers", "batch_key", "cannot_link", "config", "key_added", "labels", "layer"),
    *("min_confidence", "must_link", "n_clusters", "neighbors_key", "use_rep"),
]
_FLAGS = {"overwrite=True": "--overwrite", "scs.datasets.read_lazy(path)": "--lazy always"}
# What functions do that commands do as well.
_COMMANDS = {"siameseclu": "cluster", "questions": "questions", "predict": "predict"}
_TEMPLATE = ".github/ISSUE_TEMPLATE/bug.yml"


def describe(error: BaseException) -> str:
    """Return what is said of an error; one that nobody foresaw leaves its traceback in a log file.

    The file is in the user's folder of logs, else in that of temporary files.
    """
    text = in_shell(message(error))
    if _is_foreseen(error):
        return text
    log = _write_log(error)
    kept = f" with the log {str(log)!r}" if log else ""
    return (
        f"unexpected {type(error).__name__}: {text}; if your input is as it should be, please "
        f"report this{kept}, by the bug template of the repository ({_TEMPLATE})"
    )


def in_shell(text: str) -> str:
    """Return a message with functions and arguments as the commands and options of the shell."""
    for words, option in _FLAGS.items():
        text = text.replace(f"`{words}`", f"`{option}`")
    commands = "|".join(_COMMANDS)
    text = re.sub(rf"`scs\.tl\.({commands})(?:\([^`]*?(key_added='[^`']+')?\))?`", _command, text)
    names = "|".join([*_WORDS, *_SAME])
    return re.sub(rf"`({names})(?:=([^`\s]+|'[^`']+'))?`", _option, text)


def _command(found: re.Match[str]) -> str:
    name, key = found[1], found[2]
    command = f"scsiameseclu {_COMMANDS[name]}"
    if key is not None and key != "key_added='siameseclu'":
        command += f" --key-added {shlex.quote(key.partition('=')[2].strip(chr(39)))}"
    return f"`{command}`"


def _option(found: re.Match[str]) -> str:
    name, value = found[1], found[2]
    option = "--" + _WORDS.get(name, name).replace("_", "-")
    if value is None:
        return option
    value = "X" if value == "None" else shlex.quote(value.strip("'"))
    return f"`{option} {value}`"


def _is_foreseen(error: BaseException) -> bool:
    if isinstance(error, WriteError) and error.__cause__ is not None:
        return _is_foreseen(error.__cause__)
    text = message(error)
    return isinstance(error, _OF_THE_SYSTEM) or text.startswith(_FORESEEN) or _MEMORY in text


def _write_log(error: BaseException) -> Path | None:
    lines = [f"scsiameseclu {' '.join(sys.argv[1:])}", platform.platform(), f"Python {sys.version}"]
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            lines.append(f"{name} {version(name)}")
    content = "\n".join([*lines, "", *traceback.format_exception(error)])
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for find in (_usual_folder, tempfile.gettempdir):
        with suppress(OSError, RuntimeError):
            folder = Path(find())
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8", errors="backslashreplace")
            return folder / name
    return None


def _usual_folder() -> str:
    return platformdirs.user_log_dir("scsiameseclu_jax", appauthor=False)
