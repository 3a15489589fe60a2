"""Models, their optimizers and their averages sharded over the processes in place, by FSDP2.

What this module does, `torch.distributed.fsdp.fully_shard` does: between its uses a parameter is a DTensor of which
each process has some rows. Source: Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data
Parallel", arXiv:2304.11277.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils.weak import WeakIdKeyDictionary

from ignition.device import tensors_in
from ignition.dtensors import shard_like
from ignition.errors import ArgumentError
from ignition.fsdp_plan import (
    check_model,
    check_optimizer,
    check_same,
    check_types,
    forward_methods,
    groups,
    make_contiguous,
    policy_of,
    skeleton,
)  # fmt: skip
from ignition.stale_parameters import retire
from ignition.structure import named

__all__ = ["Sharded", "broadcast_buffers", "check", "shard", "shard_optimizer_state", "sharded_before"]

_Leaves: TypeAlias = dict[int, tuple[Tensor, Tensor]]  # with the sharded parameter itself, so that its id stays its own


class Sharded:
    """What is known of models that `shard` has sharded.

    Attributes:
        models: The user's own models, sharded in place: they are what the functions receive.
        mesh: The processes, in one row.
    """

    def __init__(self, models: Any, options: Any, mesh: DeviceMesh) -> None:
        self.models = models
        self.mesh = mesh
        self._options = options
        self._paths = {name: groups(model, options.wrap) for name, model in named(models).items()}
        self._skeletons = {name: skeleton(model) for name, model in named(models).items()}
        self._leaves: _Leaves = {}
        self._renewed: Any = WeakIdKeyDictionary()  # from the parameters of before to the new ones
        self._hooked: WeakSet[Optimizer] = WeakSet()

    def adopt(self, optimizers: Any) -> None:
        """Points optimizers that were made before to the sharded parameters, with what they keep of them."""
        renewed = {id(old): new for old, new in self._renewed.items()}
        for optimizer in named(optimizers).values():
            if isinstance(optimizer, Optimizer):
                _point_to(optimizer, renewed)
                if not self._options.reshard_after_forward and optimizer not in self._hooked:
                    self._hooked.add(optimizer)  # the next forward pass would use what the step has not changed
                    optimizer.register_step_pre_hook(self.reshard)

    def leaves(self, parameters: Iterable[Tensor]) -> list[Tensor]:
        """What stands for the parameters in the graph: what ``backward(inputs=...)`` is to be given.

        The sharded parameters themselves are in no graph, and a backward pass asked for their gradients finds none,
        without a word. Parameters of a module that has not been called yet are left out; those that are not sharded
        are returned as they are.
        """
        known = self._leaves
        return [
            known[id(one)][1] if id(one) in known else one
            for one in parameters
            if id(one) in known or not hasattr(one, "device_mesh")
        ]

    def reduce(self, on: bool) -> None:
        """Whether the next backward passes reduce the gradients over the processes, or keep them whole in each.

        What was kept is reduced with the next that does. Keeping them saves communication and costs the memory of a
        whole gradient; with reduction at each batch of a window the sum is the same.
        """
        for model in named(self.models).values():
            model.set_requires_gradient_sync(on)

    def parts(self) -> Iterator[Any]:
        """The modules that are gathered each on its own, the outermost too."""
        return (part for model in named(self.models).values() for part in _sharded_parts(model))

    def reshard(self, *_: Any) -> None:
        """Lets go of whole parameters that ``reshard_after_forward=False`` has kept; they would not be as stepped."""
        for part in self.parts():
            part.reshard()

    def reset(self) -> None:
        """Forgets a forward or backward pass that an exception has cut short, and gradients kept from before it."""
        self.reshard()
        for model in named(self.models).values():
            if hasattr(model, "reset_iter_state"):  # not in the first releases of FSDP2
                model.reset_iter_state()
            for _, leaf in self._leaves.values():
                leaf.grad = None

    def average(self, name: str, make: Callable[[nn.Module], AveragedModel]) -> AveragedModel:
        """An average of a model that is sharded already, which cannot be copied: sharded too, with no values yet.

        Args:
            name: Which model, as `ignition.structure.named` has it.
            make: Makes the average of a plain model: ``lambda model: AveragedModel(model, ...)``.
        """
        empty = self._skeletons[name]
        if empty is None:
            raise ArgumentError(
                "an average was begun of a model that is sharded, and of which copy.deepcopy makes no copy",
                expected="a model that can be copied, or the callback in the first fit",
                fix="add EMA or SWA to the callbacks before the first fit",
            )
        averaged = make(empty)
        self._shard(name, averaged.module, None)
        model, device = named(self.models)[name], torch.device(self.mesh.device_type)
        averaged.module._apply(  # type: ignore[no-untyped-call]
            lambda one: torch.empty_like(one, device=device) if one.is_meta else one.to(device)
        )
        _settle(averaged.module)
        for mine, theirs in zip(averaged.module.parameters(), model.parameters(), strict=True):
            mine.detach().copy_(theirs.detach())
        for buffer, present in zip(averaged.module.buffers(), model.buffers(), strict=True):
            buffer.copy_(present)
        return averaged

    def _shard(self, name: str, model: nn.Module, leaves: _Leaves | None) -> None:
        """Shards a model, or an average of it, by the paths that were found for it."""
        options, policy = self._options, policy_of(self._options.precision)
        for path in (*self._paths[name], ""):
            part = model.get_submodule(path)
            more = () if path else tuple(getattr(options, "methods", ()))
            methods = forward_methods(part, more)
            # The outermost too, which torch would leave gathered: a step after a forward pass without a backward one
            # would go unseen by the next.
            fully_shard(part, mesh=self.mesh, reshard_after_forward=options.reshard_after_forward, mp_policy=policy)
            _Group(part, methods, leaves)


def check(models: Any, optimizers: Any, options: Any) -> None:
    """Finds what cannot be sharded, before anything is changed.

    Args:
        models: An ``nn.Module``, or a list, tuple or dict of them.
        optimizers: An optimizer, or a list, tuple or dict of them, or None.
        options: With ``wrap``, ``precision`` and ``reshard_after_forward``.

    Raises:
        ArgumentError: If there is something.
    """
    for name, model in named(models).items():
        if any(True for _ in _sharded_parts(model)):
            raise ArgumentError(
                f"the model{f' {name!r}' if name else ''} is sharded already",
                expected="one that is not, or whose models another Trainer has sharded in the same way",
                fix="leave it to strategy=FSDP(...), or to fully_shard alone; give a further Trainer the same of both",
            )
    check_model(models)
    names = {id(one): _joined(name, path) for name, path, one in _parameters(models)}
    check_optimizer(optimizers, names)
    policy_of(options.precision)
    for model in named(models).values():
        check_types(model, groups(model, options.wrap))


def shard(
    models: Any, optimizers: Any, options: Any, mesh: DeviceMesh, averages: Iterable[Mapping[str, AveragedModel]] = ()
) -> Sharded:
    """Shards models in place, with what their optimizers keep of them, and the averages of them.

    Parameters, their gradients and buffers, the optimizers' memory and the averages become those of the first process.
    The optimizers stay the same objects: their groups hold the sharded parameters now. All processes must call it.

    Args:
        models: An ``nn.Module``, or a list, tuple or dict of them, on the device.
        optimizers: An optimizer, or a list, tuple or dict of them, or None. Their parameters that are none of a
            model's stay as they are.
        options: With ``wrap``, ``precision`` and ``reshard_after_forward``; ``methods``, where it has them, are
            methods of the models that compute with the parameters whatever they are given.
        mesh: The processes, in one row.
        averages: For each callback that keeps averages, the average of each model by name, made before this.

    Raises:
        ArgumentError: If something cannot be sharded, or differs between the processes in more than its values.
            Nothing is changed then.
    """
    check(models, optimizers, options)
    averages = [dict(one) for one in averages]
    memory = list(_memory(optimizers, {id(one) for _, _, one in _parameters(models)}))
    states = [*_tensors(models)]
    for kept in averages:
        states += _tensors(kept)
    states += [value for _, value in memory if isinstance(value, Tensor)]
    gradients = {
        id(one): one.grad
        for _, _, one in _parameters(models)
        if one.grad is not None and one.grad.layout is torch.strided
    }
    states += gradients.values()
    check_same(mesh, [f"{tuple(one.shape)} {one.dtype} {one.requires_grad}" for one in states], memory)
    sharded = Sharded(models, options, mesh)
    for one in states:
        _broadcast(one, mesh)
    before = list(_parameters(models))
    for name, model in named(models).items():
        make_contiguous(model)
        sharded._shard(name, model, sharded._leaves)
        _settle(model)
    for kept in averages:
        for name, averaged in kept.items():
            make_contiguous(averaged.module)
            sharded._shard(name, averaged.module, None)
            _settle(averaged.module)
    after = {(name, path): parameter for name, path, parameter in _parameters(models)}
    renewed = {id(old): after[name, path] for name, path, old in before}
    for key, gradient in gradients.items():
        renewed[key].grad = shard_like(gradient, renewed[key])  # a step may still be to use it
    for _, _, old in before:
        sharded._renewed[old] = renewed[id(old)]
    sharded.adopt(optimizers)
    for model in named(models).values():
        model._get_fsdp_state()._ignition = sharded
    retire((_joined(name, path), old) for name, path, old in before)
    return sharded


def sharded_before(models: Any, options: Any) -> Sharded | None:
    """What `shard` has made of these very models, under the same names and with the same options; None else."""
    known = [
        getattr(one._get_fsdp_state(), "_ignition", None) if isinstance(one, FSDPModule) else None
        for one in named(models).values()
    ]
    before = known[0] if known else None
    if before is None or any(one is not before for one in known) or before._options != options:
        return None
    theirs = named(before.models)
    same = theirs.keys() == named(models).keys() and all(theirs[name] is one for name, one in named(models).items())
    return before if same else None


def broadcast_buffers(models: Any, mesh: DeviceMesh) -> None:
    """Gives every process the first one's buffers, such as the statistics of batch norm; all must call it."""
    for model in named(models).values():
        for buffer in model.buffers():
            _broadcast(buffer, mesh)


