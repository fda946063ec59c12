"""What the figures were measured on."""

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = (
    "torch", "numpy", "numba", "triton", "stable-baselines3", "d3rlpy", "gymnasium", "mujoco",
    "spikingjelly", "snntorch", "norse",
)  # fmt: skip
# Names as /proc/cpuinfo writes them: the dot products that fast matmuls of spikes use.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


def processor() -> str:
    """The processor's name and the vector instructions that matter here."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    fields: dict[str, str] = dict(re.findall(r"^([^\t:]+?)\s*: (.*)$", info, flags=re.MULTILINE))
    name = fields.get("model name", platform.machine())
    family = f"family {fields.get('cpu family', '?')}, model {fields.get('model', '?')}"
    flags = fields.get("flags", fields.get("Features", "")).split()
    return f"{name} ({family}); {' '.join(f for f in FLAGS if f in flags) or 'no known flags'}"


def versions() -> str:
    """Installed packages that take part."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def gpu() -> str | None:
    """The name of the CUDA device, or None."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
