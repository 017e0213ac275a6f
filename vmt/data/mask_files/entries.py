"""Masks in one JSON file: YouTube-VIS annotations, results, COCO annotations and results."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from cocoapi_hq.io import rle
from cocoapi_hq.io.fields import is_int, short
from vmt.data.datasets.categories import category_names
from vmt.data.formats.foreign import foreign_tool
from vmt.data.mask_files.base import (
    BoolArray,
    ChangesOf,
    FrameSet,
    MaskFile,
    MaskVideo,
    Size,
    TrackletName,
    VideoMasks,
    checked_mask,
    idle_note,
    idle_rings,
    join_notes,
    list_few,
    size_text,
)
from vmt.data.mask_files.json_list import Json, JsonList, read_json_list
from vmt.utils.errors import AnnotationError

#: The list of masks that is read and written, one entry per frame.
VIDEO_KEY = "segmentations"
#: Its counterpart in annotations of images.
IMAGE_KEY = "segmentation"


@dataclass(frozen=True)
class EntryOptions:
    """What of a JSON file is refined.

    Args:
        mask_key: list of masks in annotations of videos.
        min_score: results below it are left alone.
        members: JSON that lists the videos or images of a result file; None without one.
    """

    mask_key: str = VIDEO_KEY
    min_score: float = 0.0
    members: Path | None = None


@dataclass(frozen=True)
class Member:
    """A video or image as the file lists it.

    Args:
        id: its id; its name, where results give no id and no file lists it.
        label: for people.
        folder: of its frames, where ``file_names`` is None.
        file_names: of its frames; None when no file lists them.
        size: (h, w) in pixels; None when the file does not say.
    """

    id: int | str
    label: str
    folder: str = ""
    file_names: tuple[str, ...] | None = None
    size: Size | None = None


def open_entries(content: JsonList, options: EntryOptions) -> EntryFile:
    """Find the videos of a JSON file.

    Args:
        content: the file.
        options: what of it is refined.

    Raises:
        AnnotationError: none of the known forms, or its entries break their format.
    """
    form = _form_of(content, options)
    listed = content
    if content.name == "results" and options.members is not None:
        listed = read_json_list(options.members)
    members = _members(listed, "images" if form.image else "videos")
    rows = _rows_of_members(content, form, members, listed.path)
    if not members:
        members = {key: _unlisted(content, key, chosen[0]) for key, chosen in rows.items()}
    crowds = sum(place.crowd for place in content.places)
    if crowds and crowds == len(content.places):
        raise AnnotationError(
            f"{content.path}: all {crowds} masks are marked as crowd (iscrowd 1), and crowds are "
            "not refined; some tools mark every mask that is stored as run lengths so: set iscrowd "
            "to 0 where a mask is one object."
        )
    categories = listed.top.get("categories")
    names = category_names(categories if isinstance(categories, list) else ())
    videos = tuple(
        EntryVideo(
            key=f"{form.noun}_{member.id}",
            label=member.label,
            folder=member.folder,
            file_names=member.file_names,
            content=content,
            form=form,
            options=options,
            member=member,
            rows=tuple(rows[key]),
            categories=names,
        )
        for key, member in members.items()
        if key in rows
    )
    if not videos:
        raise AnnotationError(f"{content.path}: {content.name} is empty; there is no mask.")
    note = f"{crowds} crowd regions (iscrowd) are left alone" if crowds else ""
    return EntryFile(content.path, form.text, videos, form.noun, note, content=content, kind=form)


def _rows_of_members(
    content: JsonList, form: _Form, members: Mapping[int | str, Member], listed: Path
) -> dict[int | str, list[int]]:
    """Id of a video or image -> places of its entries."""
    named = _by_name(members)
    rows: dict[int | str, list[int]] = {}
    for row, place in enumerate(content.places):
        key = place.member
        by_name = form.by_name and isinstance(key, str)
        if by_name:
            key = named.get(key, key)
        elif not is_int(key):
            raise AnnotationError(
                f"{content.where(row)}.{form.member} is {short(key)}; give an integer."
            )
        if members and key not in members:
            if by_name:
                raise AnnotationError(
                    f"{content.where(row)} is of the video {key!r}, but {listed} has none, or "
                    "several, of that name; give video_id, or the files that belong together."
                )
            raise AnnotationError(
                f"{content.where(row)}.{form.member} is {key}, but {listed} has no such "
                f"{form.noun}; give the files that belong together."
            )
        rows.setdefault(key, []).append(row)
    return rows


@dataclass(frozen=True)
class _Form:
    """One of the four JSON forms: its name, and whether its entries are of images."""

    text: str
    image: bool
    mask_key: str

    @property
    def member(self) -> str:
        return "image_id" if self.image else "video_id"

    @property
    def by_name(self) -> bool:
        """Whether entries may name their video in place of its id."""
        return self.text == "YouTube-VIS results"

    @property
    def noun(self) -> str:
        return "image" if self.image else "video"


def _form_of(content: JsonList, options: EntryOptions) -> _Form:
    first = content.first if content.first is not None else {}
    results = content.name == "results"
    named = "video_id" in first or (results and "video_name" in first)
    of_video = named and options.mask_key in first
    of_image = "image_id" in first and IMAGE_KEY in first
    if of_video and (results or "videos" in content.top):
        text = "YouTube-VIS results" if results else "YouTube-VIS annotations"
        return _Form(text, False, options.mask_key)
    if of_image and (results or "images" in content.top):
        return _Form("COCO results" if results else "COCO annotations", True, IMAGE_KEY)
    raise AnnotationError(
        f"{content.path}: is none of the known kinds of mask file. Known are YouTube-VIS "
        f"annotations (videos, annotations with video_id and {options.mask_key}), COCO annotations "
        f"(images, annotations with image_id and {IMAGE_KEY}), results (a list of entries with "
        "video_id, video_name or image_id), one frame's polygons (shapes with label and points), "
        f"and folders of PNG label maps or of polygon files. {_what_it_is(content)}"
    )


def _what_it_is(content: JsonList) -> str:
    foreign = foreign_tool([content.first] if content.name == "results" else content.top)
    if foreign:
        return foreign
    if content.first is not None:
        return f"Its first entry has {list_few(sorted(map(str, content.first)))}."
    keys = sorted(map(str, content.top))
    return f"It has {list_few(keys)}." if keys else "It holds no entry."


def _members(listed: JsonList, key: str) -> dict[int | str, Member]:
    """The videos or images that a file lists; empty when it lists none (results)."""
    rows = listed.top.get(key)
    if rows is None and listed.name == "results":
        return {}
    if not isinstance(rows, list):
        raise AnnotationError(
            f"{listed.path}: has no list {key!r}, which names the frames; give a file that has it "
            "with --annotations."
        )
    members: dict[int | str, Member] = {}
    for k, row in enumerate(rows):
        where = f"{listed.path}: {key}[{k}]"
        if not isinstance(row, dict) or not is_int(row.get("id")):
            raise AnnotationError(f"{where} is {short(row)}; give an object with an integer id.")
        names = row.get("file_names") if key == "videos" else [row.get("file_name")]
        if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
            raise AnnotationError(f"{where} (id={row['id']}) does not list its frames; add them.")
        sides = row.get("height"), row.get("width")
        size = sides if all(is_int(side) and side > 0 for side in sides) else None
        folder = Path(names[0]).parent.name or f"video {row['id']}"
        label = str(row.get("name") or (names[0] if key == "images" else folder))
        members[row["id"]] = Member(row["id"], label, "", tuple(names), size)  # type: ignore[arg-type]
    return members


def _by_name(members: Mapping[int | str, Member]) -> dict[str, int | str]:
    """What results may call a video, its name or the folder of its frames -> its id."""
    keys_of: dict[str, list[int | str]] = {}
    for key, member in members.items():
        folder = [str(Path(member.file_names[0]).parent)] if member.file_names else []
        for name in {member.label, *folder}:
            keys_of.setdefault(name, []).append(key)
    return {name: keys[0] for name, keys in keys_of.items() if len(keys) == 1}


def _unlisted(content: JsonList, key: int | str, row: int) -> Member:
    """A video or image of a result file by itself: its own name, or its id, names its frames."""
    name = content.element(row).get("video_name")
    folder = name if isinstance(name, str) and name else str(key)
    return Member(key, folder, folder)


@dataclass(frozen=True)
class EntryVideo(MaskVideo):
    """The entries of one video.

    Args:
        content: the file.
        form: which of the four.
        options: what is refined.
        member: the video as the file lists it.
        rows: of its entries.
        categories: id -> name.
    """

    content: JsonList
    form: _Form
    options: EntryOptions
    member: Member
    rows: tuple[int, ...]
    categories: Mapping[int, str]

    def stamp(self) -> str:
        """Hash of the entries and of how they are read."""
        digest = hashlib.sha1(f"{self.member} {self.options}".encode(), usedforsecurity=False)
        for row in self.rows:
            place = self.content.places[row]
            digest.update(f"{row} {self.content.text[place.begin : place.end]}\n".encode())
        return digest.hexdigest()

    def load(self, frames: FrameSet) -> VideoMasks:
        """Tracklets and masks of the video, checked against its frames."""
        if self.member.size not in (None, frames.size):
            raise AnnotationError(
                f"{self.content.path}: says that {self.label} has frames of "
                f"{size_text(self.member.size or frames.size)} pixels, but those of "
                f"{frames.where} have {frames.explain_size()}; give the frames that the masks "
                "were drawn on."
            )
        if self.form.image and self.file_names is None and frames.count != 1:
            raise AnnotationError(
                f"{self.content.path}: names images by their ids alone; give the COCO file that "
                "lists their frames with --annotations."
            )
        tracklets: list[TrackletName] = []
        counts: list[list[str | None]] = []
        idle: list[str] = []
        empty = 0
        length = 1 if self.form.image else frames.count
        for row in self.rows:
            element = self.content.element(row)
            where = f"{self.content.where(row)}.{self.form.mask_key}"
            masks = element.get(self.form.mask_key)
            masks = [masks] if self.form.image else masks
            if self._left_alone(element) or masks is None:
                continue
            if not isinstance(masks, list):
                raise AnnotationError(
                    f"{where} is {short(masks)}; give one mask or null per frame."
                )
            length = len(masks) if length is None else length
            if len(masks) != length:
                raise AnnotationError(
                    f"{where} has {len(masks)} entries, but {frames.where} has {length} frames; "
                    "give one mask or null per frame."
                )
            own = [_counts(mask, f"{where}[{t}]", frames) for t, mask in enumerate(masks)]
            idle += [place for t, m in enumerate(masks) for place in idle_rings(m, f"{where}[{t}]")]
            empty += sum(bool(m) and c is None for m, c in zip(masks, own, strict=True))
            tracklets.append(TrackletName(str(row), self._name(element, row)))
            counts.append(own)
        present = sorted({t for own in counts for t, text in enumerate(own) if text is not None})
        names = self.file_names
        name_of = (lambda t: Path(names[t]).stem) if names else str
        return VideoMasks(
            tracklets,
            {t: name_of(t) for t in present},
            partial(_decode_frame, counts, frames.size),
            join_notes(
                idle_note(idle), f"{empty} empty masks (no pixel) stay as they are." * bool(empty)
            ),
            length,
            name_of,
        )

    def _left_alone(self, element: Mapping[str, Json]) -> bool:
        score = element.get("score")
        low = isinstance(score, (int, float)) and score < self.options.min_score
        return bool(element.get("iscrowd")) or low

    def _name(self, element: Mapping[str, Json], row: int) -> str:
        identity = element.get("id")
        kind = self.categories.get(element.get("category_id", -1), "object")
        return f"{kind} {identity if is_int(identity) else f'#{row}'}"


def _counts(mask: Json, where: str, frames: FrameSet) -> str | None:
    """Run lengths of a mask that is there and has a pixel."""
    if rle.is_absent(mask):
        return None
    checked = checked_mask(mask, where, frames.size)
    if tuple(checked["size"]) != frames.size:
        raise AnnotationError(
            f"{where}: the mask is {size_text(checked['size'])} pixels, but the frames of "
            f"{frames.where} are {frames.explain_size()}; give the frames that the masks were "
            "drawn on."
        )
    return checked["counts"] if rle.area(checked) else None


def _decode_frame(counts: Sequence[Sequence[str | None]], size: Size, frame: int) -> BoolArray:
    """(N, H, W) of one frame."""
    masks = np.zeros((len(counts), *size), dtype=np.bool_)
    for target, row in zip(masks, counts, strict=True):
        text = row[frame]
        if text is not None:
            target[...] = rle.decode({"size": list(size), "counts": text})
    return masks


@dataclass(frozen=True)
class EntryFile(MaskFile):
    """A JSON file of masks.

    Args:
        videos: at least one.
        content: the file.
        kind: which of the four forms.
    """

    videos: Sequence[EntryVideo]
    content: JsonList = field(kw_only=True)
    kind: _Form = field(kw_only=True)

    def rewrite(self, changes_of: ChangesOf) -> Iterator[tuple[str, Iterable[bytes]]]:
        """The JSON with other masks, as one file."""
        yield "", self._pieces(changes_of)

    def _pieces(self, changes_of: ChangesOf) -> Iterator[bytes]:
        video_of = {row: video.key for video in self.videos for row in video.rows}
        masks_of = lru_cache(maxsize=16)(partial(_new_masks, changes_of))  # rows may alternate
        done = 0
        for row, place in enumerate(self.content.places):
            masks = masks_of(video_of[row]).get(row) if row in video_of else None
            if masks is None:
                continue
            element = self.content.element(row)
            _put(element, masks, self.kind)
            yield self.content.text[done : place.begin].encode()
            yield self.content.spelled(row, element).encode()
            done = place.end
        yield self.content.text[done:].encode()


def _new_masks(changes_of: ChangesOf, key: str) -> dict[int, dict[int, rle.Rle]]:
    """Row of the file -> frame -> mask, of one video."""
    masks: dict[int, dict[int, rle.Rle]] = {}
    for change in changes_of(key):
        if change.mask is not None:
            masks.setdefault(int(change.key), {})[change.frame] = change.mask
    return masks


def _put(element: dict[str, Any], masks: Mapping[int, rle.Rle], form: _Form) -> None:
    """Replace masks of an element, and their boxes and areas where it has them.

    Beside them, every odd way to say that the object is absent becomes null.
    """
    if not form.image:
        old = element[form.mask_key]
        element[form.mask_key] = [None if rle.is_absent(mask) else mask for mask in old]
    for t, mask in masks.items():
        box, area = list(rle.to_box(mask)), rle.area(mask)
        if form.image:
            element[form.mask_key] = mask
            replaced = {"bbox": box, "area": area}
            element.update({key: value for key, value in replaced.items() if key in element})
            continue
        element[form.mask_key][t] = mask
        # Boxes and areas belong to the plain masks, not to another list beside them.
        if form.mask_key != VIDEO_KEY:
            continue
        for key, value in (("bboxes", box), ("areas", area)):
            values = element.get(key)
            if isinstance(values, list) and t < len(values):
                values[t] = value
