"""What the buttons do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocoapi_hq.io import rle
from tests.apps.app.conftest import CONFIG, FRAMES, SIZE, Grow, Steps
from tests.inference.fake_model import BlobModel
from vmt.apps.app import networks as networks_module
from vmt.apps.app.actions import (
    add_corner,
    add_object,
    checked_label,
    delete,
    find,
    follow,
    rename,
    sharpen,
    undo_corner,
)
from vmt.apps.app.networks import Networks
from vmt.apps.app.options import AppOptions
from vmt.apps.app.session import AppError, Session, Track
from vmt.apps.app.view import COLUMNS, draw_view, frame_tracks, table, zoom_of
from vmt.data.images import read_picture
from vmt.data.mask_files.base import Change
from vmt.inference import package_detector
from vmt.inference.propagation.propagator import MaskPropagator
from vmt.inference.propagation.view import ViewMaker
from vmt.utils.errors import ConfigError


def box(session: Session, frame: int, x1: int, y1: int, x2: int, y2: int, label: str = "") -> Track:
    add_corner(session, frame, (x1, y1), box=True)
    add_corner(session, frame, (x2, y2), box=True)
    return add_object(session, label)


def bits(mask: rle.Rle | None) -> np.ndarray:
    assert mask is not None
    return rle.decode(mask)


# --- drawing


def test_a_box(session: Session) -> None:
    track = box(session, 2, 30, 40, 10, 20, "cup")
    expected = np.zeros(SIZE, bool)
    expected[20:40, 10:30] = True
    assert list(track.masks) == [2]
    np.testing.assert_array_equal(bits(track.masks[2]), expected)
    assert session.drawing.corners == []
    assert session.drawing.box


def test_a_polygon(session: Session) -> None:
    for xy in ((10, 10), (40, 10), (40, 30), (10, 30), (70, 40)):
        add_corner(session, 0, xy, box=False)
    undo_corner(session)
    track = add_object(session, "")
    assert track.label == "object"
    assert rle.area(track.masks[0]) == 30 * 20


def test_a_mask_for_an_object_that_is_there(session: Session) -> None:
    track = box(session, 0, 10, 10, 20, 20, "cup")
    add_corner(session, 3, (0, 0), box=True)
    add_corner(session, 3, (5, 5), box=True)
    assert add_object(session, "ignored", track.track_id) is track
    assert sorted(track.masks) == [0, 3]
    assert track.label == "cup"
    assert list(session.tracks) == [1]


def test_corners_outside_are_moved_inside(session: Session) -> None:
    assert rle.area(box(session, 0, -50, -50, 900, 900).masks[0]) == SIZE[0] * SIZE[1]


def test_a_third_corner_of_a_box_and_another_frame_or_shape_start_anew(session: Session) -> None:
    for xy in ((1, 1), (5, 5), (9, 9)):
        add_corner(session, 0, xy, box=True)
    assert session.drawing.corners == [(9, 9)]
    add_corner(session, 1, (2, 2), box=True)
    assert (session.drawing.frame, session.drawing.corners) == (1, [(2, 2)])
    add_corner(session, 1, (3, 3), box=False)
    assert session.drawing.corners == [(3, 3)]


def test_drawings_that_are_none(session: Session) -> None:
    for shape, need in ((True, "two opposite corners"), (False, "three corners")):
        add_corner(session, 0, (5, 5), box=shape)
        with pytest.raises(AppError, match=need):
            add_object(session, "")
    for xy in ((5, 5), (5, 5)):
        add_corner(session, 1, xy, box=True)
    with pytest.raises(AppError, match="encloses no pixel"):
        add_object(session, "")
    assert session.tracks == {}


def test_labels(session: Session) -> None:
    assert checked_label("  a\n\tb ") == "a b"
    assert checked_label("") == checked_label(" \x00") == "object"
    assert len(checked_label("x" * 500)) == 40
    track = box(session, 0, 10, 10, 20, 20)
    rename(session, track.track_id, "big  dog")
    assert track.label == "big dog"
    with pytest.raises(AppError):
        rename(session, 99, "x")
    assert delete(session, track.track_id) is track
    assert session.tracks == {}
    with pytest.raises(AppError):
        delete(session, track.track_id)


# --- finding


def test_find(session: Session, networks: Networks) -> None:
    drawn = box(session, 0, 1, 1, 9, 9, "mine")
    steps = Steps()
    text = find(session, networks, steps.job())
    assert text == "2 objects found with a score of at least 0.3."
    assert steps[0] == (0, FRAMES, "loading the network")
    assert steps[1:] == [(t + 1, FRAMES, "finding objects") for t in range(FRAMES)]
    found = [track for track in session.tracks.values() if track.found]
    assert sorted(track.label for track in found) == ["green", "red"]
    frames = list(session.video().source)
    for track in found:
        assert track.score > 0.8
        assert sorted(track.masks) == list(range(FRAMES))
        own = {"red": 0, "green": 1}[track.label]
        for t, mask in track.masks.items():
            inside = frames[t][bits(mask)].mean(0)
            assert inside.argmax() == own
    find(session, networks, Steps().job())  # in place of those before, not beside them
    assert len(session.tracks) == 3
    assert session.tracks[drawn.track_id] is drawn


def test_find_stops_between_windows_and_keeps_what_is_done(
    session: Session, networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = BlobModel()
    monkeypatch.setattr(networks_module, "load_segmenter", lambda *_: model)
    words = ("INPUT.MIN_SIZE_TEST", "48", "TEST.WINDOW", "2", "TEST.STRIDE", "1")
    in_windows = Networks(AppOptions(CONFIG, "toy.pth", overrides=words))
    text = find(session, in_windows, Steps(stop_at=2).job())
    assert text.endswith(f"Stopped after 2 of {FRAMES} frames; what is done stays.")
    assert len(model.clips) < FRAMES - 1
    assert session.tracks
    assert all(sorted(track.masks) == [0, 1] for track in session.tracks.values())


def test_random_weights_are_not_hidden(session: Session, networks: Networks) -> None:
    plain = Networks(AppOptions(CONFIG, overrides=("INPUT.MIN_SIZE_TEST", "48")))
    assert "its masks mean nothing" in find(session, plain, Steps().job())


def test_no_network_that_finds(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(package_detector, "FOLDER", tmp_path / "nothing")
    networks = Networks(AppOptions())
    with pytest.raises(AppError, match="--config-file CONFIG --weights FILE"):
        find(session, networks, Steps().job())


def test_find_needs_a_video(tmp_path, networks: Networks) -> None:
    with pytest.raises(AppError, match="no video yet"):
        find(Session(tmp_path), networks, Steps().job())


# --- sharpening


def test_sharpen_keeps_the_masks_before(session: Session, networks: Networks, grow: Grow) -> None:
    one = box(session, 1, 10, 10, 20, 20)
    two = box(session, 3, 40, 10, 50, 30)
    steps = Steps()
    assert sharpen(session, networks, steps.job()) == "2 masks sharpened, 2 of them changed."
    assert steps[1:] == [(t + 1, 3, "sharpening masks") for t in range(3)]
    assert grow.frames == 3  # from the first mask to the last
    for track, t in ((one, 1), (two, 3)):
        before, after = (bits(track.mask(t, sharp=sharp)) for sharp in (False, True))
        h, w = (10, 10) if track is one else (20, 10)
        assert before.sum() == h * w
        assert after.sum() == h * w + 2 * (h + w)
        assert track.changes[t].changed_px == 2 * (h + w)
    assert sharpen(session, networks, Steps().job())  # from the masks before, again
    assert bits(one.mask(1)).sum() == 140


def test_sharpen_stops_between_frames_and_keeps_what_is_done(
    session: Session, networks: Networks, grow: Grow
) -> None:
    track = box(session, 0, 10, 10, 20, 20)
    for t in range(1, FRAMES):
        track.put(t, track.masks[0])
    text = sharpen(session, networks, Steps(stop_at=2).job())
    assert text.endswith(f"Stopped after 2 of {FRAMES} frames; what is done stays.")
    assert grow.frames == 2
    assert sorted(track.changes) == [0, 1]
    assert track.mask(4) is track.masks[4]


def test_a_mask_that_was_drawn_meanwhile_is_not_overruled() -> None:
    track = Track(1, "cup")
    old = rle.encode(np.ones(SIZE, bool))
    change = Change(0, "0", 0, "1", 1, 1, 0.9, False, old)
    track.put(0, old)
    track.change(old, change)
    assert track.changes
    track.put(0, rle.encode(np.ones(SIZE, bool)))
    assert not track.changes  # of another mask
    track.change(old, change)
    track.change(None, change)
    assert not track.changes


def test_nothing_to_sharpen(session: Session, networks: Networks) -> None:
    with pytest.raises(AppError, match="no object yet"):
        sharpen(session, networks, Steps().job())


# --- following


@pytest.fixture
def propagator(networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, but what it finds is not refined."""
    made = MaskPropagator(None, ViewMaker.from_pretrained())
    monkeypatch.setattr(Networks, "propagator", lambda self: made)


