"""Folders of masks to records: label maps (DAVIS, YouTube-VOS), maps per object, polygons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cocoapi_hq.io import rle
from cocoapi_hq.io.json_file import read_json
from cocoapi_hq.io.listing import natural_key
from vmt.data.images import picture_size
from vmt.data.listing import list_frames
from vmt.data.mask_files.base import FrameSet, join_notes, list_few
from vmt.data.mask_files.folders import FolderFile, FolderVideo, FrameCodec
from vmt.data.mask_files.open import MaskOptions, has_frames, open_mask_folder
from vmt.data.names import VOID
from vmt.data.records import Tracklet, VideoList, VideoRecord
from vmt.utils.errors import AnnotationError, scoring_errors

#: The class of objects whose class is not known.
OBJECT = "object"


def load_png_folders(
    masks: Path,
    image_root: Path,
    name: str,
    mask_key: str = "",
    *,
    strict: bool = True,
    void: int | None = VOID,
    guess_void: bool = True,
    report: Callable[[str], object] | None = None,
) -> VideoList:
    """Read ``masks/<video>/<frame>.png`` beside ``image_root/<video>/<frame>.jpg``.

    The kinds of files, the meaning of pixel values and the pairing with frames are those of
    ``vmt refine`` (``vmt.data.mask_files``). Without sub-folders, or with one per object, it is one
    video whose frames lie in ``image_root`` itself. Classes are those that the masks say,
    ``meta.json`` of YouTube-VOS beside ``masks`` says, or ``object``.

    Args:
        masks: folder of masks.
        image_root: folder of frames.
        name: of the data set.
        mask_key: unused; readers share their signature.
        strict: every frame must have masks; otherwise frames without a file are left out.
        void: see ``MaskOptions``.
        guess_void: see ``MaskOptions``.
        report: is told, per video, what a person should know; this reads all masks at once.

    Returns:
        One record per video in natural order, ids from 1.

    Raises:
        AnnotationError: no masks of a known kind, or masks and frames do not agree.
        VideoError: a folder of frames is missing or empty.
    """
    if not masks.is_dir():
        raise AnnotationError(f"{masks}: no such folder of label maps.")
    alone = has_frames(image_root)
    folder = open_mask_folder(masks, MaskOptions(void=void, guess_void=guess_void, one_video=alone))
    names, classes = _classes(masks, folder)
    ids = {word: key for key, word in names.items()}
    records = []
    for number, video in enumerate(folder.videos, start=1):
        in_root = alone and len(folder.videos) == 1 and not (image_root / video.folder).is_dir()
        paths = list(list_frames(image_root / ("" if in_root else video.folder)).values())
        size = picture_size(paths[0])
        files = _pair(video, paths, size, strict, report)
        annotations = FolderAnnotations(
            files=tuple(files.values()),
            codec=video.codec,
            size=size,
            category_ids=ids,
            category_of=classes.get(video.folder, {}) if classes else None,
            where=video.where,
        )
        file_names = tuple(paths[t].relative_to(image_root).as_posix() for t in files)
        records.append(
            VideoRecord(number, video.label, image_root, file_names, *size, annotations, name)
        )
    return VideoList(name, names, records)


def _pair(
    video: FolderVideo,
    paths: Sequence[Path],
    size: tuple[int, int],
    strict: bool,
    report: Callable[[str], object] | None,
) -> dict[int, tuple[Path, ...]]:
    """Frame -> its files; see ``load_png_folders`` for the rest."""
    video.refuse_frames(paths)
    stems = tuple(path.stem for path in paths)
    note = video.codec.survey(video.files if report is not None else (), size)
    pairing = video.pair(FrameSet(str(paths[0].parent), size, stems, len(stems)))
    files = dict(pairing.files)
    bare = [stem for t, stem in enumerate(stems) if t not in files]
    if bare and strict:
        noun = video.codec.noun
        raise AnnotationError(
            f"{video.where}: {len(bare)} frames have no {noun} (first: {bare[0]}); add them, "
            "or convert with --sparse, which leaves these frames out."
        )
    said = join_notes(pairing.note, note)
    if report is not None and said:
        report(f"{video.label}: {said}")
    return files


def _classes(masks: Path, folder: FolderFile) -> tuple[dict[int, str], dict[str, dict[int, str]]]:
    """Category id -> name, and video -> object -> name of YouTube-VOS's ``meta.json``."""
    path = masks.parent / "meta.json"
    per_video = _meta_classes(path) if path.is_file() else {}
    found = {word for objects in per_video.values() for word in objects.values()}
    if not per_video:
        for video in folder.videos:
            found |= video.codec.categories(video.files)
    return dict(enumerate(sorted(found) or [OBJECT], start=1)), per_video


def _meta_classes(path: Path) -> dict[str, dict[int, str]]:
    with scoring_errors():
        content = read_json(path)
    try:
        rows = {
            video: {int(k): row.get("category") for k, row in entry["objects"].items()}
            for video, entry in content["videos"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise AnnotationError(
            f"{path}: is not as YouTube-VOS writes it: videos > name > objects > id > category."
        ) from None
    words = [word for objects in rows.values() for word in objects.values()]
    if not any(words):  # validation and test sets have no classes
        return {}
    return {
        video: {k: str(word) for k, word in objects.items() if word}
        for video, objects in rows.items()
    }


@dataclass(frozen=True)
class FolderAnnotations:
    """The masks of one video, read frame by frame.

    Args:
        files: of every frame.
        codec: reads them.
        size: (h, w) in pixels of the frames.
        category_ids: class -> category id.
        category_of: object -> class, where a list of classes says so; else None.
        where: for messages.
    """

    files: tuple[tuple[Path, ...], ...]
    codec: FrameCodec
    size: tuple[int, int]
    category_ids: Mapping[str, int]
    category_of: Mapping[int, str] | None
    where: str

    def load(self, frames: Sequence[int] | None = None) -> list[Tracklet]:
        """Tracklets of the objects that the asked frames show."""
        frames = range(len(self.files)) if frames is None else frames
        masks: dict[str, dict[int, rle.Rle]] = {}
        for t in sorted(set(frames)):
            for path in self.files[t]:
                for key, mask in self.codec.read(path, self.size).items():
                    masks.setdefault(key, {})[t] = rle.encode(mask)
        return [
            Tracklet(
                id=int(key) if key.isdecimal() else place,
                category_id=self.category_ids[self._category(key)],
                masks=tuple(masks[key].get(t) for t in frames),
                where=f"{self.where}: {self.codec.label(key)}",
            )
            for place, key in enumerate(sorted(masks, key=natural_key), start=1)
        ]

    def _category(self, key: str) -> str:
        if self.category_of is None:
            return self.codec.category(key)
        if not key.isdecimal() or int(key) not in self.category_of:
            raise AnnotationError(
                f"{self.where}: {self.codec.label(key)} is not among the objects of this video in "
                f"meta.json ({list_few([str(k) for k in self.category_of]) or 'none'}); add its "
                "category there, or move meta.json away to have all objects of one class."
            )
        return self.category_of[int(key)]
