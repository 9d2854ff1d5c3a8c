"""``pcg ratings FILE ... [outputs=FOLDER]``: which method the listeners of a blind test preferred.

The page of ``pcg report study=NAME blind=true`` saves one file for each listener. The test's key is read from
``outputs/``, where the report was made.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pcg.command.folders import choice
from pcg.report import ratings
from pcg.report.tables import console, rich_table

_NOTE = (
    "In brackets is the exact binomial interval of 95 %, which treats ratings as independent. Ratings of one listener, "
    "and of one utterance, are not: where listeners differ the interval of all together is too narrow, so read each."
)


def main(arguments: Sequence[str]) -> int:
    """Print the preferences; returns the exit status."""
    files = [Path(argument) for argument in arguments if not argument.startswith("outputs=")]
    if not files or set(arguments) & {"-h", "--help"}:
        print(__doc__)
        return 0 if set(arguments) & {"-h", "--help"} else 2
    given = [argument.partition("=")[2] for argument in arguments if argument.startswith("outputs=")]
    outputs = [choice("paths", "default")["outputs"], *given][-1]
    try:
        listeners = ratings.read_all(files)
        key = ratings.key_of(listeners[0].test, Path(outputs).expanduser())
        tables = ratings.preference_tables(listeners, key)
    except ratings.RatingsError as error:
        print(f"pcg ratings: {error}", file=sys.stderr)
        return 2
    screen = console(100)
    screen.print(f"study {key['study']}, test {key['test']}")
    for title, rows in tables:
        screen.print(rich_table(title, ratings.HEADER, rows))
    screen.print(_NOTE)
    return 0
