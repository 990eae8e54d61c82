"""The stages that compute run on the stand-in at small sizes, and label its figures as emulated."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import capgpu
from bench.cuda import report
from bench.cuda.run import RESULTS
from bench.workloads import parse_size
from capgpu.kernels.cuda import compile, launch_heuristics, stopwatch, workspace
from capgpu.kernels.cuda.device_calls import counting
from oracles import kernel_launches
from simulators import cupy_standin
from simulators.cupy_standin.state import STATE
from simulators.emulator.runner import EmulatorRunner, Launch
from tools.gpu import checked, compile_all, host, profiled, ranks, tables, times, training
from tools.gpu.stages import NO_DEVICE
from tools.gpu.tables import Findings, LeftOutError, Part

TINY = "S4:N=3,D=4,W=5,H=6,V=12,T=4"


def forget() -> None:
    """Clear the caches about a removed device: kernels, limits, workspace memory, calibration of the spin kernel."""
    for module in (compile, stopwatch, launch_heuristics, workspace):
        module.forget()


@pytest.fixture(autouse=True)
def forget_device_after_test() -> Iterator[None]:
    yield
    forget()


# --- compile ----------------------------------------------------------------------------------------


def test_every_variant_of_the_registry_is_in_one_group_of_its_module():
    from capgpu.kernels.cuda.kernel_registry import REALS, REGISTRY, variants_of

    groups = compile_all.groups(REGISTRY, REALS)
    listed = [variant for group in groups for variant in group]
    assert len(listed) == len(set(listed))
    assert set(listed) == {(entry.name, *variant) for entry in REGISTRY.values() for variant in variants_of(entry)}
    for group in groups:
        assert len({(REGISTRY[v.kernel].file, v.dtype, v.defines, REGISTRY[v.kernel].cooperative) for v in group}) == 1


def test_the_drivers_attributes_are_written_and_failures_are_counted(standin, tmp_path, monkeypatch, capsys):
    original_kernel = compile.kernel

    def kernel(name: str, dtype: str, **defines: int) -> Any:
        if name == "momentum":
            raise compile.KernelCompilationError("error: identifier undefined")
        return original_kernel(name, dtype, **defines)

    monkeypatch.setattr(compile, "kernel", kernel)
    selection = ["--processes", "0", "--dtypes", "float32", "--kernels", "momentum,square_sums,spin"]
    assert compile_all.main(["--out", str(tmp_path / "compile.csv"), *selection]) == 1
    with (tmp_path / "compile.csv").open(encoding="utf-8") as file:
        lines = {row["kernel"]: row for row in csv.DictReader(file)}
    assert set(lines) == {"momentum", "square_sums", "spin"}
    assert lines["momentum"]["error"] == "KernelCompilationError: error: identifier undefined"
    assert lines["spin"]["error"] == ""
    assert int(lines["spin"]["registers"]) > 0
    assert int(lines["spin"]["blocks"]) > 0
    assert "3 kernels, 1 failed" in capsys.readouterr().out


def test_a_kernel_that_does_not_exist_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        compile_all.main(["--out", str(tmp_path / "c.csv"), "--kernels", "dream"])
    assert "got 'dream'" in capsys.readouterr().err


# --- checked ----------------------------------------------------------------------------------------


@pytest.fixture
def launched(standin: Any, emulator: EmulatorRunner) -> Iterator[set[str]]:
    """Collect the names of all launched variants."""
    variants: set[str] = set()

    def observe(launch: Launch) -> None:
        variants.add(kernel_launches.variant(launch))

    emulator.observers.append(observe)
    yield variants
    emulator.observers.remove(observe)


@pytest.mark.nightly
def test_every_variant_is_launched_for_the_sanitizers(launched, capsys):
    assert checked.main(["--dtypes", "float32", "--hidden", "8"]) == 0
    assert launched == kernel_launches.variants("float32")
    assert "float32: done" in capsys.readouterr().out


def test_a_failing_dtype_is_reported_and_the_next_is_checked(standin, monkeypatch, capsys):
    class Failing(checked.Launcher):
        def recurrences(self, H: int) -> int:
            if self.name == "float64":
                raise RuntimeError("an illegal memory access was encountered")
            return 0

        def steps(self, V: int) -> None:
            pass

    monkeypatch.setattr(checked, "Launcher", Failing)
    assert checked.main(["--dtypes", "float64,float32"]) == 1
    out = capsys.readouterr().out
    assert "float64: FAILED, RuntimeError: an illegal memory access" in out
    assert "float32: done" in out


def test_configurations_with_more_blocks_than_fit_are_skipped(standin, monkeypatch):
    monkeypatch.setattr(STATE, "architecture", replace(STATE.architecture, multiprocessors=2))
    capgpu.set_backend("cuda")
    grids: dict[str, list[int]] = {}
    monkeypatch.setattr(
        checked.Launcher,
        "_pass",
        lambda self, name, H, config: grids.setdefault(config.algorithm, []).append(config.grid),
    )
    n_launched = checked.Launcher("float32").recurrences(40)
    assert n_launched == sum(map(len, grids.values()))
    assert len(grids["step"]) == 6  # forward and backward of three cells
    assert max(grids.get("persistent", [0])) <= 2 * 4  # blocks of 256 threads on a multiprocessor


def test_a_refused_launch_is_reported_and_the_others_are_checked(standin, monkeypatch, capsys):
    launched_configs = []

    def refuse(self: Any, name: str, H: int, config: Any) -> None:
        if config.algorithm == "persistent" and config.units == 16:
            raise compile.CooperativeLaunchError(f"kernel {name}: the driver refuses a cooperative launch")
        launched_configs.append(config)

    monkeypatch.setattr(checked.Launcher, "_pass", refuse)
    monkeypatch.setattr(checked.Launcher, "steps", lambda self, V: None)
    assert checked.main(["--dtypes", "float32", "--hidden", "8"]) == 1
    assert any(config.units == 32 for config in launched_configs)
    assert "float32: NOT CHECKED, H=8, kernel lstm_forward: the driver refuses" in capsys.readouterr().out


# --- times ------------------------------------------------------------------------------------------

#: Selects the tables that need only float32 kernels, which other tests compile as well.
TABLES = "ceilings,float32,latency,launches,alone"


@pytest.fixture(scope="module")
def timed(emulator: EmulatorRunner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("times")
    # backend and kernel runner are restored, as the fixture has module scope
    with capgpu.use_backend("numpy"), cupy_standin.installed():
        cupy_standin.set_kernel_runner(emulator)
        assert times.main(["--out", str(folder), "--tiny", "--only", TABLES]) == 0
    forget()
    return folder


@pytest.mark.nightly
def test_every_row_of_every_table_has_all_columns(timed):
    document = json.loads((timed / "emulated-times.json").read_text(encoding="utf-8"))
    assert set(document["tables"]) == {
        *("ceilings", "recurrences, float32", "recurrences, plain float32", "latency of a step, 4 captions"),
        *("training steps, float32", "launches of a step", "kernels alone"),
    }
    for name, table in document["tables"].items():
        assert table["rows"], name
        assert not table["error"] or re.match(r"left out: .*torch", table["error"], flags=re.I), name
        assert all(len(row) == len(table["columns"]) for row in table["rows"]), name


@pytest.mark.nightly
def test_every_configuration_is_timed_and_one_is_marked_as_chosen(timed):
    table = json.loads((timed / "emulated-times.json").read_text(encoding="utf-8"))["tables"]["recurrences, float32"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    for name in ("lstm_forward", "lstm_backward", "rnn_forward", "rnn_backward"):
        rows_of_pass = [row for row in rows if row["pass"] == name]
        assert {row["algorithm"] for row in rows_of_pass} == {"persistent", "step", "matmul"}
        assert sum(row["chosen"] for row in rows_of_pass) == 1


@pytest.mark.nightly
def test_emulated_times_are_marked_in_file_name_title_and_data(timed):
    assert sorted(file.name for file in timed.iterdir()) == ["emulated-times.json", "emulated-times.md"]
    assert (timed / "emulated-times.md").read_text(encoding="utf-8").startswith(f"# {report.EMULATED}\n")
    assert json.loads((timed / "emulated-times.json").read_text(encoding="utf-8"))["basis"] == report.EMULATED


def test_emulated_times_are_refused_in_the_folder_of_measurements(standin, capsys):
    assert times.main(["--out", str(RESULTS), "--tiny"]) == 1
    assert "do not go where measurements are kept" in capsys.readouterr().err
    assert not list(RESULTS.glob("emulated-*"))


def test_without_a_device_nothing_is_timed(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert times.main(["--out", str(tmp_path), "--tiny"]) == NO_DEVICE
    assert "nothing to time: backend 'cuda'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_failing_table_keeps_its_rows_and_the_next_is_made(tmp_path, capsys):
    def failing() -> Iterator[list[Any]]:
        yield ["kept", 1.5]
        raise RuntimeError("an illegal | access")

    def left_out() -> Iterator[list[Any]]:
        raise LeftOutError("no arrays of bfloat16")
        yield

    def good() -> Iterator[list[Any]]:
        yield ["good", True]

    findings = Findings(tmp_path, {"device": "a card", "emulated": False})
    for name, rows in (("one", failing), ("two", left_out), ("three", good)):
        findings.add(Part(name, ("what", "value"), rows))
    assert findings.failed == ["one"]
    document = json.loads((tmp_path / "times.json").read_text(encoding="utf-8"))
    assert document["basis"] == "measured"
    assert document["tables"]["one"]["rows"] == [["kept", 1.5]]
    assert document["tables"]["one"]["error"] == "RuntimeError: an illegal | access"
    assert document["tables"]["two"]["error"] == "left out: no arrays of bfloat16"
    page = (tmp_path / "times.md").read_text(encoding="utf-8")
    assert page.startswith("# Times on a card\n")
    assert "| good | yes |" in page


def test_finished_tables_are_on_disk_before_the_next_begins(tmp_path):
    findings = Findings(tmp_path, {"device": "a card", "emulated": False})
    findings.add(Part("first", ("x",), lambda: iter([[1]])))

    def second() -> Iterator[list[Any]]:
        yield [len(json.loads((tmp_path / "times.json").read_text(encoding="utf-8"))["tables"])]

    findings.add(Part("second", ("tables",), second))
    assert findings.tables["second"].rows == [[1]]


def test_times_that_include_host_time_are_marked():
    from capgpu.kernels.cuda.stopwatch import Elapsed
    from tools.gpu.time_recurrences import shown

    assert shown(Elapsed(0.25, True)) == 0.25
    assert shown(Elapsed(0.25, False)) == "0.25 *"
    assert tables._cell(0.123456789) == "0.12346"


def test_a_refused_configuration_is_a_row_without_a_time(standin):
    capgpu.set_backend("cuda")
    STATE.cooperative_refusal = 720
    part = next(part for part in times.parts(times.TINY) if part.name == "recurrences, float32")
    rows = [dict(zip(part.columns, row, strict=True)) for row in part.rows()]
    assert {row["algorithm"] for row in rows if "refuses a cooperative launch" in str(row["ms"])} == {"persistent"}
    assert {row["algorithm"] for row in rows if row["us a step"] != ""} == {"step", "matmul"}


# --- host -------------------------------------------------------------------------------------------

LINE = re.compile(r" *(\d+\.\d) +(\d+\.\d) +(\d+\.\d)  (.+)")


@pytest.mark.nightly
def test_the_host_time_of_a_step_is_profiled_with_and_without_graphs(standin, capsys):
    assert host.main(["--size", TINY, "--steps", "5", "--calls", "5", "--lines", "500"]) == 0
    out = capsys.readouterr().out
    assert "computed by the stand-in" in out
    calls, *mode_sections = re.split(r"\n.*, LSTM, Adam, ", out)
    assert re.search(r"\d us  product, ours\n", calls)
    for section, (name, launch) in zip(
        mode_sections,
        (("launched one by one", "kernels/cuda/gemm.py:"), ("CUDA graphs", "kernels/cuda/graphs.py:")),
        strict=True,
    ):
        assert re.match(rf"{name}: host \d+\.\d+ ms a step, wall \d+\.\d+ ms\n", section)
        for text, column in zip(section.split("\nby ")[1:], (1, 2), strict=True):
            rows = [line.groups() for line in map(LINE.fullmatch, text.splitlines()) if line]
            times = [float(row[column]) for row in rows]
            assert times == sorted(times, reverse=True)
            assert any(launch in row[3] for row in rows), text


def test_without_a_device_the_host_is_not_timed(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert host.main([]) == NO_DEVICE
    assert "nothing to time: backend 'cuda'" in capsys.readouterr().err


# --- ranks ------------------------------------------------------------------------------------------


def test_one_rank_trains_by_nccl_like_a_process_without(device, tmp_path, capsys):
    assert ranks.run_rank(tmp_path, 0, 1, parse_size(TINY), steps=1)
    assert "largest relative difference" in capsys.readouterr().out
    assert {name for name, *_ in cupy_standin.counters().collectives} == {"allReduce"}


def test_other_losses_of_ranks_are_a_failure(device, tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "train", lambda alone, size, steps: ([2.0 if alone is None else 2.1], 1.0))
    assert not ranks.run_rank(tmp_path, 0, 1, parse_size(TINY), steps=1)


def test_without_a_device_there_are_no_ranks(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert ranks.main(["--folder", str(tmp_path)]) == NO_DEVICE
    assert "no ranks: backend 'cuda'" in capsys.readouterr().err


def test_processes_find_one_another_by_files(tmp_path):
    first, second = (ranks.FileCommunicator(tmp_path, rank, 2) for rank in range(2))
    for value in ([1, 2], "a"):
        assert first.from_root(lambda value=value: value) == value
    assert [second.from_root(list) for _ in range(2)] == [[1, 2], "a"]


# --- counters, train --------------------------------------------------------------------------------


def test_one_step_of_each_size_is_run_for_the_counters(standin, capsys):
    with counting() as launches:
        assert profiled.main([TINY]) == 0
    assert any(name.startswith("lstm_forward") for name in launches)
    assert capsys.readouterr().out == f"a step of {TINY}\n"


@pytest.mark.nightly
def test_training_reaches_the_same_losses_on_both_backends(tmp_path, capfd):
    small_model = ["--", "--hidden", "8", "--wordvec", "8"]
    assert training.main(["--folder", str(tmp_path), "--backends", "numpy,cpu", "--epochs", "1", *small_model]) == 0
    out = capfd.readouterr().out
    assert "train_loss on numpy: " in out
    assert "val_loss on cpu: " in out
    assert "within 1e-03" in out


@pytest.fixture
def set_losses(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def learn(**losses: Any) -> None:
        monkeypatch.setattr(training, "train", lambda backend, *arguments: losses[backend])

    return learn


def test_different_losses_and_failed_runs_are_failures(set_losses, tmp_path, capsys):
    arguments = ["--folder", str(tmp_path)]
    set_losses(
        cuda={"train_loss": [2.0, 1.0], "val_loss": [2.0, 1.0]}, cpu={"train_loss": [2.0, 1.0], "val_loss": [2.0, 1.01]}
    )
    assert training.main(arguments) == 1
    assert "largest relative difference 9.9e-03, ABOVE" in capsys.readouterr().out
    set_losses(cuda=None, cpu={"train_loss": [2.0], "val_loss": [2.0]})
    assert training.main(arguments) == 1
    with pytest.raises(ValueError, match="expected as many epochs"):
        training.differences({"train_loss": [1.0]}, {"train_loss": []})
    with pytest.raises(SystemExit):
        training.main([*arguments, "--backends", "cuda"])
