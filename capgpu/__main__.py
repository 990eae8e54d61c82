"""``python -m capgpu``: the same as the command ``capgpu``."""

from capgpu.cli import main

if __name__ == "__main__":
    main(prog_name="python -m capgpu")
