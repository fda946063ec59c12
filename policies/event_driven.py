"""Event-driven inference: a decision costs the weights of the neurons that fired, and no more.

Under matmul="exact" the integers add up to the same sums in any order, so spikes, and with them
activity, equal the batched path's bit for bit; PopulationBody then comes here by itself for a few
observations. Under "float32" and "bf16" sums differ in their last bits, and now and then a spike.

Imports numba: import this module where it is used.
"""

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from policies.config import DecoderConfig, EncoderConfig, NeuronConfig
from policies.kernels import numba_event as loops
from policies.kernels.choice import Matmul
from policies.normalizer import EPS
from policies.population import MIN_VARIANCE, PopulationReadout, membrane_kernel

if TYPE_CHECKING:
    from policies.actor import PopulationActor, PopulationBody

Floats = NDArray[np.float32]
_EMPTY = torch.empty(0)


class EventDrivenBody:
    """A PopulationBody for a few observations at a time, on a CPU, without gradients.

    Args:
        body: the network.
        live: follow its parameters and statistics as they change; else keep today's.

    Raises:
        ValueError: if the encoder sends real numbers ("analog").
    """

    def __init__(self, body: "PopulationBody", *, live: bool = False) -> None:
        config = body.config
        if config.encoder.kind == "analog":
            raise ValueError(
                "encoder='analog' sends real numbers, not spikes, so nothing is event-driven; "
                "train with 'deterministic' or 'poisson'"
            )
        self.live = live
        self._body = body if live else None
        self._decoder, self._steps = config.decoder, config.spike_steps
        self._step_weights = step_weights(config.decoder, config.spike_steps)
        # Replaced as a whole: an interrupt or another thread finds the old one or the new one.
        self._snapshot = _Snapshot(body, _tensors(body), copied=not live)

    def activity(self, obs: Floats) -> Floats | None:
        """Activity [B, N] of the output neurons for obs [B, obs_dim]; None as `counts`."""
        counts = self.counts(obs)
        if counts is None or self._decoder.kind != "rate":
            return counts
        return counts / np.float32(self._steps)

    def values(self, obs: Floats, readout: "Readout") -> Floats | None:
        """What a readout makes of the activity: [B, action_dim]; None as `counts`."""
        counts = self.counts(obs)
        if counts is None:
            return None
        values = np.empty((len(obs), len(readout.bias)), np.float32)
        return values if loops.read(counts, *readout, values) else None

    def counts(self, obs: Floats) -> Floats | None:
        """Spikes of the output neurons for obs [B, obs_dim], older ones decayed as configured.

        Returns:
            [B, N]; None if an observation, a parameter or a membrane is NaN or infinite.
        """
        snapshot = self._snapshot
        if self._body is not None:
            tensors = _tensors(self._body)
            if not snapshot.is_of(self._body, tensors):
                self._snapshot = snapshot = _Snapshot(self._body, tensors)
        array = np.empty((len(obs), *snapshot.field_shape), np.float32)
        if not loops.distances(obs, *snapshot.statistics, *snapshot.fields, array):
            return None
        torch.from_numpy(array).exp_()
        counts = np.empty((len(obs), snapshot.neurons), np.float32)
        activation = array.reshape(len(obs), snapshot.inputs)
        sound = loops.propagate(activation, *snapshot.layers, counts, self._step_weights)
        return counts if sound else None

    def __reduce__(self) -> tuple[Any, ...]:
        """Live ones are caches: a copy or pickle starts as None."""
        if self.live:
            return _none, ()
        return super().__reduce__()  # type: ignore[return-value]


def _none() -> None:
    return None


