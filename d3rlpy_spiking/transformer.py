"""Networks behind d3rlpy's transformer algorithms.

    (state, previous action, return-to-go) [B, L, .] -> tokens [B, L, D]
        -> SpikingBackbone, spike trains inside -> [B, L, D] -> head -> actions or logits [B, L, A]

`attention_mask` is d3rlpy's: 1 for padding, 0 for tokens that exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from d3rlpy.models.torch.encoders import VectorEncoder
from d3rlpy.models.torch.transformers import (
    ContinuousDecisionTransformer,
    DiscreteDecisionTransformer,
)
from torch import Tensor, nn

from policies.normalization import Folded, fold_before
from policies.transformer import SpikingTransformer, TransformerConfig

Observations = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class Step:
    """One environment step as one that decides online sees it, scaled, without batch axis.

    x: observation, or a sequence of such.
    return_to_go: [1].
    timestep: [1], from 1.
    action: the action of the step before, [A] or an index [1]; None at the first step.
    timestep_before: the timestep of that action, [1].
    """

    x: Observations
    return_to_go: Tensor
    timestep: Tensor
    action: Tensor | None
    timestep_before: Tensor


class Progress(nn.Module):
    """How far training has come; saved with the weights, so that schedules resume.

    Args:
        ptbn_steps: gradient steps until theta is 0.
    """

    step: Tensor
    tokens: Tensor
    theta: Tensor

    def __init__(self, ptbn_steps: int) -> None:
        super().__init__()
        self.ptbn_steps = ptbn_steps
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("tokens", torch.zeros((), dtype=torch.int64))
        self.register_buffer("theta", torch.ones(()))

    def advance(self) -> None:
        """Count one gradient step; theta becomes that of the next one."""
        self.set_step(int(self.step) + 1)

    def set_step(self, step: int) -> None:
        """Go on from that many gradient steps; theta becomes that of the next one."""
        self.step.fill_(step)
        self.theta.copy_((1.0 - self.step / self.ptbn_steps).clamp_min(0.0))


class SpikingBackbone(nn.Module):
    """A spiking transformer where d3rlpy expects its GPT: tokens [B, L, D] -> [B, L, D].

    Args:
        config: the transformer.
        ptbn_steps: see Progress.
        embed_dropout: probability of dropping an embedded feature in training, [0, 1].
        embed_ln: with a layer norm of the tokens in front, for embeddings that have none.
    """

    def __init__(
        self,
        config: TransformerConfig,
        ptbn_steps: int,
        embed_dropout: float = 0.0,
        embed_ln: bool = False,
    ) -> None:
        super().__init__()
        self.embed_ln = nn.LayerNorm(config.width) if embed_ln else nn.Identity()
        self.transformer = SpikingTransformer(config)
        self.progress = Progress(ptbn_steps)
        self.dropout = nn.Dropout(embed_dropout)
        # A number lets PTBN leave out its layer branch once theta is 0; a tensor does not, as
        # CUDA graphs need, which record one course of operations.
        self.theta_as_tensor = False

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        """Propagate tokens [B, L, D] with attention_mask [B, L], 1 for padding."""
        theta = self.progress.theta if self.theta_as_tensor else self._theta()
        x = self.dropout(self.embed_ln(x))
        out: Tensor = self.transformer(x, 1.0 - attention_mask, theta)
        return out

    def _theta(self) -> float:
        return float(self.progress.theta) if self.training else 0.0

    def fold(self, head: nn.Linear) -> None:
        """Fold every norm, the last one into the head, in place."""
        if self.transformer.config.attention == "softmax":
            raise ValueError(
                "attention='softmax' cannot be folded into a spike-driven network: it multiplies "
                "real numbers; train with attention='pssa', 'tssa' or 'sssa'"
            )
        if getattr(head, "bias", None) is None:
            head.bias = nn.Parameter(torch.zeros_like(head.weight[:, 0]))
        # First what may refuse, so that a network that cannot be folded stays whole.
        fold_before(self.transformer.norm, head)
        self.transformer.norm = Folded()
        self.transformer.fold_blocks()


class InterleavedContinuous(ContinuousDecisionTransformer):
    """d3rlpy's tokens (return-to-go, state, action of each step), spiking blocks, tanh head."""

    def put_backbone(self, backbone: SpikingBackbone) -> None:
        """Replace the dense blocks."""
        self._gpt2 = backbone

    @property
    def backbone(self) -> SpikingBackbone:
        """The spiking blocks."""
        return self._gpt2

    @property
    def head(self) -> nn.Linear:
        """The layer that reads actions."""
        head: nn.Linear = self._output
        return head

    def step_tokens(self, step: Step) -> Tensor:
        """Embedded tokens [n, D] that a step adds: the last action, the return-to-go, the state."""
        position = self._position_encoding(step.timestep[None])[0]
        tokens = [
            self._rtg_embed(step.return_to_go[None]) + position,
            _encoded(self._encoder, step.x) + position,
        ]
        if step.action is not None:
            before = self._position_encoding(step.timestep_before[None])[0]
            tokens.insert(0, self._action_embed(step.action[None]) + before)
        out: Tensor = self._embed_ln(torch.cat(tokens))
        return out

    def read(self, hidden: Tensor) -> Tensor:
        """Action [A] from what the blocks make of a state's token, [D]."""
        return torch.tanh(self.head(hidden))


