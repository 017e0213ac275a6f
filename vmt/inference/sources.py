"""Videos in, of any kind: files, folders and lists of frames, cameras and streams.

Frames are RGB uint8 (H, W, 3), upright, one at a time. Still pictures are decoded by
``vmt.data.images``; frames of video files become RGB by the same rules: transparency is put over
black, and the display matrix, which phones note for turned and mirrored pictures, is applied. Edit
lists (trims without re-encoding) are obeyed, so that frames and their number are those that
players show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from cocoapi_hq.io.json_file import is_json_name, read_json
from cocoapi_hq.io.listing import sort_paths
from vmt.data.frame_names import frame_path, why_missing
from vmt.data.images import Frame, check_picture
from vmt.data.images import read_picture as read_image
from vmt.data.listing import HEIC_FIX, HEIC_SUFFIXES, IMAGE_SUFFIXES, list_frames, one_series
from vmt.inference.live import STDIN, Camera, LiveOptions, Stream
from vmt.inference.video_file import FOLDER_FPS, VIDEO_SUFFIXES, VideoFile
from vmt.utils.errors import AnnotationError, VideoError, scoring_errors

#: Frames per second of YTVIS lists: one frame in five of 30.
YTVIS_FPS = 6.0


@runtime_checkable
class VideoSource(Protocol):
    """A video that can be read from its first frame as often as wanted (a camera: once).

    Attributes:
        name: for file names and messages.
        fps: frames per second, > 0.
        size: (h, w) of the frames in pixels.
        num_frames: None when the source does not say (cameras, some containers).
        video_id: id in results; 1 unless an annotation file says otherwise.
        complete_length: True when results must list exactly ``num_frames`` frames.
        rereadable: False when frames come only once.
    """

    name: str
    fps: float
    size: tuple[int, int]
    num_frames: int | None
    video_id: int
    complete_length: bool
    rereadable: bool

    def __iter__(self) -> Iterator[Frame]:
        """Frames (H, W, 3) uint8 RGB; VideoError where the video breaks off."""
        ...


class FrameList:
    """Image files as the frames of a video.

    Args:
        name: of the video.
        paths: frames in order, at least one; all of one size.
        fps: frames per second.
        video_id: id in results.
        size: (h, w) that the frames must have; None takes the first frame's.
        complete_length: see ``VideoSource``.

    Raises:
        VideoError: there is no frame, or the first cannot be read.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        fps: float = FOLDER_FPS,
        *,
        video_id: int = 1,
        complete_length: bool = False,
    ) -> None:
        if not paths:
            raise VideoError(f"{name}: has no frames; give a folder or list with images.")
        self.name = name
        self.paths = list(paths)
        self.fps = fps
        self.num_frames: int | None = len(self.paths)
        self.video_id = video_id
        self.complete_length = complete_length
        self.rereadable = True
        first = check_picture(self.paths[0])
        self.size: tuple[int, int] = first.size
        self.turned = first.turned

    def __iter__(self) -> Iterator[Frame]:
        """Read one image after the other; VideoError at the first that is broken or odd-sized."""
        for path in self.paths:
            frame = read_image(path)
            if frame.shape[:2] != self.size:
                raise VideoError(
                    f"{path}: is {frame.shape[1]}x{frame.shape[0]} pixels, but "
                    f"{self.paths[0].name} is {self.size[1]}x{self.size[0]}; the frames of one "
                    "video must have one size: resize them or give each size its own folder."
                )
            yield frame


class FirstFrames:
    """The first frames of another source.

    Args:
        source: what to cut.
        limit: most frames to hand out, at least 1.
    """

    def __init__(self, source: VideoSource, limit: int) -> None:
        if limit < 1:
            raise VideoError(f"{source.name}: at least 1 frame is needed, not {limit}.")
        self._source = source
        self._limit = limit
        self.name = source.name
        self.fps = source.fps
        self.size = source.size
        self.num_frames: int | None = min(source.num_frames or limit, limit)
        self.video_id = source.video_id
        self.complete_length = False
        self.rereadable = source.rereadable

    def __iter__(self) -> Iterator[Frame]:
        """Frames of the source, at most the limit; later damage in it goes unseen."""
        for count, frame in enumerate(self._source, start=1):
            yield frame
            if count >= self._limit:
                return


class Videos:
    """What a user named: one video or several, each opened when its turn comes.

    Args:
        openers: one per video.
    """

    def __init__(self, openers: Sequence[Callable[[], VideoSource]]) -> None:
        self._openers = list(openers)

    def __len__(self) -> int:
        return len(self._openers)

    def __iter__(self) -> Iterator[Callable[[], VideoSource]]:
        """Functions that open one video each; VideoError when it cannot be opened."""
        return iter(self._openers)


