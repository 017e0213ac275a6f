"""A network by a name, a file, a folder or a repository: its config, and where its weights lie."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vmt.checkpoint.download import fetch
from vmt.checkpoint.files import SAFETENSORS
from vmt.checkpoint.zoo import ZOO
from vmt.config.find import SUFFIXES, find_config, missing_hint
from vmt.inference.package_detector import DETECTOR, RECIPE, shipped_weights
from vmt.inference.refine_defaults import REMOVED, SHIPPED, weights_path
from vmt.utils.cache import cache_dir
from vmt.utils.errors import CheckpointError, ConfigError

#: The config in a folder of weights, the first that is there: a hub's, or a training's.
CONFIGS: Final = ("config.json", "config.yaml")
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class HubAccess:
    """How a repository of the model hub is read.

    Args:
        revision: branch, tag or commit; None: the newest.
        cache_dir: where snapshots lie; None: huggingface_hub's own place.
        token: to read what is not public; None: the one that is logged in.
        local_files_only: what was fetched before, without a network.
        force_download: fetch again.
    """

    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    force_download: bool = False


@dataclass(frozen=True)
class Pretrained:
    """What a network is built and filled from.

    Args:
        config: the file.
        weights: file or folder; None: what the config names, if anything.
    """

    config: Path
    weights: Path | None = None


def find_pretrained(
    name: str | Path, hub: HubAccess | None = None, *, fetch_weights: bool = True
) -> Pretrained:
    """What a name means, the first that holds.

    A YAML file; a weight file with its config beside it; a folder with both, as ``vmt train`` and
    ``save_pretrained`` write them; weights of the package (``mask_refiner``, ``vmt_small``); a name
    of ``vmt zoo``, fetched into the cache; a name of ``vmt configs``; ``owner/name`` on the hub.

    Args:
        name: which.
        hub: see there.
        fetch_weights: False: of ``vmt zoo`` and ``vmt_small`` the config alone.

    Raises:
        ConfigError: it is nothing of these, or a config is missing.
        CheckpointError: the hub does not give the repository, or the package lacks the weights.
        DownloadError: a published file cannot be fetched.
    """
    path = Path(name)
    if path.is_dir():
        return _in_folder(path)
    if path.is_file() and path.suffix not in (*SUFFIXES, ".json"):
        return Pretrained(config_beside(path), path)
    if str(name) in (SHIPPED, *REMOVED):
        own = weights_path(name)
        return Pretrained(config_beside(own), own)
    if str(name) == DETECTOR:
        if not fetch_weights:
            return Pretrained(find_config(RECIPE))
        return Pretrained(config_beside(shipped_weights()), shipped_weights())
    if str(name) in ZOO:
        file = ZOO[str(name)]
        weights = fetch(file, cache_dir() / "weights").path if fetch_weights else None
        return Pretrained(find_config(file.config), weights)
    config = find_config(path)
    if config.is_file() or path.suffix in SUFFIXES:
        return Pretrained(config)
    if _REPOSITORY.fullmatch(str(name)):
        return _in_folder(_snapshot(str(name), hub or HubAccess()))
    raise ConfigError(
        f"{name}: no file, no folder, and no name of `vmt zoo`{missing_hint(path)} Weights of the "
        f"package are {SHIPPED}."
    )


def find_detector(config_file: str | None, weights: str | None) -> Pretrained:
    """The network that finds objects for a user: the one that is named, or that of the package.

    Args:
        config_file: YAML or name of a config; None: the package's.
        weights: of the network that is named; None: those that its config names.

    Raises:
        ConfigError: weights of a network that is not named.
        CheckpointError: the package lacks the weights.
    """
    if config_file is not None:
        return Pretrained(Path(config_file), Path(weights) if weights is not None else None)
    if weights is not None:
        raise ConfigError(f"--weights {weights}: name their network too, with --config-file.")
    return find_pretrained(DETECTOR)


def config_beside(weights: Path) -> Path:
    """The config of a weight file: ``<its name>.yaml`` or one of ``CONFIGS`` in its folder.

    Raises:
        ConfigError: there is none.
    """
    beside = [weights.with_suffix(".yaml"), *(weights.parent / name for name in CONFIGS)]
    config = next((file for file in beside if file.is_file()), None)
    if config is None:
        raise ConfigError(
            f"{weights}: its config must lie beside it, as {beside[0].name} or config.yaml; vmt "
            f"train writes it there. Weights of the package: {SHIPPED}."
        )
    return config


def _in_folder(folder: Path) -> Pretrained:
    for name in CONFIGS:
        if (folder / name).is_file():
            return Pretrained(folder / name, folder)
    raise ConfigError(
        f"{folder}: has neither {' nor '.join(CONFIGS)}; give a folder that vmt train or "
        "save_pretrained wrote."
    )


def _snapshot(name: str, hub: HubAccess) -> Path:
    """The files of a repository that we read, in the hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name,
                revision=hub.revision,
                cache_dir=hub.cache_dir,
                token=hub.token,
                local_files_only=hub.local_files_only,
                force_download=hub.force_download,
                allow_patterns=[*CONFIGS, "*.json", f"*{SAFETENSORS}", "README.md"],
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().split("\n", 1)[0].rstrip(".") or type(error).__name__
        raise CheckpointError(
            f"{name}: no such file, folder or config{missing_hint(Path(name)).rstrip('.')}; as a "
            f"repository of the hub it cannot be had either ({reason})."
        ) from None
