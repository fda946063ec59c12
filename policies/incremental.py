"""A spiking transformer one token at a time: keys and values of earlier tokens are kept.

Tokens stand at positions 0, 1, 2, ... of the context, without padding. The transformer is causal,
so what earlier tokens left never changes, and appending a token costs the same however many came
before (softmax attention alone looks at all of them):

    PSSA          keys times values of the last window - 1 tokens
    SSSA, TSSA    linear attention: sums of key times value, exact, since they count spikes
    softmax       keys and values of every token

What is equal to what: after tokens x_0 ... x_n, `append` has returned for each the output of
`SpikingTransformer.forward` in evaluation mode on [x_0 ... x_n] at its position. Norms and sums are
rounded in another order than in a batched matmul: outputs agree to about 1e-6, unless a membrane
meets the threshold so closely that a spike flips. Compiled ("numba"), matmuls are event-driven, in
float32 with unrounded weights whatever the config's `matmul`.

A full context slides: the newest `keep` tokens are run again at positions 0 ... keep - 1, and the
new one follows. Outputs are then those of the plain network on that shorter window. A window that
loses its oldest token at every step, as d3rlpy's does, changes the hidden states of all tokens and
cannot be cached. At keep = context / 2 the extra work is one more token for each.
"""

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from policies.attention import PositionalAttention, SoftmaxAttention, TemporalAttention
from policies.config import check_choice, check_count
from policies.fused_guard import as_built
from policies.incremental_torch import TorchCache
from policies.kernels.choice import Kernel, pick
from policies.normalization import Folded, TdLN, affine
from policies.transformer import SpikingTransformer


