"""The model on paper of a step by several ranks, and the link between two hosts on one machine."""

from __future__ import annotations

import struct

import pytest

from bench.scaling import model, run
from bench.scaling.shaped_network import Link
from bench.workloads import SIZES, make_workload

SLOW = model.Network("slow", 1e8, 1e-3, 0.0)
INSTANT = model.Network("instant", 1e18, 0.0, 0.0)


def test_without_latency_ranks_divide_the_computation_but_not_the_update():
    alone = model.step(SIZES["S1"], 1024, 1, model.CORE)
    four = model.step(SIZES["S1"], 1024, 4, model.CORE, INSTANT)
    quarter = model.step(SIZES["S1"], 256, 1, model.CORE)
    assert four.computation == quarter.computation
    assert alone.computation / 4 < quarter.computation < alone.computation / 3  # what captions do not divide
    assert four.update == alone.update
    assert four.exposed == pytest.approx(0, abs=1e-9)
    assert four.total == pytest.approx(four.computation + four.update)


def test_what_is_exposed_is_what_the_computation_does_not_hide():
    for captions in (64, 1024, 65536):
        found = model.step(SIZES["S1"], captions, 2, model.CORE, SLOW)
        assert 0 < found.exposed < found.sums
        assert found.total == pytest.approx(found.computation + found.exposed + found.update)
    # W_vocab's gradient, the first, is hidden behind a long computation, and the last ones never are
    hidden = found.sums - found.exposed
    assert hidden >= SIZES["S1"].H * SIZES["S1"].V * 4 / SLOW.bandwidth


def test_the_bytes_of_a_step_are_those_of_the_parameters():
    size = SIZES["S1"]
    every_word = model.step(size, 10**6, 2, model.CORE, SLOW).n_bytes
    assert every_word == 4 * sum(array.size for array in make_workload(size, "lstm").params.values())
    assert model.step(size, 10**6, 2, model.CORE, SLOW, gradient_bytes=2).n_bytes == every_word // 2
    assert model.step(size, 16, 2, model.CORE, SLOW).n_bytes < every_word  # few of the words occur


def test_the_model_repeats_the_steps_it_was_calibrated_by():
    for name, seconds in model.H100_STEPS:
        assert model.step(SIZES[name], SIZES[name].N, 1, model.h100()).total == pytest.approx(seconds)


@pytest.mark.parametrize(("where", "network"), [("local", model.SHARED_MEMORY), ("network", model.SHAPED)])
def test_measured_ranks_are_compared_with_one_rank_of_the_same_run(where, network):
    slow = model.CORE.slower(3.0)
    job = {"library": "ours", "threads": 1, "where": where, "size": "S1", "batch": 1024, "cell": "rnn"}
    alone = model.step(SIZES["S1"], 1024, 1, slow, cell="rnn").total
    two = model.step(SIZES["S1"], 1024, 2, slow.slower(model._AT_ONCE), network, cell="rnn").total
    records = [{**job, "ranks": 1, "ms": 1e3 * alone}, {**job, "ranks": 2, "ms": 1e3 * two}]
    others = [{**record, "batch": 64, "ms": 1.0} for record in records]
    *_, first, second = "".join(model.check([*records, *others])).splitlines()
    assert first == f"| {where} | S1 | 1024 | 2 | {1e3 * alone:.1f} | {1e3 * two:.1f} | {1e3 * two:.1f} | 1.00 |"
    assert second.startswith(f"| {where} | S1 | 64 | 2 | 1.0 | 1.0 |")


def test_a_piece_occupies_the_link_for_the_packets_that_a_card_makes_of_it():
    link = Link(1e9, 1e-3)
    one = struct.pack("<BBHHHH", 0, 0, 0, 0, 0, 0) + bytes(1500)
    assert link.seconds(one) == pytest.approx(8 * 1538 / 1e9)
    many = struct.pack("<BBHHHH", 1, 1, 52, 1448, 0, 0) + bytes(52 + 10 * 1448)
    assert link.seconds(many) == pytest.approx(10 * 8 * 1538 / 1e9)


def test_the_table_gives_medians_and_ratios_to_the_first_row():
    rows = run.table({run.LOCAL[0]: [20.0, 10.0, 11.0], run.LOCAL[1]: [22.0]})
    assert rows[2] == "| capgpu, 1 rank of 2 threads | 11.0 | 1.00 | 20.0, 10.0, 11.0 |"
    assert rows[3] == "| capgpu, 2 ranks of 1 thread | 22.0 | 2.00 | 22.0 |"
