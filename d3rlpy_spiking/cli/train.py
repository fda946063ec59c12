"""`train`: a YAML file and a dataset to a trained model."""

import copy
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
from d3rlpy.algos.utility import build_scalers_with_trajectory_slicer
from d3rlpy.constants import ActionSpace

from d3rlpy_spiking.cli.arguments import Arguments
from d3rlpy_spiking.cli.config import TrainFile, find_config, read_train_file
from d3rlpy_spiking.cli.data import Data, load_data
from d3rlpy_spiking.cli.environments import Episodes, print_episodes
from d3rlpy_spiking.cli.errors import UsageError, one_line
from d3rlpy_spiking.cli.logs import RunLog
from d3rlpy_spiking.cli.mazes import all_options, maze_accuracy
from d3rlpy_spiking.cli.ranks import joined, main_file, on_main, together
from d3rlpy_spiking.cli.runs import Run, load_algorithm, save_algorithm, write_json
from d3rlpy_spiking.distributed import distribute
from d3rlpy_spiking.schedulers import WarmupCosineFactory
from policies.distributed import is_main, rank, world_size


def train(args: Arguments) -> None:
    """Train, or go on with a run, then evaluate and save; in each process that torchrun started.

    Raises:
        UsageError: if arguments, file, dataset or an earlier run are at odds; nothing is trained.
        RankEndedError: if another process has failed.
    """
    with joined(args.device):
        _train(args)


def _train(args: Arguments) -> None:
    file = on_main(lambda: _read_file(args))
    run = Run(args.output / f"{file.path.stem}_{args.seed}")
    # By its name: the file may have moved.
    settings = {**file.settings(), "dataset": Path(args.dataset).name, "seed": args.seed}
    if args.dataset == "maze":
        settings["maze"] = all_options(settings["maze"])
    newest = on_main(lambda: _begin(args, file, run, settings))
    done = 0 if newest is None else newest[0]
    if newest is not None and newest[1] is None:
        print(f"{run.folder} is finished: {done} steps; nothing to do")
        return
    data = together(lambda: _load(args, file))
    # The first step's seed is the run's own, so that two runs of a seed are equal.
    d3rlpy.seed(args.seed if newest is None else _resumed_seed(args.seed, done))
    algo = _algorithm(args, file, data, None if newest is None else newest[1])
    episodes = together(lambda: _episodes(args, file, algo) if is_main() else None)
    on_main(lambda: run.start({**settings, "ranks": world_size()}, done))
    if world_size() > 1:
        _share_scalers(algo, data)
        distribute(algo)
        # Weights are the same on every rank, batches are not.
        d3rlpy.seed(_resumed_seed(args.seed, done, rank()))
    _note_schedule(file)
    print(f"{file.algorithm} in {run.folder}: step {done} to {file.options.n_steps}", flush=True)
    results = {"steps": file.options.n_steps, "seed": args.seed, "dataset": args.dataset}
    results["ranks"] = world_size()
    results |= _fit(args, file, run, algo, data, done, episodes)
    on_main(lambda: _finish(run, algo, data, episodes, results))


def _read_file(args: Arguments) -> TrainFile:
    return read_train_file(find_config(args.config), args.steps, args.target_return)


def _begin(
    args: Arguments, file: TrainFile, run: Run, settings: dict[str, Any]
) -> tuple[int, Path | None] | None:
    """Steps and path of the checkpoint to go on from; no path if the run is finished already.

    None to train anew.
    """
    newest = run.newest() if args.resume else None
    if newest is None:
        run.check_free()
        return None
    run.check_settings(settings)
    done, path = newest
    _check_steps(file, done)
    if done == file.options.n_steps and run.model.exists():
        return done, None
    _note_ranks(file, run.ranks())
    return done, path


def _load(args: Arguments, file: TrainFile) -> Data:
    """The dataset, after a trial of the algorithm on it."""
    data = load_data(args.dataset, file, args.action_size)
    _try_update(file, data, args.device)
    return data


def _algorithm(args: Arguments, file: TrainFile, data: Data, checkpoint: Path | None) -> Any:
    """The algorithm to train, the same on every rank."""
    if checkpoint is None:
        return together(lambda: _build(file, data, args.device))
    with main_file(checkpoint) as path:
        return together(lambda: load_algorithm(path, args.device))


def _check_steps(file: TrainFile, done: int) -> None:
    """Raise unless the steps that are left are whole epochs."""
    left = file.options.n_steps - done
    epoch = file.options.n_steps_per_epoch
    if left < 0:
        raise UsageError(
            f"the run has {done} steps already, more than n_steps ({file.options.n_steps}); ask "
            "for more steps or choose another --output"
        )
    if left % epoch:
        raise UsageError(
            f"{left} steps are left after the checkpoint at {done}, no multiple of "
            f"n_steps_per_epoch ({epoch}); set n_steps_per_epoch as at the start, or n_steps to "
            f"{done + (left // epoch + 1) * epoch}"
        )


def _note_schedule(file: TrainFile) -> None:
    """Say so where the learning rate ends its course before or after training."""
    optimizer = getattr(file.config, "optim_factory", None)
    schedule = getattr(optimizer, "lr_scheduler_factory", None)
    if isinstance(schedule, WarmupCosineFactory) and schedule.total_steps != file.options.n_steps:
        print(
            f"note: the learning rate's schedule is for {schedule.total_steps} steps, training "
            f"takes {file.options.n_steps}"
        )


