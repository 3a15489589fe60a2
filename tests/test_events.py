import pytest

from ignition import callbacks
from ignition.callbacks.base import EVENTS, Callback
from ignition.errors import ArgumentError
from ignition.events import Events, adding_to, check_callbacks, check_event


class Trainer:
    """What callbacks are called with here: it keeps what they say."""

    def __init__(self):
        self.log = []


class Named(Callback):
    """Says its name at some events."""

    def __init__(self, name, order=0):
        self.name = name
        self.order = order

    def on_epoch_end(self, trainer):
        trainer.log.append(f"{self.name} epoch_end")

    def on_record(self, trainer):
        trainer.log.append(f"{self.name} record")


class Failing(Callback):
    def on_train_end(self, trainer):
        raise KeyError("train_end")

    def on_exception(self, trainer):
        raise KeyboardInterrupt


@pytest.fixture
def trainer():
    return Trainer()


def test_there_are_the_events_of_the_design():
    assert set(EVENTS) == {
        *("train_begin", "train_end", "epoch_begin", "epoch_end", "batch_begin", "batch_end", "step_end"),
        *("eval_begin", "eval_end", "record", "exception"),
    }


def test_each_event_is_a_method_that_does_nothing(trainer):
    for event in EVENTS:
        assert getattr(Callback(), f"on_{event}")(trainer) is None
    assert {name for name in vars(Callback) if name.startswith("on_")} == {f"on_{event}" for event in EVENTS}


def test_a_callback_has_nothing_to_save_by_default():
    assert Callback().state_dict() == {}
    assert Callback().load_state_dict({}) is None


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_reaches_the_method_of_its_name(event, trainer):
    kind = type("One", (Callback,), {f"on_{event}": lambda self, trainer: trainer.log.append(event)})
    events = Events(trainer, [kind()], [])
    for other in EVENTS:
        events.fire(other)
    assert trainer.log == [event]


def test_only_what_is_overridden_is_called(trainer):
    events = Events(trainer, [Callback(), Named("a"), Callback()], [])
    assert {event for event in EVENTS if events.calls(event) is not None} == {"epoch_end", "record"}


def test_without_listeners_there_is_nothing_to_call(trainer):
    events = Events(trainer, [], [])
    assert all(events.calls(event) is None for event in EVENTS)
    for event in EVENTS:
        events.fire(event)
        assert events.fire_each(event) == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_call_reaches_all_listeners(trainer, count):
    events = Events(trainer, [Named(str(i)) for i in range(count)], [])
    events.calls("record")()
    assert trainer.log == [f"{i} record" for i in range(count)]


def test_a_method_that_an_object_got_later_is_called(trainer):
    callback = Callback()
    callback.on_step_end = lambda trainer: trainer.log.append("later")
    Events(trainer, [callback], []).fire("step_end")
    assert trainer.log == ["later"]


def test_a_static_method_is_called(trainer):
    class Static(Callback):
        @staticmethod
        def on_step_end(trainer):
            trainer.log.append("static")

    Events(trainer, [Static()], []).fire("step_end")
    assert trainer.log == ["static"]


def test_an_inherited_method_is_called(trainer):
    class Child(Named):
        def on_record(self, trainer):
            super().on_record(trainer)
            trainer.log.append("child")

    events = Events(trainer, [Child("a")], [])
    events.fire("epoch_end")
    events.fire("record")
    assert trainer.log == ["a epoch_end", "a record", "child"]


def test_callbacks_come_by_their_order_then_by_their_place(trainer):
    given = [Named("last", 10), Named("a"), Named("first", -1), Named("b"), Named("schedule", -1)]
    Events(trainer, given, []).fire("record")
    assert [line.split()[0] for line in trainer.log] == ["first", "schedule", "a", "b", "last"]


def test_functions_come_after_the_callbacks_that_have_no_order(trainer):
    functions = [
        (event, lambda trainer, event=event: trainer.log.append(f"{event}!")) for event in ("record", "step_end")
    ]
    functions.append(("record", lambda trainer: trainer.log.append("record!!")))
    events = Events(trainer, [Named("last", 1), Named("a"), Named("first", -1)], functions)
    events.fire("record")
    assert trainer.log == ["first record", "a record", "record!", "record!!", "last record"]
    events.fire("step_end")
    assert trainer.log[-1] == "step_end!"


def test_the_order_of_the_list_itself_is_left_alone(trainer):
    given = [Named("last", 10), Named("first", -1)]
    before = list(given)
    Events(trainer, given, [])
    assert given == before


def test_a_schedule_is_ordered_before_others():
    assert callbacks.LinearDecay("lr", start_value=1, end_value=0, max_epochs=2).order < Callback().order


def test_an_exception_of_a_callback_comes_out(trainer):
    with pytest.raises(KeyError, match="train_end"):
        Events(trainer, [Failing()], []).fire("train_end")


