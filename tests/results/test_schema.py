from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pcg.decoding.statistics import COUNTS, UNLIKELY
from pcg.results.schema import KEYS, MOVED, summarise
from pcg.results.store import one_line, read
from pcg.runner.run import run_once
from pcg.types import Figure, Result

FREE = ("config.", "versions.", "failures", "overrides", "figures.")


def keys(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from keys(value, f"{path}{key}.")
        else:
            yield path + key


def test_every_key_is_documented_and_every_documented_key_is_there(config) -> None:
    assert f"tokens below {UNLIKELY:g}".replace("0.", ".") in KEYS["distortion.overshoot_unlikely"]
    written = {key for key in keys(run_once(config()).values) if not key.startswith(FREE)}
    for key in written:
        base = key.removesuffix("_ci95")
        assert base in KEYS or base.startswith("quality."), f"{key} is not documented"
    plain = {
        key for key in KEYS if "*" not in key and not key.startswith(("config", "versions", "failures", "overrides"))
    }
    assert plain <= written


def row(**changes: Any) -> dict[str, Any]:
    counts = dict.fromkeys(COUNTS, 0) | {
        "target_passes": 10, "tested": 30, "accepted": 20, "emitted": 30, "rounds": 10, "draft_passes": 30,
    }  # fmt: skip
    return {
        "utterance": "u", "error": None, "finished": True, "counts": counts, "accepted_by_position": [12, 8],
        "sums": {"alpha_exact": 15.0, "tv": 3.0, "kl": 6.0, "overshoot_unlikely": 1.2, "outside": 0.6},
        "audio_seconds": 2.0, "tokens": [7, 8],
        "scores": {"errors": 1, "words": 10}, "baseline_scores": {"errors": 0, "words": 10}, **changes,
    }  # fmt: skip


def record(rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "batch": 0, "rows": rows, "tokens": 30,
        "seconds": {"prefill": 1.0, "draft": 0.3, "target": 0.5, "rule": 0.1, "other": 0.1},
        "calls": {"draft": 20, "target": 10},
        "baseline_tokens": 30,
        "baseline_seconds": {"prefill": 1.0, "draft": 0.0, "target": 1.2, "rule": 0.0, "other": 0.3},
        "baseline_calls": {"target": 30}, **changes,
    }  # fmt: skip


RUN = {"decoding": {"gamma": 2}}
FIGURES = {"wer": Figure("WER", "%", ".1f", "lower", ("errors", "words"))}


def test_alpha_is_told_by_slot_where_several_tokens_make_a_frame() -> None:
    """By hand: places 0 and 3 are slot 0, of which one was rejected; a bonus token was not tested."""
    said = row(kinds=["exact", "group", "recovered", "recovered", "bonus", "candidate"])
    framed = {**RUN, "target": {"text": {"slots": 3}}}
    assert summarise(framed, [record([said])], FIGURES)["acceptance"]["alpha_by_slot"] == [0.5, 1.0, 0.5]
    assert summarise(RUN, [record([said])], FIGURES)["acceptance"]["alpha_by_slot"] is None
    assert summarise(framed, [record([row()])], FIGURES)["acceptance"]["alpha_by_slot"] is None  # an engine decoded


def test_rates_by_hand() -> None:
    values = summarise(RUN, [record([row()]), record([row()])], FIGURES)
    assert values["acceptance"]["alpha"] == pytest.approx(2 / 3)
    assert values["acceptance"]["tau"] == 3.0
    assert values["acceptance"]["alpha_exact"] == 0.5
    speed = values["speed"]
    assert speed["tokens_per_second"] == pytest.approx(30)  # 60 tokens in 2 x 1.0 s; prefill apart
    assert speed["baseline_tokens_per_second"] == pytest.approx(20)
    assert speed["speedup"] == pytest.approx(1.5)
    assert speed["rtf"] == pytest.approx(1.0)  # 4 s of compute, prefill included, 4 s of audio
    assert speed["ideal_speedup"] == pytest.approx(3 * 0.04 / (2 * 0.015 + 0.05))
    known = {"tv": 0.1, "kl": 0.2, "overshoot_unlikely": 0.04, "overshoot_likely": 0.06, "outside": 0.02}
    assert {key: values["distortion"][key] for key in known} == pytest.approx(known)
    assert {values["distortion"][key] for key in MOVED} == {None}  # nobody asked
    assert values["quality"]["wer"] == pytest.approx(0.1)
    assert values["quality"]["baseline_wer"] == 0.0
    assert values["counts"]["accepted_by_position"] == [24, 16]


def test_a_speed_up_is_by_the_processors_seconds_where_all_batches_have_them() -> None:
    spent = {"prefill": 1.0, "draft": 0.2, "target": 0.4, "rule": 0.1, "other": 0.1}
    alone = {"prefill": 1.0, "draft": 0.0, "target": 1.2, "rule": 0.0, "other": 0.4}
    batches = [record([row()], cpu_seconds=spent, baseline_cpu_seconds=alone) for _ in range(2)]
    speed = summarise(RUN, batches, FIGURES)["speed"]
    assert speed["clock"] == "cpu"
    assert speed["speedup"] == pytest.approx(2.0)  # 1.6 seconds to .8, where the wall says 1.5 to 1
    assert speed["ideal_speedup"] == pytest.approx(3 * 0.04 / (2 * 0.01 + 0.04))
    assert speed["tokens_per_second"] == pytest.approx(30)  # by the wall
    mixed = summarise(RUN, [batches[0], record([row()])], FIGURES)["speed"]
    assert (mixed["clock"], mixed["speedup"]) == ("wall", pytest.approx(1.5))


def test_what_was_not_measured_is_null_not_missing() -> None:
    silent = row(sums={"alpha_exact": 15.0}, baseline_scores={})
    alone = {"baseline_tokens": None, "baseline_seconds": None, "baseline_calls": None}
    values = summarise(RUN, [record([silent], **alone)], FIGURES)
    assert values["distortion"] == dict.fromkeys(
        ("tv", "kl", "overshoot_unlikely", "overshoot_likely", "outside", *MOVED)
    )
    assert values["speed"]["speedup"] is None
    assert values["speed"]["ideal_speedup"] is None
    assert values["acceptance"]["alpha_ci95"] is None  # one utterance says nothing about the spread
    assert "baseline_wer" not in values["quality"]


def test_what_is_heard_is_of_the_positions_that_were_measured() -> None:
    run = {"decoding": {"gamma": 2, "sound_every": 8}}
    moved = {"moved_positions": 4.0, "sound": 1.0, "sound_rest": 0.2, "embedding": 2.0, "embedding_rest": 0.0}
    rows = [row(sums={**row()["sums"], **moved}), row(sums={**row()["sums"], **moved, "sound": 2.0})]
    values = summarise(run, [record(rows)], FIGURES)
    expected = {"sound": 3 / 8, "sound_rest": 0.05, "embedding": 0.5, "embedding_rest": 0.0, "moved_positions": 8}
    assert {key: values["distortion"][key] for key in expected} == pytest.approx(expected)
    low, high = values["distortion"]["sound_ci95"]  # of two utterances, .25 and .5
    assert low == 0
    assert high > 1
    assert values["left_out"] == []


@pytest.mark.parametrize(
    ("sums", "reason"),
    [
        ({"alpha_exact": 15.0}, "the rule states no law of one position"),
        (
            {"tv": 1.0, "moved_positions": 4.0, "embedding": 1.0},
            "the sound of a token needs a codec (codec=none)",
        ),
    ],
)
def test_why_nothing_is_heard(sums: dict[str, float], reason: str) -> None:
    values = summarise({"decoding": {"gamma": 2, "sound_every": 8}}, [record([row(sums=sums)])], FIGURES)
    assert values["distortion"]["sound"] is None
    assert values["left_out"] == [{"figure": "distortion.sound", "utterances": 1, "reason": reason}]


def test_empty_generations_are_counted() -> None:
    values = summarise(RUN, [record([row(), row(tokens=[])]), record([row(tokens=[])])], FIGURES)
    assert (values["counts"]["utterances"], values["counts"]["empty"]) == (3, 2)


def test_a_figure_that_some_could_not_have_is_of_the_others() -> None:
    declared = {**FIGURES, "alike": Figure("alike", ratio=("alike", None))}
    without = row(scores={"errors": 1, "words": 10, "alike": None}, baseline_scores={})
    voiced = row(scores={"errors": 1, "words": 10, "alike": 0.5}, baseline_scores={})
    mixed = summarise(RUN, [record([without, voiced, without])], declared)
    assert (mixed["quality"]["alike"], mixed["quality"]["wer"]) == (0.5, pytest.approx(0.1))
    reason = "there is neither a voice nor a recording to compare with"
    assert mixed["left_out"] == [{"figure": "alike", "utterances": 2, "reason": reason}]
    none = summarise(RUN, [record([without])], declared)
    assert (none["quality"]["alike"], none["quality"]["alike_ci95"]) == (None, None)
    assert summarise(RUN, [record([voiced])], declared)["left_out"] == []


def test_a_column_that_a_metric_declares_and_does_not_give_is_named() -> None:
    with pytest.raises(KeyError, match="have not given the columns letters"):
        summarise(RUN, [record([row()])], {"wer": Figure("WER", ratio=("errors", "letters"))})
    with pytest.raises(ValueError, match="figure 'WER': `ratio` is required"):
        summarise(RUN, [record([row()])], {"wer": Figure("WER")})


def test_failed_utterances_count_nowhere() -> None:
    failed = {"utterance": "bad", "error": "OSError: gone"}
    values = summarise(RUN, [record([row()]), record([failed], seconds=None, baseline_seconds=None)], FIGURES)
    assert values["failures"] == [{"utterance": "bad", "reason": "OSError: gone"}]
    assert values["counts"]["utterances"] == 1
    assert values["speed"]["speedup"] == pytest.approx(1.5)


def test_the_runs_line_tells_of_empty_generations(config) -> None:
    result = run_once(config())
    assert "empty" not in one_line(result)
    values = {**result.values, "counts": {**result.values["counts"], "empty": 2}}
    assert "  2 empty -> " in one_line(Result(result.folder, values))


def test_results_of_earlier_schemas_are_read(config) -> None:
    folder = Path(run_once(config()).folder)
    values = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    del values["counts"]["empty"], values["counts"]["rival_accepted"]
    del values["distortion"]["overshoot_unlikely"], values["distortion"]["overshoot_likely"]
    del values["engine"], values["speed"]["tokens_per_second_whole"]
    del values["figures"]
    for key in ("outside", *MOVED):
        del values["distortion"][key]
    for schema in (0, 1, 2, 3, 4, 5, 6, 7, 9):
        (folder / "result.json").write_text(json.dumps({**values, "schema": schema}), encoding="utf-8")
        if 1 <= schema <= 7:
            found = read(folder)
            assert found is not None
            assert found.values["counts"]["empty"] is None  # not counted then
            assert found.values["counts"]["rival_accepted"] is None
            assert found.values["distortion"]["overshoot_unlikely"] is None
            assert found.values["distortion"]["sound"] is found.values["distortion"]["outside"] is None
            assert found.values["engine"]["name"] == "own"
            assert found.values["speed"]["tokens_per_second_whole"] is None
            assert found.values["figures"]["wer"]["better"] == "lower"
            continue
        with pytest.raises(ValueError, match=rf"result\.json has schema {schema}, this version reads 1 to 8; move it"):
            read(folder)
