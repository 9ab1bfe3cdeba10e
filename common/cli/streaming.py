"""The command transcribe.py --stream: text of a recording while it is made."""

from __future__ import annotations

import argparse
import json
import queue
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from common.audio.raw_stream import RATE, RawStream
from common.cli.options import (
    add_eval_config,
    add_model,
    command,
    load_acoustic_model,
    model_path,
    override,
)
from common.model.recipe import Recipe
from common.utils.errors import UserError
from common.utils.packages import package

if TYPE_CHECKING:
    from common.api.streaming import OnlineModel, Segment, StreamingRecognizer
    from common.audio.normalisation import Normalisation

_STDIN = "standard input"
_DEFAULT_MICROPHONE = ""


def stream(recipe: Recipe, argv: Sequence[str]) -> int:
    """Run transcribe.py --stream.

    Args:
        recipe: The model.
        argv: Its options.

    Returns:
        The exit code.
    """
    arguments = _parser(recipe).parse_args(argv)
    config = recipe.eval_config()
    override(config, arguments, recipe)
    for option, value in (("--rate", arguments.rate), ("--channels", arguments.channels)):
        if value < 0:
            raise UserError(f"{option} {value}: expected at least 1")

    from common.api.streaming import StreamingRecognizer

    model, normalisation = _model(recipe, arguments)
    recognizer = StreamingRecognizer(
        model,
        config.LMConfig,
        pause=arguments.pause,
        chunk_seconds=arguments.chunk,
        normalisation=normalisation,
    )
    lines = _Lines(arguments.format, sys.stdout.isatty())
    if arguments.microphone is None:
        pipe: Any = sys.stdin.buffer
        source = RawStream(pipe, arguments.rate, arguments.channels, _STDIN)
        _recognise(recognizer, source, source.rate, lines, arguments.ahead)
        return 0
    try:
        pieces = _microphone(arguments.microphone, model.sample_rate)
        _recognise(recognizer, pieces, model.sample_rate, lines, arguments.ahead)
    except KeyboardInterrupt:  # ends a recording
        pass
    return 0


def _model(
    recipe: Recipe, arguments: argparse.Namespace
) -> tuple[OnlineModel, Normalisation | None]:
    """Load the network, and what normalises its features; None: as it comes."""
    from common.audio.io import load_audio
    from common.export.streaming_session import StreamingModel
    from common.export.streaming_windows import WindowedModel

    if arguments.context is not None:
        if arguments.statistics_of:
            raise UserError("--statistics_of with --context: windows are normalised by themselves")
        path = model_path(arguments, recipe)
        return WindowedModel(load_acoustic_model(arguments, recipe, path), arguments.context), None
    if not arguments.pretrain_ckpt:
        raise UserError(
            "--stream: no network for streams ships; make one: export.py --file_format ONNX "
            "--streaming --pre_trained_model_path CKPT, and give it as --pretrain_ckpt; or give "
            "--context SECONDS, with which networks for whole recordings take windows"
        )
    model = StreamingModel.load(recipe, arguments.pretrain_ckpt)
    if not arguments.statistics_of:
        return model, None
    samples = load_audio(arguments.statistics_of, model.sample_rate)
    return model, model.normalisation_of(samples)


