"""Names that people give, as long as a file system or a service takes them."""

from __future__ import annotations

import hashlib

_DIGITS = 8  # of the digest


def within(text: str, most: int) -> str:
    """The text itself where it has at most ``most`` bytes of UTF-8; else what fits of it, and a digest of it all."""
    return text if len(text.encode()) <= most else marked(text, most, text)


def marked(text: str, most: int, meant: str) -> str:
    """As much of ``text`` as fits into ``most`` bytes of UTF-8, with a digest of what is ``meant`` by it."""
    digest = hashlib.blake2b(meant.encode(), digest_size=_DIGITS // 2).hexdigest()
    return f"{text.encode()[: most - _DIGITS - 1].decode(errors='ignore')}-{digest}"
