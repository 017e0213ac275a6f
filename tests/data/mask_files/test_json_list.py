import json

import pytest

from vmt.data.mask_files.json_list import read_json_list
from vmt.utils.errors import AnnotationError


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("order", [("annotations", "videos"), ("videos", "annotations")])
def test_places_are_those_of_the_text(tmp_path, indent, order):
    rows = [{"video_id": 3, "note": 'a]}\\"é'}, {"image_id": 4, "deep": [{"x": [1, 2]}]}, {}]
    content = {"info": None, **{key: rows if key == "annotations" else [1] for key in order}}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False))
    found = read_json_list(path)
    assert [json.loads(found.text[p.begin : p.end]) for p in found.places] == rows
    assert [p.member for p in found.places] == [3, 4, None]
    assert found.element(1) == rows[1]
    assert found.top == {"info": None, "videos": [1]}
    assert found.first == rows[0]


def test_a_bare_list(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(' [ {"video_id": 1} ,\n {"video_id": 2} ] ')
    found = read_json_list(path)
    assert (found.name, len(found.places), found.top) == ("results", 2, {})
    path.write_text("[]")
    assert read_json_list(path).first is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"annotations": [{"a": 1}', "ends at line 1, column 26 before it is complete"),
        ('{"annotations": [{"a": 1} {"a": 2}]}', "Expecting one of , ]"),
        ('{"annotations": []} x', "Extra data"),
        ('[{"a": 1}, 7]', r"results\[1\] is 7"),
        ("{'a': 1}", "not valid JSON"),
        ('{"a" 1}', "Expecting one of :"),
        ("", "the file is empty"),
        ("[" * 100000, "JSON"),
    ],
)
def test_damage_is_named(tmp_path, text, said):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=said):
        read_json_list(path)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "bad.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(AnnotationError, match="byte 7 is not UTF-8"):
        read_json_list(path)
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_json_list(tmp_path / "none.json")
