"""What all parts of a report share: one file's scores, titles, a section, and the style sheet."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from cocoapi_hq.analysis.attributes import AttributeScores
from cocoapi_hq.analysis.errors import ErrorAnalysis
from cocoapi_hq.results import Results

TITLES = {
    "tube_mask": "Tube mask AP",
    "tube_boundary": "Tube boundary AP",
    "bdd_mots": "BDD100K MOTS",
    "hota": "HOTA",
    "frame_ap": "Frame mask AP",
    "tracklet_quality": "J&F and stability per tracklet",
}

STYLE = """
:root{--ink:#1d2430;--soft:#5b6472;--line:#e3e6eb;--card:#fff;--page:#f4f5f7;--blue:#2563a8}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:36px 24px 64px}
h1{font-size:30px;line-height:1.2;margin:0 0 6px;letter-spacing:-.4px}
h2{font-size:20px;margin:0 0 4px;letter-spacing:-.2px}
h3{font-size:15px;margin:22px 0 8px;color:var(--soft);font-weight:600}
p{margin:0 0 12px;color:var(--soft);max-width:78ch}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:24px 28px;margin-top:20px}
.cards{display:flex;flex-wrap:wrap;gap:14px;margin-top:22px}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 22px;
min-width:150px}
.card b{display:block;font-size:32px;line-height:1.15;letter-spacing:-.6px;
font-variant-numeric:tabular-nums}
.card span{color:var(--soft);font-size:13px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;margin:4px 0 18px}
th,td{padding:7px 12px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:600;font-size:13px}
th:first-child,td:first-child{text-align:left}
td.best{font-weight:700;color:var(--blue)}
svg{width:100%;height:auto;display:block;font:12px system-ui,-apple-system,"Segoe UI",sans-serif}
.legend{display:flex;flex-wrap:wrap;gap:6px 20px;margin:6px 0 10px;color:var(--soft);font-size:13px}
.key{display:inline-flex;align-items:center;gap:7px}.key svg{display:inline-block}
.swatch{width:14px;height:14px;border-radius:4px;display:inline-block}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(430px,1fr));gap:10px 36px}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(190px,1fr));gap:14px}
.strip{border-top:1px solid var(--line);padding:14px 0 10px}
.strip:first-of-type{border-top:0}
.strip .head{display:flex;flex-wrap:wrap;gap:4px 16px;align-items:baseline;margin-bottom:8px}
.strip .head b{font-size:15px}.strip .head span{color:var(--soft);font-size:13px}
.frames{display:grid;grid-template-columns:repeat(6,1fr);gap:6px}
figure{margin:0}figure img{width:100%;display:block;border-radius:6px;background:#eee}
figcaption{color:var(--soft);font-size:11px;text-align:center;margin-top:2px}
.tag{background:#eef2f8;color:var(--blue);border-radius:99px;padding:1px 10px;font-size:12px;
font-weight:600}
ul.notes{margin:6px 0 0;padding-left:20px;color:var(--soft)}
footer{color:var(--soft);font-size:13px;margin-top:26px}
@media print{body{background:#fff}section{break-inside:avoid}}
"""


@dataclass(frozen=True)
class ReportFile:
    """One result file and everything the report shows of it."""

    answer: Results
    color: str
    errors: dict[str, ErrorAnalysis]
    attributes: dict[str, list[AttributeScores]]


def section(title: str, text: str, *content: str) -> str:
    """A titled section; ``text`` and ``content`` are HTML already."""
    about = f"<p>{text}</p>" if text else ""
    return f"<section><h2>{escape(title)}</h2>{about}{''.join(content)}</section>"
