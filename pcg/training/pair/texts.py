"""English sentences to speak: a small grammar over everyday words, and public-domain clauses.

The grammar is ours (``grammar.yaml``): modern words, numbers, names and questions. ``kjv.txt.gz`` holds 20,000 clauses
of the King James Bible (1611, public domain), cut at its punctuation to 4-25 words, with thousands of rare words and
names.
"""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Callable, Iterator
from importlib.resources import files

import yaml

_FILES = files("pcg.training.pair")
_ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"


def spell(number: int) -> str:
    """0..999,999 in English words."""
    if number < 20:
        return _ONES.split()[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS.split()[tens - 2] + (f"-{spell(ones)}" if ones else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{spell(hundreds)} hundred" + (f" and {spell(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    return f"{spell(thousands)} thousand" + (f" {spell(rest)}" if rest else "")


class _Grammar:
    """Expands templates, with one random generator for an instance."""

    def __init__(self, rng: random.Random, templates: str) -> None:
        """``templates``: the key of ``grammar.yaml`` that holds them."""
        grammar = yaml.safe_load(_FILES.joinpath("grammar.yaml").read_text(encoding="utf-8"))
        self._rng, self._words, self._templates = rng, grammar["words"], grammar[templates]
        self._makers: dict[str, Callable[[], str]] = {
            "who": self._who,
            "what": self._what,
            "number": lambda: spell(rng.choice([rng.randint(2, 20), rng.randint(21, 999), rng.randint(1000, 99999)])),
            "hour": lambda: spell(rng.randint(1, 12)),
            "minute": lambda: spell(rng.randint(10, 59)),
            "year": lambda: f"{spell(rng.randint(15, 20))} {spell(rng.randint(10, 99))}",
        }

    def _fill(self, slot: str) -> str:
        return self._makers[slot]() if slot in self._makers else self._pick(slot)

    def _pick(self, slot: str) -> str:
        return self._rng.choice(self._words[slot])

    def _who(self) -> str:
        kind = self._rng.random()
        if kind < 0.25:
            return self._pick("name")
        if kind < 0.4:
            return f"{self._pick('name')} {self._pick('surname')}"
        if kind < 0.5:
            return f"{self._rng.choice(['Mister', 'Missus', 'Doctor', 'Captain'])} {self._pick('surname')}"
        return f"{self._rng.choice(['the', 'a', 'my', 'your', 'this'])} {self._maybe_adjective()}{self._pick('person')}"

    def _what(self) -> str:
        owner = self._rng.choice(["the", "the", "my", "her", "his", "that", "our", f"{self._pick('name')}'s"])
        return f"{owner} {self._maybe_adjective()}{self._pick(self._rng.choice(['thing', 'thing', 'animal']))}"

    def _maybe_adjective(self) -> str:
        return f"{self._pick('adj')} " if self._rng.random() < 0.4 else ""

    def sentence(self) -> str:
        text = re.sub(r"{(\w+)}", lambda slot: self._fill(slot[1]), self._rng.choice(self._templates))
        return text[0].upper() + text[1:]


def clauses() -> list[str]:
    """The bundled public-domain clauses, in file order."""
    packed = _FILES.joinpath("kjv.txt.gz").read_bytes()
    return gzip.decompress(packed).decode().splitlines()


def sentences(seed: int) -> Iterator[str]:
    """Endless distinct sentences of 4-25 words: two of the grammar to one clause, then the grammar alone."""
    rng = random.Random(seed)
    grammar = _Grammar(rng, "sentences")
    verses = clauses()
    rng.shuffle(verses)
    seen: set[str] = set()
    while True:
        text = verses.pop() if verses and rng.random() < 1 / 3 else grammar.sentence()
        if 4 <= len(text.split()) <= 25 and text not in seen:
            seen.add(text)
            yield text


def short_lines(seed: int) -> Iterator[str]:
    """Endless lines of 1-4 words: answers, greetings, names, single nouns. Common ones repeat."""
    grammar = _Grammar(random.Random(seed), "lines")
    while True:
        text = grammar.sentence()
        if len(text.split()) <= 4:
            yield text
