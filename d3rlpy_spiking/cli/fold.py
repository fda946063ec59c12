"""`fold`: a spiking transformer without norms."""

from torch import nn

from d3rlpy_spiking.algorithm import SpikingTransformerAlgorithm
from d3rlpy_spiking.cli.arguments import Arguments
from d3rlpy_spiking.cli.errors import UsageError
from d3rlpy_spiking.cli.runs import load_algorithm, save_algorithm


def fold(args: Arguments) -> None:
    """Fold a model's norms into its weights, save it, and print what stays real-valued.

    Raises:
        UsageError: if the model is no spiking transformer, or would be overwritten.
        ValueError: if its norms or attention cannot be folded.
    """
    if args.output.resolve() == args.model.resolve():
        raise UsageError(
            "--output must be another file than --model: a folded model cannot be trained on"
        )
    algo = load_algorithm(args.model, args.device)
    if not isinstance(algo, SpikingTransformerAlgorithm):
        raise UsageError(
            f"{args.model} must hold a spiking transformer, got {type(algo).__name__}, which has "
            "nothing to fold"
        )
    folded = algo.fold()
    save_algorithm(folded, args.output)
    before, after = algo._impl.network, folded._impl.network
    rest = [(name, part) for name, part in after.named_children() if part is not after.backbone]
    parts = [name for name, part in rest if _parameters(part)]
    print(
        f"saved {args.output}: {_parameters(before):,} parameters became {_parameters(after):,}; "
        "no norm is left in the spiking blocks"
    )
    print(f"real-valued remain: {', '.join(parts)}")


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
