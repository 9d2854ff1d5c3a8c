"""A table as LaTeX (package booktabs), to be \\input into a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SPECIAL = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip
_MARKS = ("{}", r"\textbf{{{}}}", r"\underline{{{}}}")


def tabular(header: Sequence[str], rows: Sequence[Sequence[str]], ranks: Sequence[Sequence[int]]) -> str:
    """A ``tabular``: intervals small, the best bold, the second best underlined.

    Args:
        ranks: of each cell, in the shape of ``rows``: 1 best, 2 second, 0 neither.
    """
    body = [
        " & ".join(_cell(text, rank) for text, rank in zip(row, marked, strict=True))
        for row, marked in zip(rows, ranks, strict=True)
    ]
    return "\n".join(
        [
            f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            " & ".join(map(escape, header)) + r" \\",
            r"\midrule",
            *(f"{line} \\\\" for line in body),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def escape(text: str) -> str:
    return "".join(_SPECIAL.get(sign, sign) for sign in text)


def _cell(text: str, rank: int) -> str:
    """A figure with the interval that may follow it in brackets."""
    value, interval = re.fullmatch(r"(.*?)( \[[-+\d., ]*\])?", text, re.DOTALL).groups()  # type: ignore[union-attr]
    shown = _MARKS[rank].format("--" if value == "-" else escape(value))
    return shown + (f" {{\\scriptsize {escape(interval.strip())}}}" if interval else "")
