"""The monitor: what it logs, for whom, and that it changes nothing."""

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_spiking.callbacks import SpikeFaultWarning, SpikeMonitorCallback
from sb3_spiking.distributed.callbacks import MAIN_ONLY
from tests.sb3_spiking.envs import ACTION, BOX, DICT, IMAGE, FaultyEnv, TinyEnv
from tests.sb3_spiking.matrix import ALGORITHMS, SETTINGS, SMALL

SUMMARY = {
    "accumulates_per_action",
    "coverage",
    "dead",
    "energy_nj_per_action",
    "faults",
    "firing_rate",
    "gradient_flow",
    "multiply_accumulates_per_action",
    "saturated",
}


def make(
    algorithm: str,
    *,
    policy: str = "SpikingPopPolicy",
    observations: spaces.Space[Any] = BOX,
    actions: spaces.Space[Any] | None = None,
    env: Any = None,
    **policy_kwargs: Any,
) -> Any:
    discrete = algorithm in ("DQN", "QRDQN", "MaskablePPO")
    if actions is None:
        actions = spaces.Discrete(3) if discrete else ACTION
    settings = dict(SETTINGS.get(algorithm, {"learning_starts": 12, "batch_size": 8}))
    kwargs = {**SMALL, **settings.pop("policy_kwargs", {}), **policy_kwargs}
    if algorithm == "ARS":
        kwargs.setdefault("normalize_obs", False)
    env = TinyEnv(observations, actions) if env is None else env
    return ALGORITHMS[algorithm](policy, env, seed=0, policy_kwargs=kwargs, **settings)


def recorded(model: Any, steps: int = 60, **settings: Any) -> dict[str, Any]:
    """Everything under spikes/ that a training recorded, last values."""
    seen: dict[str, Any] = {}

    class Reader(BaseCallback):
        def _on_step(self) -> bool:
            seen.update({k: v for k, v in self.logger.name_to_value.items() if "spikes/" in k})
            return True

    monitor = SpikeMonitorCallback(**{"every": 20, **settings})
    masking = {"use_masking": False} if isinstance(model, sb3_contrib.MaskablePPO) else {}
    model.learn(steps, callback=[monitor, Reader()], log_interval=10_000, **masking)
    return {key.removeprefix("spikes/"): value for key, value in seen.items()}


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_every_algorithm(algorithm: str) -> None:
    model = make(algorithm)
    values = recorded(model, steps=64)
    expected = SUMMARY - ({"gradient_flow"} if algorithm == "ARS" else set())
    assert expected <= set(values)
    assert 0 < values["firing_rate"] < 1
    assert values["accumulates_per_action"] > 0
    assert values["energy_nj_per_action"] == pytest.approx(
        0.0046 * values["multiply_accumulates_per_action"]
        + 0.0009 * values["accumulates_per_action"]
    )
    # Layers are named as in the policy.
    names = {key.partition("/")[2] for key in values if key.startswith("dead/")}
    assert len(names) == 2
    for name in names:
        model.policy.get_submodule(name)
        assert f"firing_rate/{name}" in values


@pytest.mark.parametrize(
    ("algorithm", "policy", "observations"),
    [
        ("TD3", "SpikingPopMultiInputPolicy", DICT),
        ("PPO", "SpikingPopMultiInputPolicy", DICT),
        ("SAC", "SpikingPopCnnPolicy", IMAGE),
        ("DQN", "SpikingPopPolicy", spaces.Discrete(5)),
    ],
)
def test_other_observations(algorithm: str, policy: str, observations: Any) -> None:
    values = recorded(make(algorithm, policy=policy, observations=observations), steps=40)
    assert set(values) >= SUMMARY


@pytest.mark.parametrize("algorithm", ["TD3", "PPO"])
def test_spiking_critics_are_watched_and_not_charged(algorithm: str) -> None:
    dense = recorded(make(algorithm), steps=20)
    values = recorded(make(algorithm, spiking_critic=True), steps=20)
    own = {key.partition("/")[2] for key in values if key.startswith("dead/")}
    assert any("qf0" in name or "value_net" in name for name in own)
    charged = {key for key in values if key.startswith("operations/")}
    assert charged == {key for key in dense if key.startswith("operations/")}


