"""What fails, and what is said of it."""

from __future__ import annotations

# RuntimeError is what jax raises where memory runs out.
FAILURES = (FloatingPointError, MemoryError, RuntimeError)
BAD_INPUT = (ValueError, KeyError, TypeError, OSError)


class WriteError(OSError):
    """A result could not be written."""


def message(error: BaseException) -> str:
    """Return what an error says, on one line."""
    # The text of a KeyError is the repr of its message.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).split()) or type(error).__name__
