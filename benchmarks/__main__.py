"""``python -m benchmarks [NAME ...]``: run benchmarks by name, all of them by default.

``advice`` (in parts: see there), ``autopasta``, ``architectures`` (many minutes),
``compatibility`` (ten minutes), ``cost`` (four minutes), ``diagnosis`` (five minutes),
``literature`` (needs the extra ``search``), ``patterns``, ``reach``, ``gpu`` (needs CUDA),
``sparse_prefill`` (five minutes), ``sparse_quality`` (half an hour; goes on where it stopped),
``trained_sparse`` (a quarter of an hour) and ``windows`` run only when named.
Beside them stand ``benchmarks.peers_*`` (other libraries, which have to be installed).
"""

from __future__ import annotations

import importlib
import sys

NAMES = ("operator", "precision", "prefill", "memory", "decode", "steering", "finders")
LONG = ("advice", "autopasta", "architectures", "candidates", "compatibility", "cost", "diagnosis",
        "literature", "patterns", "reach", "gpu", "sparse_prefill", "sparse_quality",
        "trained_sparse", "windows")  # fmt: skip

if __name__ == "__main__":
    for name in sys.argv[1:] or NAMES:
        if name not in (*NAMES, *LONG):
            sys.exit(f"no benchmark {name!r}; there are: {', '.join((*NAMES, *LONG))}")
        importlib.import_module(f"benchmarks.{name}").main()
    importlib.import_module("benchmarks.figures").main()