def test_a_box_in_one_frame_is_followed_both_ways(
    session: Session, networks: Networks, propagator: None
) -> None:
    frames = list(session.video().source)
    red = [frame[..., 0].astype(int) - frame[..., 1:].max(-1) > 60 for frame in frames]
    ys, xs = np.nonzero(red[2])
    track = box(session, 2, xs.min(), ys.min(), xs.max() + 1, ys.max() + 1, "red")
    steps = Steps()
    assert follow(session, networks, steps.job()) == f"{FRAMES} masks of 1 object."
    assert steps[0] == (0, FRAMES, "loading the network")
    assert steps[-1] == (FRAMES, FRAMES, "following objects")
    assert sorted(track.best()) == list(range(FRAMES))
    for t, mask in track.best().items():
        seen = bits(mask)
        assert np.count_nonzero(seen & red[t]) > 0.7 * np.count_nonzero(red[t])
        assert (track.mask(t, sharp=False) is None) == (t != 2)
        assert track.changes[t].propagated == (t != 2)
    track.put(4, track.masks[2])  # drawn anew there; the others stay until the next time
    assert 4 not in track.changes
    assert len(track.best()) == FRAMES


def test_following_stops_between_frames(
    session: Session, networks: Networks, propagator: None
) -> None:
    track = box(session, 0, 10, 10, 40, 40)
    text = follow(session, networks, Steps(stop_at=2).job())
    assert text.endswith(f"Stopped after 2 of {FRAMES} frames; what is done stays.")
    assert max(track.changes) == 1


