"""Where the command line keeps compiled programs, so that only the first run compiles them."""

from __future__ import annotations

import logging
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any, cast

import jax
import platformdirs

logger = logging.getLogger(__name__)

# Those of a fit take 1.5 MB. jax looks at all files before it writes one, so more is slower.
_MAX_BYTES = 256 * 2**20
_MIN_SECONDS = 0.1  # those that compile sooner are many, and 1 % of the time together
_TROUBLE = "Error (reading|writing) persistent compilation cache entry"


def keep_programs(folder: Path | None, *, keep: bool = True) -> None:
    """Tell jax where to keep compiled programs: a setting of the process.

    Without a folder it is one in the user's cache, of bounded size, unless the environment has
    told jax of one.

    Parameters
    ----------
    folder
        To keep them in, whatever their size; None for the usual one.
    keep
        Whether to keep any.

    Raises
    ------
    ValueError
        If `folder` cannot be written to. The usual one is then done without.
    """
    if not keep:
        jax.config.update("jax_compilation_cache_dir", None)
        return
    if folder is None and jax.config.jax_compilation_cache_dir is not None:
        return
    try:
        usual = platformdirs.user_cache_path("scsiameseclu_jax", appauthor=False) / "programs"
        place = usual if folder is None else folder.resolve()
        if not place.is_absolute():  # older platformdirs would make a folder called ~
            raise FileNotFoundError("there is no home folder")
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except (OSError, RuntimeError) as error:
        if folder is None:
            logger.info("compiled programs are not kept: %s", error)
            return
        msg = f"Expected `--cache` to be a folder to write to, found {str(folder)!r}: {error}."
        raise ValueError(msg) from error
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_SECONDS)
    if folder is None:
        # Not of other folders: jax does not write to one with files from before it was bounded.
        jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)
    _say_once(place)


def _say_once(place: Path) -> None:
    """Make one log line of what jax warns of each program, whatever is done with other warnings.

    Until the end of the :class:`warnings.catch_warnings` that this is called in.
    """
    show: Any = warnings.showwarning
    said = False

    def instead(message: Warning | str, *where: Any) -> None:
        nonlocal said
        if not re.match(_TROUBLE, str(message)):
            show(message, *where)
        elif not said:
            said = True
            text = "%s: it is compiled anew; if this comes again, delete %s or use --no-cache"
            logger.warning(text, message, place)

    warnings.filterwarnings("always", _TROUBLE, UserWarning)
    warnings.showwarning = cast("Any", instead)
