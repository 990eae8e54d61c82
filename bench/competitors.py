"""The competitors: a label, the module and mode that do the work, and the interpreter that runs them."""

from __future__ import annotations

from dataclasses import dataclass

from bench.workloads import split_job


@dataclass(frozen=True)
class Competitor:
    """One worker process.

    Attributes
    ----------
    label : str
        Name in the tables.
    module, mode : str
        A module of ``bench.peers``, and the argument of its ``make_task``.
    kind : str
        ``"ours"``, ``"own"`` (capgpu on another backend), ``"peer"`` (the fastest is the ratio's denominator),
        ``"limit"`` (matrix products only) or ``"oracle"`` (for comparison of results, never timed).
    peer_python : bool
        Whether it needs the interpreter that has PyTorch and JAX.
    jobs : tuple of str
        The kinds of job it takes part in: ``loss``, ``adam``, ``sample``.
    dropout : bool
        Whether it takes part in jobs with dropout.
    """

    label: str
    module: str
    mode: str
    kind: str
    peer_python: bool = False
    jobs: tuple[str, ...] = ("loss", "adam", "sample")
    dropout: bool = True

    def takes_part(self, job: str) -> bool:
        """Return whether the competitor has a job."""
        return kind_of_job(job) in self.jobs and (self.dropout or not split_job(job)[1])


ORACLE = Competitor("oracle", "exercise", "float64", "oracle")

COMPETITORS = (
    Competitor("capgpu cpu", "ours", "cpu", "ours"),
    Competitor("capgpu numpy", "ours", "numpy", "own"),
    Competitor("exercise", "exercise", "float32", "peer", dropout=False),
    Competitor("torch padded", "torch_peer", "padded", "peer", peer_python=True),
    Competitor("torch packed", "torch_peer", "packed", "peer", peer_python=True, jobs=("loss", "adam")),
    Competitor("torch compiled", "torch_peer", "compiled", "peer", peer_python=True),
    Competitor("jax", "jax_peer", "scan", "peer", peer_python=True),
    Competitor("gemm full numpy", "gemm_limit", "full-numpy", "limit", jobs=("loss", "sample")),
    Competitor("gemm packed numpy", "gemm_limit", "packed-numpy", "limit", jobs=("loss",)),
    Competitor("gemm distinct numpy", "gemm_limit", "distinct-numpy", "limit", jobs=("loss",)),
    Competitor("gemm full torch", "gemm_limit", "full-torch", "limit", peer_python=True, jobs=("loss", "sample")),
    Competitor("gemm packed torch", "gemm_limit", "packed-torch", "limit", peer_python=True, jobs=("loss",)),
    Competitor("gemm distinct torch", "gemm_limit", "distinct-torch", "limit", peer_python=True, jobs=("loss",)),
)


def kind_of_job(job: str) -> str:
    """Return ``"sample"`` for the sampling jobs, otherwise the job itself, without its dropout."""
    return "sample" if job.startswith("sample") else split_job(job)[0]


def limit_prefix(job: str) -> str:
    """Return the prefix of the labels of the limits for `job`."""
    return "gemm full" if job.startswith("sample") else "gemm distinct"


def choose(pattern: str | None) -> list[Competitor]:
    """Return the competitors whose label contains one of the comma-separated words; all of them for None.

    Raises
    ------
    ValueError
        If a word matches no label.
    """
    if pattern is None:
        return list(COMPETITORS)
    words = [word.strip() for word in pattern.split(",")]
    for word in words:
        if not any(word in competitor.label for competitor in COMPETITORS):
            labels = ", ".join(competitor.label for competitor in COMPETITORS)
            raise ValueError(f"competitors: expected words of the labels {labels}, got {word!r}")
    return [competitor for competitor in COMPETITORS if any(word in competitor.label for word in words)]
