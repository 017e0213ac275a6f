"""A page that shows what refinement did to masks: numbers per tracklet, before and after to slide.

One HTML file with everything inside: pictures as JPEG, a few lines of script, nothing from outside.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from cocoapi_hq.io import rle
from cocoapi_hq.tubes.tracklet_quality import compare_tubes, temporal_stability
from vmt.structures.masks import MaskCrop, decode_crop, encode_crop
from vmt.visualization.colors import Rgb

Frame = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

BEFORE: Rgb = (255, 138, 28)
AFTER: Rgb = (32, 208, 160)
ADDED: Rgb = (56, 211, 118)
REMOVED: Rgb = (255, 60, 60)
#: Longest side of a picture, and how far small objects are enlarged.
SIDE_PX, MOST_ZOOM = 560, 6.0
_QUALITY = 86


# --- numbers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Old and new masks of a tracklet side by side.

    Args:
        boundary_iou: mean IoU of the boundary regions of old and new mask, in [0, 1].
        shift_px: pixels changed per pixel of contour: how far the contour moved on average.
        steadiness: boundary IoU of a mask with that of the next frame, moved so that their centres
            meet; mean over frames, of the old and of the new masks. nan without neighbours.
        flicker: mean change of that number from one pair of frames to the next, old and new.
    """

    boundary_iou: float
    shift_px: float
    steadiness: tuple[float, float]
    flicker: tuple[float, float]


def measure(old: Sequence[rle.Rle | None], new: Sequence[rle.Rle | None]) -> Difference:
    """Compare old and new masks of a tracklet.

    Args:
        old: one mask per frame, None where there is none; frames follow one another.
        new: likewise.
    """
    pairs = [(a, b) for a, b in zip(old, new, strict=True) if a is not None and b is not None]
    _, _, curve = compare_tubes([a for a, _ in pairs], [b for _, b in pairs])
    changed = contour = 0
    for a, b in pairs:
        common, whole = rle.area(rle.intersection([a, b])), rle.area(rle.union([a, b]))
        changed += whole - common
        contour += _contour_px(decode_crop(b))
    before, after = _neighbours(old), _neighbours(new)
    return Difference(
        boundary_iou=sum(curve) / len(curve) if curve else math.nan,
        shift_px=changed / max(contour, 1),
        steadiness=(_mean(before), _mean(after)),
        flicker=(temporal_stability(before), temporal_stability(after)),
    )


