"""Datasets in files: read back unchanged, and what is broken is named."""

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import (
    Episode,
    FrameStackTransitionPicker,
    InfiniteBuffer,
    MDPDataset,
    ReplayBuffer,
)

from d3rlpy_spiking.datasets import (
    drop_short_episodes,
    load_buffer,
    load_npz,
    save_npz,
)
from tests.common import ROOT

FILES = ROOT.parent / "shared" / "datasets"
needs_files = pytest.mark.skipif(
    not FILES.is_dir(), reason="the recorded datasets are not beside the repository"
)


def arrays(**changes: Any) -> dict[str, Any]:
    """Three episodes of 3, 4 and 2 steps: a terminal, a timeout, a terminal."""
    rng = np.random.default_rng(0)
    terminals, timeouts = np.zeros(9, np.bool_), np.zeros(9, np.bool_)
    terminals[[2, 8]], timeouts[6] = True, True
    made: dict[str, Any] = {
        "observations": rng.normal(size=(9, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (9, 2)).astype(np.float32),
        "rewards": rng.normal(size=9).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }
    for name, change in changes.items():
        made[name] = change(made[name]) if callable(change) else change
    return {name: value for name, value in made.items() if value is not None}


def write(path: Path, **changes: Any) -> Path:
    file = path / "data.npz"
    np.savez(file, **arrays(**changes))
    return file


def put(index: Any, value: Any) -> Any:
    """A change that sets one entry."""

    def change(array: Any) -> Any:
        array[index] = value
        return array

    return change


def same(first: ReplayBuffer, second: ReplayBuffer) -> None:
    for one, two in zip(first.episodes, second.episodes, strict=True):
        for name in ("observations", "actions", "rewards"):
            a, b = getattr(one, name), getattr(two, name)
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        assert one.terminated == two.terminated
    assert first.dataset_info == second.dataset_info
    assert first.transition_count == second.transition_count


def test_npz_becomes_episodes(tmp_path: Path) -> None:
    buffer = load_npz(write(tmp_path, env_id="Hopper-v4", is_expert=np.zeros(9)))
    wanted = arrays()
    assert [(len(e), e.terminated) for e in buffer.episodes] == [(3, True), (4, False), (2, True)]
    for name in ("observations", "actions"):
        joined = np.concatenate([getattr(e, name) for e in buffer.episodes])
        np.testing.assert_array_equal(joined, wanted[name])
    rewards = np.concatenate([e.rewards for e in buffer.episodes])
    np.testing.assert_array_equal(rewards, wanted["rewards"][:, None])
    assert buffer.dataset_info.action_space == ActionSpace.CONTINUOUS
    assert buffer.dataset_info.action_size == 2


def test_npz_steps_after_the_last_end_are_a_timeout(tmp_path: Path) -> None:
    buffer = load_npz(write(tmp_path, terminals=put(8, False)))
    assert [(len(e), e.terminated) for e in buffer.episodes] == [(3, True), (4, False), (2, False)]


def test_npz_takes_other_dtypes(tmp_path: Path) -> None:
    buffer = load_npz(
        write(
            tmp_path,
            observations=lambda x: x.astype(np.float64),
            rewards=lambda x: (x * 9).astype(np.int16)[:, None],
            terminals=lambda x: x.astype(np.float32),
            timeouts=lambda x: x.astype(np.uint8),
        )
    )
    first = buffer.episodes[0]
    assert [a.dtype for a in (first.observations, first.actions, first.rewards)] == ["f4"] * 3
    assert (len(buffer.episodes), first.terminated) == (3, True)
    images = load_npz(write(tmp_path, observations=np.full((9, 3, 8, 8), 255, np.uint8)))
    assert images.episodes[0].observations.dtype == np.uint8


def test_npz_actions_are_what_is_stated_not_what_their_values_look_like(tmp_path: Path) -> None:
    whole = np.array([0, 1, 1, 0, 2, 0, 1, 0, 1])
    bang_bang = load_npz(write(tmp_path, actions=np.where(whole == 0, -1.0, 1.0)[:, None]))
    assert bang_bang.dataset_info.action_space == ActionSpace.CONTINUOUS
    for kind in ("discrete", ActionSpace.DISCRETE, None):
        file = write(tmp_path, actions=whole.astype(float) if kind else whole)
        info = load_npz(file, action_space=kind).dataset_info
        assert (info.action_space, info.action_size) == (ActionSpace.DISCRETE, 3)
    assert load_npz(write(tmp_path, actions=whole), action_size=6).dataset_info.action_size == 6
    info = load_npz(write(tmp_path, actions=whole), action_space="continuous").dataset_info
    assert (info.action_space, info.action_size) == (ActionSpace.CONTINUOUS, 1)


def broken() -> list[tuple[dict[str, Any], dict[str, Any], str]]:
    nothing = np.zeros(9, np.bool_)
    whole = np.array([0, 1, 1, 0, 2, 0, 1, 0, 1])
    return [
        ({"rewards": None, "timeouts": None}, {}, r"\['rewards', 'timeouts'\] are missing"),
        ({"rewards": np.zeros(8)}, {}, "one entry a step.*'rewards': 8"),
        ({"observations": np.zeros((12, 3))}, {}, "one entry a step.*'observations': 12"),
        ({"observations": np.zeros(9)}, {}, r"observations must be \[N, ...\], got shape \(9,\)"),
        ({"actions": np.zeros((9, 2, 2))}, {}, r"actions must be \[N, A\] or \[N\]"),
        ({"terminals": np.zeros((9, 2))}, {}, r"terminals must be \[N\]"),
        ({"observations": put((4, 1), np.nan)}, {}, r"observations.*nan at index \[4, 1\] \(1 of"),
        ({"actions": put((5, 0), np.inf)}, {}, r"actions.*inf at index \[5, 0\]"),
        ({"rewards": put(7, -np.inf)}, {}, r"rewards.*-inf at index \[7\]"),
        ({"rewards": np.full(9, 1e39)}, {}, r"rewards must be finite in float32.*1e\+39"),
        ({"timeouts": put(2, True)}, {}, "must not both be true, but are at step 2 and 0 more"),
        ({"terminals": nothing, "timeouts": nothing}, {}, "the end of at least one episode"),
        ({"terminals": np.full(9, 0.5)}, {}, "terminals must be true or false, got 0.5 at step 0"),
        ({"timeouts": np.array(["no"] * 9)}, {}, "timeouts must be booleans, got <U2"),
        ({"observations": np.zeros((9, 3), complex)}, {}, "observations must be real numbers, got"),
        ({"rewards": np.array([{}] * 9)}, {}, "holds pickled objects"),
        ({"actions": whole}, {"action_size": 2}, "integers from 0 to 1, got 2 in episode 1, step"),
        ({"actions": whole - 1}, {}, "integers from 0 to 1, got -1 in episode 0, step 0"),
        ({}, {"action_space": "discrete"}, "discrete actions must be one whole number a step"),
        ({}, {"action_space": "mixed"}, r"one of \['continuous', 'discrete'\].*got 'mixed'"),
        ({}, {"action_size": 3}, "action_size is 3, but the actions have 2 dimensions"),
        ({}, {"action_size": 0}, "action_size must be at least 1"),
        ({}, {"action_space": ActionSpace.BOTH}, "action_space must be one of"),
        ({"terminals": nothing, "timeouts": ~nothing}, {}, "none of its 9 episodes holds a tran"),
        ({name: lambda x: x[:0] for name in arrays()}, {}, "holds no steps"),
    ]


@pytest.mark.parametrize(("changes", "options", "message"), broken())
def test_npz_faults_are_named(
    tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_npz(write(tmp_path, **changes), **options)


def test_other_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "file.npz"
    with pytest.raises(FileNotFoundError):
        load_npz(file)
    with pytest.raises(FileNotFoundError):
        load_buffer(file, "continuous", 2)
    whole = write(tmp_path).read_bytes()
    array = tmp_path / "array.npy"
    np.save(array, np.zeros(3))
    for content in (b"", b"text", whole[: len(whole) // 2], array.read_bytes()):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="must be a NumPy archive of plain arrays"):
            load_npz(file)
        with pytest.raises(ValueError, match="is damaged or no file of d3rlpy's"):
            load_buffer(file, "continuous", 2)


def test_save_and_load_keep_everything(tmp_path: Path) -> None:
    continuous = load_npz(write(tmp_path))
    # Actions 0 and 1 of five; images; a one-step episode.
    discrete = ReplayBuffer(
        InfiniteBuffer(),
        episodes=[
            Episode(
                np.full((steps, 3, 4, 4), steps, np.uint8),
                np.arange(steps)[:, None] % 2,
                np.ones((steps, 1), np.float32),
                terminated,
            )
            for steps, terminated in ((3, False), (1, True), (4, True))
        ],
        action_space=ActionSpace.DISCRETE,
        action_size=5,
    )
    for buffer in (continuous, discrete):
        path = save_npz(buffer, tmp_path / "saved.npz")
        same(load_npz(path), buffer)
    assert load_npz(path).dataset_info.action_size == 5
    assert load_npz(path, action_size=6).dataset_info.action_size == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.npz", "saved.npz"]
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "data.npz").stat().st_mode)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = load_npz(write(tmp_path))
    path = save_npz(buffer, tmp_path / "saved.npz")
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_npz(buffer, path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.npz", "saved.npz"]


def test_saving_what_npz_cannot_hold_is_named(tmp_path: Path) -> None:
    pair = Episode(
        [np.zeros((2, 3), np.float32), np.zeros((2, 1), np.float32)],
        np.zeros((2, 1), np.float32),
        np.zeros((2, 1), np.float32),
        True,
    )
    buffer = ReplayBuffer(
        InfiniteBuffer(), episodes=[pair], action_space=ActionSpace.CONTINUOUS, action_size=1
    )
    with pytest.raises(ValueError, match="got a tuple of arrays"):
        save_npz(buffer, tmp_path / "saved.npz")
    with pytest.raises(ValueError, match="nothing to save"):
        save_npz(SimpleNamespace(episodes=[]), tmp_path / "saved.npz")
    assert not list(tmp_path.iterdir())


def test_load_buffer_keeps_the_number_of_actions(tmp_path: Path) -> None:
    made = arrays(actions=np.array([0, 1, 1, 0, 1, 0, 1, 0, 1]))
    dataset = MDPDataset(**made, action_space=ActionSpace.DISCRETE, action_size=4)
    path = tmp_path / "buffer.h5"
    with open(path, "w+b") as file:
        dataset.dump(file)
    same(load_buffer(path, "discrete", 4), dataset)
    same(load_buffer(path, ActionSpace.DISCRETE, 4), dataset)
    with open(path, "rb") as file:  # why this function exists
        assert ReplayBuffer.load(file, InfiniteBuffer()).dataset_info.action_size == 2
    with pytest.raises(ValueError, match="integers from 0 to 0, got 1 in episode 0, step 1"):
        load_buffer(path, "discrete", 1)
    with pytest.raises(ValueError, match=r"episode 0 has 3 actions.*\(3, 2\).*got"):
        load_buffer(path, "continuous", 2)


def test_drop_short_episodes(tmp_path: Path) -> None:
    buffer = load_npz(write(tmp_path, terminals=put(3, True)))  # a one-step episode, the second
    assert [len(e) for e in buffer.episodes] == [3, 1, 3, 2]
    kept = drop_short_episodes(buffer)
    assert [len(e) for e in kept.episodes] == [3, 3, 2]
    assert kept.transition_count == 3 + 2 + 2
    assert kept.dataset_info == buffer.dataset_info
    assert [len(e) for e in drop_short_episodes(buffer, 3).episodes] == [3, 3]
    assert [len(e) for e in buffer.episodes] == [3, 1, 3, 2]
    with pytest.raises(ValueError, match="none of the 4 episodes has at least 9 steps"):
        drop_short_episodes(buffer, 9)
    with pytest.raises(ValueError, match="minimum must be at least 1, got 0"):
        drop_short_episodes(buffer, 0)
    stack = FrameStackTransitionPicker(2)
    stacked = ReplayBuffer(
        InfiniteBuffer(),
        episodes=buffer.episodes,
        transition_picker=stack,
        action_space=ActionSpace.CONTINUOUS,
        action_size=2,
    )
    assert drop_short_episodes(stacked).transition_picker is stack


@needs_files
@pytest.mark.parametrize(
    ("name", "episodes", "steps"),
    [("hopper_medium_expert", 357, 201_210), ("halfcheetah_medium_expert", 200, 200_000)],
)
def test_recorded_files(name: str, episodes: int, steps: int) -> None:
    buffer = load_npz(FILES / f"{name}.npz")
    assert buffer.size() == episodes
    assert sum(len(e) for e in buffer.episodes) == steps
