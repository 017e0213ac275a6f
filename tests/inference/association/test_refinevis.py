"""RefineVIS's association against loops, and what holds of its two modes."""

from __future__ import annotations

import gc
import io
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.inference.fake_model import (
    LABELS,
    BlobFrameModel,
    BlobRefiningModel,
    FullColourRefiner,
    blob_video,
    small_tar,
)
from vmt.inference.association.base import FrameLogits, TrackSummary
from vmt.inference.association.bisoftmax import BisoftmaxAssociation, BisoftmaxOptions
from vmt.inference.association.refinement import OnlineRefinement
from vmt.inference.association.refinevis import RefineVISAssociation, RefineVISOptions
from vmt.inference.association.tracker import Tracker
from vmt.inference.predictor import FrameResult, PredictorOptions, VideoPredictor
from vmt.modeling.video_model import FrameOutputs, ModelOptions, RefiningModel, class_probs
from vmt.utils.errors import CheckpointError, ConfigError

MODES = ("online", "offline")
SIZE = (72, 120)
C, CLASSES = 8, 3


class Heads(RefiningModel):
    """Linear heads and TAR, all random; masks depend on a reference point, if there is one."""

    def __init__(self, window: int = 4, *, random: bool = True, no_object: bool = False) -> None:
        super().__init__(ModelOptions(LABELS))
        self.window = window
        self.tar = small_tar(window, random=random)
        self.no_object = no_object
        self.classes = nn.Linear(C, CLASSES + no_object)
        torch.manual_seed(2)
        nn.init.normal_(self.classes.weight)
        nn.init.constant_(self.classes.bias, -5.0)
        self.eval()

    @classmethod
    def from_config(cls, cfg, label_space) -> Heads:
        return cls()

    def losses(self, batch, adversary=None) -> dict[str, Tensor]:
        raise NotImplementedError

    def segment_frames(self, frames: Tensor) -> list[FrameOutputs]:
        raise NotImplementedError

    def refine(self, embeds: Tensor, times: Tensor, readable: Tensor, last_only: bool) -> Tensor:
        return self.tar(embeds, times, readable, last_only)

    def class_head(self, embeds: Tensor) -> Tensor:
        return self.classes(embeds)

    def mask_head(self, embeds: Tensor, pixel: Tensor, refs: Tensor | None) -> Tensor:
        masks = torch.einsum("qc,chw->qhw", embeds, pixel)
        return masks if refs is None else masks + refs.sum(-1)[:, None, None]


def video(
    model: Heads, count: int, seed: int = 0, *, refs: bool = False, objects: int = 4
) -> list[FrameOutputs]:
    """Objects that are missed at random, in queries whose order changes."""
    generator = torch.Generator().manual_seed(seed)
    identity = torch.randn(objects, C, generator=generator)
    frames = []
    for _ in range(count):
        order = torch.randperm(objects, generator=generator)
        seen = torch.rand(objects, generator=generator) > 0.4
        logits = torch.full((objects, CLASSES + model.no_object), -5.0)
        logits[:, -1] += 5.0 * model.no_object
        for row, i in enumerate(order.tolist()):
            logits[row, i % CLASSES] = 3.0 - 0.5 * i if seen[i] else -5.0
        frames.append(
            FrameOutputs(
                logits,
                None if model.no_object else torch.rand(objects, 4, generator=generator),
                model.in_precision(model.mask_head),
                6 * torch.eye(objects, C)[order],
                mask_stride=4,
                input_size=(24, 32),
                query=(identity + 0.3 * torch.randn(objects, C, generator=generator))[order],
                pixel=torch.randn(C, 6, 8, generator=generator),
                refs=torch.rand(objects, 2, generator=generator) if refs else None,
                no_object=model.no_object,
            )
        )
    return frames


def association(
    model: RefiningModel, mode: str = "online", window: int = -1, **options
) -> BisoftmaxAssociation:
    asked = PredictorOptions(refinevis=RefineVISOptions(mode, window, **options))
    return asked.association(model)


