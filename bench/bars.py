"""What the `cpu` backend is held to, and how a set of records stands against it."""

from __future__ import annotations

from dataclasses import dataclass

from bench import stats
from bench.competitors import kind_of_job, limit_prefix
from bench.measure import Record
from bench.workloads import CELLS

#: Most that ours / fastest peer may be, by kind of job and (size, cell); sampling has one for all.
PEER_BARS = {
    "loss": {
        ("S1", "lstm"): 0.62,
        ("S2", "lstm"): 0.62,
        ("S1", "rnn"): 0.70,
        ("S2", "rnn"): 0.70,
        ("S3", "lstm"): 0.75,
        ("S3", "rnn"): 0.75,
        ("S4", "lstm"): 0.50,
        ("S4", "rnn"): 0.50,
    },
    "adam": {
        ("S1", "lstm"): 0.66,
        ("S2", "lstm"): 0.66,
        ("S1", "rnn"): 0.73,
        ("S2", "rnn"): 0.73,
        ("S3", "lstm"): 0.77,
        ("S3", "rnn"): 0.77,
        ("S4", "lstm"): 0.55,
        ("S4", "rnn"): 0.55,
    },
}
#: With the command's dropout: what its users get.
PEER_BARS["adam-dropout"] = dict.fromkeys(PEER_BARS["adam"], 0.60) | {("S4", cell): 0.55 for cell in CELLS}
SAMPLE_BAR = 0.85
#: Most that ours / (matrix products on distinct words, better BLAS) may be; the tiny size has none.
LIMIT_BARS = {
    ("S1", "lstm"): 1.15,
    ("S2", "lstm"): 1.15,
    ("S1", "rnn"): 1.20,
    ("S2", "rnn"): 1.20,
    ("S3", "lstm"): 1.15,
    ("S3", "rnn"): 1.15,
}
#: Most that our peak memory over PyTorch's smallest may be at S3.
MEMORY_BAR = 0.5


@dataclass(frozen=True)
class Standing:
    """Ours beside the fastest peer and the better limit at one size, cell and job; None where missing."""

    ours: Record
    peer: Record | None
    peer_ratio: float | None
    peer_bar: float | None
    limit: Record | None
    limit_ratio: float | None
    limit_bar: float | None

    @property
    def verdict(self) -> str:
        """Return ``"yes"`` or ``"no"`` to: does it clear its bars; ``"-"`` where none can be judged."""
        pairs = [(self.peer_ratio, self.peer_bar), (self.limit_ratio, self.limit_bar)]
        judged = [ratio <= bar for ratio, bar in pairs if ratio is not None and bar is not None]
        return "-" if not judged else "yes" if all(judged) else "no"


def fastest(records: list[Record]) -> Record | None:
    """Return the record of the smallest median among those that were timed and agree."""
    timed = [record for record in records if record.status == "ok" and record.slices]
    return min(timed, key=lambda record: record.summary.median, default=None) if timed else None  # type: ignore[union-attr]


def peer_bar(size: str, cell: str, job: str) -> float | None:
    """Return the bar against the fastest peer; None where there is none."""
    if kind_of_job(job) == "sample":
        return SAMPLE_BAR if ":" not in size else None
    return PEER_BARS[job].get((size, cell))


def standing(records: list[Record]) -> Standing | None:
    """Hold ours against the others of one size, cell and job; None if ours was not timed."""
    ours = next((record for record in records if record.kind == "ours" and record.slices), None)
    if ours is None:
        return None
    size, cell, job = ours.size, ours.cell, ours.job
    peer = fastest([record for record in records if record.kind == "peer"])
    limit = fastest([record for record in records if record.label.startswith(limit_prefix(job))])
    return Standing(
        ours=ours,
        peer=peer,
        peer_ratio=None if peer is None else stats.paired_ratio(ours.slices, peer.slices),
        peer_bar=peer_bar(size, cell, job),
        limit=limit,
        limit_ratio=None if limit is None else stats.paired_ratio(ours.slices, limit.slices),
        limit_bar=LIMIT_BARS.get((size, cell)) if job == "loss" else None,
    )