def test_vec_normalize_and_many_environments() -> None:
    env = VecNormalize(DummyVecEnv([lambda: TinyEnv(BOX, ACTION) for _ in range(4)]))
    values = recorded(make("PPO", env=env, normalize_obs=False), steps=128)
    assert values["coverage"] > 0.9


def test_poisson_spikes_leave_the_random_numbers_alone() -> None:
    assert weights(make("TD3", encoder="poisson"), None) == weights(
        make("TD3", encoder="poisson"), SpikeMonitorCallback(every=10)
    )


@pytest.mark.parametrize("algorithm", ["TD3", "SAC", "PPO", "RecurrentPPO", "CrossQ", "DQN"])
def test_watching_changes_no_bit(algorithm: str, tmp_path: Path) -> None:
    plain = weights(make(algorithm), None)
    watched = make(algorithm)  # seeds the generators again
    watched.tensorboard_log = str(tmp_path)
    assert weights(watched, SpikeMonitorCallback(every=10, raster_every=20)) == plain


def weights(model: Any, callback: BaseCallback | None) -> list[list[float]]:
    model.learn(80, callback=callback)
    model.logger.close()
    return [x.double().flatten().tolist() for x in model.policy.state_dict().values()]


def test_no_hook_stays() -> None:
    model = make("TD3")
    recorded(model)
    assert all(not module._forward_hooks for module in model.policy.modules())


def test_dense_policies_pass_in_silence() -> None:
    model = sb3.PPO("MlpPolicy", TinyEnv(BOX, ACTION), n_steps=16, batch_size=8)
    monitor = SpikeMonitorCallback(every=10)
    model.learn(32, callback=monitor)
    assert monitor.last is None


def test_files_and_tensorboard(tmp_path: Path) -> None:
    model = make("PPO")
    model.set_logger(configure(str(tmp_path), ["csv", "json", "tensorboard", "log"]))
    model.learn(160, callback=SpikeMonitorCallback(every=16, raster_every=16), log_interval=1)
    model.logger.close()
    layer = "mlp_extractor.policy_net.mlp.neurons.0"
    with open(tmp_path / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["spikes/energy_nj_per_action"]) > 0
    assert 0 < float(rows[-1][f"spikes/firing_rate/{layer}"]) < 1
    assert "spikes/raster" not in rows[-1]
    records = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert any(f"spikes/operations/{layer.replace('neurons', 'linears')}" in r for r in records)
    # People's table holds the summary only.
    text = (tmp_path / "log.txt").read_text()
    assert "energy_nj_per_action" in text
    assert layer[:10] not in text
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()
    assert "spikes/raster" in tags["images"]
    assert f"spikes/rates/{layer}" in tags["histograms"]
    assert set(tags["scalars"]) >= {f"spikes/{name}" for name in SUMMARY}
    image = events.Images("spikes/raster")[0]
    assert (image.width, image.height) > (400, 200)


def test_without_tensorboard_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any) -> None:
        raise AssertionError("drawn for nobody")

    monkeypatch.setattr("sb3_spiking.callbacks.draw", refuse)
    assert "raster" not in recorded(make("TD3"), raster_every=1)