class _Snapshot:
    """A body's parameters and settings as the compiled loops want them.

    Args:
        body: the network.
        tensors: what `_tensors` gives of it.
        copied: do not share memory with them.
    """

    def __init__(self, body: "PopulationBody", tensors: list[Tensor], copied: bool = False) -> None:
        self._key = _key(tensors)
        self._objects = _settings(body)
        tensors = [x.detach().cpu().contiguous() for x in tensors]
        arrays: list[Floats] = [x.numpy().copy() if copied else x.numpy() for x in tensors]
        mean, std, center, variance = arrays[:4]
        settings, encoder, clip = self._objects
        limits = np.float32(EPS), np.float32(clip)
        self.statistics = (center, variance, *limits)
        self.fields = (mean, std, np.float32(MIN_VARIANCE))
        self.field_shape, self.inputs = mean.shape, mean.size
        layered = arrays[4:]
        weights = _Weights(*_layers(body, arrays), body.config.matmul)
        self.neurons = int(weights.sizes[-1])
        self.layers = (
            np.float32(encoder.v_threshold),
            np.float32(encoder.v_start),
            weights.sizes,
            weights.rows,
            weights.scale,
            weights.bias,
            np.array([body.mlp.neuron_settings().i_decay, settings.v_decay], np.float32),
            np.float32(settings.v_threshold),
            loops.HARD if settings.reset_mode == "hard" else 1 - loops.HARD,
            *_feedback(body),
        )
        # Compared in place only where the parameters lie in memory as they are read.
        self._comparable = all(contiguous for _, _, contiguous in self._key)
        self._seen = (
            np.array([address for address, _, _ in self._key[4:]], np.int64),
            np.array([array.size for array in layered], np.int64),
            np.concatenate([array.reshape(-1) for array in layered]).view(np.int32),
        )
        self._alive = tensors  # so that no other tensor gets their addresses

    def is_of(self, body: "PopulationBody", tensors: list[Tensor]) -> bool:
        """Whether the network is still this one.

        Values are compared: version counters miss writes through `.data`.
        """
        return (
            self._comparable
            and self._key == _key(tensors)
            and all(a is b for a, b in zip(self._objects, _settings(body), strict=True))
            and not loops.changed(*self._seen)
        )


Key = list[tuple[int, torch.Size, bool]]


def _key(tensors: list[Tensor]) -> Key:
    """Where tensors lie, and how."""
    return [(x.data_ptr(), x.shape, x.is_contiguous()) for x in tensors]


def _settings(body: "PopulationBody") -> tuple[NeuronConfig, EncoderConfig, float]:
    """Settings that modules hold: of the neurons, the encoder, and the z-score's clip."""
    normalizer = body.normalizer
    neuron: Any = body.mlp._modules["neurons"]._modules["0"]  # type: ignore[union-attr]
    clip = _NO_CLIP if normalizer is None else normalizer.clip
    return neuron.config, body.encoder.config, clip


_NO_CLIP = 1.0


class Readout(NamedTuple):
    """A PopulationReadout as the compiled loops want it.

    Attributes:
        weight: [action_dim, P].
        bias: [action_dim].
        bias_gain: factor on the bias.
        steps: spikes of a neuron over its activity.
        exact: whether weights are integers.
    """

    weight: Floats
    bias: Floats
    bias_gain: np.float32
    steps: int
    exact: bool


def live_readout(readout: PopulationReadout) -> Readout:
    """A view of a readout as it is now."""
    return Readout(
        readout.weight.detach().numpy(),
        readout.bias.detach().numpy(),
        np.float32(readout.bias_gain),
        readout.steps,
        readout.is_exact(),
    )


class EventDrivenActor(EventDrivenBody):
    """A PopulationActor, frozen as it is, for a few observations at a time; see EventDrivenBody.

    Args:
        actor: the network.
    """

    def __init__(self, actor: "PopulationActor") -> None:
        super().__init__(actor)
        self.squash = actor.config.squash
        self.readout = live_readout(copy.deepcopy(actor.decoder))

    def __call__(self, obs: Floats) -> Floats:
        """Values [B, action_dim] of obs [B, obs_dim]; NaN where something is not finite."""
        values = self.values(obs, self.readout)
        if values is None:
            return np.full((len(obs), len(self.readout.bias)), np.nan, np.float32)
        if self.squash:
            # PyTorch's: other libraries' tanh differs in the last bit.
            torch.from_numpy(values).tanh_()
        return values


