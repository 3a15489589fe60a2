"""Batches reach the device; on an accelerator the copies go on a stream of their own, in the right order."""

from contextlib import contextmanager

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from ignition import transfer
from ignition.transfer import transferred

META = torch.device("meta")


def test_without_streams_each_batch_is_moved_when_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch, "meta", object(), raising=False)
    read = []

    def batches():
        for number in range(3):
            read.append(number)
            yield torch.ones(2), {"labels": [torch.zeros(1)], "name": "a"}

    moved = transferred(batches(), META)
    x, rest = next(moved)
    assert (x.device, rest["labels"][0].device, rest["name"]) == (META, META, "a")
    assert read == [0]
    assert len(list(moved)) == 2


def test_an_error_of_the_loader_is_raised_where_the_batch_is_asked_for():
    def batches():
        yield torch.ones(2)
        raise KeyError("broken")

    moved = transferred(batches(), torch.device("cpu"))
    next(moved)
    with pytest.raises(KeyError, match="broken"):
        next(moved)


class Streams:
    """In the place of ``torch.cuda``: notes what happens on which stream."""

    def __init__(self, log):
        self.log = log
        self.now = "working"
        self.name = "copying"

    def Stream(self, device):
        return self

    @contextmanager
    def stream(self, stream):
        self.now = "copying"
        yield
        self.now = "working"

    def current_stream(self, device):
        return self

    def wait_stream(self, stream):
        self.log.append(("working", "waits for", stream.name))


@pytest.fixture
def log(monkeypatch):
    log = []
    streams = Streams(log)
    to = torch.Tensor.to
    monkeypatch.setattr(torch, "meta", streams, raising=False)
    monkeypatch.setattr(
        torch.Tensor,
        "to",
        lambda self, *args, **kwargs: log.append((streams.now, "copies", kwargs)) or to(self, *args, **kwargs),
    )
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: log.append((streams.now, "pins")) or self)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: bool(self.sum() > 2))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: log.append(("keeps", stream is streams)))
    return log


def test_with_streams_a_large_batch_is_copied_beside_the_work_and_waited_for_before_it_is_used(log, monkeypatch):
    monkeypatch.setattr(transfer, "_TINY", 0)
    monkeypatch.setattr(transfer, "_SMALL", 0)
    moved = transferred(iter([(torch.ones(2), torch.ones(3)), [torch.ones(1)]]), META)
    first = next(moved)
    assert all(tensor.device == META for tensor in first)
    copies = ("copying", "copies", {"non_blocking": True})
    # The second tensor counts as pinned already.
    expected = [("copying", "pins"), copies, copies, ("working", "waits for", "copying"), ("keeps", True)]
    assert log == [*expected, ("keeps", True)]
    log.clear()
    assert type(next(moved)) is list
    assert log == [("copying", "pins"), copies, ("working", "waits for", "copying"), ("keeps", True)]


def test_a_small_batch_is_copied_by_the_stream_that_works_and_what_is_there_is_not_copied(log):
    little, more = torch.zeros(2), torch.zeros(2**15)
    moved = transferred(iter([(little, little), [more], (torch.zeros(2**20, device=META),)]), META)
    copies = ("working", "copies", {"non_blocking": True})
    for expected in (
        [copies, copies],
        [("working", "pins"), copies],
        [copies],
    ):  # the last one returns what it is given
        assert all(tensor.device == META for tensor in next(moved))
        assert log == expected
        log.clear()


def test_what_moves_itself_is_moved_on_the_stream_that_works(log):
    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    (moved,) = transferred(iter([packed]), META)
    assert moved.data.device == META
    assert all(entry[0] == "working" for entry in log)


@pytest.mark.gpu
def test_batches_arrive_whole_on_a_real_accelerator():
    device = torch.accelerator.current_accelerator()
    sizes = (1 << 20, 1 << 15, 8)
    batches = [(torch.full((sizes[number % 3],), float(number)), {"y": torch.tensor([number])}) for number in range(20)]
    total = torch.zeros((), device=device)
    for number, (x, rest) in enumerate(transferred(iter(batches), torch.empty(0, device=device).device)):
        total += (x == number).all() & (rest["y"] == number).all()
    assert total.item() == 20
