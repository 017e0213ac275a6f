"""Which kind of mask file a path is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cocoapi_hq.listing import list_files, list_folders
from vmt.data.datasets.folders import VOID
from vmt.data.mask_files.base import MaskFile
from vmt.data.mask_files.entries import EntryOptions, open_entries
from vmt.data.mask_files.folders import FolderFile, FolderVideo, MakeCodec
from vmt.data.mask_files.json_list import read_json_list
from vmt.data.mask_files.label_maps import make_label_map_codec
from vmt.data.mask_files.polygons import make_polygon_codec, polygon_files
from vmt.utils.errors import AnnotationError

#: For messages.
KNOWN = (
    "YouTube-VIS annotations or results, COCO annotations or results (JSON); a folder of PNG label "
    "maps or of polygon files (one per frame, as labelme writes them), or of such folders"
)


@dataclass(frozen=True)
class MaskOptions:
    """How a mask file is read.

    Args:
        entries: for JSON files.
        void: value of label maps that is never touched; None without one.
        guess_void: label maps that hold no other value have it as object.
    """

    entries: EntryOptions = field(default_factory=EntryOptions)
    void: int | None = VOID
    guess_void: bool = True


def open_mask_file(path: Path, options: MaskOptions | None = None) -> MaskFile:
    """Find out what a file or folder of masks is.

    Args:
        path: of the file or folder.
        options: how it is read.

    Raises:
        AnnotationError: nothing there, or none of the known kinds.
    """
    options = options if options is not None else MaskOptions()
    if path.is_dir():
        return _open_folder(path, options)
    if not path.is_file():
        raise AnnotationError(f"{path}: no such file or folder of masks; check the path.")
    if path.suffix.lower() == ".png":
        return FolderFile(path, "a label map", (_video((path,), "", path.stem, options),))
    if path.suffix.lower() in (".xml", ".zip"):
        raise AnnotationError(
            f"{path}: is no JSON; of a CVAT export, vmt convert-annotations makes a file to refine."
        )
    content = read_json_list(path)
    if isinstance(content.top.get("shapes"), list):
        return FolderFile(path, "polygons", (_video((path,), "", path.stem, options),))
    return open_entries(content, options.entries)


def _open_folder(path: Path, options: MaskOptions) -> FolderFile:
    own = _mask_files(path)
    if own:
        videos = [_video(own, "", path.resolve().name, options)]
    else:
        found = {folder.name: _mask_files(folder) for folder in list_folders(path)}
        videos = [_video(files, name, name, options) for name, files in found.items() if files]
    if not videos:
        raise AnnotationError(f"{path}: holds no masks of a known kind. Known are {KNOWN}.")
    polygons = videos[0].files[0].suffix.lower() == ".json"
    return FolderFile(path, "polygons" if polygons else "label maps", videos)


def _mask_files(folder: Path) -> tuple[Path, ...]:
    """Polygon files, or else the PNG files, of a folder."""
    return polygon_files(folder) or tuple(list_files(folder, (".png",)))


def _video(files: tuple[Path, ...], folder: str, label: str, options: MaskOptions) -> FolderVideo:
    if files[0].suffix.lower() == ".json":
        return FolderVideo(files, folder, label, make_polygon_codec)
    codec: MakeCodec = make_label_map_codec(options.void, guess=options.guess_void)
    return FolderVideo(files, folder, label, codec, f"{options.void} {options.guess_void}")
