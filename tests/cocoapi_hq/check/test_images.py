"""Images against the file that lists them, with a decoder that the tests write down."""

from collections.abc import Mapping

from cocoapi_hq.check.files import check_annotations
from cocoapi_hq.check.images import Finding, OpenedImage, check_images

SIZE = (40, 60)


def find(
    size: tuple[int, int] | None, images: Mapping[str, tuple[int, ...] | str]
) -> list[list[object]]:
    """Frame, value and first words of the problem for each finding of one video."""
    (findings,) = check_images([(list(images), size)], opener(images)).findings
    return [[f.frame, f.value, f.problem] for f in findings]


def opener(images: Mapping[str, tuple[int, ...] | str]) -> object:
    def open_image(name: str) -> OpenedImage:
        image = images[name]
        if isinstance(image, str):
            raise ValueError(image)
        return OpenedImage(*image)

    return open_image


def test_sound_images() -> None:
    images = {"a": SIZE, "b": SIZE}
    checked = check_images([(list(images), SIZE), (["a"], None)], opener(images))
    assert (checked.listed, checked.decoded, checked.findings) == (3, 3, [[], []])
    assert checked.doubtful == []


def test_every_image_is_looked_at() -> None:
    """Not only the first: the kinds of defects of one video, each at its frame."""
    images = {"a": SIZE, "b": (80, 120), "c": "no such file; look for it", "d": SIZE, "e": "odd."}
    (findings,) = check_images([(list(images), SIZE)], opener(images)).findings
    assert [f.frame for f in findings] == [1, 2, 4]
    assert findings[0].value == [80, 120]
    assert findings[0].problem == "the video says [40, 60]"
    assert findings[1] == Finding(2, "c", "no such file", "look for it")
    assert findings[2] == Finding(4, "e", "odd", "replace it")


def test_without_a_size_the_usual_one_counts() -> None:
    images = {"a": (80, 120), "b": SIZE, "c": SIZE}
    assert find(None, images) == [[0, [80, 120], "most images of the video are [40, 60]"]]


def test_what_holds_for_all_images_is_said_once() -> None:
    images = {"a": (80, 120), "b": (80, 120), "c": (80, 120)}
    assert find(SIZE, images) == [[None, [80, 120], "all 3 images: the video says [40, 60]"]]
    gone = dict.fromkeys(images, "no such file; look")
    assert find(SIZE, gone) == [[None, "a, ...", "all 3 images: no such file"]]
    assert find(SIZE, {"a": (80, 120)}) == [[0, [80, 120], "the video says [40, 60]"]]


def test_exif_is_named_where_it_explains_the_size() -> None:
    ((_, value, problem),) = find(SIZE, {"a": (60, 40, 6)})
    assert value == [60, 40]
    assert "the image as stored, but its EXIF orientation (6) turns it" in str(problem)
    ((_, _, problem),) = find(SIZE, {"a": (60, 40, 1)})
    assert "EXIF" not in str(problem)
    ((_, _, problem),) = find(SIZE, {"a": (61, 40, 6)})
    assert "EXIF" not in str(problem)


def test_orientations_that_sizes_do_not_show_are_noted() -> None:
    images = {"a": (*SIZE, 3), "b": (*SIZE, 6), "c": (60, 60, 8), "d": (*SIZE, 1)}
    data = {
        "videos": [
            {"id": 1, "height": 40, "width": 60, "length": 1, "file_names": [name]}
            for name in ("a", "b", "d")
        ],
        "categories": [],
        "annotations": [],
    }
    for k, row in enumerate(data["videos"]):
        row["id"] = k + 1
    report = check_annotations(data, "x.json", opener(images))  # type: ignore[arg-type]
    assert report.defects == []
    assert report.statistics["images decoded"] == "3 of 3"
    (note,) = report.notes
    assert note.startswith("x.json: 1 images (first: a) are turned or mirrored by EXIF")
    assert check_images([(["c"], (60, 60))], opener(images)).orientations == {8}
