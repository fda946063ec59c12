"""Energy of a stretch of a run: measured by the machine's counters, or estimated, never mixed.

CodeCarbon (an optional dependency) reads the counters: RAPL for the processor, NVML for NVIDIA's
GPUs. Where the machine has none, CodeCarbon puts a model in their place: the processor's power
rating times its load, and always a wattage by size for the memory. Those are no measurements, and
its own total adds both. Here they are kept apart: `EnergyMeter.reading` holds what counters said,
`EnergyMeter.estimate` what models said about the rest.

Counters belong to the machine: a reading covers every process on it. CO2 is left out: it would need
the country.

Source: CodeCarbon 3.3 (https://github.com/mlco2/codecarbon), offline mode.
"""

import importlib
import logging
import math
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

ReadingKind = Literal["measured", "estimated"]

# CodeCarbon's names for how it knows the processor's energy.
_CPU_COUNTERS = {"intel_rapl": "RAPL", "windows_emi": "Windows EMI"}
_CPU_MODELS = {
    "cpu_load": "TDP constant ({tdp} W) and load",
    "constant": "TDP constant ({tdp} W)",
}
_GPU_COUNTERS = {"NvidiaGPUDevice": "NVML", "AMDGPUDevice": "AMD SMI"}


@dataclass(frozen=True)
class EnergyReading:
    """Energy of a stretch of a run.

    Attributes:
        kwh: kWh, more than 0; None where there is none to report.
        kind: how it is known; None with kwh.
        method: what was read, and of which parts of the machine; or why there is nothing.

    Raises:
        ValueError: if a field is none of these.
    """

    kwh: float | None
    kind: ReadingKind | None
    method: str

    def __post_init__(self) -> None:
        """Check the fields."""
        if not isinstance(self.method, str) or not self.method:
            raise ValueError(f"method must be a text that is not empty, got {self.method!r}")
        if self.kind not in (None, "measured", "estimated"):
            raise ValueError(f"kind must be 'measured', 'estimated' or None, got {self.kind!r}")
        if (self.kwh is None) != (self.kind is None):
            raise ValueError(
                f"kwh and kind must both be None or neither, got {self.kwh!r} and {self.kind!r}"
            )
        if self.kwh is not None and not _is_energy(self.kwh):
            raise ValueError(f"kwh must be a finite number above 0, got {self.kwh!r}")


