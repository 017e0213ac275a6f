"""MaskDINO."""

from __future__ import annotations

from vmt.checkpoint.methods.base import Method, Recognised, Shapes, ZooFile

_STORE = "https://github.com/IDEA-Research/detrex-storage/releases/download/maskdino-v0.1.0/"


def _maskdino(
    name: str,
    network: str,
    config: str,
    published: str,
    scores: tuple[float, float],
    starts: str = "",
) -> ZooFile:
    file = f"maskdino_{published}_mask{scores[0]}ap_box{scores[1]}ap.pth"
    return ZooFile(
        name=f"maskdino_{name}",
        about=f"MaskDINO, {network}, trained on COCO",
        file_name=file,
        config=f"configs/coco/maskdino_{config}.yaml",
        page="https://github.com/IDEA-Research/MaskDINO",
        url=_STORE + file,
        evaluated_on="COCO val",
        expected={"mask AP": scores[0], "box AP": scores[1]},
        licence="Apache 2.0, that of the repository",
        starts=starts,
        architecture="MaskDINO" if starts else "",
    )


def _recognise(shapes: Shapes, label: str) -> Recognised | None:
    if "selection.linear.weight" not in shapes:
        return None
    levels = {"R50": {3: "R50_3s", 5: "R50_5levels"}}.get(label, {})
    label = levels.get(shapes["encoder.level_embed"][0], label)
    stem = "maskdino" if "decoder.layers.6.linear1.weight" in shapes else "refinevis_images"
    config = f"configs/coco/{stem}_{label}.yaml" if label else ""
    return Recognised("MaskDINO", config, "heads.cls.weight")


METHOD = Method(
    place=1,
    files=(
        # https://github.com/IDEA-Research/MaskDINO, table of COCO instance segmentation
        _maskdino(
            "r50",
            "ResNet-50",
            "R50",
            "r50_50ep_300q_hid2048_3sd1_instance_maskenhanced",
            (46.3, 51.7),
            "resnet50",
        ),
        _maskdino(
            "r50_3s",
            "ResNet-50, three levels",
            "R50_3s",
            "r50_50ep_300q_hid1024_3sd1_instance_maskenhanced",
            (46.1, 51.5),
        ),
        _maskdino(
            "swinl",
            "Swin-L",
            "SwinL",
            "swinl_50ep_300q_hid2048_3sd1_instance_maskenhanced",
            (52.3, 59.0),
            "swin_l_p4w12",
        ),
        _maskdino(
            "swinl_regressed",
            "Swin-L with MODEL.MASKDINO.BOX_INIT regressed",
            "SwinL",
            "swinl_50ep_300q_hid2048_3sd1_instance",
            (52.1, 58.3),
        ),
    ),
    recognise=_recognise,
)
