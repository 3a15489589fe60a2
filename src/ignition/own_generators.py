"""Random generators of many processes: while they train each draws from its own, and else all draw the same.

So dropout is another one in each process, and what a script draws between two fits (a split of the data, the weights
of a model) is the same in all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ignition import distributed, rng
from ignition.codec import decode, encode

__all__ = ["OwnGenerators"]


class OwnGenerators:
    """Those of a training in this process; the first process has none but those that the script has."""

    def __init__(self) -> None:
        self._states: dict[str, Any] | None = None  # where they are, while the script draws with the others
        self._in_use = False

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside the ``with`` block this process draws from its own; at its end it waits for all processes.

        After an error nobody waits, and they stay in use. A block inside another one changes nothing.
        """
        if self._in_use or distributed.world_size() == 1:
            yield
            return
        own, self._states = self._states, None
        if own is not None:
            rng.restore(own)
        self._in_use = True
        try:
            yield
        finally:
            self._in_use = False
        if not distributed.is_main():
            self._states = rng.capture()
        _share()


def _share() -> None:
    """Gives the generators of all processes the states of the first one's; of accelerators, that of the one in use."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    device = None if accelerator is None else torch.get_device_module(accelerator)
    states = [rng.capture(accelerators=False), *([] if device is None else [device.get_rng_state()])]  # waits for it
    on_cpu, *others = shared(states)
    rng.restore(on_cpu)
    if device is not None and others:
        device.set_rng_state(others[0])


def shared(states: list[Any]) -> list[Any]:
    """The states of generators in the first process, for all. Waits for all of them."""
    tensors: dict[str, torch.Tensor] = {}
    encoded = encode(states, tensors, "generators")
    arrays = {name: [str(one.numpy().dtype), one.numpy().tobytes().hex()] for name, one in tensors.items()}
    encoded, arrays = json.loads(distributed.text_of_main(json.dumps([encoded, arrays])))
    tensors = {
        name: torch.from_numpy(np.frombuffer(bytearray.fromhex(text), dtype)) for name, (dtype, text) in arrays.items()
    }
    found: list[Any] = decode(encoded, tensors)
    return found