def run(
    tracks: BisoftmaxAssociation, frames: list[FrameOutputs]
) -> tuple[list[FrameLogits], list[TrackSummary]]:
    """All frames, in the clips that it asks for."""
    length = tracks.clip or 3
    for start in range(0, len(frames), length):
        tracks.add(start, frames[start : start + length])
    return tracks.pop_frames(len(frames)), tracks.pop_closed(everything=True)


# --- loops ------------------------------------------------------------------------------------


class Loops:
    """RefineVIS one tracklet and one frame at a time, as its specification says it."""

    def __init__(self, model: Heads, frames: list[FrameOutputs]) -> None:
        self.model, self.frames = model, frames
        options = BisoftmaxOptions()
        tracker = Tracker(options.selection, options.memory)
        self.steps = [tracker.steps([frame])[0] for frame in frames]

    def embed(self, t: int, i: int) -> Tensor:
        query = self.steps[t].query.get(i)
        return torch.zeros(C) if query is None else self.frames[t].query[query]

    def ref(self, t: int, i: int) -> Tensor:
        return self.frames[t].refs[self.steps[t].query[i]]

    def online(self) -> list[dict[int, tuple[Tensor, Tensor | None]]]:
        """Per frame, what each living tracklet is refined to, and its reference point."""
        stored: dict[int, list[tuple[int, Tensor]]] = {}
        refs: dict[int, Tensor] = {}
        answer = []
        for t, step in enumerate(self.steps):
            answer.append({})
            for i in step.alive:
                past = [pair for pair in stored.get(i, []) if t - pair[0] < self.model.window]
                sequence = torch.stack([e for _, e in past] + [self.embed(t, i)])
                times = torch.tensor([s for s, _ in past] + [t])
                refined = self.model.tar(sequence[None], times)[0, -1]
                stored[i] = [*past, (t, refined)]
                if self.frames[t].refs is not None and i in step.query:
                    refs[i] = self.ref(t, i)
                answer[-1][i] = (refined, refs.get(i))
        return answer

    def offline(self) -> list[dict[int, tuple[Tensor, Tensor | None]]]:
        answer: list[dict[int, tuple[Tensor, Tensor | None]]] = [{} for _ in self.frames]
        for start in range(0, len(self.frames), self.model.window):
            clip = range(start, min(start + self.model.window, len(self.frames)))
            for i in {i for t in clip for i in self.steps[t].query}:
                span = [t for t in clip if i in self.steps[t].alive]
                sequence = torch.stack([self.embed(t, i) for t in span])
                refined = self.model.tar(sequence[None], torch.tensor(span))[0]
                for t, embed in zip(span, refined, strict=True):
                    ref = None
                    if self.frames[t].refs is not None:
                        matched = [s for s in clip if i in self.steps[s].query]
                        ref = self.ref(min(matched, key=lambda s: (abs(s - t), s)), i)
                    answer[t][i] = (embed, ref)
        return answer

    @torch.inference_mode()
    def expected(self, mode: str, least: float = 0.1, alive: bool = False) -> list[dict]:
        """Per frame, tracklet -> (probability of its best class so far, mask)."""
        sums: dict[int, Tensor] = {}
        counts: dict[int, int] = {}
        shown: list[dict] = []
        for t, refined in enumerate(getattr(self, mode)()):
            shown.append({})
            step, frame = self.steps[t], self.frames[t]
            for i, (embed, ref) in refined.items():
                probs = class_probs(self.model.class_head(embed), no_object=frame.no_object)
                if i in step.query or alive:
                    sums[i], counts[i] = sums.get(i, 0) + probs, counts.get(i, 0) + 1
                if i in step.query or probs.max() > least:
                    one = None if ref is None else ref[None]
                    mask = self.model.mask_head(embed[None], frame.pixel, one)[0]
                    shown[-1][i] = (float((sums[i] / counts[i]).max()), mask)
        return shown