def _note_ranks(file: TrainFile, before: int | None) -> None:
    """Say so where gradient steps are over more or fewer sequences than before."""
    now, size = world_size(), file.config.batch_size
    if before is not None and before != now:
        print(
            f"note: processes were {before} and are {now} now: a gradient step is over "
            f"{now * size} sequences, not {before * size}"
        )


def _share_scalers(algo: Any, data: Data) -> None:
    """Rank 0's scalers on every rank: their datasets may differ."""
    names = ("observation_scaler", "action_scaler", "reward_scaler")

    def build() -> dict[str, Any]:
        build_scalers_with_trajectory_slicer(algo, data.dataset)
        return {name: getattr(algo.config, name) for name in names}

    for name, scaler in on_main(build).items():
        setattr(algo.config, name, scaler)


def _resumed_seed(seed: int, step: int, rank: int = 0) -> int:
    """A seed of a step and a rank: no batch is drawn as at the start, or by two ranks."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])


def _build(file: TrainFile, data: Data, device: str) -> Any:
    """The algorithm, built for the dataset.

    Raises:
        UsageError: if the config does not fit the observations, or its parts each other.
    """
    algo = file.config.create(device=device)
    try:
        algo.create_impl(data.observation_shape, data.dataset.dataset_info.action_size)
    # An encoder may fail on anything.
    except Exception as error:
        # Messages of ours end in a remedy.
        ours = isinstance(error, ValueError | TypeError)
        remedy = "" if ours else "; check the encoder, and that num_heads divides its width"
        raise UsageError(
            f"{file.path}: no network can be built from config for observations of shape "
            f"{data.observation_shape}: {one_line(error)}{remedy}"
        ) from error
    return algo


def _try_update(file: TrainFile, data: Data, device: str) -> None:
    """One gradient step on a copy: what would fail in the first is named before anything is kept.

    Raises:
        UsageError: naming what failed.
    """
    trial = dataclasses.replace(file, config=copy.deepcopy(file.config))
    if hasattr(trial.config, "monitor_every"):
        trial.config.monitor_every = 0  # two sequences say nothing
    algo = _build(trial, data, device)
    try:
        build_scalers_with_trajectory_slicer(algo, data.dataset)
        length = trial.config.context_size
        algo.update(data.dataset.sample_trajectory_batch(2, length=length))
    # Scalers, encoders and optimizers fail each in its own way.
    except Exception as error:
        raise UsageError(
            f"{file.path}: the first gradient step would fail ({type(error).__name__}: "
            f"{one_line(error)}); check that scalers, encoder, heads and optimizer in config fit "
            f"observations of shape {data.observation_shape} and "
            f"{data.dataset.dataset_info.action_size} actions"
        ) from error


def _episodes(args: Arguments, file: TrainFile, algo: Any) -> Episodes | None:
    """The evaluation of checkpoints that is asked for, checked."""
    if args.eval_env is None:
        if args.target_return is not None:
            raise UsageError("--target-return is for --eval-env: pass that too")
        return None
    target = file.options.target_return
    if target is None:
        raise UsageError(
            "--eval-env needs a return to ask for: pass --target-return, or set "
            "train.target_return in the file"
        )
    episodes = Episodes(args.eval_env, target, file.options.eval_episodes, seed=args.seed)
    discrete = algo.get_action_type() == ActionSpace.DISCRETE
    episodes.check(tuple(algo.impl.observation_shape), discrete, algo.impl.action_size)
    return episodes


def _fit(
    args: Arguments,
    file: TrainFile,
    run: Run,
    algo: Any,
    data: Data,
    done: int,
    episodes: Episodes | None,
) -> dict[str, Any]:
    """Train what is left; the last epoch's metrics and the seconds it took."""
    options = file.options
    if done == options.n_steps:
        return {}
    score = None if episodes is None else lambda algo: float(episodes.run(algo)["mean"])
    log = RunLog(run, done, options.n_steps, score)
    progress = is_main() and (sys.stderr.isatty() if args.progress is None else args.progress)
    start = time.perf_counter()
    try:
        algo.fit(
            data.dataset,
            n_steps=options.n_steps - done,
            n_steps_per_epoch=options.n_steps_per_epoch,
            experiment_name=run.folder.name,
            with_timestamp=False,
            logger_adapter=log,
            show_progress=progress,
            save_interval=options.save_interval,
        )
    finally:
        log.close()
    seconds = time.perf_counter() - start
    on_main(lambda: run.save(algo, options.n_steps))
    return {"seconds": seconds, "metrics": log.metrics}


def _finish(
    run: Run, algo: Any, data: Data, episodes: Episodes | None, results: dict[str, Any]
) -> None:
    """Evaluate the trained algorithm; write results, then the model, which marks the end."""
    if data.maze is not None:
        results["accuracy"] = maze_accuracy(algo, data.maze)
    if episodes is not None:
        results["episodes"] = episodes.run(algo)
        print_episodes(results["episodes"])
    write_json(run.results, results)
    save_algorithm(algo, run.model)
    print(f"saved {run.model}")
