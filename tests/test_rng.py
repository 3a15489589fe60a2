import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ignition import rng
from ignition.errors import ArgumentError
from ignition.rng import capture, check_seed, key_of, keyed, keyed_blocks, restore, seed_everything, seed_fetching


def draws():
    """A few numbers of each generator, of kinds that leave a second half of a pair behind."""
    return (
        [random.random(), random.gauss(0, 1), random.randrange(10**9)],
        [*np.random.rand(2), np.random.standard_normal(), np.random.randint(10**9)],
        [*torch.rand(2).tolist(), torch.randn(()).item(), *torch.randperm(5).tolist()],
    )


def states():
    """The states of all generators, so that two of them can be compared bit for bit."""
    kind, words, place, has_gauss, gauss = np.random.get_state()
    return random.getstate(), (kind, words.tobytes(), place, has_gauss, gauss), torch.get_rng_state().numpy().tobytes()


# Seeding


def test_a_seed_is_followed_by_every_generator():
    seed_everything(7)
    first = draws()
    seed_everything(7)
    assert draws() == first


def test_another_seed_gives_other_numbers_in_every_generator():
    seed_everything(7)
    first = draws()
    seed_everything(8)
    assert all(a != b for a, b in zip(first, draws(), strict=True))


def test_the_seed_is_the_one_that_each_library_would_take():
    seed_everything(123)
    ours = draws()
    random.seed(123)
    np.random.seed(123)
    torch.manual_seed(123)
    assert draws() == ours


@pytest.mark.gpu
def test_accelerators_are_seeded_too():
    seed_everything(7)
    first = torch.rand(3, device=torch.accelerator.current_accelerator()).tolist()
    seed_everything(7)
    assert torch.rand(3, device=torch.accelerator.current_accelerator()).tolist() == first


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63 - 1, np.int64(5), np.uint8(5)])
def test_any_seed_of_63_bits_is_taken(seed):
    seed_everything(seed)
    assert check_seed(seed) == seed
    assert type(check_seed(seed)) is int


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "1", None, True, [1], np.float64(1)])
def test_what_cannot_be_a_seed_is_an_error(seed):
    before = states()
    with pytest.raises(ArgumentError) as caught:
        seed_everything(seed)
    assert (
        str(caught.value) == f"seed={seed!r}\n  expected: an integer from 0 to 2**63 - 1\n  to do: for example seed=0"
    )
    assert states() == before


# Keeping and putting back


@pytest.mark.parametrize("drawn_before", [0, 1, 2])
def test_what_was_captured_is_restored_exactly(drawn_before):
    for _ in range(drawn_before):
        draws()
    kept, before = capture(), states()
    expected = [draws(), draws()]
    assert states() != before
    restore(kept)
    assert states() == before
    assert [draws(), draws()] == expected


def test_a_capture_can_be_restored_again_and_again():
    kept = capture()
    expected = draws()
    for _ in range(3):
        restore(kept)
        assert draws() == expected


def test_a_capture_changes_nothing():
    before = states()
    capture()
    assert states() == before


def test_a_capture_does_not_follow_what_is_drawn_later():
    kept = capture()
    words = kept["numpy"][1].copy()
    state = kept["torch"].clone()
    np.random.rand(1000)
    torch.rand(1000)
    assert (kept["numpy"][1] == words).all()
    assert torch.equal(kept["torch"], state)


@pytest.mark.gpu
def test_accelerators_are_restored_too():
    kept = capture()
    expected = torch.rand(3, device=torch.accelerator.current_accelerator()).tolist()
    restore(kept)
    assert torch.rand(3, device=torch.accelerator.current_accelerator()).tolist() == expected


def test_states_of_a_machine_with_other_accelerators_can_be_restored():
    kept = capture()
    expected = draws()
    restore({name: kept[name] for name in ("python", "numpy", "torch")} | {"other": []})
    assert draws() == expected


# Keys


def test_keyed_draws_what_its_key_says():
    with keyed(5):
        first = draws()
    draws()
    with keyed(5):
        assert draws() == first
    with keyed(6):
        assert all(a != b for a, b in zip(first, draws(), strict=True))


def test_keyed_puts_everything_back():
    random.gauss(0, 1)  # which keeps a second number for later
    np.random.standard_normal()
    before = states()
    with keyed(5):
        draws()
        assert states() != before
    assert states() == before


