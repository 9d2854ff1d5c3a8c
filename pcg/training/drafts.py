"""Trains a draft for the acceptance of its proposals: on the target's own distributions, at the temperature of use.

Two students: a Llama of its own (``pcg.training.speech``), and one that reads the target's states
(``pcg.training.eagle``), whose draft steps are unrolled and weighed .8^n (LK losses, arXiv 2602.23881). The target runs
beside the student and is not trained. What is reported is what is trained for: held-out alpha, exact and on groups, by
depth.
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
from torch.utils.data import DataLoader

from pcg.constraints import ABOVE_0, FROM_0, FROM_1, SHARE_ABOVE_0
from pcg.groups.table import GroupBuilder, GroupTable
from pcg.models.checkpoint import Dtype, read_json, resolve_folder
from pcg.tracking.training import Mode
from pcg.training.eagle import View
from pcg.training.fit import fit, resumed_at
from pcg.training.losses.alpha import acceptance, coarse_acceptance
from pcg.training.schedule import optimizers, schedule
from pcg.training.sequences import Batches, Epoch, corpus, pad_ids, read_tokens, samples
from pcg.training.teacher import Teacher

log = logging.getLogger(__name__)
DECAY = 0.8  # weight of a depth over that of the one before
SPARSE = 0.5  # of the loss with a budget beside that with the whole cache

Loss = Callable[[Float[Tensor, "positions vocab"], Float[Tensor, "positions vocab"]], Float[Tensor, ""]]


class Student(Protocol):
    """A draft as it is trained; an ``nn.Module``."""

    def states(self, ids: Int[Tensor, "batch length"], teacher: Teacher, depths: int) -> list[Tensor]:
        """By depth, a state for each position: what comes before ``logits``."""

    def logits(
        self, states: Float[Tensor, "positions width"], teacher: Teacher
    ) -> Float[Tensor, "positions vocab"]: ...

    def matrices(self) -> list[nn.Parameter]:
        """What Muon trains."""


class DraftModule(L.LightningModule):
    """One student, one loss.

    Args:
        temperature: of both distributions; the draft's use.
        depths: draft steps unrolled; 1 for a student without the target's states.
        share: of the positions of a batch that the loss is taken at: two softmaxes over the vocabulary cost more than
            the student does.
        groups: tables by name; held-out acceptance on each is reported.
        heldout: batches that are not trained on.
    """

    trained: Tensor

    def __init__(
        self,
        student: Any,
        teacher: Teacher,
        loss: Loss,
        *,
        temperature: float,
        depths: int,
        share: float,
        steps: int,
        learning_rate: float,
        groups: Mapping[str, GroupTable],
        heldout: Sequence[Tensor],
        report_every: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.student = student
        self._teacher = [teacher]  # in a list, for it is neither trained nor saved
        self._loss, self._groups, self._heldout = loss, groups, heldout
        self.temperature, self.depths, self.share = temperature, depths, share
        self.steps, self.rate, self.report_every = steps, learning_rate, report_every
        self.register_buffer("trained", torch.zeros((), dtype=torch.int64))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        matrices = self.student.matrices()
        chosen = {id(matrix) for matrix in matrices}
        return optimizers(matrices, [p for p in self.student.parameters() if id(p) not in chosen], self.rate)

    def _asked(
        self, ids: Int[Tensor, "batch length"], share: float, view: View | None = None
    ) -> tuple[list[Float[Tensor, "positions vocab"]], Float[Tensor, "positions vocab"]]:
        """Draft log-probabilities by depth, and the target's probabilities, at a share of the spoken positions.

        ``view``: of a draft with a budget, after its prompt, in a batch that the target has just been asked for whole.
        """
        [teacher] = self._teacher
        if view is None:
            teacher.read(ids)
        spoken = teacher.spoken(ids)
        if view is not None:
            spoken = spoken & (torch.arange(spoken.shape[1], device=ids.device) >= view.cut)
        if share < 1:
            spoken = spoken & (torch.rand(spoken.shape, device=ids.device) < share)
        with torch.no_grad():
            target = (teacher.logits(teacher.hidden[-1][:, :-1][spoken]) / self.temperature).softmax(-1)
        states = self.student.states(ids, teacher, self.depths, *([] if view is None else [view]))
        logits = [self.student.logits(state[:, :-1][spoken], teacher) for state in states]
        return [(each / self.temperature).log_softmax(-1) for each in logits], target

    def training_step(self, ids: Int[Tensor, "batch length"], index: int) -> None:
        step = int(self.trained)
        both: Any = self.optimizers()
        for optimizer in both:
            optimizer.param_groups[0]["lr"] = self.rate * schedule(step, self.steps)
            optimizer.zero_grad()
        drafts, target = self._asked(ids, self.share)
        loss, first = self._weighed(drafts, target)
        view = self._view(ids.shape[1])
        if view is not None:
            loss = loss + SPARSE * self._weighed(*self._asked(ids, self.share, view))[0]
        self.manual_backward(loss)
        nn.utils.clip_grad_norm_(self.student.parameters(), 0.5)
        for optimizer in both:
            optimizer.step()
        self.trained += 1
        if self.trained % 50 == 0:
            with torch.no_grad():
                alphas = {f"alpha_{n}": acceptance(draft, target).mean() for n, draft in enumerate(drafts, 1)}
            self.log_dict({"loss": first.detach(), **alphas})
        if self._heldout and self.trained % self.report_every == 0:
            self.log_dict(self.held_out())

    def _weighed(self, drafts: Sequence[Tensor], target: Tensor) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The loss over all depths, and that of the first."""
        weights = [DECAY**depth for depth in range(len(drafts))]
        losses = [self._loss(draft, target) for draft in drafts]
        return torch.stack(losses) @ losses[0].new_tensor(weights) / sum(weights), losses[0]

    def _view(self, length: int) -> View | None:
        """What a draft with one of the student's budgets sees after a prompt of a quarter to three quarters of the
        batch, small budgets more often (.4, .3, .2, .1 of four, as in BudgetDraft); None without budgets."""
        budgets = sorted(getattr(self.student, "budgets", ()))
        if not budgets:
            return None
        often = torch.arange(len(budgets), 0, -1.0)
        return View(int(torch.randint(length // 4, 3 * length // 4 + 1, ())), budgets[int(often.multinomial(1))])

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Expected acceptance on speech that was not trained on: ``exact_1`` is exact at depth 1, and so on."""
        sums: dict[str, float] = {}
        positions = 0
        for ids in self._heldout:
            drafts, target = self._asked(ids.to(self.device), 1.0)
            positions += len(target)
            for depth, draft in enumerate(drafts, 1):
                found = {"exact": acceptance(draft, target)}
                for name, table in self._groups.items():
                    found[name] = coarse_acceptance(draft, target, table)
                for name, alpha in found.items():
                    sums[f"{name}_{depth}"] = sums.get(f"{name}_{depth}", 0.0) + float(alpha.sum())
        return {f"heldout_{name}": total / positions for name, total in sums.items()}


@dataclass(frozen=True)
class DraftTrainer:
    """A draft stage: token sequences and a target -> a draft's folder.

    Args:
        tokens: folder of the token corpus, or of the target's own samples.
        labels: ``corpus``: the sequences of the corpus; ``self``: what the target said itself (``trainer=samples``).
        out: draft folder to write; its checkpoint lies beside it and is resumed from.
        target: folder of the target that it will draft for.
        target_dtype: in which the target runs.
        text: the target's text side, which knows its speech ids.
        student: ``make(teacher) -> Student`` and ``save``: one of ``pcg.training.students``.
        loss: one of ``pcg.training.losses``.
        temperature: at which the draft will be used.
        depths: draft steps unrolled.
        share: of the positions of a batch that the loss is taken at.
        batch_tokens: most padded tokens a step and device.
        groups: by name, group builders over the target's input table on which acceptance is reported.
        report_every: steps between two reports on held-out speech; ``heldout``: its batches, 0 for no reports.
        wandb: figures while training to W&B: ``disabled``, ``offline`` or ``online``.
        devices: how many train together.
    """

    REPORTS: ClassVar[frozenset[str]] = frozenset({"groups", "report_every", "heldout"})  # what is learnt is the same

    tokens: str
    labels: Literal["corpus", "self"]
    out: str
    target: str
    target_dtype: Dtype
    text: Any
    student: Any
    loss: Any
    temperature: Annotated[float, ABOVE_0]
    depths: Annotated[int, FROM_1]
    share: Annotated[float, SHARE_ABOVE_0]
    steps: Annotated[int, FROM_1]
    batch_tokens: Annotated[int, FROM_1]
    learning_rate: Annotated[float, ABOVE_0]
    groups: dict[str, GroupBuilder]
    report_every: Annotated[int, FROM_1]
    heldout: Annotated[int, FROM_0]
    seed: int
    accelerator: str
    precision: str
    checkpoint_every: Annotated[int, FROM_1]
    wandb: Mode = "disabled"
    devices: Annotated[int, FROM_1] = 1

    def run(self) -> None:
        L.seed_everything(self.seed, verbose=False)
        teacher = Teacher(self.target, self.text.speech_ids, self.target_dtype, getattr(self.text, "slots", 1))
        student = self.student.make(teacher)
        size = sum(parameter.numel() for parameter in student.parameters()) / 1e6
        log.info("%s: %.1f M parameters of its own", Path(self.out).name, size)
        held = iter(Batches(self._epoch("heldout"), self.batch_tokens, 0, pad_ids) if self.heldout else ())
        module = DraftModule(
            student,
            teacher,
            on_groups(self.loss, teacher),
            temperature=self.temperature,
            depths=self.depths,
            share=self.share,
            steps=self.steps,
            learning_rate=self.learning_rate,
            groups={name: teacher.groups(builder) for name, builder in self.groups.items()},
            heldout=[next(held) for _ in range(self.heldout)],
            report_every=self.report_every,
        )
        data = Batches(self._epoch("train"), self.batch_tokens, self.seed + resumed_at(self.out), pad_ids)
        fit(
            self,
            module,
            DataLoader(data, batch_size=None),
            2 * self.steps,
            lambda: self.student.save(student, Path(self.out), teacher),
        )

    def _epoch(self, split: str) -> Epoch:
        if self.labels == "self":
            return samples(self.tokens, split)
        phonemes = read_json(resolve_folder(self.target) / "tokens.json")["phonemes"]
        return corpus(read_tokens(self.tokens, split), phonemes, single=0.25)


def on_groups(loss: Any, teacher: Teacher) -> Loss:
    """A loss whose groups are given by their builder gets the table over the target's embeddings."""
    builder = getattr(loss, "groups", None)
    return loss if builder is None or isinstance(builder, GroupTable) else replace(loss, groups=teacher.groups(builder))
