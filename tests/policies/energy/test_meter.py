"""What the meter calls measured, what estimated, and what it leaves behind."""

import importlib
import logging
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from policies.energy import meter as energy_meter
from policies.energy.meter import EnergyMeter, EnergyReading


class CPU:
    """Stands for CodeCarbon's class of this name, as do the next ones."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._tdp = 65


class RAM: ...


class NvidiaGPUDevice: ...


class UnheardOfDevice: ...


class GPU:
    def __init__(self, *devices: object) -> None:
        self.devices = SimpleNamespace(devices=list(devices))


class Tracker:
    """A tracker that knows the given hardware and energies."""

    hardware: tuple[object, ...] = ()
    energies = SimpleNamespace(cpu_energy=0.5, gpu_energy=2.0, ram_energy=0.25)
    options: dict[str, Any]
    trackers: list["Tracker"]

    def __init__(self, **options: Any) -> None:
        warnings.warn("noise", UserWarning, stacklevel=1)
        logging.getLogger("codecarbon").critical("noise")
        self.options = options
        self._hardware = list(self.hardware)
        self.calls: list[str] = []
        self.trackers.append(self)

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")
        self.final_emissions_data = self.energies


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Tracker]:
    """CodeCarbon is a fake that has this tracker."""
    monkeypatch.setattr(sys, "platform", "linux")
    kind = type("FakeTracker", (Tracker,), {"trackers": []})
    module = ModuleType("codecarbon")
    module.__dict__.update(OfflineEmissionsTracker=kind, __version__="9.9")
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    return kind


def run(**options: bool) -> EnergyMeter:
    meter = EnergyMeter(**options)
    with meter:
        pass
    return meter


def test_a_constant_is_an_estimate_and_no_measurement(fake: type[Tracker]) -> None:
    fake.hardware = (RAM(), CPU("cpu_load"))
    meter = run()
    assert meter.reading == EnergyReading(None, None, "not measured: no RAPL or NVML here")
    assert meter.estimate.kwh == pytest.approx(0.75)
    assert meter.estimate.kind == "estimated"
    assert meter.estimate.method == (
        "CodeCarbon 9.9: CPU by TDP constant (65 W) and load, memory by its size (whole machine)"
    )


def test_a_counter_is_a_measurement_and_memory_stays_an_estimate(fake: type[Tracker]) -> None:
    fake.hardware = (RAM(), CPU("intel_rapl"), GPU(NvidiaGPUDevice(), NvidiaGPUDevice()))
    meter = run()
    assert meter.reading == EnergyReading(
        2.5, "measured", "CPU by RAPL, GPU by NVML (whole machine; without memory)"
    )
    assert meter.estimate == EnergyReading(
        0.25, "estimated", "CodeCarbon 9.9: memory by its size (whole machine)"
    )


def test_a_gpu_counter_alone_says_that_the_cpu_is_missing(fake: type[Tracker]) -> None:
    fake.hardware = (RAM(), CPU("constant"), GPU(NvidiaGPUDevice()))
    meter = run()
    assert meter.reading == EnergyReading(
        2.0, "measured", "GPU by NVML (whole machine; without CPU, memory)"
    )
    assert meter.estimate.kwh == pytest.approx(0.75)


def test_gpus_that_the_run_does_not_use_do_not_count(fake: type[Tracker]) -> None:
    fake.hardware = (CPU("cpu_load"), GPU(NvidiaGPUDevice()))
    assert run(gpus=False).reading.method == "not measured: no RAPL here"
    fake.hardware = (CPU("intel_rapl"), GPU(NvidiaGPUDevice()))
    assert run(gpus=False).reading == EnergyReading(
        0.5, "measured", "CPU by RAPL (whole machine; without GPU)"
    )


@pytest.mark.parametrize("energy", [0.0, -1.0, float("nan"), None])
def test_a_counter_that_did_not_move_has_measured_nothing(
    fake: type[Tracker], energy: float | None
) -> None:
    fake.hardware = (CPU("intel_rapl"), GPU(NvidiaGPUDevice()))
    fake.energies = SimpleNamespace(cpu_energy=energy, gpu_energy=energy, ram_energy=energy)
    meter = run()
    assert meter.reading.kwh is None
    assert meter.estimate.kwh is None


def test_what_a_later_codecarbon_may_add_counts_as_nothing(fake: type[Tracker]) -> None:
    fake.hardware = (CPU("crystal_ball"), GPU(NvidiaGPUDevice(), UnheardOfDevice()))
    meter = run()
    assert meter.reading.kwh is None
    assert meter.estimate.kwh is None
    assert meter.estimate.kind is None


def test_a_tracker_of_another_version_is_not_measured(fake: type[Tracker]) -> None:
    fake.hardware = (object.__new__(CPU),)  # no field tells its mode
    meter = run()
    assert meter.reading.kwh is None
    assert "AttributeError" in meter.reading.method
    assert "_mode" in meter.reading.method


def test_a_tracker_that_swallowed_its_error_is_not_measured(
    fake: type[Tracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.hardware = (CPU("intel_rapl"),)
    monkeypatch.setattr(fake, "stop", lambda self: None)
    assert "final_emissions_data" in run().reading.method


def test_an_error_in_codecarbon_does_not_end_the_run(
    fake: type[Tracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: Tracker) -> None:
        raise OSError("no counter")

    for method in ("start", "stop"):
        with monkeypatch.context() as patch:
            patch.setattr(fake, method, fail)
            assert run().reading.method == "not measured: CodeCarbon failed: OSError: no counter"


def test_an_error_of_the_run_ends_the_measurement_and_passes(fake: type[Tracker]) -> None:
    fake.hardware = (CPU("intel_rapl"),)
    meter = EnergyMeter()
    with pytest.raises(KeyError), meter:
        raise KeyError
    assert meter.reading.kwh == 0.5
    assert fake.trackers[0].calls == ["start", "stop"]


def test_start_and_stop(fake: type[Tracker]) -> None:
    fake.hardware = (CPU("intel_rapl"),)
    meter = EnergyMeter()
    assert meter.stop() == EnergyReading(None, None, "not measured: the meter has not run")
    meter.start()
    assert meter.reading.kwh is None
    with pytest.raises(RuntimeError, match="stop"):
        meter.start()
    assert meter.stop() == meter.stop() == meter.reading
    meter.start()
    assert meter.reading.kwh is None
    assert meter.stop().kwh == 0.5
    assert [tracker.calls for tracker in fake.trackers] == [["start", "stop"]] * 2


def test_other_ranks_measure_nothing(fake: type[Tracker]) -> None:
    fake.hardware = (CPU("intel_rapl"),)
    meter = run(enabled=False)
    assert not fake.trackers
    assert meter.reading.kwh is None
    assert "another process" in meter.reading.method


def test_macos_would_ask_for_a_password(
    fake: type[Tracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "password" in run().reading.method
    assert not fake.trackers


def test_without_codecarbon_the_reading_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    meter = run()
    assert meter.reading == meter.estimate
    assert meter.reading.kwh is None
    assert "pip install 'spiking-policies[energy]'" in meter.reading.method


def test_the_log_is_as_it_was(fake: type[Tracker]) -> None:
    logger = logging.getLogger("codecarbon")
    before = logger.disabled, logger.level
    with EnergyMeter():
        assert logger.disabled
    assert (logger.disabled, logger.level) == before


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ((1.0, None, "x"), "kind"),
        ((None, "measured", "x"), "kwh"),
        ((1.0, "counted", "x"), "kind"),
        ((0.0, "measured", "x"), "kwh"),
        ((float("inf"), "measured", "x"), "kwh"),
        (("1", "measured", "x"), "kwh"),
        ((None, None, ""), "method"),
        ((None, None, None), "method"),
    ],
)
def test_readings_that_are_none(fields: tuple[Any, Any, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        EnergyReading(*fields)


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The installed CodeCarbon, in an empty folder whose configuration asks for everything."""
    codecarbon = pytest.importorskip("codecarbon")
    if sys.platform != "linux":
        pytest.skip("RAPL's files are Linux's")
    options = "save_to_file=true\nsave_to_api=true\nforce_cpu_power=99\nallow_multiple_runs=false\n"
    (tmp_path / ".codecarbon.config").write_text("[codecarbon]\n" + options)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CODECARBON_EMISSIONS_ENDPOINT", "http://localhost:9/")
    monkeypatch.setenv("CODECARBON_CO2_SIGNAL_API_TOKEN", "token")
    monkeypatch.setattr("codecarbon.core.cpu.is_rapl_available", lambda: False)
    cache = importlib.import_module("codecarbon.core.hardware_cache")
    cache.clear_cache()
    yield codecarbon
    cache.clear_cache()


