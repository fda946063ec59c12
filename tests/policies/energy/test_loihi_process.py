"""The worker process and its failures, with scripts in place of the one that imports SANA-FE."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policies.actor import PopulationActor
from policies.config import PopulationActorConfig
from policies.energy import loihi, loihi_process
from policies.energy.loihi import LoihiTimeoutError, LoihiWorkerError, simulate_on_loihi
from policies.energy.loihi_network import spike_trains
from policies.energy.loihi_process import run_worker

HEADER: dict[str, Any] = {
    "spike_steps": 2,
    "inputs": [[0, 0, 3]],
    "layers": [{"neuron": {}, "cores": [[1, 0, 2], [2, 2, 4]]}],
}
ARRAYS: dict[str, Any] = {"spikes": np.ones((1, 2, 3), np.uint8), "weight0": np.ones((4, 3))}
GOOD: dict[str, Any] = {
    "energy": {"total": 3.0, "synapse": 1.0, "soma": 1.5, "network": 0.5, "dendrite": 0.0},
    "seconds": 1e-6,
    "synaptic_events": 7,
    "spikes": [[0, 5, 11]],
}


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Make `code` the worker: it finds the request and the result to write in sys.argv[1:]."""
    script = tmp_path / "worker.py"
    script.write_text(f"import json, os, sys, time\nrequest, result = sys.argv[1:]\n{code}\n")
    monkeypatch.setattr(loihi_process, "WORKER", script)


def answer(found: Any) -> str:
    return f"open(result, 'w').write({json.dumps(found)!r})"


def test_what_is_sent_and_what_comes_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = (
        "import numpy as np\n"
        "assert 'torch' not in sys.modules\n"
        "file = np.load(request, allow_pickle=False)\n"
        "header = json.loads(str(file['header']))\n"
        f"assert header == {{'protocol': 1, **{HEADER!r}}}, header\n"
        "assert file['spikes'].tolist() == [[[1, 1, 1], [1, 1, 1]]]\n"
        "assert file['weight0'].shape == (4, 3)\n"
        "print('noise on standard output')\n"
    )
    stand_in(monkeypatch, tmp_path, code + answer({"version": "2.2.9", "decisions": [GOOD]}))
    version, (decision,) = run_worker(HEADER, ARRAYS, 60.0)
    assert version == "2.2.9"
    assert decision.energy == GOOD["energy"]
    assert decision.seconds == 1e-6
    assert decision.synaptic_events == 7
    (spikes,) = decision.spikes
    assert spikes.shape == (2 + 1, 4)
    assert np.argwhere(spikes).tolist() == [[0, 0], [1, 1], [2, 3]]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('one'); sys.exit('two')", r"failed with exit status 1; its last lines:\none\ntwo"),
        ("os._exit(7)", "failed with exit status 7; it wrote nothing"),
        ("raise KeyError('loihi')", r"exit status 1; its last lines:(.|\n)*KeyError: 'loihi'"),
        ("os.abort()", "ended by signal 6"),
        ("os.write(1, b'\\xff\\n' * 50); os._exit(1)", r"last lines:\n(\ufffd\n){7}\ufffd$"),
    ],
)
def test_crashes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, message: str) -> None:
    stand_in(monkeypatch, tmp_path, code)
    with pytest.raises(LoihiWorkerError, match=message):
        run_worker(HEADER, ARRAYS, 60.0)


@pytest.mark.parametrize(
    "code",
    [
        "print('the reason')",  # no file
        answer({"version": "1"}),
        answer({"version": "1", "decisions": []}),
        answer({"version": "1", "decisions": [GOOD, GOOD]}),
        answer({"version": "1", "decisions": [GOOD]})[:-5] + "')",  # cut off
        answer({"version": "1", "decisions": [{**GOOD, "spikes": [[12]]}]}),
        answer({"version": "1", "decisions": [{**GOOD, "spikes": []}]}),
        answer({"version": "1", "decisions": [{**GOOD, "seconds": float("nan")}]}),
        answer({"version": "1", "decisions": [{**GOOD, "synaptic_events": -1}]}),
        answer({"version": "1", "decisions": [{**GOOD, "energy": {"total": 1.0}}]}),
        answer([1, 2]),
    ],
)
def test_results_that_are_not_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str
) -> None:
    stand_in(monkeypatch, tmp_path, code)
    with pytest.raises(LoihiWorkerError, match="no result that can be used"):
        run_worker(HEADER, ARRAYS, 60.0)


def test_timeout_leaves_no_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = (
        f"open({str(note)!r}, 'w').write(str(os.getpid()))\n"
        "print('got this far', flush=True)\n"
        "time.sleep(600)"
    )
    stand_in(monkeypatch, tmp_path, code)
    with pytest.raises(LoihiTimeoutError, match=r"timeout=2 s and was ended(.|\n)*got this far"):
        run_worker(HEADER, ARRAYS, 2.0)
    with pytest.raises(ProcessLookupError):  # neither running nor a zombie
        os.kill(int(note.read_text()), 0)
    assert issubclass(LoihiTimeoutError, TimeoutError)


def test_worker_refuses_another_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loihi_process, "PROTOCOL", 99)
    with pytest.raises(LoihiWorkerError, match="request of protocol 99, expected 1"):
        run_worker(HEADER, ARRAYS, 60.0)


def test_other_spikes_are_counted_and_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    actor = PopulationActor(3, 2, PopulationActorConfig(hidden_sizes=(), normalize=False))
    with torch.no_grad():
        actor.mlp.layers()[0].bias.fill_(1.0)
    observations = torch.zeros(1, 3)
    (_, expected) = spike_trains(actor, observations)
    fired = expected[:, 0].bool()  # [T, N]
    assert fired.sum() > 20

    def simulate(spikes: torch.Tensor) -> loihi.LoihiResult:
        """With a worker that answers these spikes, [T + 1, N]."""
        flat = spikes.flatten().nonzero().flatten().tolist()
        found = {"version": "0", "decisions": [{**GOOD, "spikes": [flat]}]}
        stand_in(monkeypatch, tmp_path, answer(found))
        monkeypatch.setattr(loihi, "check_installed", lambda: None)
        return simulate_on_loihi(actor, observations)

    silence = torch.zeros_like(fired[:1])
    # One step behind the inputs.
    good = simulate(torch.cat([silence, fired]))
    assert (good.spike_mismatches, good.warning) == (0, None)
    assert good.torch_spikes == int(fired.sum())
    assert good.energy["total"].value == pytest.approx(3e9)
    assert "dendrite" not in good.energy

    flipped = fired.clone()
    flipped[2, 3] ^= True
    bad = simulate(torch.cat([silence, flipped]))
    assert bad.spike_mismatches == 1
    assert bad.warning is not None
    assert f"1 neuron-steps of {int(fired.sum())} spikes" in bad.warning

    early = silence.clone()
    early[0, 0] = True
    assert simulate(torch.cat([early, fired])).spike_mismatches == 1


def test_interpreter_is_this_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good = {"version": "", "decisions": [GOOD]}
    code = f"assert sys.executable == {sys.executable!r}\n"
    # Modules beside the worker, as constants.py is, must not hide others of their name.
    (tmp_path / "numpy.py").write_text("raise ImportError('the wrong numpy')")
    stand_in(monkeypatch, tmp_path, code + "import numpy\n" + answer(good))
    run_worker(HEADER, ARRAYS, 60.0)
