"""Evaluation of trained captioners: captions, likelihood, scores, and a nearest-neighbour baseline."""
