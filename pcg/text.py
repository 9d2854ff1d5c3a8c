"""Normalises texts as people type them, so that what is said and what is scored agree, and cuts them into sentences."""

from __future__ import annotations

import re
import unicodedata

_APOSTROPHES = "‘’‚‛ʹʻʼʽˈ′‵`´＇ꞌ՚׳"
_SIGNS = str.maketrans(
    dict.fromkeys(_APOSTROPHES, "'") | dict.fromkeys("‐‑‒−﹣－", "-") | dict.fromkeys("–―", "—") | {"⁄": "/"}
)
_UNSEEN = re.compile("[\u034f\u180b-\u180d\ufe00-\ufe0f]")  # invisible marks that are not in category Cf
_VULGAR = re.compile(r"([¼-¾⅐-⅞])(?=(\w?))")
_DASH = re.compile(r"(?<!\d)-{2,}|-{2,}(?!\d)|(?<=\D) - (?=\D)")  # between digits it is a range
_FRACTION = re.compile(r"(?:(?<![\d/.,])(\d+) )?(?<![\d/.,])(\d{1,2})/(\d{1,2})(?![\d/])")
_PARTS = ("half", "third", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def plain(text: str) -> str:
    """The text with one spelling for what keyboards and editors write in several ways.

    All apostrophes become ``'``, hyphens ``-``, dashes ``—`` and spaces a space. Full-width letters and digits become
    the usual ones, a letter and its accent one character. Invisible characters (byte-order marks, zero-width and
    control characters) are removed. Fractions up to tenths become words: ``½`` one half, ``2¾`` 2 and 3 quarters. ASCII
    without fractions and typed dashes (``--``, `` - ``) keeps everything but repeated spaces.
    """
    text = "".join(map(_sign, _UNSEEN.sub("", text.translate(_SIGNS))))
    text = _VULGAR.sub(lambda m: f" {unicodedata.normalize('NFKC', m[1])}{' ' * bool(m[2])}".replace("⁄", "/"), text)
    text = _FRACTION.sub(_fraction, re.sub(" {2,}", " ", _DASH.sub(" — ", text)))
    return unicodedata.normalize("NFC", re.sub(" {2,}", " ", text).strip())


def says_something(text: str) -> bool:
    """Whether a text holds a letter or a digit of any language."""
    return any(sign.isalnum() for sign in text)


def _sign(sign: str) -> str:
    kind = unicodedata.category(sign)
    if kind[0] == "Z" or (kind == "Cc" and sign not in "\n\t"):
        return " "
    if kind == "Cf":
        return ""
    return unicodedata.normalize("NFKC", sign) if kind[0] == "L" or kind in ("Nd", "Nl") else sign


def _fraction(match: re.Match[str]) -> str:
    whole, top, bottom = match[1], int(match[2]), int(match[3])
    if not 0 < top < bottom <= 10:
        return match[0]
    part = _PARTS[bottom - 2] + "s" * (top > 1)
    if whole:
        return f"{whole} and {top if top > 1 else 'a'} {part}"
    return "one half" if bottom == 2 else f"{top} {part}"


_ENDS = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])|\n\s*\n")
_SHORT = re.compile(r"\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|vs|No|e\.g|i\.e)\.$")  # this full stop ends no sentence
_PAUSE = re.compile(r"(?<=[,;:—])\s+|\s+")


def sentences(text: str, longest: int = 300) -> list[str]:
    """Cut a text into sentences and paragraphs, each with a letter or a digit in it.

    A piece of more than ``longest`` characters is cut again, at a comma or another pause if there is one, else at a
    space.
    """
    pieces: list[str] = []
    start = 0
    for end in [*(match.end() for match in _ENDS.finditer(text)), len(text)]:
        piece = " ".join(text[start:end].split())
        if end < len(text) and (not says_something(piece) or _SHORT.search(piece)):
            continue  # it is part of the next one
        start = end
        if says_something(piece):
            pieces += _cut(piece, longest)
        elif pieces:
            pieces[-1] = f"{pieces[-1]} {piece}".strip()
    return pieces


def _cut(piece: str, longest: int) -> list[str]:
    cut: list[str] = []
    while len(piece) > longest:
        spaces = [match for match in _PAUSE.finditer(piece, 1, longest) if says_something(piece[match.end() :])]
        pauses = [match for match in spaces if piece[match.start() - 1] in ",;:—"]
        if not spaces:
            break
        at = (pauses or spaces)[-1]
        cut.append(piece[: at.start()])
        piece = piece[at.end() :]
    return [*cut, piece]