def no_short_tracks(model: Heads, mode: str, **options) -> BisoftmaxAssociation:
    """Loops know nothing of dropped tracks, so numbers of tracks are tracklets + 1."""
    bisoftmax = BisoftmaxOptions()
    bisoftmax = replace(bisoftmax, tracks=replace(bisoftmax.tracks, short_matches=0))
    asked = RefineVISOptions(mode, **options)
    return RefineVISAssociation.from_options(
        PredictorOptions(bisoftmax=bisoftmax, refinevis=asked), model
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "case", [{}, {"refs": True}, {"no_object": True}, {"alive": True}, {"least": 0.3}, {"W": 1}]
)
def test_equals_the_loops(mode: str, case: dict) -> None:
    model = Heads(case.get("W", 4), no_object=case.get("no_object", False))
    frames = video(model, 26, refs=case.get("refs", False))
    least, alive = case.get("least", 0.1), case.get("alive", False)
    score_frames = "alive" if alive else "matched"
    tracks = no_short_tracks(model, mode, recover_score=least, score_frames=score_frames)
    records, _ = run(tracks, frames)
    loops = Loops(model, frames)
    missed = hidden = 0
    for t, (record, shown) in enumerate(
        zip(records, loops.expected(mode, least, alive), strict=True)
    ):
        assert record.track_ids == tuple(sorted(i + 1 for i in shown))
        for number, score, logits in zip(
            record.track_ids, record.scores, record.logits, strict=True
        ):
            expected_score, expected_mask = shown[number - 1]
            assert score == pytest.approx(expected_score, abs=1e-5)
            torch.testing.assert_close(logits, expected_mask, rtol=1e-4, atol=1e-4)
            missed += number - 1 not in loops.steps[t].query
        hidden += len(loops.steps[t].alive) > len(shown)
    assert hidden > 0 or "least" not in case, "frames that show too little"
    assert (missed > 0) == ("W" not in case or mode == "online"), "recovered frames"


# --- what holds whatever the weights ------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_refined_over_no_frames(mode: str) -> None:
    """TEST.REFINEVIS.WINDOW 0, or a network without: tracks are those of bisoftmax, to the bit."""
    for model, window in ((Heads(), 0), (Heads(0), -1)):
        frames = video(model, 12)
        records, closed = run(association(model, mode, window), frames)
        plain, plain_closed = run(BisoftmaxAssociation(), frames)
        assert closed == plain_closed
        for one, other in zip(records, plain, strict=True):
            assert (one.track_ids, one.labels, one.scores) == (
                other.track_ids,
                other.labels,
                other.scores,
            )
            assert torch.equal(one.logits, other.logits)


@pytest.mark.parametrize("mode", MODES)
def test_a_fresh_tar_changes_nothing(mode: str) -> None:
    """Until it has learnt, refined frames are those of the network, and missed ones are empty."""
    clip = [frame.numpy() for frame in blob_video(11, SIZE)]
    clip[4:6] = [frame.numpy() for frame in blob_video(2, SIZE, 1)]
    refined, plain = (
        VideoPredictor(
            BlobRefiningModel(),
            PredictorOptions(min_size=72, refinevis=RefineVISOptions(mode, window)),
        )
        for window in (4, 0)
    )
    streams = [runner.stream(clip) for runner in (refined, plain)]
    one, other = (outline(list(stream)) for stream in streams)
    assert one == other
    assert len(one[4][1]) == 1
    assert len(one[6][1]) == 2
    assert streams[0].finish() == streams[1].finish()


def test_later_frames_change_nothing_online() -> None:
    model = Heads()
    frames = video(model, 20)
    records, _ = run(association(model), frames)
    short, _ = run(association(model), frames[:13])
    for one, other in zip(short, records, strict=False):
        assert (one.track_ids, one.scores) == (other.track_ids, other.scores)
        assert torch.equal(one.logits, other.logits)


