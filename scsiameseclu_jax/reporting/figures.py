"""Figures in a page, inside their address: a small SVG, or the smaller of SVG and a sharp PNG."""

from __future__ import annotations

import base64
import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from scsiameseclu_jax.pl.figures import put_away
from scsiameseclu_jax.reporting.markup import Html, box, tag

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 192  # two pixels of the picture for each of a page, which is at 96
_PAGE = 96
_LEAST = 540
_LONG = 32
_SMALL = 100_000  # bytes


def figure(drawn: Figure, text: str, caption: object, *, pixels: bool = False) -> Html:
    """Return a figure as an element.

    Parameters
    ----------
    drawn
        The figure; names in it are written as they are, even where they look like formulas.
    text
        What it shows, for those who do not see it.
    caption
        What is written below it.
    pixels
        Take PNG at once: for scatters that are mostly pixels in SVG, too, it is a third in size.
    """
    put_away(drawn)
    kind, data = _encoded(drawn, pixels=pixels)
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


def _encoded(drawn: Figure, *, pixels: bool) -> tuple[str, bytes]:
    """Return a figure as SVG; as PNG if that is smaller, and SVG not small anyway."""
    import matplotlib as mpl
    from PIL import Image

    _shorten(drawn)
    _without_formulas(drawn)
    options = {"dpi": _DPI, "facecolor": "white"}
    # Names of elements are drawn from a hash: the same figure is the same file.
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": "report"}):
        # Of letters that the font does not have; what is said of them is said of a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        # Of names that leave no room.
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        vector, sharp, packed = io.BytesIO(), io.BytesIO(), io.BytesIO()
        if not pixels:
            drawn.savefig(vector, format="svg", metadata={"Date": None, "Creator": None}, **options)
            if vector.tell() <= _SMALL:
                return "image/svg+xml", vector.getvalue()
        drawn.savefig(sharp, format="png", **options)
    with Image.open(sharp) as image:
        # 256 colours, chosen for the picture, cannot be told from all and take a fourth.
        few = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(packed, "png", optimize=True)
    if 0 < vector.tell() <= packed.tell():
        return "image/svg+xml", vector.getvalue()
    return "image/png", packed.getvalue()


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
