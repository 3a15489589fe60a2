"""Models that are sharded over real processes train as one process does on the whole batch, to 1e-6."""

from __future__ import annotations

import dataclasses
import gc
import json
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import run_processes
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ignition.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class Options:
    """What the strategy object has."""

    wrap: Any = None
    precision: Any = None
    reshard_after_forward: bool = True
    methods: tuple[str, ...] = ()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(7)
        self.linear = nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.mix(self.norm(x)))

    def mix(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.linear.weight, self.linear.bias)


class Net(nn.Module):
    """Blocks, tied weights, a frozen layer, a buffer, and a method that computes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.fixed = nn.Linear(7, 7).requires_grad_(False)
        self.head = nn.Linear(7, 7)
        self.tied = nn.Linear(7, 7, bias=False)
        self.tied.weight = self.head.weight
        self.register_buffer("scale", torch.tensor([1.5]))

    def encode(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.fixed(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.tied(torch.relu(self.head(self.encode(x)))) * self.scale

    def described(self) -> str:
        return f"{sum(one.numel() for one in self.parameters())} parameters"


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def data(step: int, samples: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(samples, 5, generator=generator), torch.randn(samples, 7, generator=generator)


MAKERS = {
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
    "foreach": lambda parameters: torch.optim.Adam(parameters, lr=0.01, foreach=True, amsgrad=True),
}


def start() -> tuple[int, int, Any]:
    warnings.simplefilter("error")
    dist.init_process_group("gloo")
    return dist.get_rank(), dist.get_world_size(), dist.init_device_mesh("cpu", (dist.get_world_size(),))


def end() -> None:
    """Ends the group. A thread of gloo's that is still at work when Python ends would abort the process (SIGABRT)."""
    dist.destroy_process_group()
    gc.collect()
    time.sleep(0.1)


def mine(batch: tuple[Tensor, Tensor], rank: int, count: int) -> tuple[Tensor, Tensor]:
    return tuple(one.chunk(count)[rank] for one in batch)


def whole(parameter: Any) -> Tensor:
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter.detach()


