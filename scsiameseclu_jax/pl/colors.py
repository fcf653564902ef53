"""Colours of categories, which the colour-blind, too, can tell apart as well as can be."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from scsiameseclu_jax.tl.record import UNASSIGNED

# Okabe, M. & Ito, K. (2008). Color universal design. Without its yellow, which is lost on white.
OKABE_ITO = [
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#000000",
]
MISSING = "#D3D3D3"
_STEPS = 16  # of red, green and blue, from which further colours are taken
_LIGHTNESS = (0.35, 0.83)  # least and largest, in Oklab: neither all black nor lost on white
# A distance that the colour-blind see counts that many times: less would leave dull colours only.
_WEIGHT = 2.0
# Ottosson, B. (2020). A perceptual color space for image processing: linear RGB to Oklab.
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
# Machado, G. M., Oliveira, M. M. & Fernandes, L. A. F. (2009). A physiologically-based model for
# simulation of color vision deficiency. IEEE TVCG 15, 1291-1298: in linear RGB, without green
# cones and without red ones.
_BLIND = (
    np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
)


def palette(n: int) -> list[str]:
    """Return n colours, as hexadecimal RGB.

    Fewer are the first of more. The first seven are safe for the colour-blind; each further one is
    the farthest from all before it, white, and the grey of missing values: in Oklab, as it is seen
    with all cones, without green ones, and without red ones.
    """
    return list(_palette(n))


def colors_of(names: Iterable[object]) -> list[str]:
    """Return a colour for each of some categories; cells that are left unassigned are grey."""
    every = [str(name) for name in names]
    pairs = zip(every, palette(len(every)), strict=True)
    return [MISSING if name == UNASSIGNED else color for name, color in pairs]


def colors_beside(
    codes: np.ndarray, names: list[str], other_codes: np.ndarray, other_names: list[str]
) -> list[str]:
    """Return colours of categories that are drawn beside others of the same cells.

    Pairs of a category and another one that share most cells, all pairs together, have one colour.

    Parameters
    ----------
    codes, other_codes
        [n] category of each cell, -1 for none.
    names, other_names
        Of the categories.
    """
    from scipy.optimize import linear_sum_assignment

    shared = np.zeros((len(names), len(other_names)))
    both = (codes >= 0) & (other_codes >= 0)
    np.add.at(shared, (codes[both], other_codes[both]), 1)
    for side, every in ((shared, names), (shared.T, other_names)):
        side[[name == UNASSIGNED for name in every]] = -1  # grey is nobody's colour
    rows, columns = linear_sum_assignment(-shared)
    pairs = {i: j for i, j in zip(rows, columns, strict=True) if shared[i, j] > 0}
    every = palette(len(names) + len(other_names))
    free = (color for j, color in enumerate(every) if j not in pairs.values())
    found = [every[pairs[i]] if i in pairs else next(free) for i in range(len(names))]
    return [MISSING if n == UNASSIGNED else c for n, c in zip(names, found, strict=True)]


def seen(colors: np.ndarray) -> np.ndarray:
    """Return [3, n, 3] where colours [n, 3] are in Oklab: by all cones, and by the colour-blind."""
    low = colors <= 0.04045
    linear = np.where(low, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    views = np.stack([linear, *(linear @ blind.T for blind in _BLIND)])
    return np.cbrt(np.maximum(views @ _TO_LMS.T, 0)) @ _TO_LAB.T


def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return how far [n, m] colours are apart, from two results of :func:`seen`."""
    far = np.linalg.norm(one[:, :, None] - other[:, None], axis=-1)
    return np.minimum(far[0], _WEIGHT * far[1:].min(axis=0))


@lru_cache
def _palette(n: int) -> tuple[str, ...]:
    from matplotlib.colors import to_hex, to_rgb

    if n <= len(OKABE_ITO):
        return tuple(OKABE_ITO[:n])
    steps = np.linspace(0, 1, _STEPS)
    colors = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    places = seen(colors)
    low, high = _LIGHTNESS
    usable = (places[0, :, 0] > low) & (places[0, :, 0] < high)
    colors, places = colors[usable], places[:, usable]
    taken = np.array([to_rgb(color) for color in (*OKABE_ITO, MISSING, "#FFFFFF")])
    # Rounded, so that the last bits, which differ between machines, choose nothing.
    far = apart(places, seen(taken)).min(axis=1).round(6)
    found = list(OKABE_ITO)
    while len(found) < n:
        i = int(far.argmax())
        found.append(to_hex(colors[i]))
        far = np.minimum(far, apart(places, places[:, [i]])[:, 0].round(6))
    return tuple(found)
