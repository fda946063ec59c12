"""A budget of synaptic operations: the price of spikes is found while the policy trains.

    kwargs = {"synops_penalty": 0.001}
    model = TD3("SpikingPopPolicy", env, policy_kwargs=kwargs)
    model.learn(1_000_000, callback=SynopsBudgetCallback(budget=70_000))

A price fixed beforehand is hard to choose: what is nothing beside the values of a trained actor
silences an untrained one, whose values are near 0, and a silent network has no gradients left to
recover by.
"""

import math
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from policies.config import check_count, check_range
from policies.distributed.group import gather_numbers
from policies.energy import count_operations
from policies.spiking_mlp import SpikingMLP
from sb3_spiking.acting import ActingNetwork, is_spiking
from sb3_spiking.observations import MetObservations

# A price goes no higher than so many times the lowest: then the budget cannot be kept.
HIGHEST = 1_000.0
# Under this name the model keeps the price, and its files with it.
PRICE = "synops_price"


class SynopsBudgetCallback(BaseCallback):
    """Moves `synops_penalty` so that a decision takes at most so many accumulates.

    Every `every` environment steps the accumulates of a decision are counted on observations of the
    last steps, which draws no random numbers, and, if there was an update since the last look, the
    price of a thousand is multiplied by

        exp(rate x clip(accumulates / budget - 1, -1, 1))

    but never goes below the `synops_penalty` that the policy was given, nor above a thousand times
    that. It is a dual variable found by ascent in its logarithm, as SAC's temperature is (Haarnoja
    et al. 2018). The price stays with the model, whose files keep it: a training that goes on with
    this callback goes on with it, without it at `synops_penalty`. In a process group all ranks have
    the same, from the mean of their counts. Logged are `spikes/synops_price` and
    `spikes/synops_of_budget`, accumulates over the budget.
    Dense policies are let pass.

    Args:
        budget: accumulates of a decision, >= 1.
        every: environment steps between two looks, >= 1.
        rate: of the price's logarithm at a look, above 0.
        samples: observations of the last steps in a look, >= 1.
        verbose: as in Stable-Baselines3.

    Raises:
        ValueError: if a number is out of range; in `learn`, if the policy spikes and has no
            `synops_penalty` to start from.
    """

    def __init__(
        self,
        budget: float,
        every: int = 1_000,
        rate: float = 0.25,
        samples: int = 128,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        check_range("budget", budget, 1.0)
        check_count("every", every)
        check_range("rate", rate, 0.0, open_low=True)
        check_count("samples", samples)
        self.budget, self.every, self.rate, self.samples = budget, every, rate, samples
        self._priced: list[SpikingMLP] = []
        self._lowest = 0.0
        self._next = self._updates = 0

    def _on_training_start(self) -> None:
        policy: Any = self.model.policy
        self._priced = []
        if not is_spiking(policy):
            return
        self._lowest = policy.options.synops_penalty
        if not self._lowest:
            raise ValueError(
                "SynopsBudgetCallback starts from the policy's synops_penalty, got 0: set "
                "policy_kwargs={'synops_penalty': 0.001}, which it will not go below (DQN, QR-DQN, "
                "TRPO and ARS cannot be charged: leave the callback out)"
            )
        self._priced = [body.mlp for body in ActingNetwork(policy).spiking_bodies()]
        self._met = MetObservations(self.samples, self.every, 1)
        self._next = self._due()
        self._updates = _updates(self.model)
        self._set(getattr(self.model, PRICE, self._lowest))

    def _on_training_end(self) -> None:
        for mlp in self._priced:
            mlp.synops_penalty = self._lowest

    def _due(self) -> int:
        return (self.num_timesteps // self.every + 1) * self.every

    def _on_step(self) -> bool:
        if not self._priced:
            return True
        self._met.take(self.model, self.locals)
        if self.num_timesteps >= self._next:
            self._next = self._due()
            self._look()
        return True

    def _look(self) -> None:
        policy: Any = self.model.policy
        mine = [0.0, 0.0]  # accumulates, and whether there was something to count on
        if len(self._met):
            obs, memory = self._met.batch(policy)
            mine = [count_operations(ActingNetwork(policy), obs, *(memory or ())).accumulates, 1.0]
        counts = [count for count, found in gather_numbers(mine) if found]
        if not counts:
            return
        share = sum(counts) / len(counts) / self.budget
        # A network that has not learned since could not have answered to the price.
        updates = _updates(self.model)
        if updates != self._updates:
            price: float = getattr(self.model, PRICE)
            self._set(price * math.exp(self.rate * min(max(share - 1.0, -1.0), 1.0)))
        self._updates = updates
        self.logger.record("spikes/synops_price", getattr(self.model, PRICE))
        self.logger.record("spikes/synops_of_budget", share)

    def _set(self, price: float) -> None:
        price = min(max(price, self._lowest), HIGHEST * self._lowest)
        setattr(self.model, PRICE, price)
        for mlp in self._priced:
            mlp.synops_penalty = price


def _updates(model: Any) -> int:
    """Updates so far, as Stable-Baselines3 counts them."""
    return int(model._n_updates)
