"""The page of the models' cards."""

from benchmarks import shapes_cards


def test_the_page_holds_every_model_and_is_up_to_date() -> None:
    made = shapes_cards.page()
    there = {folder.name for folder in shapes_cards.MODELS.glob("shapes-*")}
    assert there and there <= set(shapes_cards.ORDER)
    assert all(f"\n## {name}\n" in made for name in there)
    assert shapes_cards.PAGE.read_text(encoding="utf-8") == made
