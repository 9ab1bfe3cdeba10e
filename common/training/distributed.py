"""What the processes of one training run tell each other, beside gradients and statistics."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np

from common.training.heartbeat import Heartbeat
from common.utils.backend import Tensor, nn, ops
from common.utils.errors import UserError

NUMBERS = 16  # that an agreement has room for
LETTERS = 1000  # bytes of what a rank says, the rest is cut off


class RemoteRankError(UserError):
    """What has ended another rank, and therefore this one."""


class ProcessGroup:
    """This process's place, `rank` of `count`, and what it agrees on with the others.

    Every method but `failure_propagation` is called by all ranks at the same place, and gives all
    the same. All messages of `all_gather` look alike, so that a rank which fails between two of
    them can say so in place of the next: the others learn of it there, instead of waiting for ever.

    Bytes travel as float32, each rank's in a row of its own of an AllReduce (MindSpore's for the
    CPU takes no integers): so numbers arrive to the last bit, and sums are taken here, in float64.
    """

    def __init__(self, rank: int = 0, count: int = 1, heartbeat: Heartbeat | None = None):
        self.rank, self.count = rank, count
        self.heartbeat = heartbeat or Heartbeat()
        self._reduce = _AllReduce() if count > 1 else _not_needed
        self._ended = False

    def all_gather(self, *values: float) -> np.ndarray:
        """Up to NUMBERS numbers of this rank -> (count, NUMBERS) float64 of all, 0 where not given.

        Raises RemoteRankError where another rank has failed instead.
        """
        if self.count == 1:
            return _message(False, values)[None, 1:]
        found = self._exchange(_message(False, values))
        if found[:, 0].any():
            self._ended = True
            raise RemoteRankError("; ".join(self._all_say("")))
        return found[:, 1:]

    def all_reduce_sum(self, *values: float) -> list[float]:
        """Numbers of this rank, each summed over all ranks."""
        return self.all_gather(*values).sum(axis=0)[: len(values)].tolist()

    def any_rank(self, asked: bool) -> bool:
        """Whether something is asked of any rank."""
        return bool(self.all_reduce_sum(asked)[0])

    def all_gather_text(self, text: str) -> list[str]:
        """What each rank says, of at most LETTERS bytes."""
        if self.count == 1:
            return [text]
        self.all_gather()  # another rank may be about to say that it has failed
        return self._texts(text)

    def barrier(self) -> None:
        """Tells the launcher that this rank has come to where it may wait for the others."""
        self.heartbeat.collective_entered()

    def local_world_size(self) -> int:
        """The ranks on this rank's host, itself among them."""
        hosts = self.all_gather_text(socket.gethostname())
        return hosts.count(hosts[self.rank])

    @contextmanager
    def failure_propagation(self) -> Iterator[None]:
        """A UserError that leaves ends the other ranks too, with a line that says whose it was;
        all leave together, so that no launcher ends one that still writes its checkpoint."""
        try:
            yield
        except UserError as error:
            if self.count > 1:
                with suppress(RuntimeError):  # the others are gone
                    if not self._ended:
                        self._exchange(_message(True))
                        self._all_say(str(error))
                    self._exchange(_message(True))
            raise

    def _all_say(self, text: str) -> list[str]:
        said = self._texts(text)
        return [f"rank {rank} ended: {line}" for rank, line in enumerate(said) if line]

    def _texts(self, text: str) -> list[str]:
        said = np.zeros(LETTERS, np.uint8)
        encoded = text.encode()[:LETTERS]
        said[: len(encoded)] = np.frombuffer(encoded, np.uint8)
        rows = self._all_bytes(said)
        return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]

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
    message = np.zeros(1 + NUMBERS)
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
