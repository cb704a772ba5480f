"""What this machine has: cores, the processor's name, a folder for what can be made again."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# A container's quota and period, as new and as old kernels tell them.
_QUOTA_FILES = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def cores() -> int:
    """Return how many cores this process may use (affinity and container quota)."""
    count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    for files in _QUOTA_FILES:
        try:
            quota, period = map(int, " ".join(Path(f).read_text() for f in files).split())
        except (OSError, ValueError):
            continue  # no quota, or no such file
        if quota > 0 and period > 0:
            count = min(count, max(1, round(quota / period)))
    return max(1, count)


def cpu_name() -> str:
    """Return the name that the CPU gives itself, or the system's where it gives none."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.platform()


def cache_folder() -> Path:
    """Return the folder for what can be made again (compiled networks, timings)."""
    import platformdirs

    return platformdirs.user_cache_path("manypose")


def writable(folder: Path) -> bool:
    """Return whether the folder is there (it is made when missing) and can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
