"""Tables as LaTeX, with the package booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$",
    "−": "$-$", "–": "--", "·": r"$\cdot$", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "ε": r"$\varepsilon$",
    "…": r"\dots{}", '"': "''",
}  # fmt: skip

Rows = Sequence[tuple[Sequence[str], bool]]


def table(blocks: Sequence[tuple[Sequence[str], Rows, Sequence[str]]]) -> str:
    """Blocks below each other in one tabular; a row that is set apart is in italics."""
    count = max(len(header) for header, _, _ in blocks)
    align = next(align for header, _, align in blocks if len(header) == count)
    lines = [r"\begin{tabular}{" + "".join(each[0] for each in align) + "}"]
    for place, (header, rows, _) in enumerate(blocks):
        lines += [r"\addlinespace\midrule" if place else r"\toprule", _line(header, count, ""), r"\midrule"]
        lines += [_line(cells, count, r"\textit" if aside else "") for cells, aside in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def heading(text: str) -> str:
    return rf"\paragraph{{{escape(text)}}}\mbox{{}}\par\smallskip"


def notes(lines: Sequence[str]) -> str:
    each = "".join(rf"\par {escape(line)}" + "\n" for line in lines)
    return "\\par\\smallskip\n{\\footnotesize\\raggedright\n" + each + "\\par}"


def escape(text: str) -> str:
    """LaTeX that shows this text; a letter that its standard fonts lack as its code point."""
    return "".join(_SIGNS.get(sign) or (sign if sign <= "ÿ" else f"[U+{ord(sign):04X}]") for sign in text)


def page(body: str) -> str:
    """What to paste, and what it takes."""
    wrapped = re.sub(r"\n{3,}", "\n\n", body.strip())
    needs = (
        "% Needs \\usepackage{booktabs}, \\usepackage[T1]{fontenc} and lines of about 15 cm; made by benchkit report."
    )
    setting = r"\begingroup\footnotesize\setlength{\tabcolsep}{3pt}\setlength{\parindent}{0pt}"
    return f"{needs}\n{setting}\n{wrapped}\n\\par\\endgroup\n"


def _line(cells: Sequence[str], count: int, command: str) -> str:
    shown = [f"{command}{{{escape(cell)}}}" if command and cell else escape(cell) for cell in cells]
    return " & ".join([*shown, *[""] * (count - len(shown))]) + r" \\"