class InterleavedDiscrete(DiscreteDecisionTransformer):
    """d3rlpy's tokens (return-to-go, state, action of each step), spiking blocks, logits.

    Unlike d3rlpy's, the tokens pass a layer norm first: they start near 0, where no neuron fires.
    """

    def put_backbone(self, backbone: SpikingBackbone) -> None:
        """Replace the dense blocks; a folded network's head needs a bias."""
        self._gpt2 = backbone
        if backbone.transformer.config.normalization == "folded":
            self._output.bias = nn.Parameter(torch.zeros(self._output.out_features))

    @property
    def backbone(self) -> SpikingBackbone:
        """The spiking blocks."""
        return self._gpt2

    @property
    def head(self) -> nn.Linear:
        """The layer that reads logits."""
        head: nn.Linear = self._output
        return head

    def step_tokens(self, step: Step) -> Tensor:
        """Embedded tokens [n, D] that a step adds: the last action, the return-to-go, the state."""
        position = self._position_encoding(step.timestep[None])[0]
        tokens = [
            self._embed_activation(self._rtg_embed(step.return_to_go[None])) + position,
            self._embed_activation(_encoded(self._encoder, step.x)) + position,
        ]
        if step.action is not None:
            before = self._position_encoding(step.timestep_before[None])[0]
            action = self._embed_activation(self._action_embed(step.action.long()))
            tokens.insert(0, action + before)
        out: Tensor = self.backbone.embed_ln(torch.cat(tokens))
        return out

    def read(self, hidden: Tensor) -> Tensor:
        """Logits [A] from what the blocks make of a state's token, [D]."""
        logits: Tensor = self.head(hidden)
        return logits


