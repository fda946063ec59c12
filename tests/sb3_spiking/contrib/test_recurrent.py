import copy
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO

from sb3_spiking.contrib.recurrent import SpikingRecurrentActorCriticPolicy
from tests.sb3_spiking import matrix


def make(**kwargs: Any) -> Any:
    env = matrix.environment("RecurrentPPO", "Box", "Box")
    policy = kwargs.pop("policy", "SpikingPopLstmPolicy")
    return matrix.make("RecurrentPPO", env, policy, **kwargs)


def test_names_without_lstm_are_synonyms() -> None:
    aliases = RecurrentPPO.policy_aliases
    for kind in ("", "MultiInput", "Cnn"):
        assert aliases[f"SpikingPop{kind}Policy"] is aliases[f"SpikingPop{kind}LstmPolicy"]
    model = make(policy="SpikingPopPolicy")
    assert isinstance(model.policy, SpikingRecurrentActorCriticPolicy)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"enable_critic_lstm": False, "shared_lstm": True},
        {"enable_critic_lstm": False, "net_arch": {"pi": [], "vf": []}},
        {"n_lstm_layers": 2, "ortho_init": False},
        {"share_features_extractor": False},
    ],
    ids=str,
)
def test_sb3s_own_keywords(options: dict[str, Any]) -> None:
    model = make(policy_kwargs=options)
    before = matrix.copies(dict(model.policy.named_parameters()))
    model.learn(64)
    moved = dict(model.policy.named_parameters())
    matrix.assert_moved(moved, before)


def test_memory_decides() -> None:
    """The same observation after another past gives another action."""
    model = make()
    model.learn(64)
    obs = matrix.observations(model, 3)
    _, state = model.predict(obs[0])
    after_one, _ = model.predict(obs[2], state=state, deterministic=True)
    _, state = model.predict(obs[1])
    after_other, _ = model.predict(obs[2], state=state, deterministic=True)
    fresh, _ = model.predict(
        obs[2], state=state, episode_start=np.array([True]), deterministic=True
    )
    alone, _ = model.predict(obs[2], deterministic=True)
    latent = model.policy.mlp_extractor.policy_net
    assert latent.encoder.obs_dim == 6
    np.testing.assert_array_equal(fresh, alone)
    assert not np.array_equal(after_one, alone) or not np.array_equal(after_other, alone)


def test_the_ratio_starts_at_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(n_epochs=1, batch_size=32, n_steps=32)
    differences: list[float] = []
    evaluate = SpikingRecurrentActorCriticPolicy.evaluate_actions

    def watch(self: Any, obs: Any, actions: Any, *rest: Any) -> Any:
        values, log_prob, entropy = evaluate(self, obs, actions, *rest)
        # One batch holds the whole rollout, in another order and padded: the sums must agree.
        known = np.sort(model.rollout_buffer.log_probs.flatten())
        new = np.sort(log_prob.detach().numpy())
        differences.append(max(float(np.abs(new - value).min()) for value in known))
        return values, log_prob, entropy

    monkeypatch.setattr(SpikingRecurrentActorCriticPolicy, "evaluate_actions", watch)
    model.learn(32 * 4)
    assert len(differences) >= 4
    assert max(differences) < 1e-5


def test_only_the_spiking_parameters_are_scaled() -> None:
    model = make(policy_kwargs={"actor_lr_scale": 0.1})
    for policy in (model.policy, copy.deepcopy(model.policy)):
        dense, spiking = policy.optimizer.param_groups
        names = {id(p): name for name, p in policy.named_parameters()}
        assert sum(len(group["params"]) for group in (dense, spiking)) == len(names)
        assert any("lstm_actor" in names[id(p)] for p in dense["params"])
        assert all("policy_net" in names[id(p)] or "action_net" in names[id(p)]
                   for p in spiking["params"])  # fmt: skip
        before = matrix.copies(dict(policy.named_parameters()))
        for p in policy.parameters():
            p.grad = torch.ones_like(p)
        for group in (dense, spiking):
            group["lr"] = 0.01
        policy.optimizer.step()
        for name, p in policy.named_parameters():
            scale = 1e-3 if "policy_net" in name or "action_net" in name else 1e-2
            change = (p - before[name]).abs().max().item()
            assert change == pytest.approx(scale, rel=1e-2), name
