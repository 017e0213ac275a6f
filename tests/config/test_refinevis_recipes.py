"""Recipes of RefineVIS hold the paper's section 4; rows of its tables turn the keys they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.config.test_every_key import leaves
from vmt.config.node import load_config
from vmt.data.datasets.categories import label_space
from vmt.modeling.meta_arch.build import build_network
from vmt.modeling.meta_arch.idol import IDOL
from vmt.modeling.meta_arch.maskdino import MaskDINO
from vmt.modeling.meta_arch.minvis import MinVIS
from vmt.modeling.meta_arch.refinevis import RefineVIS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SETS = ("ytvis_2019", "ytvis_2021", "ovis", "hq_ytvis")
SWIN = {
    "MODEL.BACKBONE.NAME": "swin_l_p4w12",
    "MODEL.MASKDINO.STRIDES": [4, 8, 16, 32],
    "MODEL.MASKDINO.DECODER_LAYERS": 9,
    "MODEL.MASKDINO.DN_QUERIES": 500,
}


def values(name: str) -> dict[str, Any]:
    """Every key of a config."""
    cfg = load_config(CONFIGS / f"{name}.yaml")
    found = {}
    for key in leaves(cfg):
        node: Any = cfg
        for part in key.split("."):
            node = node[part]
        found[key] = node
    return found


def differences(name: str, base: str) -> dict[str, Any]:
    ours, theirs = values(name), values(base)
    return {key: value for key, value in ours.items() if value != theirs[key]}


COMMON = {
    "SOLVER.CLIPS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 1e-4,
    "SOLVER.BACKBONE_FACTOR": 0.1,
    "SOLVER.WEIGHT_DECAY": 0.05,
    "SOLVER.CLIP_GRADIENTS": 0.01,
    "INPUT.AUGMENTATION": "lsj",
    "INPUT.LSJ_SIZE": [1024, 1024],
    "INPUT.LSJ_SCALE": [0.1, 2.0],
    "INPUT.FLIP_PROB": 0.5,
    "INPUT.COLOR_PROB": 0.0,
    "MODEL.BACKBONE.FREEZE_STAGES": 0,
    "MODEL.MASKDINO.DECODER_LAYERS": 6,
    "MODEL.MASKDINO.STRIDES": [8, 16, 32],
    "MODEL.MASKDINO.EXTRA_LEVELS": 1,
    "MODEL.MASKDINO.DN_QUERIES": 100,
    "MODEL.MASKDINO.DN_KIND": "contrastive",
}
PAIRS = {"INPUT.CLIP_FRAMES": 2, "INPUT.SAMPLER": "span", "INPUT.SAMPLER_RANGE": 10}
PHASES = {
    "coco/refinevis_images_R50": {
        "MODEL.META_ARCHITECTURE": "MaskDINO",
        "MODEL.MASKDINO.MATCHER": "hungarian",
        "INPUT.CLIP_FRAMES": 1,
        "DATASETS.TRAIN": ["coco_2017_train"],
        "SOLVER.MAX_STEPS": 368750,
        "SOLVER.MILESTONE_STEPS": [327778, 355092],
    },
    "coco/refinevis_R50": PAIRS
    | {
        "MODEL.META_ARCHITECTURE": "RefineVIS",
        "MODEL.MASKDINO.MATCHER": "ota",
        "DATASETS.TRAIN": ["coco_2017_train"],
        "INPUT.STILLS": "copies",
        "INPUT.LSJ_DRAW": "frame",
        "INPUT.MAX_IMAGE_OBJECTS": 0,
        "SOLVER.MAX_STEPS": 30000,
        "SOLVER.MILESTONE_STEPS": [15000, 25000],
    },
    **{
        f"{name}/refinevis_R50": PAIRS
        | {
            "MODEL.META_ARCHITECTURE": "RefineVIS",
            "MODEL.MASKDINO.MATCHER": "ota",
            "DATASETS.TRAIN": [f"{name}_train"],
            "INPUT.LSJ_DRAW": "clip",
            "INPUT.MIN_SIZE_TEST": 480,
            "SOLVER.MAX_STEPS": 13000,
            "SOLVER.MILESTONE_STEPS": [10000],
            "TEST.BISOFTMAX.MASK_IOU": 0.3 if name == "ovis" else 0.5,
            "TEST.BISOFTMAX.BIRTH_SCORE": 0.3 if name == "ovis" else 0.2,
        }
        for name in SETS
    },
}


@pytest.mark.parametrize("name", PHASES)
def test_phases_are_those_of_the_paper(name: str) -> None:
    found = values(name)
    expected = COMMON | PHASES[name]
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("name", ["coco", *SETS])
def test_swin_l_has_a_larger_network_and_larger_frames(name: str) -> None:
    frames = {"INPUT.LSJ_SIZE": [1280, 1280], "INPUT.MIN_SIZE_TEST": 720}
    changed = differences(f"{name}/refinevis_SwinL", f"{name}/refinevis_R50")
    assert changed == SWIN | frames


def test_images_keep_their_size_with_swin_l() -> None:
    assert differences("coco/refinevis_images_SwinL", "coco/refinevis_images_R50") == SWIN


OFFLINE = {"TEST.REFINEVIS.MODE": "offline"}
OVIS, YTVIS = "ovis/refinevis_R50", "ytvis_2021/refinevis_R50"
NO_TAR = {"MODEL.REFINEVIS.WINDOW": 0}
NO_LSJ = {
    "INPUT.AUGMENTATION": "default",
    "INPUT.MIN_SIZE_TRAIN": [320, 352, 392, 416, 448, 480, 512, 544, 576, 608, 640],
}
TABLES = {
    "table2_frame_cdn": (
        OVIS,
        {"MODEL.REFINEVIS.ASSOCIATION_CDN": False, "MODEL.REFINEVIS.TEMPORAL_CDN": False},
    ),
    "table2_association_cdn": (OVIS, {"MODEL.REFINEVIS.TEMPORAL_CDN": False}),
    "table2_temporal_cdn": (OVIS, {}),
    **{
        f"table3_window_{w}": (OVIS, {"TEST.REFINEVIS.WINDOW": w}) for w in (0, 2, 4, 8, 10, 16, 20)
    },
    "table4_frames_2": (YTVIS, {}),
    **{f"table4_frames_{T}": (YTVIS, {"INPUT.CLIP_FRAMES": T}) for T in (3, 5)},
    "table5_tar_lsj": (YTVIS, {}),
    "table5_tar_no_lsj": (YTVIS, NO_LSJ),
    "table5_no_tar_lsj": (YTVIS, NO_TAR),
    "table5_no_tar_no_lsj": (YTVIS, NO_TAR | NO_LSJ),
    **{
        f"table7_{model}_{'tar' if tar else 'no_tar'}": (
            f"ytvis_2021/refinevis_{model}_R50",
            {} if tar else NO_TAR,
        )
        for model in ("condinst", "mask2former")
        for tar in (True, False)
    },
}


@pytest.mark.parametrize("row", TABLES)
def test_rows_of_tables_differ_from_their_recipe_in_what_they_name(row: str) -> None:
    base, keys = TABLES[row]
    folder = base.split("/")[0]
    name = f"{folder}/ablations/refinevis_{row}"
    assert differences(name, base) == OFFLINE | keys
    assert "not ours" in (CONFIGS / f"{name}.yaml").read_text()


def test_every_row_of_a_table_is_tested() -> None:
    files = {path.stem for path in CONFIGS.rglob("ablations/refinevis_*.yaml")}
    assert files == {f"refinevis_{row}" for row in TABLES}


def built(name: str) -> Any:
    cfg = load_config(CONFIGS / f"{name}.yaml")
    with torch.device("meta"):
        return build_network(cfg, label_space(cfg.MODEL.LABEL_SPACE))


@pytest.mark.parametrize(
    ("name", "frame_model", "refines"),
    [
        ("ytvis_2021/refinevis_R50", MaskDINO, True),
        ("ovis/refinevis_SwinL", MaskDINO, True),
        ("ytvis_2021/refinevis_condinst_R50", IDOL, True),
        ("ytvis_2021/refinevis_mask2former_R50", MinVIS, True),
        ("ytvis_2021/ablations/refinevis_table5_no_tar_lsj", MaskDINO, False),
        ("ytvis_2021/ablations/refinevis_table7_condinst_no_tar", IDOL, False),
    ],
)
def test_networks_are_built_as_their_recipe_says(
    name: str, frame_model: type, refines: bool
) -> None:
    model = built(name)
    assert type(model) is RefineVIS
    assert type(model.frame_model) is frame_model
    assert (model.tar is not None) == refines
    if frame_model is MaskDINO:
        swin = "SwinL" in name
        assert len(model.frame_model.decoder.layers) == (9 if swin else 6)
        assert len(model.frame_model.encoder.level_embed) == (5 if swin else 4)
        assert model.frame_model.noise.num_queries == (500 if swin else 100)


@pytest.mark.parametrize("name", [*PHASES, "coco/refinevis_SwinL", "coco/refinevis_images_SwinL"])
def test_the_frame_model_of_phase_1_is_that_of_the_others(name: str) -> None:
    """Names and shapes but the classes', whatever the phase."""
    one = built(f"coco/refinevis_images_{name.rsplit('_', 1)[-1]}").state_dict()
    other = built(name).state_dict()
    prefix = "" if "images" in name else "frame_model."
    shapes = {k.removeprefix(prefix): v.shape for k, v in other.items() if k.startswith(prefix)}
    classes = {k for k in one if k.startswith(("heads.cls.", "denoising.labels."))}
    assert set(one) == set(shapes)
    assert {k for k in one if one[k].shape != shapes[k]} <= classes
