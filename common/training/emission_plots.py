"""Plots of a network's emissions: a heat map under the features, between title and texts.

A plot is stacked from pieces: arrays (height, width) uint8 of indices into one palette, which a GIF
and a PNG take as they are. Lengths are in pixels.
"""

from __future__ import annotations

import functools
import io
import struct
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.text.tokenizer import BLANK

WIDTH, HEIGHT, STRIP = 640, 264, 72  # about those of a heat map; the height of the features
LEFT, RIGHT = 46, 14  # beside the heat map
SMALL, LARGE, LINE = 10, 14, 18  # letters at the axes, of texts; from line to line of these
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)  # seconds from one to the next

COLOURS = 192  # of the palette, from improbable to certain; then greys, from black to white
GREYS = 255 - COLOURS
UNCHANGED = 255  # in the palette: as in the picture before


class EmissionFrame(NamedTuple):
    """What one evaluation adds to a plot."""

    title: str
    probabilities: np.ndarray  # (R, T') of the labels that have a row
    text: str  # what they decode to


class EmissionPlotter:
    """Draws emission frames of one utterance.

    The letters are DejaVu's, which comes with matplotlib, or of the first installed font that has
    them all; without one, boxes stand for those that DejaVu lacks.

    Args:
        names: R labels, from the top.
        frames: Number T' of the network's output frames.
        seconds: Duration of the utterance.
        features: (F, T) what the network reads, low frequencies first.
        reference: Transcript of the utterance.
    """

    def __init__(
        self,
        names: Sequence[str],
        frames: int,
        seconds: float,
        features: np.ndarray,
        reference: str,
    ):
        self.names, self.seconds, self.features = names, seconds, features
        self.scale = max(1, round(WIDTH / frames))  # to an output frame
        self.inner = frames * self.scale
        self.width = LEFT + self.inner + RIGHT
        self.row = int(np.clip(HEIGHT // len(names), SMALL, 24))
        self._file = _font_file(set("".join([*reference, *names])))
        lines = self._lines(f"Ref: {reference}", None)
        self.reference, self.room = self._text(lines, len(lines)), len(lines)

    def picture(self, shots: Sequence[EmissionFrame]) -> np.ndarray:
        """Draw one frame, or several under one another.

        Args:
            shots: The frames.

        Returns:
            (height, width) uint8 indices into `palette`.
        """
        pieces = []
        for shot in shots:
            pieces.append(self._text(self._lines(shot.title, 1), 1))
            if len(pieces) == 1:
                pieces.append(self._strip)
            heard = self._lines(f"Hyp: {shot.text or '(nothing)'}", self.room)
            pieces += [self._heat_map(shot.probabilities), self._text(heard, self.room)]
        return np.vstack([*pieces, self.reference])

    def _heat_map(self, probabilities: np.ndarray) -> np.ndarray:
        colours = (probabilities * (COLOURS - 1)).round().astype(np.uint8)
        piece = self._axes.copy()
        piece[: len(colours) * self.row, LEFT:-RIGHT] = colours.repeat(self.row, 0).repeat(
            self.scale, 1
        )
        return piece

    @functools.cached_property
    def _strip(self) -> np.ndarray:
        piece = np.full((STRIP + 4, self.width), _grey(1.0), np.uint8)
        down = np.linspace(len(self.features), 0, STRIP, endpoint=False).astype(int) - 1
        across = np.linspace(0, self.features.shape[1], self.inner, endpoint=False).astype(int)
        features = self.features[down][:, across]  # of mean 0 and deviation 1
        piece[:STRIP, LEFT:-RIGHT] = _grey(np.clip((2.5 - features) / 4, 0, 1))
        return piece

    @functools.cached_property
    def _axes(self) -> np.ndarray:
        """Draw labels beside the rows, and seconds below them."""
        from PIL import Image, ImageDraw

        bottom = self.row * len(self.names)
        sheet = Image.new("L", (self.width, bottom + SMALL + 10), 255)
        draw, font = ImageDraw.Draw(sheet), self._font(SMALL)
        for number, name in enumerate(self.names):
            shown = {BLANK: "blank", " ": "space"}.get(name, name)
            draw.text((LEFT - 5, (number + 0.5) * self.row), shown, 60, font, "rm")
        step = next((step for step in TICKS if self.seconds <= 8 * step), self.seconds)
        for tick in range(int(self.seconds / step) + 1):
            x = LEFT + round(tick * step / self.seconds * self.inner)
            draw.line([(x, bottom), (x, bottom + 3)], 60)
            draw.text((x, bottom + 5), f"{tick * step:g} s", 60, font, "mt")
        return _grey(np.asarray(sheet) / 255)

    def _text(self, lines: Sequence[str], room: int) -> np.ndarray:
        """Lines, with room for so many."""
        from PIL import Image, ImageDraw

        sheet = Image.new("L", (self.width, room * LINE + 6), 255)
        for number, line in enumerate(lines):
            ImageDraw.Draw(sheet).text((8, 3 + number * LINE), line, 0, self._font(LARGE))
        return _grey(np.asarray(sheet) / 255)

    def _lines(self, text: str, most: int | None) -> list[str]:
        widest = max(self._font(LARGE).getlength(character) for character in set(text))
        columns = int((self.width - 16) / widest)
        lines = textwrap.wrap(text, columns)
        if most is not None and len(lines) > most:
            lines[most - 1 :] = [lines[most - 1][: columns - 4] + " ..."]
        return lines

    @functools.cache  # noqa: B019  (as few as there are painters)
    def _font(self, size: int):
        from PIL import ImageFont

        return ImageFont.truetype(self._file, size)


class Gif:
    """Pictures of one size, each encoded once, as what differs from the one before."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._before = np.zeros((0, 0), np.uint8)

    def __len__(self) -> int:
        return len(self._blocks)

    def append(self, picture: np.ndarray) -> None:
        """Add a picture (height, width) of indices into `palette`."""
        changed = picture
        if self._blocks:
            changed = np.where(picture == self._before, UNCHANGED, picture).astype(np.uint8)
        file = io.BytesIO()
        as_image(changed).save(file, "GIF", optimize=False, interlace=False)
        # Behind the header, the screen's size and the palette lies the image block, then one byte.
        self._blocks.append(file.getvalue()[6 + 7 + 3 * 256 : -1])
        self._before = picture

    def encoded(self, total: float, longest: float, held: float) -> bytes:
        """Encode the animation, which starts over at its end.

        Compuserve 1990, "Graphics Interchange Format, version 89a".

        Args:
            total: Seconds that all pictures but the last take together, at most.
            longest: Seconds that one picture is shown, at most.
            held: Seconds that the last picture is shown.

        Returns:
            The file's content.
        """
        height, width = self._before.shape
        parts = [b"GIF89a", struct.pack("<HHBBB", width, height, 0xF7, 0, 0), palette().tobytes()]
        parts.append(b"!\xff\x0bNETSCAPE2.0" + struct.pack("<BBHB", 3, 1, 0, 0))
        duration = min(longest, max(total / len(self), 0.05))  # browsers slow down faster ones
        for number, block in enumerate(self._blocks, 1):
            hundredths = round(100 * (held if number == len(self) else duration))
            # 5: what is there stays, and one colour lets it through.
            parts += [struct.pack("<BBBBHBB", 0x21, 0xF9, 4, 5, hundredths, UNCHANGED, 0), block]
        return b"".join([*parts, b";"])


def as_image(picture: np.ndarray):
    """Convert indices into `palette` to a Pillow image."""
    from PIL import Image

    image = Image.fromarray(picture, "P")
    image.putpalette(palette().tobytes())
    return image


@functools.cache
def palette() -> np.ndarray:
    """Return (256, 3) uint8: COLOURS, GREYS, and UNCHANGED, white where nothing was before."""
    from matplotlib import colormaps

    colours = colormaps["viridis"](np.linspace(0, 1, COLOURS))[:, :3]
    greys = np.linspace(0, 1, GREYS)[:, None].repeat(3, 1)
    return (255 * np.vstack([colours, greys, [[1, 1, 1]]])).round().astype(np.uint8)


def _grey(lightness: np.ndarray | float) -> np.ndarray:
    """Return the palette's greys for 0 (black) to 1 (white)."""
    return (COLOURS + np.round(np.asarray(lightness) * (GREYS - 1))).astype(np.uint8)


def _font_file(characters: set[str]) -> str:
    from matplotlib import font_manager, ft2font

    needed = {ord(character) for character in characters}
    own = font_manager.findfont("DejaVu Sans Mono")
    for path in (own, *(entry.fname for entry in font_manager.fontManager.ttflist)):
        try:
            if needed <= ft2font.FT2Font(path).get_charmap().keys():
                return path
        except (OSError, RuntimeError):  # installed once, and gone
            continue
    return own
