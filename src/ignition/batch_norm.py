"""Batch norm whose statistics are taken over the batches of all processes, on the CPU too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase

__all__ = ["synchronise_batch_norm"]


def synchronise_batch_norm(module: nn.Module) -> None:
    """Has each batch norm layer of a module count the samples of all processes; in place, and the same objects.

    ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` would put new layers there, which lack the hooks and marks of the
    old ones.
    """
    for part in module.modules():
        if isinstance(part, _BatchNorm) and not isinstance(part, (nn.SyncBatchNorm, _LazyNormBase)):
            part.__class__ = SyncedBatchNorm
            vars(part)["process_group"] = None  # the default one


class SyncedBatchNorm(_BatchNorm):
    """``torch.nn.SyncBatchNorm``, which knows accelerators alone, with the same for tensors on the CPU.

    Not derived from it: DDP refuses a model on the CPU that has one.

    Source: Ioffe and Szegedy 2015, Batch Normalization, arXiv:1502.03167, algorithm 1, over all processes.
    """

    _check_input_dim: Any = nn.SyncBatchNorm._check_input_dim
    _check_non_zero_input_channels: Any = nn.SyncBatchNorm._check_non_zero_input_channels

    def forward(self, input: Tensor) -> Tensor:
        """Normalizes ``(batch, features, ...)``."""
        # In evaluation each process is by itself: they need not have as many batches.
        if not (self.training and input.is_cpu and torch.distributed.is_initialized()):
            return nn.SyncBatchNorm.forward(self, input)  # type: ignore[arg-type]
        self._check_input_dim(input)
        mean, variance, count = _statistics(input)
        if self.running_mean is not None:
            self._keep(mean.detach(), variance.detach() * (count / (count - 1)))
        shape = [1, -1] + [1] * (input.ndim - 2)
        normalized = (input - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is None:
            return normalized
        return normalized * self.weight.view(shape) + self.bias.view(shape)

    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics, as batch norm in one process does."""
        buffers: Any = self
        with torch.no_grad():
            buffers.num_batches_tracked.add_(1)
            share = 1 / float(buffers.num_batches_tracked) if self.momentum is None else self.momentum
            buffers.running_mean.lerp_(mean.to(buffers.running_mean.dtype), share)
            buffers.running_var.lerp_(variance.to(buffers.running_var.dtype), share)


class _Sum(torch.autograd.Function):
    """The sum over the processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        """Waits for all of them."""
        total = local.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Waits for all of them, too."""
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total


def _statistics(input: Tensor) -> tuple[Tensor, Tensor, float]:
    """The mean and the (biased) variance of each feature over all processes, and of how many values they are."""
    total_of: Callable[[Tensor], Tensor] = _Sum.apply
    axes = [axis for axis in range(input.ndim) if axis != 1]
    count = input.new_tensor([input.numel() / input.shape[1]], dtype=torch.float64)
    torch.distributed.all_reduce(count)
    total = count.item()
    mean = total_of(input.sum(axes)) / total
    centred = input - mean.view([1, -1] + [1] * (input.ndim - 2))
    return mean, total_of(centred.square().sum(axes)) / total, total