@torch.inference_mode()
def test_one_frame_alone_is_the_same_online_and_offline() -> None:
    model = Heads(1)
    frames = video(model, 15, refs=True)
    online, offline = (run(association(model, mode), frames)[0] for mode in MODES)
    shown = 0
    for one, other in zip(online, offline, strict=True):
        rows = [one.track_ids.index(number) for number in other.track_ids]
        torch.testing.assert_close(one.logits[rows], other.logits)
        assert [one.scores[row] for row in rows] == pytest.approx(list(other.scores))
        shown += len(rows)
    assert shown > 20


def test_what_a_clip_holds_is_out_when_it_is_in() -> None:
    """Memory is that of W frames: nothing waits for the end of the video."""
    model = Heads(5)
    frames = video(model, 12)
    tracks = association(model, "offline")
    for start in (0, 5, 10):
        tracks.add(start, frames[start : start + 5])
        popped = tracks.pop_frames(start + 5)
        assert [r.index for r in popped] == list(range(start, min(start + 5, 12)))
    alone, _ = run(association(model, "offline"), frames[:5])
    assert alone[4].logits.shape == run(association(model, "offline"), frames)[0][4].logits.shape


@pytest.mark.parametrize("mode", MODES)
def test_the_state_survives_a_file(mode: str) -> None:
    model = Heads()
    frames = video(model, 24, refs=True)
    straight, before, after = (association(model, mode) for _ in range(3))
    records, closed = run(straight, frames)
    run_part(before, frames, 0, 12)
    file = io.BytesIO()
    torch.save(before.state(), file)
    file.seek(0)
    after.load_state(torch.load(file, weights_only=True))
    run_part(after, frames, 12, 24)
    for one, other in zip(records, after.pop_frames(24), strict=True):
        assert (one.track_ids, one.scores) == (other.track_ids, other.scores)
        assert torch.equal(one.logits, other.logits)
    assert closed == after.pop_closed(everything=True)


def run_part(
    tracks: BisoftmaxAssociation, frames: list[FrameOutputs], start: int, end: int
) -> None:
    for first in range(start, end, 4):
        tracks.add(first, frames[first : first + 4])


@pytest.mark.parametrize("refs", [False, True])
def test_nobody_is_there(refs: bool) -> None:
    model = Heads()
    shown = video(model, 9, refs=refs)
    frames = [replace(f, logits=torch.full_like(f.logits, -5.0)) for f in shown]
    for mode in MODES:
        records, closed = run(association(model, mode), frames)
        assert [record.track_ids for record in records] == [()] * 9
        assert all(record.logits.shape == (0, 6, 8) for record in records)
        assert closed == []


def test_what_is_remembered_is_bounded() -> None:
    """Of living tracklets alone, W - 1 frames each."""
    model = Heads()
    frames = [f for seed in range(6) for f in video(model, 4, seed)]
    refinement = OnlineRefinement(model, 4)
    tracker = Tracker(BisoftmaxOptions().selection, BisoftmaxOptions().memory)
    for frame in frames:
        (step,) = tracker.steps([frame])
        refinement.refine([step], [frame])
        state = refinement.state()
        assert state["ages"].keys() == step.alive
        assert state["past"].shape == (len(step.alive), 3, C)


# --- through the predictor ------------------------------------------------------------------------


def outline(results: list[FrameResult]) -> list[tuple]:
    return [
        (r.index, [(t.track_id, t.label, round(t.score, 5), t.rle["counts"]) for t in r.tracks])
        for r in results
    ]


def predictor(mode: str = "online", window: int = 0, model_window: int = 4) -> VideoPredictor:
    options = PredictorOptions(window=window, min_size=72, refinevis=RefineVISOptions(mode))
    return VideoPredictor(BlobRefiningModel(model_window, random=True), options)


