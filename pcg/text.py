"""Texts as people type them -> one way of writing, so that what is read aloud and what is scored agree."""

from __future__ import annotations

import re
import unicodedata

_APOSTROPHES = "‘’‚‛ʹʻʼʽˈ′‵`´＇ꞌ՚׳"
_SIGNS = str.maketrans(
    dict.fromkeys(_APOSTROPHES, "'") | dict.fromkeys("‐‑‒−﹣－", "-") | dict.fromkeys("–―", "—") | {"⁄": "/"}
)
_UNSEEN = re.compile("[\u034f\u180b-\u180d\ufe00-\ufe0f]")  # marks without a look of their own, beside category Cf
_VULGAR = re.compile(r"([¼-¾⅐-⅞])(?=(\w?))")
_DASH = re.compile(r"(?<!\d)-{2,}|-{2,}(?!\d)|(?<=\D) - (?=\D)")  # between digits it is a range
_FRACTION = re.compile(r"(?:(?<![\d/.,])(\d+) )?(?<![\d/.,])(\d{1,2})/(\d{1,2})(?![\d/])")
_PARTS = ("half", "third", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def plain(text: str) -> str:
    """One way of writing for what several keyboards and editors write.

    Curly and other apostrophes are ``'``, hyphens ``-``, dashes ``—``, spaces a space, letters and digits of other
    widths the usual ones, letters and their accents one sign. What is not seen (byte-order marks, zero-width signs,
    control characters) goes. Fractions up to tenths are words: ``½`` one half, ``2¾`` 2 and 3 quarters. ASCII without
    fractions or typed dashes (``--``, `` - ``) stays as it is, but for spaces.
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