def _parser(recipe: Recipe) -> argparse.ArgumentParser:
    from common.api.streaming import PAUSE_SECONDS
    from common.export.streaming import CHUNK_SECONDS

    parser = command(
        prog="transcribe.py --stream",
        description="Print text while a recording comes through standard input (raw samples of 16 "
        "bits, or a WAV file of them) or the microphone. On a terminal, a line is written anew "
        "until a pause ends it; else lines are marked partial or final.",
    )
    parser.add_argument("--stream", action="store_true", help="this command")
    add_model(parser, recipe)
    parser.add_argument("--rate", type=int, default=0, help=f"Hz of raw samples [{RATE}]")
    parser.add_argument(
        "--channels", type=int, default=0, help="of raw samples, which are averaged [1]"
    )
    parser.add_argument(
        "--microphone",
        nargs="?",
        const=_DEFAULT_MICROPHONE,
        metavar="DEVICE",
        help="take the microphone in place of standard input, until Ctrl-C",
    )
    parser.add_argument(
        "--format", choices=("txt", "json"), default="txt", help="json: an object a line [txt]"
    )
    parser.add_argument(
        "--pause",
        type=float,
        default=PAUSE_SECONDS,
        metavar="SECONDS",
        help=f"without a letter, after which a text is final [{PAUSE_SECONDS}]",
    )
    parser.add_argument(
        "--chunk",
        type=float,
        default=CHUNK_SECONDS,
        metavar="SECONDS",
        help=f"of audio that the network takes at a time [{CHUNK_SECONDS}]",
    )
    parser.add_argument(
        "--context",
        type=float,
        metavar="SECONDS",
        help="take windows of a chunk and so much audio on either side, with any network for whole "
        "recordings, also a bidirectional one; not the same as a whole recording",
    )
    parser.add_argument(
        "--ahead",
        action="store_true",
        help="partial texts also of the last moments, whose end the network has not heard yet",
    )
    parser.add_argument(
        "--statistics_of",
        metavar="FILE",
        help="a recording of the same speaker and microphone, whose mean and deviation normalise "
        "the features; none given: the last seconds of the stream",
    )
    add_eval_config(parser)
    return parser


def _recognise(
    recognizer: StreamingRecognizer,
    pieces: Iterator[np.ndarray] | RawStream,
    rate: int,
    lines: _Lines,
    ahead: bool,
) -> None:
    """Print what is recognised; the end too, where the pieces end in an error or in Ctrl-C."""
    try:
        for samples in pieces:
            for segment in recognizer.accept(samples, rate):
                lines.final(segment)
            lines.partial(recognizer.result(ahead))
    finally:
        for segment in recognizer.finish():
            lines.final(segment)
        lines.close()


class _Lines:
    """Prints texts: on a terminal a line that is written anew, else lines with a mark."""

    def __init__(self, form: str, terminal: bool):
        self._json, self._terminal = form == "json", terminal and form != "json"
        self._shown = ""

    def partial(self, text: str) -> None:
        """Print a text that may change, where it has changed."""
        if text == self._shown:
            return
        self._shown = text
        if self._terminal:
            room = shutil.get_terminal_size().columns - 1
            shown = text if len(text) <= room else "..." + text[-(room - 3) :]
            print(f"\r\x1b[K{shown}", end="", flush=True)
        else:
            self._line("partial", {"text": text}, text)

    def final(self, segment: Segment) -> None:
        """Print a text that stays."""
        self._shown = ""
        if self._terminal:
            print(f"\r\x1b[K{segment.text}", flush=True)
        else:
            self._line("final", asdict(segment), segment.text)

    def close(self) -> None:
        """Leave the line of the terminal."""
        if self._terminal and self._shown:
            print("\r\x1b[K", end="", flush=True)

    def _line(self, mark: str, content: dict[str, Any], text: str) -> None:
        if self._json:
            print(json.dumps({"type": mark, **content}, ensure_ascii=False), flush=True)
        else:
            print(f"{mark}\t{text}", flush=True)


def _microphone(device: str, rate: int) -> Iterator[np.ndarray]:
    """Yield what the microphone hears (N,), until Ctrl-C."""
    try:
        sounddevice = package("sounddevice", "hears the microphone")
    except OSError as error:  # the package is there, and the library PortAudio is not
        raise UserError(
            f"--microphone: {error}: install PortAudio (sudo apt-get install libportaudio2)"
        ) from None
    heard: queue.Queue[np.ndarray] = queue.Queue()

    def take(samples: np.ndarray, *_: Any) -> None:
        heard.put(samples[:, 0].copy())

    number = int(device) if device.isdecimal() else device or None
    try:
        with sounddevice.InputStream(rate, device=number, channels=1, callback=take):
            print("listening; Ctrl-C ends", file=sys.stderr)
            while True:
                yield heard.get()
    except sounddevice.PortAudioError as error:
        raise UserError(
            f"--microphone {device}: cannot be opened at {rate} Hz ({error}); "
            "python -m sounddevice lists the devices"
        ) from None
    except ValueError as error:  # of the name of the device
        raise UserError(f"--microphone {device}: {error}") from None
