"""QDTrack's tracker: against loops over its rules, its properties, and what it hands out."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vmt.inference.association.quasi_dense import QuasiDenseAssociation, detections_of
from vmt.modeling.tracking.quasi_dense import (
    BoxDetections,
    QuasiDenseMemory,
    QuasiDenseOptions,
    cosine,
)
from vmt.modeling.video_model import FrameOutputs
from vmt.structures.roi_masks import RoiMasks, dense_logits
from vmt.utils.errors import ConfigError

Row = tuple[float, int, list[float], list[float]]  # score, label, box, embedding


def detections(rows: list[Row]) -> BoxDetections:
    boxes, embeddings = (
        torch.tensor([row[k] for row in rows]).reshape(len(rows), width)
        for k, width in ((2, 4), (3, 6))
    )
    scores = torch.tensor([row[0] for row in rows])
    labels = torch.tensor([row[1] for row in rows], dtype=torch.int64)
    return BoxDetections(boxes.float(), scores, labels, embeddings.float())


def place(k: int, shift: float = 0.0) -> list[float]:
    """Boxes of 10 x 10 pixels that meet none of another k."""
    return [20.0 * k + shift, 0.0, 20.0 * k + shift + 10.0, 10.0]


def axis(k: int, size: float = 4.0) -> list[float]:
    return [size * (i == k) for i in range(6)]


# --- loops over the rules ---------------------------------------------------------------------


def iou(a: list[float], b: list[float]) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(w, 0.0) * max(h, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union


class Loops:
    """The tracker in plain Python, detection by detection."""

    def __init__(self, options: QuasiDenseOptions) -> None:
        self.o = options
        self.tracks: dict[int, dict] = {}
        self.backdrops: list[list[tuple[list[float], int]]] = []
        self.count = 0

    def similarity(self, rows: list[Row], memory: list[list[float]]) -> list[list[float]]:
        def dot(a, b) -> float:
            return sum(x * y for x, y in zip(a, b, strict=True))

        if self.o.metric == "cosine":
            return [
                [dot(r[3], m) / math.sqrt(dot(r[3], r[3]) * dot(m, m)) for m in memory]
                for r in rows
            ]
        dots = [[dot(r[3], m) for m in memory] for r in rows]
        out = []
        for i in range(len(rows)):
            over_rows = [
                sum(math.exp(dots[k][j]) for k in range(len(rows))) for j in range(len(memory))
            ]
            over_memory = sum(math.exp(v) for v in dots[i])
            out.append(
                [
                    (math.exp(v) / over_memory + math.exp(v) / over_rows[j]) / 2
                    for j, v in enumerate(dots[i])
                ]
            )
        return out

    def step(self, t: int, rows: list[Row]) -> list[int]:
        o, order = self.o, sorted(range(len(rows)), key=lambda i: -rows[i][0])
        ids = [-3] * len(rows)
        kept = []
        for n, i in enumerate(order):
            limit = o.backdrop_iou if rows[i][0] < o.object_score else o.duplicate_iou
            if all(iou(rows[i][2], rows[k][2]) <= limit for k in order[:n]):
                kept.append(i)
                ids[i] = -1
        if kept and self.tracks:
            memory = [(k, v["embed"], v["label"]) for k, v in self.tracks.items()]
            memory += [(-1, embed, label) for frame in self.backdrops for embed, label in frame]
            table = self.similarity([rows[i] for i in kept], [m[1] for m in memory])
            taken: set[int] = set()
            for n, i in enumerate(kept):
                fits = [
                    0.0 if j in taken or (o.same_class and m[2] != rows[i][1]) else table[n][j]
                    for j, m in enumerate(memory)
                ]
                j = max(range(len(memory)), key=lambda j: fits[j])
                if fits[j] > o.match_score and memory[j][0] >= 0:
                    if rows[i][0] > o.object_score:
                        ids[i] = memory[j][0]
                        taken.add(j)
                    elif fits[j] > o.sure_score:
                        ids[i] = -2
        for i in kept:
            if ids[i] == -1 and rows[i][0] > o.init_score:
                ids[i], self.count = self.count, self.count + 1
        for i in kept:
            if ids[i] >= 0:
                embed = rows[i][3]
                if ids[i] in self.tracks:
                    pairs = zip(self.tracks[ids[i]]["embed"], embed, strict=True)
                    embed = [(1 - o.momentum) * a + o.momentum * b for a, b in pairs]
                self.tracks[ids[i]] = {"embed": embed, "label": rows[i][1], "last": t}
        latest = [
            (rows[i][3], rows[i][1])
            for n, i in enumerate(kept)
            if ids[i] == -1 and all(iou(rows[i][2], rows[k][2]) <= o.backdrop_iou for k in kept[:n])
        ]
        self.backdrops = [latest, *self.backdrops][: o.backdrop_frames]
        for track in [k for k, v in self.tracks.items() if t - v["last"] >= o.memory_frames]:
            del self.tracks[track]
        return ids


def sequence(seed: int, num_frames: int = 30) -> list[list[Row]]:
    """Objects that come, hide and go, look-alikes, duplicates of both kinds, clutter."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> float:
        return float(torch.rand((), generator=generator)) * (high - low) + low

    looks = [[draw(-1.5, 1.5) for _ in range(6)] for _ in range(5)]
    looks.append([v + 0.2 for v in looks[0]])
    frames = []
    for t in range(num_frames):
        rows: list[Row] = []
        for k, look in enumerate(looks):
            if draw(0, 1) < 0.25 or (t // 7 + k) % 4 == 0 or 20 <= t < 20 + seed % 8:
                continue
            embedding = [v + draw(-0.2, 0.2) for v in look]
            rows.append((draw(0.2, 1), k % 3, place(k, draw(-1, 1)), embedding))
            if draw(0, 1) < 0.4:
                label = (k + int(draw(0, 2))) % 3
                rows.append(
                    (draw(0.1, 1), label, place(k, draw(-4, 4)), [draw(-1, 1), *embedding[1:]])
                )
        for _ in range(int(draw(0, 4))):
            x = draw(0, 100)
            rows.append(
                (
                    draw(0.05, 0.75),
                    int(draw(0, 3)),
                    [x, 0, x + 9, 9],
                    [draw(-1, 1) for _ in range(6)],
                )
            )
        frames.append(rows)
    return frames


SETTINGS = {
    "bdd100k": QuasiDenseOptions(),
    "default": QuasiDenseOptions(init_score=0.8, object_score=0.5),
    "cosine": QuasiDenseOptions(
        init_score=0.5, memory_frames=4, backdrop_frames=2, momentum=0.4,
        sure_score=0.6, same_class=False, metric="cosine",
    ),
    "plain": QuasiDenseOptions(backdrop_frames=0, same_class=False, match_score=0.3, momentum=1.0),
}  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("seed", range(4))
def test_ids_are_those_of_the_rules(setting: str, seed: int) -> None:
    memory, loops = QuasiDenseMemory(SETTINGS[setting]), Loops(SETTINGS[setting])
    kinds: set[int] = set()
    for t, rows in enumerate(sequence(seed)):
        ids = memory.step(t, detections(rows)).tolist()
        assert ids == loops.step(t, rows), t
        kinds |= set(ids)
        assert list(memory.entries) == list(loops.tracks)
        for track, entry in memory.entries.items():
            expected = loops.tracks[track]
            assert (entry.label, entry.last_frame) == (expected["label"], expected["last"])
            torch.testing.assert_close(entry.embedding, torch.tensor(expected["embed"]))
    assert {-3, -1, 0, 1, 2} <= kinds, "the sequence tries little"


# --- properties -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_detections_changes_nothing(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, second = (QuasiDenseMemory(QuasiDenseOptions()) for _ in range(2))
    for t, rows in enumerate(sequence(seed)):
        order = torch.randperm(len(rows), generator=generator).tolist()
        ids = first.step(t, detections(rows)).tolist()
        shuffled = second.step(t, detections([rows[i] for i in order])).tolist()
        assert shuffled == [ids[i] for i in order]
    torch.testing.assert_close(first.state(), second.state(), rtol=0, atol=0)


@pytest.mark.parametrize("hidden", [1, 5, 9, 10, 25])
def test_an_object_keeps_its_id_while_it_is_remembered(hidden: int) -> None:
    memory = QuasiDenseMemory(QuasiDenseOptions(memory_frames=10))
    both = [(0.9, 0, place(0), axis(0)), (0.8, 0, place(1), axis(1))]
    assert memory.step(0, detections(both)).tolist() == [0, 1]
    for t in range(1, hidden + 1):
        assert memory.step(t, detections(both[:1])).tolist() == [0]
    back = memory.step(hidden + 1, detections(both)).tolist()
    # ``hidden`` frames are dropped behind the ``hidden``-th, when it is ten frames ago
    assert back == ([0, 1] if hidden < 10 else [0, 2])


def test_duplicates_never_have_two_ids() -> None:
    for seed in range(6):
        memory = QuasiDenseMemory(QuasiDenseOptions())
        for t, rows in enumerate(sequence(seed)):
            ids = memory.step(t, detections(rows)).tolist()
            tracks = [(k, rows[i][2]) for i, k in enumerate(ids) if k >= 0]
            assert len({k for k, _ in tracks}) == len(tracks)
            for n, (_, box) in enumerate(tracks):
                assert all(iou(box, other) <= 0.7 for _, other in tracks[:n])


def test_a_duplicate_of_a_duplicate_is_one() -> None:
    """A chain: the third overlaps the second alone, which is gone; published code drops it too."""
    rows = [(0.9 - 0.1 * k, 0, place(0, 1.5 * k), axis(k)) for k in range(3)]
    assert iou(rows[0][2], rows[1][2]) > 0.7 > iou(rows[0][2], rows[2][2])
    memory = QuasiDenseMemory(QuasiDenseOptions(init_score=0.5))
    assert memory.step(0, detections(rows)).tolist() == [0, -3, -3]


def test_weak_boxes_have_the_lower_limit() -> None:
    shifted = place(0, 4.0)  # IoU 6/14
    for score, expected in ((0.29, -3), (0.3, -1)):
        memory = QuasiDenseMemory(QuasiDenseOptions())
        rows = [(0.9, 0, place(0), axis(0)), (score, 0, shifted, axis(1))]
        assert memory.step(0, detections(rows)).tolist() == [0, expected]


def test_what_a_weak_match_and_a_backdrop_do() -> None:
    memory = QuasiDenseMemory(QuasiDenseOptions(init_score=0.7))
    first = [(0.9, 0, place(0), axis(0)), (0.6, 0, place(1), axis(1))]
    assert memory.step(0, detections(first)).tolist() == [0, -1], "the second is a backdrop"
    second = [(0.2, 0, place(0), axis(0)), (0.6, 0, place(1), axis(1))]
    assert memory.step(1, detections(second)).tolist() == [-2, -1]
    third = [(0.9, 0, place(0), axis(0)), (0.8, 0, place(1), axis(1))]
    assert memory.step(2, detections(third)).tolist() == [0, 1], "a backdrop that grew sure"
    other = [(0.9, 1, place(0), axis(0))]
    assert memory.step(3, detections(other)).tolist() == [2], "a track keeps to its class"


@pytest.mark.parametrize("limit", [0.3, 0.7])
def test_limits_are_not_part_of_what_is_above_them(limit: float) -> None:
    """In the type of the scores, in which 0.3 is more than Python's 0.3 and 0.7 less."""
    options = QuasiDenseOptions(init_score=limit, object_score=limit)
    memory = QuasiDenseMemory(options)
    row: Row = (limit, 0, place(0), axis(0))
    assert memory.step(0, detections([row])).tolist() == [-1]
    above: Row = (limit + 1e-6, 0, place(0), axis(0))
    assert memory.step(1, detections([above])).tolist() == [0]
    assert memory.step(2, detections([row])).tolist() == [-2], "weak, and sure to be the track"


def test_frames_without_detections_count() -> None:
    memory = QuasiDenseMemory(QuasiDenseOptions(memory_frames=3))
    memory.step(0, detections([(0.9, 0, place(0), axis(0))]))
    for t in (1, 2, 3):
        assert list(memory.entries) == [0]
        assert memory.step(t, detections([])).tolist() == []
    assert list(memory.entries) == []
    assert memory.step(4, detections([(0.9, 0, place(0), axis(0))])).tolist() == [1]


def test_cosine_is_its_definition() -> None:
    one, other = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0], [-3.0, -4.0]])
    torch.testing.assert_close(cosine(one, other), torch.tensor([[24 / 25, -1.0]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "softmax"}, r"METRIC is 'softmax'; choose bisoftmax or cosine"),
        ({"memory_frames": 0}, "MEMORY_FRAMES is 0"),
        ({"backdrop_frames": -1}, "BACKDROP_FRAMES -1"),
        ({"momentum": 1.5}, "MOMENTUM is 1.5"),
    ],
)
def test_impossible_options(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(QuasiDenseOptions(), **change)


# --- what comes out ---------------------------------------------------------------------------


def frame(rows: list[Row], boxes: bool = True) -> FrameOutputs:
    """Boxes in pixels of a frame of 100 x 100; query i has column i of the masks."""
    found = detections(rows)
    logits = torch.full((len(rows), 3), -6.0)
    logits[torch.arange(len(rows)), found.labels] = found.scores.logit()
    masks = torch.full((len(rows), 4, 12), -4.0)
    for i in range(len(rows)):
        masks[i, :, i] = 4.0
    xyxy = found.boxes_xyxy / 100
    cxcywh = torch.cat([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], 1)
    return FrameOutputs(
        logits, cxcywh if boxes else None, masks, found.embeddings, mask_stride=4,
        input_size=(16, 48),
    )  # fmt: skip


def test_tracks_have_the_scores_of_their_frames() -> None:
    association = QuasiDenseAssociation()
    association.add(0, [frame([(0.8, 1, place(0), axis(0)), (0.9, 2, place(1), axis(1))])])
    association.add(1, [frame([(0.5, 1, place(0), axis(0)), (0.2, 0, place(2), axis(2))])])
    first, second = association.pop_frames(2)
    assert (first.track_ids, first.labels) == ((1, 2), (2, 1)), "ids in the order of the scores"
    assert (second.track_ids, second.labels) == ((2,), (1,))
    assert second.scores == pytest.approx((0.5,))
    assert (first.logits[0, 0] > 0).nonzero().flatten().tolist() == [1]
    assert (second.logits[0, 0] > 0).nonzero().flatten().tolist() == [0]
    one, two = association.pop_closed(everything=True)
    assert [(c.label, round(c.score, 5)) for c in one.classes] == [(2, 0.9)]
    assert [(c.label, round(c.score, 5)) for c in two.classes] == [(1, 0.65)]


def test_a_track_of_several_classes_lists_them() -> None:
    association = QuasiDenseAssociation(QuasiDenseOptions(same_class=False))
    for t, (score, label) in enumerate([(0.8, 1), (0.6, 2), (0.7, 2)]):
        association.add(t, [frame([(score, label, place(0), axis(0))])])
    (track,) = association.pop_closed(everything=True)
    assert [(c.label, round(c.score, 5)) for c in track.classes] == [
        (2, round(1.3 / 3, 5)),
        (1, round(0.8 / 3, 5)),
    ]


def test_what_joins_no_track_comes_out_if_asked_for() -> None:
    rows = [(0.9, 0, place(0), axis(0)), (0.2, 1, place(1), axis(1)), (0.8, 2, place(0), axis(2))]
    association = QuasiDenseAssociation(QuasiDenseOptions(detections=True))
    association.add(0, [frame(rows)])
    (record,) = association.pop_frames(1)
    assert record.track_ids == (1,)
    assert record.rest is not None
    assert (record.rest.track_ids, record.rest.labels) == ((0, 0), (1, 2))
    assert [(m > 0).nonzero()[0, 1].item() for m in record.rest.logits] == [1, 2]
    assert len(association.pop_closed(everything=True)) == 1


def test_tracks_close_when_they_are_forgotten() -> None:
    association = QuasiDenseAssociation(QuasiDenseOptions(memory_frames=3))
    row: Row = (0.9, 0, place(0), axis(0))
    for t in range(8):
        association.add(t, [frame([row] if t < 2 or t > 5 else [])])
        assert [s.track_id for s in association.pop_closed()] == ([1] if t == 4 else [])
    assert [r.track_ids for r in association.pop_frames(8)] == [
        (1,),
        (1,),
        (),
        (),
        (),
        (),
        (2,),
        (2,),
    ]
    assert [s.track_id for s in association.pop_closed(everything=True)] == [2]


def test_without_boxes_those_of_the_masks_count() -> None:
    outputs = frame([(0.9, 0, place(0), axis(0)), (0.8, 0, place(1), axis(1))], boxes=False)
    assert detections_of(outputs).boxes_xyxy.tolist() == [[0, 0, 1, 4], [1, 0, 2, 4]]


def test_the_state_survives_a_file() -> None:
    frames = [frame(rows) for rows in sequence(2)]
    options = QuasiDenseOptions(detections=True)
    straight, before, after = (QuasiDenseAssociation(options) for _ in range(3))
    frames[3] = replace(frames[3], mask_logits=crops(len(frames[3].logits)))
    straight.add(0, frames)
    before.add(0, frames[:11])
    file = io.BytesIO()
    torch.save(before.state(), file)
    file.seek(0)
    after.load_state(torch.load(file, weights_only=True))
    before.add(11, frames[11:])  # changes nothing in what was saved
    after.add(11, frames[11:])
    for one, other in zip(straight.pop_frames(30), after.pop_frames(30), strict=True):
        assert (one.track_ids, one.labels, one.scores) == (
            other.track_ids, other.labels, other.scores,
        )  # fmt: skip
        for a, b in ((one, other), (one.rest, other.rest)):
            assert torch.equal(dense_logits(a.logits), dense_logits(b.logits))
    closed = straight.pop_closed(everything=True)
    assert closed == after.pop_closed(everything=True)
    assert len(closed) > 4


def crops(count: int) -> RoiMasks:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[4.0, 2.0, 30.0, 14.0]]).repeat(count, 1)
    return RoiMasks(torch.randn(count, 4, 4, generator=generator), boxes, (16, 48))


def test_tensor_types() -> None:
    """Half precision and other devices than the memory's are the network's business."""
    outputs = frame([(0.9, 0, place(0), axis(0))])
    half: Tensor = outputs.embeddings.half()
    found = detections_of(replace(outputs, embeddings=half))
    assert found.embeddings.dtype == torch.float32
