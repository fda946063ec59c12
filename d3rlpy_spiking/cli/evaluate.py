"""`evaluate`: a model in an environment, or on the maze's test sets."""

from pathlib import Path
from typing import Any

from d3rlpy.constants import ActionSpace

from d3rlpy_spiking.cli.arguments import Arguments
from d3rlpy_spiking.cli.config import find_config, read_maze_options
from d3rlpy_spiking.cli.environments import Episodes, print_episodes
from d3rlpy_spiking.cli.errors import UsageError
from d3rlpy_spiking.cli.fields import read_arguments
from d3rlpy_spiking.cli.mazes import check_shape, known_splits, maze_accuracy, maze_walks
from d3rlpy_spiking.cli.runs import load_algorithm, read_json, write_json
from d3rlpy_spiking.maze import maze_dataset


def evaluate(args: Arguments) -> None:
    """Evaluate a model; print the results and write them where asked.

    Raises:
        UsageError: if the model, the environment or the arguments do not fit each other.
    """
    algo = load_algorithm(args.model, args.device)
    if not hasattr(algo, "as_stateful_wrapper"):
        raise UsageError(f"{args.model} must hold a transformer algorithm, got {_name(algo)}")
    results = {"model": str(args.model), "algorithm": _name(algo)}
    results |= _in_env(args, algo) if args.env is not None else _in_mazes(args, algo)
    if args.json is not None:
        write_json(args.json, results)


def _name(algo: Any) -> str:
    return type(algo).__name__


def _in_env(args: Arguments, algo: Any) -> dict[str, Any]:
    if args.target_return is None:
        raise UsageError("--env needs --target-return, the return to ask the algorithm for")
    if args.config is not None:
        raise UsageError("--config is for --dataset maze")
    episodes = Episodes(args.env, args.target_return, args.episodes or 10, args.seed or 0)
    discrete = algo.get_action_type() == ActionSpace.DISCRETE
    episodes.check(tuple(algo.impl.observation_shape), discrete, algo.impl.action_size)
    result = episodes.run(algo)
    print_episodes(result)
    return result


def _in_mazes(args: Arguments, algo: Any) -> dict[str, Any]:
    if algo.get_action_type() != ActionSpace.DISCRETE:
        raise UsageError(f"the maze has discrete actions, {_name(algo)} continuous ones")
    if args.target_return is not None:
        raise UsageError("--target-return is for --env; in the maze every success returns 1")
    trained = _trained_on(args)
    options = dict(trained or {})
    if args.config is not None:
        options = read_maze_options(find_config(args.config))
    if args.seed is not None:
        options["seed"] = args.seed
    splits = known_splits(trained, options)
    shown = ", ".join(f"{name}={value}" for name, value in options.items())
    print(f"maze: {shown or 'default options'}")
    data = maze_dataset(**options)
    check_shape(algo, data)
    found = maze_accuracy(algo, data, splits)
    walks = maze_walks(algo, data, args.episodes or 100, splits)
    return {"maze": options, "accuracy": found, "walks": walks}


def _trained_on(args: Arguments) -> dict[str, Any] | None:
    """Options of the mazes of the run that the model lies in; None where --config must do."""
    record = Path(args.model).parent / "run.json"
    if not record.exists():
        if args.config is not None:
            return None
        raise UsageError(
            f"there is no run.json beside {args.model} that says which mazes it was trained on; "
            "pass the YAML file of its training with --config"
        )
    content = read_json(record)
    if not isinstance(content, dict):
        raise UsageError(f"{record} must hold the settings of a run, got {type(content).__name__}")
    return read_arguments(maze_dataset, content.get("maze", {}), f"{record}: maze")
