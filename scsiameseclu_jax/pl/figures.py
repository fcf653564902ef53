"""New figures for plots."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from scsiameseclu_jax.checks import in_ipython

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(**options: Any) -> Figure:
    """Return a figure; in IPython one of pyplot, which notebooks show below the cell.

    Elsewhere it is nobody's but the caller's: pyplot would keep it until it is closed.
    """
    if in_ipython():
        import matplotlib.pyplot as plt

        return plt.figure(**options)
    from matplotlib.figure import Figure

    return Figure(**options)


def axes(size: tuple[float, float]) -> Axes:
    """Return axes of a new figure of that size, in inches."""
    return new_figure(figsize=size, layout="constrained").add_subplot()


def put_away(drawn: Figure) -> None:
    """Have a notebook not show a figure that was made for something else."""
    if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
        pyplot.close(drawn)
