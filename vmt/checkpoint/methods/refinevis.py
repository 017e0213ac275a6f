"""RefineVIS, which has a frame model inside; nobody has published weights of it."""

from __future__ import annotations

from vmt.checkpoint.methods import methods
from vmt.checkpoint.methods.base import Method, Recognised, Shapes
from vmt.checkpoint.parts import FRAME_MODEL

#: What the frame model is called -> part of the name of its configs, and their backbones.
_CONFIGS = {
    "MaskDINO": ("", ("R50", "SwinL")),
    "IDOL": ("_condinst", ("R50",)),
    "Mask2Former or MinVIS": ("_mask2former", ("R50",)),
}


def _recognise(shapes: Shapes, label: str) -> Recognised | None:
    frame = {
        name.removeprefix(FRAME_MODEL): shape
        for name, shape in shapes.items()
        if name.startswith(FRAME_MODEL)
    }
    fits = (method.recognise(frame, label) for method in methods() if method is not METHOD)
    inner = next((fit for fit in fits if fit is not None), None)
    if not frame or inner is None:
        return None
    head = FRAME_MODEL + inner.head
    classes = shapes[head][0] - inner.more_rows if head in shapes else 0
    folder = {25: "ovis", 80: "coco"}.get(classes, "ytvis_2019")
    variant, labels = _CONFIGS.get(inner.method, ("", ()))
    if variant:  # Table 7 alone has other frame models
        folder = "ytvis_2021"
    config = f"configs/{folder}/refinevis{variant}_{label}.yaml" if label in labels else ""
    return Recognised(f"RefineVIS on {inner.method}", config, head, inner.more_rows)


METHOD = Method(place=4, files=(), recognise=_recognise)
