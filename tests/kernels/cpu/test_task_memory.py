"""Temporary arrays of tasks: what cannot be allocated is refused, and nothing is written beside what was."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.kernels.cpu import KERNELS


def test_a_size_in_bytes_that_does_not_fit_a_word_is_refused():
    # sizes in bytes modulo 2**64 are 16, and 80
    with pytest.raises(MemoryError, match="expected memory for the temporary array"):
        KERNELS.embedding_gradient(np.empty((1, 0), np.float32), np.array([0]), 2**60)
    with pytest.raises(MemoryError, match="expected memory for the temporary array"):
        KERNELS.pack_captions(np.array([[1, 2], [2, 1]]), 0, 2**61)


def test_no_elements_are_no_error():
    log_probs, words = KERNELS.top_words(np.empty((2, 0)), 1, np.zeros(0, np.bool_))
    assert (log_probs == -np.inf).all()
    assert not words.any()
