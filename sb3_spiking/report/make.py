"""Gathers what a report needs: models, environments, episodes."""

from contextlib import ExitStack

from policies.report import Report, check_folder
from sb3_spiking.report.fill import Side, fill_report, is_alike
from sb3_spiking.report.simulation import check_simulator
from sb3_spiking.saved.arguments import Arguments
from sb3_spiking.saved.environments import env_id_of, open_env
from sb3_spiking.saved.episodes import play
from sb3_spiking.saved.errors import UsageError
from sb3_spiking.saved.loading import (
    Source,
    check_spiking,
    check_twin,
    open_model,
    size_text,
    untrained_twin,
)


def make_report(args: Arguments) -> Report:
    """Play, time and count a model and its dense twin.

    Everything that can be wrong with files and arguments is found before an episode is played.

    Args:
        args: of `sb3_spiking.report.arguments`.

    Raises:
        UsageError: if the files, the environment and the arguments do not fit each other.
        FileNotFoundError: if a file is missing.
        ImportError: if a package is missing.
    """
    if args.loihi:
        check_simulator()
    own = open_model(args.model, args.algo, args.vec_normalize)
    notes = [*own.notes]
    check_spiking(own.model, own.path)
    other = None if args.dense is None else _open_twin(args, own, notes)
    env_id = env_id_of(args, own)
    trained = own.folder.env if own.folder else None
    if trained is not None and trained != env_id:
        notes.append(f"{args.model.name} was trained in {trained}, and acts in {env_id} here.")
    twin = untrained_twin(own.model) if other is None else other.model
    sources = [own] if other is None else [own, other]
    with ExitStack() as opened:
        envs = []
        for source in sources:
            envs.append(open_env(args, source, env_id))
            opened.callback(envs[-1].close)
        _check_folder(args)
        played = [
            play(source.model.policy, env, args.episodes, args.seed)
            for source, env in zip(sources, envs, strict=True)
        ]
    spiking = Side(own.model, str(own.path), *played[0])
    if other is None:
        dense = Side(twin, "", None, played[0][1])
    else:
        dense = Side(twin, str(other.path), *played[1])
    return fill_report(args, env_id, spiking, dense, notes)


def _check_folder(args: Arguments) -> None:
    try:
        check_folder(args.out)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _open_twin(args: Arguments, own: Source, notes: list[str]) -> Source:
    other = open_model(args.dense, None, args.dense_vec_normalize)
    notes += other.notes
    check_twin(other.model, own.model, other.path)
    if not is_alike(own.model, other.model):
        sizes = [size_text(source.model.network) for source in (own, other)]
        notes.append(
            f"{other.path.name} and {own.path.name} are not of the same size: {sizes[1]}; "
            f"{sizes[0]}."
        )
    if other.model.algorithm != own.model.algorithm:
        notes.append(
            f"{other.path.name} was trained by {other.model.algorithm}, {own.path.name} by "
            f"{own.model.algorithm}."
        )
    if own.statistics is not None and other.statistics is None and other.folder is None:
        notes.append(
            f"{other.path.name} acts without VecNormalize's statistics: if it was trained with "
            "them, pass --dense-vec-normalize."
        )
    return other
