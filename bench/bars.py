"""Target ratios of the `cpu` backend, and the comparison of a set of records with them."""

from __future__ import annotations

from dataclasses import dataclass

from bench import stats
from bench.competitors import kind_of_job, limit_prefix
from bench.measure import Record
from bench.workloads import CELLS, FURTHER_CELLS

#: Largest allowed ratio of capgpu's time to the fastest peer's, by kind of job and (size, cell).
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
#: With dropout, as in the defaults of `capgpu train`.
PEER_BARS["adam-dropout"] = dict.fromkeys(PEER_BARS["adam"], 0.60) | {("S4", cell): 0.55 for cell in CELLS}
for _bars in PEER_BARS.values():
    _bars |= {(size, cell): 0.65 for size in ("S1", "S3") for cell in FURTHER_CELLS}
#: The same for all sampling jobs, and for one caption at S3.
SAMPLE_BAR, ONE_CAPTION_BAR = 0.85, 0.80
#: Largest allowed ratio of capgpu's time to that of the matrix products on distinct words with the faster BLAS.
LIMIT_BARS = {(size, cell): 1.05 for size in ("S1", "S2", "S3") for cell in CELLS}
#: Largest allowed ratio of capgpu's peak memory to PyTorch's smallest, at S3.
MEMORY_BAR = 0.5


@dataclass(frozen=True)
class Standing:
    """capgpu's record beside the fastest peer and the faster limit, for one size, cell and job; None if missing."""

    ours: Record
    peer: Record | None
    peer_ratio: float | None
    peer_bar: float | None
    limit: Record | None
    limit_ratio: float | None
    limit_bar: float | None

    @property
    def clears(self) -> str:
        """Whether all ratios are within their bars: ``"yes"`` or ``"no"``, ``"-"`` if there is nothing to compare."""
        pairs = [(self.peer_ratio, self.peer_bar), (self.limit_ratio, self.limit_bar)]
        within = [ratio <= bar for ratio, bar in pairs if ratio is not None and bar is not None]
        return "-" if not within else "yes" if all(within) else "no"


def fastest(records: list[Record]) -> Record | None:
    """Return the record with the smallest median among those that were timed and agree with the oracle."""
    timed = [record for record in records if record.status == "ok" and record.slices]
    return min(timed, key=lambda record: record.summary.median, default=None) if timed else None  # type: ignore[union-attr]


def peer_bar(size: str, cell: str, job: str) -> float | None:
    """Return the bar against the fastest peer, or None if the size or job has no bar."""
    if kind_of_job(job) == "sample":
        if ":" in size:
            return None
        return ONE_CAPTION_BAR if (size, job) == ("S3", "sample1") else SAMPLE_BAR
    return PEER_BARS[job].get((size, cell))


def standing(records: list[Record]) -> Standing | None:
    """Compare capgpu with the others for one size, cell and job; None if capgpu was not timed."""
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
