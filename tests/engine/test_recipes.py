"""Every YAML of configs/: trained for a step and evaluated by tools/train_net.py, on tiny data."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from tests.recipes import REPO, train
from vmt.checkpoint.files import write_weights
from vmt.checkpoint.key_maps.released import RELEASED
from vmt.config.node import load_config
from vmt.data.catalog import load_dataset
from vmt.data.datasets.categories import COCO_MAPS, label_space
from vmt.data.datasets.splits import SPLITS
from vmt.engine.optimizer import freeze
from vmt.modeling.meta_arch.build import build_model, build_network
from vmt.structures.labels import LabelSpace
from vmt.utils.events import read_json_lines

CONFIGS = REPO / "configs"
FILES = sorted(
    str(path.relative_to(CONFIGS).with_suffix(""))
    for path in CONFIGS.rglob("*.yaml")
    if not path.name.startswith("Base-") and path.parent.name != "_base_"
)
SETS = ("hq_ytvis", "ytvis_2019", "ytvis_2021", "ovis")
#: One R50 of every data set as it stands.
AS_IT_STANDS = ("hq_ytvis/vmt_R50", "ytvis_2019/msts_R50", "ytvis_2021/vmt_R50_released_published")
AS_IT_STANDS += ("ovis/seqformer_R50",)
#: YAMLs that go on from a network whose detector stays as it is.
FIXED = ("bdd100k/pcan_like_R50", "bdd100k/vmt_R50")
BDD100K = ("bdd100k/qdtrack_R50", *FIXED, "quick/qdtrack_study")
#: YAMLs for one's own data; here that of HQ-YTVIS.
OWN_DATA = ("quick/", "small/", "refine/mask_refiner", "refine/self_correct_synthetic")
OWN_KEYS = {"DATASETS.TRAIN": "[hq_ytvis_train]"}


def keys_of(name: str) -> dict[str, str]:
    """What a YAML leaves to the person who uses it, and sizes that ``SMALL`` does not know."""
    keys = {}
    if name.startswith("refine/mask_refiner") or name.startswith("refine/self_correct"):
        keys |= {
            "MODEL.BACKBONE.NAME": "timm/resnet18d",
            "MODEL.MASK_REFINER.CROP_SIZES": "[48,64]",
        }
    if name == "small/vmt_small":  # of its families persons are among the classes
        keys |= {
            "SOLVER.FREEZE": "[backbone.body.conv_stem.]",
            "DATASETS.UNKNOWN_CLASSES": "drop",
        }
    if name in ("refine/mask_refiner", "small/vmt_small"):  # their norms are folded
        keys |= {"MODEL.BACKBONE.NAME": "timm/test_efficientnet", "MODEL.BACKBONE.WIDTHS": "[]"}
    based = ("refine/ovis", "ovis/ablations/table", *FIXED)
    if name.startswith(based) or name.endswith("/refinevis_vmt_R50"):  # in place of a trained base
        keys |= {"MODEL.NEW_PARAMETERS": "['']", "MODEL.WEIGHTS": ""}
    if name in BDD100K:
        return keys
    if name.startswith(OWN_DATA):
        keys |= OWN_KEYS
    if name.startswith(("quick/", "small/")):
        keys |= {"DATASETS.TEST": "[hq_ytvis_val]", "DATASETS.RATIOS": "[]"}
    return keys


def check_training(output: Path) -> None:
    lines = [line for line in read_json_lines(output / "metrics.jsonl") if "loss" in line]
    assert len(lines) == 1
    assert math.isfinite(lines[0]["loss"])
    assert lines[0]["loss"] > 0


def check_evaluation(folder: Path, test_set: str, data: Path, windows: bool = False) -> None:
    """Results of the videos of the set; scores where its masks are public.

    In windows random networks have nothing to say: no score reaches 0.05.
    """
    videos = load_dataset(test_set, str(data))
    results = json.loads((folder / "results.json").read_text())
    ids = {videos[k].id for k in range(len(videos))}
    assert {row["video_id"] for row in results} <= ids
    assert results or windows
    assert all(len(row["segmentations"]) == len(videos[0]) for row in results)
    annotated = videos[0].annotations is not None
    assert (folder / "metrics.json").is_file() == annotated
    assert (folder / "results.zip").is_file() == (not annotated)
    if annotated:
        scores = json.loads((folder / "metrics.json").read_text())
        assert 0 <= scores["tube_mask/AP"] <= 1


def check_images(folder: Path, boxes: bool) -> None:
    """A hundred objects or all pairs of each of four images, with their scores."""
    results = json.loads((folder / "results.json").read_text())
    assert {row["image_id"] for row in results} == {1, 2, 3, 4}
    assert all(("bbox" in row) == boxes for row in results)
    scores = json.loads((folder / "metrics.json").read_text())
    assert 0 <= scores["image_mask/AP"] <= 1
    assert ("image_box/AP" in scores) == boxes


def check_mots(folder: Path) -> None:
    """Files of BDD100K MOTS for two videos of four frames, and their scores."""
    assert json.loads((folder / "results_scalabel.json").read_text())
    assert len(list((folder / "bitmasks").rglob("*.png"))) == 8
    scores = json.loads((folder / "metrics.json").read_text())
    assert {"bdd_mots/mMOTSA", "bdd_mots/mIDF1", "frame_ap/AP"} <= set(scores)


@pytest.mark.parametrize("name", FILES)
def test_one_step_and_its_evaluation(
    name: str, tmp_path: Path, tiny_datasets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, keys = CONFIGS / f"{name}.yaml", keys_of(name)
    # test_r50_as_it_stands evaluates in a training
    assert train(config, tmp_path / "out", tiny_datasets, **(keys | {"DATASETS.TEST": "[]"})) == 0
    check_training(tmp_path / "out")
    weights = ["--weights", str(tmp_path / "out/model_final.safetensors")]
    capsys.readouterr()
    status = train(config, tmp_path / "run", tiny_datasets, "--eval-only", *weights, **keys)
    said = capsys.readouterr().err
    if name.startswith("coco/"):
        assert status == 0, said
        check_images(tmp_path / "run/inference/coco_2017_val", boxes="mask2former" not in name)
        return
    if name in BDD100K:
        assert status == 0, said
        check_mots(tmp_path / "run/inference/bdd100k_mots_val")
        return
    if name.startswith("refine/"):  # vmt refine runs them
        assert status == 2
        assert "vmt train: DATASETS.TEST is empty" in said
        assert "Traceback" not in said
        return
    cfg = load_config(config)
    test_set = (cfg.DATASETS.TEST or ["hq_ytvis_val"])[0]
    assert status == 0, said
    folder = tmp_path / "run/inference" / test_set
    unsure = ("IDOL", "RefineVIS", "QDTrack", "QDTrackVMT")
    silent = cfg.TEST.WINDOW > 0 or cfg.MODEL.META_ARCHITECTURE in unsure
    check_evaluation(folder, test_set, tiny_datasets, windows=silent)


@pytest.fixture(scope="module")
def coco_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as SeqFormer's trainings start from: published names, 91 rows, random numbers."""
    cfg = load_config(CONFIGS / "ytvis_2019/seqformer_R50.yaml")
    torch.manual_seed(0)
    classes = LabelSpace("coco", tuple(f"row_{k}" for k in range(91)), tuple(range(91)))
    state = RELEASED.to_released(build_model(cfg, classes).state_dict()).state
    path = tmp_path_factory.mktemp("weights") / "seqformer_coco_r50.pth"
    write_weights(state, path)
    return path


