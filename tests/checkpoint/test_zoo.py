"""Rows of published files: complete, found by themselves, and in an order that stays."""

from __future__ import annotations

import itertools
import pkgutil
from pathlib import Path

import pytest

from vmt.checkpoint import methods as folder
from vmt.checkpoint.methods import methods
from vmt.checkpoint.zoo import ZOO, zoo_file
from vmt.config.node import load_config
from vmt.utils.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]


def test_rows_are_complete_and_their_configs_exist() -> None:
    for name, row in ZOO.items():
        assert row.name == name
        assert bool(row.expected) == bool(row.evaluated_on)  # files to start from have neither
        assert row.page.startswith("https://")
        assert all(0 < value < 100 for value in row.expected.values())
        config = load_config(REPOSITORY / row.config)
        space = "ytvis_2019_release"
        if not name.startswith(("vmt_", "seqformer_")):
            space = row.config.split("/")[1]
        assert space == config.MODEL.LABEL_SPACE, row.config
    assert len({row.file_name for row in ZOO.values()}) == len(ZOO)


def test_every_file_of_the_folder_is_a_method() -> None:
    names = {module.name for module in pkgutil.iter_modules(folder.__path__)} - {"base"}
    assert len(methods()) == len(names)
    places = [method.place for method in methods()]
    assert places == sorted(set(places))


def test_the_list_begins_with_our_own_networks() -> None:
    families = [name for name, _ in itertools.groupby(n.split("_")[0] for n in ZOO)]
    assert families[:5] == ["vmt", "seqformer", "maskdino", "idol", "mask2former"]


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match=r"'vmt_R50'; did you mean vmt_r50\? Known: vmt_r50, "):
        zoo_file("vmt_R50")
