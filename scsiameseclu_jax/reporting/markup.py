"""Pieces of a page: whatever is not markup already is escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import NamedTuple

import numpy as np

_EMPTY = ("br", "img", "meta")
_NONE = "–"
_NARROW = 3  # columns, up to which a table needs no room to scroll in


class Html(str):
    """Text that is markup already; made by :func:`tag` and :func:`join`, never from input."""

    __slots__ = ()


class Section(NamedTuple):
    """A part of the page with a heading of its own."""

    name: str
    """Its id, which links lead to."""
    title: str
    """Its heading."""
    content: Html
    """What is in it."""


class Column(NamedTuple):
    """A column of a table."""

    title: str
    """Its heading."""
    numbers: bool = False
    """Whether it is aligned to the right."""


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Return an element; text and attributes are escaped.

    Parameters
    ----------
    name
        Of the element.
    children
        Markup as it is, anything else as text; None is left out.
    attributes
        ``class_`` is class, ``aria_label`` aria-label; None is left out.

    Examples
    --------
    >>> tag("p", "T & B ", tag("b", "cells"), class_="note")
    '<p class="note">T &amp; B <b>cells</b></p>'
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{escape(str(value))}"')
    opened = f"<{' '.join(words)}>"
    return Html(opened if name in _EMPTY else f"{opened}{join(children)}</{name}>")


def join(children: Iterable[object]) -> Html:
    """Return pieces one after the other, escaped where they are not markup."""
    known = (child for child in children if child is not None)
    return Html("".join(c if isinstance(c, Html) else escape(str(c)) for c in known))


def paragraphs(*texts: object) -> Html:
    """Return a paragraph for each text."""
    return join(tag("p", text) for text in texts)


def small(text: str) -> Html:
    """Return a paragraph of what is of less weight."""
    return tag("p", text, class_="small")


def note(*children: object) -> Html:
    """Return what a reader has to know of the figures next to it."""
    return tag("p", *children, class_="note")


def box(content: Html, title: str) -> Html:
    """Return content in a box of its own that scrolls, also by keyboard."""
    return tag("div", content, class_="scroll", tabindex=0, role="region", aria_label=title)


def table(title: str, columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> Html:
    """Return a table; the first cell of each row names it.

    Parameters
    ----------
    title
        What it shows.
    columns
        Headings and alignment.
    rows
        As many values as columns, each markup or text.
    """
    kinds = ["number" if column.numbers else None for column in columns]
    head = [
        tag("th", column.title, scope="col", class_=kind)
        for column, kind in zip(columns, kinds, strict=True)
    ]
    body = []
    for first, *others in rows:
        cells = [tag("th", first, scope="row", class_=kinds[0])]
        cells += [tag("td", v, class_=kind) for v, kind in zip(others, kinds[1:], strict=True)]
        body.append(tag("tr", *cells))
    caption = tag("caption", title, class_="unseen")
    wide = "wide" if len(columns) > _NARROW else None
    whole = tag("table", caption, tag("thead", tag("tr", *head)), tag("tbody", *body), class_=wide)
    return box(whole, title)


def pairs(rows: Iterable[tuple[object, object]]) -> Html:
    """Return names and what they stand for."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in rows))


def code(text: str, title: str) -> Html:
    """Return code or words of a shell in a box."""
    return box(tag("pre", tag("code", text)), title)


def details(title: str, content: Html) -> Html:
    """Return content that is opened by a click."""
    return tag("details", tag("summary", title), content)


def bar(share: float, text: str) -> Html:
    """Return a share, 0 to 1, as a bar with text beside it."""
    width = f"{100 * float(np.clip(np.nan_to_num(share), 0, 1)):.1f}%"
    filled = tag("span", style=f"width:{width}")
    return tag("span", tag("span", filled, class_="bar", aria_hidden="true"), text, class_="barred")


def page_script() -> str:
    """Return the script of the page, which is the same for all."""
    return _file("page.js")


def _file(name: str) -> str:
    return files("scsiameseclu_jax.reporting").joinpath(name).read_text("utf-8")


def script_data(values: object, name: str) -> Html:
    r"""Return what a script reads from the element of that id, whatever names are in it.

    Examples
    --------
    >>> script_data(["</script>"], "data")
    '<script type="application/json" id="data">["\\u003c/script\\u003e"]</script>'
    """
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":  # which end the element, or begin a comment
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Html(f'<script type="application/json" id="{escape(name)}">{text}</script>')


def _rules() -> str:
    """Return what a browser is to allow: the script alone, and nothing from anywhere else."""
    digest = base64.b64encode(hashlib.sha256(page_script().encode()).digest()).decode()
    allowed = {
        "default-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "img-src": "data:",
        "script-src": f"'sha256-{digest}'",
        "style-src": "'unsafe-inline'",
    }
    return "; ".join(f"{name} {value}" for name, value in allowed.items())


def count(value: float) -> str:
    """Return a whole number, or a dash.

    Examples
    --------
    >>> count(8617), count(float("nan"))
    ('8,617', '–')
    """
    return f"{round(value):,}" if np.isfinite(value) else _NONE


def decimal(value: float, places: int = 2) -> str:
    """Return a number of so many places, or a dash."""
    return f"{value:.{places}f}" if np.isfinite(value) else _NONE


def percent(share: float) -> str:
    """Return a share as per cent, or a dash.

    Examples
    --------
    >>> percent(0.123), percent(0.0001), percent(0)
    ('12.3 %', '< 0.1 %', '0 %')
    """
    if not np.isfinite(share):
        return _NONE
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return f"{100 * share:.1f} %" if share else "0 %"


def page(title: str, about: str, figures: Html, sections: Sequence[Section], foot: str) -> str:
    """Return the whole page: head, contents, sections, foot, script.

    Parameters
    ----------
    title
        Main heading.
    about
        What stands below it.
    figures
        The most important figures.
    sections
        All others, in their order.
    foot
        What the page was made by.
    """
    links = [tag("li", tag("a", part.title, href=f"#{part.name}")) for part in sections]
    body = [
        tag(
            "section",
            tag("h2", part.title, id=f"{part.name}-title"),
            part.content,
            id=part.name,
            aria_labelledby=f"{part.name}-title",
        )
        for part in sections
    ]
    head = join(
        [
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=_rules()),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", title),
            # Without one, browsers would ask for an icon.
            Html('<link rel="icon" href="data:,">'),
            tag("style", Html(_file("style.css"))),
        ]
    )
    content = join(
        [
            tag("a", "Skip to the results", href="#results", class_="skip"),
            tag(
                "header",
                tag("div", tag("h1", title), tag("p", about), figures, class_="width"),
            ),
            tag(
                "div",
                tag("nav", tag("ol", *links), aria_label="Contents"),
                tag("main", *body, id="results"),
                class_="width columns",
            ),
            tag("footer", tag("p", foot, class_="width")),
            tag("script", Html(page_script())),
        ]
    )
    whole = tag("html", tag("head", head), tag("body", content), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"
