"""Pickling that both sides share: plain pickle where it suffices, cloudpickle where it does not, exceptions with their traceback.

cloudpickle and tblib are imported on first need, so that ``import pywren`` loads neither.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass


@dataclass(frozen=True)
class Packed:
    """One pickled object.

    Args:
        data: the pickle. With ``buffers`` it can be read only together with them (PEP 574).
        buffers: the out-of-band buffers, in order; still views of the owner's memory.
    """

    data: bytes
    buffers: tuple[pickle.PickleBuffer, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of the pickle and of the buffers together."""
        return len(self.data) + sum(buffer.raw().nbytes for buffer in self.buffers)
