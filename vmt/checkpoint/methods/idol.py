"""IDOL."""

from __future__ import annotations

from vmt.checkpoint.methods.base import (
    BACKBONES,
    Method,
    Recognised,
    Shapes,
    ZooFile,
    drive,
    tube_scores,
)

_HEAD = "heads.cls.0.weight"


def _idol(
    data: str, size: str, file_id: str, scores: tuple[float, ...], suffix: str = ""
) -> ZooFile:
    page, url = drive(file_id)
    folder = data.lower().replace("youtube-vis", "ytvis").replace(" ", "_")
    file = f"idol_{folder}_{size.lower()}{suffix}"
    return ZooFile(
        name=file,
        about=f"IDOL, {BACKBONES[size]}, trained on {data}",
        file_name=f"{file}.pth",
        config=f"configs/{folder}/idol_{size}.yaml",
        page=page,
        url=url,
        evaluated_on=f"{data} val",
        expected=tube_scores(scores),
    )


def _start(size: str, starts: str, file_id: str) -> ZooFile:
    page, url = drive(file_id)
    return ZooFile(
        name=f"idol_coco_{size.lower()}",
        about=f"IDOL, {BACKBONES[size]}, trained on pairs of views of COCO's images",
        file_name=f"idol_coco_{size.lower()}.pth",
        config=f"configs/coco/idol_{size}.yaml",
        page=page,
        url=url,
        evaluated_on="",
        starts=starts,
        architecture="IDOL",
    )


def _recognise(shapes: Shapes, label: str) -> Recognised | None:
    if "association_head.layers.0.weight" not in shapes or _HEAD not in shapes:
        return None
    folder = {25: "ovis", 80: "coco"}.get(shapes[_HEAD][0], "ytvis_2019")
    return Recognised("IDOL", f"configs/{folder}/idol_{label}.yaml" if label else "", _HEAD)


METHOD = Method(
    place=2,
    files=(
        # https://github.com/wjf5203/VNext, projects/IDOL/IDOL.md
        _idol(
            "YouTube-VIS 2019",
            "R50",
            "1FFbrfbK1oN4zTO5q_cw3zws2Z2Ppuzv7",
            (49.3, 74.0, 52.8, 47.6, 58.7),
        ),
        _idol(
            "YouTube-VIS 2019",
            "R50",
            "1BAZX99coA23RPrK8He3hDx59j11N7bUa",
            (50.2, 75.1, 53.6, 48.4, 59.3),
            "_second",
        ),
        _idol(
            "YouTube-VIS 2019",
            "R101",
            "1T8S3_tZRcMJ1c5ioe3MGUNwKg9UP5ROW",
            (50.1, 73.1, 56.1, 47.0, 57.9),
        ),
        _idol(
            "YouTube-VIS 2019",
            "SwinL",
            "1Otlq8eqb_xg0eRF5dQHyxKvuEceOgwBk",
            (64.3, 87.5, 71.0, 55.6, 69.1),
        ),
        _idol(
            "YouTube-VIS 2021",
            "R50",
            "1GqE7HEaJZCqUogsNi52vp_9NVEsiJwxL",
            (47.7, 71.5, 53.3, 41.1, 55.5),
        ),
        _idol(
            "YouTube-VIS 2021",
            "R101",
            "1hYu32qR95QiZLKz40tsXrM_vsC9dcLLe",
            (48.5, 71.4, 53.9, 41.4, 55.9),
        ),
        _idol(
            "YouTube-VIS 2021",
            "SwinL",
            "17CSYz31VvaD-3RjLo3x5JjD-wL3zcDSq",
            (60.8, 84.9, 67.1, 47.5, 65.3),
        ),
        _idol("OVIS", "R50", "1CalS2qLNm1MRlNdWkKhAKvS4CyM7vHTv", (29.5, 50.1, 29.4, 14.9, 37.1)),
        _idol("OVIS", "SwinL", "1XXr5bx3CEwyurQvO4B8XMn2t6awYodGw", (41.4, 64.1, 44.0, 17.6, 48.4)),
        _start("R50", "resnet50", "1ip-pxavMcyWOxfBcl_4cUIBKXRTA4wrO"),
        _start("R101", "resnet101", "1Gm162LthxorsS6pMX_XoVTn5iDAAMWbU"),
        _start("SwinL", "swin_l_p4w12", "1o-q4WIcMn_D5p1tSubJBWlPAnJLQ5Cbb"),
    ),
    recognise=_recognise,
)
