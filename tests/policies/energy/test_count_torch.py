"""Rules for PyTorch's own layers, by hand and against PyTorch's own counter of operations."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from policies.actor import PopulationActor
from policies.config import PopulationActorConfig
from policies.energy import count_operations
from policies.energy.layer_count import LayerCount
from policies.normalization import PTBN, NormConfig, TdBN


def counted(layer: nn.Module, *inputs: Tensor) -> LayerCount:
    count = count_operations(nn.Sequential(layer), *inputs)
    assert count.uncounted == ()
    return count.layers["0"]


def test_convolution() -> None:
    layer = nn.Conv2d(1, 2, 2, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 0, 0] = x[0, 0, 1, 1] = 0.5
    # The corner lies in 1 of 4 windows, the middle in all; 2 channels.
    assert counted(layer, x).multiply_accumulates == (1 + 4) * 2
    assert counted(layer, x).accumulates == 0
    assert counted(layer, x).dense == 4 * (2 * 2) * 2
    assert counted(layer, 2 * x).accumulates == (1 + 4) * 2
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = 0.0  # the corner's only weight, one of the middle's four
    assert counted(layer, x).multiply_accumulates == (1 + 4) * 2 - 2


def test_padding_and_strides_of_convolution() -> None:
    x = torch.full((2, 1, 3), 0.5)
    # Windows (pad, 0), (1, 2) of a row of 3: 3 values of the input.
    assert counted(nn.Conv1d(1, 1, 2, stride=2, padding=1), x).dense == 3
    # Reflected values are values.
    reflected = nn.Conv1d(1, 1, 2, stride=2, padding=1, padding_mode="reflect")
    assert counted(reflected, x).dense == 4
    # Two groups of one channel each: half of the products.
    assert counted(nn.Conv1d(2, 2, 3, groups=2), torch.ones(1, 2, 3)).dense == 2 * 3


# Rows of the gates, products of gates with states a unit and step.
RECURRENT: dict[Any, tuple[int, int]] = {
    nn.RNN: (1, 0), nn.GRU: (3, 3), nn.LSTM: (4, 3),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(RECURRENT))
def test_recurrent_layer(kind: Any) -> None:
    rows, gates = RECURRENT[kind]
    layer = kind(2, 3, batch_first=True)
    x = torch.tensor([[[0.5, 0.0], [0.5, 0.5]]])
    # 3 of 4 inputs are not 0; the state is 0 at the first of 2 steps.
    effective = 3 * 3 * rows + 1 * 3 * 3 * rows + 2 * 3 * gates
    assert counted(layer, x).multiply_accumulates == effective
    assert counted(layer, x).dense == 2 * (2 + 3) * 3 * rows + 2 * 3 * gates
    spikes = counted(layer, 2 * x)
    assert spikes.accumulates == 3 * 3 * rows
    assert spikes.multiply_accumulates == effective - 3 * 3 * rows
    packed = nn.utils.rnn.pack_sequence([x[0], x[0, 1:]], enforce_sorted=False)

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, _x: Tensor) -> Tensor:
            out: Tensor = self.layer(packed)[1]
            return out

    # Two sequences, of 2 steps and of 1: 5 inputs, 3 steps, 2 starts.
    both = count_operations(Packed(), torch.zeros(2, 1)).layers["layer"]
    assert both.multiply_accumulates == (5 * 3 * rows + (3 - 2) * 9 * rows + 3 * 3 * gates) / 2


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_layers_and_states_of_lstm() -> None:
    class Lstm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(2, 3, num_layers=2, bidirectional=True, proj_size=1)

        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
            out: Tensor = self.lstm(input=x, hx=(h, c))[0]
            return out

    # Per direction: 12 gate rows on 2 inputs, then on 2 x 1 of the layer below; on a state of 1;
    # projections of 3 to 1; 9 products of gates. 4 steps, state not 0.
    each = 2 * (12 * 2 + 12 * 1 + 3 + 9)
    x = torch.full((4, 1, 2), 0.5)
    states = torch.ones(4, 1, 1), torch.ones(4, 1, 3)
    # The sequence stands first: 4 samples to the count.
    count = count_operations(Lstm(), x, *states)
    assert count.layers["lstm"].multiply_accumulates == 4 * (each + each) / 4
    assert count.dense == count.multiply_accumulates
    zero = count_operations(Lstm(), x, 0 * states[0], states[1])
    assert zero.multiply_accumulates == (4 * (each + each) - 4 * 12) / 4


@pytest.mark.parametrize(
    ("cell", "rows", "gates"), [(nn.RNNCell, 1, 0), (nn.GRUCell, 3, 3), (nn.LSTMCell, 4, 3)]
)
def test_recurrent_cell(cell: Any, rows: int, gates: int) -> None:
    layer = cell(2, 3)
    x = torch.tensor([[0.5, 0.0]])
    assert counted(layer, x).multiply_accumulates == 3 * rows + 3 * gates
    assert counted(layer, x).dense == (2 + 3) * 3 * rows + 3 * gates

    class With(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            state = (h, h) if isinstance(self.layer, nn.LSTMCell) else h
            self.layer(x, state)
            return x

    # Two of three states are not 0.
    count = count_operations(With(), x, torch.tensor([[0.5, 0.5, 0.0]]))
    assert count.multiply_accumulates == 3 * rows + 2 * 3 * rows + 3 * gates


def test_multi_head_attention() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=8, batch_first=True)
    x = torch.randn(2, 3, 4)
    count = count_operations(layer, x)
    attention = count.layers["self_attn"]
    # 3 tokens: four projections 4 x 4; 9 pairs: 4 for scores, 4 for values, 2 for each of 2 heads.
    assert attention.multiply_accumulates == 3 * 4 * 16 + 9 * (4 + 4 + 4)
    assert attention.dense == attention.multiply_accumulates
    assert count.layers["linear1"].dense == 3 * 32
    assert count.layers["norm1"].dense == 2 * 3 * 4
    assert "self_attn.out_proj" not in count.layers
    assert count.uncounted == ()
    # Queries of one width, keys and values of others.
    cross = nn.MultiheadAttention(4, 1, kdim=3, vdim=5)

    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cross = cross

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out: Tensor = self.cross(query=q, key=k, value=v)[0]
            return out

    count = count_operations(
        Cross(), torch.randn(2, 1, 4), torch.randn(6, 1, 3), torch.randn(6, 1, 5)
    )
    # Two queries (two samples to the count, which looks at the first axis), six keys.
    assert count.dense == (2 * 16 + 6 * 12 + 6 * 20 + 12 * (4 + 4 + 2) + 2 * 16) / 2


NORMS = {
    "batch": (nn.BatchNorm1d(4), 1, 0),
    "batch2d": (nn.BatchNorm2d(4), 1, 0),
    # Its statistics are the batch's: they cannot be folded.
    "untracked": (nn.BatchNorm1d(4, track_running_stats=False), 2, 2),
    "layer": (nn.LayerNorm(4), 2, 2),
    "rms": (nn.RMSNorm(4), 2, 2),
    "group": (nn.GroupNorm(2, 4), 2, 2),
    "tdbn": (TdBN(4, 0.5), 1, 0),
    "ptbn": (PTBN(4, NormConfig()), 1, 0),
    # A multiple of the input is added; it folds, too.
    "shortcut": (PTBN(4, NormConfig(shortcut=True)), 2, 0),
}


@pytest.mark.parametrize("name", list(NORMS))
def test_norms(name: str) -> None:
    norm, charged, folded = NORMS[name]
    shape = (3, 4, 2, 2) if name == "batch2d" else (3, 1, 1, 4) if "b" in name[1:] else (3, 4)
    x = torch.randn(shape)
    values = x.numel() / 3
    for norms, each in (("charged", charged), ("folded", folded)):
        count = count_operations(nn.Sequential(norm), x, norms=norms)  # type: ignore[arg-type]
        assert count.multiply_accumulates == each * values
        assert count.uncounted == ()


def test_batch_renormalization_of_crossq() -> None:
    layers = pytest.importorskip("sb3_contrib.common.torch_layers")
    norm = layers.BatchRenorm1d(4)
    assert counted(norm, torch.randn(3, 4)).multiply_accumulates == 4
    folded = count_operations(nn.Sequential(norm), torch.randn(3, 4), norms="folded")
    assert (folded.multiply_accumulates, folded.uncounted) == (0, ())


def test_embedding_multiplies_nothing() -> None:
    count = count_operations(nn.Sequential(nn.Embedding(5, 3)), torch.tensor([[1], [2]]))
    assert (count.dense, count.uncounted) == (0, ())


@pytest.mark.parametrize("name", ["mlp", "convolution", "actor"])
def test_dense_is_what_pytorch_counts(name: str) -> None:
    torch.manual_seed(0)
    model, x = {
        "mlp": lambda: (
            nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)),
            torch.randn(4, 5),
        ),
        "convolution": lambda: (
            nn.Sequential(nn.Conv2d(3, 8, 4, stride=2), nn.Flatten(), nn.Linear(8 * 9, 3)),
            torch.randn(4, 3, 8, 8),
        ),
        # PyTorch does not count integer products.
        "actor": lambda: (
            PopulationActor(3, 2, PopulationActorConfig(matmul="float32")),
            torch.randn(4, 3),
        ),
    }[name]()  # type: ignore[no-untyped-call]
    # A hook keeps kernels, which it would not see, from running.
    handles = [m.register_forward_hook(lambda *_: None) for m in model.modules()]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    for handle in handles:
        handle.remove()
    count = count_operations(model, x)
    linear = sum(layer.dense for layer in count.layers.values() if layer.kind == "linear")
    assert linear == counter.get_total_flops() / 2 / 4
