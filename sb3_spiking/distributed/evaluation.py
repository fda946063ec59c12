"""Evaluation by all ranks together."""

from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import sync_envs_normalization

from policies.distributed import gather_objects, is_main, rank, world_size

# Seeds of evaluation: away from those of training, and each rank's away from the others'.
FIRST_SEED, RANK_SEEDS = 5_000, 10_000


class DistributedEvalCallback(EvalCallback):
    """Stable-Baselines3's EvalCallback with the episodes shared out among all ranks.

    Each rank plays its share, rounded up, in an environment of its own. All ranks see all returns
    and so agree on the best model; rank 0 logs and saves. (A plain EvalCallback runs on rank 0
    only, and the other ranks wait for it.)

    Args:
        *args: as EvalCallback; `n_eval_episodes` is the number over all ranks.
        **kwargs: likewise.
    """

    _seeded = False

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq:
            return True
        returns, lengths, successes = self._play()
        self.evaluations_timesteps.append(self.num_timesteps)
        self.evaluations_results.append(returns)
        self.evaluations_length.append(lengths)
        if successes:
            self.evaluations_successes.append(successes)
        mean = self.last_mean_reward = float(np.mean(returns))
        if is_main():
            self._write(returns, lengths, successes)
        go_on = True
        if mean > self.best_mean_reward:
            self.best_mean_reward = mean
            go_on = self._save_best()
        if self.callback is not None:
            go_on = self._on_event() and go_on
        return go_on

    def _play(self) -> tuple[list[float], list[int], list[bool]]:
        """Returns, lengths and successes of all ranks' episodes."""
        if self.model.get_vec_normalize_env() is not None:
            sync_envs_normalization(self.training_env, self.eval_env)
        if not self._seeded:
            self._seeded = True
            self.eval_env.seed(int(self.model.seed or 0) + FIRST_SEED + RANK_SEEDS * rank())
        self._is_success_buffer = []
        returns, lengths = evaluate_policy(
            self.model,
            self.eval_env,
            n_eval_episodes=-(-self.n_eval_episodes // world_size()),
            render=self.render and is_main(),
            deterministic=self.deterministic,
            return_episode_rewards=True,
            warn=self.warn,
            callback=self._log_success_callback,
        )
        everyone: list[Any] = gather_objects((returns, lengths, self._is_success_buffer))
        return (
            [float(x) for part in everyone for x in part[0]],
            [int(x) for part in everyone for x in part[1]],
            [bool(x) for part in everyone for x in part[2]],
        )

    def _write(self, returns: list[float], lengths: list[int], successes: list[bool]) -> None:
        """What EvalCallback writes: the log, evaluations.npz, a line."""
        self.logger.record("eval/mean_reward", float(np.mean(returns)))
        self.logger.record("eval/mean_ep_length", float(np.mean(lengths)))
        if successes:
            self.logger.record("eval/success_rate", float(np.mean(successes)))
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        if self.verbose >= 1:
            print(
                f"Eval num_timesteps={self.num_timesteps}, episode_reward={np.mean(returns):.2f} "
                f"+/- {np.std(returns):.2f} over {len(returns)} episodes on {world_size()} ranks"
            )
        if self.log_path is not None:
            more: dict[str, Any] = (
                {"successes": self.evaluations_successes} if self.evaluations_successes else {}
            )
            np.savez(
                self.log_path,
                timesteps=self.evaluations_timesteps,
                results=self.evaluations_results,
                ep_lengths=self.evaluations_length,
                **more,
            )

    def _save_best(self) -> bool:
        """Keep the model on rank 0; whether training goes on."""
        if not is_main():
            return True
        if self.best_model_save_path is not None:
            self.model.save(f"{self.best_model_save_path}/best_model")
        return self.callback_on_new_best is None or self.callback_on_new_best.on_step()
