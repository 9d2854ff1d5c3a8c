"""Trains the bundled codec: first to reconstruct log-mel frames, then against an adversary that reduces blur."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from pcg.codecs.bundled import CodecNet, save_codec
from pcg.codecs.fsq import perplexity
from pcg.codecs.mel import MelSpectrogram
from pcg.constraints import FROM_1, Constraint
from pcg.training.fit import Stage, fit, resumed_at, schedule
from pcg.training.shards import audio_rows, shards

log = logging.getLogger(__name__)


class MelCrops(IterableDataset):
    """Endless batches of random crops from concatenated mel frames.

    Args:
        frames: in float16, to save memory.
        crop: frames in a crop.
        batch: crops in a batch.
    """

    def __init__(self, frames: Float[Tensor, "frames bands"], crop: int, batch: int, seed: int) -> None:
        self.frames, self.crop, self.batch, self.seed = frames, crop, batch, seed

    def __iter__(self) -> Iterator[Float[Tensor, "batch bands crop"]]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            starts = torch.randint(len(self.frames) - self.crop, (self.batch,), generator=generator)
            yield self.frames[starts[:, None] + torch.arange(self.crop)].float().transpose(1, 2)


class MelCritic(nn.Module):
    """A patch discriminator that takes a mel spectrogram as an image; returns the features of every layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [1, width, 2 * width, 4 * width, 4 * width]
        strides = [(2, 1), (2, 2), (2, 2), (2, 1)]
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(i, o, (5, 3), s, padding=(2, 1)))
            for (i, o), s in zip(pairwise(sizes), strides, strict=True)
        )
        self.head = nn.utils.parametrizations.weight_norm(nn.Conv2d(sizes[-1], 1, 3, padding=1))

    def forward(self, mel: Float[Tensor, "batch bands frames"]) -> list[Tensor]:
        x, features = mel.unsqueeze(1).to(memory_format=torch.channels_last), []
        for layer in self.layers:
            x = nn.functional.leaky_relu(layer(x), 0.1)
            features.append(x)
        return [*features, self.head(x)]


class CodecModule(L.LightningModule):
    """Minimises L1 on log-mel frames. From step ``critic_after`` on the encoder is fixed, so that language models can
    already be trained on its tokens, and the decoder trains against a least-squares adversary with feature matching.

    The gradients of L1 and of the adversary at the decoded mel have a fixed ratio of norms (``critic_share``) at every
    step, so that no loss weight has to be tuned.
    """

    trained: Tensor  # steps done; saved, so that a resumed run keeps its schedule

    def __init__(
        self, net: CodecNet, steps: int, learning_rate: float, critic_width: int, critic_after: int, critic_share: float
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net, self.critic = net, MelCritic(critic_width)
        self.steps, self.rate = steps, learning_rate
        self.critic_after, self.critic_share = critic_after, critic_share
        self.register_buffer("trained", torch.zeros((), dtype=torch.int64))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        made = torch.optim.AdamW(self.net.parameters(), self.rate, betas=(0.8, 0.98), weight_decay=1e-3)
        judged = torch.optim.AdamW(self.critic.parameters(), self.rate, betas=(0.5, 0.9))
        return [made, judged]

    def training_step(self, mel: Float[Tensor, "batch bands frames"], index: int) -> None:
        make, judge = self.optimizers()  # type: ignore[attr-defined]
        step, settled = int(self.trained), self.trained >= self.critic_after
        done, of = (step - self.critic_after, self.steps - self.critic_after) if settled else (step, self.critic_after)
        for optimizer in (make, judge):
            optimizer.param_groups[0]["lr"] = self.rate * schedule(done, of)
        self.net.whiten.train(not settled)
        with torch.set_grad_enabled(not settled):
            values, tokens = self.net.quantise(mel)
        decoded = self.net.synthesise(values).float()
        l1 = nn.functional.l1_loss(decoded, mel)
        (pull,) = torch.autograd.grad(l1, decoded, retain_graph=True)
        if settled:
            adversary = self._judge(mel, decoded, judge)
            pull = pull + self.critic_share * adversary * pull.norm() / adversary.norm().clamp_min(1e-12)
        make.zero_grad()
        decoded.backward(pull)
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        make.step()
        self.trained += 1
        if self.trained % 50 == 0:
            histogram = torch.bincount(tokens.flatten(), minlength=self.net.fsq.size)
            self.log_dict({"mel_l1": l1.detach() * 4, "perplexity": perplexity(histogram)}, prog_bar=True)

    def _judge(self, mel: Tensor, decoded: Tensor, judge: Any) -> Tensor:
        """Trains the critic for one step; returns the gradient at ``decoded`` of fooling it and of its features."""
        real, fake = self.critic(mel), self.critic(decoded.detach())
        loss = ((real[-1] - 1) ** 2).mean() + (fake[-1] ** 2).mean()
        judge.zero_grad()
        self.manual_backward(loss)
        judge.step()
        leaf = decoded.detach().requires_grad_()
        fake = self.critic(leaf)
        match = sum(
            ((f - r.detach()).abs().mean() / r.detach().abs().mean()) for f, r in zip(fake[:-1], real[:-1], strict=True)
        )
        fooled = ((fake[-1] - 1) ** 2).mean() + match
        (pull,) = torch.autograd.grad(fooled, leaf)
        return pull.detach()


@dataclass(frozen=True, kw_only=True)
class CodecTrainer(Stage):
    """The codec stage: corpus shards -> a codec folder.

    Args:
        corpus: folder of the corpus.
        shards: number of training shards to use.
        mel: arguments of MelSpectrogram.
        net: arguments of CodecNet, less ``bands``.
        critic: ``critic_width``, ``critic_after`` and ``critic_share`` of CodecModule.
        batch, crop: crops a step; frames a crop.
        devices: 1: its losses meet at the decoded mel, around what Lightning averages over devices.
    """

    corpus: str
    shards: Annotated[int, FROM_1]
    mel: dict[str, int]
    net: dict[str, Any]
    critic: dict[str, Any]
    batch: Annotated[int, FROM_1]
    crop: Annotated[int, FROM_1]
    devices: Annotated[int, Constraint(lambda count: count == 1, "1: the codec trains on one device")] = 1

    def run(self) -> None:
        L.seed_everything(self.seed, verbose=False)
        net = CodecNet(bands=self.mel["bands"], **self.net)
        module = CodecModule(net, self.steps, self.learning_rate, **self.critic)
        crops = MelCrops(self._frames(), self.crop, self.batch, self.seed + resumed_at(self.out))
        save = lambda: save_codec(Path(self.out), net, self.mel, self.net)  # noqa: E731
        fit(self, module, crops, save, optimizer_steps=2 * self.steps - self.critic["critic_after"])

    def _frames(self) -> Float[Tensor, "frames bands"]:
        """Mel frames of the shards, in float16."""
        mel = MelSpectrogram(**self.mel)
        chosen = shards(self.corpus, "train")[: self.shards]
        log.info("codec: mel frames of %d shards", len(chosen))
        rows = (row for shard in chosen for row in audio_rows(shard))
        return torch.cat([mel(row["samples"][None])[0].T.half() for row in rows])
