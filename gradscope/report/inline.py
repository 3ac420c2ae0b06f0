"""How does a figure get into the page itself? Small ones as SVG, heavy ones as PNG."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from markupsafe import Markup, escape

HEAVY_BYTES = 150_000
# 10-point letters stay legible down to this many CSS pixels per point of the drawing.
LEAST_PIXELS_PER_POINT = 0.8
MOST_PIXELS_PER_POINT = 1.55


def inline(svg: Path, png: Path, prefix: str, alternative: str) -> Markup:
    """Markup that shows a figure without a request.

    Args:
        svg: The figure, from our own matplotlib.
        png: The same, shown instead when the SVG is heavier than 150 kB.
        prefix: Put before every id of the SVG, for several of them share the page.
        alternative: What a screen reader says.
    """
    text = svg.read_text(encoding="utf-8")
    width = float(_found(r'viewBox="0 0 ([\d.]+) ', text))
    least, most = width * LEAST_PIXELS_PER_POINT, width * MOST_PIXELS_PER_POINT
    size = f"width:{most:.0f}px;min-width:{least:.0f}px"
    if len(text.encode()) > HEAVY_BYTES:
        source = base64.b64encode(png.read_bytes()).decode()
        return Markup('<img style="{}" alt="{}" src="data:image/png;base64,{}">').format(
            size, alternative, source
        )
    body = text[text.index("<svg") :]
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]+>", lambda tag: _prefixed(tag.group(), prefix), body)
    head = body.index(">")
    opening = re.sub(r' (?:width|height)="[^"]*"', "", body[:head])
    opening += f' role="img" aria-label="{escape(alternative)}" style="{size}"'
    return Markup(opening + body[head:])


def _prefixed(tag: str, prefix: str) -> str:
    """One tag with its ids, and the references to ids, prefixed; text between tags is not touched."""
    tag = re.sub(r'(\sid=")', rf"\1{prefix}-", tag)
    tag = re.sub(r'(href="#)', rf"\1{prefix}-", tag)
    return re.sub(r"(url\(#)", rf"\1{prefix}-", tag)


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"The figure's SVG has no {pattern!r}. Save it with matplotlib's own SVG writer.")
    return match.group(1)