def test_what_a_network_found_is_not_followed(session: Session, networks: Networks) -> None:
    find(session, networks, Steps().job())
    with pytest.raises(AppError, match="no drawn object"):
        follow(session, networks, Steps().job())


# --- what is seen


def test_the_view_shows_masks_before_and_after(session: Session, networks: Networks) -> None:
    track = box(session, 1, 20, 16, 50, 36, "cup")
    sharpen(session, networks, Steps().job())
    for sharp in (False, True):
        (mask,), names = frame_tracks(session, 1, sharp=sharp)
        assert mask.rle is track.mask(1, sharp=sharp)
        assert (names[mask.label], mask.box_xyxy_px[0]) == ("cup", 20 - sharp)
    pictures = [read_picture(draw_view(session, t, sharp=s)) for t in (0, 1) for s in (0, 1)]
    np.testing.assert_array_equal(pictures[0], pictures[1])  # no object there
    assert np.abs(pictures[2].astype(int) - pictures[3]).max() > 50
    plain = session.video().picture(1).astype(int)
    seen = np.asarray(Image.fromarray(pictures[2]).resize(SIZE[::-1], Image.Resampling.BOX))
    assert np.abs(seen - plain)[16:36, 20:50].mean() > 10


def test_a_drawing_is_seen_in_its_frame(session: Session) -> None:
    plain = [read_picture(draw_view(session, t, sharp=True)).astype(int) for t in (0, 1)]
    for xy in ((10, 10), (60, 10), (60, 40)):
        add_corner(session, 0, xy, box=False)
    drawn = [read_picture(draw_view(session, t, sharp=True)) for t in (0, 1)]
    zoom = zoom_of(session.video())
    assert zoom == 9
    assert drawn[0].shape == (9 * SIZE[0], 9 * SIZE[1], 3)
    near = np.abs(plain[0] - drawn[0]).max(2) > 60
    assert near[90, 100:540].all()  # from the first corner to the second
    assert near[90:360, 540].all()
    assert not near[200:, :400].any()
    assert np.abs(plain[1] - drawn[1]).max() == 0


def test_the_table(session: Session, networks: Networks) -> None:
    box(session, 1, 10, 10, 20, 20, "cup")
    find(session, networks, Steps().job())
    assert len(COLUMNS) == 5
    rows = table(session)
    assert rows[0] == ["1", "cup", "drawn", "1", "0"]
    assert rows[1][2:] == [f"{session.tracks[2].score:.2f}", str(FRAMES), "0"]
    track = session.tracks[1]
    for t, area, mask in ((1, 100, None), (2, 0, track.masks[1]), (3, 0, None)):
        track.change(track.masks.get(t), Change(t, str(t), 0, "1", area, 0, 0.9, False, mask))
    assert table(session)[0][3:] == ["2", "2"]  # kept, followed; not found in frame 3


# --- options


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"port": -1}, "--port -1"),
        ({"max_upload_mb": 0}, "--max-upload-mb 0"),
        ({"max_frames": 0}, "--max-frames 0"),
        ({"keep_minutes": 0}, "--keep-minutes 0"),
        ({"weights": "a.pth"}, "--config-file"),
        ({"overrides": ("A", "1")}, "--config-file"),
    ],
)
def test_options_out_of_range(
    asked, match: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(package_detector, "FOLDER", tmp_path / "nothing")
    with pytest.raises(ConfigError, match=match):
        AppOptions(**asked)


def test_a_folder_of_videos_must_be_there(tmp_path) -> None:
    AppOptions(videos=tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        AppOptions(videos=tmp_path / "none")
