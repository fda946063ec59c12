"""The arithmetics and kernels that the library accepts, found by asking it."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, get_args

from policies.config import PopulationActorConfig
from policies.kernels import choice

# Kernels that need a package, and the only device they run on.
NATIVE = {"numba": "cpu", "triton": "cuda"}


@dataclass(frozen=True)
class Choice:
    """One way to compute; None where the library does not offer the choice."""

    matmul: str | None = None
    backward: str | None = None
    kernel: str | None = None

    @property
    def label(self) -> str:
        """Its row's heading."""
        parts = [
            self.matmul,
            f"backward {self.backward}" if self.backward not in (None, "auto") else None,
            f"kernel {self.kernel}" if self.kernel is not None else None,
        ]
        return ", ".join(["ours", *(part for part in parts if part is not None)])

    def kwargs(self, config: type[Any] = PopulationActorConfig) -> dict[str, Any]:
        """Keywords of a config class, those that it has."""
        values = {"matmul": self.matmul, "matmul_backward": self.backward, "kernel": self.kernel}
        known = fields(config)
        return {k: v for k, v in values.items() if v is not None and k in known}


def fields(config: type[Any]) -> set[str]:
    """Names of a config's fields."""
    return {field.name for field in dataclasses.fields(config)}


def accepted(config: type[Any], name: str, known: tuple[str, ...]) -> list[str]:
    """Those of the values that the config takes for a field; none without that field."""
    return [value for value in known if _accepts(config, name, value)]


def _accepts(config: type[Any], name: str, value: str) -> bool:
    if name not in fields(config):
        return False
    try:
        config(**{name: value})
    except ValueError:
        return False
    return True


def matmuls(config: type[Any] = PopulationActorConfig) -> list[str | None]:
    """Arithmetics of a config, float32 first."""
    return list(accepted(config, "matmul", get_args(choice.Matmul))) or [None]


def kernels(device: str = "cpu", config: type[Any] = PopulationActorConfig) -> list[str | None]:
    """Kernels by name that run on a device here; "auto" is one of them under another name."""
    names = accepted(config, "kernel", get_args(choice.Kernel))
    return [name for name in names if name != "auto" and _runs(name, device)] or [None]


def _runs(kernel: str, device: str) -> bool:
    return kernel not in NATIVE or (NATIVE[kernel] == device and find_spec(kernel) is not None)


def backwards(config: type[Any] = PopulationActorConfig) -> list[str | None]:
    """Arithmetics of the backward matmuls by name."""
    names = accepted(config, "matmul_backward", get_args(choice.MatmulBackward))
    return [name for name in names if name != "auto"] or [None]


def plain(config: type[Any] = PopulationActorConfig, *, backward: bool = False) -> Iterator[Choice]:
    """Each matmul with everything else left to the library.

    Args:
        config: the class whose choices are wanted.
        backward: the calls to be timed go backward: exact also with bf16 there.
    """
    kernel = "auto" if "kernel" in fields(config) else None
    auto = "auto" if "matmul_backward" in fields(config) else None
    for matmul in matmuls(config):
        yield Choice(matmul, auto, kernel)
        if backward and matmul == "exact" and "bf16" in backwards(config):
            yield Choice(matmul, "bf16", kernel)


def every(device: str = "cpu", *, backward: bool) -> Iterator[Choice]:
    """Every combination that runs on a device; without `backward` the forward ones."""
    yield from plain(backward=backward)
    names = backwards() if backward else [next(plain()).backward]
    for matmul in matmuls():
        for kernel in kernels(device):
            for name in names:
                if (matmul, kernel) != (None, None):
                    yield Choice(matmul, name, kernel)
