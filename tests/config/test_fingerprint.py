"""A run is of what lies at its paths, not only of their names."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from pcg.config.fingerprint import fingerprints


def model(folder: Path, value: float, size: int = 8) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({"weight": torch.full((size,), value)}, folder / "model.safetensors")
    return folder


def test_weights_that_change_under_their_name_are_others(tmp_path):
    run = {"target": {"path": str(model(tmp_path / "target", 1.0))}, "seed": 0}
    before = fingerprints(run)
    assert list(before) == ["target.path"]
    model(tmp_path / "target", 1.0)
    assert fingerprints(run) == before  # written again, the same
    model(tmp_path / "target", 2.0)
    assert fingerprints(run) != before


def test_large_files_are_sampled_over_their_whole_length(tmp_path):
    run = {"target": {"path": str(model(tmp_path / "target", 1.0, 3_000_000))}}
    file = tmp_path / "target" / "model.safetensors"
    before = fingerprints(run)
    for place in (0.001, 0.5, 0.999):
        content = bytearray(file.read_bytes())
        at = int(len(content) * place)
        content[at : at + 60_000] = os.urandom(60_000)[: len(content) - at]
        file.write_bytes(content)
        after = fingerprints(run)
        assert after != before
        before = after


def test_what_has_none(tmp_path):
    (tmp_path / "lines.txt").write_text("Say this.\n")
    (tmp_path / "recordings").mkdir()
    run = {
        "target": {"path": "owner/name"},
        "draft": None,
        "codec": {"path": str(tmp_path / "absent")},
        "dataset": {"path": str(tmp_path / "recordings")},
        "metrics": {"asr": {"recogniser": {"path": str(tmp_path / "lines.txt")}}},
    }
    assert list(fingerprints(run)) == ["metrics.asr.recogniser.path"]


def test_the_bundled_models_have_one():
    run = {part: {"path": f"bundled:{part}"} for part in ("target", "draft", "codec")}
    assert len(set(fingerprints(run).values())) == 3
