"""Write ``docs/shapes_models.md``: the cards of the models of the world of shapes, in one page."""

from __future__ import annotations

from pathlib import Path

import foveate

MODELS = Path(foveate.__file__).parent / "models"
PAGE = Path(__file__).parent.parent / "docs" / "shapes_models.md"
ORDER = ("shapes-vlm", "shapes-dit", "shapes-unet", "shapes-clip", "shapes-vit")
HEAD = """# Models of the world of shapes

What each of them can and cannot, and what it reaches on scenes that it was not trained on, as its
script measured it when it was exported (`scripts/train`, `--export --evaluate`). The cards lie
beside the weights, in `src/foveate/models`; this page is put together from them by
`python -m benchmarks.shapes_cards`. The world itself is in [The world of shapes](shapes.md).
"""


def page() -> str:
    """The cards of the models that are there."""
    cards = [MODELS / name / "CARD.md" for name in ORDER]
    texts = [card.read_text(encoding="utf-8").strip() for card in cards if card.exists()]
    return "\n\n".join([HEAD.strip(), *(f"#{text}" for text in texts)]) + "\n"


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
