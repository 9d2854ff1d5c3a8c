"""Every rule scored at once from one teacher-forced pass of target and draft over recorded speech.

Per utterance the two models read the voice prompt as in decoding, then the codec's tokens of the reference recording.
At each position, end-of-speech included, each rule's ``expected_acceptance`` and ``law`` are evaluated in closed form.
Only sums of an utterance are kept, so memory is that of a chunk of positions whatever the dataset.
docs/studies.md says what the figures assume.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from pcg import constraints
from pcg.config.build import is_built
from pcg.config.settings import Settings
from pcg.constraints import FROM_1
from pcg.decoding.statistics import DISTANCES
from pcg.decoding.transport import Movers
from pcg.decoding.tree import CandidateRule
from pcg.decoding.voice import spoken_tokens, voice_tokens
from pcg.history import along
from pcg.interfaces import Codec, Rule, TokenLM
from pcg.metrics.aggregate import Estimate, ratio
from pcg.report import tables
from pcg.results import environment, predictions
from pcg.results.records import write_atomically
from pcg.runner.composition import load
from pcg.runner.loading import with_dataset
from pcg.sampling import Sampling
from pcg.studies import plots
from pcg.studies.grid import Point, rules_of, settings_and_points, with_progress
from pcg.studies.renewal import rounds_along
from pcg.types import Utterance

_KEYS = dict.fromkeys(("chunk", "gammas"), Annotated[int, FROM_1])  # of conf/offline.yaml and not of a run
_MOVED = ("sound", "sound_rest", "embedding", "embedding_rest")  # earth mover's distances (``pcg.decoding.transport``)
log = logging.getLogger(__name__)


def check(config: Mapping[str, Any]) -> tuple[Settings, list[Point]]:
    """Settings and points of conf/offline.yaml.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    problems = constraints.problems(config, _KEYS)
    if not is_built(config["draft"]):
        problems.append("draft is required: pcg offline draft=NAME")
    return settings_and_points(config, problems)


def study(config: Mapping[str, Any]) -> Path:
    """Score every rule, write ``outputs/<study>/offline/`` and show the table; returns that folder.

    Raises:
        ConfigError: the config cannot run.
        ValueError: an utterance has no reference recording, or two have the same id.
    """
    began = time.perf_counter()
    settings, points = check(config)
    torch.set_num_threads(settings.threads)
    run = with_dataset(points[0].run)
    composed = load(run)
    assert composed.draft is not None
    scorers = [Scorer(rule, composed.movers) for rule in rules_of(points)]
    rows: list[dict[str, Any]] = []
    for utterance in with_progress(composed.dataset, "offline"):
        for draft_probs, target_probs in teacher_forced(
            utterance, composed.target, composed.draft, composed.codec, settings.decoding.sampling, config["chunk"]
        ):
            for scorer in scorers:
                scorer.add(draft_probs, target_probs)
        rows += _rows(utterance, points, scorers, config["gammas"])
    values = {
        "study": settings.study,
        "config": {key: run.values[key] for key in ("target", "draft", "codec", "dataset", "decoding", "fingerprints")},
        **environment.about(composed.device),
        "utterances": len(composed.dataset),
        "points": _summary(points, scorers, rows, config["gammas"]),
        "wall_seconds": time.perf_counter() - began,
    }
    files = predictions.write(settings.study_folder, values, rows)
    return _show(values, files, settings.decoding.gamma)


