"""Build script: what pyproject.toml cannot say (the optional kernel, the sibling package)."""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
SCORER = HERE / "cocoapi_hq"

setup(
    install_requires=[
        "torch>=2.9",
        "torchvision>=0.24",
        "timm>=1.0.20",
        "fvcore>=0.1.5.post20221221",
        "numpy>=1.26",
        "pycocotools>=2.0.8",
        "opencv-python-headless>=4.9",
        "scipy>=1.11",
        "av>=13",
        "matplotlib>=3.8",
        "tqdm>=4.66",
        "tensorboard>=2.15",
        "safetensors>=0.4",
        "pyyaml>=6",
        # The scoring package is a distribution of its own, in the folder beside this file.
        f"cocoapi_hq @ {SCORER.as_uri()}" if SCORER.is_dir() else "cocoapi_hq",
    ],
)
