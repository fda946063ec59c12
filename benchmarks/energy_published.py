"""How far DSFormer's published energies can be explained; see benchmarks.energy."""

from benchmarks.energy import table
from policies.energy import DEFAULT_COSTS, OperationCount
from policies.energy.break_even import break_even

# DSFormer's release; layers and heads of both networks.
CONTEXT, STEPS, LAYERS, HEADS = 20, 4, 3, 1
# uJ a decision (Huang et al. 2025).
PUBLISHED_DSFORMER, PUBLISHED_DT = 88.8, 410.5
MAC, AC = DEFAULT_COSTS.multiply_accumulate_pj, DEFAULT_COSTS.accumulate_pj


def transformer_products(width: float, tokens: int) -> float:
    """Products of the dense blocks: 12 D^2 a token, and scores and values of pairs j <= i."""
    pairs = tokens * (tokens + 1) / 2
    return LAYERS * (12 * width**2 * tokens + pairs * 2 * (width + HEADS))


def width_for(products: float, tokens: int) -> float:
    """The D at which the dense blocks have that many products."""
    low, high = 1.0, 10_000.0
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (
            (middle, high) if transformer_products(middle, tokens) < products else (low, middle)
        )
    return low


def explanation(spiking: OperationCount, dense: OperationCount) -> list[str]:
    """How far the published figures can be explained.

    Args:
        spiking: DSFormer, norms folded.
        dense: the Decision Transformer of D 256.
    """
    found = break_even(spiking, dense)
    layers = [layer for layer in spiking.layers.values() if layer.kind == "linear"]
    slots = sum(layer.dense for layer in layers if layer.spiked)
    ran, tokens = found.input_rate.value, 3 * CONTEXT - 1
    verdict = [found.text, f"{found.caveat.text} Source: {found.caveat.source}."]
    if slots != STEPS * LAYERS * 12 * 256**2 * CONTEXT:
        return ["The sizes are not the paper's: its figures say nothing about them.", *verdict]
    full, ratio = slots * AC / 1e6, found.spiking.value / found.dense.value
    parts = CONTEXT / tokens * STEPS * ran * AC / MAC
    wanted = PUBLISHED_DSFORMER / PUBLISHED_DT
    rate = wanted / STEPS * MAC / AC
    times = PUBLISHED_DT / (slots / STEPS * MAC / 1e6)
    return [
        "## The published figures",
        f"DSFormer's spiking linear layers have {slots / 1e6:.1f} M products at all spike steps, "
        f"{full:.1f} uJ if every input fired. They ran at a mean input rate of {ran:.3f}, weighted "
        f"by fan-out: {ran * full:.1f} uJ. What the published figures would need:",
        table(
            ("operations a product", f"rate for {PUBLISHED_DSFORMER} uJ", *_sizes()),
            [_needed(each, full, tokens) for each in (1, 2)],
        ),
        f"The Decision Transformer's blocks have {transformer_products(128, tokens) / 1e6:.1f} M "
        f"products at D 128 and {transformer_products(256, tokens) / 1e6:.1f} M at D 256 on its "
        f"{tokens} tokens (return, state and action of each step; the last action is not seen), "
        f"{transformer_products(256, CONTEXT) / 1e6:.1f} M at D 256 on one token a step. With one "
        "operation a product no usual size gives the published figure.",
        f"Counted here, DSFormer costs {ratio:.3f} of the Decision Transformer of D 256, about "
        f"{CONTEXT} / {tokens} tokens x T {STEPS} x rate {ran:.3f} x {AC} / {MAC} pJ = "
        f"{parts:.3f}. Published: {wanted:.3f}.",
        "A reading that fits both figures: one token a step for either network, D 256, a mean "
        f"input rate of {rate:.3f}, and {times:.2f} operations a product. Two free numbers fit any "
        f"two figures: what to hold against it is the rate of {ran:.3f} found here, and 2, a "
        "multiplication and an addition counted apart. No source at hand states the rule.",
        *verdict,
    ]


def _sizes() -> list[str]:
    return [f"D for {PUBLISHED_DT} uJ, {what}" for what in ("three tokens a step", "one token")]


def _needed(each: int, full: float, tokens: int) -> tuple[str, ...]:
    """Rate and widths that give the published figures, at so many operations a product."""
    products = PUBLISHED_DT / MAC / each * 1e6
    widths = (f"{width_for(products, n):.0f}" for n in (tokens, CONTEXT))
    return (str(each), f"{PUBLISHED_DSFORMER / full / each:.3f}", *widths)
