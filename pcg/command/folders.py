"""Where configs and entry points are (beside the package in a clone, inside it in a wheel), and what choices hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pcg

_PACKAGE = Path(pcg.__file__).resolve().parent
CLONE = (_PACKAGE.parent / "conf" / "run.yaml").exists()
CONF, EXPERIMENTS = ((_PACKAGE.parent if CLONE else _PACKAGE) / name for name in ("conf", "experiments"))


def install_line(extra: str) -> str:
    """The command that installs an extra of pyproject.toml."""
    return f"pip install -e '.[{extra}]'" if CLONE else f"pip install 'pcg[{extra}]'"


def choices(group: str) -> list[str]:
    """Names of the choices of a config group."""
    return [path.stem for path in sorted((CONF / group).glob("*.yaml"))]


def choice(group: str, name: str) -> dict[str, Any]:
    """The keys of a choice, those of the choices in its ``defaults`` among them; interpolations are not resolved."""
    from omegaconf import OmegaConf  # not for every start of `pcg`

    own: Any = OmegaConf.load(CONF / group / f"{name}.yaml")
    inherited: list[Any] = []
    for entry in own.pop("defaults", []):
        if isinstance(entry, str):
            inherited += [choice(group, entry)] if entry != "_self_" else []
            continue
        for key, chosen in entry.items():  # "/text@text": "llasa", or of a subgroup "groups": "cosine"
            other, _, path = key.removeprefix("/").partition("@")
            inner = choice(other if key.startswith("/") else f"{group}/{other}", chosen)
            inherited.append({path or other: inner})
    merged = OmegaConf.to_container(OmegaConf.merge(*map(OmegaConf.create, inherited), own), resolve=False)
    assert isinstance(merged, dict)
    return {str(key): value for key, value in merged.items()}
