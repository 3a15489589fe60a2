"""TensorLoader: the batches of a DataLoader over a TensorDataset, without its cost."""

from itertools import chain

import dealing
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from ignition import TensorLoader, Trainer, evaluate, predict, predict_on_batch
from ignition.data import Borrowed, Shard, iterate, rekeyed
from ignition.errors import ArgumentError, BatchError

x = torch.arange(21.0).reshape(21, 1)
y = torch.arange(21)


def values(batches):
    return [batch[-1].tolist() for batch in batches]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 21, 30])
def test_without_shuffling_it_yields_what_a_data_loader_yields(batch_size, drop_last):
    ours = TensorLoader(x, y, batch_size=batch_size, drop_last=drop_last)
    theirs = DataLoader(TensorDataset(x, y), batch_size, drop_last=drop_last)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert isinstance(mine, tuple)
        assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))


def test_shuffled_it_yields_each_sample_once_in_batches_of_the_same_sizes():
    loader = TensorLoader(x, y, batch_size=4, shuffle=True)
    batches = list(loader)
    assert [len(batch) for batch, _ in batches] == [4, 4, 4, 4, 4, 1]
    assert sorted(chain(*values(batches))) == list(range(21))
    assert all(torch.equal(inputs[:, 0], targets.float()) for inputs, targets in batches)


def test_the_order_is_drawn_anew_each_epoch_from_torchs_generator():
    loader = TensorLoader(y, batch_size=4, shuffle=True)
    torch.manual_seed(3)
    first, second = values(loader), values(loader)
    torch.manual_seed(3)
    again = torch.randperm(21)
    assert first != second
    assert list(chain(*first)) == again.tolist()


def test_the_order_is_the_same_wherever_the_tensors_are():
    torch.manual_seed(0)
    here = values(TensorLoader(y, batch_size=4, shuffle=True))
    torch.manual_seed(0)
    # The meta device holds no values; that it draws the same numbers shows in the generator's state after it.
    there = list(TensorLoader(y, batch_size=4, shuffle=True, device="meta"))
    after = torch.rand(1)
    torch.manual_seed(0)
    torch.randperm(21)
    assert torch.equal(after, torch.rand(1))
    assert len(there) == len(here)
    assert all(batch.device.type == "meta" for (batch,) in there)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_under_a_seed_any_shard_from_any_start_is_a_part_of_the_whole_epoch(shuffle, size):
    loader = TensorLoader(x, y, batch_size=4, shuffle=shuffle)
    whole = values(iterate(rekeyed(loader, 7, "train"), epoch=2))
    for rank in range(size):
        for start in range(4):
            part = iterate(rekeyed(loader, 7, "train"), epoch=2, start=start, shard=Shard(rank, size))
            assert values(part) == whole[start + rank :: size]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_for_every_number_of_samples_a_round_has_those_of_one_larger_batch(size, drop_last, shuffle):
    for samples in range(1, 41):
        settings = {"shuffle": shuffle, "drop_last": drop_last}
        larger = rekeyed(TensorLoader(torch.arange(samples), batch_size=3 * size, **settings), 7, "train")
        loader = rekeyed(TensorLoader(torch.arange(samples), batch_size=3, **settings), 7, "train")
        shares = [iterate(loader, 2, 0, Shard(rank, size), "split") for rank in range(size)]
        dealing.check_split([[*map(dealing.as_numbers, share)] for share in shares], values(iterate(larger, 2)))


def test_21_samples_that_are_left_are_split_over_the_processes():
    loader = TensorLoader(x, y, batch_size=32)
    assert [values(iterate(loader, 1, 0, Shard(rank, 2), "split")) for rank in range(2)] == [
        [list(range(11))],
        [list(range(11, 21))],
    ]
    few = TensorLoader(y[:2], batch_size=32)
    ((third,),) = (iterate(few, 1, 0, Shard(2, 3), "split"),)
    assert type(third) is Borrowed
    assert third[0].tolist() == [0]


def test_a_process_indexes_its_own_batches_alone(monkeypatch):
    taken = []
    plain = torch.Tensor.index_select
    monkeypatch.setattr(torch.Tensor, "index_select", lambda *args: taken.append(1) or plain(*args))
    loader = TensorLoader(y, batch_size=2, shuffle=True)
    assert len(list(iterate(loader, 1, 4, Shard(1, 2), "split"))) == len(taken) == 4


def test_under_a_seed_epochs_differ_and_torchs_generator_is_left_alone():
    keyed = rekeyed(TensorLoader(y, batch_size=4, shuffle=True), 7, "train")
    before = torch.get_rng_state()
    assert values(iterate(keyed, epoch=1)) != values(iterate(keyed, epoch=2))
    assert values(keyed) == values(iterate(keyed, epoch=1))
    assert len(keyed) == 6
    assert torch.equal(before, torch.get_rng_state())


def test_a_trainer_evaluate_and_predict_take_it_as_any_loader():
    seen = []
    loader = TensorLoader(x, y, batch_size=4, shuffle=True)
    trainer = Trainer(torch.nn.Linear(1, 1), None, lambda model, x, y: seen.extend(y.tolist()), loader, progress=False)
    trainer.fit(steps=8)
    trainer.fit(epochs=1)
    assert sorted(seen) == sorted(2 * list(range(21)))
    mean = evaluate(torch.nn.Identity(), lambda model, x, y: {"x": model(x).mean()}, loader, progress=False)
    assert mean["x"] == pytest.approx(10)
    plain = TensorLoader(x, y, batch_size=4)
    assert torch.equal(predict(torch.nn.Identity(), predict_on_batch, plain), x)


@pytest.mark.parametrize(
    ("tensors", "settings", "words"),
    [
        ((), {"batch_size": 1}, "no tensor"),
        (([1, 2],), {"batch_size": 1}, "list"),
        ((torch.tensor(1.0),), {"batch_size": 1}, "0-d tensor"),
        ((x, y[:20]), {"batch_size": 1}, "21, 20 samples"),
        ((x,), {"batch_size": 0}, "batch_size=0"),
        ((x,), {"batch_size": 2.0}, "batch_size=2.0"),
        ((x,), {"batch_size": True}, "batch_size=True"),
        ((x,), {"batch_size": 4, "device": "nowhere"}, "nowhere"),
    ],
)
def test_what_makes_no_batches_is_an_error_that_says_so(tensors, settings, words):
    with pytest.raises(ArgumentError, match=words):
        TensorLoader(*tensors, **settings)


def test_a_loader_of_which_drop_last_leaves_nothing_is_empty():
    for shuffle in (False, True):
        loader = TensorLoader(x, batch_size=30, drop_last=True, shuffle=shuffle)
        assert list(loader) == []
        with pytest.raises(BatchError, match="empty"):
            Trainer(torch.nn.Linear(1, 1), None, lambda model, x: None, loader, progress=False).fit(epochs=1)
