"""Config files: inheritance, overrides, and errors that say what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vmt
from vmt.config.defaults import default_config
from vmt.config.node import load_config
from vmt.config.old_names import OLD_KEYS, what_became_of
from vmt.config.summary import dump_changes
from vmt.data.datasets.categories import label_space
from vmt.data.labels import resolve_label_space
from vmt.modeling.meta_arch.build import build_model, build_network
from vmt.utils.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))


def networks() -> dict[str, Path]:
    """One file of each network: those that differ in data, classes or training alone are left out.

    tests/engine/test_recipes.py trains and evaluates every file, with small networks.
    """
    found: dict[str, Path] = {}
    for path in FILES:
        cfg = load_config(path).clone()
        cfg.defrost()
        for key in ("LABEL_SPACE", "NEW_PARAMETERS", "WEIGHTS"):
            del cfg.MODEL[key]
        found.setdefault(str(cfg.MODEL), path)
    return found


@pytest.mark.parametrize("path", networks().values(), ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_network_builds(path: Path) -> None:
    cfg = load_config(path)
    assert cfg.is_frozen()
    with torch.device("meta"):
        model = build_network(cfg, resolve_label_space(cfg.MODEL.LABEL_SPACE, path.parent))
    refiner = getattr(model, "refiner", None)
    assert (refiner is not None) == (cfg.MODEL.REFINER.NAME != "none")


def test_the_promised_configs_are_there() -> None:
    names = {str(p.relative_to(CONFIGS)) for p in FILES}
    for data_set in ("hq_ytvis", "ytvis_2019", "ytvis_2021", "ovis"):
        for method in ("seqformer_{}", "vmt_{}_released", "vmt_{}", "msts_{}"):
            for backbone in ("R50", "R101", "SwinL"):
                assert f"{data_set}/{method.format(backbone)}.yaml" in names
            assert f"{data_set}/{method.format('R50')}_published.yaml" in names


@pytest.mark.parametrize(
    ("name", "total", "trainable"),
    [
        ("seqformer_R50", 48_404_173, 48_181_773),
        ("seqformer_R101", 67_344_077, 67_121_677),
        ("seqformer_SwinL", 218_741_441, 218_741_441),
        ("vmt_R50_released", 50_440_611, 50_218_211),
        ("vmt_R101_released", 69_380_515, 69_158_115),
        ("vmt_SwinL_released", 220_605_847, 220_605_847),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, total: int, trainable: int) -> None:
    """Less the encoder's second output layers, which the published code holds and never uses."""
    cfg = load_config(CONFIGS / "hq_ytvis" / f"{name}.yaml")
    with torch.device("meta"):
        model = build_model(cfg, label_space(cfg.MODEL.LABEL_SPACE))
    unused = 6 * (256 * 256 + 256)
    parameters = list(model.parameters())
    assert sum(p.numel() for p in parameters) == total - unused
    assert sum(p.numel() for p in parameters if p.requires_grad) == trainable - unused


def write(tmp_path: Path, **files: str) -> Path:
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def test_base_lies_below_the_file_and_overrides_on_top(tmp_path: Path) -> None:
    write(
        tmp_path,
        a="MODEL: {DEVICE: cpu, SEQFORMER: {NUM_QUERIES: 7, NUM_POINTS: 2}}",
        b="_BASE_: a.yaml\nMODEL: {SEQFORMER: {NUM_QUERIES: 9}}",
    )
    cfg = load_config(tmp_path / "b.yaml", ["MODEL.SEQFORMER.NUM_POINTS", "3"])
    assert cfg.MODEL.DEVICE == "cpu"
    assert cfg.MODEL.SEQFORMER.NUM_QUERIES == 9
    assert cfg.MODEL.SEQFORMER.NUM_POINTS == 3
    assert cfg.MODEL.SEQFORMER.NUM_HEADS == default_config().MODEL.SEQFORMER.NUM_HEADS


def test_later_bases_lie_above_earlier_ones(tmp_path: Path) -> None:
    write(
        tmp_path,
        a="SOLVER: {EPOCHS: 3, MILESTONES: [1]}\nTEST: {WINDOW: 5}",
        b="SOLVER: {MILESTONES: [2]}\nTEST: {WINDOW: 6}",
        c="_BASE_: [a.yaml, b.yaml]\nTEST: {WINDOW: 7}",
    )
    cfg = load_config(tmp_path / "c.yaml")
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.MILESTONES, cfg.TEST.WINDOW) == (3, [2], 7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("_BASE_: [c.yaml, c.yaml]", ["circle"]),
        ("MODEL: {BACKBON: {NAME: x}}", ["c.yaml", "MODEL.BACKBON.NAME", "MODEL.BACKBONE.NAME"]),
        ("MODEL: {SEQFORMER: {NUM_QUERYS: 3}}", ["NUM_QUERYS", "did you mean", "NUM_QUERIES"]),
        ("MODEL: {DEVICE: 3}", ["MODEL.DEVICE", "must be str", "3"]),
        ("MODEL: {SEQFORMER: {NUM_QUERIES: many}}", ["NUM_QUERIES", "must be int", "'many'"]),
        ("MODEL: {LOSS: {DEEP_SUPERVISION: 1}}", ["DEEP_SUPERVISION", "must be bool"]),
        ("MODEL: 3", ["MODEL", "group of keys"]),
        ("[1, 2]", ["c.yaml", "keys and values"]),
        ("MODEL: {a", ["c.yaml", "not valid YAML"]),
        ("_BASE_: c.yaml", ["circle"]),
        ("_BASE_: d.yaml", ["d.yaml", "no such config file"]),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: list[str]) -> None:
    write(tmp_path, c=text)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "c.yaml")
    message = str(caught.value)
    assert "\n" not in message
    for word in said:
        assert word in message


