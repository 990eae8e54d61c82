"""Take the walk: ``python -m tools.walk``, or a part of it: ``python -m tools.walk --section Command``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path


def main() -> int:
    """Try each promise, print a line of what was seen, and return 1 if one does not hold."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ["CAPGPU_BACKEND"] = "numpy"  # which compiles nothing
    from tools.walk import command, documents, python_interface, web_page
    from tools.walk.promises import PROMISES, SkippedError, User

    assert all(module.__doc__ for module in (command, documents, python_interface, web_page))
    sections = list(dict.fromkeys(promise.section for promise in PROMISES))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--section", action="append", choices=sections, help="by default all")
    parser.add_argument("--only", metavar="WORDS", default="", help="promises whose sentence contains these words")
    given = parser.parse_args()
    counts = dict.fromkeys(("holds", "FAILS", "skipped"), 0)
    with tempfile.TemporaryDirectory() as folder:
        user = User(Path(folder))
        try:
            for promise in PROMISES:
                if promise.section not in (given.section or sections) or given.only not in promise.sentence:
                    continue
                start = time.perf_counter()
                try:
                    outcome, seen = "holds", promise.check(user)
                except SkippedError as error:
                    outcome, seen = "skipped", str(error)
                except Exception as error:  # a bug of the product, or of the walk, is a failure as well
                    last = traceback.extract_tb(error.__traceback__)[-1]
                    outcome, seen = "FAILS", f"{type(error).__name__} in line {last.lineno} of {last.name}: {error}"
                counts[outcome] += 1
                print(f"{outcome:7} {promise.section}: {promise.sentence}", flush=True)
                print(f"        -> {' '.join(seen.split())} ({time.perf_counter() - start:.1f} s)", flush=True)
        finally:
            web_page.stop_servers()
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return 1 if counts["FAILS"] or not counts["holds"] else 0


if __name__ == "__main__":
    sys.exit(main())
