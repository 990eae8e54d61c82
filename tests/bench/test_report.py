from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bench import plots, report
from bench.bars import LIMIT_BARS, PEER_BARS, peer_bar, standing
from bench.fresh import FirstCall
from bench.measure import Measurement, Record
from bench.run import arguments
from bench.workloads import SIZES, describe_size


def record(
    label: str, kind: str, milliseconds: float, status: str = "ok", size: str = "S1", job: str = "loss"
) -> Record:
    slices = [] if status == "absent" else [[milliseconds], [milliseconds * 1.5]]
    return Record(size, "lstm", job, label, kind, status=status, slices=slices)


@pytest.fixture
def records() -> list[Record]:
    return [
        record("capgpu cpu", "ours", 10.0),
        record("exercise", "peer", 40.0),
        record("torch packed", "peer", 20.0),
        record("torch padded", "peer", 2.0, status="disagrees"),
        record("jax", "peer", 0.0, status="absent"),
        record("gemm full numpy", "limit", 5.0),
        record("gemm distinct numpy", "limit", 9.0),
        record("gemm distinct torch", "limit", 8.0),
    ]


def test_ratio_is_to_the_fastest_peer_whose_numbers_agree(records: list[Record]) -> None:
    result = standing(records)
    assert result is not None
    assert result.peer is not None
    assert (result.peer.label, result.peer_ratio) == ("torch packed", 0.5)


def test_limit_is_the_better_blas_on_distinct_words(records: list[Record]) -> None:
    result = standing(records)
    assert result is not None
    assert result.limit is not None
    assert (result.limit.label, result.limit_ratio) == ("gemm distinct torch", 1.25)


def test_no_bar_is_cleared_if_one_is_exceeded(records: list[Record]) -> None:
    result = standing(records)
    assert result is not None
    assert PEER_BARS["loss"]["S1", "lstm"] > 0.5
    assert LIMIT_BARS["S1", "lstm"] < 1.25
    assert result.clears == "no"


def test_one_caption_at_a_large_vocabulary_has_a_bar_of_its_own() -> None:
    assert peer_bar("S3", "lstm", "sample1") == 0.80
    assert peer_bar("S3", "lstm", "sample100") == peer_bar("S1", "lstm", "sample1") == 0.85
    assert peer_bar("S3:T=8", "lstm", "sample1") is None


def test_a_disturbed_measurement_clears_no_bar(records: list[Record]) -> None:
    def last_cell(quiet_rounds: int) -> str:
        measurement = Measurement(records, 5, quiet_rounds)
        result = standing(records)
        assert result is not None
        return report.summary_row(measurement, result)[-1]

    assert (last_cell(5), last_cell(3), last_cell(2)) == ("no", "no", "disturbed")


def test_without_capgpus_record_there_is_no_standing(records: list[Record]) -> None:
    assert standing(records[1:]) is None


def test_tables_show_absent_and_disagreeing_peers(records: list[Record], tmp_path: Path) -> None:
    results = report.Results({"processor": "a machine"}, [Measurement(records, 2, 1)])
    results.first_calls = [FirstCall("capgpu cpu", "cold", 0.5, 9.0)]
    report.write(results, tmp_path)
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert {row["competitor"]: row["status"] for row in rows[:-1]}["jax"] == "absent"
    assert {row["competitor"]: row["ours_over_this"] for row in rows}["torch packed"] == "0.5"
    assert rows[-1]["job"] == "first call, cold cache"
    page = (tmp_path / "results.md").read_text()
    assert "| jax | absent |" in page
    assert "| torch padded | disagrees |" in page
    assert "a machine" in page
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "results.md"}


def test_the_commands_default_job_comes_first(records: list[Record]) -> None:
    defaults = [record("capgpu cpu", "ours", 9.0, job="adam-dropout"), record("jax", "peer", 18.0, job="adam-dropout")]
    page = report.markdown(report.Results({}, [Measurement(records, 2, 2), Measurement(defaults, 2, 2)]))
    position = page.index("| S1 | lstm | adam-dropout |")
    assert page.index("## What `capgpu train` does by default") < position < page.index("## Ours, the fastest peer")
    assert "| jax 22.5 | 0.5 | 0.6 |" in page[position:].splitlines()[0]
    assert page.index("| S1 | lstm | loss |") > page.index("## Ours, the fastest peer")


