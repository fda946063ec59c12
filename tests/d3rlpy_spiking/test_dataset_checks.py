"""Datasets and settings that cannot train are named; those that can pass, fast."""

import time
from typing import Any

import numpy as np
import pytest
from d3rlpy.algos import DecisionTransformerConfig, TD3PlusBCConfig
from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import Episode, FIFOBuffer, InfiniteBuffer, ReplayBuffer
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.preprocessing import MinMaxActionScaler, StandardObservationScaler

from d3rlpy_spiking.dataset_checks import ANY_RANGE, check_dataset, check_fit
from d3rlpy_spiking.datasets import drop_short_episodes


def episode(steps: int, terminated: bool = True, *, discrete: bool = False) -> Episode:
    rng = np.random.default_rng(steps)
    actions = rng.integers(0, 3, (steps, 1)) if discrete else rng.uniform(-1, 1, (steps, 2))
    return Episode(
        rng.normal(size=(steps, 3)).astype(np.float32),
        actions if discrete else actions.astype(np.float32),
        rng.normal(size=(steps, 1)).astype(np.float32),
        terminated,
    )


def buffer(*episodes: Episode, discrete: bool = False, buffer: Any = None) -> ReplayBuffer:
    return ReplayBuffer(
        InfiniteBuffer() if buffer is None else buffer,
        episodes=episodes,
        action_space=ActionSpace.DISCRETE if discrete else ActionSpace.CONTINUOUS,
        action_size=3 if discrete else 2,
    )


class KeepAll(InfiniteBuffer):
    """A buffer that lists what it is given, also episodes without a transition."""

    def __init__(self, *episodes: Episode) -> None:
        super().__init__()
        self._episodes = list(episodes)


def test_sound_datasets_pass() -> None:
    check_dataset(buffer(episode(5), episode(4, False)), discrete=False)
    limited = buffer(episode(5), episode(9), buffer=FIFOBuffer(8))
    check_dataset(limited, discrete=False)
    whole = buffer(episode(5, discrete=True), discrete=True)
    check_dataset(whole, discrete=True)
    pair = episode(3)
    two = Episode([pair.observations, pair.observations], pair.actions, pair.rewards, True)
    check_dataset(buffer(two), discrete=False)
    image = Episode(np.zeros((3, 1, 8, 8), np.uint8), pair.actions, pair.rewards, True)
    check_dataset(buffer(image), discrete=False)
    rounded = episode(3)
    rounded.actions[0, 0] = np.nextafter(np.float32(1.0), np.float32(2.0))
    check_dataset(buffer(rounded), discrete=False)


