"""Our keys in a detectron2 config: the node ``VMT``, and detectron2's own where it has the same.

Every value has one home. What detectron2's machinery reads or its users expect under its name
(``SOLVER.BASE_LR``, ``DATASETS.TRAIN``) is read from there and has no key under ``VMT``; all else
is under ``VMT`` by the name of ``vmt/config/keys``. ``SHARED`` is the table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, defaults
from fvcore.common.config import CfgNode as Node

from vmt.config.defaults import PRESETS, default_config
from vmt.config.node import load_config, merge_values
from vmt.modeling.video_model import PIXEL_MEAN, PIXEL_STD
from vmt.utils.device import resolve_device
from vmt.utils.errors import ConfigError

logger = logging.getLogger(__name__)

NODE = "VMT"
#: ``CLIP_GRADIENTS.CLIP_TYPE`` for the norm of all gradients together, as in DETR-like projects.
FULL_MODEL = "full_model"
#: Our 0, no bound of the long side: detectron2 has no word for it, and takes 0 as a size.
UNBOUNDED = 1_000_000


@dataclass(frozen=True)
class Shared:
    """A key of ours whose value is detectron2's.

    Args:
        ours: name without ``VMT``.
        theirs: name in a detectron2 config.
        read: their value -> ours.
        write: our value -> theirs.
    """

    ours: str
    theirs: str
    read: Callable[[Any], Any] = lambda value: value
    write: Callable[[Any], Any] = lambda value: value


def _read_clipping(node: Any) -> float:
    if not node.ENABLED:
        return 0.0
    if node.CLIP_TYPE != FULL_MODEL:
        return 0.0  # by parameter: the trainer wraps the optimizer as detectron2 does
    if float(node.NORM_TYPE) != 2.0:
        raise ConfigError(
            f"SOLVER.CLIP_GRADIENTS.NORM_TYPE {node.NORM_TYPE} with CLIP_TYPE {FULL_MODEL}: the "
            "norm of all gradients together is the L2 norm; set 2.0."
        )
    return float(node.CLIP_VALUE)


def _write_clipping(limit: float) -> dict[str, Any]:
    value = {"CLIP_VALUE": limit} if limit else {}
    return {"ENABLED": limit > 0, "CLIP_TYPE": FULL_MODEL, "NORM_TYPE": 2.0} | value


def _read_bound(size: int) -> int:
    return 0 if size >= UNBOUNDED else size


def _write_bound(size: int) -> int:
    return size or UNBOUNDED


def _device(name: str) -> str:
    return str(resolve_device(name)) if name == "auto" else name


def _seed(seed: int) -> int:
    return seed if seed >= 0 else int(default_config().ENGINE.SEED)


SHARED = (
    Shared("MODEL.META_ARCHITECTURE", "MODEL.META_ARCHITECTURE"),
    Shared("MODEL.DEVICE", "MODEL.DEVICE", write=_device),
    Shared("MODEL.WEIGHTS", "MODEL.WEIGHTS"),
    Shared("MODEL.BACKBONE.FREEZE_STAGES", "MODEL.BACKBONE.FREEZE_AT"),
    Shared("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN", list, tuple),
    Shared("INPUT.MAX_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN", _read_bound, _write_bound),
    Shared("INPUT.MIN_SIZE_TEST", "INPUT.MIN_SIZE_TEST"),
    Shared("INPUT.MAX_SIZE_TEST", "INPUT.MAX_SIZE_TEST", _read_bound, _write_bound),
    Shared("DATASETS.TRAIN", "DATASETS.TRAIN", list, tuple),
    Shared("DATASETS.TEST", "DATASETS.TEST", list, tuple),
    Shared("DATALOADER.NUM_WORKERS", "DATALOADER.NUM_WORKERS"),
    Shared("SOLVER.CLIPS_PER_BATCH", "SOLVER.IMS_PER_BATCH"),
    Shared("SOLVER.BASE_LR", "SOLVER.BASE_LR", float),
    Shared("SOLVER.WEIGHT_DECAY", "SOLVER.WEIGHT_DECAY", float),
    Shared("SOLVER.MAX_STEPS", "SOLVER.MAX_ITER"),
    Shared("SOLVER.MILESTONE_STEPS", "SOLVER.STEPS", list, tuple),
    Shared("SOLVER.WARMUP_STEPS", "SOLVER.WARMUP_ITERS"),
    Shared("SOLVER.CLIP_GRADIENTS", "SOLVER.CLIP_GRADIENTS", _read_clipping, _write_clipping),
    Shared("ENGINE.CHECKPOINT_PERIOD", "SOLVER.CHECKPOINT_PERIOD"),
    Shared("ENGINE.SEED", "SEED", _seed),
    Shared("TEST.EVAL_PERIOD", "TEST.EVAL_PERIOD"),
    Shared("OUTPUT_DIR", "OUTPUT_DIR"),
)
#: Keys of ours that have no meaning here, and what has instead.
ABSENT: Mapping[str, str] = {
    "TEST.EXPECTED_RESULTS": "detectron2's TEST.EXPECTED_RESULTS, in its own form",
    "TEST.BEST_METRIC": "detectron2's BestCheckpointer hook",
    "TEST.SKIP_BROKEN_VIDEOS": "none: a broken video ends the evaluation",
    "ENGINE.PARALLEL": "detectron2's DDP",
    "ENGINE.EMA_DECAY": "a hook of your own",
    "ENGINE.LOG_PERIOD": "detectron2's writers, every 20 iterations",
    "ENGINE.OVERLAY_PERIOD": "vmt.plugins.detectron2.draw_video",
    "ENGINE.KEEP_CHECKPOINTS": "all checkpoints stay",
    "ENGINE.TENSORBOARD": "detectron2's writers",
    "ENGINE.WANDB_PROJECT": "an EventWriter of your own",
}
_PRESET_KEYS = {key for rows in PRESETS.values() for keys in rows.values() for key in keys}


def add_vmt_config(cfg: CfgNode) -> None:
    """Give a detectron2 config the node ``VMT``; one that has it stays as it is.

    Importing the plug-in does so to what ``detectron2.config.get_cfg`` returns. ``None`` means: as
    the preset says. ``MODEL.LABEL_SPACE`` is "", the classes of the first data set, see
    ``vmt.plugins.detectron2.datasets.label_space_of``.
    """
    if NODE in cfg:
        return
    skipped = {entry.ours for entry in SHARED} | set(ABSENT)
    tree = CfgNode()
    for name, value in _leaves(default_config()):
        if name not in skipped:
            _put(tree, name, None if name in _PRESET_KEYS else value)
    tree.MODEL.LABEL_SPACE = ""
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg[NODE] = tree
    if frozen:
        cfg.freeze()


def extend_defaults() -> None:
    """Give the node to every config that ``get_cfg`` makes from now on."""
    add_vmt_config(defaults._C)


def merge_recipe(cfg: CfgNode, path: str | Path) -> None:
    """Read a YAML of ours (``configs/``) into a detectron2 config: every key of it is set.

    Its epochs count where ``SOLVER.MAX_ITER`` is 0, as it is afterwards if the recipe has no steps.

    Args:
        cfg: changed in place; what is merged later is on top.
        path: of the YAML.

    Raises:
        ConfigError: the file is missing, or a key is unknown or of another type.
    """
    recipe, plain = load_config(path), dict(_leaves(default_config()))
    add_vmt_config(cfg)
    for entry in SHARED:
        value = entry.write(_get(recipe, entry.ours))
        if isinstance(value, dict):
            _get(cfg, entry.theirs).update(value)
        else:
            _put(cfg, entry.theirs, value)
    by_preset = _preset_values(recipe)
    for name, value in _leaves(recipe):
        if name in ABSENT:
            if value != plain[name]:
                logger.warning(
                    "%s: %s %s has no effect under detectron2; there is %s.",
                    *(path, name, value, ABSENT[name]),
                )
        elif _has(cfg[NODE], name):
            same = name in by_preset and by_preset[name] == value
            _put(cfg[NODE], name, None if same else value)
    cfg.INPUT.FORMAT = "RGB"


def vmt_config(cfg: CfgNode) -> Node:
    """The config of ours that a detectron2 config stands for.

    Args:
        cfg: with or without the node ``VMT``; without, our defaults hold.

    Returns:
        A frozen config that holds every key; ``MODEL.LABEL_SPACE`` may be "".

    Raises:
        ConfigError: a value of another type, or a key of detectron2's that clips cannot serve.
    """
    _check(cfg)
    values: dict[str, Any] = {}
    for entry in SHARED:
        _put(values, entry.ours, entry.read(_get(cfg, entry.theirs)), make=dict)
    plain = dict(_leaves(default_config()))
    for name, value in _leaves(cfg[NODE]) if NODE in cfg else ():
        if value is not None and (name in _PRESET_KEYS or value != plain.get(name)):
            _put(values, name, value, make=dict)
    result = default_config()
    merge_values(result, values, NODE)
    if cfg.SOLVER.AMP.ENABLED and result.ENGINE.PRECISION == "fp32":
        result.ENGINE.PRECISION = "fp16"
    if cfg.INPUT.RANDOM_FLIP == "none":
        result.INPUT.FLIP_PROB = 0.0
    result.freeze()
    return result


def _check(cfg: CfgNode) -> None:
    """Refuse what detectron2 would do and clips do not."""
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise ConfigError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}; choose RGB or BGR.")
    means = (tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD))
    known = [
        (mean, deviation)
        for order in (1, -1)
        for mean in (PIXEL_MEAN[::order],)
        for deviation in ((1.0, 1.0, 1.0), PIXEL_STD[::order])
    ]
    if means not in known:
        raise ConfigError(
            f"MODEL.PIXEL_MEAN and PIXEL_STD are {list(means[0])} and {list(means[1])}; networks "
            "of VMT have ImageNet's built in and read neither: leave out both."
        )
    if cfg.INPUT.RANDOM_FLIP not in ("none", "horizontal"):
        raise ConfigError(
            f"INPUT.RANDOM_FLIP {cfg.INPUT.RANDOM_FLIP!r}: clips are flipped horizontally or not "
            "at all; choose horizontal (VMT.INPUT.FLIP_PROB says how often) or none."
        )
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING != "choice":
        raise ConfigError(
            f"INPUT.MIN_SIZE_TRAIN_SAMPLING {cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING!r}: one of "
            "INPUT.MIN_SIZE_TRAIN is drawn; set choice and list the sizes."
        )
    if cfg.INPUT.CROP.ENABLED:
        raise ConfigError("INPUT.CROP.ENABLED: crops of clips are VMT.INPUT.CROP_PROB; set False.")


def _preset_values(cfg: Node) -> dict[str, Any]:
    """What the presets of a config give the keys that they govern."""
    values: dict[str, Any] = {}
    plain = default_config()
    for name, rows in PRESETS.items():
        chosen = rows[_get(cfg, name)]
        keys = {key for row in rows.values() for key in row}
        values |= {key: chosen.get(key, _get(plain, key)) for key in keys}
    return values


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Node):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _get(node: Any, name: str) -> Any:
    for part in name.split("."):
        node = node[part]
    return node


def _has(node: Any, name: str) -> bool:
    for part in name.split("."):
        if part not in node:
            return False
        node = node[part]
    return True


def _put(node: Any, name: str, value: Any, make: Callable[[], Any] = CfgNode) -> None:
    *path, leaf = name.split(".")
    for part in path:
        if part not in node:
            node[part] = make()
        node = node[part]
    node[leaf] = value
