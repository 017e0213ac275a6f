"""Rows for backbones, under whatever prefix a published network keeps its own."""

from __future__ import annotations

from vmt.checkpoint.key_maps.rows import Rename, Row, Unused


def swin(prefix: str) -> tuple[Row, ...]:
    """Swin as its authors name it, with the norms of the outputs that detectors add.

    Args:
        prefix: of the published names, with its dot.
    """
    return (
        Unused(prefix + "{x*}.relative_position_index", "follows from the window size"),
        Rename(prefix + "patch_embed.{x*}", "backbone.patch_embed.{x*}"),
        Rename(prefix + "layers.{s}.{x*}", "backbone.stages.{s}.{x*}"),
        *(Rename(f"{prefix}norm{s}.{{p}}", f"backbone.out_norm.{s}.{{p}}") for s in range(4)),
    )


def detectron2_resnet(prefix: str) -> tuple[Row, ...]:
    """ResNet as detectron2 names it: a stem, then res2 to res5 of bottlenecks.

    Args:
        prefix: of the published names, with its dot.
    """
    rows: list[Row] = [
        Rename(prefix + "stem.conv1.norm.{p}", "backbone.body.bn1.{p}"),
        Rename(prefix + "stem.conv1.{p}", "backbone.body.conv1.{p}"),
    ]
    for stage in range(1, 5):
        theirs, ours = f"{prefix}res{stage + 1}.{{b}}", f"backbone.body.layer{stage}.{{b}}"
        rows += [
            Rename(theirs + ".shortcut.norm.{p}", ours + ".downsample.1.{p}"),
            Rename(theirs + ".shortcut.{p}", ours + ".downsample.0.{p}"),
            Rename(theirs + ".conv{n}.norm.{p}", ours + ".bn{n}.{p}"),
            Rename(theirs + ".conv{n}.{p}", ours + ".conv{n}.{p}"),
        ]
    return tuple(rows)