def test_missing_file_suggests_a_neighbour(tmp_path: Path) -> None:
    write(tmp_path, vmt_R50="")
    with pytest.raises(ConfigError, match=r"did you mean .*vmt_R50\.yaml"):
        load_config(tmp_path / "vmt_r50.yaml")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("hq_ytvis/vmt_release_R50", "vmt_R50_released"),
        ("ovis/vmt_release_SwinL", "vmt_SwinL_released"),
        ("ytvis_2021/vmt_release_R50_published", "vmt_R50_released_published"),
        ("ytvis_2019/msts_vmt_release_R50", "msts_vmt_R50_released"),
        ("quick/vmt_release_tiny", "vmt_tiny_released"),
        ("quick/overfit_vmt_release", "overfit_vmt_released"),
        ("Base-VMT-release", "Base-VMT-released"),
    ],
)
def test_an_old_file_name_ends_in_the_new_one(old: str, new: str) -> None:
    with pytest.raises(ConfigError, match=rf"it is called \S+/{new}\.yaml now\.$"):
        load_config(CONFIGS / f"{old}.yaml")


def test_a_preset_gives_values_and_single_keys_lie_on_top(tmp_path: Path) -> None:
    write(
        tmp_path,
        a="MODEL: {REFINER: {WINDOW: 2, PRESET: ours}}",
        b="_BASE_: a.yaml\nMODEL: {REFINER: {CONTEXT: 5}}",
    )

    def values(*overrides: str) -> tuple[str, int, int, bool]:
        node = load_config(tmp_path / "b.yaml", overrides).MODEL.REFINER
        return node.PRESET, node.WINDOW, node.CONTEXT, node.SHARED_HEAD

    assert values() == ("ours", 2, 5, True)
    assert values("MODEL.REFINER.SHARED_HEAD", "False") == ("ours", 2, 5, False)
    assert values("MODEL.REFINER.PRESET", "paper") == ("paper", 0, 1, False)
    cfg = load_config(tmp_path / "b.yaml")
    assert dump_changes(cfg) == "MODEL:\n  REFINER: {CONTEXT: 5, PRESET: ours, WINDOW: 2}\n"


def test_override_without_value_and_integers_for_floats() -> None:
    with pytest.raises(ConfigError, match="pairs"):
        load_config(None, ["MODEL.DEVICE"])
    assert load_config(None, ["TEST.CONFIDENCE", "1"]).TEST.CONFIDENCE == 1.0
    # YAML 1.1 reads a float without a point as text
    assert load_config(None, ["TEST.CONFIDENCE", "1e-3"]).TEST.CONFIDENCE == 0.001
    with pytest.raises(ConfigError, match="must be float"):
        load_config(None, ["TEST.CONFIDENCE", "high"])


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("MODEL.BACKBONE.NAME", "resnet5000", "known are"),
        ("MODEL.BACKBONE.NAME", "timm/nonsense", "unknown to timm"),
        ("MODEL.REFINER.NAME", "nonsense", "dense_band"),
        ("MODEL.META_ARCHITECTURE", "nonsense", "VideoMaskTransfiner"),
        ("TEST.PRECISION", "fp8", "bf16"),
    ],
)
def test_unknown_names_list_what_exists(key: str, value: str, said: str) -> None:
    cfg = load_config(CONFIGS / "quick/vmt_tiny_released.yaml", [key, value])
    with pytest.raises(ConfigError, match=said):
        build_model(cfg, label_space(cfg.MODEL.LABEL_SPACE))


# --- names of yesterday, and what is written ----------------------------------------------------


@pytest.mark.parametrize("key", OLD_KEYS)
def test_an_old_key_ends_in_a_sentence(tmp_path: Path, key: str) -> None:
    """The same one from a YAML and from the command line."""
    assert "MODEL.DEVICE" not in what_became_of(["MODEL.DEVICE", key])
    text = "1"
    for part in reversed(key.split(".")):
        text = f"{{{part}: {text}}}"
    write(tmp_path, old=text)
    for arguments in ((tmp_path / "old.yaml", []), (None, [key, "1"])):
        with pytest.raises(ConfigError, match=f": {key} ") as caught:
            load_config(*arguments)
        assert str(caught.value).endswith(f"{OLD_KEYS[key]}; change or delete it.")
    with pytest.raises(ConfigError, match=r"did you mean|lists every key"):
        load_config(None, [f"{key}X", "1"])


def test_all_old_keys_of_a_file_are_named_at_once(tmp_path: Path) -> None:
    """A config.yaml that an older version wrote holds every key it had."""
    write(tmp_path, config="MODEL: {REFINER: {BOX_MASK: release, WINDOW: 4, INC_KERNEL: 3}}")
    with pytest.raises(ConfigError, match="BOX_MASK is no key") as caught:
        load_config(tmp_path / "config.yaml")
    assert str(caught.value).endswith(" Other old names: MODEL.REFINER.INC_KERNEL.")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_what_differs_makes_the_same_config(path: Path, tmp_path: Path) -> None:
    cfg = load_config(path)
    write(tmp_path, config=dump_changes(cfg))
    assert load_config(tmp_path / "config.yaml") == cfg


def test_weights_of_the_package_say_what_differs() -> None:
    path = Path(vmt.__file__).parent / "weights" / "config.yaml"
    lines = path.read_text().splitlines(keepends=True)
    assert "".join(lines[1:]) == dump_changes(load_config(path))


def test_a_config_is_read_without_torch() -> None:
    code = "import sys, vmt.config.node; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
