"""Networks by folder, by repository and by name; no test needs a network connection."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.hub_mixin
import pytest
import torch
from huggingface_hub import ModelCard

import vmt
from vmt.checkpoint.files import write_weights
from vmt.checkpoint.zoo import ZOO
from vmt.config.node import load_config
from vmt.config.summary import changed_keys
from vmt.engine.run import categories_of
from vmt.inference import pretrained as names
from vmt.inference.pretrained import CONFIGS, HubAccess, find_pretrained
from vmt.interop.hub import CARD, WEIGHTS, PretrainedModel
from vmt.modeling.meta_arch.build import build_network
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import CheckpointError, ConfigError

SPACE = LabelSpace("mine", ("cup", "plate"), (3, 7))
CONFIG = "quick/seqformer_tiny"
SCORES = {"hq_ytvis_test": {"AP^B": 30.7}}


@pytest.fixture(scope="module")
def model() -> PretrainedModel:
    """A network with classes of its own, as a training on somebody's data leaves it."""
    torch.manual_seed(0)
    own = ("MODEL.LABEL_SPACE", "/home/me/classes.json", "DATASETS.TRAIN", "[/home/me/a.json]")
    more = ("MODEL.WEIGHTS", "/home/me/w.pth", "SOLVER.BASE_LR", "1e-5", "TEST.WINDOW", "3")
    cfg = load_config(CONFIG, [*own, *more, "OUTPUT_DIR", "/home/me/out"])
    network = build_network(cfg, SPACE).eval()
    return PretrainedModel(network, cfg, metrics=SCORES, licence="apache-2.0")


@pytest.fixture(scope="module")
def folder(model: PretrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "saved"
    model.save_pretrained(path)
    return path


def assert_same(network: torch.nn.Module, model: PretrainedModel) -> None:
    state, wanted = network.state_dict(), model.network.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[key].cpu(), wanted[key]) for key in wanted)
    assert network.label_space.names == SPACE.names
    assert network.label_space.category_ids == SPACE.category_ids
    assert not network.training


def as_snapshot(folder: Path, cache: Path, repo: str, revision: str = "main") -> None:
    """A hub's cache: refs/<branch> names a commit, snapshots/<commit> holds links to blobs."""
    place = cache / f"models--{repo.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / revision).write_text(commit)
    (place / "blobs").mkdir()
    (place / "snapshots" / commit).mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        blob = place / "blobs" / f"{number:040d}"
        shutil.copyfile(file, blob)
        (place / "snapshots" / commit / file.name).symlink_to(blob)


def test_a_folder_gives_the_same_network(folder: Path, model: PretrainedModel) -> None:
    assert {p.name for p in folder.iterdir()} == {CONFIGS[0], WEIGHTS, CARD, "label_space.json"}
    assert_same(vmt.load_model(folder, device="cpu"), model)
    again = PretrainedModel.from_pretrained(folder, device="cpu", overrides=["TEST.WINDOW", "5"])
    assert_same(again.network, model)
    assert again.cfg.TEST.WINDOW == 5
    assert again.cfg.SOLVER.BASE_LR == 1e-5


def test_nothing_of_whoever_trained_is_published(folder: Path) -> None:
    text = "".join((folder / name).read_text() for name in (CONFIGS[0], CARD, "label_space.json"))
    assert "/home" not in text
    json.loads((folder / CONFIGS[0]).read_text())
    cfg = load_config(folder / CONFIGS[0])
    assert {name.split(".")[0] for name, *_ in changed_keys(cfg)} <= {
        "MODEL", "INPUT", "SOLVER", "TEST", "COMPAT",
    }  # fmt: skip


