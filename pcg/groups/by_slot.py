"""Groups for models that say several tokens a frame, each slot with codes of its own (Orpheus: 7 times 4,096).

Token t belongs to slot ``t // codes``. Tokens of two slots are never grouped: they refine the sound at different depths
or moments. So the table is block-diagonal, and no similarity between two slots is computed.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from pcg.groups.table import GroupBuilder, GroupTable


@dataclass(frozen=True)
class BySlot:
    """Groups of ``builder`` within each slot; end-of-speech, the token after the last slot, is a singleton.

    Attributes:
        builder: builds the groups of one slot; its counts (``k``, ``clusters``) are per slot.
        slots: how many slots a frame has.
    """

    builder: GroupBuilder
    slots: int

    def build(self, embeddings: Float[Tensor, "vocab dim"], groupable: Bool[Tensor, "vocab"] | None) -> GroupTable:
        """
        Raises:
            ValueError: the number of tokens without end-of-speech is no multiple of ``slots``, or as the builder.
        """
        vocab = len(embeddings)
        codes, rest = divmod(vocab - 1, self.slots)
        if rest:
            raise ValueError(f"groups by slot: {vocab - 1} tokens are not a multiple of {self.slots} slots")
        tables = []
        for start in range(0, vocab - 1, codes):
            of_slot = slice(start, start + codes)
            tables.append(self.builder.build(embeddings[of_slot], None if groupable is None else groupable[of_slot]))
        return GroupTable.side_by_side([*tables, GroupTable.from_members([[0]], 1)])
