"""Figures in a page: drawn once, as the smaller of a sharp PNG and an SVG, inside its address."""

from __future__ import annotations

import base64
import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from scsiameseclu_jax.reporting.markup import Html, box, tag

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 192  # two pixels of the picture for each of a page, which is at 96
_PAGE = 96
_LEAST = 540
_LONG = 32


def figure(drawn: Figure, text: str, caption: object) -> Html:
    """Return a figure as an element.

    Parameters
    ----------
    drawn
        The figure; names in it are written as they are, even where they look like formulas.
    text
        What it shows, for those who do not see it.
    caption
        What is written below it.
    """
    kind, data = _smaller(drawn)
    width, height = (round(_PAGE * inches) for inches in drawn.get_size_inches())
    address = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    image = tag("img", src=address, alt=text, width=width, height=height)
    # Where there is less room than that it scrolls: smaller it could not be read.
    least = min(width, max(_LEAST, round(0.7 * width)))
    style = f"width:{width}px;min-width:{least}px"
    image = tag("div", image, class_="picture", style=style)
    return tag("figure", box(image, text), tag("figcaption", caption), class_="plot")


def curve(values: np.ndarray, text: str) -> Html:
    """Return a line through values, small enough for a table.

    Parameters
    ----------
    values
        [m] numbers, m at least 1.
    text
        What it shows, for those who do not see it.
    """
    low, high = values.min(), values.max()
    x = np.linspace(0, 100, len(values)) if len(values) > 1 else np.array([50.0])
    y = 22 - 20 * (values - low) / (high - low if high > low else 1)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    line = {"points": points, "fill": "none", "stroke": "currentColor", "stroke_width": 1.5}
    # The width of the line stays as it is where the picture is stretched.
    drawn = tag("polyline", **line, vector_effect="non-scaling-stroke")
    box_ = {"viewBox": "0 0 100 24", "preserveAspectRatio": "none", "class_": "spark"}
    return tag("svg", drawn, **box_, role="img", aria_label=text)


def _smaller(drawn: Figure) -> tuple[str, bytes]:
    import matplotlib as mpl

    _shorten(drawn)
    _without_formulas(drawn)
    made = {}
    # Names of elements are drawn from a hash: the same figure is the same file.
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": "report"}):
        # Of letters that the font does not have; what is said of them is said of a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        # Of names that leave no room.
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        for kind, options in (
            ("image/png", {"format": "png", "pil_kwargs": {"optimize": True}}),
            ("image/svg+xml", {"format": "svg", "metadata": {"Date": None, "Creator": None}}),
        ):
            file = io.BytesIO()
            drawn.savefig(file, dpi=_DPI, facecolor="white", **options)
            made[kind] = file.getvalue()
    kind = min(made, key=lambda name: len(made[name]))
    return kind, made[kind]


def _shorten(drawn: Figure) -> None:
    """Have very long names beside an axis end where they leave room for the plot."""
    from matplotlib.ticker import FixedLocator

    for axis in (axis for ax in drawn.axes for axis in (ax.xaxis, ax.yaxis)):
        names = [text.get_text() for text in axis.get_ticklabels()]
        if (
            isinstance(axis.get_major_locator(), FixedLocator)
            and max(map(len, names), default=0) > _LONG
        ):
            half = _LONG // 2
            axis.set_ticklabels(
                [n if len(n) <= _LONG else f"{n[:half]}…{n[-half + 1 :]}" for n in names]
            )


def _without_formulas(drawn: Figure) -> None:
    """Have a name like "CD4$+$" drawn as it is; numbers on logarithmic axes are formulas."""
    from matplotlib.text import Text

    for text in drawn.findobj(Text):
        text.set_parse_math(False)
    for ax in drawn.axes:
        for axis in (ax.xaxis, ax.yaxis):
            if axis.get_scale() == "log":
                for text in axis.findobj(Text):
                    text.set_parse_math(True)
