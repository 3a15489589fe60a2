"""What each of several processes reads: streams that end together, and evaluations that see each sample once."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from processes import run_processes
from small import loader, net, raised, read, samples, values, write
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ignition import Trainer, distributed, evaluate, optimize, predict, predict_on_batch
from ignition.data import iterate
from ignition.errors import BatchError
from ignition.means import Means
from ignition.reading import at_most, is_stream, part_in_evaluation, part_of, rounds_of, size_of
from ignition.shards import Borrowed
from ignition.weighing import NOTHING


class Stream(IterableDataset):
    """Samples that are shared out by process and worker; `counts` are how many each process has."""

    def __init__(self, counts=None, alike=False):
        self.counts, self.alike = counts, alike

    def __iter__(self):
        x, y = samples(40)
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        if self.counts is None:
            number, size = (0, 1) if self.alike else (distributed.rank(), distributed.world_size())
            places = range(number * workers + worker, 21, size * workers)
        else:
            begin = sum(self.counts[: distributed.rank()])
            places = range(begin + worker, begin + self.counts[distributed.rank()], workers)
        for place in places:
            yield x[place], y[place]


def train_on(stream, accumulate=1, **options):
    """The number of steps, the records, and how many samples were seen here."""
    model, seen = net(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def train_fn(model, x, y):
        seen.append(len(x))
        loss = nn.functional.cross_entropy(model(x), y)
        optimize(loss, optimizer)
        return {"loss": loss, "count": (1.0, 1)}

    def eval_fn(model, x, y):
        return {"sum": (x.sum() / len(x), len(x))}

    batches = DataLoader(stream, 4, **options)
    trainer = Trainer(model, optimizer, train_fn, batches, eval_fn, batches, progress=False, accumulate=accumulate)
    trainer.fit(epochs=2)
    return [trainer.step, trainer.history["train_loss"], trainer.history["val_sum"], values(model), seen]


def read_streams(folder):
    uneven = Stream([9, 21])
    write(folder, {
        "even": train_on(Stream()),
        "workers": train_on(Stream(), num_workers=2),
        "uneven": train_on(uneven),
        "uneven, windows": train_on(uneven, accumulate=2),
        "predicted": raised(lambda: predict(net(), predict_on_batch, DataLoader(Stream(), 4))),
    })  # fmt: skip


class Placed(Stream):
    """A stream that tells its place, and goes back to its beginning as it ends."""

    place = 0

    def __iter__(self):
        for sample in islice(super().__iter__(), self.place, None):
            self.place += 1
            yield sample
        self.place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


def go_on_in_streams(folder):
    def made():
        model, seen = net(), []
        optimizer = torch.optim.SGD(model.parameters(), 0.1)

        def train_fn(model, x, y):
            seen.append(len(x))
            optimize(nn.functional.cross_entropy(model(x), y), optimizer)

        return Trainer(model, optimizer, train_fn, DataLoader(Placed([9, 21]), 4), progress=False, seed=1), seen

    whole, _ = made()
    whole.fit(epochs=2)
    found = {"whole": [whole.step, values(whole.model)]}
    for steps in (2, 3, 4, 6):
        one, _ = made()
        one.fit(steps=steps)
        one.save(f"{folder}/after-{steps}")
        again, seen = made()
        again.load(f"{folder}/after-{steps}")
        again.fit(steps=12 - steps)
        found[steps] = [again.step, values(again.model)]
        found["seen"] = len(seen)
    write(folder, found)


@pytest.mark.slow
def test_a_stream_that_had_ended_before_those_of_others_goes_on_with_them(tmp_path):
    run_processes(go_on_in_streams, 2, tmp_path, folder=tmp_path)
    first, second = read(tmp_path, 2)
    assert first == second
    for steps in ("2", "3", "4", "6"):
        assert first[steps] == first["whole"]
    assert first["whole"][0] == 12


def refuse_streams(folder, what):
    stream = Stream(alike=True) if what == "alike" else Stream([0, 8])
    write(folder, raised(lambda: train_on(stream)))


@pytest.mark.slow
def test_streams_end_together(tmp_path):
    run_processes(read_streams, 2, tmp_path, folder=tmp_path)
    first, second = read(tmp_path, 2)
    for name in ("even", "workers", "uneven", "uneven, windows"):
        assert first[name][:-1] == second[name][:-1]
    x, y = samples(40)
    # The rounds of the two processes: samples 0, 2, 4, 6 and 1, 3, 5, 7; and so on: the same as 8 in order.
    assert first["even"][0] == 6
    assert first["even"][3] == pytest.approx(by_hand(x[:21].split(8), y[:21].split(8)), abs=1e-6)
    # 9 and 21 samples: 3 and 6 batches; in the last three rounds the first process borrows.
    assert (first["uneven"][0], len(first["uneven"][4]), len(second["uneven"][4])) == (12, 12, 12)
    batches = [[*range(4), *range(9, 13)], [*range(4, 8), *range(13, 17)], [8, *range(17, 21)]]
    batches += [list(range(21, 25)), list(range(25, 29)), [29]]
    assert first["uneven"][3] == pytest.approx(by_hand([x[b] for b in batches], [y[b] for b in batches]), abs=1e-6)
    assert first["uneven, windows"][0] == 6
    assert first["uneven"][2] == pytest.approx([x[:30].sum().item() / 30] * 2)
    assert "a stream that 2 processes read" in first["predicted"]


def by_hand(inputs, labels):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        for x, y in zip(inputs, labels, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return values(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "said"),
    [("alike", "gives the same first batch to several of 2 processes"), ("empty", "the stream of process 0 gave no")],
)
def test_a_stream_that_is_not_shared_out_is_refused(tmp_path, what, said):
    run_processes(refuse_streams, 2, tmp_path, what, folder=tmp_path)
    results = read(tmp_path, 2)
    assert said in results[0]
    assert said in results[1]  # by its own words, or by those of the first


# Each sample once: metrics and predictions


def measure_all(folder):
    write(folder, measured())


def measured():
    """Metrics and predictions of sets of any size, however they are read."""
    import torchmetrics
    from torchmetrics.utilities import dim_zero_cat

    class Seen(torchmetrics.Metric):
        """Keeps outputs and labels, as all metrics do that rank or sort; those of retrieval do not reduce them."""

        def __init__(self, reduction="cat"):
            super().__init__()
            self.add_state("outputs", [], dist_reduce_fx=reduction)
            self.add_state("labels", [], dist_reduce_fx=reduction)

        def update(self, outputs, y):
            self.outputs.append(outputs)
            self.labels.append(y)

        def compute(self):
            return (dim_zero_cat(self.outputs).sum(1) * dim_zero_cat(self.labels)).mean()

    class Sum(torchmetrics.Metric):
        """Keeps a number for each batch."""

        def __init__(self):
            super().__init__()
            self.add_state("sums", [], dist_reduce_fx=None)

        def update(self, outputs, y):
            self.sums.append(outputs.sum())

        def compute(self):
            return dim_zero_cat(self.sums).sum()

    unreduced = torchmetrics.MetricCollection({"unreduced": Seen(None), "sum": Sum()}, compute_groups=False)
    together = torchmetrics.MetricCollection({"seen": Seen(), "f1": torchmetrics.classification.MulticlassF1Score(3)})
    model, found = net(), {}
    accuracy = torchmetrics.classification.MulticlassAccuracy(3)
    spread = torchmetrics.classification.MulticlassF1Score(3)

    def eval_fn(model, x, y):
        outputs = model(x)
        accuracy.update(outputs, y)
        spread.update(outputs, y)
        together.update(outputs, y)
        unreduced.update(outputs, y)
        metrics = {"loss": nn.functional.cross_entropy(outputs, y), "accuracy": accuracy, "f1": spread}
        metrics |= {"collection": together, "lists": unreduced}
        metrics |= {"pair": (x.mean(), x.numel())}
        return metrics | ({"of a last batch": x.sum()} if len(x) == 1 else {})

    def nested(model, x):
        return {"outputs": [model(x), x.to(torch.int16)], "positive": model(x) > 0}

    kinds = {"loader": loader, "list": lambda *sizes: list(loader(*sizes)), "iterator": lambda *s: iter([*loader(*s)])}
    for kind, make in kinds.items():
        for sizes in ((21, 4), (21, 32), (1, 4), (3, 1), (2, 2), (8, 2)):
            metrics = evaluate(model, eval_fn, make(*sizes), progress=False)
            predictions = predict(model, nested, make(*sizes))
            tensors = [*predictions["outputs"], predictions["positive"]]
            found[f"{kind} {sizes}"] = [metrics, [tensor.tolist() for tensor in tensors]]
    for limit in (1, 2, 3, 5, 9):
        metrics = evaluate(model, eval_fn, loader(), max_steps=limit, progress=False)
        found[f"at most {limit}"] = [metrics, predict(model, predict_on_batch, loader(), max_steps=limit).tolist()]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_each_sample_counts_once_and_keeps_its_place(tmp_path, count):
    run_processes(measure_all, count, tmp_path, folder=tmp_path, environment={"PYTHONWARNINGS": "error::UserWarning"})
    alone = measured()
    for result in read(tmp_path, count):
        assert result.keys() == alone.keys()
        for name, (metrics, predictions) in alone.items():
            assert (name, result[name][0]) == (name, pytest.approx(metrics, abs=1e-6))
            assert flat(result[name][1]) == pytest.approx(flat(predictions), abs=1e-6)


def flat(nested):
    return [item for one in nested for item in flat(one)] if isinstance(nested, list) else [nested]


# In one process


def test_one_process_reads_all_as_it_is():
    batches = list(loader())
    assert [x.shape for x, _ in part_of(loader(), fill="split")] == [x.shape for x, _ in batches]
    assert (rounds_of(batches), rounds_of(batches, sure=True), rounds_of(iter(batches))) == (6, 6, None)
    for means, weight in ((Means("eval_fn"), 1), (None, None)):  # predictions have no means, and are not weighed
        part = part_in_evaluation(batches, net(), 4, means)
        assert (len(list(part.batches)), part.total, part.limit) == (6, 4, 4)
        assert part.weigh(batches[-1], 0) == weight


def test_a_stream_is_what_has_no_indices_or_keeps_its_place():
    class Placed:
        def __iter__(self):
            return iter([])

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    assert [is_stream(one) for one in (DataLoader(Stream()), Placed(), loader(), [1], iter([1]))] == [1, 1, 0, 0, 0]
    assert [size_of(one) for one in (DataLoader(Stream()), None, loader(), [1, 2])] == [None, None, [6, 21], [2, None]]


@pytest.mark.parametrize("workers", [0, 2])
def test_predictions_of_batches_in_no_order_are_refused(workers):
    batches = DataLoader(samples(21)[0], 4, num_workers=workers, in_order=False)
    if not workers:  # these have an order
        assert predict(nn.Identity(), predict_on_batch, batches).shape == (21, 4)
        return
    with pytest.raises(BatchError, match="in_order=False, whose batches come as its workers make them"):
        predict(nn.Identity(), predict_on_batch, batches)


def test_the_smaller_of_two_numbers_is_taken_where_they_are_known():
    assert [at_most(2, 3), at_most(None, 3), at_most(2, None), at_most(None, None)] == [2, 3, 2, None]


def test_what_is_borrowed_weighs_nothing():
    from ignition.reading import weighing_borrowed

    weigh = weighing_borrowed(Means())
    assert weigh(Borrowed.of(torch.ones(3, 2)), 0) is NOTHING
    assert weigh((torch.ones(3, 2),), 0) == 3
    assert len(list(iterate([1, 2]))) == 2


@pytest.mark.parametrize(
    ("limit", "length", "expected"), [(None, None, None), (3, None, 3), (None, 4, 4), (3, 4, 3), (4, 3, 3)]
)
def test_the_smaller_of_a_limit_and_a_length_counts_where_they_are_known(limit, length, expected):
    assert at_most(limit, length) == expected


class OfRank(IterableDataset):
    """A stream of so many samples, shared out."""

    def __init__(self, size):
        self.size = size

    def __iter__(self):
        x, y = samples()
        return iter([(x[i], y[i]) for i in range(distributed.rank(), self.size, distributed.world_size())])


def evaluate_streams(folder):
    def evaluation(size):
        return evaluate(net(), lambda model, x, y: {"mean": model(x).mean()}, DataLoader(OfRank(size), 2))

    write(folder, [[evaluation(size)["mean"] for size in (5, 2, 1)], raised(lambda: evaluation(0))])


@pytest.mark.slow
def test_a_stream_with_fewer_samples_than_processes_is_evaluated_in_those_that_have_some(tmp_path):
    run_processes(evaluate_streams, 3, tmp_path, folder=tmp_path)
    x, _ = samples()
    for means, said in read(tmp_path, 3):
        assert means == pytest.approx([net()(x[:size]).mean().item() for size in (5, 2, 1)], abs=1e-6)
        assert said == "BatchError: the stream gave no batch in any process"