@pytest.mark.parametrize("name", AS_IT_STANDS)
def test_r50_as_it_stands(name: str, tmp_path: Path, tiny_datasets: Path, coco_file: Path) -> None:
    """The network of the paper on the weights that it starts from; clips alone are small."""
    config, out = CONFIGS / f"{name}.yaml", tmp_path / "out"
    start = ["--weights", str(coco_file)]
    keys = {"SOLVER.CLIPS_PER_BATCH": "1", "ENGINE.CHECKPOINT_PERIOD": "0"}
    assert train(config, out, tiny_datasets, *start, small=False, **keys) == 0
    check_training(out)
    log = (out / "log.txt").read_text()
    assert "newly initialised: 12 x heads.cls" in log  # six layers, weight and bias
    test_set = load_config(config).DATASETS.TEST[0]
    check_evaluation(out / f"inference/step_00000001/{test_set}", test_set, tiny_datasets)
    shutil.rmtree(out)  # a gigabyte


@pytest.mark.parametrize("name", [f for f in FILES if f.startswith(SETS)])
def test_a_recipe_says_what_it_is_made_of(name: str) -> None:
    """Sets, maps and classes belong together, and stand in the tables."""
    cfg = load_config(CONFIGS / f"{name}.yaml")
    rows = {split.name: split for split in SPLITS}
    space = label_space(cfg.MODEL.LABEL_SPACE)
    classes = {"ytvis_2019_release": "ytvis_2019"}.get(space.name, space.name)
    folder = name.split("/")[0]
    train_sets, maps = cfg.DATASETS.TRAIN, cfg.DATASETS.CATEGORY_MAPS or [""]
    assert train_sets[0].startswith(f"{folder}_train")
    assert rows[train_sets[0]].annotated
    assert rows[train_sets[0]].categories == classes
    assert [f"{folder}_val" + ("" if folder == "hq_ytvis" else "id")] == cfg.DATASETS.TEST
    assert rows[cfg.DATASETS.TEST[0]].categories == classes
    assert len(maps) == len(train_sets)
    published = name.endswith("_published")
    alone = any(f"/{method}_" in name for method in ("idol", "minvis", "refinevis"))
    if folder == "ovis" or alone:  # as published, without images
        assert (train_sets[1:], maps) == ([], [""])
    else:
        fox = "_release" if published and classes == "ytvis_2019" else ""
        assert train_sets[1:] == ["coco_2017_train"]
        assert maps == ["", classes + fox]
        assert maps[1] in COCO_MAPS
    assert cfg.SOLVER.EPOCHS == 12
    assert (cfg.COMPAT == "released") == published
    expected = [6, 10] if "msts" in name and not published else [4, 10]
    assert expected == cfg.SOLVER.MILESTONES
    if "/idol_" in name:
        assert (cfg.SOLVER.MAX_STEPS, cfg.SOLVER.MILESTONE_STEPS) == (12000, [8000])
        assert (cfg.INPUT.CLIP_FRAMES, cfg.INPUT.SAMPLER_RANGE) == (2, 10)
    if "/minvis_" in name:
        steps = {"ytvis_2021": (8000, [5500]), "ovis": (10000, [7000])}.get(folder, (6000, [4000]))
        assert steps == (cfg.SOLVER.MAX_STEPS, cfg.SOLVER.MILESTONE_STEPS)
        assert cfg.INPUT.CLIP_FRAMES == 1


