"""The three phases of RefineVIS, a step each, by its recipes; starts from published files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.docs.blocks import blocks_of, words
from tests.recipes import REPO, SMALL, train
from vmt.checkpoint.files import read_weights, write_weights
from vmt.checkpoint.key_maps.idol import IDOL
from vmt.checkpoint.key_maps.mask2former import MASK2FORMER
from vmt.checkpoint.key_maps.maskdino import MASKDINO
from vmt.config.node import load_config
from vmt.data.build import build_train_clips
from vmt.data.datasets.categories import label_space
from vmt.modeling.meta_arch.build import build_network

CONFIGS = REPO / "configs"
WITHOUT_TEST = {"DATASETS.TEST": "[]"}
#: The published backbone; key maps know no other.
R50 = {"MODEL.BACKBONE.NAME": "resnet50", "MODEL.BACKBONE.WIDTHS": "[]"}


def step(config: str, out: Path, data: Path, start: Path | None = None, **keys: str) -> str:
    """Train one and give the log."""
    recipe = load_config(CONFIGS / f"{config}.yaml").MODEL.NEW_PARAMETERS
    settings = {"INPUT.CLIP_FRAMES": "2", "MODEL.NEW_PARAMETERS": str(recipe)} | keys
    if start is None:
        settings["MODEL.NEW_PARAMETERS"] = SMALL["MODEL.NEW_PARAMETERS"]
    words = [] if start is None else ["--weights", str(start)]
    assert train(CONFIGS / f"{config}.yaml", out, data, *words, **(WITHOUT_TEST | settings)) == 0
    return (out / "log.txt").read_text()


def phases_of_the_page() -> list[dict[str, str]]:
    """Options of the three commands of docs/howto/train.md."""
    blocks = (block for block in blocks_of("docs/howto/train.md") if "phase1" in block.text)
    commands = [words(command) for command in next(blocks).commands()]
    return [dict(zip(command[2::2], command[3::2], strict=True)) for command in commands]


def test_the_three_phases(
    tmp_path: Path, tiny_datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images, clips of images, clips of videos: each starts from the one before it."""
    monkeypatch.chdir(tmp_path)
    logs, places = [], []
    for options in phases_of_the_page():
        config = options["--config-file"].removeprefix("configs/").removesuffix(".yaml")
        frames = "1" if "images" in config else "2"
        start = Path(options["--weights"]) if "--weights" in options else None
        places.append(Path(options["--output"]))
        logs.append(step(config, places[-1], tiny_datasets, start, **{"INPUT.CLIP_FRAMES": frames}))
    (one, two, three), (_, log, videos) = places, logs
    first = one / "model_final.safetensors"
    assert "the file holds a frame model alone" in log
    assert "newly initialised: 6 x association_head.layers" in log
    assert "heads.cls" not in log, "80 classes in both"
    second = two / "model_final.safetensors"
    assert "class rows by name: 15 of 25" in videos
    assert "newly initialised: 1 x" not in videos
    for key, value in read_weights(first).state.items():
        moved = read_weights(second).state[f"frame_model.{key}"]
        assert value.shape == moved.shape
        # AdamW moves a weight by 1e-4 in a step, decays it by half of that
        torch.testing.assert_close(value, moved, atol=3e-4, rtol=0)
    metadata = json.loads(read_weights(three / "model_final.safetensors").metadata["categories"])
    assert len(metadata) == 25


@pytest.mark.parametrize(
    ("config", "source", "table", "layers"),
    [
        ("coco/refinevis_R50", "coco/maskdino_R50", MASKDINO, "MASKDINO"),
        ("ytvis_2021/refinevis_R50", "coco/maskdino_R50", MASKDINO, "MASKDINO"),
        ("ytvis_2021/refinevis_condinst_R50", "coco/idol_R50", IDOL, ""),
        ("ytvis_2021/refinevis_mask2former_R50", "coco/mask2former_R50", MASK2FORMER, ""),
    ],
)
def test_published_files_start_a_training(
    config: str, source: str, table, layers: str, tmp_path: Path, tiny_datasets: Path
) -> None:
    """Under their published names; MaskDINO's with more decoder layers than are taken."""
    words = [word for pair in (SMALL | R50).items() for word in pair]
    more = [f"MODEL.{layers}.DECODER_LAYERS", "3"] if layers else []
    cfg = load_config(CONFIGS / f"{source}.yaml", [*words, *more])
    torch.manual_seed(1)
    model = build_network(cfg, label_space("coco"))
    released = table.to_released(model.state_dict())
    assert released.unknown == []
    path = tmp_path / "published.pth"
    write_weights(released.state, path)
    log = step(config, tmp_path / "out", tiny_datasets, path, **R50)
    assert "the file holds a frame model alone" in log
    taken = "the first 1 of the 3 layers of its frame_model.decoder are taken" in log
    assert taken == bool(layers)
    videos = config.startswith("ytvis")
    assert ("newly initialised" in log and "x frame_model.heads" in log) == videos
    own_head = config.endswith("condinst_R50")
    assert ("newly initialised: 6 x association_head.layers" in log) != own_head


def clips_of(config: str, data: Path, **keys: str) -> list:
    settings = WITHOUT_TEST | {"DATASETS.ROOT": str(data), "INPUT.LSJ_SIZE": "[64,96]"} | keys
    words = [word for pair in settings.items() for word in pair]
    cfg = load_config(CONFIGS / f"{config}.yaml", words)
    clips = build_train_clips(cfg, label_space(cfg.MODEL.LABEL_SPACE))
    drawn = [clips[k] for k in range(16)]
    return [entry.sample for entry in drawn if entry.sample is not None]


def test_views_of_an_image_differ_and_their_times_are_drawn(tiny_datasets: Path) -> None:
    samples = clips_of("coco/refinevis_R50", tiny_datasets)
    times = [sample["targets"].frame_times.tolist() for sample in samples]
    assert all(0 == a < b <= 10 for a, b in times)
    assert len({b for _, b in times}) > 4
    assert all(sample["image"].shape == (2, 3, 64, 96) for sample in samples)
    assert not any(torch.equal(*sample["image"]) for sample in samples)


def test_frames_of_a_video_are_jittered_alike(tiny_datasets: Path) -> None:
    """The two ellipses of a tiny video hardly move: their boxes stay where they are."""
    samples = clips_of("ovis/refinevis_R50", tiny_datasets)
    for sample in samples:
        targets = sample["targets"]
        both = targets.valid.all(1)
        moved = (targets.boxes_cxcywh[both, 0] - targets.boxes_cxcywh[both, 1]).abs()
        assert (moved < 0.35).all()
        assert targets.frame_times.tolist() == [int(t) for t in sample["clip_id"].split(",")]
    padded = sum(bool((sample["image"][:, :, -1, -1] == 128).all()) for sample in samples)
    assert 0 < padded < len(samples)


@pytest.mark.parametrize("T", [3, 5])
def test_longer_clips(T: int, tmp_path: Path, tiny_datasets: Path) -> None:
    """Table 4."""
    name = f"ytvis_2021/ablations/refinevis_table4_frames_{T}"
    assert load_config(CONFIGS / f"{name}.yaml").INPUT.CLIP_FRAMES == T
    step(name, tmp_path / "out", tiny_datasets, **{"INPUT.CLIP_FRAMES": str(T)})
