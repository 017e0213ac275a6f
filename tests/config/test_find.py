"""Configs by name: wherever the process runs, what is there under a path comes first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import REPO
from vmt.cli.main import main
from vmt.config.find import config_folder, config_names, find_config
from vmt.config.node import load_config
from vmt.config.summary import changed_keys
from vmt.engine.job import Job
from vmt.utils.errors import ConfigError

NAME = "hq_ytvis/vmt_R50"
FILE = REPO / f"configs/{NAME}.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", [NAME, f"{NAME}.yaml", f"configs/{NAME}", f"configs/{NAME}.yaml", FILE, str(FILE)]
)
def test_every_spelling_finds_the_file(name: str) -> None:
    assert find_config(name).samefile(FILE)
    assert load_config(name) == load_config(FILE)
    assert Job(str(name)).beside == find_config(FILE).parent


def test_what_is_there_comes_before_the_package(elsewhere: Path) -> None:
    own = elsewhere / f"configs/{NAME}.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("TEST: {WINDOW: 7}")
    assert find_config(f"configs/{NAME}.yaml") == Path(f"configs/{NAME}.yaml")
    assert load_config(f"configs/{NAME}.yaml").TEST.WINDOW == 7
    assert find_config(NAME).samefile(FILE)


def test_names_are_those_of_whole_recipes() -> None:
    names = config_names()
    files = {
        path.relative_to(REPO / "configs").with_suffix("").as_posix()
        for path in (REPO / "configs").rglob("*.yaml")
    }
    helpers = {name for name in files if name.startswith(("Base-", "_base_/"))}
    assert names == sorted(files - helpers)
    assert helpers
    assert {NAME, "quick/seqformer_tiny", "refine/mask_refiner"} <= set(names)


def test_a_file_of_ones_own_builds_on_a_name(elsewhere: Path) -> None:
    (elsewhere / "mine.yaml").write_text(f"_BASE_: {NAME}\nTEST: {{WINDOW: 7}}")
    mine, base = load_config("mine.yaml"), load_config(NAME)
    changed = {name for name, *_ in changed_keys(mine) if (name, *_) not in changed_keys(base)}
    assert changed == {"TEST.WINDOW"}
    (elsewhere / "hq_ytvis").mkdir()
    (elsewhere / "hq_ytvis/vmt_R50").write_text("TEST: {WINDOW: 8}")
    (elsewhere / "mine.yaml").write_text(f"_BASE_: {NAME}")
    assert load_config("mine.yaml") == load_config(None, ["TEST.WINDOW", "8"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hq_ytvis/vmt_R5", "did you mean hq_ytvis/vmt_R50"),
        ("configs/hq_ytvis/vmt_release_R50.yaml", "called hq_ytvis/vmt_R50_released now"),
        ("zebra", "`vmt configs`"),
        ("../configs/zebra.yaml", "`vmt configs`"),
        ("/no/such.yaml", "`vmt configs`"),
    ],
)
def test_a_wrong_name_is_told_the_right_one(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(name)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message


def test_names_do_not_lead_out_of_the_folder() -> None:
    assert find_config("quick/../quick/seqformer_tiny") == Path("quick/../quick/seqformer_tiny")


def test_the_command_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    assert capsys.readouterr().out.split() == config_names()
    assert main(["configs", "bdd100k"]) == 0
    listed = capsys.readouterr().out.split()
    assert listed == [name for name in config_names() if name.startswith("bdd100k/")]
    assert main(["configs", "--folder"]) == 0
    assert capsys.readouterr().out.strip() == str(config_folder())
    assert main(["configs", "zebra"]) == 2
    assert "'zebra'" in capsys.readouterr().err


def test_inspect_takes_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", NAME]) == 0
    assert "VideoMaskTransfiner" in capsys.readouterr().out
