"""The sizes of lazy modules that get their weights from a checkpoint, and not from a first batch."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _LazyNormBase
from torch.nn.modules.conv import _LazyConvXdMixin

__all__ = ["set_sizes"]


def set_sizes(model: nn.Module) -> None:
    """Tells torch's lazy modules that have loaded weights the sizes that they would have read off a batch.

    Without its size `LazyInstanceNorm2d` would refuse its next call. The rest torch does in that call: the modules
    become what they stand for, and draw nothing.
    """
    for part in model.modules():
        if not hasattr(part, "_initialize_hook") or part.has_uninitialized_params():  # type: ignore[operator]
            continue
        if isinstance(part, _LazyNormBase):
            sized = part.running_mean if part.weight is None else part.weight
            part.num_features = part.num_features if sized is None else len(sized)
        elif isinstance(part, _LazyConvXdMixin) and isinstance(part.weight, Tensor):
            part.in_channels = part.weight.shape[0] if part.transposed else part.weight.shape[1] * part.groups
