"""Mask2Former, and MinVIS, which is the same network on videos."""

from __future__ import annotations

from vmt.checkpoint.methods.base import BACKBONES, Method, Recognised, Shapes, ZooFile, drive

_HEAD = "heads.cls.weight"


def _mask2former(name: str, starts: str, epochs: int, path: str, score: float) -> ZooFile:
    return ZooFile(
        name=f"mask2former_{name.lower()}",
        about=f"Mask2Former, {BACKBONES[name]}, trained on COCO for {epochs} epochs",
        file_name=f"mask2former_{name.lower()}.pkl",
        config=f"configs/coco/mask2former_{name}.yaml",
        page="https://github.com/facebookresearch/Mask2Former/blob/main/MODEL_ZOO.md",
        url=f"https://dl.fbaipublicfiles.com/maskformer/mask2former/coco/instance/{path}",
        evaluated_on="COCO val",
        expected={"mask AP": score},
        licence="CC BY-NC 4.0",
        starts=starts,
        architecture="MinVIS",
    )


def _minvis(folder: str, data: str, name: str, file_id: str, score: float) -> ZooFile:
    page, url = drive(file_id)
    file = f"minvis_{folder}_{name.lower()}"
    return ZooFile(
        name=file,
        about=f"MinVIS, {BACKBONES[name]}, trained on {data}",
        file_name=f"{file}.pth",
        config=f"configs/{folder}/minvis_{name}.yaml",
        page=page,
        url=url,
        evaluated_on=f"{data} val",
        expected={"AP": score},
        licence="CC BY-NC-SA 4.0",
    )


def _recognise(shapes: Shapes, label: str) -> Recognised | None:
    if "decoder.layers.0.cross_attn.in_proj_weight" not in shapes:
        return None
    classes = shapes[_HEAD][0] - 1 if _HEAD in shapes else 0
    stem = {80: "coco/mask2former", 25: "ovis/minvis"}.get(classes, "ytvis_2019/minvis")
    config = f"configs/{stem}_{label}.yaml" if label else ""
    return Recognised("Mask2Former or MinVIS", config, _HEAD, more_rows=1)


METHOD = Method(
    place=3,
    files=(
        # https://github.com/facebookresearch/Mask2Former/blob/main/MODEL_ZOO.md
        _mask2former(
            "R50", "resnet50", 50, "maskformer2_R50_bs16_50ep/model_final_3c8ec9.pkl", 43.7
        ),
        _mask2former(
            "SwinL",
            "swin_l_p4w12",
            100,
            "maskformer2_swin_large_IN21k_384_bs16_100ep/model_final_e5f453.pkl",
            50.1,
        ),
        # https://github.com/NVlabs/MinVIS/blob/main/MODEL_ZOO.md
        _minvis("ytvis_2019", "YouTube-VIS 2019", "R50", "1mdrL6QRVmoz-QizohZ7SnyGDlpAWFCVf", 47.3),
        _minvis(
            "ytvis_2019", "YouTube-VIS 2019", "SwinL", "12yL72Qv8OBqapgvGmLHXAb6YZv4SS_6D", 62.0
        ),
        _minvis("ytvis_2021", "YouTube-VIS 2021", "R50", "1efuTrDtaHKDY6924fCB2ROiY5LICt_ts", 43.9),
        _minvis(
            "ytvis_2021", "YouTube-VIS 2021", "SwinL", "1j46M_NFGzpt2Ga4ptOumTRAjmr8eQb1Y", 55.4
        ),
        _minvis("ovis", "OVIS", "R50", "1CaJhmej8ySruccKklDJcIK6lKuEskpXj", 26.7),
        _minvis("ovis", "OVIS", "SwinL", "1fkRrN8PCyhhMAb1YYOb--2K6JnpBk7oR", 41.7),
    ),
    recognise=_recognise,
)
