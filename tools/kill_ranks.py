"""Kill random ranks of a training run again and again, and check that nothing is lost.

    python -m tools.kill_ranks --kills 100

A small captioner is trained by one process, which is the reference. Then by 2 to 4 ranks under mpiexec, of which one,
drawn at random, is killed at a random time, or stopped, or all are interrupted; another number of ranks goes on from
the state on the disk. After each fault:

    mpiexec has ended within seconds, with an exit status other than 0
    the state can be read, is not behind that of before, and has the reference's losses
    the record of training can be read

At the end the run is finished, and its losses and parameters are the reference's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

#: Seconds within which a fault has to end the job: heartbeats take RANK_TIMEOUT, the rest is for a busy machine.
LIMIT = 30.0
RANK_TIMEOUT = 3.0
TOLERANCE = 1e-6

_PROGRAM = """
import os, sys
import numpy as np
import capgpu

folder, epochs = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
words = {word: i for i, word in enumerate(["<NULL>", "<START>", "<END>", *map(str, range(20))])}
data = {"word_to_idx": words}
for split, count in (("train", 40), ("val", 10)):
    captions = np.zeros((count, 8), np.int32)
    for row in captions:
        length = rng.integers(1, 6)
        row[0], row[1 : 1 + length], row[1 + length] = 1, rng.integers(3, 23, length), 2
    data |= {
        f"{split}_captions": captions,
        f"{split}_features": rng.standard_normal((count, 6)),
        f"{split}_image_idxs": np.arange(count),
    }
model = capgpu.CaptioningRNN(
    words, 6, 8, 8, "lstm", "float64", seed=0, feature_dropout=0.2, output_dropout=0.2
)
solver = capgpu.CaptioningSolver(
    model, data, "adam", {"learning_rate": 1e-3}, batch_size=9, num_epochs=epochs, print_every=7, verbose=False, seed=1,
    clip_norm=1.0, history=f"{folder}/history.jsonl", checkpoint=folder, resume=True,
)
with open(f"{folder}/started", "a") as file:
    file.write(f"{solver.ranks.rank} {os.getpid()}\\n")
try:
    solver.train()
except KeyboardInterrupt:
    sys.exit(130)
print("finished", flush=True)
"""


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "CAPGPU_BACKEND": "numpy",
        "CAPGPU_RANK_TIMEOUT": str(RANK_TIMEOUT),
        "OPENBLAS_NUM_THREADS": "1",
    }


def find_mpiexec() -> str:
    """Return the path of mpiexec: the one beside this Python, or of the PATH."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        raise SystemExit("kill_ranks: expected mpiexec beside Python or on the PATH. Install the extra mpi.")
    return found


class Job:
    """The ranks of one mpiexec."""

    def __init__(self, folder: Path, epochs: int, size: int) -> None:
        self.output, self._started = folder / "output", folder / "started"
        self._started.unlink(missing_ok=True)
        launcher = [find_mpiexec(), "-n", str(size)] if size > 1 else []
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                [*launcher, sys.executable, "-c", _PROGRAM, str(folder), str(epochs)],
                env=_environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.size = size

    def text(self) -> str:
        """Return what the ranks have printed so far."""
        return self.output.read_text(errors="replace")

    def processes(self) -> dict[int, int]:
        """Return the process of each rank, once all have started."""
        while True:
            lines = self._started.read_text().splitlines() if self._started.exists() else []
            found = {int(rank): int(process) for rank, process in (line.split() for line in lines if line)}
            if len(found) == self.size:
                return found
            if self.process.poll() is not None:
                raise SystemExit(f"kill_ranks: the ranks did not start:\n{self.text()}")
            time.sleep(0.01)

    def wait(self, limit: float) -> int:
        """Return the exit status."""
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise SystemExit(f"kill_ranks: the job did not end within {limit:.0f} s:\n{self.text()}") from None


def read_state(folder: Path) -> tuple[int, np.ndarray, dict[str, np.ndarray]]:
    """Return step, losses and parameters of the state in a folder; step 0 without one."""
    from capgpu.training.state import STATE_FILE, load_state

    if not (folder / STATE_FILE).exists():
        return 0, np.zeros(0), {}
    state = load_state(folder)
    return state.step, np.array(state.loss_history), dict(state.params)


def read_steps(folder: Path) -> list[int]:
    """Return the steps in the record of training."""
    from capgpu.training.history import read_history

    file = folder / "history.jsonl"
    return [record["step"] for record in read_history(file) if record["kind"] == "step"] if file.exists() else []


def check(holds: bool, what: str, job: Job) -> None:
    """End the program if something was lost."""
    if not holds:
        raise SystemExit(f"kill_ranks: {what}:\n{job.text()}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="number of faults (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of ranks and times (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="epochs of the run (default: 3 for each fault)")
    arguments = parser.parse_args()
    os.environ["CAPGPU_BACKEND"] = "numpy"
    rng, epochs = random.Random(arguments.seed), arguments.epochs or 10 + 3 * arguments.kills
    counts = {"killed": 0, "stopped": 0, "interrupted": 0, "terminated": 0}
    slowest = 0.0
    with tempfile.TemporaryDirectory() as work:
        reference, folder = Path(work, "reference"), Path(work, "run")
        reference.mkdir()
        folder.mkdir()
        job = Job(reference, epochs, 1)
        job.wait(3600)
        _, losses, params = read_state(reference)
        check(losses.size > 0, "the reference did not finish", job)
        step = 0
        for fault in range(arguments.kills):
            kind = rng.choices(list(counts), (7, 1, 1, 1))[0]
            job = Job(folder, epochs, rng.randint(2, 4))
            processes = job.processes()
            time.sleep(rng.uniform(0.0, 0.5))
            victim = processes[rng.randrange(job.size)]
            begin = time.monotonic()
            with suppress(ProcessLookupError):  # it has finished before
                if kind == "killed":
                    os.kill(victim, signal.SIGKILL)
                elif kind == "stopped":
                    os.kill(victim, signal.SIGSTOP)
                else:  # what Ctrl-C and batch systems send to mpiexec, which passes it on
                    job.process.send_signal(signal.SIGINT if kind == "interrupted" else signal.SIGTERM)
            status = job.wait(LIMIT)
            slowest = max(slowest, time.monotonic() - begin)
            check(status != 0 or "finished" in job.text(), "the exit status was 0", job)
            before, (step, found, _) = step, read_state(folder)
            check(step >= before, f"step {before} was lost, the state is of step {step}", job)
            check(np.allclose(found, losses[:step], rtol=TOLERANCE), "losses differ from the reference's", job)
            recorded = read_steps(folder)
            check(recorded == sorted(set(recorded)), "the record of training has steps twice", job)
            counts[kind] += 1
            print(f"{fault + 1}: {kind} with {job.size} ranks, state of step {step} of {losses.size}", flush=True)
        job = Job(folder, epochs, rng.randint(2, 3))
        check(job.wait(3600) == 0, "the run did not finish", job)
        step, found, ended = read_state(folder)
        check(step == losses.size, f"expected {losses.size} steps, got {step}", job)
        check(np.allclose(found, losses, rtol=TOLERANCE), "losses differ from the reference's", job)
        check(read_steps(folder) == read_steps(reference), "the records of training differ", job)
        worst = max(float(np.abs(ended[name] - params[name]).max()) for name in params)
        check(worst < 1e-4, f"parameters differ by {worst}", job)
    summary = {**counts, "slowest_end_s": round(slowest, 2), "loss_difference": float(np.abs(found - losses).max())}
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
