"""A mixture-of-experts feed-forward network, computed expert by expert on the tokens that chose it.

Tokens are sorted by expert, each expert computes its own in one piece, and the results are brought back into the
tokens' order before they are weighted and summed, so a token's sum never depends on who else chose the same experts.
Not here: expert parallelism, offloading, grouped kernels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelyard.models.config import MoeConfig
from steelyard.models.layers import GatedMlp


class MixtureOfExperts(nn.Module):
    """Router, experts, and where the model has one a shared expert behind a sigmoid gate."""

    def __init__(self, config: MoeConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.router = nn.Linear(hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(
            GatedMlp(hidden_size, config.size, config.activation) for _ in range(config.num_experts)
        )
        self.shared: GatedMlp | None = None
        self.shared_gate: nn.Linear | None = None
        if config.shared_size is not None:
            self.shared = GatedMlp(hidden_size, config.shared_size, config.activation)
            self.shared_gate = nn.Linear(hidden_size, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[tokens, hidden_size]`` of ``x`` ``[tokens, hidden_size]``."""
        weights, chosen = self.route(x)
        out = weighted_sum(self._expert_outputs(x, chosen), weights)
        if self.shared is not None and self.shared_gate is not None:
            out = out + row_sigmoid(self.shared_gate(x)) * self.shared(x)
        return out

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the chosen experts' weights (dtype of ``x``) and indices, each ``[tokens, top_k]``."""
        probabilities = F.softmax(self.router(x).float(), dim=-1)
        weights, chosen = probabilities.topk(self.config.top_k, dim=-1)
        if self.config.renormalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights.to(x.dtype), chosen

    def _expert_outputs(self, x: Tensor, chosen: Tensor) -> Tensor:
        """Return each token through each of its experts, ``[tokens, top_k, hidden_size]``."""
        num_tokens, top_k = chosen.shape
        by_expert = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=self.config.num_experts).tolist()
        parts = torch.split(x[by_expert // top_k], counts)
        computed = [expert(part) for expert, part in zip(self.experts, parts, strict=True) if len(part)]
        outputs = x.new_empty(num_tokens * top_k, x.shape[-1])
        if computed:
            outputs[by_expert] = torch.cat(computed)
        return outputs.view(num_tokens, top_k, x.shape[-1])


def row_sigmoid(x: Tensor) -> Tensor:
    """Return the sigmoid of ``x`` ``[rows, 1]``, each row's bits its own.

    ``torch.sigmoid`` computes the last few elements of an array in another way than the rest, so with one column a
    row's bits would depend on how many rows there are. The softmax of ``(x, 0)`` is the same function, row by row.
    """
    return F.softmax(F.pad(x, (0, 1)), dim=-1)[:, :1]


def weighted_sum(outputs: Tensor, weights: Tensor) -> Tensor:
    """Return ``[tokens, hidden_size]``: each token's ``outputs`` ``[tokens, top_k, hidden_size]`` times ``weights``.

    Summed in the order of the router's choice, so that a row's bits do not depend on the other rows.
    """
    return (outputs * weights[..., None]).sum(dim=1)
