"""SeqFormer, and VMT and MS-STS VIS, which stand on it."""

from __future__ import annotations

from vmt.checkpoint.methods.base import Method, Recognised, Shapes, ZooFile, drive, tube_scores

_VMT_NUMBERS = ("AP^B", "AP^B_75", "AR^B_1", "AP^M", "AP^M_75")


def _vmt(size: str, backbone: str, file_id: str, scores: tuple[float, ...]) -> ZooFile:
    page, url = drive(file_id)
    file = size.lower().replace("-", "")
    return ZooFile(
        name=f"vmt_{file}",
        about=f"VMT as released, {backbone}, trained on HQ-YTVIS train and COCO",
        file_name=f"checkpoint_{file}_final.pth",
        config=f"configs/hq_ytvis/vmt_{size.replace('-', '')}_released.yaml",
        page=page,
        url=url,
        evaluated_on="HQ-YTVIS test",
        expected=dict(zip(_VMT_NUMBERS, scores, strict=True)),
    )


def _seqformer(
    size: str, backbone: str, scores: tuple[float, ...], suffix: str = "", data: str = " and COCO"
) -> ZooFile:
    file = size.lower().replace("-", "") + suffix
    return ZooFile(
        name=f"seqformer_{file}",
        about=f"SeqFormer, {backbone}, trained on YouTube-VIS 2019{data}",
        file_name=f"seqformer_{file}.pth",
        config=f"configs/ytvis_2019/seqformer_{size.replace('-', '')}.yaml",
        page="https://github.com/wjf5203/SeqFormer",
        url=None,
        evaluated_on="YouTube-VIS 2019 val",
        expected=tube_scores(scores),
    )


def _start(size: str, backbone: str, starts: str, file_id: str) -> ZooFile:
    page, url = drive(file_id)
    file = size.lower().replace("-", "")
    return ZooFile(
        name=f"seqformer_coco_{file}",
        about=f"SeqFormer, {backbone}, trained on COCO alone: what trainings on videos start from",
        file_name=f"seqformer_coco_{file}.pth",
        config=f"configs/ytvis_2019/seqformer_{size.replace('-', '')}.yaml",
        page=page,
        url=url,
        evaluated_on="",
        starts=starts,
    )


def _recognise(shapes: Shapes, label: str) -> Recognised | None:
    if not any(name.startswith("decoder.layers.0.instance_attn.") for name in shapes):
        return None
    refined = any(name.startswith("refiner.") for name in shapes)
    banded = any(name.startswith("refiner.branches.") for name in shapes)
    folder, method, stem = "hq_ytvis", "SeqFormer", "seqformer"
    if refined:
        method = f"Video Mask Transfiner, refiner {'dense_band' if banded else 'unknown'}"
        stem, label = ("vmt", f"{label}_released") if banded and label else ("", "")
    if any(".branch.intra." in name for name in shapes):
        method = f"MS-STS VIS base; {method}" if refined else "MS-STS VIS"
        folder, stem = "ytvis_2019", "" if refined else "msts"
    config = f"configs/{folder}/{stem}_{label}.yaml" if stem and label else ""
    return Recognised(method, config, "heads.cls.0.weight", family="SeqFormer")


METHOD = Method(
    place=0,
    files=(
        # https://github.com/SysCV/vmt, model zoo (its column "AR^M_75" is AP^M_75)
        _vmt(
            "R50", "ResNet-50", "1e9hKCC-pAGB-wSO0_qyUNoEe-5XzRocz", (30.7, 24.2, 31.5, 50.5, 54.5)
        ),
        _vmt(
            "R101",
            "ResNet-101",
            "1TQs_meDaomLz56xCjAZKT1BNtS3K3sla",
            (33.0, 29.3, 33.3, 51.6, 55.8),
        ),
        _vmt(
            "Swin-L", "Swin-L", "13cDni9olYd6-xdURQMWstsW0VLbkgIKt", (44.8, 43.4, 43.0, 64.8, 70.1)
        ),
        # https://github.com/wjf5203/SeqFormer, model zoo; X101 is left out: no config fits it
        _seqformer("R50", "ResNet-50", (47.4, 69.8, 51.8, 45.5, 54.8)),
        _seqformer("R101", "ResNet-101", (49.0, 71.1, 55.7, 46.8, 56.9)),
        _seqformer("Swin-L", "Swin-L", (59.3, 82.1, 66.4, 51.7, 64.4)),
        _seqformer("R50", "ResNet-50", (45.1, 66.9, 50.5, 45.6, 54.6), "_ytvis_only", " alone"),
        # the same page, column "Pretrain"
        _start("R50", "ResNet-50", "resnet50", "1aWCeak2DY5arbUzYzbsAgrUfFnVkI8qi"),
        _start("R101", "ResNet-101", "resnet101", "1dxPfPQiTFoN-hfyGvVxpmF2cwFYjeJgI"),
        _start("Swin-L", "Swin-L", "swin_l_p4w12", "19A4mgRqq6b-TTFN_ntYLQ3dQcaHYOD_p"),
    ),
    recognise=_recognise,
)
