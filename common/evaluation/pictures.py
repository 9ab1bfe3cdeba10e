"""Pictures of an evaluation as SVG: reliability of confidences, waveforms.

Colours are those of the page's style sheet; `standalone` adds them to a picture for a file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.evaluation.calibration import ReliabilityBin

_SIDE, _LEFT, _BOTTOM, _TOP = 260, 44, 40, 10  # pixels of the diagram and its margins
_COUNTS = 54  # height of the bars that count words, above the diagram
_TICKS = (0, 25, 50, 75, 100)
_STYLE = """
text { font: 12px system-ui, "Liberation Sans", sans-serif; fill: #1b1e24; }
.quiet, .quiet text { fill: #666d7a; }
.grid { stroke: #dfe2e8; } .ideal { stroke: #666d7a; stroke-dasharray: 4 4; }
.raw { stroke: #d55e00; fill: none; stroke-width: 2; } .raw circle { fill: #d55e00; stroke: none; }
.calibrated { stroke: #0072b2; fill: none; stroke-width: 2; }
.calibrated rect { fill: #0072b2; stroke: none; } .count { fill: #666d7a; opacity: .45; }
"""


def reliability_diagram(
    raw: Sequence[ReliabilityBin], calibrated: Sequence[ReliabilityBin] = ()
) -> str:
    """Draw the share of right words over their confidence; on the diagonal, they are equal.

    Args:
        raw: Bins of the network's own confidences.
        calibrated: Bins of calibrated confidences; empty: there are none.

    Returns:
        An SVG element. The bars above count the words of `calibrated`, or else of `raw`.
    """
    width, top = _LEFT + _SIDE + 12, _TOP + _COUNTS + 14
    height = top + _SIDE + _BOTTOM
    parts = [
        f'<svg class="reliability" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="Share of right words over confidence" '
        'xmlns="http://www.w3.org/2000/svg">'
    ]
    for tick in _TICKS:
        x, y = _LEFT + _SIDE * tick / 100, top + _SIDE * (1 - tick / 100)
        parts += [
            f'<path class="grid" d="M{x:.1f} {top}v{_SIDE}M{_LEFT} {y:.1f}h{_SIDE}"/>',
            f'<text class="quiet" x="{x:.1f}" y="{top + _SIDE + 15}" text-anchor="middle">{tick}'
            "</text>",
            f'<text class="quiet" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>',
        ]
    parts += [
        f'<path class="ideal" d="M{_LEFT} {top + _SIDE}L{_LEFT + _SIDE} {top}"/>',
        f'<text class="quiet" x="{_LEFT + _SIDE / 2}" y="{height - 6}" text-anchor="middle">'
        "confidence, %</text>",
        f'<text class="quiet" transform="translate(11 {top + _SIDE / 2}) rotate(-90)" '
        'text-anchor="middle">right words, %</text>',
        _counts(calibrated or raw, top),
        _curve("raw", raw, top),
    ]
    if calibrated:
        parts.append(_curve("calibrated", calibrated, top))
        x, y = _LEFT + 10, top + 20
        parts += [
            f'<g class="raw"><circle cx="{x}" cy="{y - 4}" r="4"/></g>',
            f'<text x="{x + 10}" y="{y}">the network itself</text>',
            f'<g class="calibrated"><rect x="{x - 4}" y="{y + 10}" width="8" height="8"/></g>',
            f'<text x="{x + 10}" y="{y + 18}">calibrated</text>',
        ]
    return "".join([*parts, "</svg>"])


def _counts(bins: Sequence[ReliabilityBin], top: int) -> str:
    """Draw how many words each bin has, on a scale of square roots, so that few are seen, too."""
    most = max((each.words for each in bins), default=0) or 1
    bars = []
    for each in bins:
        size = _COUNTS * (each.words / most) ** 0.5
        x, width = _LEFT + _SIDE * each.low, _SIDE * (each.high - each.low)
        base = top - 4
        bars.append(
            f'<rect class="count" x="{x + 1:.1f}" y="{base - size:.1f}" width="{width - 2:.1f}" '
            f'height="{size:.1f}"><title>{each.words} words</title></rect>'
        )
        if each.words:
            bars.append(
                f'<text class="quiet" x="{x + width / 2:.1f}" y="{base - size - 2:.1f}" '
                f'text-anchor="middle">{each.words}</text>'
            )
    return "".join(bars)


def _curve(kind: str, bins: Sequence[ReliabilityBin], top: int) -> str:
    """Draw the bins that have words as points, larger where there are more, and join them."""
    total = sum(each.words for each in bins) or 1
    points, marks = [], []
    for each in bins:
        if not each.words:
            continue
        x, y = _LEFT + _SIDE * each.confidence, top + _SIDE * (1 - each.correct)
        points.append(f"{x:.1f} {y:.1f}")
        size = 2.5 + 4 * (each.words / total) ** 0.5
        title = (
            f"<title>{each.words} words, confidence {100 * each.confidence:.0f} %, right "
            f"{100 * each.correct:.0f} %</title>"
        )
        if kind == "raw":
            marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}">{title}</circle>')
        else:
            marks.append(
                f'<rect x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size:.1f}" '
                f'height="{2 * size:.1f}">{title}</rect>'
            )
    path = f'<path d="M{"L".join(points)}"/>' if points else ""
    return f'<g class="{kind}">{path}{"".join(marks)}</g>'


def standalone(svg: str, title: str) -> str:
    """Return a picture for a file of its own, with its colours.

    Args:
        svg: What `reliability_diagram` returned.
        title: Text for its legend.

    Returns:
        The content of an SVG file.
    """
    style = f"<style>{_STYLE}</style><title>{title}</title>"
    background = '<rect width="100%" height="100%" fill="#fff"/>'
    begin = svg.index(">") + 1
    return f"{svg[:begin]}{style}{background}{svg[begin:]}\n"


def waveform(samples: np.ndarray, columns: int) -> str:
    """Draw a waveform: in each column from its lowest sample to its highest.

    Args:
        samples: (N,) full scale +-1; drawn so that the loudest fills the picture.
        columns: Of the picture, at least 1.

    Returns:
        An SVG element that fills its box.
    """
    edges = np.linspace(0, len(samples), min(columns, len(samples)) + 1).astype(int)[:-1]
    most = max(float(np.abs(samples).max()), 1e-4)
    high = np.rint(-48 * np.maximum.reduceat(samples, edges) / most).astype(int)
    low = np.rint(-48 * np.minimum.reduceat(samples, edges) / most).astype(int)
    low = np.maximum(low, high + 1)
    lines = "".join(f"M{x} {a}V{b}" for x, (a, b) in enumerate(zip(high.tolist(), low.tolist())))
    return (
        f'<svg class="wave" viewBox="-.5 -50 {len(edges)} 100" preserveAspectRatio="none" '
        f'aria-hidden="true"><path d="{lines}"/></svg>'
    )
