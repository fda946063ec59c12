import numpy as np
import pytest
from sb3_contrib.common.maskable.utils import get_action_masks

from tests.sb3_spiking import matrix


@pytest.mark.parametrize("action", ["Discrete", "MultiDiscrete", "MultiBinary"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_masked_actions_are_never_taken(action: str, deterministic: bool) -> None:
    env = matrix.environment("MaskablePPO", "Box", action)
    model = matrix.make("MaskablePPO", env)
    matrix.learn(model)
    obs = matrix.observations(model, 1)[0]
    env.reset(seed=0)
    for _ in range(50):
        masks = get_action_masks(env)
        choice, _ = model.predict(obs, action_masks=masks, deterministic=deterministic)
        if action == "Discrete":
            taken = [int(choice)]
        else:
            sizes = [2] * 4 if action == "MultiBinary" else [3, 2]
            taken = list(np.cumsum([0, *sizes[:-1]]) + choice)
        assert masks[taken].all()
