"""The gradients that an optimizer is about to use: of which parameters, and their norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["total_norm", "trained_parameters", "with_gradients"]


def trained_parameters(optimizer: Optimizer) -> list[Tensor]:
    """The parameters of an optimizer that require gradients."""
    return [one for group in optimizer.param_groups for one in group["params"] if one.requires_grad]


def with_gradients(optimizer: Optimizer) -> tuple[list[Tensor], list[Tensor]]:
    """Those parameters that the step will move, with what it will move them by."""
    parameters = [one for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
    return parameters, [one.grad for one in parameters]


def total_norm(parameters: Sequence[Tensor]) -> Tensor:
    """The norm of the gradient over all parameters, a 0-d tensor."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if any(hasattr(one, "device_mesh") for one in gradients):  # rows of them: of all processes together
        from ignition import dtensors

        return dtensors.total_norm(gradients)
    # torch has no norm for the sparse gradient of an embedding.
    return torch.nn.utils.get_total_norm([one.coalesce().values() if one.is_sparse else one for one in gradients])
