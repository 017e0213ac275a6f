"""Outputs of small networks with weights drawn by name, as the tree gave them at commit 8555371.

``tests/data/golden/NAME.npz`` holds the input and what came out; nothing beside the repository is
needed. ``python -m tests.modeling.golden`` writes the files again, after a change that is meant.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tests.synthetic import CATEGORIES, moving_shapes
from vmt.config.node import load_config
from vmt.modeling.meta_arch.build import build_network
from vmt.structures.boxes import masks_to_boxes, xyxy_to_cxcywh
from vmt.structures.clip import ClipTargets
from vmt.structures.labels import LabelSpace

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / "tests" / "data" / "golden"
SHAPES = LabelSpace("shapes", CATEGORIES, (1, 2, 3))
SIZE, FRAMES = (96, 128), 2
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.SEQFORMER.HIDDEN_DIM": "32",
    "MODEL.SEQFORMER.FFN_DIM": "32",
    "MODEL.SEQFORMER.NUM_QUERIES": "6",
    "MODEL.SEQFORMER.DROPOUT": "0.0",
    "MODEL.REFINER.FFN_DIM": "32",
    "MODEL.REFINER.DROPOUT": "0.0",
    "TEST.TOP_K": "3",
}
POOL = {
    "MODEL.BACKBONE.WIDTHS": "[8, 16, 16, 16]",
    "MODEL.MASK_REFINER.DIM": "16",
    "MODEL.MASK_REFINER.CROP_SIZES": "[64, 96]",
    "MODEL.REFINER.EMBED_DIM": "16",
    "MODEL.REFINER.NUM_HEADS": "2",
}
DETECTOR = {"MODEL.META_ARCHITECTURE": "QueryMaskRefiner"}
#: Name -> config and what makes it another network.
NETWORKS: dict[str, tuple[str, dict[str, str]]] = {
    "seqformer": ("quick/seqformer_tiny", {}),
    "dense_band": ("quick/vmt_tiny_released", {}),
    "quadtree": ("quick/vmt_tiny", {}),
    "msts": ("quick/msts_tiny", {}),
    "mask_refiner": ("refine/mask_refiner_frames", POOL),
    "query_refiner": ("quick/vmt_tiny", DETECTOR),
}
#: Networks that sharpen given masks.
REFINERS = ("mask_refiner", "query_refiner")


def draw(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The numbers of one parameter or buffer, by its name alone; activations stay near one."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        return np.abs(x) * 0.2 + 0.9
    if len(shape) <= 1:
        return 1 + 0.1 * x if leaf == "weight" else 0.05 * x
    return x / np.sqrt(np.prod(shape[1:]), dtype=np.float32)


def network(name: str) -> nn.Module:
    """A network of ``NETWORKS`` with its drawn weights, in training mode."""
    config, own = NETWORKS[name]
    words = [word for pair in (SMALL | own).items() for word in pair]
    torch.manual_seed(0)
    model = build_network(load_config(REPO / "configs" / f"{config}.yaml", words), SHAPES)
    state = {
        key: torch.from_numpy(draw(key, tuple(value.shape)))
        for key, value in model.state_dict().items()
        if value.is_floating_point()
    }
    model.load_state_dict(state, strict=False)
    return model.train()


def clip() -> dict[str, Any]:
    """A training sample; its coarse masks are the true ones, moved by three pixels."""
    video = moving_shapes(FRAMES, SIZE, seed=0)
    masks = torch.from_numpy(video.masks)
    scale = torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
    targets = ClipTargets(
        labels=torch.tensor(video.category_ids) - 1,
        boxes_cxcywh=xyxy_to_cxcywh(masks_to_boxes(masks) / scale).clamp(min=1e-6),
        masks=masks,
        valid=masks.flatten(2).any(-1),
    )
    image = torch.from_numpy(video.frames).permute(0, 3, 1, 2)
    return {"image": image.float(), "coarse": masks.roll(3, -1), "targets": targets}


def training(model: nn.Module) -> dict[str, Tensor]:
    """``loss/NAME``, and ``gradient/NAME``: the norm over each parameter that has one."""
    torch.manual_seed(0)
    losses = model([clip()])
    torch.stack(list(losses.values())).sum().backward()
    out = {f"loss/{name}": loss.detach() for name, loss in losses.items()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            out[f"gradient/{name}"] = parameter.grad.norm()
    return out


@torch.no_grad()
def inference(name: str, model: nn.Module) -> dict[str, Tensor]:
    """What a clip becomes: the arrays of ``check_parity``, or the sharpened tubes."""
    model.eval()
    sample = clip()
    if name in REFINERS:
        tubes = model.refine_tubes(sample["image"].to(torch.uint8), sample["coarse"])
        return {f"tube_{k}": tube.probability for k, tube in enumerate(tubes)}
    images = (sample["image"] - 128) / 64  # exact in half precision
    out = model.reference_arrays(images)
    out.pop("masks_stride4", None)  # large; the refined masks come of it
    return {"images": images, **out}


def outputs(name: str) -> dict[str, npt.NDArray[Any]]:
    """All that a file holds."""
    model = network(name)
    out = training(model) | inference(name, model)
    arrays = {key: value.detach().numpy() for key, value in out.items()}
    return {key: a.astype(np.float16) if a.size > 9999 else a for key, a in arrays.items()}


if __name__ == "__main__":
    for golden in NETWORKS:
        np.savez_compressed(FOLDER / f"{golden}.npz", **outputs(golden))  # type: ignore[arg-type]
