from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import cocoapi_hq
from cocoapi_hq.analysis.bootstrap import compare
from cocoapi_hq.io.ytvis_json import Video
from cocoapi_hq.report import charts
from cocoapi_hq.report.filmstrip import EXTRA, FRAMES, MISSING, filmstrip
from cocoapi_hq.report.html import build_report
from tests.cocoapi_hq.tube_cases import annotation, random_set, rect, result, truth


class Page(HTMLParser):
    """Checks that every element that is opened is closed, and collects what it needs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in ("meta", "img", "line", "circle", "rect", "polyline"):
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.stack:
            assert self.stack.pop() == tag
        assert tag in self.tags

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def report(gt: Any, results: list[Any], **options: Any) -> Page:
    answers = [cocoapi_hq.evaluate(gt, r) for r in results]
    for k, answer in enumerate(answers):
        answer.name = f"<file {k}>.json"
    comparisons = []
    if len(answers) > 1:
        comparisons = [
            compare([a.tubes[m] for a in answers], resamples=50) for m in answers[0].tubes
        ]
    return Page(build_report(gt, results, answers, comparisons=comparisons, **options))


def test_one_file_is_self_contained_and_complete(tmp_path: Path) -> None:
    gt, results = random_set(2)
    gt["categories"][0]["name"] = "<script>alert(1)</script>"
    page = report(gt, [results])
    assert page.stack == []
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(a.startswith("data:image/jpeg;base64,") for a in page.addresses)
    text = " ".join(page.words)
    for title in ("Summary", "AP against IoU threshold", "What costs AP", "AP by kind of object",
                  "Precision and recall per class", "Every class", "Filmstrips", "Worst tracklets",
                  "<file 0>.json", "<script>alert(1)</script>"):  # fmt: skip
        assert title in text, title
    assert "How sure is the order?" not in text
    assert not re.search(r"\bnan\b|\binf\b", text)


def test_several_files_show_intervals() -> None:
    gt, results = random_set(2)
    page = report(gt, [results, results[::2], []])
    text = " ".join(page.words)
    assert "How sure is the order?" in text
    assert "<file 2>.json" in text
    assert page.stack == []


@pytest.mark.parametrize("results", [[], [result(1, [None] * 2, 0.5)]])
def test_sets_with_little_in_them(results: list[Any]) -> None:
    gt = truth([annotation(1, 1, [rect(1, 1, 9, 9), None])], {1: 2})
    assert report(gt, [results]).stack == []
    assert report(truth([], {1: 2}), [results]).stack == []
    no_size = truth([annotation(1, 1, [None, None])], {1: 2})
    for key in ("height", "width", "file_names"):
        del no_size["videos"][0][key]
    assert report(no_size, [results]).stack == []


def picture(address: str) -> np.ndarray:
    raw = base64.b64decode(address.split(",", 1)[1])
    return cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_filmstrip_shows_the_images_and_both_masks() -> None:
    size = (120, 180)

    def read(name: str) -> np.ndarray:
        return np.full((*size, 3), (20, 10 * int(name.removesuffix(".png")), 60), dtype=np.uint8)

    video = Video(1, *size, 12, tuple(f"{t}.png" for t in range(12)))
    target = [rect(40, 20, 90, 70, *size)] * 12
    found = [rect(65, 20, 115, 70, *size)] * 12
    strip = filmstrip(video, target, found, read)
    assert len(strip) == FRAMES
    assert [t for t, _ in strip] == [0, 2, 4, 7, 9, 11]
    image = picture(strip[0][1]).astype(int)
    reds = (image[..., 0] > image[..., 2] + 60).sum()
    blues = (image[..., 2] > image[..., 0] + 60).sum()
    assert reds > 500
    assert blues > 500
    assert EXTRA[0] > EXTRA[2]
    assert MISSING[2] > MISSING[0]
    assert filmstrip(video, [None] * 12, None, read) == []


def test_unreadable_and_turned_images_leave_a_plain_background(
    caplog: pytest.LogCaptureFixture,
) -> None:
    video = Video(1, 40, 60, 2, ("gone.jpg", "turned.jpg"))

    def read(name: str) -> np.ndarray:
        if name == "gone.jpg":
            raise ValueError("gone.jpg: no such file.")
        return np.zeros((60, 40, 3), np.uint8)

    strip = filmstrip(video, [rect(5, 5, 20, 20)] * 2, None, read)
    assert [picture(address).mean() > 150 for _, address in strip] == [True, True]
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "gone.jpg: no such file. Its frame is drawn without image.",
        "turned.jpg is 40x60 pixels, not 60x40; its frame is drawn without image.",
    ]


def test_charts_escape_and_survive_odd_values() -> None:
    line = charts.Line("<a&b>", [(0.5, 100.0), (0.95, 0.0)], "#123456")
    text = charts.line_chart([line], title="<t>", x_label="x", y_label="y", x_ticks=[0.5, 0.95])
    assert "<a" not in text
    assert "&lt;t&gt;" in text
    bars = [charts.Bar(None, "-", "#000"), charts.Bar(-3.0, "-3", "#000")]
    assert 'width="-' not in charts.bar_chart([("x", bars)], title="b", limit=0.0)
    assert "svg" in charts.interval_chart([("f", 0.0, 0.0, 0.0, "#000")], title="i")
    json.dumps(text)