@torch.inference_mode()
def teacher_forced(
    utterance: Utterance, target: TokenLM, draft: TokenLM, codec: Codec | None, sampling: Sampling, chunk: int
) -> Iterator[tuple[Float[Tensor, "positions vocab"], Float[Tensor, "positions vocab"]]]:
    """Draft and target distributions at each position of an utterance's recording, up to ``chunk`` at a time.

    Position i is conditioned on text, voice prompt and the first i recorded tokens; the last is end-of-speech.

    Raises:
        ValueError: there is no recording, or it cannot be encoded as tokens that the models know.
    """
    speech = spoken_tokens(utterance, codec, target.end).to(target.device)
    prompt = voice_tokens(utterance, codec, target.end)
    target_prompt, draft_prompt = target.prompt(utterance, prompt), draft.prompt(utterance, prompt)
    target_cache = target.prefill([target_prompt], len(target_prompt) + len(speech), draft.reads)
    draft_cache = draft.prefill([draft_prompt], len(draft_prompt) + len(speech), target=target_cache)
    target_ids = torch.cat([target_prompt[-1:], target.token_ids(speech)])[None]
    draft_ids = torch.cat([draft_prompt[-1:], draft.token_ids(speech)])[None]
    before = sampling.history([prompt], target.vocab_size, speech.device)
    before = before and before.map(lambda field: field[0])
    for start in range(0, len(speech) + 1, chunk):
        history = None
        if before is not None:
            history = along(before, speech[start : start + chunk])  # before each position and after the last one
            before = history.map(lambda field: field[-1])
            if start + chunk <= len(speech):
                history = history.map(lambda field: field[:-1])
        # the target goes first, since some drafts read its states
        target_logits = target.step(target_ids[:, start : start + chunk], target_cache)[0]
        draft_logits = draft.step(draft_ids[:, start : start + chunk], draft_cache)[0]
        yield sampling.probabilities(draft_logits, history), sampling.probabilities(target_logits, history)


@dataclass
class Scorer:
    """Evaluates a rule at each position of one utterance after another.

    Attributes:
        alphas: probability that any candidate is kept, by chunk.
        firsts: the same of the first candidate, with which the block goes on.
        sums: of each distance over the positions so far; None for a rule without a law.
    """

    rule: Rule | CandidateRule
    movers: Movers | None = None
    alphas: list[Tensor] = field(default_factory=list)
    firsts: list[Tensor] = field(default_factory=list)
    sums: dict[str, float | None] = field(default_factory=dict)

    def add(
        self, draft_probs: Float[Tensor, "positions vocab"], target_probs: Float[Tensor, "positions vocab"]
    ) -> None:
        any_one = first = self.rule.expected_acceptance(draft_probs, target_probs)
        if isinstance(self.rule, CandidateRule):
            first = self.rule.first_acceptance(draft_probs, target_probs)
        for alphas, acceptance in ((self.alphas, any_one), (self.firsts, first)):
            alphas.append(acceptance.clamp(0, 1).double().cpu())  # float32 sums exceed 1 by 1e-7
        law = getattr(self.rule, "law", None)
        if law is None:
            self.sums = dict.fromkeys(DISTANCES)
            return
        emitted = law(draft_probs, target_probs)
        sums = {name: distance(emitted, target_probs).double().sum().item() for name, distance in DISTANCES.items()}
        if self.movers is not None:
            every = slice(None, None, self.movers.every)
            moved = self.movers.sums(emitted[every], target_probs[every]).sum(0).tolist()
            sums |= dict(zip(self.movers.columns, moved, strict=True))
        for name, total in sums.items():
            self.sums[name] = (self.sums.get(name) or 0.0) + total

    def take(self) -> tuple[Float[Tensor, "2 positions"], dict[str, float | None]]:
        """Return acceptance of any candidate and of the first, and the sums, and begin the next utterance."""
        taken = torch.stack([torch.cat(self.alphas), torch.cat(self.firsts)]), self.sums
        self.alphas, self.firsts, self.sums = [], [], {}
        return taken