def test_energy_constants_can_be_chosen() -> None:
    usual, int8 = recorded(make("TD3")), recorded(make("TD3"), costs="45nm-int8")
    assert usual["accumulates_per_action"] == int8["accumulates_per_action"]
    assert int8["energy_nj_per_action"] < 0.1 * usual["energy_nj_per_action"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every must be at least 1"),
        ({"samples": 1}, "samples must be at least 2"),
        ({"raster_every": -1}, "raster_every must be at least 1"),
        ({"costs": "3nm"}, "costs must be one of"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpikeMonitorCallback(**settings)


def kill(model: Any, layer: int = 0) -> None:
    with torch.no_grad():
        model.policy.actor.mu.mlp.linears[layer].bias -= 20.0


def test_a_fault_is_warned_of_once() -> None:
    model = make("TD3")
    kill(model)
    monitor = SpikeMonitorCallback(every=10)
    with pytest.warns(SpikeFaultWarning) as caught:
        model.learn(100, callback=monitor)
    (warning,) = [w for w in caught if w.category is SpikeFaultWarning]
    text = str(warning.message)
    assert "dead_layer in actor.mu.mlp.neurons.0" in text
    assert "actor_lr_scale" in text
    assert monitor.warned == {("dead_layer", "actor.mu.mlp.neurons.0")}


def test_warnings_can_be_left_to_the_log() -> None:
    model = make("TD3")
    kill(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = recorded(model, warn=False)
    assert values["faults"] == 1


def test_nan_is_named_before_training_stops() -> None:
    model = make("TD3")
    with torch.no_grad():
        model.policy.actor.mu.mlp.linears[1].weight[0, 0] = torch.nan
    with (
        pytest.warns(SpikeFaultWarning, match="nan in actor.mu.mlp.linears.1"),
        pytest.raises(ValueError, match=r"actor.mu.mlp.linears.1.weight"),
    ):
        model.learn(60, callback=SpikeMonitorCallback())


def test_a_second_model_gets_its_own_warnings() -> None:
    monitor = SpikeMonitorCallback(every=10)
    for _ in range(2):
        model = make("TD3")
        kill(model)
        with pytest.warns(SpikeFaultWarning, match="dead_layer"):
            model.learn(40, callback=monitor)


def test_what_may_pass_is_warned_of_when_it_lasts() -> None:
    """A layer that is silent but learns counts after two intervals."""
    model = make("TD3", normalize_obs=False, batch_norm=False)
    linear = model.policy.actor.mu.mlp.linears[0]
    with torch.no_grad():
        linear.weight.mul_(0.01)
        linear.bias.fill_(0.01)
    model.learning_starts = 10_000  # nothing changes
    monitor = SpikeMonitorCallback(every=20, samples=64, warn=False)
    steps: list[tuple[int, int]] = []

    class Reader(BaseCallback):
        def _on_step(self) -> bool:
            steps.append((self.num_timesteps, len(monitor.warned)))
            return True

    model.learn(100, callback=[monitor, Reader()])
    first = next(step for step, count in steps if count)
    # Seen from the look at 20 on, and 40 steps later it has lasted.
    assert first == 60
    assert {fault for fault, _ in monitor.warned} == {"dead_layer"}


def test_looks_come_early_and_then_evenly() -> None:
    monitor = SpikeMonitorCallback(every=400)
    looks: list[int] = []
    look = monitor._look
    monitor._look = lambda: looks.append(monitor.num_timesteps) or look()  # type: ignore[method-assign,func-returns-value]
    model = make("TD3")
    model.learning_starts = 10_000
    model.learn(1700, callback=monitor)
    assert looks == [100, 200, 400, 800, 1200, 1600]


def test_nan_that_nobody_has_to_decide_on_stops_nothing() -> None:
    """Before learning starts actions are random: training goes on without the monitor, so with."""
    model = sb3.TD3(
        "SpikingPopPolicy", FaultyEnv(np.nan, at=5), learning_starts=1000, policy_kwargs=SMALL
    )
    model.learn(100, callback=SpikeMonitorCallback(every=10))


@pytest.mark.parametrize("normalized", [False, True])
def test_stacked_frames_of_ars_are_left_alone(normalized: bool) -> None:
    env: Any = DummyVecEnv([lambda: TinyEnv(BOX, ACTION)])
    if normalized:
        env = VecNormalize(env)
    env = VecFrameStack(env, 2)
    recorded(make("ARS", env=env))


def test_many_environments_are_thinned_out() -> None:
    env = DummyVecEnv([lambda: TinyEnv(BOX, ACTION) for _ in range(24)])
    model = make("PPO", env=env)
    monitor = SpikeMonitorCallback(every=100, samples=8)
    model.learn(24 * 48, callback=monitor)
    recent, _ = monitor._met.batch(model.policy)
    everything, _ = monitor._met.all_batch(model.policy)
    assert isinstance(recent, torch.Tensor)
    assert isinstance(everything, torch.Tensor)
    assert len(recent) == 8
    assert len(everything) <= 16


def test_many_environments_are_not_looked_at_every_step() -> None:
    env = DummyVecEnv([lambda: TinyEnv(BOX, ACTION) for _ in range(24)])
    monitor = SpikeMonitorCallback(every=50)
    count = 0
    look = monitor._look

    def counted() -> None:
        nonlocal count
        count += 1
        look()

    monitor._look = counted  # type: ignore[method-assign]
    make("PPO", env=env).learn(24 * 320, callback=monitor)
    # 320 steps of all: doubling up to every 50th.
    assert count <= 12


def test_a_look_that_fails_does_not_end_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("sb3_spiking.callbacks.count_operations", fail)
    model = make("TD3")
    with pytest.warns(UserWarning, match="monitor is off from step 10 on: out of memory") as caught:
        model.learn(60, callback=SpikeMonitorCallback(every=10))
    assert len(caught) == 1
    assert model.num_timesteps == 60


def test_only_the_first_rank_watches() -> None:
    assert SpikeMonitorCallback in MAIN_ONLY


def test_learn_again_goes_on() -> None:
    model = make("TD3")
    monitor = SpikeMonitorCallback(every=50)
    model.learn(60, callback=monitor)
    met = monitor._met
    model.learn(60, callback=monitor, reset_num_timesteps=False)
    assert monitor._met is met
    model.learn(60, callback=monitor)
    assert monitor._met is not met


def test_a_recurrent_policy_is_seen_with_its_memory() -> None:
    """Firing rates are those of the rollout's own states, not of an empty memory."""
    torch.manual_seed(0)
    model = make("RecurrentPPO")
    monitor = SpikeMonitorCallback(every=16)
    model.learn(64, callback=monitor)
    _, memory = monitor._met.batch(model.policy)
    assert memory is not None
    hidden = memory[0]
    assert hidden.shape[1] == len(monitor._met)
    assert float(hidden.abs().sum()) > 0
    # Where an episode began (every 20 steps) the memory is empty.
    empty = [k for k in range(hidden.shape[1]) if float(hidden[:, k].abs().sum()) == 0]
    assert 1 <= len(empty) <= 4


class _Counter(gym.Wrapper[Any, Any, Any, Any]):
    """Observations that say which step they belong to."""

    def __init__(self) -> None:
        super().__init__(TinyEnv(BOX, ACTION))
        self.total = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        _, info = self.env.reset(**kwargs)
        return np.full(3, self.total, np.float32), info

    def step(self, action: Any) -> Any:
        self.total += 1
        _, *rest = self.env.step(action)
        return (np.full(3, self.total, np.float32), *rest)


def test_observations_are_spread_over_the_window_and_over_all() -> None:
    model = sb3.TD3("SpikingPopPolicy", _Counter(), learning_starts=10_000, policy_kwargs=SMALL)
    monitor = SpikeMonitorCallback(every=200, samples=10)
    model.learn(1000, callback=monitor)
    recent, _ = monitor._met.batch(model.policy)
    everything, _ = monitor._met.all_batch(model.policy)
    assert isinstance(recent, torch.Tensor)
    assert isinstance(everything, torch.Tensor)
    steps = recent[:, 0].tolist()
    assert len(steps) == 10
    assert 780 <= min(steps) < max(steps) <= 1000
    assert len(everything) <= 20
    assert float(everything[:, 0].min()) < 100
    episode = monitor._met.episode(model.policy)
    assert episode is not None
    assert isinstance(episode[0], torch.Tensor)
    one = episode[0][:, 0].tolist()
    assert one == list(range(int(one[0]), int(one[0]) + len(one)))
    assert len(one) == 20