@pytest.mark.parametrize("name", BDD100K[:3])
def test_bdd100k_is_trained_as_published(name: str) -> None:
    """QDTrack's schedule; masks are learnt behind a detector that stays."""
    cfg = load_config(CONFIGS / f"{name}.yaml")
    assert cfg.DATASETS.TEST == ["bdd100k_mots_val"]
    assert cfg.MODEL.LABEL_SPACE == "bdd100k_mots"
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.MILESTONES) == (12, [8, 11])
    assert (cfg.SOLVER.CLIPS_PER_BATCH, cfg.SOLVER.WARMUP_STEPS) == (16, 1000)
    rates = {"bdd100k/qdtrack_R50": ("sgd", 0.02), "bdd100k/pcan_like_R50": ("sgd", 0.01)}
    assert rates.get(name, ("adamw", 1e-4)) == (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR)
    assert cfg.MODEL.MOTS.AUXILIARY == "released"
    model = build_network(cfg, label_space(cfg.MODEL.LABEL_SPACE))
    freeze(model, cfg.SOLVER.FREEZE)
    learning = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    if name not in FIXED:
        assert cfg.DATASETS.TRAIN == ["bdd100k_mots_train", "bdd100k_det_train"]
        assert learning == {"backbone", "neck", "rpn", "roi_heads", "embedding"}
        return
    assert cfg.DATASETS.TRAIN == ["bdd100k_mots_train"]
    assert learning == {"roi_heads", "refiner", "region_query"}
    heads = {n.split(".")[0] for n, p in model.roi_heads.named_parameters() if p.requires_grad}
    assert heads == {"mask_head", "mask_predictor"}