def _contour_px(crop: MaskCrop) -> int:
    """Pixels of a mask that have a side in common with the outside."""
    padded = np.pad(crop.bits, 1).astype(np.uint8)
    inner = cv2.erode(padded, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    return int(np.count_nonzero(padded)) - int(np.count_nonzero(inner))


def _neighbours(masks: Sequence[rle.Rle | None]) -> list[float]:
    """Boundary IoU of each mask with the next one, centre on centre; nan where one is missing."""
    curve = []
    for a, b in pairwise(masks):
        moved = None if a is None or b is None else _moved(b, a)
        if a is None or moved is None:
            curve.append(math.nan)
        else:
            curve.append(compare_tubes([a], [moved])[2][0])
    return curve


def _moved(mask: rle.Rle, onto: rle.Rle) -> rle.Rle | None:
    """A mask shifted by whole pixels so that its centre meets another's; None if one is empty."""
    crop, other = decode_crop(mask), decode_crop(onto)
    if not crop.area or not other.area:
        return None
    (y, x), (to_y, to_x) = _centre(crop), _centre(other)
    top, left = crop.y + round(to_y - y), crop.x + round(to_x - x)
    height, width = mask["size"]
    cut_y, cut_x = max(-top, 0), max(-left, 0)
    bits = crop.bits[cut_y : height - top, cut_x : width - left]
    return encode_crop(MaskCrop(bits, top + cut_y, left + cut_x), (height, width))


def _centre(crop: MaskCrop) -> tuple[float, float]:
    rows, columns = np.nonzero(crop.bits)
    return crop.y + float(rows.mean()), crop.x + float(columns.mean())


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


# --- what the page shows -------------------------------------------------------------------------


@dataclass(frozen=True)
class ReportRow:
    """One tracklet of the table.

    Args:
        video: its name.
        tracklet: its name.
        masks: frames in which it has one.
        changed_share: pixels changed over pixels of the old masks.
        confidence: mean over its frames.
        rejected: names of the frames whose new mask was thrown away.
        difference: None where it was not measured.
    """

    video: str
    tracklet: str
    masks: int
    changed_share: float
    confidence: float
    rejected: Sequence[str]
    difference: Difference | None


@dataclass(frozen=True)
class ReportExample:
    """One frame to look at.

    Args:
        video: its name.
        tracklet: its name.
        frame: its name.
        pictures: of ``example_pictures``.
        changed_share: pixels changed over pixels of the old mask.
        confidence: mean over the pixels that were looked at.
    """

    video: str
    tracklet: str
    frame: str
    pictures: Pictures
    changed_share: float
    confidence: float


@dataclass(frozen=True)
class Pictures:
    """JPEG files of one size: old contour, new contour, what changed."""

    before: bytes
    after: bytes
    change: bytes
    width: int
    height: int


@dataclass(frozen=True)
class RefineReport:
    """Everything on the page.

    Args:
        title: of the page.
        totals: large numbers on top, (number, what it is).
        rows: of the table, the most changed first.
        hidden_rows: tracklets that the table leaves out.
        examples: the most changed frames.
        settings: (name, value).
        advice: what to do about rejected results; empty without one.
    """

    title: str
    totals: Sequence[tuple[str, str]]
    rows: Sequence[ReportRow]
    hidden_rows: int
    examples: Sequence[ReportExample]
    settings: Sequence[tuple[str, str]]
    advice: str = ""


def example_pictures(frame: Frame, old: BoolArray, new: BoolArray) -> Pictures:
    """Cut a frame to an object and draw its contours.

    Args:
        frame: (H, W, 3) uint8 RGB.
        old: (H, W), at least one pixel.
        new: (H, W).
    """
    rows, columns = _window(old | new)
    zoom = min(SIDE_PX / max(rows.stop - rows.start, columns.stop - columns.start), MOST_ZOOM)
    size = (
        max(round((columns.stop - columns.start) * zoom), 1),
        max(round((rows.stop - rows.start) * zoom), 1),
    )
    way = cv2.INTER_CUBIC if zoom > 1 else cv2.INTER_AREA
    view = np.asarray(cv2.resize(frame[rows, columns], size, interpolation=way), dtype=np.uint8)
    masks = [
        cv2.resize(m[rows, columns].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        for m in (old, new)
    ]
    change = np.repeat(view.mean(2, keepdims=True) * 0.55, 3, axis=2).astype(np.uint8)
    change[masks[1] & ~masks[0]] = ADDED
    change[masks[0] & ~masks[1]] = REMOVED
    return Pictures(
        _jpeg(_outlined(view, masks[0], BEFORE)),
        _jpeg(_outlined(view, masks[1], AFTER)),
        _jpeg(change),
        *size,
    )


def _window(mask: BoolArray) -> tuple[slice, slice]:
    """Rows and columns of an object with some room around it."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    side = max(int(ys[-1] - ys[0]), int(xs[-1] - xs[0])) + 1
    room = max(round(0.12 * side), 12)
    y, x = int(ys[0]) - room, int(xs[0]) - room
    return (
        slice(max(y, 0), min(int(ys[-1]) + room + 1, mask.shape[0])),
        slice(max(x, 0), min(int(xs[-1]) + room + 1, mask.shape[1])),
    )


def _outlined(view: Frame, mask: BoolArray, color: Rgb) -> Frame:
    """A light tint inside, and a contour with a dark rim."""
    painted = view.copy()
    painted[mask] = (0.8 * view[mask] + 0.2 * np.array(color)).astype(np.uint8)
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(painted, found, -1, (16, 16, 20), 4, cv2.LINE_AA)
    cv2.drawContours(painted, found, -1, color, 2, cv2.LINE_AA)
    return painted


def _jpeg(picture: Frame) -> bytes:
    ok, coded = cv2.imencode(
        ".jpg", np.ascontiguousarray(picture[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    )
    assert ok, "a picture in memory can be coded"
    return bytes(coded)


# --- the page ------------------------------------------------------------------------------------

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


def build_page(report: RefineReport) -> str:
    """The text of the HTML file."""
    title = escape(report.title)
    body = [
        f"<h1>{title}</h1>",
        "<p>Masks before and after <code>vmt refine</code>: where contours moved, how sure the "
        "network was, and which results it threw away.</p>",
        _cards(report.totals),
        _examples(report.examples),
        _table(report.rows, report.hidden_rows, report.advice),
        _settings(report.settings),
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


def _examples(examples: Sequence[ReportExample]) -> str:
    if not examples:
        return "<section><h2>Nothing changed</h2><p>Every mask stayed as it was.</p></section>"
    figures = "".join(_figure(example) for example in examples)
    return (
        "<section><h2>The most changed frames</h2>"
        '<p>Drag across the left picture: <span class="was">old contour</span> on the left of the '
        'line, <span class="is">new contour</span> on its right. The right picture shows pixels '
        '<span class="plus">added</span> and <span class="minus">removed</span>.</p>'
        f'<div class="examples">{figures}</div></section>'
    )


def _figure(example: ReportExample) -> str:
    pictures = example.pictures
    size = f'width="{pictures.width}" height="{pictures.height}"'
    # An image is its only frame.
    known = Path(example.video).stem == example.frame
    frame = "" if known else f", frame {escape(example.frame)}"
    name = escape(f"{example.tracklet}, frame {example.frame}")
    return (
        '<figure><div class="pair"><div class="slide">'
        f'<img {size} alt="new contour of {name}" src="{_data(pictures.after)}">'
        f'<img class="old" {size} alt="old contour of {name}" src="{_data(pictures.before)}">'
        "<i></i><em>before</em><em>after</em>"
        '<input type="range" min="0" max="100" step="0.5" value="50" '
        f'aria-label="before and after, {name}" '
        "oninput=\"this.parentNode.style.setProperty('--x',this.value+'%')\"></div>"
        f'<img {size} alt="changed pixels of {name}" src="{_data(pictures.change)}"></div>'
        f"<figcaption><b>{escape(example.tracklet)}</b> in {escape(example.video)}{frame}: "
        f"{example.changed_share:.1%} of its pixels changed, mean "
        f"confidence {example.confidence:.2f}</figcaption></figure>"
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


def _table(rows: Sequence[ReportRow], hidden: int, advice: str) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in _COLUMNS)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in _cells(r))}</tr>" for r in rows)
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
        f"they keep the old one. {escape(advice)}</p></section>"
    )


def _cells(row: ReportRow) -> list[str]:
    difference = row.difference
    rejected = ", ".join(row.rejected[:4]) + (" ..." if len(row.rejected) > 4 else "")
    return [
        escape(row.video),
        escape(row.tracklet),
        str(row.masks),
        f"{row.changed_share:.1%}",
        "" if difference is None else f"{difference.shift_px:.1f} px",
        "" if difference is None else _number(difference.boundary_iou),
        f"{row.confidence:.2f}",
        "" if difference is None else _arrow(difference.steadiness),
        "" if difference is None else _arrow(difference.flicker, 3),
        f"{len(row.rejected)} ({escape(rejected)})" if row.rejected else "0",
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
