"""Muon for the matrices within the model, AdamW for all else, in one optimizer."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer


class MuonWithAdamW(Optimizer):
    """Steps the matrices of attention and MLPs by ``torch.optim.Muon``, and embeddings, head and vectors by AdamW.

    Muon orthogonalises the momentum of a matrix, so that all its directions move alike (Jordan et al. 2024, "Muon: An
    optimizer for hidden layers in neural networks"). By default its steps are scaled to the size of AdamW's ("Muon is
    Scalable for LLM Training", arXiv 2502.16982, section 2.2), so that one learning rate and one weight decay serve
    both.

    Args:
        params: groups of parameters; Muon takes those whose ``kind`` is ``matrix``, and in groups without a kind
            whatever has two dimensions.
        lr: learning rate of both.
        weight_decay: decoupled weight decay of both, where the group says nothing else.
        momentum: Muon's decay rate of the momentum.
        nesterov: whether Muon looks one step of the momentum ahead.
        ns_steps: Newton-Schulz iterations of the orthogonalisation.
        adjust_lr_fn: how Muon's rate depends on a matrix of A x B: 0.2 * sqrt(max(A, B)) times ``lr``
            (``match_rms_adamw``), or sqrt(max(1, A / B)) times ``lr`` (``original``), which wants a larger ``lr``.
        betas: AdamW's decay rates of the two moments.
        eps: AdamW's term in the denominator.
    """

    needs_matrices = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: Literal["match_rms_adamw", "original"] = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        matrices, others = _split(params)
        self._inner: list[Optimizer] = []
        if matrices:
            shape: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps}
            self._inner.append(Muon(matrices, lr, weight_decay, adjust_lr_fn=adjust_lr_fn, **shape))
        if others:
            self._inner.append(AdamW(others, lr, betas, eps, weight_decay))
        super().__init__([group for inner in self._inner for group in inner.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let both step by the groups and states of this one, which schedules and checkpoints see."""
        start = 0
        for inner in self._inner:
            end = start + len(inner.param_groups)
            inner.param_groups, inner.state, start = self.param_groups[start:end], self.state, end

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step by both.

        Args:
            closure: computes the gradients; its value is returned.
        """
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for inner in self._inner:
            inner.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the states of both."""
        super().load_state_dict(state_dict)
        self._share()


def _split(params: Iterable[Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    given = list(params)
    groups: list[dict[str, Any]] = given if given and isinstance(given[0], dict) else [{"params": given}]

    def is_muons(parameter: nn.Parameter, group: dict[str, Any]) -> bool:
        return parameter.ndim == 2 and group.get("kind", "matrix") == "matrix"

    parts: list[list[dict[str, Any]]] = []
    for wanted in (True, False):
        split = ({**group, "params": [p for p in group["params"] if is_muons(p, group) is wanted]} for group in groups)
        parts.append([group for group in split if group["params"]])
    return parts[0], parts[1]
