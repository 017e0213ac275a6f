"""What a compiled kernel costs, read from its cubin: registers, memory, instructions. Needs no GPU.

Not a script. A cubin is an ELF file; the names of sections and attributes are those that NVIDIA's
``cuobjdump -elf`` prints ("CUDA Binary Utilities").
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

#: Bytes of one instruction, compute capability 7.0 and later.
INSTRUCTION_BYTES = 16
#: Format of an attribute of ``.nv.info`` that is followed by as many bytes as its size says.
SIZED = 4
#: Attributes of ``.nv.info``: (symbol, number) pairs.
REGISTERS, FRAME_BYTES = 0x2F, 0x11
#: What the toolkit keeps for itself of a block's shared memory, compute capability 8.0 and later.
RESERVED_BYTES = 1024
#: Loads of one bilinear sample.
TAPS = 4
#: Bytes of a global load of more than 4, by the suffix of its instruction.
WIDE_LOADS = {"64": 8, "128": 16}


@dataclass(frozen=True)
class KernelCost:
    """Of one kernel.

    Attributes:
        registers: per thread.
        local_bytes: per thread, in memory: what does not fit into registers (spills included).
        shared_bytes: per block, static.
        instructions: of the whole kernel, padding included.
    """

    registers: int
    local_bytes: int
    shared_bytes: int
    instructions: int


def _sections(code: bytes) -> Iterator[tuple[str, int, int, int]]:
    """Name, type, offset and size of every section of a 64-bit ELF file."""
    (table,) = struct.unpack_from("<Q", code, 0x28)
    entry, count, names = struct.unpack_from("<HHH", code, 0x3A)
    rows = [struct.unpack_from("<IIQQQQ", code, table + k * entry) for k in range(count)]
    for name, kind, _, _, offset, size in rows:
        begin = rows[names][4] + name
        yield code[begin : code.index(b"\0", begin)].decode(), kind, offset, size


def _attributes(code: bytes, offset: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(attribute, symbol, number) of a section ``.nv.info``."""
    place, end = offset, offset + size
    while place < end:
        layout, attribute, length = struct.unpack_from("<BBH", code, place)
        place += 4
        if layout != SIZED:
            continue
        if length == 8:
            yield attribute, *struct.unpack_from("<II", code, place)
        place += length


def _symbols(code: bytes, offset: int, size: int, names: int) -> dict[int, str]:
    found = {}
    for k in range(size // 24):
        (name,) = struct.unpack_from("<I", code, offset + 24 * k)
        begin = names + name
        found[k] = code[begin : code.index(b"\0", begin)].decode()
    return found


def kernel_costs(code: bytes) -> dict[str, KernelCost]:
    """Costs by the name of the kernel.

    Args:
        code: a cubin.

    Raises:
        ValueError: it is no 64-bit ELF file.
    """
    if code[:5] != b"\x7fELF\x02":
        raise ValueError("a cubin is a 64-bit ELF file; this is none.")
    sections = {name: (offset, size) for name, _, offset, size in _sections(code)}
    symbols = _symbols(code, *sections[".symtab"], sections[".strtab"][0])
    numbers = {
        (attribute, symbols[symbol]): number
        for attribute, symbol, number in _attributes(code, *sections[".nv.info"])
    }
    costs = {}
    for name, (_, size) in sections.items():
        if not name.startswith(".text."):
            continue
        kernel = name.removeprefix(".text.")
        costs[kernel] = KernelCost(
            registers=numbers[REGISTERS, kernel],
            local_bytes=numbers.get((FRAME_BYTES, kernel), 0),
            shared_bytes=sections.get(f".nv.shared.{kernel}", (0, 0))[1],
            instructions=size // INSTRUCTION_BYTES,
        )
    return costs


# --- the inner loop, by the disassembler ----------------------------------------------------------


@dataclass
class Loop:
    """The innermost loop that loads the most from global memory.

    Attributes:
        instructions: in it, padding left out.
        samples: that one turn of it reads: a sample has four taps, each a load.
        by_name: instructions by their name without suffixes.
    """

    instructions: int
    samples: float
    by_name: dict[str, int] = field(default_factory=dict)


def disassembler() -> Path | None:
    """NVIDIA's ``nvdisasm``: in the path, or what came with triton; None: there is none."""
    found = shutil.which("nvdisasm")
    if found is not None:
        return Path(found)
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        return None
    beside = Path(spec.origin).parent / "backends/nvidia/bin/nvdisasm"
    return beside if beside.is_file() else None


_LINE = re.compile(r"/\*([0-9a-f]+)\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)")


def inner_loops(code: bytes) -> dict[str, Loop]:
    """The hot loop of every kernel; empty without a disassembler or where there is no loop."""
    tool = disassembler()
    if tool is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(code)
        done = subprocess.run([tool, "-c", path], capture_output=True, text=True, check=True)
    loops = {}
    for part in done.stdout.split(".section\t.text.")[1:]:
        kernel = re.split(r"[,\s]", part, maxsplit=1)[0]
        loop = _hot_loop(part)
        if loop is not None:
            loops[kernel] = loop
    return loops


def _hot_loop(text: str) -> Loop | None:
    labels: dict[str, int] = {}
    lines: list[tuple[str, str]] = []
    for row in text.splitlines():
        label = re.match(r"(\.L_x_\d+):", row.strip())
        if label:
            labels[label[1]] = len(lines)
        found = _LINE.search(row)
        if found:
            lines.append((found[2], found[3]))
    spans = []
    for k, (name, rest) in enumerate(lines):
        target = re.search(r"\.L_x_\d+", rest)
        if name.startswith("BRA") and target and labels.get(target[0], k + 1) <= k:
            spans.append((labels[target[0]], k + 1))

    def loaded(span: tuple[int, int]) -> tuple[int, int]:
        """Bytes of its wide loads, and loads of any kind."""
        loads = [name for name, _ in lines[slice(*span)] if name.startswith("LDG")]
        found = (re.match(r"LDG\.E\.(64|128)(?:\.|$)", name) for name in loads)
        return sum(WIDE_LOADS[match[1]] for match in found if match), len(loads)

    spans = [span for span in spans if loaded(span)[1]]
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    if not inner:
        return None
    begin, end = max(inner, key=loaded)
    names = [name.split(".")[0] for name, _ in lines[begin:end] if name != "NOP"]
    counts = dict(Counter(names).most_common())
    return Loop(len(names), counts["LDG"] / TAPS, counts)


def cost_row(code: bytes, kernel: str) -> dict[str, Any]:
    """Costs of one kernel for a table; the loop's, where there is a disassembler."""
    loop = inner_loops(code).get(kernel)
    more = {} if loop is None else {"loop_" + k: v for k, v in asdict(loop).items()}
    return asdict(kernel_costs(code)[kernel]) | more
