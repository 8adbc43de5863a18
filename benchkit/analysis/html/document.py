"""The page as a whole: one file, its style and script inside it, and a policy that forbids all requests."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

import benchkit
from benchkit.analysis.html.charts import as_json
from benchkit.analysis.html.markup import Markup, facts, join, ranges, section, tag
from benchkit.analysis.html.sections import comparison, confusion, examples, faults, folder_name, provenance, told_apart
from benchkit.store.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from benchkit.analysis.html.content import Content


SCRIPTS = ("plot", "table", "theme", "curves", "costs", "calibration", "page")
_CURVES = (
    "Mean over seeds, in a band from the lowest seed to the highest. Train is a running mean over an epoch, with "
    "dropout on. Point at a chart, or use the arrow keys in it, to read values."
)
_COSTS = (
    "Lines are 95 % intervals of the mean over seeds and, for time, ± one standard deviation. Arrows say that an "
    "interval goes on."
)
_NO_SCRIPT = tag("noscript", tag("p", "This chart takes JavaScript. Its numbers are in the tables.", class_="none"))


def write_page(content: Content, path: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    write_atomic(path, page(content).encode())


def page(content: Content) -> str:
    """The HTML: all tables are in it as such; the script sorts them and draws the charts."""
    sections = [
        comparison(content),
        told_apart(content),
        _chart("curves", "Training curves", _CURVES),
        _chart("costs", "Quality against cost", _COSTS),
        confusion(content),
        _chart("calibration", "Calibration", ""),
        examples(content),
        faults(content),
        provenance(content),
    ]  # fmt: skip
    sections = [each for each in sections if each]
    title = _title(content)
    body = tag(
        "body",
        _contents(sections),
        tag("header", tag("h1", title), _summary(content), _alarm(content)),
        tag("main", *sections),
        tag(
            "footer",
            tag("p", f"Made by benchkit {benchkit.__version__} from stored cells; nothing was trained for it."),
        ),
        tag("script", as_json(content), type="application/json", id="data"),
        tag("script", _script()),
    )
    return f"<!doctype html>\n{tag('html', _head(title), body, lang='en')}\n"


def _head(title: str) -> Markup:
    style = _file("page.css")
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(_script())}'"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=f"{policy}; base-uri 'none'; form-action 'none'"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", style),
    )


def _digest(text: str) -> str:
    """What a content security policy knows an inline style or script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _file(name: str) -> Markup:
    return Markup((files("benchkit.analysis.html") / "static" / name).read_text(encoding="utf-8"))


def _script() -> Markup:
    return Markup('"use strict";\n(() => {\n' + "\n".join(_file(f"{name}.js") for name in SCRIPTS) + "})();\n")


def _title(content: Content) -> str:
    heads, seeds = len(content.results.heads), len({each.seed for each in content.records})
    encoder = next((each.encoder["name"] for each in content.records if each.encoder.get("name")), "an encoder")
    return f"{_count(heads, 'head')} × {_count(seeds, 'seed')} on {encoder}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _summary(content: Content) -> Markup:
    results, records = content.results, content.records
    sizes = {each.parameters["encoder"] for each in records if "encoder" in each.parameters}
    data = dict.fromkeys(folder_name(each) for each in records if each.data.get("name"))
    rows = {task: splits for each in records for task, splits in each.data.get("splits", {}).items()}
    tasks = [
        f"{task} ({metric}"
        + (f", {rows[task]['train']['rows']:,} to train" if "train" in rows.get(task, {}) else "")
        + ")"
        for task, metric in results.metrics.items()
    ]
    return facts(
        [
            ("tasks", ", ".join(tasks)),
            ("phases", " then ".join(phase or "none" for phase in results.phases)),
            ("seeds", ranges(each.seed for each in records)),
            ("encoder parameters", " / ".join(f"{size / 1e6:.1f} M" for size in sorted(sizes)) or "–"),
            ("data", ", ".join(data) or "–"),
            ("cells", f"{sum(each.status == 'ok' for each in records)} of {len(records)} ended well"),
        ]
    )


def _alarm(content: Content) -> Markup:
    bad = len(content.results.faults)
    if not bad:
        return join([])
    text = f"{bad} of {len(content.records)} cells failed, diverged or collapsed: "
    return tag("p", text, tag("a", "what, and whether they count", href="#faults"), class_="alarm")


def _chart(name: str, title: str, lead: str) -> Markup:
    return section(name, title, tag("div", id=f"{name}-chart"), _NO_SCRIPT, lead=lead)


_NAMES = {
    "comparison": "Comparison", "verdicts": "Verdicts", "curves": "Curves", "costs": "Cost", "confusion": "Confusion",
    "calibration": "Calibration", "examples": "Disagreements", "faults": "Faults", "provenance": "Provenance",
}  # fmt: skip


def _contents(sections: Sequence[str]) -> Markup:
    links = [
        tag("a", title, href=f"#{name}") for name, title in _NAMES.items() if any(f'id="{name}"' in s for s in sections)
    ]
    theme = tag("button", "Dark", type="button", id="theme", hidden=True)
    return tag("nav", tag("div", tag("div", *links), theme), aria_label="Contents")