def test_the_ratio_of_peak_memory_to_torchs_is_reported(records: list[Record]) -> None:
    records[0].peak_bytes, records[2].peak_bytes, records[1].peak_bytes = 30 * 2**20, 40 * 2**20, 1.0
    page = report.markdown(report.Results({}, [Measurement(records, 2, 2)]))
    assert "- S1 lstm: 0.75" in page
    assert "| torch packed | 40 |" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.0, "0"), (1234.5, "1234"), (0.06189, "0.0619"), (3.2e-7, "3.2e-07"), (12.345, "12.3")],
)
def test_numbers_have_three_digits_and_an_exponent_only_if_needed(value: float | None, text: str) -> None:
    assert report.number(value) == text


def test_plots_are_drawn_from_the_results_alone(tmp_path: Path) -> None:
    sizes = plots.sweep_sizes()
    results = report.Results(
        {},
        [Measurement([record("capgpu cpu", "ours", 1.0 + i, size=size)], 1, 1) for i, size in enumerate(sizes)],
    )
    results.breakdowns = {
        "S1 lstm loss": {"recurrence forward": 3.0, "checks": 0.5, "packing": 0.25, "rest": 0.25},
        "S4 rnn adam-dropout": {"rest": 1.0},
    }
    assert plots.growth_lines(results, "T")["capgpu cpu"][0] == list(plots.SWEEPS["T"])
    plots.plot_growth(results, tmp_path / "growth.png")
    plots.plot_breakdown(results, tmp_path / "breakdown.png")
    drawn = {name: (tmp_path / name).read_bytes() for name in ("growth.png", "breakdown.png")}
    assert all(content.startswith(b"\x89PNG") and len(content) < 150_000 for content in drawn.values())
    report.write(results, tmp_path)
    for name in drawn:
        (tmp_path / name).unlink()
    plots.main([str(tmp_path)])
    assert {name: (tmp_path / name).read_bytes() for name in drawn} == drawn


def test_plots_and_tables_name_sizes_parts_and_jobs_in_the_fields_terms(records: list[Record]) -> None:
    assert describe_size(SIZES["S3"]) == "batch 128, hidden 512, vocabulary 10,000"
    assert "| S3 | batch 128, hidden 512, vocabulary 10,000, 20 time steps," in report.markdown(report.Results())
    page = report.markdown(report.Results({}, [Measurement([record("jax", "peer", 1.0, size="S1:N=8")], 1, 1)]))
    assert "### S1:N=8 lstm loss\n\nBatch 8, hidden 512, vocabulary 1,004, 16 time steps, " in page
    assert plots.bar_name("S4 rnn adam-dropout") == "RNN: loss, gradients, Adam, dropout"
    shares = plots.shown_parts({"checks": 1.0, "packing": 1.0, "update": 2.0, "rest": 4.0})
    assert {name: share for (name, _), share in shares.items() if share} == {
        "Adam's update": 25.0,
        "checks and packing": 25.0,
        "everything else": 50.0,
    }


def test_sample_stands_for_both_sampling_jobs() -> None:
    assert arguments(["--jobs", "loss,sample"]).jobs == ["loss", "sample100", "sample1"]
    assert arguments(["--jobs", "sample,adam"]).jobs == ["sample100", "sample1", "adam"]


@pytest.mark.parametrize(
    "arguments_given", [["--sizes", "S9"], ["--cells", "mgu"], ["--jobs", "fit"], ["--parts", "x"], ["--only", "mxnet"]]
)
def test_unknown_names_on_the_command_line_are_refused(
    arguments_given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        arguments(arguments_given)
    assert arguments_given[1] in capsys.readouterr().err
