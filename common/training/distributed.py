"""What the processes of one training run tell each other, beside gradients and statistics."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np

from common.training.heartbeat import Heartbeat
from common.utils.backend import Tensor, nn, ops
from common.utils.errors import UserError

MAX_VALUES = 16  # numbers of a rank in one message
MAX_TEXT_BYTES = 1000  # of a rank's text, the rest is cut off


class RemoteRankError(UserError):
    """Another rank has failed, and therefore this one ends too."""


class ProcessGroup:
    """This process's place, `rank` of `count`, and what it exchanges with the others.

    All ranks call every method but `failure_propagation` at the same place, and all get the same
    result. All messages of `all_gather` look alike, so that a rank which fails between two of them
    can say so in place of the next one; the others learn of it there instead of waiting for ever.

    Bytes travel as float32, each rank's in a row of its own of an AllReduce (MindSpore's for the
    CPU takes no integers). So numbers arrive to the last bit, and sums are taken here, in float64.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.
        heartbeat: Told whenever this process enters a collective operation.
    """

    def __init__(self, rank: int = 0, count: int = 1, heartbeat: Heartbeat | None = None):
        self.rank, self.count = rank, count
        self.heartbeat = heartbeat or Heartbeat()
        self._reduce = _AllReduce() if count > 1 else _not_needed
        self._has_failed = False

    def all_gather(self, *values: float) -> np.ndarray:
        """Exchange up to MAX_VALUES numbers of each rank.

        Args:
            values: This rank's numbers.

        Returns:
            (count, MAX_VALUES) float64, a row for each rank; 0 where a rank gave no number.

        Raises:
            RemoteRankError: Another rank has failed instead.
        """
        if self.count == 1:
            return _message(False, values)[None, 1:]
        messages = self._exchange(_message(False, values))
        if messages[:, 0].any():
            self._has_failed = True
            raise RemoteRankError("; ".join(self._all_reasons("")))
        return messages[:, 1:]

    def all_reduce_sum(self, *values: float) -> list[float]:
        """Sum numbers over all ranks.

        Args:
            values: This rank's numbers, at most MAX_VALUES.

        Returns:
            The sum of each number.

        Raises:
            RemoteRankError: Another rank has failed instead.
        """
        return self.all_gather(*values).sum(axis=0)[: len(values)].tolist()

    def any_rank(self, asked: bool) -> bool:
        """Tell whether `asked` is true on any rank."""
        return bool(self.all_reduce_sum(asked)[0])

    def all_gather_text(self, text: str) -> list[str]:
        """Exchange a text of each rank.

        Args:
            text: This rank's text; it is cut after MAX_TEXT_BYTES bytes of UTF-8.

        Returns:
            The texts by rank.

        Raises:
            RemoteRankError: Another rank has failed instead.
        """
        if self.count == 1:
            return [text]
        self.all_gather()  # another rank may be about to say that it has failed
        return self._texts(text)

    def barrier(self) -> None:
        """Tell the launcher that this rank has come to where it may wait for the others."""
        self.heartbeat.collective_entered()

    def local_world_size(self) -> int:
        """Count the ranks on this rank's host, itself among them."""
        hosts = self.all_gather_text(socket.gethostname())
        return hosts.count(hosts[self.rank])

    @contextmanager
    def failure_propagation(self) -> Iterator[None]:
        """Have a UserError that leaves this context end the other ranks too.

        They raise RemoteRankError, which names the rank and its message. All ranks leave together,
        so that no launcher ends one that still writes its checkpoint.
        """
        try:
            yield
        except UserError as error:
            if self.count > 1:
                with suppress(RuntimeError):  # the others are gone
                    if not self._has_failed:
                        self._exchange(_message(True))
                        self._all_reasons(str(error))
                    self._exchange(_message(True))
            raise

    def _all_reasons(self, text: str) -> list[str]:
        reasons = self._texts(text)
        return [f"rank {rank} ended: {line}" for rank, line in enumerate(reasons) if line]

    def _texts(self, text: str) -> list[str]:
        row = np.zeros(MAX_TEXT_BYTES, np.uint8)
        encoded = text.encode()[:MAX_TEXT_BYTES]
        row[: len(encoded)] = np.frombuffer(encoded, np.uint8)
        rows = self._all_bytes(row)
        return [line.tobytes().rstrip(b"\0").decode(errors="ignore") for line in rows]

    def _exchange(self, message: np.ndarray) -> np.ndarray:
        rows = self._all_bytes(message.view(np.uint8))
        return np.ascontiguousarray(rows).view(np.float64)

    def _all_bytes(self, row: np.ndarray) -> np.ndarray:
        """(N,) uint8 of this rank -> (count, N) of all."""
        rows = np.zeros((self.count, len(row)), np.float32)
        rows[self.rank] = row
        self.barrier()
        return self._reduce(Tensor(rows)).asnumpy().astype(np.uint8)


def _message(failed: bool, values: Sequence[float] = ()) -> np.ndarray:
    message = np.zeros(1 + MAX_VALUES)
    message[0] = failed
    message[1 : 1 + len(values)] = values
    return message


def _not_needed(rows: Tensor) -> Tensor:
    """One process has all rows."""
    return rows


class _AllReduce(nn.Cell):
    def __init__(self):
        super().__init__()
        self.reduce = ops.AllReduce()

    def construct(self, rows):
        return self.reduce(rows)
