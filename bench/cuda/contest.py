"""Who is timed on a GPU, at which jobs and in which precisions."""

from __future__ import annotations

from bench.competitors import Competitor

__all__ = ["JOBS", "MODES", "OURS", "PEERS", "PRECISIONS", "REQUIRED", "peers_of"]

#: ``-dropout``: with the dropout that `capgpu train` has by default, on the features and before the vocabulary.
JOBS = ("adam", "adam-dropout", "loss", "sample100", "sample1")
PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
#: Precisions in which every job of ours must run; in the others one that is not served is a note in the table.
REQUIRED = ("float32", "tf32")
OURS = Competitor("capgpu cuda", "cuda_ours", "cuda", "ours")
#: PyTorch's ways, see `bench.peers.cuda_torch`.
MODES = ("padded", "packed", "compiled", "graphed")
PEERS = tuple(
    Competitor(
        f"torch {mode}",
        "cuda_torch",
        mode,
        "peer",
        peer_python=True,
        jobs=("loss", "adam") if mode == "packed" else ("loss", "adam", "sample"),
    )
    for mode in MODES
)


def peers_of(modes: list[str]) -> list[Competitor]:
    """Return the peers of the given modes."""
    return [peer for peer in PEERS if peer.mode in modes]
