"""A small Llama with the tensor names of the published one, and LLaVA's projector beside it."""

from __future__ import annotations

import torch
from nf4 import straight_through
from torch import nn
from torch.nn import functional

VOCABULARY = 640
HIDDEN = 192
LAYERS = 4
HEADS = 6
INNER = 512
EPSILON = 1e-5
THETA = 10_000.0
PICTURE = -200


class Norm(nn.Module):
    """Root-mean-square norm."""

    def __init__(self) -> None:
        """Start with a gain of one."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Return the state at unit mean square, times the gain."""
        return functional.rms_norm(state, (HIDDEN,), self.weight, EPSILON)


class Linear(nn.Linear):
    """A linear map without bias that can be trained under nf4's rounding."""

    rounded = False

    def __init__(self, inputs: int, outputs: int) -> None:
        """Take `inputs` numbers to `outputs`."""
        super().__init__(inputs, outputs, bias=False)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Return the product, the weight seen through nf4 when `rounded`."""
        weight = straight_through(self.weight) if self.rounded else self.weight
        return functional.linear(state, weight)


class Attention(nn.Module):
    """Attention over rotated queries and keys."""

    def __init__(self) -> None:
        """Create the four maps."""
        super().__init__()
        self.q_proj = Linear(HIDDEN, HIDDEN)
        self.k_proj = Linear(HIDDEN, HIDDEN)
        self.v_proj = Linear(HIDDEN, HIDDEN)
        self.o_proj = Linear(HIDDEN, HIDDEN)

    def forward(
        self, state: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor], seen: torch.Tensor
    ) -> torch.Tensor:
        """Return (batch, length, HIDDEN); `seen` is (batch, 1, length, length), true where read."""
        batch, length, _ = state.shape

        def split(values: torch.Tensor) -> torch.Tensor:
            return values.view(batch, length, HEADS, -1).transpose(1, 2)

        query = _rotated(split(self.q_proj(state)), turn)
        key = _rotated(split(self.k_proj(state)), turn)
        mixed = functional.scaled_dot_product_attention(
            query, key, split(self.v_proj(state)), attn_mask=seen
        )
        joined: torch.Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, HIDDEN))
        return joined


class Gate(nn.Module):
    """The gated inner layer."""

    def __init__(self) -> None:
        """Create the three maps."""
        super().__init__()
        self.gate_proj = Linear(HIDDEN, INNER)
        self.up_proj = Linear(HIDDEN, INNER)
        self.down_proj = Linear(INNER, HIDDEN)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Return (batch, length, HIDDEN)."""
        opened = functional.silu(self.gate_proj(state)) * self.up_proj(state)
        narrowed: torch.Tensor = self.down_proj(opened)
        return narrowed


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self) -> None:
        """Create both halves and their norms."""
        super().__init__()
        self.self_attn = Attention()
        self.mlp = Gate()
        self.input_layernorm = Norm()
        self.post_attention_layernorm = Norm()

    def forward(
        self, state: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor], seen: torch.Tensor
    ) -> torch.Tensor:
        """Return the state with attention and the inner layer added."""
        state = state + self.self_attn(self.input_layernorm(state), turn, seen)
        added: torch.Tensor = self.mlp(self.post_attention_layernorm(state))
        return state + added


class Trunk(nn.Module):
    """Everything below the output layer; its attribute names are the published tensor names."""

    def __init__(self, width: int) -> None:
        """Create the trunk for a tower of `width` features."""
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = Norm()
        self.mm_projector = nn.Sequential(
            nn.Linear(width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN)
        )


class SmallLlava(nn.Module):
    """Language model and projector; the tower's features come in ready."""

    def __init__(self, width: int) -> None:
        """Start at random; the caller seeds torch."""
        super().__init__()
        self.model = Trunk(width)
        self.lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2 and "mm_projector" not in name:
                nn.init.normal_(parameter, std=0.05)

    def forward(
        self,
        ids: torch.Tensor,
        features: torch.Tensor,
        places: torch.Tensor,
        seen: torch.Tensor,
        asked: torch.Tensor,
    ) -> torch.Tensor:
        """Return logits (asked, VOCABULARY) at the places where `asked` is true.

        Args:
            ids: (batch, length), PICTURE where a feature stands.
            features: (all features, width), in the order of their places.
            places: (batch, length), positions for the rotation.
            seen: (batch, length, length), true where a row may read a column.
            asked: (batch, length).
        """
        state = self.model.embed_tokens(ids.clamp(min=0))
        projected = self.model.mm_projector(features)
        state = state.masked_scatter((ids == PICTURE)[..., None], projected)
        turn = _turns(places)
        for layer in self.model.layers:
            state = layer(state, turn, seen[:, None])
        logits: torch.Tensor = self.lm_head(self.model.norm(state[asked]))
        return logits

    def set_rounded(self, *, rounded: bool) -> None:
        """Train through nf4's rounding from now on, or no longer."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.rounded = rounded


def _turns(places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    half = HIDDEN // HEADS // 2
    speed = THETA ** (-torch.arange(half, dtype=torch.float32) / half)
    angle = (places[..., None].float() * speed).repeat(1, 1, 2)[:, None]
    return angle.cos(), angle.sin()


def _rotated(values: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    first, second = values.chunk(2, dim=-1)
    return values * turn[0] + torch.cat([-second, first], dim=-1) * turn[1]
