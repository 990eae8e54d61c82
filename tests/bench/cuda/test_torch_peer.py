"""PyTorch's side of the GPU benchmark, as far as it can be tested with PyTorch's CPU build."""

from __future__ import annotations

import contextlib
import importlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from bench import stats
from bench.peers import exercise
from bench.workloads import make_workload, parse_size

TINY = "S4:N=5,D=4,W=3,H=6,V=12,T=7"


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    pytest.importorskip("torch")
    return importlib.import_module("bench.peers.cuda_torch")


@pytest.fixture
def graphs(peer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulate CUDA graphs in PyTorch's CPU build: capture restores all state, replay runs the step again."""
    cuda = peer.torch.cuda

    class Stream:
        def wait_stream(self, other: Any) -> None:
            pass

    class Graph:
        step: Any = None

        def replay(self) -> None:
            self.step()

    @contextlib.contextmanager
    def capture(graph: Graph) -> Any:
        task = captured[-1]
        params = [param.detach().clone() for param in task.params]
        saved_states = [{k: v.clone() for k, v in state.items()} for state in states(task)]
        yield
        with peer.torch.no_grad():
            for param, value in zip(task.params, params, strict=True):
                param.copy_(value)
            for state, saved_state in zip(states(task), saved_states, strict=True):
                for name, value in saved_state.items():
                    state[name].copy_(value)
        graph.step = super(peer.CudaTorchTask, task).step

    def states(task: Any) -> list[dict[str, Any]]:
        return list(task.optimizer.state.values()) if task.job == "adam" else []

    captured: list[Any] = []
    build = peer.CudaTorchTask.build
    monkeypatch.setattr(peer.CudaTorchTask, "build", lambda task: (captured.append(task), build(task)))
    for name, value in {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": Graph,
        "graph": capture,
        "synchronize": lambda: None,
    }.items():
        monkeypatch.setattr(cuda, name, value)


def oracle_result(cell: str, job: str, times: int) -> dict[str, np.ndarray]:
    task = exercise.make_task("float64", make_workload(parse_size(TINY), cell), job)
    for _ in range(times):
        task.step()
    return task.result()


@pytest.mark.parametrize(("job", "times"), [("loss", 1), ("adam", 3)])
@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_a_captured_step_starts_from_the_workloads_parameters(peer, graphs, cell, job, times):
    task = peer.CudaTorchTask("graphed", make_workload(parse_size(TINY), cell), job, device="cpu")
    task.build()
    for _ in range(times):
        task.step()
        task.release()
    assert stats.worst_error(task.result(), oracle_result(cell, job, times)) < (1e-3 if job == "adam" else 1e-4)


def test_the_rate_of_a_captured_step_can_be_set(peer, graphs):
    task = peer.CudaTorchTask("graphed", make_workload(parse_size(TINY), "rnn"), "adam", device="cpu")
    task.build()
    task.set_rate(1e-9)
    params = [param.detach().clone() for param in task.params]
    task.step()
    assert all(float((a.detach() - b).abs().max()) < 1e-7 for a, b in zip(task.params, params, strict=True))


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_precomputed_positions_give_the_same_loss(peer, cell):
    work = make_workload(parse_size(TINY), cell)
    task = peer.CudaTorchTask("padded", work, "loss", device="cpu")
    positions = peer.torch.tensor(np.flatnonzero(work.targets.T))
    loss = task.model.padded_loss(task.features, task.captions).detach()
    assert float(task.model.padded_loss(task.features, task.captions, positions).detach()) == float(loss)
    assert float(task.model.static_loss(task.features, task.captions).detach()) == pytest.approx(float(loss), rel=1e-6)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("mode", ["padded", "packed"])
def test_half_precision_results_have_the_parameters_dtype(peer, mode, precision):
    task = peer.CudaTorchTask(mode, make_workload(parse_size(TINY), "lstm"), "loss", precision, device="cpu")
    super(peer.CudaTorchTask, task).step()
    assert {str(tensor.dtype) for tensor in task.out} == {f"torch.{precision}"}
    assert stats.worst_error(task.result(), oracle_result("lstm", "loss", 1)) < 0.1


@pytest.mark.parametrize(("precision", "allowed"), [("float32", False), ("tf32", True)])
def test_tf32_is_allowed_only_in_its_precision(peer, precision, allowed):
    peer.CudaTorchTask("padded", make_workload(parse_size(TINY), "rnn"), "loss", precision, device="cpu")
    assert peer.torch.backends.cuda.matmul.allow_tf32 is allowed
    assert peer.torch.backends.cudnn.allow_tf32 is allowed


@pytest.mark.parametrize("mode", ["padded", "packed", "graphed"])
def test_each_step_has_new_dropout_masks(peer, mode):
    task = peer.CudaTorchTask(mode, make_workload(parse_size(TINY), "lstm"), "loss-dropout", device="cpu")
    losses = {float(task.loss(task.features, task.captions).detach()) for _ in range(3)}
    assert len(losses) == 3
