"""Files of tools that nothing here reads: which tool it is, and which way leads on."""

from __future__ import annotations

from typing import Any


def foreign_tool(content: Any) -> str:
    """One sentence about JSON of a known tool; empty for anything else.

    Args:
        content: of the file: its top, or an object with its members as far as they are known.
    """
    first = content[0] if isinstance(content, list) and content else content
    if not isinstance(first, dict):
        return ""
    if "data" in first and ({"annotations", "completions"} & set(first)):
        return (
            "It is a Label Studio export (JSON): export as COCO for vmt refine; its masks have no "
            "identity through time, so draw tracks in CVAT, or polygons in labelme, to train."
        )
    if isinstance(first.get("shapes"), list):
        return "It is a labelme file: give the folder that holds one of them per frame."
    if "_via_img_metadata" in first or (isinstance(content, dict) and via_images(content)):
        return (
            "It is of the VGG Image Annotator (VIA): vmt convert-annotations --from via turns it "
            "into YouTube-VIS JSON."
        )
    if {"view", "metadata", "file"} <= set(first):
        return "It is a project of VIA 3, which has no polygons through time; draw them in VIA 2."
    if "figures" in first or {"objects", "framesCount"} <= set(first):
        return "It is a Supervisely annotation: export as COCO, with a track_id per object."
    if "data_row" in first:
        return "It is a Labelbox export: export masks as COCO, or as one PNG per frame."
    return ""


def via_images(content: Any) -> dict[str, Any] | None:
    """The images of a VIA project or of its exported annotations; None for anything else."""
    if not isinstance(content, dict):
        return None
    rows = content.get("_via_img_metadata", content)
    if not isinstance(rows, dict) or not rows:
        return None
    sound = all(isinstance(r, dict) and "filename" in r and "regions" in r for r in rows.values())
    return rows if sound else None