def test_every_listener_is_called_whatever_the_others_raise(trainer):
    functions = [("train_end", lambda trainer: trainer.log.append("reached"))]
    events = Events(trainer, [Failing(), Failing()], functions)
    assert [repr(error) for error in events.fire_each("train_end")] == ["KeyError('train_end')"] * 2
    assert trainer.log == ["reached"]
    assert [type(error) for error in events.fire_each("exception")] == [KeyboardInterrupt] * 2


# What is given


@pytest.mark.parametrize("given", [[], (), [Callback()], (Callback(), Callback())])
def test_a_list_of_callbacks_is_one(given):
    checked = check_callbacks(given)
    assert checked == list(given)
    assert checked is not given


@pytest.mark.parametrize("given", [None, Callback(), {Callback()}, "abc", {"a": Callback()}, iter([])])
def test_what_is_no_list_is_an_error(given):
    with pytest.raises(ArgumentError) as caught:
        check_callbacks(given)
    assert str(caught.value) == (
        f"trainer.callbacks was given {type(given).__name__}\n"
        "  expected: a list of callbacks\n"
        "  to do: put it into a list: trainer.callbacks = [SaveModel(...)]"
    )


def test_a_class_in_the_place_of_an_object_is_an_error():
    with pytest.raises(ArgumentError) as caught:
        check_callbacks([Callback(), Named])
    assert str(caught.value) == (
        "trainer.callbacks holds Named, a class\n"
        "  expected: objects of classes that derive from ignition.callbacks.Callback\n"
        "  to do: make an object of it: Named(...)"
    )


@pytest.mark.parametrize("wrong", [None, print, lambda trainer: None, "record", [Callback()], object()])
def test_what_is_no_callback_is_an_error(wrong, trainer):
    with pytest.raises(ArgumentError) as caught:
        Events(trainer, [Callback(), wrong], [])
    assert str(caught.value) == (
        f"trainer.callbacks holds {type(wrong).__name__}, which is no callback\n"
        "  expected: objects of classes that derive from ignition.callbacks.Callback\n"
        '  to do: a plain function goes to an event: @trainer.on("epoch_end")'
    )


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_has_its_name(event):
    assert check_event(event) == event


@pytest.mark.parametrize("event", ["", "on_epoch_end", "epoch", "epoch_ends", "Record", None, 3, ["record"]])
def test_an_unknown_event_is_an_error_that_lists_those_there_are(event):
    with pytest.raises(ArgumentError) as caught:
        check_event(event)
    assert str(caught.value).startswith(f"there is no event {event!r}\n  expected: one of train_begin, train_end, ")
    assert all(name in str(caught.value) for name in EVENTS)
    assert "\n  to do: " in str(caught.value)


@pytest.mark.parametrize(
    ("event", "meant"), [("on_epoch_end", "epoch_end"), ("epoch_ends", "epoch_end"), ("steps_end", "step_end")]
)
def test_an_event_that_is_nearly_there_is_proposed(event, meant):
    with pytest.raises(ArgumentError, match=f"to do: did you mean '{meant}'"):
        check_event(event)


# Functions of events


def with_functions():
    functions = []
    return functions, lambda function: adding_to(functions, "record")(function)


@pytest.mark.parametrize("wrong", [lambda: None, lambda trainer, more: None, lambda *, trainer: None])
def test_a_function_that_does_not_take_the_trainer_is_refused_where_it_is_added(wrong):
    functions, add = with_functions()
    with pytest.raises(ArgumentError, match=r"(?s)cannot be called with the trainer: .*expected: .*\(trainer\)"):
        add(wrong)
    assert functions == []


@pytest.mark.parametrize("right", [lambda trainer: None, lambda *all: None, lambda one, more=1: None, print])
def test_a_function_may_have_more_parameters_with_defaults(right):
    functions, add = with_functions()
    assert add(right) is right
    assert functions == [("record", right)]


def cell(source, add):
    namespace = {"__name__": "__main__", "add": add}
    exec(compile(source, "<cell>", "exec"), namespace)


CELL = "@add\ndef show(trainer):\n    pass\n"


def test_a_cell_of_a_notebook_that_is_run_again_replaces_its_function(monkeypatch):
    monkeypatch.setattr("builtins.__IPYTHON__", True, raising=False)
    functions, add = with_functions()
    for _ in range(3):
        cell(CELL, add)
    assert len(functions) == 1
    cell(CELL.replace("show", "other"), add)
    assert [function.__name__ for _, function in functions] == ["show", "other"]


@pytest.mark.parametrize(
    "source", ["for _ in range(2):\n    @add\n    def show(trainer):\n        pass\n", CELL.replace("show", "_") * 2]
)
def test_functions_of_a_loop_and_without_a_name_all_stay(source, monkeypatch):
    monkeypatch.setattr("builtins.__IPYTHON__", True, raising=False)
    functions, add = with_functions()
    cell(source, add)
    assert len(functions) == 2


def test_in_a_script_all_functions_stay():
    functions, add = with_functions()
    cell(CELL * 2, add)
    assert len(functions) == 2
