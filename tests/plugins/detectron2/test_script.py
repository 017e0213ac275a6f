"""Scripts that were written for detectron2, with one line more: those of the page."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.docs.blocks import blocks_of
from tests.inference.fake_model import blob_video

PAGE = "docs/howto/detectron2.md"
ADDED = "from vmt.plugins.detectron2 import DefaultTrainer  # added\n"


def block(start: str) -> str:
    (found,) = [b.text for b in blocks_of(PAGE) if b.text.startswith(start)]
    return found


@pytest.fixture
def world(
    videos: Path,
    coco_with_video_ids: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    register: Callable[[str], str],
) -> Path:
    register("my_train")
    shutil.copy(coco_with_video_ids, tmp_path / "my_coco.json")
    (tmp_path / "JPEGImages").symlink_to(videos / "train/JPEGImages")
    content = yaml.safe_load(block("MODEL:\n"))
    content["MODEL"]["DEVICE"] = "cpu"
    content["SOLVER"]["MAX_ITER"] = 3
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_import_is_enough(world: Path) -> None:
    script = block("from detectron2.config import get_cfg\n")
    assert script.count("vmt") == ADDED.count("vmt") == 1
    names: dict[str, Any] = {}
    exec(compile(script, PAGE, "exec"), names)
    trainer = names["trainer"]
    assert trainer.iter == 3
    assert trainer.model.network.label_space.names == ("circle", "square", "triangle")
    clips = next(iter(trainer.data_loader))
    assert len(clips[0]["image"]) == 2, "clips, not images"
    assert (world / "output/vmt/model_final.safetensors").is_file()

    from detectron2.evaluation import inference_on_dataset

    from vmt.plugins.detectron2 import Trainer, VideoEvaluator

    loader = Trainer.build_test_loader(trainer.cfg, "my_train")
    evaluator = VideoEvaluator("my_train", trainer.cfg, str(world / "scores"))
    results = inference_on_dataset(trainer.model, loader, evaluator)
    assert set(results) == {"tube_mask", "tube_boundary"}
    assert 0 <= results["tube_mask"]["AP"] <= 100
    assert (world / "scores/truth.json").is_file(), "videos of the images as YouTube-VIS has them"


def test_without_the_import_it_is_not(world: Path) -> None:
    """The architecture and the node are known once the plug-in is imported, so half a script."""
    script = block("from detectron2.config import get_cfg\n")
    names: dict[str, Any] = {}
    plain = script.replace(ADDED, "").replace(
        "trainer.resume_or_load(resume=False)\ntrainer.train()", ""
    )
    exec(compile(plain, PAGE, "exec"), names)
    from detectron2.engine import DefaultTrainer

    from vmt.plugins.detectron2 import Trainer

    assert type(names["trainer"]) is DefaultTrainer
    assert not isinstance(names["trainer"], Trainer)


def test_detectron2s_own_trainer_learns_from_images(world: Path) -> None:
    """Its mapper gives image and ``Instances``: clips of one frame."""
    script = block("from detectron2.config import get_cfg\n").replace(
        ADDED, "import vmt.plugins.detectron2\n"
    )
    keys = 'cfg.MODEL.MASK_ON = True\ncfg.INPUT.MASK_FORMAT = "bitmask"\n'
    script = script.replace("trainer = Def", f"{keys}trainer = Def")
    names: dict[str, Any] = {}
    exec(compile(script, PAGE, "exec"), names)
    trainer = names["trainer"]
    assert trainer.iter == 3
    (world / "output/model_final.pth").stat()
    state = torch.load(world / "output/model_final.pth", weights_only=True)["model"]
    assert list(state) == list(trainer.model.network.state_dict())


def test_the_block_about_predictions(
    world: Path, make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = make_config()
    frames = [f.numpy() for f in blob_video(2, (72, 120), 2)]
    names: dict[str, Any] = {"cfg": cfg, "frames": frames}
    exec(compile(block("from vmt.plugins.detectron2 import Default"), PAGE, "exec"), names)
    assert [picture.shape for picture in names["pictures"]] == [(72, 120, 3)] * 2


def test_the_table_of_keys_is_complete() -> None:
    from tests.conftest import REPO
    from vmt.plugins.detectron2.config import SHARED

    text = (REPO / PAGE).read_text().split("## Keys")[1].split("## Data sets")[0]
    for entry in SHARED:
        assert f"`{entry.theirs}`" in text, entry.theirs
        if entry.ours != entry.theirs:
            assert f"`{entry.ours}`" in text, entry.ours
