"""`report.html`: one self-contained page, made from `results.json` and nothing else.

No script, no request, no font of ours: inline SVG, both languages in the page (two radio
buttons and CSS choose), a content security policy that forbids all loading. Every text is
escaped, whatever a hospital is called; the same document gives the same bytes.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ._report_context import context
from ._view import View
from .plots import comparison_svg, picture_words
from .results import Results, read

__all__ = ["make", "render"]

# The picture's colours by name, so that the page can have lighter ones in the dark.
_COLORS = {
    "#1b2430": "ink",
    "#5b6675": "muted",
    "#d5dae1": "faint",
    "#9aa4b1": "frame",
    "#ffffff": "paper",
    "#009e73": "green",
    "#d55e00": "red",
    "#0072b2": "blue",
    "#56b4e9": "sky",
    "#8a94a3": "gray",
    "#cc79a7": "pink",
    "#e69f00": "orange",
}


def make(path: Path) -> str:
    """Return the page of a finished run, from its folder or its `results.json`.

    Raises:
        DataError: There is no such run, or its document breaks the schema.
    """
    results = read(path)
    return render(results.document(), comparison_svg(results))


def render(document: Mapping[str, Any], svg: str) -> str:
    """Return the page.

    Args:
        document: What `results.json` holds.
        svg: `comparison_svg` of the same results.

    Raises:
        DataError: The document breaks its schema.
        ValueError: The picture holds a script.
    """
    import jinja2
    from markupsafe import Markup

    results = Results.from_document(document)
    folder = resources.files(__package__) / "templates"
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.from_string((folder / "report.html.j2").read_text(encoding="utf-8"))
    css = (folder / "report.css").read_text(encoding="utf-8")
    # Both are ours: a file of this package, and matplotlib's escaped SVG.
    safe_css = Markup(css.strip())  # noqa: S704
    safe_svg = Markup(inline_picture(svg, picture_words(results)))  # noqa: S704
    return template.render(css=safe_css, svg=safe_svg, **context(View(results)))


def inline_picture(svg: str, words: Mapping[str, str]) -> str:
    """Return an SVG document as an element of the page, in both languages and the page's colours.

    Raises:
        ValueError: It holds a script.
    """
    if re.search(r"<\s*script|\bon\w+\s*=|javascript:", re.sub(r">[^<]*<", "><", svg), re.I):
        raise ValueError("a picture with a script is not put into a page")
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, count=1, flags=re.S)
    body = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', _opening, body, count=1)

    def color(match: re.Match[str]) -> str:
        name = _COLORS.get(match[2])
        return f"{match[1]}var(--fig-{name}, {match[2]})" if name else match[0]

    def text(match: re.Match[str]) -> str:
        english = html.unescape(match[2])
        if words.get(english, english) == english:
            return match[0]
        chinese = html.escape(words[english])
        both = f'<tspan lang="en">{match[2]}</tspan><tspan lang="zh-CN">{chinese}</tspan>'
        return f"{match[1]}{both}</text>"

    body = re.sub(r"((?:fill|stroke): )(#[0-9a-f]{6})", color, body)
    return re.sub(r"(<text [^>]*>)([^<]+)</text>", text, body).strip()


def _opening(match: re.Match[str]) -> str:
    links = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {links} {match[1]} role="img" aria-labelledby="picture">'
