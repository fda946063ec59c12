"""What two ranks do, as facts for the tests; torchrun starts it, it writes facts_<rank>.pt."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import (
    BaseCallback,
    EvalCallback,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_spiking  # noqa: F401  # registers the policies
from policies.distributed import gather_objects, process_group, rank
from sb3_spiking.batch_norm import RecalibrationCallback
from sb3_spiking.distributed import DistributedEvalCallback, distribute
from sb3_spiking.distributed.checkpoints import Checkpoints
from tests.sb3_spiking.distributed.cases import Walk

SMALL: dict[str, Any] = {"net_arch": [16]}


class Seen(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps every observation."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.all: list[Any] = []

    def reset(self, **kwargs: Any) -> Any:
        obs, info = self.env.reset(**kwargs)
        self.all.append(obs)
        return obs, info

    def step(self, action: Any) -> Any:
        out = self.env.step(action)
        if not out[2]:  # a vectorized environment gives the next episode's first instead
            self.all.append(out[0])
        return out


class Goals(gymnasium.Env[Any, Any]):
    """Dict observations."""

    def __init__(self) -> None:
        self.walk = Walk()
        part = self.walk.observation_space
        self.observation_space = spaces.Dict({"a": part, "b": part})
        self.action_space = self.walk.action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        obs, info = self.walk.reset(seed=seed)
        return {"a": obs, "b": 2.0 * obs + 5.0}, info

    def step(self, action: Any) -> Any:
        obs, *rest = self.walk.step(action)
        return {"a": obs, "b": 2.0 * obs + 5.0}, *rest


class Counting(BaseFeaturesExtractor):
    """Features beside a statistic that nobody shares."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space, 5)
        self.register_buffer("seen", torch.zeros(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.get_buffer("seen").add_(x.detach().sum(dim=0))
        return x


class Normed(BaseFeaturesExtractor):
    """Features through a batch norm."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space, 5)
        self.norm = torch.nn.BatchNorm1d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(x)
        return normed


class StopAt(BaseCallback):
    """Stops one rank."""

    def __init__(self, steps: int, on: int) -> None:
        super().__init__()
        self.steps, self.on = steps, on

    def _on_step(self) -> bool:
        return rank() != self.on or self.num_timesteps < self.steps


def td3(**more: Any) -> Any:
    kwargs = {"policy_kwargs": dict(SMALL), "learning_starts": 20, "batch_size": 16, "seed": 2}
    return TD3("SpikingPopPolicy", Walk(), **{**kwargs, **more})


def parameters(model: Any) -> dict[str, torch.Tensor]:
    return {key: x.clone() for key, x in model.policy.state_dict().items()}


def message(action: Callable[[], object]) -> str:
    """The error that an action ends with."""
    try:
        action()
    except (ValueError, TypeError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def learned(folder: Path) -> dict[str, Any]:
    model = distribute(td3(tensorboard_log=str(folder / "tensorboard")))
    model.learn(101)
    model.save(folder / "td3")
    before = model.predict(np.zeros(5, np.float32), deterministic=True)[0]
    return {
        "steps": model.num_timesteps,
        "updates": model._n_updates,
        "seen": model.replay_buffer.observations[:5].copy(),
        "parameters": parameters(model),
        "action": before,
        "clock": model.distribution.clock.as_dict(),
        "name": type(model).__name__,
    }


def resumed(folder: Path) -> dict[str, Any]:
    """A file of one process goes on on two ranks; only rank 0's would have these weights."""
    model = SAC(
        "SpikingPopPolicy", Walk(), policy_kwargs=dict(SMALL), learning_starts=5, seed=rank()
    )
    if rank() == 0:
        model.learn(20)
    assert model.log_ent_coef is not None
    # Loops agree: rank 1 takes what rank 0 has, but for how far it came.
    model.num_timesteps, model._n_updates = 0, 0
    assert model.replay_buffer is not None
    model.replay_buffer.reset()
    before = float(model.log_ent_coef)
    distribute(model)
    after = float(model.log_ent_coef)
    model.learn(40)
    return {"before": before, "after": after, "parameters": parameters(model)}


def normalized(folder: Path) -> dict[str, Any]:
    env = VecNormalize(DummyVecEnv([lambda: Seen(Walk())] * 2))
    model = PPO(
        "SpikingPopPolicy", env, n_steps=16, batch_size=8, policy_kwargs=dict(SMALL), seed=3
    )
    distribute(model).learn(128)
    seen = [np.array(x.all) for x in env.unwrapped.envs]  # type: ignore[attr-defined]
    rms: Any = env.obs_rms
    return {
        "mean": rms.mean, "var": rms.var, "count": rms.count, "returns": env.ret_rms.var,
        "seen": np.concatenate(seen), "parameters": parameters(model),
    }  # fmt: skip


def stopped(folder: Path) -> dict[str, Any]:
    model = distribute(td3())
    model.learn(400, callback=StopAt(60, on=1))
    rollouts = distribute(PPO("MlpPolicy", Walk(), n_steps=16, batch_size=8, seed=0))
    rollouts.learn(400, callback=StopAt(60, on=0))
    return {"td3": model.num_timesteps, "ppo": rollouts._n_updates}


def diverged(folder: Path) -> dict[str, Any]:
    model = PPO("MlpPolicy", Walk(), n_steps=64, batch_size=16, learning_rate=0.01, seed=0)
    model.target_kl = 0.005
    distribute(model).learn(512)
    return {"updates": model._n_updates, "limit": model.target_kl, "parameters": parameters(model)}


def refused(folder: Path) -> dict[str, str]:
    apart = td3(learning_starts=20 + rank())
    odd = A2C("MlpPolicy", Walk(), n_steps=5)
    episodes = td3(train_freq=(1, "episode"))
    late = distribute(td3())
    late.train_freq = episodes.train_freq
    ahead = distribute(td3())
    if rank() == 1:
        ahead.num_timesteps = 7
    masked = RecurrentPPO(
        "MlpLstmPolicy", Walk(), policy_kwargs={"features_extractor_class": Normed}
    )
    counted = distribute(td3())
    counted._n_updates = rank()
    wrapped = PPO("MlpPolicy", Walk(), n_steps=16, batch_size=16, seed=0)
    if rank() == 1:
        wrapped.set_env(VecNormalize(DummyVecEnv([Walk])))
    with_counter = td3(policy_kwargs={"features_extractor_class": Counting})
    distribute(with_counter)
    return {
        "apart": message(lambda: with_counter.learn(60)),
        "wrapper": message(lambda: distribute(wrapped)),
        "masked": message(lambda: distribute(masked)),
        "counted": message(lambda: counted.learn(10)),
        "settings": message(lambda: distribute(apart)),
        "split": message(lambda: distribute(odd, split=True)),
        "episodes": message(lambda: distribute(episodes)),
        "late": message(lambda: late.learn(10)),
        "total": message(lambda: distribute(td3()).learn(100 + rank())),
        "ahead": message(lambda: ahead.learn(10, reset_num_timesteps=False)),
    }


def split(folder: Path) -> dict[str, Any]:
    model = distribute(td3(), split=True)
    sizes: list[int] = []
    sample = model.replay_buffer.sample

    def noted(batch_size: int, env: Any = None) -> Any:
        sizes.append(batch_size)
        return sample(batch_size, env)

    model.replay_buffer.sample = noted
    model.learn(100)
    ppo = distribute(PPO("MlpPolicy", Walk(), n_steps=64, batch_size=32, n_epochs=1), split=True)
    ppo.learn(128)
    recurrent_steps = ppo.distribution.buffer.buffer_size
    return {
        "updates": model._n_updates, "sizes": set(sizes), "ppo": ppo._n_updates,
        "n_steps": ppo.n_steps, "batch_size": ppo.batch_size, "buffer": recurrent_steps,
        "parameters": parameters(ppo),
    }  # fmt: skip


def evaluated(folder: Path) -> dict[str, Any]:
    together = DistributedEvalCallback(
        Monitor(Walk()), n_eval_episodes=3, eval_freq=20, verbose=0,
        best_model_save_path=str(folder / "best"), log_path=str(folder),
    )  # fmt: skip
    alone = EvalCallback(Monitor(Walk()), n_eval_episodes=2, eval_freq=20, verbose=0)
    distribute(td3()).learn(100, callback=[together, alone])
    return {
        "returns": together.evaluations_results, "at": together.evaluations_timesteps,
        "best": together.best_mean_reward, "alone": float(alone.last_mean_reward),
    }  # fmt: skip


def targets(folder: Path) -> dict[str, Any]:
    """DQN's target network moves every 40 environment steps of all ranks."""
    model = DQN(
        "MlpPolicy", Walk(True), learning_starts=10, target_update_interval=40, seed=0,
        policy_kwargs=dict(SMALL), train_freq=1,
    )  # fmt: skip
    moved: list[int] = []
    before = [p.clone() for p in model.q_net_target.parameters()]

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            nonlocal before
            now = [p.clone() for p in model.q_net_target.parameters()]
            if any(not torch.equal(a, b) for a, b in zip(before, now, strict=True)):
                moved.append(self.num_timesteps)
            before = now
            return True

    distribute(model).learn(200, callback=Watch())
    return {"moved": moved, "n_envs": model.n_envs}


def checkpointed(folder: Path) -> dict[str, Any]:
    model = distribute(td3())
    model.learn(60)
    checkpoints = Checkpoints(folder / "checkpoints", "Walk")
    for steps in (60, 80, 100):
        model.num_timesteps = steps
        checkpoints.write(model)
    found = checkpoints.newest()
    again = td3(learning_starts=21)  # its own buffer is empty
    assert found is not None
    Checkpoints.load_replay_buffer(again, found)
    same = np.array_equal(again.replay_buffer.observations, model.replay_buffer.observations)
    sizes = (again.replay_buffer.size(), again.replay_buffer.observations.shape)
    if rank() == 1:
        with torch.no_grad():
            next(model.policy.parameters()).add_(1.0)
    gather_objects(None)  # rank 0 removes the oldest after the others have gone on
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    gather_objects(None)  # rank 0 would go on to write
    apart = message(lambda: checkpoints.write(model))
    return {"same": same, "sizes": sizes, "kept": kept, "apart": apart}


def precise(folder: Path) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for amp in (None, "bf16"):
        model = distribute(td3(), amp=amp)
        model.learn(80)
        states = [x for s in model.actor.optimizer.state.values() for x in s.values()]
        out[str(amp)] = {
            "parameters": parameters(model),
            "dtypes": {p.dtype for p in model.policy.parameters()} | {x.dtype for x in states},
            "hooks": sum(len(m._forward_hooks) for m in model.policy.modules()),
        }
    return out


def threshold(folder: Path) -> dict[str, Any]:
    """Rank 0 alone learns that the best model is good enough."""
    stop = StopTrainingOnRewardThreshold(reward_threshold=-1e9)
    together = DistributedEvalCallback(
        Monitor(Walk()), callback_on_new_best=stop, n_eval_episodes=2, eval_freq=8, verbose=0
    )
    model = distribute(PPO("MlpPolicy", Walk(), n_steps=32, batch_size=16, seed=0))
    model.learn(1000, callback=together)
    model.learn(64, reset_num_timesteps=False)  # it can go on
    return {"steps": model.num_timesteps, "evaluations": len(together.evaluations_results)}


def replaced(folder: Path) -> dict[str, Any]:
    """What a user changes after `distribute`."""
    model = distribute(PPO("MlpPolicy", Walk(), n_steps=16, batch_size=16, seed=0))
    env = VecNormalize(DummyVecEnv([Walk]))
    for _ in range(3 + rank()):  # other statistics on each rank
        env.reset()
        env.step(np.zeros((1, 2)))
    model.set_env(env)
    model.policy.optimizer = torch.optim.SGD(model.policy.parameters(), lr=0.01)
    folder = folder / f"log_{rank()}"
    model.set_logger(configure(str(folder), ["csv"]))
    model.learn(64)
    rms: Any = env.obs_rms
    return {
        "mean": rms.mean, "parameters": parameters(model),
        "first": model.rollout_buffer.observations[0].copy(),
        "logged": (folder / "progress.csv").stat().st_size,
    }  # fmt: skip


def dictionaries(folder: Path) -> dict[str, Any]:
    """Dict observations under VecNormalize."""
    env = VecNormalize(DummyVecEnv([Goals]))
    model = distribute(
        PPO(
            "SpikingPopMultiInputPolicy", env, n_steps=16, batch_size=16, seed=0,
            policy_kwargs=dict(SMALL),
        )
    )  # fmt: skip
    model.learn(96)
    rms: Any = env.obs_rms
    return {
        "means": {key: x.mean for key, x in rms.items()},
        "counts": {key: x.count for key, x in rms.items()},
        "parameters": parameters(model),
    }


def alike(folder: Path) -> dict[str, Any]:
    """Rollouts in bfloat16: PPO's ratio of the first epoch is 1 there too."""
    model = PPO("SpikingPopPolicy", Walk(), n_steps=32, batch_size=32, n_epochs=1, seed=0)
    distribute(model, amp="bf16").learn(64)
    return {"kl": model.logger.name_to_value.get("train/approx_kl", np.nan)}


def recalibrated(folder: Path) -> dict[str, Any]:
    """Statistics from both ranks' replay buffers."""
    model = distribute(td3(policy_kwargs={**SMALL, "batch_norm": True}))
    model.learn(80, callback=RecalibrationCallback(every=20, batches=3, batch_size=8))
    return {"parameters": parameters(model)}


FACTS = (
    recalibrated, threshold, replaced, dictionaries, alike,
    learned, resumed, normalized, stopped, diverged, refused, split, evaluated, targets,
    checkpointed, precise,
)  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    where = Path(sys.argv[1])
    with process_group():
        torch.save({fact.__name__: fact(where) for fact in FACTS}, where / f"facts_{rank()}.pt")
