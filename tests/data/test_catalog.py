"""Names and paths to data sets; class tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from vmt.data import catalog
from vmt.data.catalog import READERS, data_root, load_dataset, locate, sniff_format
from vmt.data.datasets.categories import LABEL_SPACES, label_space
from vmt.data.datasets.splits import SPLITS
from vmt.data.labels import label_space_from_json, label_table
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import AnnotationError, ConfigError


def test_rows_are_sound() -> None:
    names = [split.name for split in SPLITS]
    assert len(set(names)) == len(names)
    for split in SPLITS:
        assert split.format in READERS
        assert split.categories in LABEL_SPACES
        assert split.annotations
        assert split.images
        assert split.source
    for name in ("hq_ytvis_train", "ytvis_2019_train", "ytvis_2021_valid", "ovis_train"):
        assert name in names
    for name in ("coco_2017_train", "bdd100k_mots_val", "davis_2017"):
        assert name in names


def test_all_parts_of_hq_ytvis_take_frames_from_train() -> None:
    for split in SPLITS:
        if split.name.startswith("hq_ytvis"):
            assert split.images[0] == "ytvis_2019/train/JPEGImages"
            coarse = split.name.endswith("_coarse")
            assert split.mask_key == ("segmentations" if coarse else "segmentations_refined")


@pytest.mark.parametrize(
    ("name", "json_place", "image_place"),
    [
        ("ytvis_2019_train", "ytvis_2019/train.json", "ytvis_2019/train/JPEGImages"),
        ("ytvis_2021_train", "ytvis_2021/train/instances.json", "ytvis_2021/train/JPEGImages"),
        ("ovis_train", "ovis/annotations_train.json", "ovis/train"),
        ("hq_ytvis_val", "hq_ytvis/ytvis_hq-val.json", "ytvis_2019/train/JPEGImages"),
    ],
)
def test_layouts_in_the_wild(
    name: str, json_place: str, image_place: str, shapes: Path, tmp_path: Path
) -> None:
    (tmp_path / json_place).parent.mkdir(parents=True)
    shutil.copytree(shapes.parent / "JPEGImages", tmp_path / image_place)
    with pytest.raises(ConfigError, match=rf"data set {name}: no annotations under .*{json_place}"):
        locate(name, str(tmp_path))
    shutil.copy(shapes, tmp_path / json_place)
    data = load_dataset(name, str(tmp_path))
    assert data.name == name
    assert data[0].dataset == name
    assert all(path.is_file() for path in data[0].frame_paths)


def test_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", "/data/sets")
    assert data_root() == Path("/data/sets")
    assert data_root("/other") == Path("/other")
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert data_root() == Path("datasets")


def test_paths(shapes: Path, tmp_path: Path) -> None:
    images = shapes.parent / "JPEGImages"
    assert len(load_dataset(f"{shapes}@{images}")) == 3
    with pytest.raises(ConfigError, match=r"none.json does not exist"):
        locate(f"{tmp_path}/none.json@{images}")
    with pytest.raises(ConfigError, match=r"is no folder of images"):
        locate(f"{shapes}@{tmp_path}/none")
    with pytest.raises(ConfigError, match=r"give path/to.json@path/to/images"):
        locate(f"{shapes}@")


def test_names_that_other_code_reads(monkeypatch: pytest.MonkeyPatch, shapes: Path) -> None:
    monkeypatch.setattr(catalog, "_REGISTERED", {})
    reference = f"{shapes}@{shapes.parent / 'JPEGImages'}"
    asked = []

    def load(root: str, mask_key: str) -> object:
        asked.append((root, mask_key))
        return load_dataset(reference)

    assert not catalog.is_registered("ytvis_2019_train")
    catalog.register_dataset("ytvis_2019_train", load)
    assert catalog.is_registered("ytvis_2019_train")
    assert load_dataset("ytvis_2019_train", "root", "key").name == reference
    assert asked == [("root", "key")]


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'hq_ytvis_trian'; did you mean hq_ytvis_train\?"):
        locate("hq_ytvis_trian")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"videos": [], "annotations": []}, "ytvis"),
        ({"images": [{"id": 1}], "annotations": []}, "coco"),
        ([{"name": "x"}], "mots"),
        ({"frames": []}, "mots"),
    ],
)
def test_kinds_of_files(content: object, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content))
    assert sniff_format(path) == kind


def test_kinds_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"images": [{"id": 1, "video_id": 2}]}))
    with pytest.raises(AnnotationError, match=r"vmt convert-annotations .*file.json"):
        sniff_format(path)
    path.write_text("{}")
    with pytest.raises(AnnotationError, match=r"neither YouTube-VIS JSON"):
        sniff_format(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnnotationError, match=r"holds no masks of a known kind"):
        sniff_format(tmp_path / "empty")


# --- classes ------------------------------------------------------------------------------------


def test_classes_by_name_do_not_depend_on_ids_or_spelling() -> None:
    space = LabelSpace("own", ("giant_panda", "Dog"), (5, 9))
    table = label_table({1: "dog", 2: "Giant Panda"}, space, source="x")
    assert table == {1: 1, 2: 0}


def test_classes_by_id_and_any() -> None:
    space = LabelSpace("own", ("a", "b"), (5, 9))
    assert label_table({9: "zzz"}, space, source="x", match="id") == {9: 1}
    assert label_table({9: "zzz", 3: "y"}, space, source="x", match="any") == {9: 0, 3: 0}


def test_unknown_classes_fail_or_are_dropped() -> None:
    space = label_space("ytvis_2019")
    found = {1: "person", 2: "ufo"}
    with pytest.raises(ConfigError, match=r"x: 1 of 2 categories have no class .*2 'ufo'"):
        label_table(found, space, source="x")
    assert label_table(found, space, source="x", unknown="drop") == {1: 0}
    with pytest.raises(ConfigError, match=r"1 of 1 categories"):  # nothing would be left
        label_table({2: "ufo"}, space, source="x", unknown="drop")


def test_maps_lead_to_labels_of_the_target() -> None:
    release = label_space("ytvis_2019_release")
    assert label_table({3: "car"}, release, source="x", category_map={3: 6}) == {3: 6}
    plain = label_space("ytvis_2019")
    assert label_table({3: "car"}, plain, source="x", category_map={3: 6}) == {3: 5}
    with pytest.raises(ConfigError, match=r"sends 3 to 77, which label space 'ytvis_2019' lacks"):
        label_table({3: "car"}, plain, source="x", category_map={3: 77})
    # a map for COCO's ids on another set: lizard of YouTube-VIS 2019 would be a car
    with pytest.raises(ConfigError, match=r"ytvis: its category 3 is 'lizard', COCO's is 'car'"):
        label_table({3: "lizard"}, plain, source="ytvis", category_map={3: 6})


def test_unknown_choices() -> None:
    space = label_space("object")
    with pytest.raises(ConfigError, match=r"CLASS_MATCH is 'sound'; choose name, id, any"):
        label_table({}, space, source="x", match="sound")
    with pytest.raises(ConfigError, match=r"UNKNOWN_CLASSES is 'ask'; choose fail or drop"):
        label_table({}, space, source="x", unknown="ask")


def test_label_space_of_an_own_file(tmp_path: Path, shapes: Path) -> None:
    space = label_space_from_json(shapes)
    assert (space.name, space.names, space.category_ids) == (
        "annotations",
        ("circle", "square", "triangle"),
        (1, 2, 3),
    )
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"categories": [{"id": 7}, {"id": 2, "name": "b"}]}))
    assert label_space_from_json(path, "mine") == LabelSpace("mine", ("category_7", "b"), (7, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"x.json: categories is None; give a list"),
        ('{"categories": []}', r"categories is \[\]"),
        ('{"categories": [{"name": "a"}]}', r"categories\[0\] is .*; give id and name"),
        ('{"categories": [{"id": 1}, {"id": 1}]}', r"categories\[1\].id 1 stands twice"),
        ("{", r"not valid JSON"),
    ],
)
def test_messages_of_own_classes(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=message):
        label_space_from_json(path)
