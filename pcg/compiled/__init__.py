"""The C files of this folder: what one thread of a CPU does far quicker in one call than in many operations of torch.

They are built once a machine, by the compiler at hand (``cc``, or ``$CC``), into one library under ``$PCG_CACHE``.
Where there is no compiler, torch does the same: ``pcg.sampling`` and ``pcg.models.linear`` have both.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from pcg.files import cache_folder

FOLDER = Path(__file__).parent
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC")
_POINTER, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
_TAKES = {
    "softmax": (_POINTER, _LONG, _LONG, _FLOAT, _POINTER),
    "are_distributions": (_POINTER, _LONG, _LONG, _FLOAT),
    "among": (
        *(_POINTER, _LONG, _LONG, _POINTER, _POINTER, _LONG, _LONG),
        *(_POINTER, _LONG, _POINTER, _POINTER),
    ),
    "draw": (_POINTER, _POINTER, _LONG, _LONG, _POINTER, _LONG, _LONG, _LONG, _POINTER, _POINTER),
}
log = logging.getLogger(__name__)


@cache
def library() -> Any:
    """The built C files; None, and the reason in the log, where they cannot be built here."""
    try:
        found = ctypes.CDLL(str(_built()))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or error
        log.info("no C compiler that builds %s (%s): torch is used instead", FOLDER.name, str(said).strip()[:200])
        return None
    for name, takes in _TAKES.items():
        getattr(found, name).argtypes = takes
    return found


def source() -> str:
    """All C files in a row: what is built, and what was measured of it, belongs to this."""
    return "\0".join(file.read_text() for file in sorted(FOLDER.glob("*.[ch]")))


def _built() -> Path:
    """The library for this source, compiler and processor; built where it is not there yet."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    # what -march=native means here tells the processor, and the macros the compiler
    macros = subprocess.run(
        [*compiler, "-march=native", "-dM", "-E", "-x", "c", os.devnull], capture_output=True, text=True, check=True
    ).stdout
    digest = hashlib.blake2b("\0".join((source(), macros, *_FLAGS)).encode(), digest_size=8).hexdigest()
    folder = cache_folder() / "kernels"
    built = folder / f"pcg-{digest}.so"
    if not built.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # two processes may build at once
            new = Path(scratch) / built.name
            files = [str(each) for each in sorted(FOLDER.glob("*.c"))]
            build = [*compiler, *_FLAGS, "-o", str(new), *files, "-lm"]
            subprocess.run(build, capture_output=True, text=True, check=True)
            new.replace(built)
    return built
