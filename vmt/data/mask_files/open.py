"""Which kind of mask file a path is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cocoapi_hq.io.listing import list_files, list_folders
from vmt.data.label_maps import LABEL_SUFFIXES
from vmt.data.listing import IMAGE_SUFFIXES, JPEG_SUFFIXES
from vmt.data.mask_files.base import MaskFile
from vmt.data.mask_files.entries import EntryOptions, open_entries
from vmt.data.mask_files.folders import FolderFile, FolderVideo, FrameCodec
from vmt.data.mask_files.json_list import read_json_list
from vmt.data.mask_files.label_maps import LabelMapCodec, ObjectMapCodec
from vmt.data.mask_files.polygons import PolygonCodec, polygon_files
from vmt.data.names import VOID
from vmt.utils.errors import AnnotationError

#: For messages.
KNOWN = (
    "YouTube-VIS annotations or results, COCO annotations or results (JSON); a folder of label "
    "maps (PNG, BMP, TIFF, NPY, NPZ) or of polygon files (one per frame, as labelme writes them), "
    "or of such folders; a folder per object with a mask per frame"
)


@dataclass(frozen=True)
class MaskOptions:
    """How a mask file is read.

    Args:
        entries: for JSON files.
        void: value of label maps that is never touched; None without one.
        guess_void: find out what the values of label maps mean.
        one_video: all masks are of one video: sub-folders are its objects.
        first_number: see ``pairing.pair``.
    """

    entries: EntryOptions = field(default_factory=EntryOptions)
    void: int | None = VOID
    guess_void: bool = True
    one_video: bool = False
    first_number: int | None = None


def has_frames(folder: Path | None) -> bool:
    """Whether pictures lie in a folder itself, so that it is the frames of one video."""
    return folder is not None and folder.is_dir() and bool(list_files(folder, IMAGE_SUFFIXES))


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
        return open_mask_folder(path, options)
    if not path.is_file():
        raise AnnotationError(f"{path}: no such file or folder of masks; check the path.")
    suffix = path.suffix.lower()
    if suffix in LABEL_SUFFIXES:
        codec = LabelMapCodec((path,), options.void, guess=options.guess_void)
        return _one_file(path, "a label map", codec, options)
    if suffix in JPEG_SUFFIXES:
        raise _jpeg(path)
    if suffix in (".xml", ".zip"):
        raise AnnotationError(
            f"{path}: is no JSON; of a CVAT export, vmt convert-annotations makes a file to refine."
        )
    content = read_json_list(path)
    if isinstance(content.top.get("shapes"), list):
        return _one_file(path, "polygons", PolygonCodec(), options)
    return open_entries(content, options.entries)


def _one_file(path: Path, form: str, codec: FrameCodec, options: MaskOptions) -> FolderFile:
    video = FolderVideo.of([path], codec, path.stem, first_number=options.first_number)
    return FolderFile(path, form, (video,))


def open_mask_folder(path: Path, options: MaskOptions) -> FolderFile:
    """Find out what a folder of masks is; see ``open_mask_file``."""
    label = path.resolve().name
    own = _mask_files(path)
    files = {folder.name: _mask_files(folder) for folder in ([] if own else list_folders(path))}
    if own:
        sets = [_VideoFiles("", label, own)]
    elif options.one_video and sum(map(bool, files.values())) > 1:
        masks = [path for some in files.values() for path in some]
        sets = [_VideoFiles("", label, masks, of_objects=True)]
    else:
        sets = [_VideoFiles(name, name, some) for name, some in files.items() if some]
        for name in (name for name, some in files.items() if not some):
            masks = [p for folder in list_folders(path / name) for p in _mask_files(folder)]
            sets += [_VideoFiles(name, name, masks, of_objects=True)] if masks else []
    if not sets:
        raise _no_masks(path)
    maps = [path for one in sets if one.kind == "label maps" for path in one.files]
    codecs: dict[str, FrameCodec] = {
        "polygons": PolygonCodec(),
        "label maps": LabelMapCodec(maps, options.void, guess=options.guess_void),
        "masks per object": ObjectMapCodec(),
    }
    videos = [
        FolderVideo.of(one.files, codecs[one.kind], one.label, one.folder, options.first_number)
        for one in sets
    ]
    return FolderFile(path, sets[0].kind, videos)


@dataclass(frozen=True)
class _VideoFiles:
    """The mask files of one video."""

    folder: str
    label: str
    files: Sequence[Path]
    of_objects: bool = False

    @property
    def kind(self) -> str:
        if self.files[0].suffix.lower() == ".json":
            return "polygons"
        return "masks per object" if self.of_objects else "label maps"


def _mask_files(folder: Path) -> list[Path]:
    """Polygon files, or else the label maps, of a folder."""
    texts = polygon_files(folder)
    if texts:
        return list(texts)
    maps = list_files(folder, LABEL_SUFFIXES)
    stem, count = max(
        Counter(path.stem for path in maps).items(), key=lambda x: x[1], default=("", 0)
    )
    if count > 1:
        twice = [path.name for path in maps if path.stem == stem]
        raise AnnotationError(
            f"{folder}: holds {' and '.join(twice)}, which are masks of the same frame; keep one."
        )
    return maps


def _no_masks(path: Path) -> AnnotationError:
    for folder in (path, *list_folders(path)):
        photos = list_files(folder, JPEG_SUFFIXES)
        if photos:
            return _jpeg(photos[0])
    return AnnotationError(f"{path}: holds no masks of a known kind. Known are {KNOWN}.")


def _jpeg(path: Path) -> AnnotationError:
    return AnnotationError(
        f"{path}: JPEG changes the values of pixels, so it cannot hold masks; export them as PNG."
    )
