"""What the commands about annotation files do: check, convert, cut."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from cocoapi_hq import split as splits
from cocoapi_hq.check.files import CheckReport, check_file
from cocoapi_hq.check.images import OpenedImage
from cocoapi_hq.io.json_file import is_json_name, read_json, write_json
from cocoapi_hq.io.listing import list_files, list_folders
from vmt.data.catalog import sniff_format
from vmt.data.convert import open_source, write_ytvis_json
from vmt.data.formats.cvat import SUFFIXES as CVAT_SUFFIXES
from vmt.data.formats.foreign import via_images
from vmt.data.frame_names import frame_path, why_missing
from vmt.data.images import check_picture
from vmt.data.label_maps import LABEL_SUFFIXES
from vmt.data.mask_files.polygons import polygon_files
from vmt.data.names import FORMATS
from vmt.utils.atomic import make_folder
from vmt.utils.errors import AnnotationError, OutputError, VideoError, scoring_errors


def check(file: Path, images: Path | None, gt: Path | None, mended: Path | None) -> CheckReport:
    """All defects of an annotation or result file.

    Args:
        file: what to check.
        images: folder of the frames, every one of which is decoded; None: they are not opened.
        gt: annotation file that results are meant for.
        mended: where to write a copy without the defects.

    Raises:
        ScoringError: the file cannot be read or is of neither kind, or the copy cannot be written.
    """
    with tqdm(unit=" images", disable=True if images is None else None, leave=False) as bar:
        lock = threading.Lock()

        def open_image(name: str) -> OpenedImage:
            assert images is not None, "asked for with a folder only"
            path = frame_path(images, name)
            try:
                if not path.exists() and (why := why_missing(name, images)):
                    raise ValueError(f"no such file; {why}")
                info = check_picture(path)
            except VideoError as error:  # the check names the file itself
                raise ValueError(str(error).removeprefix(f"{path}: ")) from None
            finally:
                with lock:
                    bar.update()
            return OpenedImage(*info.size, info.orientation)

        report = check_file(file, images=open_image if images is not None else None, gt=gt)
    if images is None and report.kind == "ground truth":
        report.statistics["images"] = "not opened; give --images"
    if mended is not None:
        write_json(mended, report.mended)
    return report


def convert(
    source: Path, images: Path, output: Path, kind: str | None, *, sparse: bool, void: str | None
) -> Iterator[str]:
    """Turn annotations of another format into YouTube-VIS JSON.

    Args:
        source: file or folder.
        images: folder of the frames.
        output: the JSON.
        kind: one of ``FORMATS``; None: by the look of it.
        sparse: see ``open_source``.
        void: likewise.

    Yields:
        Notes, and what was written.

    Raises:
        AnnotationError: the annotations break their format, or are none that can be converted.
        VideoError: frames are missing.
        OutputError: ``output`` cannot be written.
    """
    opened = open_source(kind or _guess(source), source, images, sparse=sparse, void=void)
    written = write_ytvis_json(opened.data, output)
    for note in (*opened.notes, *written.notes):
        yield f"note: {note}"
    counts = ", ".join(f"{count} {name}" for name, count in written.counts.items())
    classes = ", ".join(opened.data.categories.values())
    yield f"written: {output} ({counts}; classes {classes})"


def _guess(path: Path) -> str:
    if path.suffix.lower() == ".txt":
        return "mots-txt"
    if path.is_dir() and list_files(path, (".txt",)) and not list_folders(path):
        return "png" if list_files(path, LABEL_SUFFIXES) else "mots-txt"
    if path.is_file() and path.suffix.lower() in CVAT_SUFFIXES:
        return "cvat"
    if path.is_dir() and any(polygon_files(folder) for folder in (path, *list_folders(path))):
        return "labelme"
    if path.is_file() and is_json_name(path):
        with scoring_errors():
            content = read_json(path)
        images = content.get("images") if isinstance(content, dict) else None
        if isinstance(images, list) and any(
            isinstance(x, dict) and "video_id" in x for x in images
        ):
            return "coco-video"
        if via_images(content) is not None:
            return "via"
    kind = sniff_format(path)
    if kind not in FORMATS:
        raise AnnotationError(
            f"{path}: is {kind} already; nothing to convert. DATASETS.TRAIN takes it as it is."
        )
    return kind


def cut(split_file: Path, files: Sequence[Path], folder: Path) -> Iterator[str]:
    """Cut annotation and result files by a split into files of the same names in a folder.

    Yields:
        What was written.

    Raises:
        ScoringError: a file cannot be read, or lacks videos of the split.
        OutputError: the folder cannot be written, or is that of the files themselves.
    """
    split = splits.read(split_file)
    make_folder(folder)
    for path in files:
        target = folder / path.name
        if target.absolute() == path.absolute():
            raise OutputError(f"{target}: would overwrite the input; give another folder.")
        data, counts = splits.cut(path, split)
        write_json(target, data)
        parts = ", ".join(f"{count} {name}" for name, count in counts.items())
        yield f"written: {target} ({parts})"