class _Weights:
    """Weights and biases of all layers, as the compiled loops want them.

    Args:
        weights: [out, in] of each layer.
        biases: [out] of each layer.
        matmul: "exact" adds integers; the others float32, "bf16" with rounded weights.
    """

    def __init__(self, weights: list[Floats], biases: list[Floats], matmul: Matmul) -> None:
        self.sizes = np.array([weights[0].shape[1], *map(len, biases)], np.int64)
        self.bias = np.concatenate(biases)
        self.scale = np.ones_like(self.bias)
        self.rows: NDArray[Any]
        if matmul != "exact":
            rounded = [_as_in_matmul(weight, matmul) for weight in weights]
            self.rows = np.concatenate([weight.T.reshape(-1) for weight in rounded])
        elif not self._read_integers(weights, np.int32):
            self._read_integers(weights, np.int64)

    def _read_integers(self, weights: list[Floats], dtype: type[np.signedinteger[Any]]) -> bool:
        """Whether no sum of a neuron's integers can leave int32."""
        self.rows = np.empty(sum(weight.size for weight in weights), dtype)
        row = neuron = most = 0
        for weight in weights:
            n_out, n_in = weight.shape
            rows = self.rows[row : row + weight.size].reshape(n_in, n_out)
            largest = loops.integer_rows(weight, rows, self.scale[neuron : neuron + n_out])
            most = max(most, largest)
            row += weight.size
            neuron += n_out
        return most < 1 << 31


def _as_in_matmul(weight: Floats, matmul: Matmul) -> Floats:
    if matmul == "bf16":
        return torch.from_numpy(weight).bfloat16().float().numpy()
    return weight


def _feedback(body: "PopulationBody") -> tuple[NDArray[np.float64], Floats]:
    """Weights [P, A * P] and bias [A * P] inside the output populations; empty where none are.

    In float64 integers add up exactly, so currents are rounded once as `_Weights`'s are.
    """
    intra = body.mlp.intra_layer
    if intra is None:
        return np.empty((0, 0)), np.empty(0, np.float32)
    rows = intra.operand(body.config.matmul).double().flatten(0, 1).cpu()
    # A broken weight shows in its row's bias, whether its neuron fires or not.
    bias = intra.bias.detach().cpu() + (0.0 * rows.sum(dim=1)).float()
    return rows.t().contiguous().numpy(), bias.numpy()


def step_weights(config: DecoderConfig, spike_steps: int) -> Floats:
    """What a spike at each step adds to its neuron's count, [T]."""
    if config.kind == "rate":
        return np.ones(spike_steps, np.float32)
    return membrane_kernel(spike_steps, config.v_decay).numpy()


def _layers(body: "PopulationBody", arrays: list[Floats]) -> tuple[list[Floats], list[Floats]]:
    """Weights and biases, with norms in them."""
    layers = body.mlp.layers()
    if all(layer.norm is None for layer in layers):
        last = 4 + 2 * len(layers)
        return arrays[4:last:2], arrays[5:last:2]
    with torch.no_grad():
        folded = [[x.cpu().contiguous().numpy() for x in layer.folded()] for layer in layers]
    return [weight for weight, _ in folded], [bias for _, bias in folded]


def _tensors(body: "PopulationBody") -> list[Tensor]:
    """Everything that changes: fields' mean and std, statistics, then weight and bias by layer.

    Those of the layers' norms, or of connections inside the output populations, come last.
    """
    parts: Any = body._modules
    encoder, normalizer = parts["encoder"], body.normalizer
    tensors = [_parameter(encoder, "mean"), _parameter(encoder, "std")]
    if normalizer is None:
        tensors += [_EMPTY, _EMPTY]
    else:
        tensors += [normalizer.running_mean, normalizer.running_var]
    linears = parts["mlp"]._modules["linears"]._modules.values()
    for linear in linears:
        tensors += [_parameter(linear, "weight"), _parameter(linear, "bias")]
    if (intra := body.mlp.intra_layer) is not None:
        tensors += [_parameter(intra, "weight"), _parameter(intra, "bias")]
    if body.config.batch_norm:
        for linear in linears:
            norm = linear.norm
            tensors += [_parameter(norm, name) for name in ("gain", "moving_mean", "moving_var")]
    return tensors


def _parameter(module: nn.Module, name: str) -> Tensor:
    # Past `nn.Module.__getattr__`, which takes long. ARS holds buffers, parametrizations compute.
    tensor = module._parameters.get(name)
    return getattr(module, name) if tensor is None else tensor
