"""What no rule counts is named."""

import pytest
import torch
from torch import Tensor, nn

from policies.actor import PopulationActor
from policies.config import DecoderConfig, EncoderConfig, PopulationActorConfig
from policies.energy import count_operations
from policies.energy.layer_count import LayerCount
from policies.transformer import SpikingTransformer, TransformerConfig
from policies.value import ValueNetwork


class Hidden(nn.Module):
    """Multiplies in its forward, by a weight that a counted child holds."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.child = nn.Linear(3, 3)
        self.register_buffer("fixed", torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "functional":
            return nn.functional.linear(x, self.child.weight)
        if self.kind == "vector":
            return x @ self.child.bias
        if self.kind == "buffer":
            return torch.einsum("bi,ij->bj", x, self.get_buffer("fixed"))
        if self.kind == "gain":
            return x * (1.0 + self.child.bias)
        if self.kind == "elementwise":
            return x * self.child.bias.detach()
        if self.kind == "attention":
            x = x[:, None, None]
            return nn.functional.scaled_dot_product_attention(x, x, x)
        out: Tensor = self.child(x)
        return out + out.mean()


@pytest.mark.parametrize(
    "kind", ["functional", "vector", "buffer", "elementwise", "gain", "attention"]
)
def test_products_in_a_parent_s_forward(kind: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3), Hidden(kind))
    count = count_operations(model, torch.randn(2, 3))
    assert count.uncounted == ("1 (Hidden)",)
    assert list(count.layers) == ["0"]


def test_sums_are_no_products() -> None:
    count = count_operations(nn.Sequential(Hidden("sum")), torch.randn(2, 3))
    assert count.uncounted == ()
    assert list(count.layers) == ["0.child"]


def test_layers_without_a_rule() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x

    model = nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.ConvTranspose1d(1, 1, 1), Gated(), nn.PReLU(), nn.Flatten()
    )
    count = count_operations(model, torch.randn(2, 3))
    assert count.uncounted == ("1 (ConvTranspose1d)", "2 (Gated)", "3 (PReLU)")
    # A rule answers for what runs inside.
    known = count_operations(
        model,
        torch.randn(2, 3),
        rules={
            nn.ConvTranspose1d: lambda *_: LayerCount(dense=3.0),
            Gated: lambda _m, args, _o, samples: LayerCount(
                multiply_accumulates=args[0].numel() / samples
            ),
        },
    )
    assert known.uncounted == ("3 (PReLU)",)
    assert (known.multiply_accumulates, known.dense) == (3, 3)


def test_the_model_itself() -> None:
    assert count_operations(Hidden("functional"), torch.randn(2, 3)).uncounted == (
        "the model itself (Hidden)",
    )


def test_what_is_not_multiplied_is_not_missed() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(3, 3)
            self.idle = nn.Bilinear(3, 3, 3)
            self.log_std = nn.Parameter(torch.zeros(3))
            self.positions = nn.Parameter(torch.randn(5, 3))
            self.unused = nn.Parameter(torch.randn(5, 3))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.used(x) + self.positions[torch.tensor([1, 2])]
            out = out + self.positions[3:4]
            return out * self.log_std.exp()

    assert count_operations(Idle(), torch.randn(2, 3)).uncounted == ()


def test_an_error_in_the_model_leaves_no_hooks() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(4, 4))
    with pytest.raises(RuntimeError):
        count_operations(model, torch.randn(2, 3))
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    count_operations(model[:1], torch.randn(2, 3))


@pytest.mark.parametrize("encoder", ["deterministic", "poisson", "analog"])
@pytest.mark.parametrize("decoder", ["rate", "membrane"])
def test_nothing_of_population_networks_is_missed(encoder: str, decoder: str) -> None:
    config = PopulationActorConfig(
        hidden_sizes=(8,),
        encoder=EncoderConfig(kind=encoder),  # type: ignore[arg-type]  # parametrized
        decoder=DecoderConfig(kind=decoder),  # type: ignore[arg-type]  # parametrized
    )
    for model in (PopulationActor(3, 2, config), ValueNetwork(3, 2, config)):
        assert count_operations(model, torch.randn(2, 3)).uncounted == ()


@pytest.mark.parametrize("attention", ["pssa", "tssa", "sssa", "softmax"])
@pytest.mark.parametrize("normalization", ["ptbn", "tdbn", "tdln", "folded"])
def test_nothing_of_transformers_is_missed(attention: str, normalization: str) -> None:
    config = TransformerConfig(
        width=8,
        context=5,
        num_layers=1,
        attention=attention,  # type: ignore[arg-type]  # parametrized
        normalization=normalization,  # type: ignore[arg-type]  # parametrized
        matmul="bf16" if attention == "pssa" else "float32",
    )
    count = count_operations(SpikingTransformer(config), torch.randn(2, 5, 8))
    assert count.uncounted == ()
    assert "blocks.0.attention.mix" in count.layers