class JointTokenTransformer(nn.Module):
    """One token per environment step: state, previous action and return-to-go, embedded and added.

    With a linear encoder this is one linear layer on the three joined, as in DSFormer.

    Args:
        encoder: states [B * L, ...] -> [B * L, D].
        action_size: dimensions of an action, or number of actions.
        backbone: tokens [B, L, D] -> [B, L, D].
        discrete: actions are indices; the output is logits.
        position_encoding: timesteps [B, L] -> [B, L, D], or None.
        embed_activation: applied to the sum, before positions are added.
        mask_previous_action: a padded step's action does not reach the token after it; DSFormer's
            release lets it.
        previous_action: the action before is part of a token; else only states and returns are.
    """

    def __init__(
        self,
        encoder: nn.Module,
        action_size: int,
        backbone: SpikingBackbone,
        *,
        discrete: bool,
        position_encoding: nn.Module | None = None,
        embed_activation: nn.Module | None = None,
        mask_previous_action: bool = True,
        previous_action: bool = True,
    ) -> None:
        super().__init__()
        width = backbone.transformer.config.width
        self.encoder = encoder
        self.action_embed: nn.Module | None = None
        if previous_action:
            self.action_embed = (
                nn.Embedding(action_size, width)
                if discrete
                else nn.Linear(action_size, width, bias=False)
            )
        self.rtg_embed = nn.Linear(1, width, bias=False)
        self.position_encoding = position_encoding
        self.embed_activation = nn.Identity() if embed_activation is None else embed_activation
        self.embed_ln = nn.LayerNorm(width)
        self.backbone = backbone
        self.head = nn.Linear(width, action_size)
        self.discrete = discrete
        self.mask_previous_action = mask_previous_action
        if _is_linear(encoder):
            encoder.apply(_init_linear)  # other encoders have a start of their own
        for module in (self.action_embed, self.rtg_embed, self.head, self.position_encoding):
            if module is not None:
                module.apply(_init_linear)

    def forward(
        self,
        x: Observations,
        action: Tensor,
        return_to_go: Tensor,
        timesteps: Tensor,
        attention_mask: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Decide at every step of a context.

        Args:
            x: observations [B, L, ...], or a sequence of such.
            action: the action taken at each step, [B, L, A] or indices [B, L, 1]; step i sees those
                before i only.
            return_to_go: [B, L, 1].
            timesteps: [B, L], from 1; 0 at padding.
            attention_mask: [B, L], 1 for padding.

        Returns:
            actions in [-1, 1], [B, L, A]; or, discrete, probabilities and logits [B, L, A] each.
        """
        h = self._embed(x, action, return_to_go, attention_mask)
        if self.position_encoding is not None:
            h = h + self.position_encoding(timesteps)
        out: Tensor = self.head(self.backbone(self.embed_ln(h), attention_mask))
        if self.discrete:
            return torch.softmax(out, dim=-1), out
        return torch.tanh(out)

    def step_tokens(self, step: Step) -> Tensor:
        """The embedded token [1, D] that a step adds."""
        embedded = _encoded(self.encoder, step.x) + self.rtg_embed(step.return_to_go[None])
        if step.action is not None and self.action_embed is not None:
            action = step.action.long() if self.discrete else step.action[None]
            embedded = embedded + self.action_embed(action)
        embedded = self.embed_activation(embedded)
        if self.position_encoding is not None:
            embedded = embedded + self.position_encoding(step.timestep[None])[0]
        token: Tensor = self.embed_ln(embedded)
        return token

    def read(self, hidden: Tensor) -> Tensor:
        """Action or logits [A] from what the blocks make of a token, [D]."""
        out: Tensor = self.head(hidden)
        return out if self.discrete else torch.tanh(out)

    def _embed(
        self, x: Observations, action: Tensor, return_to_go: Tensor, attention_mask: Tensor
    ) -> Tensor:
        batch, length, _ = return_to_go.shape
        flat = (
            x.flatten(0, 1)
            if isinstance(x, Tensor)
            else [part.flatten(0, 1) for part in x]  # tuple observations
        )
        embedded = self.encoder(flat).view(batch, length, -1)
        if self.action_embed is not None:
            embedded = embedded + self._previous(self.action_embed, action, attention_mask)
        out: Tensor = self.embed_activation(embedded + self.rtg_embed(return_to_go))
        return out

    def _previous(self, embed: nn.Module, action: Tensor, attention_mask: Tensor) -> Tensor:
        """Each token's embedded action of the step before, [B, L, D]; the first token has none."""
        batch, length = attention_mask.shape
        action = embed(action.reshape(batch, length).long() if self.discrete else action)
        if self.mask_previous_action:
            action = action * (1.0 - attention_mask)[..., None]
        return nn.functional.pad(action[:, :-1], (0, 0, 1, 0))


def _encoded(encoder: nn.Module, x: Observations) -> Tensor:
    """An observation without batch axis through an encoder, [1, D]."""
    batch = x[None] if isinstance(x, Tensor) else [part[None] for part in x]
    out: Tensor = encoder(batch)
    return out


def _is_linear(encoder: nn.Module) -> bool:
    """Whether an encoder is d3rlpy's with one linear layer: DSFormer's embedding."""
    layers = [module for module in encoder.modules() if isinstance(module, nn.Linear)]
    return isinstance(encoder, VectorEncoder) and len(layers) == 1


def _init_linear(module: nn.Module) -> None:
    """DSFormer's start: weights from N(0, 0.02), biases 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


SpikingNetwork = InterleavedContinuous | InterleavedDiscrete | JointTokenTransformer


def fold_network(network: SpikingNetwork) -> None:
    """Fold every norm behind the embedding into the linear layers, in place.

    Raises:
        ValueError: if the attention or the norms do not allow it, or it was done before.
    """
    network.backbone.fold(network.head)
