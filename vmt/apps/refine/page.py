"""The page of ``vmt refine``: numbers per tracklet, before and after to slide.

One HTML file with everything inside: pictures as JPEG, a few lines of script, nothing from outside.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from itertools import starmap
from pathlib import Path

from vmt.apps.refine.compare import Difference, Pictures
from vmt.apps.refine.summary import Example, Tally


def build_page(
    title: str,
    totals: Sequence[tuple[str, str]],
    rows: Sequence[tuple[Tally, Difference | None]],
    hidden_rows: int,
    figures: Sequence[tuple[Example, Pictures]],
    settings: Sequence[tuple[str, str]],
    advice: str = "",
) -> str:
    """The text of the HTML file.

    Args:
        title: of the page.
        totals: large numbers on top, (number, what it is).
        rows: of the table, the most changed first; None for what was not measured.
        hidden_rows: tracklets that the table leaves out.
        figures: the most changed frames.
        settings: (name, value).
        advice: what to do about rejected results; empty without one.
    """
    title = escape(title)
    style = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    body = [
        f"<h1>{title}</h1>",
        "<p>Masks before and after <code>vmt refine</code>: where contours moved, how sure the "
        "network was, and which results it threw away.</p>",
        "".join(['<div class="cards">', *starmap(_card, totals), "</div>"]),
        _figures(figures),
        _table(rows, hidden_rows, escape(advice)),
        _settings(settings),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>\n{style}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _card(number: str, text: str) -> str:
    return f'<div class="card"><b>{escape(number)}</b><span>{escape(text)}</span></div>'


def _figures(figures: Sequence[tuple[Example, Pictures]]) -> str:
    if not figures:
        return "<section><h2>Nothing changed</h2><p>Every mask stayed as it was.</p></section>"
    return (
        "<section><h2>The most changed frames</h2>"
        '<p>Drag across the left picture: <span class="was">old contour</span> on the left of the '
        'line, <span class="is">new contour</span> on its right. The right picture shows pixels '
        '<span class="plus">added</span> and <span class="minus">removed</span>.</p>'
        f'<div class="examples">{"".join(starmap(_figure, figures))}</div></section>'
    )


def _figure(example: Example, pictures: Pictures) -> str:
    tally, change = example.tally, example.change
    size = f'width="{pictures.width}" height="{pictures.height}"'
    # An image is its only frame.
    alone = Path(tally.video).stem == change.name
    frame = "" if alone else f", frame {escape(change.name)}"
    name = escape(f"{tally.tracklet}, frame {change.name}")
    return (
        '<figure><div class="pair"><div class="slide">'
        f'<img {size} alt="new contour of {name}" src="{_data(pictures.after)}">'
        f'<img class="old" {size} alt="old contour of {name}" src="{_data(pictures.before)}">'
        "<i></i><em>before</em><em>after</em>"
        '<input type="range" min="0" max="100" step="0.5" value="50" '
        f'aria-label="before and after, {name}" '
        "oninput=\"this.parentNode.style.setProperty('--x',this.value+'%')\"></div>"
        f'<img {size} alt="changed pixels of {name}" src="{_data(pictures.change)}"></div>'
        f"<figcaption><b>{escape(tally.tracklet)}</b> in {escape(tally.video)}{frame}: "
        f"{change.changed_px / change.area:.1%} of its pixels changed, mean "
        f"confidence {change.confidence:.2f}</figcaption></figure>"
    )


def _data(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


_COLUMNS = (
    *("Video", "Tracklet", "Masks", "Pixels changed", "Contour moved"),
    *("Boundary IoU, old with new", "Confidence", "Steadiness", "Flicker", "Rejected"),
)


def _table(rows: Sequence[tuple[Tally, Difference | None]], hidden: int, advice: str) -> str:
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    cells = [[f"<td>{cell}</td>" for cell in _cells(*row)] for row in rows]
    lines = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
    more = f"<p>{hidden} more tracklets changed less; the change log lists them.</p>"
    return (
        "<section><h2>Tracklets</h2>"
        '<div class="scroll"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{lines}</tbody></table></div>{more if hidden else ''}"
        "<p><b>Pixels changed</b>: as a share of the old mask. <b>Contour moved</b>: pixels "
        "changed per pixel of contour. <b>Boundary IoU</b>: overlap of the bands along old and new "
        "contour (2% of the frame's diagonal wide); 1 means that nothing moved. <b>Steadiness</b>: "
        "the same overlap between a mask and the next frame's, centre on centre, before and after; "
        "higher is steadier. <b>Flicker</b>: how much that overlap jumps from frame to frame; "
        "lower is steadier. Objects that turn or bend are less steady whatever the masks. "
        "<b>Rejected</b>: frames whose new mask was empty or too far from the old one; "
        f"they keep the old one. {advice}</p></section>"
    )


def _cells(tally: Tally, difference: Difference | None) -> list[str]:
    names = ", ".join(tally.rejected[:4]) + (" ..." if len(tally.rejected) > 4 else "")
    shift = iou = steadiness = flicker = ""
    if difference is not None:
        shift = f"{difference.shift_px:.1f} px"
        iou = "" if math.isnan(difference.boundary_iou) else f"{difference.boundary_iou:.2f}"
        steadiness, flicker = _arrow(difference.steadiness), _arrow(difference.flicker, 3)
    return [
        escape(tally.video),
        escape(tally.tracklet),
        str(tally.masks),
        f"{tally.share:.1%}",
        shift,
        iou,
        f"{tally.confidence:.2f}",
        steadiness,
        flicker,
        f"{len(tally.rejected)} ({escape(names)})" if tally.rejected else "0",
    ]


def _arrow(pair: tuple[float, float], digits: int = 2) -> str:
    if math.isnan(pair[0]) or math.isnan(pair[1]):
        return ""
    return f"{pair[0]:.{digits}f} &rarr; {pair[1]:.{digits}f}"


def _settings(settings: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in settings)
    return f"<section><h2>How this was made</h2><dl>{rows}</dl></section>"
