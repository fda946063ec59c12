"""Name what is wrong with a saved spiking policy, in which layer, and what helps.

python -m sb3_spiking.doctor MODEL.zip --env HalfCheetah-v4
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table
from stable_baselines3.common.vec_env import VecEnv

from policies.monitor import Finding, NetworkActivity, diagnose, probe
from sb3_spiking.acting import is_spiking
from sb3_spiking.policy_pass import PolicyPass
from sb3_spiking.saved.arguments import add_model, make_parser
from sb3_spiking.saved.environments import open_env
from sb3_spiking.saved.episodes import Visit, batch, decide, initial_states
from sb3_spiking.saved.errors import USER_ERRORS, UsageError, one_line
from sb3_spiking.saved.loading import Source, open_model

_DESCRIPTION = """\
Look for faults in a spiking model: dead and saturated layers, encoders that miss the data,
thresholds too high, surrogates that pass no gradient, readouts that ignore the spikes, NaN.

  python -m sb3_spiking.doctor model.zip --env HalfCheetah-v4
  python -m sb3_spiking.doctor logs/td3/Pendulum-v1_1/Pendulum-v1.zip

The model acts for half of the steps, chance for the others: a policy that stands still would show
one observation. A model's file and VecNormalize's run code when they are opened: pass only files
whose origin you trust.
"""

# Observations that are looked at.
MOST = 512

_EPILOG = "Exit code: 0 nothing found, 1 faults, 2 wrong arguments or files."


def examine(policy: Any, env: VecEnv, steps: int = 1_000, seed: int = 0) -> NetworkActivity:
    """Let a policy act and look at every spiking part of it.

    Args:
        policy: a spiking policy of Stable-Baselines3.
        env: a single environment as the policy knows it, statistics of VecNormalize included.
        steps: environment steps, >= 2; in the second half chance acts.
        seed: of the environment and of chance.

    Returns:
        the activity, for `policies.monitor.diagnose`.

    Raises:
        ValueError: if the policy is dense.
    """
    if not is_spiking(policy):
        raise UsageError(
            f"the model holds a dense policy, {type(policy).__name__}; pass a spiking one"
        )
    try:
        visits = _visits(policy, env, steps, seed)
    except ValueError as error:  # a policy with NaN refuses to act
        activity = probe(policy, lambda: None)
        if activity.broken:
            return activity
        if "NaN" not in str(error):  # something else, and no fault of the network
            raise
        return NetworkActivity(failed=one_line(error))
    acting = PolicyPass(policy, critics=True)
    obs, memory = batch(policy, visits)
    return probe(policy, lambda: acting(obs, memory))


def _visits(policy: Any, env: VecEnv, steps: int, seed: int) -> list[Visit]:
    """What the policy decided on, an even share of all steps."""
    env.seed(seed)
    env.action_space.seed(seed)
    obs = env.reset()
    states = initial_states(policy)
    visits = []
    stride = -(-steps // MOST)
    for step in range(steps):
        visit = Visit(obs, states, None)
        if step % stride == 0:
            visits.append(visit)
        action, states = decide(policy, visit)
        if step >= steps // 2:
            action = np.array([env.action_space.sample()])
        obs, _, dones, _ = env.step(action)
        if step == steps // 2:  # chance begins where episodes do
            obs = env.reset()
        if step == steps // 2 or bool(dones[0]):
            states = initial_states(policy)
    return visits


def table_of(activity: NetworkActivity) -> Table:
    """What each part did, as a table for people."""
    # Names are for `policy.get_submodule`: never cut short.
    part = Column("part", no_wrap=True)
    table = Table(part, "firing rate", "dead", "saturated", "gradient passes", "inside fields")
    for encoder in activity.encoders:
        rate = "-" if encoder.firing_rate is None else f"{encoder.firing_rate:.3f}"
        table.add_row(encoder.name, rate, "", "", "", f"{encoder.coverage:.1%}")
    for layer in activity.layers:
        flow = "-" if layer.flow is None else f"{layer.flow:.1%}"
        table.add_row(
            layer.name,
            f"{layer.firing_rate:.3f}",
            f"{layer.dead:.1%}",
            f"{layer.saturated:.1%}",
            flow,
            "",
        )
    return table


def _examine_file(args: argparse.Namespace) -> tuple[NetworkActivity, list[Finding]]:
    source: Source = open_model(args.model, args.algo, args.vec_normalize)
    env = open_env(args, source)
    try:
        activity = examine(source.model.policy, env, args.steps, args.seed)
    finally:
        env.close()
    return activity, diagnose(activity)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("python -m sb3_spiking.doctor", _DESCRIPTION, _EPILOG)
    add_model(parser)
    parser.add_argument("--steps", type=int, default=1_000, help="environment steps; default 1000")
    args = parser.parse_args(argv)
    if args.steps < 100:
        raise UsageError(f"--steps must be at least 100, got {args.steps}: spread is measured")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Examine a model and print what was found.

    Returns:
        exit code: 0 nothing found, 1 faults, 2 an error of the user's.
    """
    try:
        args = _parse(argv)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is out of date.*")
            activity, findings = _examine_file(args)
    except USER_ERRORS as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    console = Console()
    if activity.layers:
        table = table_of(activity)
        # Wider than the terminal rather than cut short.
        needed = Console(width=1_000).measure(table).maximum
        Console(width=max(console.width, needed)).print(table)
    for finding in findings:
        console.print(str(finding), markup=False, highlight=False, soft_wrap=True)
    if not findings:
        console.print("no fault found")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
