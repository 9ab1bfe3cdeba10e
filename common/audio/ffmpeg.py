"""The sound of films, and of formats that libsndfile does not decode, through ffmpeg."""

from __future__ import annotations

import logging
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from common.audio.containers import FOREIGN_HEAD, foreign_format
from common.utils.errors import UserError

_log = logging.getLogger("common.transcribe")
_AU_HEADER = 24  # bytes: magic, offset of the sound, size, encoding, rate, channels
_AU_FLOAT = 6  # the encoding: 32-bit IEEE floats, highest byte first
_SECONDS = 10  # of a block


@dataclass(frozen=True)
class ForeignAudio:
    """The sound of a file while ffmpeg decodes it.

    Attributes:
        sample_rate: Hz.
        channels: Number of channels.
        blocks: Blocks (N, channels) float32, in order.
    """

    sample_rate: int
    channels: int
    blocks: Iterator[np.ndarray]


def foreign_kind(path: str | Path) -> str:
    """Tell a file that only ffmpeg decodes, by its first bytes.

    Args:
        path: The file.

    Returns:
        What it is, such as "an MP4 or QuickTime file"; empty: another one, or it cannot be read.
    """
    with suppress(OSError, ValueError):
        if Path(path).is_file():
            with open(path, "rb") as file:
                return foreign_format(file.read(FOREIGN_HEAD))
    return ""


def foreign_duration(path: str | Path) -> float | None:
    """Ask ffprobe for the seconds of a file; None: it does not know, or is not installed."""
    if not shutil.which("ffprobe"):
        return None
    command = ["ffprobe", "-v", "error", *_input(path), "-show_entries", "format=duration"]
    done = subprocess.run([*command, "-of", "csv=p=0"], capture_output=True, text=True, check=False)
    with suppress(ValueError):
        seconds = float(done.stdout.strip())
        return seconds if seconds > 0 else None
    return None


@contextmanager
def decode_foreign(path: str | Path, kind: str) -> Iterator[ForeignAudio]:
    """Decode the first sound track of a file with ffmpeg, block by block.

    Args:
        path: The file.
        kind: What it is, for messages.

    Yields:
        The sound.

    Raises:
        UserError: ffmpeg is not installed, the file has no sound, or it is damaged.
    """
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise UserError(
            f"audio file {path}: {kind}, which ffmpeg decodes, and ffmpeg is not installed: install"
            " it (apt install ffmpeg), or convert its sound to FLAC or WAV"
        )
    command = [ffmpeg, "-nostdin", "-v", "error", *_input(path), "-vn", "-map", "0:a:0"]
    command += ["-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages
        )
        try:
            assert process.stdout is not None
            header = process.stdout.read(_AU_HEADER)
            if len(header) < _AU_HEADER or header[:4] != b".snd":
                process.wait()
                raise _refusal(path, kind, messages)
            start, _, encoding, rate, channels = np.frombuffer(header[4:], ">u4").tolist()
            assert encoding == _AU_FLOAT
            process.stdout.read(start - _AU_HEADER)
            yield ForeignAudio(rate, channels, _blocks(process.stdout, rate, channels))
            if process.stdout.read(1) == b"":
                if process.wait():
                    raise _refusal(path, kind, messages)
                if said := _last_line(messages):
                    _log.warning("audio file %s: ffmpeg has said: %s", path, said)
        finally:
            process.kill()  # nothing, where it has ended
            process.communicate()


def _input(path: str | Path) -> list[str]:
    """Name the file so that it is nothing else, and let it name no other one."""
    return ["-protocol_whitelist", "file", "-i", f"file:{path}"]


def _blocks(pipe: IO[bytes], rate: int, channels: int) -> Iterator[np.ndarray]:
    """Yield (N, channels) samples until the pipe ends."""
    frame = 4 * channels
    while data := pipe.read(_SECONDS * rate * frame):
        whole = len(data) // frame * frame
        yield np.frombuffer(data[:whole], ">f4").astype(np.float32).reshape(-1, channels)


def _refusal(path: str | Path, kind: str, messages: IO[bytes]) -> UserError:
    """Say what ffmpeg said, in one line."""
    if "matches no streams" in _text(messages):
        return UserError(f"audio file {path}: {kind} without sound; leave it out")
    reason = _last_line(messages) or "no message"
    return UserError(
        f"audio file {path}: {kind} that ffmpeg does not decode ({reason}); fetch it again or "
        "leave it out"
    )


def _last_line(messages: IO[bytes]) -> str:
    lines = _text(messages).split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _text(messages: IO[bytes]) -> str:
    messages.seek(0)
    return messages.read().decode(errors="replace")
