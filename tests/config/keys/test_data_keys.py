"""Keys of what is read for training: data sets, sampling, augmentation, loading."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from tests.config.keys.pairs import LATER, Pair, shows, shows_each
from vmt.data.build import LoaderError, build_train_loader
from vmt.data.datasets.categories import label_space
from vmt.data.labels import label_space_from_json
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import ConfigError, VideoError

Samples = list[dict[str, Any]]
#: Clips of two frames as they are in the files.
PLAIN = (
    "INPUT.CLIP_FRAMES", "2", "INPUT.FLIP_PROB", "0.0", "INPUT.COLOR_PROB", "0.0",
    "INPUT.CROP_PROB", "0.0", "INPUT.MIN_SIZE_TRAIN", "[48]", "INPUT.MAX_SIZE_TRAIN", "0",
    "SOLVER.CLIPS_PER_BATCH", "1",
)  # fmt: skip


def at(path: Path) -> str:
    return f"{path}@{path.parent / 'JPEGImages'}"


def of(path: Path) -> tuple[str, str]:
    return "DATASETS.TRAIN", json.dumps([at(path)])


def take(cfg: Any, source: Path | LabelSpace, count: int = 1) -> Samples:
    space = label_space_from_json(source) if isinstance(source, Path) else source
    loader = build_train_loader(cfg, space)
    return [sample for batch in islice(loader, count) for sample in batch]


def first_two(pair: Pair, path: Path) -> Samples:
    return [take(cfg, path)[0] for cfg in pair.configs(*of(path))]


def columns(sample: dict[str, Any]) -> float:
    """Pixels of the source that the width of a clip of the ramp shows."""
    red = sample["image"][0, 0].float()
    return (float(red.max()) - float(red.min())) / 4


# --- which frames, and what they go through -------------------------------------------------------


@shows("INPUT.CLIP_FRAMES", 3, *PLAIN)
def test_clip_frames(pair: Pair, ramp: Path) -> None:
    assert [len(sample["image"]) for sample in first_two(pair, ramp)] == [2, 3]


def distances(cfg: Any, path: Path) -> list[int]:
    """Of the two frames of ten clips, one per key frame."""
    ids = [list(map(int, s["clip_id"].split(","))) for s in take(cfg, path, 10)]
    return [abs(a - b) for a, b in ids]


@shows("INPUT.SAMPLER", "range", *PLAIN, "INPUT.SAMPLER_RANGE", 1)
def test_sampler(pair: Pair, ramp: Path) -> None:
    near, next_to = (distances(cfg, ramp) for cfg in pair.configs(*of(ramp)))
    assert set(next_to) == {1}
    assert {2, 3} & set(near)
    assert max(near) <= 3


@shows("COMPAT", "released", *PLAIN, "INPUT.CLIP_FRAMES", 3)
def test_published_sampler_repeats_frames(pair: Pair, ramp: Path) -> None:
    repeats = [
        sum(len(set(s["clip_id"].split(","))) < 3 for s in take(cfg, ramp, 10))
        for cfg in pair.configs(*of(ramp))
    ]
    assert repeats[0] == 0
    assert repeats[1] >= 2, "the first and the last frame as key frame"


@shows("INPUT.SAMPLER", "span", *PLAIN, "INPUT.CLIP_FRAMES", 3, "INPUT.SAMPLER_RANGE", 2)
def test_span(pair: Pair, ramp: Path) -> None:
    """Of three frames no two are further apart than two: they follow one another."""
    frames = [
        [list(map(int, s["clip_id"].split(","))) for s in take(cfg, ramp, 10)]
        for cfg in pair.configs(*of(ramp))
    ]
    assert max(f[-1] - f[0] for f in frames[0]) > 2
    assert {f[-1] - f[0] for f in frames[1]} == {2}


@shows("INPUT.SAMPLER_RANGE", 2, *PLAIN, "INPUT.SAMPLER", "range")
def test_sampler_range(pair: Pair, ramp: Path) -> None:
    wide, narrow = (distances(cfg, ramp) for cfg in pair.configs(*of(ramp)))
    assert max(wide) > 2
    assert max(narrow) == 2


@shows("INPUT.AUGMENTATION", "none", *PLAIN, "INPUT.FLIP_PROB", "1.0")
def test_augmentation(pair: Pair, ramp: Path) -> None:
    flipped, plain = first_two(pair, ramp)
    assert flipped["image"][0, 0, 0].tolist() == list(range(252, -1, -4))
    assert plain["image"][0, 0, 0].tolist() == list(range(0, 256, 4))


@shows("COMPAT", "released", *PLAIN, "INPUT.CLIP_FRAMES", 3)
def test_published_colours(pair: Pair, ramp: Path) -> None:
    """Drawn frame by frame; the default changes nothing without COLOR_PROB."""
    plain, changed = (take(cfg, ramp, 10) for cfg in pair.configs(*of(ramp)))
    ground = [s["image"].flatten(2).float().mean(2) for s in changed]
    assert all(s["image"][0, 0, 0, 1] == 4 for s in plain)
    assert sum(not torch.allclose(a[0, :2], a[1, :2], atol=2) for a in ground) >= 5


@shows("INPUT.FLIP_PROB", 1.0, *PLAIN)
def test_flip(pair: Pair, ramp: Path) -> None:
    plain, flipped = first_two(pair, ramp)
    assert torch.equal(plain["image"].flip(-1), flipped["image"])
    assert torch.equal(plain["targets"].masks.flip(-1), flipped["targets"].masks)
    assert [float(s["targets"].boxes_cxcywh[0, 0, 0]) for s in (plain, flipped)] == [0.25, 0.75]


@shows("INPUT.COLOR_PROB", 1.0, *PLAIN)
def test_colours(pair: Pair, ramp: Path) -> None:
    """A clip stays as it is when none of four changes is drawn: once in 16."""
    for cfg, changed in zip(pair.configs(*of(ramp)), ((0, 0), (13, 20)), strict=True):
        samples = take(cfg, ramp, 20)
        other = sum(s["image"][0, 0, 0].tolist() != list(range(0, 256, 4)) for s in samples)
        assert changed[0] <= other <= changed[1]


@shows_each(
    {
        "INPUT.MIN_SIZE_TRAIN": ([96], (96, 128)),
        "INPUT.MAX_SIZE_TRAIN": (32, (24, 32)),
    },
    "size",
    *PLAIN,
)
def test_size_in_training(pair: Pair, size: tuple[int, int], ramp: Path) -> None:
    assert [s["targets"].input_size for s in first_two(pair, ramp)] == [(48, 64), size]


CROP = (*PLAIN, "INPUT.CROP_PROB", "1.0", "INPUT.CROP_MIN_SIZES", "[48]",
        "INPUT.CROP_SIZE", "[48, 48]")  # fmt: skip


@shows("INPUT.CROP_PROB", 1.0, *PLAIN, *CROP[-4:])
def test_crop(pair: Pair, ramp: Path) -> None:
    """All 64 columns, or a window of 48x48 pixels."""
    whole, window = first_two(pair, ramp)
    assert (whole["targets"].input_size, window["targets"].input_size) == ((48, 64), (48, 48))
    assert (columns(whole), columns(window)) == (63, 47)


@shows("INPUT.CROP_MIN_SIZES", [96], *CROP)
def test_size_before_the_crop(pair: Pair, ramp: Path) -> None:
    """48 pixels of frames twice as large are 24 of the file's."""
    large, small = (columns(sample) for sample in first_two(pair, ramp))
    assert large == 47
    assert small == pytest.approx(23, abs=1)


