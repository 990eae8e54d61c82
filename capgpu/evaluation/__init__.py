"""How a trained captioner is judged: its captions, its likelihood, and the trivial guess beside it."""
