"""Build script of the scoring package: this folder is the package, plus one optional C++ kernel."""

import os
from pathlib import Path

from setuptools import Extension, setup  # type: ignore[import-untyped, unused-ignore]

HERE = Path(__file__).resolve().parent
SOURCE = "csrc/kernel.cpp"
#: tools/make_wheels.py asks for a wheel without the kernel, for all machines.
PURE = bool(os.environ.get("VMT_PURE"))
ROOMS = sorted(path.parent.name for path in HERE.glob("*/__init__.py"))

kernel = Extension(
    "cocoapi_hq._kernel",
    sources=[SOURCE],
    language="c++",
    py_limited_api=True,  # it has no Python in it: ctypes loads it
    extra_compile_args=["/O2", "/std:c++17"] if os.name == "nt" else ["-O3", "-std=c++17"],
    optional=True,  # without a compiler the package installs and uses numpy and OpenCV
)

setup(
    script_name="setup.py",  # build tools say their own; the script that is named is no module
    packages=["cocoapi_hq", *(f"cocoapi_hq.{room}" for room in ROOMS)],
    package_dir={"cocoapi_hq": "."},
    package_data={"cocoapi_hq": ["py.typed"]},
    ext_modules=[] if PURE or not (HERE / SOURCE).is_file() else [kernel],
    options={} if PURE else {"bdist_wheel": {"py_limited_api": "cp310"}},
)
