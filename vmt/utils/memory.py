"""What a process holds in main memory, in MB (MiB)."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path


def resident_mb(process: int | None = None) -> float:
    """Resident memory of a process now; this one's peak where the system does not tell.

    Args:
        process: its id; None: this one.
    """
    try:
        pages = int(Path(f"/proc/{process or 'self'}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return peak_mb()
    return pages * mmap.PAGESIZE / 2**20


def peak_mb() -> float:
    """Largest resident memory so far; 0 where the system does not tell.

    ``getrusage`` counts what the process had before it became this program; Linux knows better.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return float(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 2**10
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # not a Unix
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
