"""What the command makes of the variables that torchrun sets, and of its signal."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from d3rlpy_spiking.cli import command, errors, main, ranks
from d3rlpy_spiking.cli.launch import VARIABLES
from policies.distributed import group

NOWHERE = ["--model", "nowhere.d3", "--env", "Pendulum-v1", "--target-return", "1"]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def launch(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    """As rank 1 of 2."""
    values = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    values |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"} | changes
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_the_variables_are_those_of_the_group() -> None:
    assert VARIABLES == group._VARIABLES


@pytest.mark.parametrize(("name", "value"), [("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")])
def test_a_stray_variable_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    for text in (value, "x"):
        monkeypatch.setenv(name, text)
        assert main(["train", "--bad"]) == 2
        assert "error: the following arguments are required" in capsys.readouterr().err
        assert main(["evaluate", *NOWHERE]) == 2
        assert "nowhere.d3: No such file" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main(["train", "--help"])
        assert capsys.readouterr().out.count("usage:") == 1


def test_the_first_process_speaks_and_the_others_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("d3rlpy_spiking.cli.errors.time.sleep", waited.append)
    for rank in (0, 1):
        launch(monkeypatch, LOCAL_RANK=str(rank))
        for argv in (["train", "--bad"], ["evaluate", *NOWHERE]):
            assert main(argv) == 2
        said = capsys.readouterr()
        assert said.err.count("error: ") == (2 if rank == 0 else 0)
        with pytest.raises(SystemExit) as end:
            main(["train", "--help"])
        assert end.value.code == 0
        assert capsys.readouterr().out.count("usage:") == (1 if rank == 0 else 0)
    assert waited == [errors.WAIT_SECONDS] * 2


def test_a_variable_that_is_no_number_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(monkeypatch, LOCAL_RANK="0", WORLD_SIZE="x")
    assert main(["evaluate", *NOWHERE]) == 2
    assert "WORLD_SIZE must be a number, got 'x'" in capsys.readouterr().err


@pytest.fixture
def on_ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command believes to be in a group; the signal's action is restored."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ranks, "active", lambda: True)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("on_ranks")
def test_a_failed_rank_cannot_be_ended_before_it_has_said_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ranks.joined("cpu"):
        assert signal.getsignal(signal.SIGTERM) is ranks._terminated
    assert signal.getsignal(signal.SIGTERM) == before
    argv = ["train", "--config", "nowhere.yml", "--dataset", "nowhere.npz"]
    assert command(argv) == 2
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    signal.signal(signal.SIGTERM, before)
    # What goes on after it gets its signal's action back.
    assert main(argv) == 2
    assert signal.getsignal(signal.SIGTERM) == before
    assert capsys.readouterr().err.count("error: ") == 2


@pytest.mark.usefixtures("on_ranks")
def test_a_command_runs_in_a_thread(tmp_path: Path) -> None:
    codes: list[int] = []
    argv = ["train", "--config", str(tmp_path / "nowhere.yml"), "--dataset", "nowhere.npz"]
    thread = threading.Thread(target=lambda: codes.append(main(argv)))
    thread.start()
    thread.join()
    assert codes == [2]


def test_who_is_told_to_end_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        ranks._terminated()
    assert end.value.code == 128 + signal.SIGTERM
    said = capsys.readouterr().err
    assert "by torchrun or the scheduler; if another rank has ended" in said
    assert "--resume" in said
