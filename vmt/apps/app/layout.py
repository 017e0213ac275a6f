"""What is where on the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import gradio as gr

from vmt.apps.app import view
from vmt.apps.app.clip import Limits
from vmt.inference.video_file import VIDEO_SUFFIXES

HEAD: Final = """# VMT
Choose a video; find objects or draw one; sharpen; save. Nobody else sees your files, and they are
removed when you close this page."""
CSS: Final = "footer {display: none !important} #picture img {cursor: crosshair}"
SHAPES: Final = ("polygon", "box")
SHOWN: Final = ("as found or drawn", "sharpened and followed")
#: In the list of objects that a drawing may belong to: one that is not there yet.
NEW: Final = 0
#: Key in the names of elements -> what the button says.
SAVES: Final = {
    "ytvis": "YouTube-VIS JSON",
    "coco": "COCO JSON",
    "png": "PNG masks",
    "overlay": "Overlay video",
    "report": "Report",
}


class Layout:
    """The parts of the page, inside a block of gradio that is open.

    Args:
        limits: of a video, for its label.
        offered: names of videos to pick from.
    """

    def __init__(self, limits: Limits, offered: Sequence[str]) -> None:
        gr.Markdown(HEAD)
        with gr.Row():
            with gr.Column(scale=3):
                self._add_picture()
            with gr.Column(scale=2, min_width=340):
                self._add_video(limits, offered)
                self._add_drawing()
                self._add_editing()
                self._add_saving()

    def _add_picture(self) -> None:
        self.picture = gr.Image(
            label="Frame",
            show_label=False,
            interactive=False,
            format="jpeg",
            buttons=["fullscreen"],
            height=480,
            elem_id="picture",
        )
        self.frame = gr.Slider(0, 1, 0, step=1, label="Frame", elem_id="frame")
        self.shown = gr.Radio(SHOWN, value=SHOWN[1], label="Masks", elem_id="shown")
        with gr.Row():
            self.status = gr.Textbox(
                label="What happened", lines=2, interactive=False, scale=5, elem_id="status"
            )
            self.stop = gr.Button("Stop", variant="stop", scale=1, elem_id="stop")
        self.table = gr.Dataframe(
            headers=list(view.COLUMNS),
            datatype="str",
            type="array",
            label="Objects",
            interactive=False,
            elem_id="objects",
        )

    def _add_video(self, limits: Limits, offered: Sequence[str]) -> None:
        self.upload = gr.File(
            label=f"Video, up to {limits.megabytes} MB and {limits.frames} frames",
            file_types=sorted(VIDEO_SUFFIXES),
            height=150,
            elem_id="upload",
        )
        self.offer = gr.Dropdown(
            list(offered),
            label="or one of these",
            value=None,
            visible=bool(offered),
            elem_id="offer",
        )
        with gr.Row():
            self.find = gr.Button("Find objects", variant="primary", min_width=90, elem_id="find")
            self.follow = gr.Button("Follow", variant="primary", min_width=90, elem_id="follow")
            self.sharpen = gr.Button("Sharpen", variant="primary", min_width=90, elem_id="sharpen")

    def _add_drawing(self) -> None:
        with gr.Group():
            self.shape = gr.Radio(
                SHAPES, value=SHAPES[0], label="Draw: click into the picture", elem_id="shape"
            )
            with gr.Row():
                self.label = gr.Textbox(label="Label", placeholder="object", elem_id="label")
                self.target = gr.Dropdown(
                    [("new object", NEW)], value=NEW, label="Belongs to", elem_id="target"
                )
        with gr.Row():
            self.add = gr.Button("Add to the objects", elem_id="add")
            self.undo = gr.Button("Undo corner", elem_id="undo")

    def _add_editing(self) -> None:
        with gr.Group(), gr.Row():
            self.object = gr.Dropdown([], label="Object", elem_id="object")
            self.new_label = gr.Textbox(label="New label", elem_id="new_label")
        with gr.Row():
            self.rename = gr.Button("Change label", elem_id="rename")
            self.delete = gr.Button("Delete object", elem_id="delete")

    def _add_saving(self) -> None:
        gr.Markdown("Save as")
        with gr.Row():
            self.saves = {
                key: gr.Button(text, size="sm", min_width=120, elem_id=f"save_{key}")
                for key, text in SAVES.items()
            }
        self.file = gr.File(label="File", interactive=False, visible=False, elem_id="file")
