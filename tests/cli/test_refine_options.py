"""Each option of ``vmt refine`` changes what it says, through the command and the real network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocoapi_hq.io import rle
from tests.cli.test_refine import Shave, write_frames
from vmt.checkpoint.files import read_weights, write_weights
from vmt.cli.main import main
from vmt.inference.refine_defaults import SHIPPED_FILE

H, W, T = 72, 96, 3
#: A textured square, and what its mask lacks in frame 1.
SQUARE, GAP = np.s_[20:52, 30:62], np.s_[20:32, 36:56]

Refine = Callable[..., tuple[list[np.ndarray], dict]]


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory) -> Refine:
    """Masks and change log of a run with some options; each combination runs once."""
    root = tmp_path_factory.mktemp("refine")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    picture = rng.integers(20, 110, (H // 4, W // 4, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    picture[SQUARE] = rng.integers(140, 250, (8, 8, 3)).repeat(4, 0).repeat(4, 1)
    masks = []
    for t in range(T):
        Image.fromarray(picture).save(root / "images" / f"{t}.png")
        mask = np.zeros((H, W), bool)
        mask[18:55, 28:64] = True  # a halo of two or three pixels
        if t == 1:
            mask[GAP] = False
        masks.append(rle.encode(mask))
    video = {"id": 1, "height": H, "width": W, "file_names": [f"{t}.png" for t in range(T)]}
    row = {"id": 1, "video_id": 1, "category_id": 1, "segmentations": masks}
    content = {"videos": [video], "annotations": [row], "categories": [{"id": 1, "name": "dog"}]}
    (root / "masks.json").write_text(json.dumps(content))
    done: dict[tuple[str, ...], tuple[list[np.ndarray], dict]] = {}

    def run(*options: str) -> tuple[list[np.ndarray], dict]:
        if options not in done:
            out = root / f"{len(done)}.json"
            words = ["--masks", str(root / "masks.json"), "--images", str(root / "images")]
            words += ["--output", str(out), "--device", "cpu"]
            assert main(["refine", *words, *options]) == 0
            (after,) = json.loads(out.read_text())["annotations"]
            log = json.loads((root / f"{out.name}.changes.json").read_text())
            done[options] = [rle.decode(mask) for mask in after["segmentations"]], log
        return done[options]

    return run


def changed(log: dict) -> int:
    ((tracklet,),) = (video["tracklets"] for video in log["videos"])
    return int(tracklet["changed_px"])


def test_masks_take_the_word_of_their_neighbours(refined: Refine) -> None:
    masks, log = refined()
    assert changed(log) > 0
    assert masks[1][GAP].mean() > 0.8, "it has no pixel in the mask that was given"


def test_accept(refined: Refine) -> None:
    log, strict = refined()[1], refined("--accept", "0.98")[1]
    assert strict["settings"]["accept"] == 0.98
    assert 0 <= changed(strict) < 0.8 * changed(log)


def test_confidence_is_low_along_contours_alone(tmp_path: Path, refined: Refine) -> None:
    refined("--confidence", str(tmp_path / "sure"))
    assert sorted(path.name for path in (tmp_path / "sure").iterdir()) == [
        "0.png",
        "1.png",
        "2.png",
    ]
    levels = np.array(Image.open(tmp_path / "sure" / "0.png"))
    assert levels.shape == (H, W)
    assert levels.dtype == np.uint8
    assert levels.min() in range(128, 255)
    near = np.zeros((H, W), bool)
    near[4:68, 14:78] = True
    near[34:38, 44:48] = False  # the middle of the object
    assert (levels[~near] == 255).all()


def test_weights(tmp_path: Path, refined: Refine) -> None:
    masks, log = refined()
    assert log["settings"]["weights"] == "mask_refiner"
    mine = tmp_path / "mine.safetensors"
    state = read_weights(SHIPPED_FILE).ours()
    write_weights({name: 0.9 * value for name, value in state.items()}, mine)
    shutil.copyfile(SHIPPED_FILE.with_name("config.yaml"), tmp_path / "config.yaml")
    other, other_log = refined("--weights", str(mine))
    assert other_log["settings"]["weights"] == str(mine)
    assert any((a != b).any() for a, b in zip(masks, other, strict=True))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--steady", "3"), "--steady was removed: what neighbouring frames say of a mask is"),
        (("--window", "1"), "--window was removed: every frame hears of those around it anyway"),
        (("--weights", "low_res"), "the weights low_res were removed: mask_refiner, the default"),
    ],
)
def test_options_of_earlier_versions(
    tmp_path: Path, refiner: Shave, option: tuple[str, str], said: str, capsys
) -> None:
    assert main(["refine", *label_maps(tmp_path), *option]) == 2
    assert said in (line := capsys.readouterr().err)
    assert line.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_device(tmp_path: Path, refined: Refine, capsys) -> None:
    refined()
    (tmp_path / "images").mkdir()
    Image.new("RGB", (W, H)).save(tmp_path / "images" / "0.png")
    Image.fromarray(np.eye(H, W, dtype=np.uint8)).save(tmp_path / "m.png")
    words = ["--masks", str(tmp_path / "m.png"), "--images", str(tmp_path / "images")]
    words += ["--output", str(tmp_path / "o.png"), "--device", "abacus"]
    assert main(["refine", *words]) == 2
    assert "'abacus' cannot be used" in capsys.readouterr().err


# --- with a refiner that takes a pixel off -------------------------------------------------------


def label_maps(root: Path, videos: int = 1) -> list[str]:
    """Words of a call on videos of one frame with one object."""
    for v in range(videos):
        place = Path(f"v{v}") if videos > 1 else Path()
        write_frames(root / "images" / place, 1)
        labels = np.zeros((32, 48), np.uint8)
        labels[5:15, 8:18] = 1
        (root / "masks" / place).mkdir(parents=True)
        Image.fromarray(labels).save(root / "masks" / place / "00000.png")
    words = ["--masks", str(root / "masks"), "--images", str(root / "images")]
    return [*words, "--output", str(root / "out")]


def test_confidence_of_several_videos(tmp_path: Path, refiner) -> None:
    sure = tmp_path / "sure"
    words = ["refine", *label_maps(tmp_path, videos=2), "--confidence", str(sure)]
    refiner.fail_at = 2
    with pytest.raises(RuntimeError, match="power cut"):
        main(words)
    refiner.fail_at = None
    assert main(words) == 0  # goes on, though the folder has maps by now
    for v in range(2):
        levels = np.array(Image.open(sure / f"video_v{v}" / "00000.png"))
        assert (levels == 128).sum() == 36  # the rim that the refiner takes off
        assert (levels == 255).sum() == 32 * 48 - 36


def test_confidence_overwrites_nothing(tmp_path: Path, refiner, capsys) -> None:
    words = ["refine", *label_maps(tmp_path)]
    for folder, why in (("images", "is --images too"), ("masks", "is --masks too")):
        assert main([*words, "--confidence", str(tmp_path / folder)]) == 2
        assert why in capsys.readouterr().err
    (tmp_path / "sure").mkdir()
    (tmp_path / "sure" / "00000.png").write_text("mine")
    assert main([*words, "--confidence", str(tmp_path / "sure")]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (tmp_path / "sure" / "00000.png").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "touched"),
    [((), {1, 3}), (("--void", "3"), {1, 255}), (("--void", "none"), {1, 3, 255})],
)
def test_void(tmp_path: Path, refiner, options: tuple[str, ...], touched: set[int]) -> None:
    write_frames(tmp_path / "images", 1)
    labels = np.zeros((32, 48), np.uint8)
    for value, x in ((1, 2), (3, 16), (255, 30)):
        labels[5:15, x : x + 10] = value
    (tmp_path / "masks").mkdir()
    Image.fromarray(labels).save(tmp_path / "masks" / "00000.png")
    words = ["--masks", str(tmp_path / "masks"), "--images", str(tmp_path / "images")]
    assert main(["refine", *words, "--output", str(tmp_path / "out"), *options]) == 0
    after = np.array(Image.open(tmp_path / "out" / "00000.png"))
    areas = {value: int((after == value).sum()) for value in (1, 3, 255)}
    assert areas == {value: 64 if value in touched else 100 for value in (1, 3, 255)}