def open_videos(spec: str, images: Path | None = None, live: LiveOptions | None = None) -> Videos:
    """Find what a user named.

    Args:
        spec: a video file, an image, a folder of frames, a glob of either, a YTVIS JSON, the
            number of a camera, a URL, a named pipe, or "-" for the standard input.
        images: root of the frames of a YTVIS JSON; None: the JSON's folder.
        live: how long to wait for what is live; whether a file is.

    Returns:
        One video, or all videos of a JSON or of a glob over video files or over images in
        several folders.

    Raises:
        VideoError: nothing there, or of a kind that cannot be read.
        AnnotationError: the JSON is no YTVIS file, or one of its images is missing (checked for
            all videos before the first is opened).
    """
    live = live if live is not None else LiveOptions()
    path = Path(spec).expanduser()
    if spec == STDIN or "://" in spec or path.is_fifo():
        return Videos([partial(Stream, spec, live)])
    if live.follow:
        if not path.is_file():
            raise VideoError(f"{spec}: is no file that grows; leave out --follow.")
        return Videos([partial(Stream, str(path), live)])
    if not path.exists():
        if spec.isdecimal():
            return Videos([partial(Camera, int(spec), live)])
        if any(c in spec for c in "*?["):
            return _find_glob(spec)
        raise VideoError(f"{spec}: no such file or folder; check the path.")
    if path.is_dir():
        return Videos([partial(_open_folder, path)])
    if is_json_name(path):
        return _find_ytvis(path, images if images is not None else path.parent)
    return Videos([partial(_open_file, path)])


def _open_file(path: Path) -> VideoSource:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return VideoFile(path)
    if suffix in IMAGE_SUFFIXES:
        return FrameList(path.stem, [path])
    if suffix in HEIC_SUFFIXES:
        raise VideoError(f"{path}: is a HEIC picture of a phone; {HEIC_FIX}.")
    raise VideoError(
        f"{path}: {suffix or 'no extension'} is not a kind of video known here; give one of "
        f"{' '.join(sorted(VIDEO_SUFFIXES))}, a folder of images, or a YTVIS .json."
    )


def _open_folder(folder: Path) -> VideoSource:
    return FrameList(folder.resolve().name, list(list_frames(folder).values()))


def _find_glob(pattern: str) -> Videos:
    path = Path(pattern).expanduser()
    root = Path(path.anchor or ".")
    relative = str(path.relative_to(root) if path.anchor else path)
    paths = sort_paths(p for p in root.glob(relative) if p.is_file())
    if not paths:
        raise VideoError(f"{pattern}: matches no file; check the pattern, and quote it.")
    kinds = {p.suffix.lower() for p in paths}
    if kinds <= IMAGE_SUFFIXES:
        folders: dict[Path, list[Path]] = {}
        for image in paths:
            folders.setdefault(image.parent, []).append(image)
        return Videos([partial(_open_images, *item) for item in folders.items()])
    if kinds <= VIDEO_SUFFIXES:
        return Videos([partial(VideoFile, p) for p in paths])
    odd = next(p for p in paths if p.suffix.lower() not in IMAGE_SUFFIXES)
    raise VideoError(
        f"{pattern}: matches {odd.name} beside other kinds of file; narrow it to images or videos."
    )


def _open_images(folder: Path, paths: Sequence[Path]) -> VideoSource:
    return FrameList(folder.resolve().name or "frames", one_series(paths, str(folder)))


# YTVIS JSON -----------------------------------------------------------------------------------


def _find_ytvis(path: Path, root: Path) -> Videos:
    with scoring_errors():
        content = read_json(path)
    videos = content.get("videos") if isinstance(content, dict) else None
    if not isinstance(videos, list) or not videos:
        raise AnnotationError(f"{path}: has no list 'videos'; give a YouTube-VIS annotation file.")
    rows = [_ytvis_row(path, root, index, video) for index, video in enumerate(videos)]
    return Videos(
        [
            partial(FrameList, name, paths, YTVIS_FPS, video_id=video_id, complete_length=True)
            for video_id, name, paths in rows
        ]
    )


def _ytvis_row(path: Path, root: Path, index: int, video: Any) -> tuple[int, str, list[Path]]:
    names = video.get("file_names") if isinstance(video, dict) else None
    video_id = video.get("id") if isinstance(video, dict) else None
    where = f"{path}: videos[{index}]"
    if not isinstance(video_id, int):
        raise AnnotationError(f"{where} has no integer 'id'.")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise AnnotationError(f"{where} (id={video_id}) has no list 'file_names' of its frames.")
    folder = root
    inner = root / "JPEGImages"
    if not frame_path(folder, names[0]).is_file() and frame_path(inner, names[0]).is_file():
        folder = inner
    paths = [frame_path(folder, name) for name in names]
    for name, file in zip(names, paths, strict=True):
        if not file.is_file():
            why = why_missing(name, root) or (
                "give the folder that the names start from with --images"
            )
            raise AnnotationError(
                f"{where} (id={video_id}) lists {name}, but {file} does not exist; {why}."
            )
    return video_id, Path(names[0]).parts[0] if "/" in names[0] else f"video{video_id}", paths