@pytest.mark.parametrize("name", ["observations", "actions", "rewards"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scaled", [False, True])
def test_broken_numbers_are_placed(name: str, bad: float, scaled: bool) -> None:
    episodes = [episode(5), episode(4), episode(3)]
    getattr(episodes[1], name)[2:4, 0] = bad
    message = rf"{name} must be finite, got {bad} in episode 1, step 2 \(2 of its"
    with pytest.raises(ValueError, match=message):
        check_dataset(
            buffer(*episodes), discrete=False, action_scaler=ANY_RANGE if scaled else None
        )


def test_broken_numbers_in_a_second_observation_are_placed() -> None:
    one = episode(4)
    second = one.observations.copy()
    second[3, 2] = np.nan
    both = Episode([one.observations, second], one.actions, one.rewards, True)
    good = Episode([one.observations] * 2, one.actions, one.rewards, True)
    with pytest.raises(ValueError, match="observations must be finite, got nan in episode 1, step"):
        check_dataset(buffer(good, both), discrete=False)


def test_actions_out_of_range_need_a_scaler() -> None:
    episodes = [episode(5), episode(4)]
    episodes[1].actions[3, 1] = -1.5
    dataset = buffer(*episodes)
    with pytest.raises(ValueError, match=r"got -1.5 in episode 1, step 3, dim.* 1; set action_sc"):
        check_dataset(dataset, discrete=False)
    check_dataset(dataset, discrete=False, action_scaler=ANY_RANGE)
    ends = np.array([-1.5, -1.5], np.float32)
    fits = MinMaxActionScaler(minimum=ends, maximum=-ends)
    check_dataset(dataset, discrete=False, action_scaler=fits)
    for low, high in ((-1.0, 1.0), (1.5, -1.0)):
        wrong = MinMaxActionScaler(minimum=np.full(2, low), maximum=np.full(2, high))
        with pytest.raises(ValueError, match=r"\[-1, 1\] after the config's action scaler"):
            check_dataset(dataset, discrete=False, action_scaler=wrong)


@pytest.mark.parametrize("bad", [3, -1, 0.5])
def test_discrete_actions_out_of_range(bad: float) -> None:
    wrong = episode(5, discrete=True)
    actions = wrong.actions.astype(np.float32)
    actions[2] = bad
    wrong = Episode(wrong.observations, actions, wrong.rewards, True)
    dataset = buffer(episode(4, discrete=True), wrong, discrete=True)
    with pytest.raises(ValueError, match=rf"0 to 2, got {bad}\S* in episode 1, step 2"):
        check_dataset(dataset, discrete=True)


def test_the_other_kind_of_actions_is_named() -> None:
    with pytest.raises(ValueError, match="needs discrete actions, but the dataset has continuous"):
        check_dataset(buffer(episode(4)), discrete=True)
    whole = buffer(episode(4, discrete=True), discrete=True)
    with pytest.raises(ValueError, match=r"needs continuous.*action_space=ActionSpace.CONTINUOUS"):
        check_dataset(whole, discrete=False)


def test_shapes_that_do_not_fit_are_named() -> None:
    good = episode(4)
    extra = np.zeros((5, 3), np.float32)
    wrong = [
        (Episode(extra, good.actions, good.rewards, True), "one observation an action"),
        (Episode(good.observations[:, :2], good.actions, good.rewards, True), r"\(4, 3\).*\(4, 2"),
        (Episode(good.observations, good.actions[:, :1], good.rewards, True), r"got.*\(4, 1\)"),
        (Episode(good.observations, good.actions, good.rewards[:, 0], True), r"got.*\(4,\)"),
    ]
    for one, message in wrong:
        with pytest.raises(ValueError, match=f"episode 1 has 4 actions.*{message}"):
            check_dataset(buffer(episode(5), one), discrete=False)
    text = Episode(good.observations.astype(str), good.actions, good.rewards, True)
    with pytest.raises(ValueError, match="observations must be numbers, got <U"):
        check_dataset(buffer(text), discrete=False)


def test_empty_datasets_are_named() -> None:
    # d3rlpy leaves out one-step episodes that end in a timeout: this buffer has none.
    empty = buffer(episode(1, False))
    assert empty.size() == 0
    with pytest.raises(ValueError, match=r"the dataset is empty.*2 steps or more"):
        check_dataset(empty, discrete=False)
    others: list[Any] = [None, [], {"observations": np.zeros(3)}]
    for other in others:
        with pytest.raises(TypeError, match="dataset must be a d3rlpy ReplayBuffer, got"):
            check_dataset(other, discrete=False)


def test_episodes_without_a_transition_are_named() -> None:
    dataset = buffer(episode(5), buffer=KeepAll(episode(5), episode(1, False)))
    with pytest.raises(AssertionError):  # what d3rlpy would say
        dataset.transition_picker(dataset.episodes[1], 0)
    with pytest.raises(ValueError, match=r"episode 1 holds no transition.*drop_short_episodes"):
        check_dataset(dataset, discrete=False)
    kept = drop_short_episodes(dataset)
    check_dataset(kept, discrete=False)


@pytest.mark.parametrize("others", [(), (episode(6), episode(4, False))])
def test_one_step_terminal_episodes_train(others: tuple[Episode, ...]) -> None:
    dataset = buffer(episode(1), *others)
    check_dataset(dataset, discrete=False)
    batch = dataset.sample_trajectory_batch(64, 4)
    alone = batch.masks.sum(axis=1) == 1
    np.testing.assert_array_equal(batch.masks[alone][0], [0, 0, 0, 1])
    for config in (DecisionTransformerConfig, TD3PlusBCConfig):
        kwargs: dict[str, Any] = {"observation_scaler": StandardObservationScaler()}
        algorithm = config(batch_size=4, **kwargs).create()
        algorithm.fit(dataset, 2, 1, show_progress=False, logger_adapter=NoopAdapterFactory())
        scaler = algorithm.observation_scaler
        assert np.isfinite(scaler.mean).all()
        assert np.isfinite(scaler.std).all()


@pytest.mark.parametrize("steps", [1000, 10])
@pytest.mark.parametrize("discrete", [False, True])
def test_large_datasets_are_checked_fast(steps: int, discrete: bool) -> None:
    one = episode(steps, discrete=discrete)
    many = [
        Episode(one.observations, one.actions, one.rewards, True) for _ in range(200_000 // steps)
    ]
    dataset = buffer(*many, discrete=discrete)
    start = time.process_time()  # the machine may be busy
    check_dataset(dataset, discrete=discrete)
    assert time.process_time() - start < 1.0


def test_check_fit() -> None:
    check_fit(10, 10)
    check_fit(15, 10)
    with pytest.raises(ValueError, match=r"n_steps \(50\) must be at least.*n_steps_per_epoch=50"):
        check_fit(50, 10_000)
    with pytest.raises(ValueError, match="n_steps must be at least 1, got 0"):
        check_fit(0, 10)
    with pytest.raises(ValueError, match="n_steps_per_epoch must be at least 1, got -1"):
        check_fit(10, -1)
    with pytest.raises(TypeError, match=r"n_steps must be an integer, got 1.5"):
        check_fit(1.5, 1)  # type: ignore[arg-type]