class EnergyMeter:
    """Measures the energy between start() and stop(), or inside a with block.

    Nothing that goes wrong in it ends the run: the reading says why there is none. No network is
    used, no file is left, nothing is logged, and CodeCarbon's configuration files and variables are
    not followed. Once a second a thread of its own looks at the machine's load.

    The first start() of a process looks the hardware up, which takes a second or two: start a clock
    after it. On one machine one process measures, since each would count the whole machine; of
    several machines, one process on each, whose readings are then added.

    Args:
        enabled: False measures nothing; for the other ranks of a machine.
        gpus: whether GPUs count: False where the run uses none of those in the machine. By default
            all that CUDA_VISIBLE_DEVICES lets through, or all.

    Attributes:
        reading: what counters measured; of kind "measured", or without kwh.
        estimate: what CodeCarbon's models say about the parts without a counter; of kind
            "estimated", or without kwh. It never overlaps with `reading`.
    """

    def __init__(self, *, enabled: bool = True, gpus: bool = True) -> None:
        self.reading = _nothing("not measured: the meter has not run")
        self.estimate = self.reading
        self._enabled = enabled
        self._gpus = gpus
        self._tracker: Any = None
        self._open: ExitStack | None = None

    def start(self) -> None:
        """Begin the stretch.

        Raises:
            RuntimeError: if it has begun already.
        """
        if self._open is not None:
            raise RuntimeError("the energy meter runs already: call stop() first")
        self._open = ExitStack()
        why = self._why_not()
        self._report(why or "not measured: the meter still runs")
        if why is not None:
            return
        self._open.enter_context(_silenced())
        try:
            # Intel's Power Gadget logs into the tracker's folder.
            folder = self._open.enter_context(tempfile.TemporaryDirectory())
            self._tracker = _start_tracker(folder)
        except Exception as error:
            self._report(_failure(error))

    def stop(self) -> EnergyReading:
        """End the stretch; further calls change nothing.

        Returns:
            `reading`.
        """
        if self._open is not None:
            with self._open:
                if self._tracker is not None:
                    self._stop_tracker()
            self._open = self._tracker = None
        return self.reading

    def __enter__(self) -> "EnergyMeter":
        """Begin the stretch."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the stretch."""
        self.stop()

    def _why_not(self) -> str | None:
        if not self._enabled:
            return "not measured: left to another process of this machine"
        if sys.platform == "darwin":
            return "not measured: on macOS CodeCarbon would ask for the administrator's password"
        return None

    def _report(self, why: str) -> None:
        self.reading = self.estimate = _nothing(why)

    def _stop_tracker(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._tracker.stop()
            parts = _parts(self._tracker)
        except Exception as error:
            self._report(_failure(error))
        else:
            self.reading = _measured(parts, self._gpus)
            self.estimate = _estimated(parts)


@dataclass(frozen=True)
class _Part:
    """A part of the machine, its energy in kWh and where that comes from."""

    name: str
    kwh: float
    kind: ReadingKind | None
    source: str


def _start_tracker(folder: str) -> Any:
    """A started tracker whose every option is set: those left out come from the user's files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tracker = importlib.import_module("codecarbon").OfflineEmissionsTracker(
            # Nothing leaves the process, and no lock file with its signal handlers.
            output_methods=[],
            output_handlers=[],
            output_dir=folder,
            emissions_endpoint=None,
            api_call_interval=-1,
            allow_multiple_runs=True,
            log_level="critical",
            logger_preamble="",
            # CO2 is not asked for: a fixed factor needs no country and no token.
            force_carbon_intensity_g_co2e_kwh=0.0,
            electricitymaps_api_token="",
            country_iso_code=None,
            country_2letter_iso_code=None,
            region=None,
            cloud_provider=None,
            cloud_region=None,
            # What is read: counters where there are, of the whole machine, as they are.
            tracking_mode="machine",
            measure_power_secs=15,  # RAPL's counters wrap after some tens of minutes at full power
            gpu_ids=None,
            force_cpu_power=None,
            force_ram_power=None,
            force_mode_cpu_load=False,
            rapl_include_dram=False,
            rapl_prefer_psys=False,
            pue=1.0,
            wue=0.0,
        )
        tracker.start()
    return tracker


def _parts(tracker: Any) -> list[_Part]:
    """The parts of the machine that a stopped tracker knows."""
    # CodeCarbon swallows its own errors: without this field it has not run.
    data = tracker.final_emissions_data
    parts = []
    # Which counter served is told by private fields only; the tests hold them to CodeCarbon's.
    for hardware in tracker._hardware:
        name = type(hardware).__name__
        if name == "CPU":
            parts.append(_Part("CPU", data.cpu_energy, *_cpu_source(hardware)))
        elif name == "GPU":
            devices = {type(device).__name__ for device in hardware.devices.devices}
            known = sorted(_GPU_COUNTERS[device] for device in devices & set(_GPU_COUNTERS))
            kind: ReadingKind | None = (
                "measured" if known and devices <= set(_GPU_COUNTERS) else None
            )
            parts.append(_Part("GPU", data.gpu_energy, kind, " and ".join(known)))
        elif name == "RAM":
            parts.append(_Part("memory", data.ram_energy, "estimated", "its size"))
    return sorted(parts, key=lambda part: part.name)


def _cpu_source(hardware: Any) -> tuple[ReadingKind | None, str]:
    mode = hardware._mode
    if mode in _CPU_COUNTERS:
        return "measured", _CPU_COUNTERS[mode]
    if mode in _CPU_MODELS:
        return "estimated", _CPU_MODELS[mode].format(tdp=hardware._tdp)
    return None, ""


def _measured(parts: list[_Part], gpus: bool) -> EnergyReading:
    # A counter that cannot be read gives 0 in CodeCarbon.
    counted = [
        part
        for part in parts
        if part.kind == "measured" and _is_energy(part.kwh) and (gpus or part.name != "GPU")
    ]
    if not counted:
        return _nothing(f"not measured: no RAPL{' or NVML' if gpus else ''} here")
    method = ", ".join(f"{part.name} by {part.source}" for part in counted)
    left_out = ", ".join(part.name for part in parts if part not in counted)
    method += f" (whole machine{'; without ' + left_out if left_out else ''})"
    return EnergyReading(sum(part.kwh for part in counted), "measured", method)


def _estimated(parts: list[_Part]) -> EnergyReading:
    modelled = [part for part in parts if part.kind == "estimated" and _is_energy(part.kwh)]
    if not modelled:
        return _nothing("not estimated: CodeCarbon has no model of a part of this machine")
    version = getattr(importlib.import_module("codecarbon"), "__version__", "of unknown version")
    method = ", ".join(f"{part.name} by {part.source}" for part in modelled)
    return EnergyReading(
        sum(part.kwh for part in modelled),
        "estimated",
        f"CodeCarbon {version}: {method} (whole machine)",
    )


def _nothing(why: str) -> EnergyReading:
    return EnergyReading(None, None, why)


def _is_energy(kwh: object) -> bool:
    return isinstance(kwh, float | int) and math.isfinite(kwh) and kwh > 0


def _failure(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "codecarbon":
        return "not measured: CodeCarbon is missing: pip install 'spiking-policies[energy]'"
    return f"not measured: CodeCarbon failed: {type(error).__name__}: {error}"


@contextmanager
def _silenced() -> Iterator[None]:
    """CodeCarbon's log is silent inside; afterwards it is as it was."""
    logger = logging.getLogger("codecarbon")
    disabled, level = logger.disabled, logger.level
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = disabled
        logger.setLevel(level)
