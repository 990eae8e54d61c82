"""CUDA on the CPU: the kernels' own source, compiled by the host's C++ compiler and run thread by thread."""
