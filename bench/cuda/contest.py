"""The competitors, jobs and precisions of the GPU benchmark."""

from __future__ import annotations

from bench.competitors import Competitor

__all__ = ["JOBS", "MODES", "OURS", "PEERS", "PRECISIONS", "REQUIRED", "peers_of"]

#: ``-dropout``: with the dropout that `capgpu train` has by default, on the features and before the vocabulary.
JOBS = ("adam", "adam-dropout", "loss", "sample100", "sample1")
PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
#: Precisions in which capgpu must run every job; in the others an unsupported job becomes a note in the table.
REQUIRED = ("float32", "tf32")
OURS = Competitor("capgpu cuda", "cuda_ours", "cuda", "ours")
#: Modes of PyTorch, see `bench.peers.torch_peer`.
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
