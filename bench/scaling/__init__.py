"""Training by several processes: what it costs on one machine, over a network, and on paper."""