@shows("INPUT.CROP_SIZE", [24, 24], *CROP)
def test_crop_size(pair: Pair, ramp: Path) -> None:
    large, small = (columns(sample) for sample in first_two(pair, ramp))
    assert large == 47
    assert small == pytest.approx(23, abs=1)


LSJ = (*PLAIN, "INPUT.AUGMENTATION", "lsj", "INPUT.LSJ_SIZE", "[24, 32]",
       "INPUT.LSJ_SCALE", "[1.0, 1.0]")  # fmt: skip


@shows("INPUT.LSJ_SIZE", [48, 64], *LSJ)
def test_jitter_size(pair: Pair, ramp: Path) -> None:
    assert [s["targets"].input_size for s in first_two(pair, ramp)] == [(24, 32), (48, 64)]


@shows("INPUT.LSJ_SCALE", [2.0, 2.0], *LSJ)
def test_jitter_scale(pair: Pair, ramp: Path) -> None:
    """The window shows the whole frame, or half of its width."""
    whole, half = (columns(sample) for sample in first_two(pair, ramp))
    assert whole == pytest.approx(63, abs=2)
    assert half == pytest.approx(31, abs=2)


@shows("INPUT.LSJ_DRAW", "frame", *LSJ, "INPUT.LSJ_SCALE", "[0.5, 2.0]")
def test_jitter_draw(pair: Pair, still: Path) -> None:
    """Copies of an image: alike, or each with a scale and a window of its own."""
    words = (*of(still), "INPUT.STILLS", "copies")
    alike, differ = (take(cfg, still)[0]["targets"].masks for cfg in pair.configs(*words))
    assert torch.equal(alike[:, 0], alike[:, 1])
    assert not torch.equal(differ[:, 0], differ[:, 1])