def shard_optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A state dict whose tensors are whole as one that ``optimizer.load_state_dict`` takes, and the other way round.

    Each tensor of a parameter's shape becomes as sharded as the parameter; what is so already stays.
    """
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    renewed = {}
    for index, entries in state["state"].items():
        like = parameters[index] if isinstance(index, int) and index < len(parameters) else None
        renewed[index] = entries if like is None else {key: _moved(value, like) for key, value in entries.items()}
    return {**state, "state": renewed}


def _moved(value: Any, like: Tensor) -> Any:
    return shard_like(value, like) if isinstance(value, Tensor) and value.ndim and value.shape == like.shape else value


def _point_to(optimizer: Optimizer, renewed: Mapping[int, nn.Parameter]) -> None:
    for group in optimizer.param_groups:
        group["params"] = [renewed.get(id(one), one) for one in group["params"]]
    kept = list(optimizer.state.items())
    optimizer.state.clear()
    for key, entries in kept:
        new = renewed.get(id(key))
        if new is None:
            optimizer.state[key] = entries
        else:
            optimizer.state[new] = {name: _moved(value, new) for name, value in entries.items()}


class _Group:
    """A module that is gathered on its own: around which of its methods, and what it is gathered to.

    Args:
        part: What fully_shard has sharded.
        methods: The methods, and whether each computes with the parameters in any case, or where it gets a tensor.
        leaves: Receives what stands in the graph for each parameter, by its id: that is there from the first call on,
            and stays. None where no gradients are asked for.
    """

    def __init__(self, part: nn.Module, methods: Mapping[str, bool], leaves: _Leaves | None) -> None:
        inner = {id(one) for child in _sharded_parts(part) if child is not part for one in child.parameters()}
        every = part.named_parameters(remove_duplicate=False)
        self._part = part
        self._unseen = [] if leaves is None else [(path, one) for path, one in every if id(one) not in inner]
        self._leaves: _Leaves = {} if leaves is None else leaves
        self._depth = 0  # of methods around which the parameters are gathered already
        part.register_forward_pre_hook(self._enter)  # it comes after that of FSDP, which gathers
        part.register_forward_hook(self._leave, always_call=True)
        for name, always in methods.items():
            self._surround(name, always)

    def _enter(self, *_: Any) -> None:
        self._depth += 1
        if self._unseen:
            self._note()

    def _leave(self, *_: Any) -> None:
        self._depth = max(0, self._depth - 1)

    def _note(self) -> None:
        for path, sharded in self._unseen:
            owner, _, name = path.rpartition(".")
            whole = self._part.get_submodule(owner)._parameters[name]
            if whole is not None and whole is not sharded:
                self._leaves[id(sharded)] = (sharded, whole)
        self._unseen = []

    def _surround(self, name: str, always: bool) -> None:
        """Has a method gather the parameters, whoever calls it: another one of these too, and then only once."""
        plain = getattr(self._part, name)

        @functools.wraps(plain)
        def entered(*args: Any, **kwargs: Any) -> Any:
            self._enter()
            try:
                return plain(*args, **kwargs)
            finally:
                self._leave()

        setattr(self._part, name, entered)
        register_fsdp_forward_method(self._part, name)
        gathers = getattr(self._part, name)

        @functools.wraps(plain)
        def method(*args: Any, **kwargs: Any) -> Any:
            if self._depth or not (always or any(True for _ in tensors_in((args, kwargs)))):
                return plain(*args, **kwargs)
            return gathers(*args, **kwargs)

        setattr(self._part, name, method)


def _settle(model: Any) -> None:
    """Says which is the outermost, so that a part may be called alone before it has been; torch has no public way."""
    model._get_fsdp_state()._lazy_init()


def _sharded_parts(model: nn.Module) -> Iterator[Any]:
    return (part for part in model.modules() if isinstance(part, FSDPModule))


def _joined(name: str, path: str) -> str:
    return f"{name}.{path}" if name else path


def _parameters(models: Any) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Every parameter under every name that it has."""
    for name, model in named(models).items():
        for path, parameter in model.named_parameters(remove_duplicate=False):
            yield name, path, parameter


def _tensors(models: Any) -> Iterator[Tensor]:
    for model in named(models).values():
        yield from model.parameters()
        yield from model.buffers()


def _memory(optimizers: Any, sharded: set[int]) -> Iterator[tuple[str, Any]]:
    """What the optimizers keep of the parameters that are to be sharded."""
    for name, optimizer in named(optimizers).items():
        for group in getattr(optimizer, "param_groups", ()):
            for index, parameter in enumerate(group["params"]):
                for key, value in optimizer.state.get(parameter, {}).items() if id(parameter) in sharded else ():
                    yield f"{name} {index} {key} {type(value).__name__}", value


def _broadcast(tensor: Tensor, mesh: DeviceMesh) -> None:
    """Gives every process the first one's values, of any type and layout in memory."""
    whole = tensor.detach()
    flat = whole.contiguous().reshape(-1).view(torch.uint8)
    if not flat.numel():
        return
    dist.broadcast(flat, group=mesh.get_group(), group_src=0)
    if not whole.is_contiguous():
        whole.copy_(flat.view(whole.dtype).reshape(whole.shape))
