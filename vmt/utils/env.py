"""Facts about this machine and installation, each with what to do where something is missing.

Only what needs no other part of VMT: the operator and the codecs report through ``vmt doctor``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from vmt.utils.threads import usable_cores

#: "ok"; "missing": optional, VMT works without; "broken": VMT needs it.
State = Literal["ok", "missing", "broken"]

OLDEST_PYTHON: Final = (3, 10)
DATA_VARIABLE: Final = "DETECTRON2_DATASETS"
DEFAULT_DATA_ROOT: Final = "datasets"
#: Folders of a data root, and what they hold.
DATA_FOLDERS: Final = {
    "hq_ytvis": "HQ-YTVIS annotations (its frames are those of ytvis_2019)",
    "ytvis_2019": "YouTube-VIS 2019",
    "ytvis_2021": "YouTube-VIS 2021",
    "ovis": "OVIS",
    "coco": "COCO 2017",
    "bdd100k": "BDD100K MOTS",
    "DAVIS": "DAVIS",
}
#: Bytes of free memory below which the default settings may not fit a 360p clip.
LOW_MEMORY: Final = 4 << 30

#: Distribution -> the module that proves it works.
REQUIRED: Final = {
    "torch": "torch",
    "torchvision": "torchvision.transforms.v2",
    "timm": "timm",
    "fvcore": "fvcore.common.config",
    "numpy": "numpy",
    "pycocotools": "pycocotools.mask",
    "opencv-python-headless": "cv2",
    "scipy": "scipy.optimize",
    "av": "av",
    "matplotlib": "matplotlib",
    "tqdm": "tqdm",
    "tensorboard": "tensorboard",
    "safetensors": "safetensors.torch",
    "huggingface_hub": "huggingface_hub",
    "pyyaml": "yaml",
    "cocoapi-hq": "cocoapi_hq",
}
#: Distribution -> (module, what it is good for, how to get it).
OPTIONAL: Final = {
    "cuda-bindings": (
        "cuda.bindings",
        "compiles the CUDA kernels at first use",
        "pip install 'vmt-vis[cuda]'",
    ),
    "wandb": (
        "wandb",
        "training curves on Weights & Biases",
        "pip install 'vmt-vis[wandb]'",
    ),
}


@dataclass(frozen=True)
class Fact:
    """One line of the report.

    Args:
        group: heading.
        name: what it is about.
        value: what is there.
        state: see ``State``.
        fix: what to do about it; empty when there is nothing to do.
    """

    group: str
    name: str
    value: str
    state: State = "ok"
    fix: str = ""


def environment_facts(*, kernels_built: bool = False) -> list[Fact]:
    """Python, packages, torch and GPUs, compiler, memory, data roots; never raises.

    Args:
        kernels_built: see ``compiler_fact``.
    """
    return [
        python_fact(),
        *package_facts(),
        *torch_facts(),
        compiler_fact(kernels_built=kernels_built),
        *memory_facts(),
        *data_facts(),
    ]


def python_fact(version: Sequence[int] = sys.version_info[:3]) -> Fact:
    """The interpreter; broken below ``OLDEST_PYTHON``."""
    value = f"{'.'.join(map(str, version))} on {platform.system()} {platform.machine()}"
    if tuple(version) >= OLDEST_PYTHON:
        return Fact("python", "python", value)
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return Fact("python", "python", value, "broken", f"install Python {oldest} or newer")


def package_facts() -> list[Fact]:
    """Required packages, imported to prove that they load, and optional ones."""
    facts = []
    oldest = _oldest_versions()
    for name, module in REQUIRED.items():
        facts.append(_required_fact(name, module, oldest.get(_plain(name))))
    for name, (module, purpose, install) in OPTIONAL.items():
        version = _version(name)
        if version is None or _import_error(module) is not None:
            fix = f"{install} ({purpose})"
            facts.append(Fact("packages", name, "not installed", "missing", fix))
        else:
            facts.append(Fact("packages", name, f"{version}: {purpose}"))
    return facts


def _required_fact(name: str, module: str, oldest: str | None) -> Fact:
    version = _version(name)
    error = _import_error(module)
    fix = "run `pip install --upgrade vmt-vis`, or `make install` in a clone"
    if error is not None:
        state = "not installed" if version is None else f"{version}, but cannot be loaded: {error}"
        return Fact("packages", name, state, "broken", fix)
    version_text = version or "of unknown version"
    if version is not None and oldest is not None and _numbers(version) < _numbers(oldest):
        return Fact("packages", name, f"{version_text}, {oldest} is needed", "broken", fix)
    return Fact("packages", name, version_text)


def _oldest_versions() -> dict[str, str]:
    """Lower bounds of our own requirements by package; empty when VMT is not installed."""
    try:
        requirements = importlib.metadata.requires("vmt-vis") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    bounds = {}
    for requirement in requirements:
        bound = re.match(r"([\w.-]+)[^;]*?>=\s*([\d.]+)", requirement)
        if bound is not None and "extra ==" not in requirement:
            bounds[_plain(bound[1])] = bound[2]
    return bounds


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> tuple[int, ...]:
    """``2.15.0+cu130`` -> (2, 15, 0)."""
    digits = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, digits[0].split("."))) if digits is not None else ()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _import_error(module: str) -> str | None:
    """Why a module cannot be imported, or None. A broken binary may raise almost anything."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError, AttributeError, ValueError, TypeError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