@shows("INPUT.STILLS", "copies", *PLAIN)
def test_clips_of_images(pair: Pair, still: Path) -> None:
    moved, same = (take(cfg, still)[0]["image"] for cfg in pair.configs(*of(still)))
    assert not torch.equal(moved[0], moved[1])
    assert torch.equal(same[0], same[1])


ONE_FRAME = (*PLAIN, "INPUT.CLIP_FRAMES", "1")


@shows("INPUT.COPY_PASTE_PROB", 1.0, *ONE_FRAME)
def test_pasted_objects(pair: Pair, still: Path) -> None:
    """Some may hide all of others, but not every time."""
    base, changed = pair.configs(*of(still))
    assert {len(sample["targets"]) for sample in take(base, still, 8)} == {2}
    assert max(len(sample["targets"]) for sample in take(changed, still, 8)) > 2


@shows("INPUT.COPY_PASTE_PROB", 1.5)
def test_no_share_of_pasted_objects(pair: Pair, still: Path) -> None:
    with pytest.raises(ConfigError, match=r"INPUT.COPY_PASTE_PROB is 1.5; give a share"):
        take(pair.configs(*of(still))[1], still)


@shows("COMPAT", "released", *ONE_FRAME)
def test_pseudo_clip(pair: Pair, still: Path) -> None:
    """Overlaps are kept, or go to the later object."""
    areas = [s["targets"].masks.sum((1, 2, 3)).tolist() for s in first_two(pair, still)]
    assert areas == [[256, 256], [128, 256]]


@shows("INPUT.MAX_IMAGE_OBJECTS", 1, *ONE_FRAME)
def test_most_objects_of_an_image(pair: Pair, still: Path) -> None:
    base, changed = pair.configs(*of(still))
    assert len(take(base, still)[0]["targets"]) == 2
    with pytest.raises(LoaderError, match="clips in a row could not be used"):
        take(changed, still)


@shows("COMPAT", "released", *ONE_FRAME)
def test_invisible_tracklets(pair: Pair, ramp: Path) -> None:
    """The second object is in the last of ten frames alone."""
    counts = [
        Counter(len(s["targets"]) for s in take(cfg, ramp, 10)) for cfg in pair.configs(*of(ramp))
    ]
    assert counts == [{1: 9, 2: 1}, {2: 10}]


@shows("INPUT.DEGRADE", ["halo"], *ONE_FRAME)
def test_degrade(pair: Pair, ramp: Path) -> None:
    """The left half, 5 px wider."""
    plain, halo = first_two(pair, ramp)
    assert "coarse" not in plain
    assert halo["coarse"][0, 0, 20].tolist() == [True] * 37 + [False] * 27


@shows("INPUT.LEARN_FRAMES", 1, *ONE_FRAME, "INPUT.CLIP_FRAMES", 3, "INPUT.DEGRADE", "[halo]")
def test_frames_to_learn_from(pair: Pair, ramp: Path) -> None:
    counts = [len(sample["image"]) for sample in first_two(pair, ramp)]
    assert counts == [3, 1]


# --- data sets ------------------------------------------------------------------------------------


@shows("DATASETS.TRAIN", LATER, *PLAIN)
def test_training_sets(pair: Pair, ramp: Path) -> None:
    base, changed = pair.to([at(ramp)])
    with pytest.raises(ConfigError, match=r"DATASETS\.TRAIN is empty"):
        take(base, ramp)
    assert take(changed, ramp)[0]["dataset"] == at(ramp)


@shows("DATASETS.ROOT", LATER, *PLAIN, "DATASETS.TRAIN", "[ytvis_2019_train]")
def test_root(pair: Pair, ramp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "elsewhere"))
    base, changed = pair.to(str(tmp_path))
    folder = tmp_path / "ytvis_2019"
    (folder / "train").mkdir(parents=True)
    (folder / "train.json").write_text(ramp.read_text())
    (folder / "train" / "JPEGImages").symlink_to(ramp.parent / "JPEGImages")
    with pytest.raises(ConfigError, match="elsewhere"):
        take(base, ramp)
    assert len(take(changed, ramp)) == 1


@shows("DATASETS.RATIOS", [9.0, 1.0], *PLAIN)
def test_ratios(pair: Pair, ramp: Path, shapes: Path) -> None:
    """10 and 18 key frames: 28 samples as they come, or 25 to 3."""
    sets = "DATASETS.TRAIN", json.dumps([at(ramp), at(shapes)])
    counts = [
        Counter(s["dataset"] == at(ramp) for s in take(cfg, ramp, 28))
        for cfg in pair.configs(*sets)
    ]
    assert counts == [{True: 10, False: 18}, {True: 25, False: 3}]


