"""The page of ``vmt refine``: numbers per tracklet, before and after to slide.

One HTML file with everything inside: pictures as JPEG, a few lines of script, nothing from outside.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import starmap
from pathlib import Path

from vmt.apps.refine.compare import Difference, Pictures
from vmt.apps.refine.summary import Example, Tally


@dataclass(frozen=True)
class Page:
    """Everything on the page.

    Args:
        title: of the page.
        totals: large numbers on top, (number, what it is).
        rows: of the table, the most changed first; None for what was not measured.
        hidden_rows: tracklets that the table leaves out.
        figures: the most changed frames.
        settings: (name, value).
        advice: what to do about rejected results; empty without one.
    """

    title: str
    totals: Sequence[tuple[str, str]]
    rows: Sequence[tuple[Tally, Difference | None]]
    hidden_rows: int
    figures: Sequence[tuple[Example, Pictures]]
    settings: Sequence[tuple[str, str]]
    advice: str = ""


_STYLE = """
:root{--ink:#1d2430;--soft:#5b6472;--line:#e3e6eb;--card:#fff;--page:#f4f5f7;
--before:#d96f00;--after:#0b8a68}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:36px 24px 64px}
h1{font-size:30px;line-height:1.2;margin:0 0 6px;letter-spacing:-.4px;overflow-wrap:anywhere}
h2{font-size:20px;margin:0 0 4px;letter-spacing:-.2px}
p{margin:0 0 12px;color:var(--soft);max-width:80ch}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:24px 28px;margin-top:20px}
.cards{display:flex;flex-wrap:wrap;gap:14px;margin-top:22px}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 22px}
.card b{display:block;font-size:30px;line-height:1.15;letter-spacing:-.6px;
font-variant-numeric:tabular-nums}
.card span{color:var(--soft);font-size:13px}
.was{color:var(--before);font-weight:600}.is{color:var(--after);font-weight:600}
.plus{color:#1c9a4f;font-weight:600}.minus{color:#d43838;font-weight:600}
.examples{columns:2 480px;column-gap:26px}
.pair{display:flex;gap:8px;align-items:flex-start}
.pair>*{flex:1 1 0;min-width:0}
.slide{position:relative;border-radius:8px;overflow:hidden;--x:50%}
.slide img,.pair>img{width:100%;height:auto;display:block}
.pair>img{border-radius:8px}
.slide .old{position:absolute;inset:0;clip-path:inset(0 calc(100% - var(--x)) 0 0)}
.slide i{position:absolute;top:0;bottom:0;left:calc(var(--x) - 1px);width:2px;background:#fff;
box-shadow:0 0 4px #0008;pointer-events:none}
.slide i:after{content:"\\2194";position:absolute;top:50%;left:-12px;width:26px;height:26px;
margin-top:-13px;border-radius:50%;background:#fff;color:#333;font:16px/25px sans-serif;
text-align:center}
.slide em{position:absolute;top:8px;padding:1px 8px;border-radius:99px;background:#000a;
color:#fff;font:600 12px/1.5 system-ui,sans-serif;pointer-events:none}
.slide em:nth-of-type(1){left:8px}.slide em:nth-of-type(2){right:8px}
.slide input{position:absolute;inset:0;width:100%;height:100%;margin:0;opacity:0;
cursor:ew-resize}
.slide:focus-within{outline:2px solid #2563a8}
figure{margin:0 0 24px;break-inside:avoid}
figcaption{font-size:13px;color:var(--soft);margin-top:6px}
figcaption b{color:var(--ink)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;margin:4px 0 12px}
th,td{padding:7px 9px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap;
font-size:14px}
th{color:var(--soft);font-weight:600;font-size:13px;vertical-align:bottom;white-space:normal}
td:last-child{white-space:normal;min-width:90px}
th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 20px;margin:10px 0 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
footer{color:var(--soft);font-size:13px;margin-top:26px}
@media (max-width:640px){.pair{flex-direction:column}.examples{columns:1}}
@media print{body{background:#fff}section{break-inside:avoid}}
"""


def build_page(page: Page) -> str:
    """The text of the HTML file."""
    title = escape(page.title)
    body = [
        f"<h1>{title}</h1>",
        "<p>Masks before and after <code>vmt refine</code>: where contours moved, how sure the "
        "network was, and which results it threw away.</p>",
        _cards(page.totals),
        _figures(page.figures),
        _table(page),
        _settings(page.settings),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _cards(totals: Sequence[tuple[str, str]]) -> str:
    cards = (
        f'<div class="card"><b>{escape(number)}</b><span>{escape(text)}</span></div>'
        for number, text in totals
    )
    return f'<div class="cards">{"".join(cards)}</div>'


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
    "Video",
    "Tracklet",
    "Masks",
    "Pixels changed",
    "Contour moved",
    "Boundary IoU, old with new",
    "Confidence",
    "Steadiness",
    "Flicker",
    "Rejected",
)


def _table(page: Page) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in _COLUMNS)
    rows = [_cells(tally, difference) for tally, difference in page.rows]
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for cells in rows)
    more = f"<p>{page.hidden_rows} more tracklets changed less; the change log lists them.</p>"
    return (
        "<section><h2>Tracklets</h2>"
        '<div class="scroll"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{lines}</tbody></table></div>{more if page.hidden_rows else ''}"
        "<p><b>Pixels changed</b>: as a share of the old mask. <b>Contour moved</b>: pixels "
        "changed per pixel of contour. <b>Boundary IoU</b>: overlap of the bands along old and new "
        "contour (2% of the frame's diagonal wide); 1 means that nothing moved. <b>Steadiness</b>: "
        "the same overlap between a mask and the next frame's, centre on centre, before and after; "
        "higher is steadier. <b>Flicker</b>: how much that overlap jumps from frame to frame; "
        "lower is steadier. Objects that turn or bend are less steady whatever the masks. "
        "<b>Rejected</b>: frames whose new mask was empty or too far from the old one; "
        f"they keep the old one. {escape(page.advice)}</p></section>"
    )


def _cells(tally: Tally, difference: Difference | None) -> list[str]:
    rejected = ", ".join(tally.rejected[:4]) + (" ..." if len(tally.rejected) > 4 else "")
    return [
        escape(tally.video),
        escape(tally.tracklet),
        str(tally.masks),
        f"{tally.share:.1%}",
        "" if difference is None else f"{difference.shift_px:.1f} px",
        "" if difference is None else _number(difference.boundary_iou),
        f"{tally.confidence:.2f}",
        "" if difference is None else _arrow(difference.steadiness),
        "" if difference is None else _arrow(difference.flicker, 3),
        f"{len(tally.rejected)} ({escape(rejected)})" if tally.rejected else "0",
    ]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _arrow(pair: tuple[float, float], digits: int = 2) -> str:
    if math.isnan(pair[0]) or math.isnan(pair[1]):
        return ""
    return f"{pair[0]:.{digits}f} &rarr; {pair[1]:.{digits}f}"


def _settings(settings: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in settings)
    return f"<section><h2>How this was made</h2><dl>{rows}</dl></section>"
