"""The images that an annotation file lists against what it says of them.

How an image is decoded is the caller's: a checker with a decoder of its own would see other sizes
than training and inference do.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple


class OpenedImage(NamedTuple):
    """An image as its users see it.

    Attributes:
        height: in pixels, upright.
        width: likewise.
        orientation: of EXIF, 1 (stored upright) to 8, by which it was turned.
    """

    height: int
    width: int
    orientation: int = 1


#: Decodes the image of a name in ``file_names`` wholly, in any thread; raises ValueError with a
#: text "what is wrong; what to do" where that is impossible.
ImageOpener = Callable[[str], OpenedImage]


class Finding(NamedTuple):
    """One thing that is wrong with the images of a video.

    Attributes:
        frame: index of the image; None: all images of the video.
        value: what stands there or was found.
        problem: what is wrong with it.
        fix: what a person should do.
    """

    frame: int | None
    value: object
    problem: str
    fix: str


@dataclass
class ImageCheck:
    """What was found in all videos.

    Attributes:
        findings: one list per video.
        listed: number of images that the videos list.
        decoded: number of those that decode.
        doubtful: names of images that EXIF turns or mirrors although their size tells nothing
            about whether masks were drawn on them upright.
        orientations: EXIF orientations of those.
    """

    findings: list[list[Finding]] = field(default_factory=list)
    listed: int = 0
    decoded: int = 0
    doubtful: list[str] = field(default_factory=list)
    orientations: set[int] = field(default_factory=set)


def check_images(
    videos: Sequence[tuple[Sequence[str], tuple[int, int] | None]], open_image: ImageOpener
) -> ImageCheck:
    """Decode every image of every video, in as many threads as there are cores.

    Args:
        videos: names of the images and the (h, w) that the file gives, None where it gives none.
        open_image: decoder.
    """
    result = ImageCheck()
    with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
        for names, size in videos:
            opened = list(pool.map(lambda name: _open(open_image, name), names))
            result.findings.append(_check_video(result, names, size, opened))
    return result


def _open(open_image: ImageOpener, name: str) -> OpenedImage | ValueError:
    try:
        return open_image(name)
    except ValueError as error:
        return error


def _check_video(
    result: ImageCheck,
    names: Sequence[str],
    size: tuple[int, int] | None,
    opened: Sequence[OpenedImage | ValueError],
) -> list[Finding]:
    sizes = Counter(image[:2] for image in opened if isinstance(image, OpenedImage))
    result.listed += len(names)
    result.decoded += sizes.total()
    usual = size or (sizes.most_common(1)[0][0] if sizes else (0, 0))
    findings = []
    for t, (name, image) in enumerate(zip(names, opened, strict=True)):
        if isinstance(image, ValueError):
            problem, _, fix = str(image).rstrip(".").rpartition("; ")
            findings.append(Finding(t, name, problem or fix, fix if problem else "replace it"))
        elif image[:2] != usual:
            where = "the video says" if size else "most images of the video are"
            problem, fix = _explain_size(image, usual, where, mixed=len(sizes) > 1)
            findings.append(Finding(t, list(image[:2]), problem, fix))
        elif 2 <= image.orientation <= (4 if image.height != image.width else 8):
            result.doubtful.append(name)
            result.orientations.add(image.orientation)
    if len(findings) == len(names) > 1 and len({f[2:] for f in findings}) == 1:
        _, value, problem, fix = findings[0]
        value = value if isinstance(value, list) else f"{names[0]}, ..."
        return [Finding(None, value, f"all {len(names)} images: {problem}", fix)]
    return findings


def _explain_size(
    image: OpenedImage, usual: tuple[int, int], where: str, *, mixed: bool
) -> tuple[str, str]:
    problem = f"{where} {list(usual)}"
    if image.orientation >= 5 and (image.width, image.height) == usual:
        return (
            f"{problem}, which is the image as stored, but its EXIF orientation "
            f"({image.orientation}) turns it, here as in viewers and in training",
            "use masks and sizes of the upright images; or, if the masks were drawn on the stored "
            "ones, remove the orientation from the images (exiftool -Orientation= DIR)",
        )
    if mixed:
        return problem, "give all images of a video one size, that of its masks"
    return (
        problem,
        "give the images that the masks were drawn on, or correct height and width if these are",
    )