def test_a_live_video_is_the_stream_and_goes_on_another_day(tmp_path: Path) -> None:
    clip = [frame.numpy() for frame in [*blob_video(8, SIZE), *blob_video(5, SIZE, 1)]]
    expected = outline(list(predictor().stream(clip)))
    assert outline(list(predictor(window=5).stream(clip))) == expected
    before, after = predictor(), predictor()
    for frame in clip[:7]:
        before.step(frame)
    before.save_state(tmp_path / "live.pth")
    after.model.frames_seen = 7
    after.load_state(tmp_path / "live.pth")
    assert outline([after.step(frame) for frame in clip[7:]]) == expected[7:]
    with pytest.raises(CheckpointError, match=r"WINDOW 4, not 3; choose the same"):
        predictor(model_window=3).load_state(tmp_path / "live.pth")
    plain = VideoPredictor(BlobFrameModel(), PredictorOptions(min_size=72))
    with pytest.raises(CheckpointError, match="of a RefineVISAssociation"):
        plain.load_state(tmp_path / "live.pth")


def test_offline_reads_clips_and_cannot_be_stepped() -> None:
    clip = [frame.numpy() for frame in blob_video(10, SIZE)]
    runner = predictor("offline", window=3)
    results = list(runner.stream(clip, keep_frames=True))
    assert runner.model.calls == [4, 4, 2]
    assert [r.index for r in results] == list(range(10))
    assert all(np.array_equal(r.frame, clip[r.index]) for r in results)
    for call in (lambda: runner.step(clip[0]), runner.finish):
        with pytest.raises(ConfigError, match="MODE online for a live video"):
            call()
    assert predictor("offline", model_window=1).step(clip[0]).tracks


def test_a_refiner_of_masks_gets_the_same_clips() -> None:
    runner = predictor("offline")
    runner.model.refiner = FullColourRefiner()
    clip = [frame.numpy() for frame in blob_video(7, SIZE)]
    assert [r.index for r in runner.stream(clip)] == list(range(7))
    assert runner.model.calls == [4, 3]
    assert runner.model.refiner.windows
    with pytest.raises(ConfigError, match="MODE online for a live video"):
        runner.step(clip[0])


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "count"), [("online", 2000), ("offline", 1000)])
def test_two_thousand_frames_in_flat_memory(mode: str, count: int) -> None:
    red, blue, grey = (blob_video(1, SIZE, blobs)[0].numpy() for blobs in (1, 3, 0))

    def source() -> Iterator[np.ndarray]:
        for t in range(count):
            yield (red, grey, blue, grey)[t // 12 % 4]

    peaks, closed = [], []
    model = BlobRefiningModel(10, random=True)
    options = PredictorOptions(min_size=32, refinevis=RefineVISOptions(mode))
    stream = VideoPredictor(model, options).stream(source())
    tracemalloc.start()
    for result in stream:
        closed += [summary.track_id for summary in result.closed]
        if result.index in (399, count - 1):
            gc.collect()
            peaks.append(tracemalloc.get_traced_memory()[0])
            model.calls.clear()
    tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000
    closed += [summary.track_id for summary in stream.finish()]
    assert len(closed) == len(set(closed))
    assert len(closed) > count // 33


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mode": "past"}, r"TEST\.REFINEVIS\.MODE is 'past'; choose online or offline"),
        ({"score_frames": "all"}, r"SCORE_FRAMES is 'all'; choose matched or alive"),
        ({"window": -2}, r"TEST\.REFINEVIS\.WINDOW is -2"),
    ],
)
def test_impossible_options(options: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        RefineVISOptions(**options)


def test_networks_that_refine_nothing() -> None:
    wanted = PredictorOptions(frame_association="refinevis", refinevis=RefineVISOptions(window=5))
    for model in (BlobFrameModel(), Heads(0)):
        with pytest.raises(ConfigError, match="has nothing that refines over 5 frames"):
            wanted.association(model)
    plain = PredictorOptions(frame_association="refinevis").association(BlobFrameModel())
    assert type(plain) is BisoftmaxAssociation
