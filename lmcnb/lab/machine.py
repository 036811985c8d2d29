"""The machine behind a run: what it is, how it is pinned, what the run used."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any


def pin(device: str, threads: int) -> str:
    """Pin threads and ask for deterministic algorithms; returns what was asked for.

    On the CPU an operation without a deterministic version raises; on CUDA it warns.
    """
    early = "torch" not in sys.modules or ":4096:8" in os.environ.get("CUBLAS_WORKSPACE_CONFIG", "")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.set_num_threads(max(1, int(threads or 1)))
    cuda = device.startswith("cuda")
    torch.use_deterministic_algorithms(True, warn_only=cuda)
    if not cuda:
        return "deterministic algorithms, an absent one raises"
    order = "before" if early else "after"
    workspace = os.environ["CUBLAS_WORKSPACE_CONFIG"]
    return (
        "deterministic algorithms, an absent one warns; "
        f"CUBLAS_WORKSPACE_CONFIG={workspace} set {order} torch was imported"
    )


def device(name: str) -> dict[str, Any]:
    """The type and the marketing name of a device."""
    kind = name.split(":")[0]
    if kind != "cuda":
        return {"type": kind, "name": cpu_name()}
    import torch

    return {"type": kind, "name": torch.cuda.get_device_name(name)}


def cpu_name() -> str:
    """The CPU's model, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """The versions that decide the bits of a result."""
    import numpy
    import torch

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "cuda": str(torch.version.cuda) if torch.version.cuda else "none",
    }


def describe() -> dict[str, Any]:
    """System, CPU, its vector instructions as torch uses them, cores and threads."""
    import torch

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "vector": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def peak_memory(device_name: str) -> dict[str, int]:
    """The most memory this process has held, in bytes, on the CPU and on the device."""
    result = {}
    if sys.platform != "win32":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result["cpu"] = peak if sys.platform == "darwin" else peak * 1024
    if device_name.startswith("cuda"):
        import torch

        result["cuda"] = torch.cuda.max_memory_allocated(device_name)
    return result