def torch_facts() -> list[Fact]:
    """What torch was built for, the GPUs it sees, and its threads; empty without torch."""
    if _import_error("torch") is not None:
        return []
    import torch

    built_for = torch.version.cuda or torch.version.hip
    build = f"built for {'CUDA' if torch.version.cuda else 'ROCm'} {built_for}"
    facts = [
        Fact("torch", "build", build if built_for else "built for the CPU alone"),
        Fact("torch", "CPU threads", f"{torch.get_num_threads()} of {usable_cores()} cores"),
    ]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            value = f"{gpu.name}, {_gib(gpu.total_memory)}, sm_{gpu.major}{gpu.minor}"
            facts.append(Fact("torch", f"GPU {index}", value))
        return facts
    fix = (
        "with an NVIDIA GPU here, install or update its driver (`nvidia-smi` must list it)"
        if built_for
        else "with an NVIDIA GPU here, install a CUDA build of torch"
    )
    value = "none is visible to torch; everything runs on the CPU, slower"
    facts.append(Fact("torch", "GPU", value, "missing", fix))
    return facts


def compiler_fact(*, kernels_built: bool = False) -> Fact:
    """The C++ compiler that an installation from source would use.

    Args:
        kernels_built: whatever it would build is there, as in a wheel, so that nobody misses it.
    """
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    compiler = next((path for name in names if name and (path := shutil.which(name))), None)
    if compiler is None and kernels_built:
        return Fact("build", "C++ compiler", "none, and none is needed: the CPU kernels are built")
    if compiler is None:
        fix = "install g++ 12 or newer, or clang, and install VMT again (builds the CPU kernels)"
        return Fact("build", "C++ compiler", "none", "missing", fix)
    try:
        run = subprocess.run(
            [compiler, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
        version = run.stdout.splitlines()[0] if run.stdout else "of unknown version"
    except (OSError, subprocess.TimeoutExpired) as error:
        return Fact("build", "C++ compiler", f"{compiler} ({error})", "missing", "reinstall it")
    return Fact("build", "C++ compiler", version)


def memory_facts(meminfo: Path = Path("/proc/meminfo")) -> list[Fact]:
    """Main memory; a container's limit counts where it is lower. Empty where nobody tells."""
    try:
        lines = dict(
            line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines()
        )
        total, free = (int(lines[key].split()[0]) << 10 for key in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError, IndexError):
        return []
    limit = _container_limit()
    if limit is not None:
        total, free = min(total, limit), min(free, limit)
    value = f"{_gib(free)} free of {_gib(total)}"
    if free >= LOW_MEMORY:
        return [Fact("machine", "memory", value)]
    fix = "close other programs, or use smaller TEST.WINDOW and TEST.FRAME_CHUNK"
    return [Fact("machine", "memory", value, "missing", fix)]


def _container_limit(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return int((folder / name).read_text(encoding="ascii"))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return None


def data_facts() -> list[Fact]:
    """The data root and which known data sets it holds."""
    root = Path(os.environ.get(DATA_VARIABLE, DEFAULT_DATA_ROOT)).expanduser()
    source = DATA_VARIABLE if DATA_VARIABLE in os.environ else f"{DATA_VARIABLE} is not set"
    if not root.is_dir():
        fix = f"set {DATA_VARIABLE} to the folder of your data sets (training, evaluation)"
        return [Fact("data", "root", f"{root}: no such folder ({source})", "missing", fix)]
    facts = [Fact("data", "root", f"{root} ({source})")]
    absent = []
    for folder, about in DATA_FOLDERS.items():
        if (root / folder).is_dir():
            facts.append(Fact("data", folder, about))
        else:
            absent.append(folder)
    if absent:
        fix = "datasets/README.md shows the expected tree; needed for training and evaluation"
        facts.append(Fact("data", "data sets", f"absent: {', '.join(absent)}", "missing", fix))
    return facts


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