class IncrementalTransformer:
    """Cached evaluation of a transformer for one sequence, with its weights of this moment.

    Args:
        transformer: the network; it is neither changed nor watched: build anew after training.
        keep: tokens kept when the context is full, from 1 to context - 1; None: half of it.
        kernel: None: the config's. "numba" (CPU) compiles a whole token into one call; every other
            choice runs the network's own modules, as do networks with replaced modules
            (`policies.fused_guard`) and those that are not float32.

    Raises:
        TypeError: if the mixing of tokens is not one of `policies.attention`.
        ValueError: if keep is out of range, kernel unknown, or a weight or running statistic not
            finite.
    """

    def __init__(
        self,
        transformer: SpikingTransformer,
        keep: int | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        config = transformer.config
        keep = max(1, config.context // 2) if keep is None else keep
        check_count("keep", keep)
        if keep > config.context == 1:
            raise ValueError(f"keep must be 1 where the context is one token, got {keep}")
        if keep >= config.context > 1:
            raise ValueError(
                f"keep must be below the context of {config.context} tokens, got {keep}: a full "
                "context has to give up tokens; half of it is a good choice"
            )
        if kernel is not None:
            check_choice("kernel", kernel, get_args(Kernel))
        for name, x in (*transformer.named_parameters(), *transformer.named_buffers()):
            if not bool(x.isfinite().all()):
                raise ValueError(
                    f"the transformer has weights that are NaN or infinite (in {name}); load an "
                    "earlier checkpoint"
                )
        self.config = config
        self.keep = 0 if config.context == 1 else keep
        # what tokens become: the weights' dtype and device
        self._like = next(transformer.parameters()).detach()[:0]
        picked = pick(config.kernel if kernel is None else kernel, self._like.device)
        compiled = picked == "numba" and as_built(transformer)
        # The other variant of PTBN folds as well: in evaluation mode it is scale and shift.
        self.cache: Any = _NumbaCache(transformer) if compiled else TorchCache(transformer)
        self._tokens: list[Tensor] = []

    def __len__(self) -> int:
        """Tokens in the context."""
        return len(self._tokens)

    def reset(self) -> None:
        """Forget every token."""
        self._tokens = []
        self.cache.reset()

    @torch.no_grad()
    def append(self, token: Tensor) -> Tensor:
        """Output [D] for a new embedded token [D], as the newest of the context.

        NaN where a membrane broke, as in the plain network.

        Raises:
            TypeError: if the token is no tensor.
            ValueError: if the token has another shape, or is not finite.
        """
        self._check("token", token)
        if len(self._tokens) == self.config.context:
            self._restart(self._tokens[len(self._tokens) - self.keep :])
        return self._append(token)

    @torch.no_grad()
    def restart(self, tokens: Sequence[Tensor]) -> None:
        """Begin anew with these tokens [D], at most as many as the context has.

        Raises:
            TypeError: if one is no tensor.
            ValueError: if there are too many, or one has another shape or is not finite. The
                context then stays as it was.
        """
        tokens = list(tokens)
        if len(tokens) > self.config.context:
            raise ValueError(
                f"tokens must be at most {self.config.context}, the context, got {len(tokens)}; "
                "pass the newest of them"
            )
        for i, token in enumerate(tokens):
            self._check(f"tokens[{i}]", token)
        self._restart(tokens)

    def _check(self, name: str, token: Tensor) -> None:
        if not isinstance(token, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(token).__name__}")
        if token.shape != (self.config.width,):
            raise ValueError(f"{name} must be [{self.config.width}], got {tuple(token.shape)}")
        if not bool(token.isfinite().all()):
            raise ValueError(f"{name} must be finite, got NaN or infinity")

    def _restart(self, tokens: Sequence[Tensor]) -> None:
        self.reset()
        for token in tokens:
            self._append(token)

    @property
    def tokens(self) -> tuple[Tensor, ...]:
        """The tokens in the context, each [D]."""
        return tuple(self._tokens)

    def _append(self, token: Tensor) -> Tensor:
        # A copy: the caller may write its next token into the same memory.
        self._tokens.append(token.detach().to(self._like, copy=True))
        out: Tensor = self.cache.append(self._tokens[-1], len(self._tokens) - 1)
        return out


class _NumbaCache:
    """The whole network packed for `policies.kernels.token_step`."""

    def __init__(self, transformer: SpikingTransformer) -> None:
        from policies.kernels import token_step as kernels

        self.config = config = transformer.config
        blocks: list[Any] = list(transformer.blocks)
        attention = [block.attention for block in blocks]
        projections = [[b.query.current, b.key.current, b.value.current] for b in attention]
        mix = attention[0].mix
        position = np.zeros((0, 0, 0), np.float32)
        if isinstance(mix, PositionalAttention):
            position = np.stack([_array(b.mix.weight) for b in attention])
        kind = kernels.LINEAR
        if isinstance(mix, PositionalAttention):
            kind = kernels.PSSA
        elif isinstance(mix, SoftmaxAttention):
            kind = kernels.SOFTMAX
        neuron = config.neuron
        self.network = kernels.Network(
            qkv=_weights(projections),
            out=_weights([[b.out] for b in attention]),
            up=_weights([[b.mlp.up.current] for b in blocks]),
            down=_weights([[b.mlp.down] for b in blocks]),
            qkv_norm=_norms(projections),
            out_norm=_norms([[b.out] for b in attention]),
            up_norm=_norms([[b.mlp.up.current] for b in blocks]),
            down_norm=_norms([[b.mlp.down] for b in blocks]),
            final_norm=_norm_rows(transformer.norm, None, config.width)[None],
            position=position,
            layer_norm=isinstance(transformer.norm, TdLN),
            decay=np.float32(neuron.v_decay),
            threshold=np.float32(neuron.v_threshold),
            hard=neuron.reset_mode == "hard",
            kind=kind,
            heads=config.num_heads,
        )
        self.cache = kernels.Cache(*_caches(mix, config), np.zeros(config.num_layers, np.bool_))
        self._step = kernels.token_step

    def reset(self) -> None:
        """Forget every token."""
        self.cache.state[:] = 0.0
        self.cache.broken[:] = False

    def append(self, token: Tensor, position: int) -> Tensor:
        """Output [D] for the token [D] at that position."""
        array = np.ascontiguousarray(token.numpy(), np.float32)
        out = self._step(array, position, self.config.spike_steps, self.network, self.cache)
        return torch.from_numpy(out)


def _array(x: Tensor) -> Any:
    return x.detach().to(torch.float32).contiguous().numpy()


def _caches(mix: nn.Module, config: Any) -> tuple[Any, Any, Any]:
    """Keys, values and state of a `token_step.Cache`."""
    layers, steps, width = config.num_layers, config.spike_steps, config.width
    empty = np.zeros((layers, 0, 0, 0), np.float32)
    if isinstance(mix, PositionalAttention):
        return np.zeros((layers, mix.window, steps, width), np.float32), empty, empty
    if isinstance(mix, SoftmaxAttention):
        keys = np.zeros((layers, config.context, steps, width), np.float32)
        return keys, np.zeros_like(keys), empty
    pairs = steps if isinstance(mix, TemporalAttention) else 1
    state = np.zeros((layers, steps * width, pairs, width // config.num_heads), np.float32)
    return empty, empty, state


def _weights(layers: list[list[Any]]) -> Any:
    """[layers, in, out] of NormedLinears, those of one layer side by side."""
    weights = [np.concatenate([_array(p.linear.weight).T for p in parts], 1) for parts in layers]
    return np.ascontiguousarray(np.stack(weights))


def _norms(layers: list[list[Any]]) -> Any:
    """[layers, 3, out], see `token_step`."""
    rows = [
        [_norm_rows(part.norm, part.linear.bias, part.linear.out_features) for part in parts]
        for parts in layers
    ]
    return np.ascontiguousarray(np.stack([np.concatenate(parts, 1) for parts in rows]))


def _norm_rows(norm: nn.Module, bias: Tensor | None, features: int) -> Any:
    """Scale, shift and bias [3, N]: scale * x + shift, or a layer norm of x + bias."""
    added = torch.zeros(features) if bias is None else bias.detach().cpu()
    if isinstance(norm, TdLN):
        rows = [norm.weight, norm.bias, added]
    elif isinstance(norm, Folded):
        rows = [torch.ones(features), added, added]
    else:
        scale, shift = (x.detach().cpu() for x in affine(norm))
        # In float64, rounded once.
        rows = [scale, shift + scale * added.double(), added]
    return np.stack([_array(row) for row in rows])
