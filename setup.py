"""Build script: what pyproject.toml cannot say (the optional kernel, the configs)."""

import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import BaseError, CCompilerError

HERE = Path(__file__).resolve().parent
#: tools/make_wheels.py asks for a wheel without the kernel, for all machines.
PURE = bool(os.environ.get("VMT_PURE"))
KERNEL_SOURCES = Path("vmt", "ops", "deform_attn", "csrc")

# Neither torch nor numpy headers: the library has a C interface over raw pointers. It picks the
# instruction set at run time, so nothing here may depend on the machine that builds it.
KERNEL = Extension(
    "vmt.ops.deform_attn._kernel",
    sources=sorted(str(path) for path in KERNEL_SOURCES.glob("*.cpp")),
    depends=sorted(str(path) for path in KERNEL_SOURCES.glob("*.h")),
    define_macros=[("Py_LIMITED_API", "0x030A0000")],
    py_limited_api=True,
    extra_compile_args=[
        "-O3",
        "-std=c++17",
        "-fvisibility=hidden",
        "-ffp-contract=fast",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-pthread",
    ],
    extra_link_args=["-pthread"],
    language="c++",
    optional=True,
)


class BuildWithConfigs(build_py):
    """Puts ``configs/`` into the package, where ``vmt.config.find`` looks first.

    An editable installation has them in the clone, and gets none.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        inside = Path(self.build_lib, "vmt", "configs")
        if inside.is_dir():  # of an earlier build in this folder, maybe under other names
            shutil.rmtree(inside)
        for target, source in self._configs().items():
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *self._configs()]

    def _configs(self) -> dict[str, str]:
        """Target -> source."""
        files = sorted((HERE / "configs").rglob("*.yaml"))
        inside = Path(self.build_lib, "vmt")
        return {str(inside / file.relative_to(HERE)): str(file) for file in files}


class BuildOptionalKernel(build_ext):
    """Builds the CPU kernel; without a compiler warns once and lets the installation go on."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except (BaseError, CCompilerError, OSError) as error:
            sys.stderr.write(
                "WARNING: the CPU kernel of vmt.ops.ms_deform_attn was not built. VMT works "
                "without it, on the slower PyTorch reference. For the kernel, install a C++17 "
                "compiler (g++ 12 or newer, or clang) and install VMT again. The compiler said: "
                f"{error}\n"
            )


setup(
    cmdclass={"build_ext": BuildOptionalKernel, "build_py": BuildWithConfigs},
    ext_modules=[] if PURE else [KERNEL],
    options={} if PURE else {"bdist_wheel": {"py_limited_api": "cp310"}},
    install_requires=[
        "torch>=2.9",
        "torchvision>=0.24",
        "timm>=1.0.20",
        "fvcore>=0.1.5.post20221221",
        "numpy>=1.26",
        "pillow>=10.1",
        "pycocotools>=2.0.8",
        "opencv-python-headless>=4.9",
        "scipy>=1.11",
        "av>=17",
        "matplotlib>=3.8",
        "tqdm>=4.66",
        "tensorboard>=2.15",
        "safetensors>=0.4",
        "huggingface_hub>=0.30",
        "pyyaml>=6",
        "cocoapi-hq>=0.2",
    ],
)
