from __future__ import annotations

import zlib

import pytest

from vmt.config.defaults import default_config
from vmt.data.datasets.categories import COCO_MAPS, LABEL_SPACES, coco_map, label_space
from vmt.utils.errors import ConfigError

#: COCO's name -> names that may stand for it; all other pairs must have equal names.
OTHER_WORDS = {
    "car": {"sedan", "vehicle"},
    "bus": {"vehicle"},
    "truck": {"vehicle"},
    "motorcycle": {"motorbike"},
    "frisbee": {"flying_disc"},
    # unlike, but published
    "bicycle": {"motorbike"},
    "skis": {"snowboard"},
}


def name_of(space: str, category_id: int) -> str:
    row = LABEL_SPACES[space]
    return row.names[row.label_of(category_id)].lower()


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("ytvis_2019", 40),
        ("ytvis_2019_release", 42),
        ("ytvis_2021", 40),
        ("ovis", 25),
        ("coco", 80),
        ("bdd100k_mots", 8),
        ("bdd100k_det", 10),
        ("object", 1),
        ("families", 4),
    ],
)
def test_number_and_uniqueness_of_classes(name: str, classes: int) -> None:
    space = label_space(name)
    assert space.name == name
    assert len(space) == classes
    assert len(set(space.names)) == classes
    assert all(word == word.strip() and word for word in space.names)


def test_every_space_is_tested_above_and_the_default_exists() -> None:
    assert set(LABEL_SPACES) == {
        "ytvis_2019",
        "ytvis_2019_release",
        "ytvis_2021",
        "ovis",
        "coco",
        "bdd100k_mots",
        "bdd100k_det",
        "object",
        "families",
    }
    assert default_config().MODEL.LABEL_SPACE in LABEL_SPACES


@pytest.mark.parametrize(
    ("space", "category_id", "name"),
    [
        ("ytvis_2019", 1, "person"),
        ("ytvis_2019", 6, "sedan"),
        ("ytvis_2019", 24, "fox"),
        ("ytvis_2019", 36, "mouse"),
        ("ytvis_2019", 40, "tennis_racket"),
        ("ytvis_2021", 1, "airplane"),
        ("ytvis_2021", 26, "person"),
        ("ytvis_2021", 40, "zebra"),
        ("ovis", 13, "giant_panda"),
        ("ovis", 25, "vehicle"),
        ("coco", 1, "person"),
        ("coco", 13, "stop_sign"),
        ("coco", 74, "mouse"),
        ("coco", 90, "toothbrush"),
    ],
)
def test_landmarks(space: str, category_id: int, name: str) -> None:
    assert name_of(space, category_id) == name


@pytest.mark.parametrize(
    ("space", "checksum"),
    [
        ("ytvis_2019", 0x9FB45341),
        ("ytvis_2021", 0xF7C9C7B6),
        ("ovis", 0xDEB9CA6D),
        ("coco", 0x4E697A05),
    ],
)
def test_the_order_of_the_classes_is_frozen(space: str, checksum: int) -> None:
    """Trained files depend on it: a list may grow a sibling, never change."""
    assert zlib.crc32(" ".join(LABEL_SPACES[space].names).encode()) == checksum


def test_ytvis_2021_is_in_alphabetical_order_and_coco_has_the_known_gaps() -> None:
    names = LABEL_SPACES["ytvis_2021"].names
    assert list(names) == sorted(names)
    gaps = set(range(1, 91)) - set(LABEL_SPACES["coco"].category_ids)
    assert gaps == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def test_release_head_has_the_category_id_as_label() -> None:
    release, plain = LABEL_SPACES["ytvis_2019_release"], LABEL_SPACES["ytvis_2019"]
    assert release.category_ids == tuple(range(42))
    assert release.names[1:41] == plain.names
    assert (release.names[0], release.names[41]) == ("unused_0", "unused_41")
    assert release.label_of(20) == 20
    assert plain.label_of(20) == 19


@pytest.mark.parametrize("name", COCO_MAPS)
def test_coco_maps_join_what_belongs_together(name: str) -> None:
    target = name.removesuffix("_later")
    for coco_id, category_id in coco_map(name).items():
        source, wanted = name_of("coco", coco_id), name_of(target, category_id)
        if (name, coco_id) == ("ytvis_2019_release", 74):
            assert (source, wanted) == ("mouse", "fox")  # the published slip, kept by name only
            continue
        assert wanted == source or wanted in OTHER_WORDS.get(source, set()), (source, wanted)


def test_maps_use_every_class_name_that_both_sides_share() -> None:
    """A shared name that a map leaves out is left out on purpose."""
    on_purpose = {"ytvis_2019": {"mouse"}, "ytvis_2021": {"mouse"}, "ovis": {"bird"}}
    for name, left_out in on_purpose.items():
        shared = {n.lower() for n in LABEL_SPACES[name].names} & set(LABEL_SPACES["coco"].names)
        mapped = {name_of("coco", coco_id) for coco_id in COCO_MAPS[name]}
        assert shared - mapped == left_out


def test_sizes_and_differences_of_the_maps() -> None:
    sizes = {name: len(pairs) for name, pairs in COCO_MAPS.items()}
    assert sizes == {
        "ytvis_2019": 20,
        "ytvis_2019_release": 21,
        "ytvis_2019_later": 21,
        "ytvis_2021": 21,
        "ytvis_2021_later": 23,
        "ovis": 17,
    }


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'ytvis2019'; did you mean ytvis_2019\?"):
        label_space("ytvis2019")
    with pytest.raises(ConfigError, match=r"unknown label space 'qqq'; Known: ytvis_2019, "):
        label_space("qqq")
    with pytest.raises(ConfigError, match=r"unknown COCO map 'oviss'; did you mean ovis\?"):
        coco_map("oviss")
