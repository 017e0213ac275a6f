"""Networks on a model hub: a folder with config.json, model.safetensors and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode
from huggingface_hub import EvalResult, ModelCard, ModelCardData, ModelHubMixin

from vmt.checkpoint.files import write_weights
from vmt.config.defaults import default_config
from vmt.config.node import load_config
from vmt.config.summary import dump_changes, summary
from vmt.engine.run import LABELS, categories_of
from vmt.inference.load import model_from_config
from vmt.inference.pretrained import CONFIGS, HubAccess, Pretrained, find_pretrained
from vmt.modeling.meta_arch.build import build_network
from vmt.modeling.video_model import VideoModel
from vmt.utils.atomic import make_folder, write_text
from vmt.utils.errors import ConfigError
from vmt.version import __version__

WEIGHTS, CARD = "model.safetensors", "README.md"
#: Sections of a config that name files and machines of whoever trained; they stay there.
_PRIVATE = ("DATASETS", "ENGINE", "DATALOADER")


class PretrainedModel(ModelHubMixin):
    """A network and what it was built from; it goes to a folder or a hub, and comes from there.

    ``save_pretrained(folder)`` and ``push_to_hub("owner/name")`` are huggingface_hub's.

    Args:
        network: with its weights.
        cfg: the config it was built from.
        metrics: data set -> metric -> value, for the model card.
        licence: of the weights, as the hub spells it ("apache-2.0"); "": the card says none.
        card: text of the model card; None: one is written from the rest.

    Example:
        ``PretrainedModel.from_pretrained("output").push_to_hub("owner/name")``
    """

    def __init__(
        self,
        network: VideoModel,
        cfg: CfgNode,
        metrics: Mapping[str, Mapping[str, float]] | None = None,
        licence: str = "",
        card: str | None = None,
    ) -> None:
        self.network = network
        self.cfg = cfg
        self.metrics = metrics or {}
        self.licence = licence
        self.card = card

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **model_kwargs: Any,
    ) -> PretrainedModel:
        """Load a network by anything that ``vmt.load_model`` takes, in evaluation mode.

        Args:
            pretrained_model_name_or_path: see ``find_pretrained``; without a network everything
                but a repository that was not fetched before works.
            force_download: see ``HubAccess``.
            token: see ``HubAccess``.
            cache_dir: see ``HubAccess``.
            local_files_only: see ``HubAccess``.
            revision: see ``HubAccess``.
            **model_kwargs: ``device`` ("auto") and ``overrides`` (alternating keys and values),
                and those of the class but network and config.

        Raises:
            ConfigError: no such thing, or its config is wrong.
            CheckpointError: the weights cannot be had or used.
        """
        hub = HubAccess(revision, cache_dir, token, local_files_only, force_download)
        where = find_pretrained(pretrained_model_name_or_path, hub)
        cfg = config_of(
            where, model_kwargs.pop("overrides", ()), model_kwargs.pop("device", "auto")
        )
        network = model_from_config(cfg, build_network, where.config.parent)
        card = where.config.parent / CARD
        if where.config.name == CONFIGS[0] and card.is_file():
            model_kwargs.setdefault("card", card.read_text(encoding="utf-8"))
        return cls(network, cfg, **model_kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        """config.json, the classes, and the weights."""
        folder = make_folder(Path(save_directory))
        cfg = self.cfg.clone()
        cfg.defrost()
        plain = default_config()
        for section in _PRIVATE:
            cfg[section] = plain[section]
        cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = plain.OUTPUT_DIR, "", "auto"
        cfg.MODEL.BACKBONE.PRETRAINED = False
        if cfg.MODEL.LABEL_SPACE.endswith(".json"):
            cfg.MODEL.LABEL_SPACE = LABELS
        values = yaml.safe_load(dump_changes(cfg)) or {}
        categories = categories_of(self.network.label_space)
        write_text(folder / CONFIGS[0], json.dumps(values, indent=1))
        write_text(folder / LABELS, json.dumps({"categories": categories}, indent=1))
        metadata = {"categories": json.dumps(categories), "version": __version__}
        write_weights(self.network.state_dict(), folder / WEIGHTS, metadata)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card that the repository had, or one that says what the network is and scored.

        Raises:
            ConfigError: any argument; what the card says is told to the class.
        """
        if args or kwargs:
            raise ConfigError(
                "model_card_kwargs are not read: give PretrainedModel metrics, licence or card."
            )
        if self.card is not None:
            return ModelCard(self.card)
        name = self.cfg.MODEL.META_ARCHITECTURE
        scores = [
            EvalResult(
                task_type="video-instance-segmentation",
                dataset_type=data,
                dataset_name=data,
                metric_type=metric,
                metric_value=value,
            )
            for data, numbers in self.metrics.items()
            for metric, value in numbers.items()
        ]
        data = ModelCardData(
            library_name="vmt-vis",
            license=self.licence or None,
            tags=["video-instance-segmentation", name],
            model_name=name if scores else None,
            eval_results=scores or None,
        )
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{self._card_text()}")

    def _card_text(self) -> str:
        about = {key: text for key, text in summary(self.cfg) if key in ("network", "backbone")}
        classes = self.network.label_space.names
        lines = [
            f"# {self.cfg.MODEL.META_ARCHITECTURE}",
            "",
            "A network of VMT, video instance segmentation (`pip install vmt-vis`):",
            "",
            "    import vmt",
            '    model = vmt.load_model("this repository, or a folder with its files")',
            "",
            f"Network: {about['network']}. Backbone: {about['backbone']}. "
            f"{len(classes)} classes: {', '.join(classes)}.",
        ]
        if self.metrics:
            lines += ["", "| data set | metric | value |", "|---|---|---|"]
            lines += [
                f"| {data} | {metric} | {value:g} |"
                for data, numbers in self.metrics.items()
                for metric, value in numbers.items()
            ]
        return "\n".join(lines) + "\n"


def config_of(where: Pretrained, overrides: Sequence[str], device: str) -> CfgNode:
    """The config of what was found, with its weights in it."""
    weights = () if where.weights is None else ("MODEL.WEIGHTS", str(where.weights))
    return load_config(where.config, [*weights, "MODEL.DEVICE", device, *overrides])
