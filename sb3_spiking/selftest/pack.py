"""Makes a shipped file of a trained model.

TD3's file at 400-300 has 6 MB: critics, target networks and the optimizers' moments. Here the
moments are left out, targets share their numbers with what they follow, and the file is compressed.
`TD3.load` opens it as any other; training goes on from it with fresh moments, and with targets that
have caught up. Without critics it only acts.
"""

import math
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from policies.report.fill import made_by
from policies.selftest import Packed, Played, add_to, commit_here
from sb3_spiking.saved.algorithms import algorithm_class
from sb3_spiking.saved.arguments import Arguments
from sb3_spiking.saved.environments import env_id_of
from sb3_spiking.saved.errors import UsageError
from sb3_spiking.saved.loading import Loaded, check_spiking, load, open_model
from sb3_spiking.saved.zoo_folder import quiet
from sb3_spiking.selftest.play import open_env, play_episode

# Of the run that ended; nothing of it is needed to go on.
_LEFT_OUT = [
    "_last_obs",
    "_last_episode_starts",
    "_last_original_obs",
    "ep_info_buffer",
    "ep_success_buffer",
    "tensorboard_log",
]


def pack(args: Arguments) -> Packed:
    """Strip a model, play it, and enter it into the manifest of `args.to`.

    Raises:
        UsageError: if it is dense, or acts on more than its file holds.
        FileNotFoundError: if there is no such file.
    """
    source = open_model(args.model, args.algo, None)
    check_spiking(source.model, source.path)
    env = env_id_of(args, source)
    algorithm = source.model.algorithm
    if source.folder is not None and any(source.folder.path.glob("vecnormalize.pkl")):
        raise UsageError(
            f"{args.model} acts on observations that VecNormalize has rescaled, and a shipped file "
            "is one file; train without `normalize`: a spiking policy has a normalizer of its own"
        )
    model = algorithm_class(algorithm).load(args.model, device="cpu")

    def replay(
        path: Path, seeds: Iterable[int], change: Callable[[nn.Module], None] | None
    ) -> list[Played]:
        loaded = load(path, algorithm)
        if change is not None:
            change(loaded.policy)
        world = open_env(env, args.env_kwargs)
        try:
            return [play_episode(loaded.policy, world, seed) for seed in seeds]
        finally:
            world.close()  # type: ignore[no-untyped-call]  # Gymnasium's

    try:
        return add_to(
            args.to,
            lambda name: save_small(model, name, actor_only=args.actor_only),
            replay,
            episodes=args.episodes,
            replays=args.replays,
            name=args.name,
            # Where RL Zoo's enjoy looks: FOLDER/ALGO/ENV.zip.
            file=f"{algorithm.lower()}/{env}.zip",
            algorithm=algorithm,
            env=env,
            env_kwargs=args.env_kwargs,
            target_return=None,
            command=args.command,
            seed=model.seed,
            steps=model.num_timesteps,
            commit=args.commit or commit_here(),
            arithmetic=_arithmetic(source.model),
            versions=made_by("stable-baselines3", "mujoco")["versions"],
            first_seed=args.seed,
        )
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def _arithmetic(model: Loaded) -> str:
    config = model.network.spiking_bodies()[0].config
    return f"matmul {config.matmul!r}"


def save_small(model: Any, name: str, *, actor_only: bool = False) -> None:
    """Save a model of SB3 without what is needed neither to act nor to go on with.

    Args:
        model: it is changed.
        name: the file, ending in ".zip".
        actor_only: leave out critics too. Their numbers are NaN then, so that training from the
            file fails at once; with zeros it would learn nothing and not say so.
    """
    for optimizer in _optimizers(model):
        optimizer.state.clear()
    if actor_only:
        for part in ("critic", "critic_target"):
            _forget(getattr(model.policy, part, None))
    for target, source in _followers(model.policy):
        target.data = source.data  # torch saves a storage once
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.zip")
        with quiet():  # SB3 looks for Gym's version
            model.save(path, exclude=_LEFT_OUT)
        with (
            zipfile.ZipFile(path) as plain,
            zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as small,
        ):
            for item in plain.namelist():
                # A date of its own would give the same model another checksum.
                small.writestr(zipfile.ZipInfo(item), plain.read(item), zipfile.ZIP_DEFLATED, 9)


def _optimizers(model: Any) -> Iterator[Optimizer]:
    for name in model.get_parameters():
        found = model
        for part in name.split("."):
            found = getattr(found, part)
        if isinstance(found, Optimizer):
            yield found


def _forget(critic: nn.Module | None) -> None:
    if critic is not None:
        for parameter in critic.parameters():
            parameter.data.fill_(math.nan)


def _followers(policy: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Parameters of target networks, and those that they follow."""
    parts = dict(policy.named_children())
    for name, target in parts.items():
        source = parts.get(name.removesuffix("_target"))
        if not name.endswith("_target") or source is None:
            continue
        own, theirs = dict(target.named_parameters()), dict(source.named_parameters())
        # A target of another kind than what it follows keeps its own.
        if {n: p.shape for n, p in own.items()} == {n: p.shape for n, p in theirs.items()}:
            yield from ((own[n], theirs[n]) for n in own)
