"""Datasets from Stable-Baselines3 agents."""

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import ReplayBuffer
from numpy.typing import NDArray
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from d3rlpy_spiking.datasets.episodes import make_buffer, split_episodes, stored_dtype
from d3rlpy_spiking.datasets.sb3_env import as_venv, fit_to_model, normalizer_of, seeded, spaces_of
from d3rlpy_spiking.datasets.spaces import describe_action_space
from policies.config import check_count

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv


def collect_from_sb3(
    model: "BaseAlgorithm",
    env: "str | gymnasium.Env[Any, Any] | VecEnv",
    n_steps: int,
    *,
    deterministic: bool = False,
    seed: int | None = None,
    progress: bool = False,
) -> ReplayBuffer:
    """Roll out an agent of Stable-Baselines3, sb3-contrib or the RL Zoo into a dataset.

    The dataset holds what the environment gave and took: raw observations and rewards also behind
    VecNormalize (whose statistics do not move), and actions in the environment's units. If those
    are not [-1, 1], train with `action_scaler=action_scaler(env.action_space)`. A step that both
    terminated and was truncated is terminal. Episodes that still run at the end are closed as
    timeouts.

    Args:
        model: the agent, loaded. Recurrent agents get their state back, masked ones the
            environment's action masks, and gSDE draws new noise for each episode.
        env: id of a Gymnasium environment, an environment, or a VecEnv of any size; it is reset
            first. An agent trained behind VecNormalize needs that VecNormalize here.
        n_steps: steps to record, over all environments of a VecEnv together, >= 1.
        deterministic: the agent's best actions in place of draws from its policy.
        seed: makes a run repeatable: seeds the environment, the agent's action space, and torch's
            and numpy's global generators, which are put back afterwards. None leaves all as it is.
        progress: show a progress bar.

    Returns:
        d3rlpy's ReplayBuffer of `n_steps` steps: float32 observations (uint8 images stay, channels
        first), float32 or int64 actions, float32 rewards.

    Raises:
        TypeError: if model is no agent, env no environment, or n_steps no integer.
        ValueError: if n_steps < 1, the spaces of model and env differ or are none that d3rlpy
            trains on, VecNormalize is missing, or no recorded episode holds a transition.
    """
    check_count("n_steps", n_steps)
    for name in ("predict", "observation_space", "action_space"):
        if not hasattr(model, name):
            raise TypeError(
                "model must be a Stable-Baselines3 agent, as PPO.load(path) gives it, got "
                f"{type(model).__name__}, which has no {name!r}"
            )
    venv = as_venv(env)
    try:
        venv = fit_to_model(venv, model)
        with seeded(seed, venv, model):
            log = _Rollout(model, venv, deterministic).run(n_steps, progress)
            # Inside too: d3rlpy's ReplayBuffer draws from numpy's generator when it is made.
            return log.to_buffer(n_steps, spaces_of(venv)[1])
    finally:
        if isinstance(env, str):
            venv.close()