@shows("DATASETS.CATEGORY_MAPS", ["ytvis_2019"], *ONE_FRAME)
def test_category_maps(pair: Pair, still: Path) -> None:
    """COCO's 2, a bicycle, has the id 21 of YouTube-VIS."""
    content = json.loads(still.read_text())
    for row in content["categories"]:
        row["name"] = {1: "person", 2: "bicycle", 3: "car"}[row["id"]]
    still = still.with_name("coco.json")
    still.write_text(json.dumps(content))
    space = label_space("ytvis_2019")
    labels = [
        take(cfg, space)[0]["targets"].labels.tolist()
        for cfg in pair.configs(*of(still), "DATASETS.CLASS_MATCH", "id")
    ]
    assert labels == [[space.label_of(key) for key in ids] for ids in ((1, 2), (1, 21))]


@shows("DATASETS.MASK_KEY", "other", *ONE_FRAME)
def test_mask_key(pair: Pair, ramp: Path, tmp_path: Path) -> None:
    content = json.loads(ramp.read_text())
    first, second = content["annotations"]
    first["other"] = [second["segmentations"][-1]] * 10
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    (tmp_path / "JPEGImages").symlink_to(ramp.parent / "JPEGImages")
    areas = [int(s["targets"].masks[0].sum()) for s in first_two(pair, path)]
    assert areas == [48 * 32, 16 * 16]


#: Names in another order than the ids, one of them unknown to the files.
SPACE = LabelSpace("swapped", ("square", "circle", "triangle"), (1, 2, 3))


@shows("DATASETS.CLASS_MATCH", "id", *ONE_FRAME)
def test_class_match(pair: Pair, still: Path) -> None:
    """Categories 1 and 2 are circle and square; in the label space it is the other way round."""
    configs = [*pair.configs(*of(still)), pair.to("any", *of(still))[1]]
    found = [take(cfg, SPACE)[0]["targets"].labels.tolist() for cfg in configs]
    assert found == [[1, 0], [0, 1], [0, 0]]


@shows("DATASETS.UNKNOWN_CLASSES", "drop", *ONE_FRAME)
def test_unknown_classes(pair: Pair, still: Path) -> None:
    space = LabelSpace("half", ("square",), (5,))
    base, changed = pair.configs(*of(still))
    with pytest.raises(ConfigError, match="categories have no class"):
        take(base, space)
    assert take(changed, space)[0]["targets"].labels.tolist() == [0]


# --- loading --------------------------------------------------------------------------------------


@shows("ENGINE.SEED", 7, *PLAIN)
def test_seed_of_the_data(pair: Pair, ramp: Path) -> None:
    base, changed = pair.configs(*of(ramp))
    ids = [[s["clip_id"] for s in take(cfg, ramp, 10)] for cfg in (base, base, changed)]
    assert ids[0] == ids[1] != ids[2]


@shows("SOLVER.CLIPS_PER_BATCH", 3, *PLAIN)
def test_clips_per_batch(pair: Pair, ramp: Path) -> None:
    assert [len(take(cfg, ramp)) for cfg in pair.configs(*of(ramp))] == [1, 3]


@shows_each(
    {
        "DATALOADER.NUM_WORKERS": (3, "num_workers", 1, 3),
    },
    "option,before,after",
    *PLAIN, "DATALOADER.NUM_WORKERS", "1",
)  # fmt: skip
def test_workers_are_asked_of_torch(
    pair: Pair, option: str, before: int, after: int, ramp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Asked(DataLoader[Any]):
        def __init__(self, *args: Any, **options: Any) -> None:
            asked.append(options[option])
            raise InterruptedError  # before a process starts

    monkeypatch.setattr("vmt.data.build.DataLoader", Asked)
    for cfg in pair.configs(*of(ramp)):
        with pytest.raises(InterruptedError):
            take(cfg, ramp)
    assert asked == [before, after]


@pytest.fixture
def broken(ramp: Path, tmp_path: Path) -> Path:
    """The ramp without its first five frames."""
    (tmp_path / "JPEGImages").mkdir()
    for path in sorted((ramp.parent / "JPEGImages").iterdir())[5:]:
        (tmp_path / "JPEGImages" / path.name).symlink_to(path)
    path = tmp_path / "annotations.json"
    path.write_text(ramp.read_text())
    return path


@shows("DATALOADER.ON_ERROR", "fail", *ONE_FRAME)
def test_damaged_frames(pair: Pair, broken: Path) -> None:
    base, changed = pair.configs(*of(broken))
    loader = build_train_loader(base, label_space_from_json(broken))
    shown = [s["clip_id"] for batch in islice(loader, 10) for s in batch]
    assert set(map(int, shown)) <= set(range(5, 10))
    assert loader.skipped.total() >= 5
    with pytest.raises(VideoError, match=r"0000[0-4]\.png: no such"):
        take(changed, broken, 10)