@pytest.mark.parametrize("known", [True, False], ids=["as memory", "word by word"])
@pytest.mark.parametrize("normals", [0, 1, 2])
@pytest.mark.parametrize("words", [0, 1, 622, 623, 624, 625, 1248])
def test_keyed_puts_numpy_back_wherever_its_generator_stands(words, normals, known, monkeypatch):
    if not known:
        monkeypatch.setattr(rng, "_is_plain_memory", lambda: False)
    np.random.seed(3)
    np.random.bytes(4 * words)
    np.random.standard_normal(normals)
    before = states()
    with keyed(5):
        np.random.standard_normal()
    assert states() == before


def test_the_state_of_this_numpy_can_be_copied_as_memory():
    assert rng._is_plain_memory()


def test_keyed_puts_back_a_generator_that_was_put_in_the_place_of_numpys_own():
    own, other = np.random.get_bit_generator(), type("MT19937", (np.random.MT19937,), {})(4)
    np.random.set_bit_generator(other)
    try:
        before = other.state["state"]["key"].tolist(), other.state["state"]["pos"]
        with keyed(5):
            np.random.rand()
        assert (other.state["state"]["key"].tolist(), other.state["state"]["pos"]) == before
    finally:
        np.random.set_bit_generator(own)


def test_keyed_puts_everything_back_after_an_exception():
    def fail():
        draws()
        raise KeyError

    before = states()
    with pytest.raises(KeyError), keyed(5):
        fail()
    assert states() == before


def test_keyed_blocks_may_lie_inside_each_other():
    with keyed(5):
        expected = [draws(), draws()]
    with keyed(5):
        first = draws()
        with keyed(6):
            draws()
        assert [first, draws()] == expected


def test_blocks_lead_and_put_back_other_generators_too():
    generators = [torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)]
    before = [generator.get_state() for generator in generators]

    def read(block):
        with block():
            drawn = [torch.rand(3, generator=generator).tolist() for generator in generators]
        assert all(torch.equal(g.get_state(), state) for g, state in zip(generators, before, strict=True))
        return drawn

    block = keyed_blocks(5, generators)
    parts = [read(block), read(block)]
    with keyed(5, generators):  # each under a key of its own
        expected = [torch.rand(6, generator=generator).tolist() for generator in generators]
    assert expected[0] != expected[1]
    assert [first + second for first, second in zip(*parts, strict=True)] == expected
    assert read(keyed_blocks(5, generators)) == parts[0]


def test_a_block_goes_on_where_the_one_before_it_ended_and_puts_everything_back():
    with keyed(5):
        expected = [draws() for _ in range(3)]
    before = states()
    block, other = keyed_blocks(5), keyed_blocks(6)
    drawn = []
    for _ in range(3):
        with block():
            drawn.append(draws())
        with other():
            draws()
        assert states() == before
    assert drawn == expected


def test_a_block_that_raises_puts_everything_back_too():
    before = states()
    with pytest.raises(KeyError), keyed_blocks(5)():
        raise KeyError
    assert states() == before


def test_seeding_for_a_data_set_draws_what_keyed_draws():
    with keyed(2**62 + 5):
        expected = draws()
    seed_fetching(2**62 + 5)
    assert draws() == expected


parts = st.lists(st.integers(0, 2**63 - 1) | st.text(max_size=5), max_size=4).map(tuple)


@given(parts, parts)
def test_a_key_depends_on_every_part(a, b):
    assert 0 <= key_of(*a) < 2**63
    assert (key_of(*a) == key_of(*b)) == (a == b)


def test_a_key_is_the_same_in_every_process():
    assert key_of(0, "order", 1) == 4004135407344543170  # as long as runs are to be resumed by later versions


def test_parts_do_not_run_into_each_other():
    assert (
        len({key_of("a", "b"), key_of("ab"), key_of("a", "b", ""), key_of("b", "a"), key_of("a", 1), key_of("a1")}) == 6
    )


def test_keys_of_neighbours_spread_over_all_bits():
    keys = [key_of(seed, "batch", epoch, place) for seed in range(4) for epoch in range(1, 5) for place in range(256)]
    assert len(set(keys)) == len(keys)
    bits = (np.array(keys, dtype=np.int64)[:, None] >> np.arange(63)) & 1
    # Each bit is 1 in half of 4096 fair draws, with a standard deviation of 1/128; six of them are allowed.
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 6 / 128
    changed = (bits[1:] != bits[:-1]).mean(axis=0)
    assert np.abs(changed - 0.5).max() < 6 / 128
    # numpy's generator takes the lower half only.
    assert len({key % 2**32 for key in keys}) == len(keys)