def _rows(
    utterance: Utterance, points: Sequence[Point], scorers: Sequence[Scorer], gammas: int
) -> list[dict[str, Any]]:
    """One row a point: sums over the utterance's positions, and expected counts for each gamma."""
    taken = [scorer.take() for scorer in scorers]
    alphas, firsts = torch.stack([acceptance for acceptance, _ in taken], 1)
    counted = {gamma: rounds_along(alphas, gamma, firsts) for gamma in range(1, gammas + 1)}
    return [
        {
            "utterance": utterance.id,
            "speaker": utterance.speaker,
            "point": point.name,
            "positions": alphas.shape[1],
            "sum_alpha": alphas[index].sum().item(),
            **{f"sum_{name}": total for name, total in sums.items()},
            **{
                f"{name}_{gamma}": getattr(counts, name)[index].item()
                for gamma, counts in counted.items()
                for name in ("rounds", "tested", "accepted")
            },
        }
        for index, (point, (_, sums)) in enumerate(zip(points, taken, strict=True))
    ]


def _summary(
    points: Sequence[Point], scorers: Sequence[Scorer], rows: Sequence[Mapping[str, Any]], gammas: int
) -> list[dict[str, Any]]:
    """Figures of each point over all utterances; intervals are bootstraps over utterances."""
    by_point: dict[str, list[Mapping[str, Any]]] = {point.name: [] for point in points}
    for row in rows:
        by_point[row["point"]].append(row)
    return [
        {
            "curve": point.curve,
            "name": point.name,
            "grouping": point.run.grouping,
            "groups": (groups := getattr(scorer.rule, "groups", None)) and groups.report(),
            **_figures(by_point[point.name], gammas),
        }
        for point, scorer in zip(points, scorers, strict=True)
    ]


def _figures(rows: Sequence[Mapping[str, Any]], gammas: int) -> dict[str, Any]:
    def per(top: str, bottom: str) -> Estimate:
        if any(row.get(top) is None for row in rows):
            return Estimate(None, None)
        return ratio([row[top] for row in rows], [row[bottom] for row in rows])

    figures: dict[str, Any] = {}
    for name in ("alpha", *DISTANCES, *_MOVED):
        mean = per(f"sum_{name}", "sum_moved_positions" if name in _MOVED else "positions")
        figures |= {name: mean.value, f"{name}_ci95": mean.ci95}
    taus = [per("positions", f"rounds_{gamma}") for gamma in range(1, gammas + 1)]
    tested = [per(f"accepted_{gamma}", f"tested_{gamma}") for gamma in range(1, gammas + 1)]
    return figures | {
        "tau": [tau.value for tau in taus],
        "tau_ci95": [tau.ci95 for tau in taus],
        "alpha_tested": [alpha.value for alpha in tested],
    }


def _show(values: Mapping[str, Any], files: Sequence[Path], gamma: int) -> Path:
    """Write table and plots and print the table; returns the folder."""
    folder, points = files[0].parent, values["points"]
    header, rows = _table(points, min(gamma, len(points[0]["tau"])))
    write_atomically(folder / "table.md", tables.markdown(header, rows))
    drawn = plots.draw_offline(points, folder)
    console = tables.console(120)
    console.print(tables.rich_table(f"{values['study']}, offline", header, rows))
    for path in (*files, folder / "table.md", *drawn):
        console.print(str(path), soft_wrap=True)
    log.info("%d points, %d utterances, %.0f s", len(points), values["utterances"], values["wall_seconds"])
    return folder


def _table(points: Sequence[Mapping[str, Any]], gamma: int) -> tuple[list[str], list[list[str]]]:
    header = ["method", "alpha", f"tau({gamma})", "sound, dB", "TV", "of it unlikely", "outside", "KL", "mean group"]
    rows = [
        [
            point["name"],
            tables.figure("{:.3f}", point["alpha"], point["alpha_ci95"]),
            tables.figure("{:.2f}", point["tau"][gamma - 1], point["tau_ci95"][gamma - 1]),
            tables.figure("{:.3f}", point["sound"], point["sound_ci95"]),
            tables.figure("{:.3f}", point["tv"]),
            tables.figure("{:.3f}", point["overshoot_unlikely"]),
            tables.figure("{:.3f}", point["outside"]),
            tables.figure("{:.3f}", point["kl"]),
            tables.figure("{:.1f}", (point["groups"] or {}).get("mean_size")),
        ]
        for point in points
    ]
    return header, rows