@dataclass
class _Log:
    """S recorded steps of E environments."""

    observations: NDArray[Any]  # [S, E, ...]
    actions: NDArray[Any]  # [S, E, A]
    rewards: NDArray[np.float32]  # [S, E]
    terminals: NDArray[np.bool_]  # [S, E]
    timeouts: NDArray[np.bool_]  # [S, E]

    @classmethod
    def empty(cls, steps: int, venv: "VecEnv") -> "_Log":
        """Room for `steps` steps of a VecEnv."""
        space, actions = spaces_of(venv)
        kind, size = describe_action_space(actions)
        discrete = kind == ActionSpace.DISCRETE
        shape = (steps, venv.num_envs)
        return cls(
            observations=np.empty((*shape, *space.shape), stored_dtype(space.dtype)),
            actions=np.empty((*shape, 1 if discrete else size), np.int64 if discrete else "f4"),
            rewards=np.empty(shape, np.float32),
            terminals=np.empty(shape, np.bool_),
            timeouts=np.empty(shape, np.bool_),
        )

    def to_buffer(self, n_steps: int, action_space: Any) -> ReplayBuffer:
        """The first n_steps steps, counted environment by environment."""
        n_envs = self.rewards.shape[1]
        arrays = (self.observations, self.actions, self.rewards, self.terminals, self.timeouts)
        episodes: list[Any] = []
        for i in range(min(n_envs, n_steps)):
            steps = -(-(n_steps - i) // n_envs)  # rounded up: the first ones may have one more
            episodes += split_episodes(*(np.ascontiguousarray(a[:steps, i]) for a in arrays))
        return make_buffer(episodes, *describe_action_space(action_space))


class _Rollout:
    """An agent acting in a VecEnv.

    Args:
        model: the agent.
        venv: its environment.
        deterministic: passed to predict.
    """

    def __init__(self, model: Any, venv: "VecEnv", deterministic: bool) -> None:
        self.model = model
        self.venv = venv
        self.deterministic = deterministic
        self.normalizer = normalizer_of(venv)
        self.draws_noise = not deterministic and getattr(model, "use_sde", False)
        takes_masks = "action_masks" in inspect.signature(model.predict).parameters
        self.masked = takes_masks and venv.has_attr("action_masks")

    def run(self, n_steps: int, progress: bool) -> _Log:
        """Record at least n_steps, in whole steps of the VecEnv."""
        learning = self.normalizer is not None and self.normalizer.training
        if self.normalizer is not None:
            self.normalizer.training = False
        try:
            return self._record(n_steps, progress)
        finally:
            if self.normalizer is not None:
                self.normalizer.training = learning

    def _record(self, n_steps: int, progress: bool) -> _Log:
        n_envs = self.venv.num_envs
        log = _Log.empty(-(-n_steps // n_envs), self.venv)
        obs: Any = self.venv.reset()
        state, starts = None, np.ones(n_envs, np.bool_)
        for step in tqdm(range(len(log.rewards)), unit_scale=n_envs, disable=not progress):
            self._draw_noise(step, starts)
            log.observations[step] = self._raw(obs)
            actions, state = self._predict(obs, state, starts)
            log.actions[step] = actions.reshape(n_envs, -1)
            obs, rewards, starts, infos = self.venv.step(actions)
            log.rewards[step] = self._raw_rewards(rewards)
            cut = [bool(info.get("TimeLimit.truncated", False)) for info in infos]
            log.timeouts[step] = starts & cut
            log.terminals[step] = starts & ~np.asarray(cut)
        return log

    def _predict(self, obs: Any, state: Any, starts: NDArray[np.bool_]) -> tuple[Any, Any]:
        masks = {}
        if self.masked:
            masks["action_masks"] = np.stack(self.venv.env_method("action_masks"))
        actions, state = self.model.predict(
            obs, state=state, episode_start=starts, deterministic=self.deterministic, **masks
        )
        return actions, state

    def _draw_noise(self, step: int, starts: NDArray[np.bool_]) -> None:
        # predict never draws gSDE's noise anew: one matrix would shape the whole dataset.
        interval = getattr(self.model, "sde_sample_freq", -1)
        if self.draws_noise and (starts.any() or (interval > 0 and step % interval == 0)):
            self.model.policy.reset_noise(self.venv.num_envs)

    def _raw(self, obs: NDArray[Any]) -> Any:
        if self.normalizer is None or not self.normalizer.norm_obs:
            return obs
        raw: Any = self.normalizer.get_original_obs()
        if not isinstance(raw, np.ndarray) or raw.shape != obs.shape:
            raise ValueError(
                "VecNormalize must be the last wrapper that changes observations, but another one "
                "stands outside it, so their raw form is unknown; wrap the environment in "
                "VecNormalize last"
            )
        return raw

    def _raw_rewards(self, rewards: NDArray[Any]) -> NDArray[Any]:
        return rewards if self.normalizer is None else self.normalizer.get_original_reward()
