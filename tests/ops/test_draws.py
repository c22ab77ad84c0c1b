"""Random numbers of images: literal values, what they do not depend on, and that they look random."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from codetr.data.batches import sample_seed
from codetr.ops.draws import _mixed, bits, integers, priorities, stream, uniform

A, B = stream("a"), stream("b")
SEEDS = torch.tensor([sample_seed(0, 0, index) for index in range(8)])
MASK = (1 << 64) - 1


def signed(value: int) -> int:
    """The int64 with the lowest 64 bits."""
    return ((value + (1 << 63)) & MASK) - (1 << 63)


def like(*shape: int) -> Tensor:
    return torch.empty(shape)


def plain_mixed(state: int) -> int:
    """SplitMix64's finaliser on Python's integers."""
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
    state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
    return state ^ state >> 31


def test_the_published_sequence_of_splitmix64() -> None:
    """The first numbers for the seed 1234567, as in Rosetta Code's collection."""
    states = torch.tensor([signed(1234567 + step * 0x9E3779B97F4A7C15) for step in range(1, 4)])
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert _mixed(states).tolist() == [signed(value) for value in published]


def test_literal_numbers() -> None:
    """A change of these changes what every run that is resumed would have drawn."""
    assert (A, B, stream("a", parent=B)) == (70371372590122459, 4681340729661728478, 353941089012806507)
    seeds, shape = torch.tensor([7, sample_seed(1, 2, 3)]), like(2, 3)
    first = [4516818980213953970, 1082806307481657211, 739869447874532019]
    second = [870310429778320056, 3482647674219937443, 2205722335381702660]
    assert bits(seeds, shape, A).tolist() == [first, second]
    assert integers(seeds, shape, A, high=10).tolist() == [[0, 1, 9], [6, 3, 0]]
    assert priorities(seeds, shape, A).tolist() == [[value // 2 for value in row] for row in (first, second)]
    expected = [[0.489714, 0.117398, 0.080217], [0.094359, 0.377589, 0.239145]]  # over 2**63
    torch.testing.assert_close(uniform(seeds, shape, A), torch.tensor(expected), atol=1e-6, rtol=0)


def plain_bits(seed: int, name: int, *index: int) -> int:
    state = plain_mixed(seed ^ name)
    for place in index:
        state = plain_mixed((state + place) * 0x9E3779B97F4A7C15 & MASK)
    return state & MASK >> 1


def test_equals_the_same_on_integers_of_any_size() -> None:
    seeds = torch.tensor([7, 2**63 - 1])
    found = bits(seeds, like(2, 3, 5, 2), A)
    for image, copy, place, corner in ((0, 0, 0, 0), (0, 2, 4, 1), (1, 1, 0, 1), (1, 2, 4, 0)):
        expected = plain_bits(seeds.tolist()[image], A, copy, place, corner)
        assert found[image, copy, place, corner].item() == expected


def test_batch_and_padding_change_nothing() -> None:
    whole = uniform(SEEDS, like(8, 6, 5, 4), A)
    order = torch.tensor([5, 0, 3])
    assert torch.equal(uniform(SEEDS[order], like(3, 6, 5, 4), A), whole[order])
    assert torch.equal(uniform(SEEDS, like(8, 9, 70, 4), A)[:, :6, :5], whole)
    assert torch.equal(uniform(SEEDS[2:3], like(1, 2, 1, 4), A)[0], whole[2, :2, :1])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(uniform(SEEDS, like(8, 6, 5, 4), A), whole)
    assert torch.equal(torch.get_rng_state(), before), "the global generator has no part in it"


def test_seeds_streams_and_epochs_change_everything() -> None:
    base = bits(SEEDS, like(8, 100), A)
    later = torch.tensor([sample_seed(0, 1, index) for index in range(8)])
    for other in (bits(SEEDS, like(8, 100), B), bits(later, like(8, 100), A), bits(SEEDS.roll(1), like(8, 100), A)):
        assert not (other == base).any()
    assert len({stream(name, parent) for name in ("atss", "atss_2", "rpn") for parent in (0, A, B)}) == 9


COUNT = 100_000  # numbers of each of the eight images
DEVIATIONS = 5.0  # one test in 1.7 million fails by chance; nothing here is left to chance, the seeds are fixed


def test_moments_and_range() -> None:
    """Of U(0, 1): mean 1/2, variance 1/12, and the variance of a squared deviation is 1/80 - 1/144 = 1/180."""
    for values in uniform(SEEDS, like(8, COUNT), A).double():
        assert 0 <= values.min() < 1e-3 and 1 - 1e-3 < values.max() < 1
        assert abs(values.mean().item() - 0.5) < DEVIATIONS * math.sqrt(1 / 12 / COUNT)
        assert abs((values - 0.5).square().mean().item() - 1 / 12) < DEVIATIONS * math.sqrt(1 / 180 / COUNT)


def chi_square(values: Tensor, cells: int) -> float:
    """In deviations from its mean: it has the mean cells - 1 and the variance 2 (cells - 1)."""
    counts = values.flatten().bincount(minlength=cells).double()
    expected = values.numel() / cells
    statistic = ((counts - expected).square() / expected).sum().item()
    return (statistic - (cells - 1)) / math.sqrt(2 * (cells - 1))


@pytest.mark.parametrize("shape", [(8, COUNT), (8, 50, 500, 4), (8, 500, 50, 4), (8, COUNT // 2, 2)], ids=str)
def test_every_cell_is_met_as_often(shape: tuple[int, ...]) -> None:
    """A statistic far below its mean would be as suspicious. Low bits (by `integers`) and high ones (by `uniform`).

    With 1023 degrees of freedom it is nearly normal: its skewness is sqrt(8 / 1023) = 0.09.
    """
    for name in (A, B):
        assert abs(chi_square((uniform(SEEDS, like(*shape), name) * 1024).long(), 1024)) < DEVIATIONS
        assert abs(chi_square(integers(SEEDS, like(*shape), name, high=1000), 1000)) < DEVIATIONS


def correlation(left: Tensor, right: Tensor) -> float:
    """In standard errors: that of n independent pairs has the variance 1 / n."""
    left, right = left.flatten().double() - 0.5, right.flatten().double() - 0.5
    return (left * right).mean().item() * 12 * math.sqrt(left.numel())


def test_streams_images_and_neighbours_are_uncorrelated() -> None:
    values = uniform(SEEDS, like(8, 200, 125, 4), A)
    for one, other in combinations(range(8), 2):
        assert abs(correlation(values[one], values[other])) < DEVIATIONS
    for name in (B, stream("rpn", A), stream("regions", A), stream("truths", A)):
        assert abs(correlation(values, uniform(SEEDS, values, name))) < DEVIATIONS
    for distance in (1, 2, 7):
        for dim in (1, 2, 3):
            size = values.shape[dim] - distance
            if size > 0:
                pair = values.narrow(dim, 0, size), values.narrow(dim, distance, size)
                assert abs(correlation(*pair)) < DEVIATIONS


def test_pairs_of_neighbours_fill_the_square() -> None:
    cells = (uniform(SEEDS, like(8, COUNT), A) * 32).long()
    assert abs(chi_square(cells[:, 0::2] * 32 + cells[:, 1::2], 1024)) < DEVIATIONS


def test_every_input_bit_moves_half_of_the_output_bits() -> None:
    """A bit of the seed changes each of the 63 bits in half of the cases: by 4000 elements, five deviations."""
    base = bits(SEEDS[:1], like(1, 4000), A)
    for bit in range(63):
        moved = bits(SEEDS[:1] ^ (1 << bit), like(1, 4000), A) ^ base
        share = torch.stack([(moved >> place & 1).double().mean() for place in range(63)])
        assert (share - 0.5).abs().max() < 6 * math.sqrt(0.25 / 4000)  # of 63 * 63 shares the largest


def test_without_seeds_the_default_generator_decides() -> None:
    for draw in (
        lambda: uniform(None, like(2, 50), A),
        lambda: integers(None, like(2, 50), A, high=9),
        lambda: priorities(None, like(2, 50), A),
    ):
        torch.manual_seed(3)
        once, next_one = draw(), draw()
        torch.manual_seed(3)
        assert torch.equal(draw(), once) and not torch.equal(next_one, once)
        assert once.shape == (2, 50) and once.min() >= 0


def test_nothing_is_asked_of_the_device() -> None:
    """Tensors without data on a device that is not there."""
    with FakeTensorMode():
        seeds, shape = torch.empty(2, dtype=torch.int64, device="cuda"), torch.empty(2, 3, 4, device="cuda")
        for found in (uniform(seeds, shape, A), integers(seeds, shape, A, high=3), priorities(seeds, shape, A)):
            assert found.shape == (2, 3, 4) and found.device.type == "cuda"


def test_compiled_draws_are_the_same() -> None:
    """One graph, whatever the backend: this one runs what was traced. Products wrap in compiled code too."""

    def draw(seeds: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
        return uniform(seeds, shape, A), integers(seeds, shape, B, high=7)

    compiled = torch.compile(draw, fullgraph=True, backend="aot_eager")
    for expected, found in zip(draw(SEEDS, like(8, 3, 5)), compiled(SEEDS, like(8, 3, 5)), strict=True):
        assert torch.equal(expected, found)
