"""Where the configs and the entry points are: beside the package in a clone, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path

import pcg

_PACKAGE = Path(pcg.__file__).resolve().parent
CLONE = (_PACKAGE.parent / "conf" / "run.yaml").exists()
CONF, EXPERIMENTS = ((_PACKAGE.parent if CLONE else _PACKAGE) / name for name in ("conf", "experiments"))


def install_line(extra: str) -> str:
    """What a person types to get an extra of pyproject.toml."""
    return f"pip install -e '.[{extra}]'" if CLONE else f"pip install 'pcg[{extra}]'"
