"""All of a search on one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
img { max-width: 100%; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: 13px; line-height: 1.35; }
h2 { border-top: 1px solid #ddd; padding-top: 1rem; } .note { color: #666; }
"""


def page(title: str, sections: Iterable[str]) -> str:
    body = "\n".join(sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def section(title: str, texts: Sequence[str], pictures: Mapping[str, bytes], notes: Sequence[str] = ()) -> str:
    """A heading, tables as they are on a terminal, notes, then pictures, these inside the page itself."""
    parts = [f"<h2>{html.escape(title)}</h2>"]
    parts += [f"<pre>{html.escape(text)}</pre>" for text in texts if text]
    parts += [f'<p class="note">{html.escape(note)}</p>' for note in notes]
    for name, content in pictures.items():
        data = base64.b64encode(content).decode()
        parts.append(f'<p><img alt="{html.escape(name)}" src="data:image/png;base64,{data}"></p>')
    return "\n".join(parts)