def test_codecarbon_leaves_nothing_behind(
    real: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    calls = []
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, lambda *args: calls.append(args))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: calls.append(args))
    handler = signal.getsignal(signal.SIGTERM)
    meter = EnergyMeter(gpus=False)
    with meter:
        sum(range(1_000_000))
        assert signal.getsignal(signal.SIGTERM) is handler
    assert not calls
    assert [path.name for path in tmp_path.iterdir()] == [".codecarbon.config"]
    assert capfd.readouterr() == ("", "")
    assert meter.reading == EnergyReading(None, None, "not measured: no RAPL here")
    # The constant is not that of the configuration file.
    assert meter.estimate.kind == "estimated"
    assert "CPU by TDP constant" in meter.estimate.method
    assert "99 W" not in meter.estimate.method


def test_codecarbon_reads_rapl(real: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    domain = tmp_path / "rapl" / "intel-rapl:0"
    domain.mkdir(parents=True)
    (domain / "name").write_text("package-0\n")
    (domain / "max_energy_range_uj").write_text("262143328850\n")
    counter = domain / "energy_uj"
    counter.write_text("1000000\n")
    hardware = importlib.import_module("codecarbon.external.hardware")
    rapl = hardware.IntelRAPL
    monkeypatch.setattr("codecarbon.core.cpu.is_rapl_available", lambda: True)
    monkeypatch.setattr(
        hardware,
        "IntelRAPL",
        lambda **options: rapl(**{**options, "rapl_dir": str(tmp_path / "rapl")}),
    )
    # CodeCarbon takes no second reading within its first twentieth of a second.
    monkeypatch.setattr(
        real.OfflineEmissionsTracker,
        "_measure_power_and_energy_if_stale",
        lambda self: self._measure_power_and_energy(),
    )
    meter = EnergyMeter(gpus=False)
    with meter:
        counter.write_text("7200001000000\n")  # 7.2 MJ later
    assert meter.reading.kwh == pytest.approx(2.0)
    assert meter.reading.method == "CPU by RAPL (whole machine; without memory)"
    assert meter.estimate.kind == "estimated"
    assert "CPU" not in meter.estimate.method


def test_codecarbon_still_has_what_the_meter_reads(real: Any) -> None:
    nvidia = importlib.import_module("codecarbon.core.gpu_nvidia")
    amd = importlib.import_module("codecarbon.core.gpu_amd")
    names = {nvidia.NvidiaGPUDevice.__name__, amd.AMDGPUDevice.__name__}
    assert names == set(energy_meter._GPU_COUNTERS)
    hardware = importlib.import_module("codecarbon.external.hardware")
    assert hardware.MODE_CPU_LOAD in energy_meter._CPU_MODELS
