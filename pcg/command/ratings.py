"""``pcg ratings FILE ... [outputs=FOLDER]``: which method the listeners of a blind test preferred.

The files are those that the page of ``pcg report study=NAME blind=true`` saves, one a listener. The test's key is
looked for under ``outputs/``, where the report was made.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from pcg.command.folders import CONF
from pcg.report import ratings
from pcg.report.tables import console, rich_table

_NOTE = (
    "In brackets the exact binomial interval of 95 %, of single ratings. Ratings of one listener, and of one "
    "utterance, hang together: of all listeners together the interval is too narrow where listeners differ, so look at "
    "each."
)


def main(arguments: Sequence[str]) -> int:
    """Print the preferences; returns the exit status."""
    files = [Path(argument) for argument in arguments if not argument.startswith("outputs=")]
    if not files or set(arguments) & {"-h", "--help"}:
        print(__doc__)
        return 0 if set(arguments) & {"-h", "--help"} else 2
    default = yaml.safe_load((CONF / "paths" / "default.yaml").read_text(encoding="utf-8"))["outputs"]
    told = [argument.partition("=")[2] for argument in arguments if argument.startswith("outputs=")]
    try:
        listeners = ratings.read_all(files)
        key = ratings.key_of(listeners[0].test, Path([default, *told][-1]).expanduser())
        tables = ratings.tables(listeners, key)
    except ratings.RatingsError as error:
        print(f"pcg ratings: {error}", file=sys.stderr)
        return 2
    screen = console(100)
    screen.print(f"study {key['study']}, test {key['test']}")
    for title, rows in tables:
        screen.print(rich_table(title, ratings.HEADER, rows))
    screen.print(_NOTE)
    return 0
