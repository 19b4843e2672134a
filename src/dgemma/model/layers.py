"""One layer: attention, dense MLP and experts on a residual stream.

Arithmetic is in kernels/, scheduling elsewhere.
A layer does not know whether it encodes or denoises: it is handed `attend`, which sees the layer's
queries, keys and values and returns the mixed heads, and the scalar of its mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..config import LayerConfig, ModelConfig
from ..kernels.c.native import takes
from ..kernels.ops.heads import heads
from ..kernels.ops.matmul import Pair, gated_mlp, linear, pack, pays_packed
from ..kernels.ops.moe import choose_experts, experts
from ..kernels.ops.norm import add_norm, rms_norm
from ..kernels.quant.formats import QuantTensor, Weight

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # q [B,H,T,K], k and v [B,G,T,K] -> [B,H,T,K]


class Norm(nn.Module):
    """RMSNorm with a weight that multiplies directly."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        return add_norm(residual, x, self.weight, self.eps)


class Unfilled:
    """A module of torch's whose weight is left as it comes: a loader fills it.

    On the meta device torch's own first draw would import its compiler, 74 MB of Python that nobody uses and
    a second or more of every start.
    """

    def reset_parameters(self) -> None:
        pass


class Embedding(Unfilled, nn.Embedding):
    pass


class Linear(Unfilled, nn.Linear):
    """A projection without bias.

    Its weight may be packed (kernels/ops/matmul.py) or in few bits (kernels/quant/formats.py).
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)

    def pack(self) -> None:
        if not isinstance(self.weight, QuantTensor) and pays_packed(self.weight):
            self.weight = nn.Parameter(pack(self.weight), requires_grad=False)


class Attention(nn.Module):
    """Projections, per-head norms and rope around `attend`.

    Full layers have no v_proj: V is the raw K projection.
    """

    def __init__(self, config: ModelConfig, layer: LayerConfig):
        super().__init__()
        hidden = config.hidden_size
        dim = layer.head_dim
        q_width = config.num_attention_heads * dim
        kv_width = layer.num_key_value_heads * dim
        self.head_dim = dim
        self.eps = config.rms_norm_eps
        self.q_proj = Linear(hidden, q_width)
        self.k_proj = Linear(hidden, kv_width)
        self.v_proj = Linear(hidden, kv_width) if layer.is_sliding else None
        self.o_proj = Linear(q_width, hidden)
        self.q_norm = Norm(dim, self.eps)
        self.k_norm = Norm(dim, self.eps)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        q = self.q_proj(x)
        k = self.k_proj(x)
        v = None
        if self.v_proj is not None:
            v = self.v_proj(x)
        q, k, v = heads(q, k, v, self.q_norm.weight, self.k_norm.weight, self.eps, *rope)
        mixed: Tensor = self.o_proj(attend(q, k, v).transpose(1, 2).flatten(2))
        return mixed


class GatedMLP(nn.Module):
    def __init__(self, hidden: int, intermediate: int):
        super().__init__()
        self.gate_proj = Linear(hidden, intermediate)
        self.up_proj = Linear(hidden, intermediate)
        self.down_proj = Linear(intermediate, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return gated_mlp(x, self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)


class Scores(Unfilled, nn.Linear):
    """A projection that is never packed, because its product is tiny, and never streams."""


class Router(nn.Module):
    """Chooses experts from the raw residual, not from the normalised state the experts read."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.proj = Scores(config.hidden_size, config.num_experts, bias=False)
        self.scale = nn.Parameter(torch.ones(config.hidden_size))
        self.per_expert_scale = nn.Parameter(torch.ones(config.num_experts))
        self.top_k = config.top_k_experts
        self.eps = config.rms_norm_eps

    def forward(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        return choose_experts(
            residual, self.proj.weight, self.scale, self.per_expert_scale, self.eps, self.top_k
        )


class Experts(nn.Module):
    gate_up_proj: Weight | Sequence[Pair]  # by expert where they are packed, or lie apart in a file
    down_proj: Weight | Sequence[Weight]

    def __init__(self, config: ModelConfig):
        super().__init__()
        count = config.num_experts
        inner = config.moe_intermediate_size
        hidden = config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(count, hidden, inner))

    def forward(self, x: Tensor, weights: Tensor, index: Tensor) -> Tensor:
        return experts(x, self.gate_up_proj, self.down_proj, weights, index)

    def pack(self) -> None:
        """Each expert's matrices packed; the tensors of all experts are given up one after the other."""
        if not isinstance(self.gate_up_proj, nn.Parameter) or not isinstance(self.down_proj, nn.Parameter):
            return
        if not pays_packed(self.down_proj[0]):
            return
        if takes(self.gate_up_proj) and takes(self.down_proj):
            self.gate_up_proj = nn.Parameter(pack(self.gate_up_proj), requires_grad=False)
            self.down_proj = nn.Parameter(pack(self.down_proj), requires_grad=False)
            return
        pairs: list[Pair] = []
        for both in self.gate_up_proj:
            gate, up = both.chunk(2)
            pairs.append((pack(gate), pack(up)))
        del self.gate_up_proj
        down = [pack(weight) for weight in self.down_proj]
        del self.down_proj
        self.gate_up_proj = pairs
        self.down_proj = down


class Layer(nn.Module):
    """x + attention, then x + (dense MLP + experts), times the scalar of the mode (encode or denoise)."""

    layer_scalar: Tensor
    encoder_layer_scalar: Tensor

    def __init__(self, config: ModelConfig, layer: LayerConfig):
        super().__init__()
        hidden = config.hidden_size
        eps = config.rms_norm_eps
        self.self_attn = Attention(config, layer)
        self.mlp = GatedMLP(hidden, config.intermediate_size)
        self.router = Router(config)
        self.experts = Experts(config)
        self.input_layernorm = Norm(hidden, eps)
        self.post_attention_layernorm = Norm(hidden, eps)
        self.pre_feedforward_layernorm = Norm(hidden, eps)
        self.post_feedforward_layernorm = Norm(hidden, eps)
        self.post_feedforward_layernorm_1 = Norm(hidden, eps)
        self.pre_feedforward_layernorm_2 = Norm(hidden, eps)
        self.post_feedforward_layernorm_2 = Norm(hidden, eps)
        self.register_buffer("layer_scalar", torch.ones(1))
        self.register_buffer("encoder_layer_scalar", torch.ones(1))

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], attend: Attend, encoding: bool | Tensor
    ) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x), rope, attend)
        x = self.post_attention_layernorm.add_to(x, attended)
        dense = self.post_feedforward_layernorm_1(self.mlp(self.pre_feedforward_layernorm(x)))
        flat = x.flatten(0, 1)
        weights, index = self.router(flat)
        sparse = self.experts(self.pre_feedforward_layernorm_2(flat), weights, index).view_as(x)
        both = self.post_feedforward_layernorm_2.add_to(dense, sparse)
        x = self.post_feedforward_layernorm.add_to(x, both)
        if isinstance(encoding, Tensor):  # rows of both modes, [1, T, 1] bool
            return x * torch.where(encoding, self.encoder_layer_scalar, self.layer_scalar)
        return x * (self.encoder_layer_scalar if encoding else self.layer_scalar)
