"""What a run is worth to a search, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from pcg.runner import objective

RESULT: dict[str, Any] = {
    "speed": {"speedup": 1.4, "ideal_speedup": None, "seconds": {"rule": 0.5}},
    "quality": {"wer": 0.08, "wer_ci95": [0.0, 1.0], "baseline_wer": 0.05, "mos": 3.5},
}


@pytest.mark.parametrize(
    ("limits", "worth"),
    [
        (None, 1.4),
        (["quality.wer <= 0.08"], 1.4),
        (["quality.wer <= 0.05"], -1000.03),
        (["quality.wer-quality.baseline_wer<=0.02"], -1000.01),
        (["quality.mos >= 3.6", "quality.wer <= 0.05", "speed.seconds.rule <= 1e0"], -1000.13),
        (["quality.mos >= -3"], 1.4),
    ],
)
def test_a_broken_limit_puts_a_run_below_all_that_keep_it(limits: list[str] | None, worth: float) -> None:
    assert objective.worth({"maximise": "speed.speedup", "subject_to": limits}, RESULT) == pytest.approx(worth)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("quality.per", "quality.wer"), ("speed.ideal_speedup", "speed.speedup"), ("quality.wer_ci95", "quality.wer")],
)
def test_what_the_run_did_not_measure_is_named(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"no figure '{name}'; did you mean '{nearest}'"):
        objective.worth({"maximise": name}, RESULT)


def test_mistakes_are_found_before_the_search() -> None:
    def problems(wanted: Any, metrics: Any = None) -> list[str]:
        return objective.problems({"objective": wanted, "metrics": metrics})

    assert problems(None) == []
    assert problems({"maximise": "speed.speedup", "subject_to": ["acceptance.tau >= 2"]}) == []
    assert "expected `maximise`" in problems({"minimise": "speed.rtf"})[0]
    assert "did you mean 'speed.speedup'" in problems({"maximise": "speed.speedp"})[0]
    assert "FIGURE <= NUMBER" in problems({"maximise": "speed.rtf", "subject_to": ["speed.rtf < 2"]})[0]
    assert "FIGURE <= NUMBER" in problems({"maximise": "speed.rtf", "subject_to": ["speed.rtf <= 1.2.3"]})[0]
    assert "a list of limits" in problems({"maximise": "speed.rtf", "subject_to": "speed.rtf <= 2"})[0]
    assert "not measured with metrics=none" in problems({"maximise": "quality.wer"})[0]
    assert problems({"maximise": "quality.mos"}, {"mos": {"_target_": "pcg.metrics.mos.Mos"}}) == []