def test_the_card_has_classes_licence_and_metrics(folder: Path, tmp_path: Path) -> None:
    card = ModelCard.load(folder / CARD)
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == (
        "hq_ytvis_test", "AP^B", 30.7,
    )  # fmt: skip
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "vmt-vis")
    assert "cup, plate" in card.text
    assert "| hq_ytvis_test | AP^B | 30.7 |" in card.text
    (folder / CARD).write_text(f"{folder.joinpath(CARD).read_text()}\nSeen by a person.\n")
    PretrainedModel.from_pretrained(folder, device="cpu").save_pretrained(tmp_path / "copy")
    assert "Seen by a person." in (tmp_path / "copy" / CARD).read_text()


def test_arguments_that_the_card_cannot_use_are_refused(
    model: PretrainedModel, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="metrics, licence or card"):
        model.save_pretrained(tmp_path / "x", model_card_kwargs={"metrics": {}})


def test_a_repository_that_was_fetched_needs_no_network(
    folder: Path, model: PretrainedModel, tmp_path: Path
) -> None:
    as_snapshot(folder, tmp_path, "somebody/cups")
    offline: dict[str, Any] = {"cache_dir": tmp_path, "local_files_only": True}
    loaded = PretrainedModel.from_pretrained("somebody/cups", device="cpu", **offline)
    assert_same(loaded.network, model)
    for repo, revision in (("somebody/plates", None), ("somebody/cups", "other")):
        with pytest.raises(CheckpointError, match=f"{repo}: ") as caught:
            find_pretrained(repo, HubAccess(revision, **offline))
        assert "\n" not in str(caught.value)


def test_push_sends_what_save_writes(
    model: PretrainedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Api:
        def __init__(self, token: str | None = None) -> None:
            assert token == "secret"

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> str:
            shutil.copytree(folder_path, tmp_path / "remote" / repo_id)
            return f"commit of {repo_id}"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    assert model.push_to_hub("somebody/cups", token="secret") == "commit of somebody/cups"
    assert_same(vmt.load_model(tmp_path / "remote/somebody/cups", device="cpu"), model)


def test_a_training_folder_and_a_weight_file_find_their_config(
    model: PretrainedModel, tmp_path: Path
) -> None:
    write_weights(model.network.state_dict(), tmp_path / "model_final.safetensors")
    with pytest.raises(ConfigError, match=r"neither config\.json nor config\.yaml"):
        vmt.load_model(tmp_path)
    labels = {"categories": categories_of(SPACE)}
    (tmp_path / "label_space.json").write_text(json.dumps(labels))
    (tmp_path / "config.yaml").write_text(
        f"_BASE_: {CONFIG}\nMODEL: {{LABEL_SPACE: label_space.json}}"
    )
    assert_same(vmt.load_model(tmp_path, device="cpu"), model)
    assert_same(vmt.load_model(tmp_path / "model_final.safetensors", device="cpu"), model)


def test_names_of_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VMT_CACHE_DIR", str(tmp_path))
    fetched: list[Path] = []

    def fetch(file: Any, folder: Path) -> Any:
        fetched.append(folder)
        return type("Fetched", (), {"path": folder / file.file_name})

    monkeypatch.setattr(names, "fetch", fetch)
    where = find_pretrained("vmt_r50")
    assert where.weights == tmp_path / "weights" / ZOO["vmt_r50"].file_name
    assert where.config.name == "vmt_R50_released.yaml"
    assert where.config.is_file()
    assert find_pretrained("vmt_r50", fetch_weights=False).weights is None
    assert fetched == [tmp_path / "weights"]
    shipped = find_pretrained("mask_refiner")
    assert shipped.weights is not None
    assert shipped.weights.name == "mask_refiner.safetensors"
    monkeypatch.chdir(tmp_path)
    assert find_pretrained(CONFIG) == find_pretrained(f"configs/{CONFIG}.yaml")
    assert find_pretrained(CONFIG).weights is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "`vmt zoo`"),
        ("low_res", "were removed: mask_refiner"),
        ("missing.yaml", "no such config file"),
        ("a/b/c", "`vmt configs`"),
    ],
)
def test_what_is_no_name_is_one_sentence(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        vmt.load_model(name)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