def agree(sharded: nn.Module, plain: nn.Module, tolerance: float = 1e-6) -> None:
    for (name, one), other in zip(sharded.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(
            whole(one), other.detach(), rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def loss_of(model: Any, batch: tuple[Tensor, Tensor], call: str = "()") -> Tensor:
    output = model(batch[0]) if call == "()" else model.forward(batch[0])
    return (output - batch[1]).square().mean()


# What the processes run


def training(folder: str) -> None:
    from ignition.dtensors import total_norm
    from ignition.fsdp import shard, shard_optimizer_state

    rank, count, mesh = start()
    for name, make in MAKERS.items():
        plain, model = net(), net(seed=0 if rank == 0 else 77)  # made equal by the first process
        extra = nn.Parameter(torch.ones(3))
        reference, optimizer = make([*plain.parameters()]), make([*model.parameters(), extra])
        loss_of(plain, data(100)).backward()  # there is state before the model is sharded
        reference.step()
        loss_of(model, data(100)).backward()
        optimizer.step()
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        kept = AveragedModel(plain, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        sharded = shard(model, optimizer, Options(), mesh, [{"": average}])
        assert len(optimizer.state) == len(reference.state)
        assert optimizer.param_groups[0]["params"][-1] is extra
        assert model.tied.weight is model.head.weight
        agree(model, plain)
        agree(average.module, plain)
        for step in range(4):
            batch = data(step)
            call = "()" if step % 2 else ".forward"
            reference.zero_grad()
            loss_of(plain, batch).backward()
            norm = nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            reference.step()
            kept.update_parameters(plain)

            optimizer.zero_grad()
            loss_of(model, mine(batch, rank, count), call).backward()
            gradients = [one.grad for one in model.parameters() if one.grad is not None]
            found = total_norm(gradients)
            torch.testing.assert_close(found, norm, rtol=1e-6, atol=1e-6)
            nn.utils.clip_grads_with_norm_(model.parameters(), 0.5, found)
            optimizer.step()
            average.update_parameters(model)
            agree(model, plain)
            agree(average.module, plain if step == 0 else kept.module)
        late = sharded.average("", lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5)))
        late.update_parameters(model)
        agree(late.module, plain)
        late.eval()
        average.eval()
        torch.testing.assert_close(average(batch[0]), kept(batch[0]), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(late.module(batch[0]), plain(batch[0]), rtol=1e-5, atol=1e-5)

        # The optimizer's memory, taken as it is and given back from whole tensors
        state = optimizer.state_dict()
        before = {key: whole(value) for key, value in state["state"][0].items()}
        wholes = {
            index: {key: whole(value).clone() for key, value in one.items()} for index, one in state["state"].items()
        }
        optimizer.load_state_dict(shard_optimizer_state(optimizer, {**state, "state": wholes}))
        for key, value in optimizer.state[model.first.weight].items():
            assert torch.equal(whole(value), before[key]), (name, key)
            assert hasattr(value, "full_tensor") == (value.ndim > 0)
    end()


def accumulating(folder: str) -> None:
    """Windows of three batches, with and without reduction at each; weights that differ over the processes."""
    from ignition.fsdp import shard

    rank, count, mesh = start()
    for reduces in (False, True):
        plain, model = net(), net()
        reference, optimizer = MAKERS["adamw"](plain.parameters()), MAKERS["adamw"](model.parameters())
        sharded = shard(model, optimizer, Options(), mesh)
        for window in range(2):
            reference.zero_grad()
            optimizer.zero_grad()
            total = 0
            for index in range(3):
                batch = data(10 * window + index, samples=7)  # 4 and 3, or 3, 3 and 1
                (loss_of(plain, batch) * 7 / 21).backward()
                part = mine(batch, rank, count)
                total += len(part[0])
                sharded.reduce(reduces or index == 2)
                # FSDP takes the mean over the processes
                torch.autograd.backward(
                    loss_of(model, part) * len(part[0]) * count / 21,
                    inputs=sharded.leaves(one for one in model.parameters() if one.requires_grad),
                )
                has = model.first.weight.grad is not None
                assert has == (reduces or index == 2), (reduces, index)
            assert total <= 12
            reference.step()
            optimizer.step()
            agree(model, plain)
    end()


def two_models(folder: str) -> None:
    """A generator and a discriminator, each with gradients of its own; methods; what an exception leaves behind."""
    from ignition.fsdp import shard

    rank, count, mesh = start()
    models, plains = {"G": net(1), "D": net(2)}, {"G": net(1), "D": net(2)}
    optimizers = {name: MAKERS["momentum"](one.parameters()) for name, one in models.items()}
    sharded = shard(models, optimizers, Options(wrap=Block), mesh)
    batch = data(3)
    part = mine(batch, rank, count)

    def loss(pair: Any, given: tuple[Tensor, Tensor]) -> Tensor:
        return (pair["D"](pair["G"](given[0])[:, :5]) - given[1]).square().mean()

    # The parameters of one optimizer alone receive gradients, as they do without sharding
    inputs = [one for one in plains["G"].parameters() if one.requires_grad]
    torch.autograd.backward(loss(plains, batch), inputs=inputs)
    mine_alone = [one for one in models["G"].parameters() if one.requires_grad]
    value = loss(models, part)
    leaves = sharded.leaves(mine_alone)
    assert len(leaves) == len(mine_alone)
    torch.autograd.backward(value, inputs=leaves)
    for one, other in zip(mine_alone, inputs, strict=True):
        torch.testing.assert_close(whole(one.grad), other.grad, rtol=1e-6, atol=1e-6)
    assert all(one.grad is None for one in models["D"].parameters())
    for optimizer in optimizers.values():
        optimizer.zero_grad()

    # Methods of the user's: called by itself, by another, without a tensor by one process alone
    torch.testing.assert_close(models["G"].encode(batch[0]), plains["G"].encode(batch[0]), rtol=1e-6, atol=1e-6)
    hidden = plains["G"].encode(batch[0])
    torch.testing.assert_close(
        models["G"].blocks[0].mix(hidden), plains["G"].blocks[0].mix(hidden), rtol=1e-6, atol=1e-6
    )
    if rank == 0:
        assert "parameters" in models["G"].described()

    # A pass that was cut short leaves nothing that the next one sees
    fails = True
    plain_mix = models["G"].blocks[1].mix

    def mix(x: Tensor) -> Tensor:
        if fails:
            raise ValueError("in the middle of a forward pass")
        return plain_mix(x)

    models["G"].blocks[1].mix = mix
    sharded.reduce(False)
    loss_of(models["D"], part).backward()  # kept whole, and never reduced
    with pytest.raises(ValueError, match="in the middle"):
        models["G"](part[0])
    sharded.reset()
    sharded.reduce(True)
    fails = False
    assert all(hasattr(one, "full_tensor") for model in models.values() for one in model.parameters())
    for name in ("G", "D"):
        for one in plains[name].parameters():
            one.grad = None
        loss_of(models[name], part).backward()
        loss_of(plains[name], batch).backward()
        for one, other in zip(models[name].parameters(), plains[name].parameters(), strict=True):
            if other.grad is not None:
                torch.testing.assert_close(whole(one.grad), other.grad, rtol=1e-6, atol=1e-6)

    # A forward pass between backward and step does not keep the parameters of before the step
    for again in (True, False):
        model, plain = net(), net()
        optimizer, reference = (torch.optim.SGD(one.parameters(), lr=0.1) for one in (model, plain))
        options = Options(reshard_after_forward=again)
        shard(model, optimizer, options, mesh)
        hidden = model.blocks[0](torch.ones(2, 7))  # a part before the whole
        torch.testing.assert_close(hidden, plain.blocks[0](torch.ones(2, 7)))
        for one, step, given in ((model, optimizer, part), (plain, reference, batch)):
            loss_of(one, given).backward()
            with torch.no_grad():
                one(given[0])
            step.step()
        torch.testing.assert_close(model(batch[0]), plain(batch[0]), rtol=1e-6, atol=1e-6)
        with pytest.raises(ArgumentError, match="is sharded already"):
            shard(model, optimizer, options, mesh)

    # Mixed precision: what is kept is of 32 bits, what is computed of 16
    half = net()
    shard(half, None, Options(precision="bf16"), mesh)
    output = half.encode(part[0])
    assert output.dtype == torch.bfloat16
    output.float().square().mean().backward()
    assert half.first.weight.grad.dtype == half.first.weight.dtype == torch.float32

    # Memory in another order, and whole models of lists alone
    image = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2)).to(memory_format=torch.channels_last)
    expected = image(torch.ones(2, 3, 4, 4))
    expected = expected.clone()
    dist.broadcast(expected, 0)
    shard(image, None, Options(), mesh)
    torch.testing.assert_close(image(torch.ones(2, 3, 4, 4)), expected, rtol=1e-6, atol=1e-6)

    # What differs between the processes is an error in all of them, and no wait
    odd = nn.Sequential(nn.Linear(3, 4 + (rank == 1)))
    with pytest.raises(ArgumentError, match="of process 1 are not those of process 0"):
        shard(odd, None, Options(), mesh)
    assert type(odd) is nn.Sequential

    Path(folder, f"{rank}.json").write_text(json.dumps({"state": [*models["G"].state_dict()]}))
    end()


# The tests


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_sharded_models_optimizers_and_averages_are_those_of_one_process(count: int, tmp_path: Path) -> None:
    run_processes(training, count, tmp_path, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_gradients_are_gathered_over_a_window_with_and_without_reduction(count: int, tmp_path: Path) -> None:
    run_processes(accumulating, count, tmp_path, folder=tmp_path)


@pytest.mark.slow
def test_two_models_methods_and_what_an_exception_leaves(tmp_path: Path) -> None:
    run_processes(two_models, 2, tmp_path, folder=tmp_path)
    states = [json.loads((tmp_path / f"{rank}.json").read_text())["state"] for rank in range(2)]
    assert states == [[*net().state_dict()]] * 2
