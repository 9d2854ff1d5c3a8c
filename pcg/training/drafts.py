"""Trains a draft for the acceptance of its tokens, on the target's distributions at the temperature of use.

The student is a Llama of its own weights (``pcg.training.speech``), or one that reads the target's states
(``pcg.training.eagle``), whose draft steps are unrolled and weighted .8^n (LK losses, arXiv 2602.23881). The target
runs beside the student and is not trained. Reports give alpha on held-out speech, exact and on groups, by depth.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

import lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pcg.constraints import ABOVE_0, FROM_0, FROM_1, SHARE_ABOVE_0
from pcg.groups.table import GroupBuilder, GroupTable
from pcg.models.checkpoint import Dtype, read_json, resolve_folder
from pcg.training.eagle import View
from pcg.training.fit import Stage, fit, optimizers, resumed_at, take_step
from pcg.training.losses.alpha import acceptance, coarse_acceptance
from pcg.training.sequences import Batches, Epoch, corpus, pad_ids, read_tokens, samples
from pcg.training.teacher import Teacher

log = logging.getLogger(__name__)
DECAY = 0.8  # weight of a depth over that of the one before
SPARSE = 0.5  # weight of the loss with a budget beside that with the whole cache

Loss = Callable[[Float[Tensor, "positions vocab"], Float[Tensor, "positions vocab"]], Float[Tensor, ""]]


class Student(Protocol):
    """A draft in training; an ``nn.Module``."""

    def states(self, ids: Int[Tensor, "batch length"], teacher: Teacher, depths: int) -> list[Tensor]:
        """For each depth the states of all positions, from which ``logits`` are computed."""

    def logits(
        self, states: Float[Tensor, "positions width"], teacher: Teacher
    ) -> Float[Tensor, "positions vocab"]: ...

    def matrices(self) -> list[nn.Parameter]:
        """The parameters that Muon trains."""


class DraftModule(L.LightningModule):
    """One student in training.

    Args:
        loss: one of ``pcg.training.losses``, with its groups.
        stage: its settings.
        groups: tables by name; acceptance on held-out speech is reported on each.
        heldout: batches that are not trained on.
    """

    trained: Tensor

    def __init__(
        self,
        student: Any,
        teacher: Teacher,
        loss: Loss,
        stage: DraftTrainer,
        groups: Mapping[str, GroupTable],
        heldout: Sequence[Tensor],
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.student, self.stage = student, stage
        self._teacher = [teacher]  # in a list, for it is neither trained nor saved
        self._loss, self._groups, self._heldout = loss, groups, heldout
        self.register_buffer("trained", torch.zeros((), dtype=torch.int64))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        matrices = self.student.matrices()
        chosen = {id(matrix) for matrix in matrices}
        rest = [parameter for parameter in self.student.parameters() if id(parameter) not in chosen]
        return optimizers(matrices, rest, self.stage.learning_rate)

    def distributions(
        self, ids: Int[Tensor, "batch length"], share: float, view: View | None = None
    ) -> tuple[list[Float[Tensor, "positions vocab"]], Float[Tensor, "positions vocab"]]:
        """Draft log-probabilities by depth, and the target's probabilities, at a share of the spoken positions.

        ``view``: of a draft with a budget, after its prompt, for ids that have just been read without it.
        """
        [teacher] = self._teacher
        if view is None:
            teacher.read(ids)
        spoken = teacher.spoken(ids)
        if view is not None:
            spoken[:, : view.cut] = False
        if share < 1:
            spoken = spoken & (torch.rand(spoken.shape, device=ids.device) < share)
        temperature = self.stage.temperature
        with torch.no_grad():
            target = (teacher.logits(teacher.hidden[-1][:, :-1][spoken]) / temperature).softmax(-1)
        states = self.student.states(ids, teacher, self.stage.depths, *([] if view is None else [view]))
        logits = [self.student.logits(state[:, :-1][spoken], teacher) for state in states]
        return [(draft / temperature).log_softmax(-1) for draft in logits], target

    def training_step(self, ids: Int[Tensor, "batch length"], index: int) -> None:
        drafts, target = self.distributions(ids, self.stage.share)
        loss, first = self._weighted(drafts, target)
        if (view := self._view(ids.shape[1])) is not None:
            loss = loss + SPARSE * self._weighted(*self.distributions(ids, self.stage.share, view))[0]
        take_step(self, loss, self.stage, largest_gradient=0.5)
        if self.trained % 50 == 0:
            with torch.no_grad():
                alphas = {f"alpha_{n}": acceptance(draft, target).mean() for n, draft in enumerate(drafts, 1)}
            self.log_dict({"loss": first.detach(), **alphas})
        if self._heldout and self.trained % self.stage.report_every == 0:
            self.log_dict(self.held_out())

    def _weighted(self, drafts: Sequence[Tensor], target: Tensor) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The loss over all depths, and that of the first."""
        losses = torch.stack([self._loss(draft, target) for draft in drafts])
        weights = losses.new_tensor([DECAY**depth for depth in range(len(drafts))])
        return losses @ weights / weights.sum(), losses[0]

    def _view(self, length: int) -> View | None:
        """A budget of the student's and a prompt of a quarter to three quarters of the batch; None without budgets.

        Small budgets are drawn more often (.4, .3, .2, .1 of four), as in BudgetDraft.
        """
        budgets = sorted(getattr(self.student, "budgets", ()))
        if not budgets:
            return None
        chosen = int(torch.arange(len(budgets), 0, -1.0).multinomial(1))
        return View(int(torch.randint(length // 4, 3 * length // 4 + 1, ())), budgets[chosen])

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Expected acceptance on held-out speech; ``heldout_exact_1`` is that of exact at depth 1."""
        sums: dict[str, float] = {}
        positions = 0
        for ids in self._heldout:
            drafts, target = self.distributions(ids.to(self.device), share=1.0)
            positions += len(target)
            for depth, draft in enumerate(drafts, 1):
                alphas = {"exact": acceptance(draft, target)}
                for name, table in self._groups.items():
                    alphas[name] = coarse_acceptance(draft, target, table)
                for name, alpha in alphas.items():
                    sums[f"{name}_{depth}"] = sums.get(f"{name}_{depth}", 0.0) + float(alpha.sum())
        return {f"heldout_{name}": total / positions for name, total in sums.items()}


@dataclass(frozen=True, kw_only=True)
class DraftTrainer(Stage):
    """A draft stage: token sequences and a target -> a draft's folder.

    Args:
        tokens: folder of the token corpus, or of the target's own samples.
        labels: ``corpus``: the sequences of the corpus; ``self``: samples of the target (``trainer=samples``).
        target: folder of the target that it will draft for.
        target_dtype: of the target's computation.
        text: the target's text side.
        student: one of ``pcg.training.students``.
        loss: one of ``pcg.training.losses``.
        temperature: at which the draft will be used.
        depths: draft steps unrolled.
        share: of the positions of a batch, at which the loss is computed; two softmaxes over the vocabulary cost more
            than the student does.
        batch_tokens: largest number of padded tokens for a step and device.
        groups: by name, group builders over the target's input table; acceptance on each is reported.
        report_every: steps between two reports on held-out speech.
        heldout: number of held-out batches; 0 for no reports.
    """

    REPORTS: ClassVar[frozenset[str]] = frozenset({"groups", "report_every", "heldout"})  # no part of the model

    tokens: str
    labels: Literal["corpus", "self"]
    target: str
    target_dtype: Dtype
    text: Any
    student: Any
    loss: Any
    temperature: Annotated[float, ABOVE_0]
    depths: Annotated[int, FROM_1]
    share: Annotated[float, SHARE_ABOVE_0]
    batch_tokens: Annotated[int, FROM_1]
    groups: dict[str, GroupBuilder]
    report_every: Annotated[int, FROM_1]
    heldout: Annotated[int, FROM_0]

    def run(self) -> None:
        L.seed_everything(self.seed, verbose=False)
        teacher = Teacher(self.target, self.text.speech_ids, self.target_dtype, getattr(self.text, "slots", 1))
        student = self.student.make(teacher)
        size = sum(parameter.numel() for parameter in student.parameters()) / 1e6
        log.info("%s: %.1f M parameters of its own", Path(self.out).name, size)
        held = iter(Batches(self._epoch("heldout"), self.batch_tokens, 0, pad_ids) if self.heldout else ())
        groups = {name: teacher.groups(builder) for name, builder in self.groups.items()}
        heldout = [next(held) for _ in range(self.heldout)]
        module = DraftModule(student, teacher, on_groups(self.loss, teacher), self, groups, heldout)
        batches = Batches(self._epoch("train"), self.batch_tokens, self.seed + resumed_at(self.out), pad_ids)
        fit(self, module, batches, lambda: self.student.save(student, Path(self.out), teacher))

    def _epoch(self, split: str) -> Epoch:
        if self.labels == "self":
            return samples(self.tokens, split)
        phonemes = read_json(resolve_folder(self.target) / "tokens.json")["phonemes"]
        return corpus(read_tokens(self.tokens, split), phonemes, single=0.25)


def on_groups(loss: Any, teacher: Teacher) -> Loss:
    """The loss with a group table over the target's embeddings, where it has a builder of groups."""
    builder = getattr(loss, "groups", None)
    return loss if builder is None or isinstance(builder, GroupTable) else replace(loss, groups=teacher.groups(builder))
