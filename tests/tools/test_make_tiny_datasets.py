"""Stand-ins of every data set: found by name, readable to the last mask, complete or not there."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from cocoapi_hq.io import rle
from tests.conftest import load_tool
from vmt.data.catalog import load_dataset
from vmt.data.datasets.mots import load_mots
from vmt.data.datasets.splits import SPLITS
from vmt.data.images import read_frame
from vmt.data.verify import verify_split

TOOL = load_tool("make_tiny_datasets")


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.name)
def test_every_split_is_there_and_sound(split, tiny_datasets: Path) -> None:
    found = verify_split(split, str(tiny_datasets), decode=1)
    assert found.problems == []
    assert len(found.notes) == bool(split.num_videos)  # two or three videos are not 2,238
    data = load_dataset(split.name, str(tiny_datasets))
    assert 2 <= len(data) <= 7
    assert (data[0].annotations is not None) == split.annotated


def test_masks_are_where_the_objects_are(tiny_datasets: Path) -> None:
    record = load_dataset("hq_ytvis_val", str(tiny_datasets))[0]
    frame = read_frame(record.frame_paths[0])
    for tracklet in record.tracklets():
        mask = rle.decode(tracklet.masks[0])
        inside = frame[cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0]
        assert inside.std(0).max() < 8  # one colour, as far as JPEG lets it be
        assert abs(inside.mean(0) - frame[~mask].mean(0)).max() > 20


def test_masks_of_youtube_vis_have_a_halo(tiny_datasets: Path) -> None:
    exact = load_dataset("hq_ytvis_train", str(tiny_datasets))
    coarse = load_dataset("hq_ytvis_train_coarse", str(tiny_datasets))
    assert [exact[k].name for k in range(3)] == [coarse[k].name for k in range(3)]
    kernel = np.ones((2 * TOOL.HALO_PX + 1,) * 2, np.uint8)
    pairs = zip(exact[0].tracklets(), coarse[0].tracklets(), strict=True)
    for fine, rough in pairs:
        grown = cv2.dilate(rle.decode(fine.masks[1]).astype(np.uint8), kernel) > 0
        assert (grown == rle.decode(rough.masks[1])).all()


def test_the_parts_of_hq_ytvis_divide_the_training_videos(tiny_datasets: Path) -> None:
    def names(split: str) -> list[str]:
        data = load_dataset(split, str(tiny_datasets))
        return [data[k].name for k in range(len(data))]

    parts = [names(f"hq_ytvis_{part}") for part in ("train", "val", "test")]
    assert sorted(name for part in parts for name in part) == names("ytvis_2019_train")


@pytest.mark.parametrize("part", ["train", "val"])
def test_both_forms_of_bdd100k_say_the_same(part: str, tiny_datasets: Path) -> None:
    """And the crowd along the upper edge is nobody's to learn."""
    root = tiny_datasets / "bdd100k"
    images, labels = (root / place for place in ("images", "labels"))
    sets = [
        load_mots(labels / f"seg_track_20/{form}/{part}", images / f"seg_track_20/{part}", form)
        for form in ("bitmasks", "rles")
    ]
    for k in range(2):
        first, second = (data[k] for data in sets)
        assert (first.name, first.file_names) == (second.name, second.file_names)
        pairs = list(zip(first.tracklets(), second.tracklets(), strict=True))
        assert [(a.id, a.category_id) for a, _ in pairs] == [(2, 1), (3, 3)]
        for one, other in pairs:
            assert (one.id, one.category_id, one.masks) == (
                other.id,
                other.category_id,
                other.masks,
            )


def test_cut_writes_the_coarse_splits_by_default(
    tiny_datasets: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    root = tmp_path / "root"
    shutil.copytree(tiny_datasets, root)
    expected = {p.name: json.loads(p.read_text()) for p in (root / "hq_ytvis/coarse").iterdir()}
    shutil.rmtree(root / "hq_ytvis/coarse")
    scripts = Path(__file__).parents[2] / "datasets"
    monkeypatch.syspath_prepend(str(scripts))
    words = ["prepare", "--root", str(root), "--cut", str(root / "ytvis_2019/train.json")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(scripts / "prepare_hq_ytvis.py"), run_name="__main__")
    assert ended.value.code == 0
    assert "hq_ytvis_train: ready, not the published size" in capsys.readouterr().out
    written = {p.name: json.loads(p.read_text()) for p in (root / "hq_ytvis/coarse").iterdir()}
    assert sorted(written) == ["train-test.json", "train-train.json", "train-val.json"]
    for name, content in written.items():
        assert content["videos"] == expected[name]["videos"]
        assert content["annotations"] == expected[name]["annotations"]


def test_nothing_is_overwritten_or_left_half_done(tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    assert TOOL.main([str(tmp_path / "mine")]) == 2
    assert "is there already" in capsys.readouterr().err

    def full(root: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TOOL, "davis", full)
    assert TOOL.main([str(tmp_path / "new")]) == 2
    assert "No space left" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
