"""The register of what implements which paper."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from foveate import _implements
from foveate._implements import Record, implementations, implements


@pytest.fixture(autouse=True)
def empty_register(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_implements, "_REGISTRY", {})


def own(obj: Any) -> tuple[Record, ...]:
    """The attribute the decorator leaves, which no type checker knows of."""
    return obj.__implements__


def module_with(monkeypatch: pytest.MonkeyPatch, source: str) -> types.ModuleType:
    """Run source as an importable module, as an import would."""
    module = types.ModuleType("made_up")
    monkeypatch.setitem(sys.modules, "made_up", module)
    exec(f"from foveate._implements import implements\n{source}", module.__dict__)
    return module


def test_a_class_is_returned_unchanged_and_recorded() -> None:
    class Plain:
        pass

    decorated = implements("some-paper", basis="paper", maturity="stable")(Plain)

    assert decorated is Plain
    record = Record("some-paper", __name__, Plain.__qualname__, "paper", "stable")
    assert implementations() == {"some-paper": [record]}
    assert own(decorated) == (record,)
    assert record.dotted == f"{__name__}.{Plain.__qualname__}"


def test_a_function_is_recorded_and_still_works() -> None:
    @implements("some-paper", basis="abstract")
    def double(x: int) -> int:
        return 2 * x

    assert double(4) == 8
    (record,) = implementations()["some-paper"]
    assert (record.basis, record.maturity) == ("abstract", "experimental")


def test_several_slugs_and_several_objects() -> None:
    @implements("first", "second", basis="paper")
    class A:
        pass

    @implements("second", basis="paper")
    class B:
        pass

    names = {
        slug: [record.qualname.rpartition(".")[2] for record in records]
        for slug, records in implementations().items()
    }
    assert names == {"first": ["A"], "second": ["A", "B"]}
    assert [record.slug for record in own(A)] == ["first", "second"]
    assert own(B) == (implementations()["second"][1],)


def test_decorators_add_up_and_repeating_one_changes_nothing() -> None:
    @implements("first", basis="paper")
    @implements("second", basis="abstract")
    @implements("first", basis="paper")
    class A:
        pass

    assert {record.slug: record.basis for record in own(A)} == {
        "first": "paper",
        "second": "abstract",
    }
    assert len(own(A)) == 2
    assert [len(records) for records in implementations().values()] == [1, 1]


def test_a_subclass_does_not_list_its_parents_records_as_its_own() -> None:
    @implements("first", basis="paper")
    class Parent:
        pass

    class Undecorated(Parent):
        pass

    @implements("second", basis="paper")
    class Child(Parent):
        pass

    assert [record.slug for record in own(Child)] == ["second"]
    assert len(implementations()["first"]) == 1
    assert "__implements__" not in vars(Undecorated)


@pytest.mark.parametrize(
    ("module", "qualname", "public"),
    [
        ("foveate.methods.emphasis", "Emphasize", True),
        ("foveate.methods._draft", "Emphasize", False),
        ("foveate.methods.emphasis", "_Emphasize", False),
        ("foveate.methods.emphasis", "make.<locals>.Emphasize", False),
    ],
)
def test_public(module: str, qualname: str, public: bool) -> None:
    assert Record("first", module, qualname, "paper", "stable").public is public


def test_the_copy_handed_out_does_not_reach_the_register() -> None:
    implements("first", basis="paper")(type("A", (), {}))
    implementations()["first"].clear()
    assert len(implementations()["first"]) == 1


# --- bad input


def test_no_slug() -> None:
    with pytest.raises(TypeError, match="at least one slug"):
        implements(basis="paper")


@pytest.mark.parametrize("slug", [3, None, object, b"slug"])
def test_a_slug_that_is_no_string(slug: object) -> None:
    with pytest.raises(TypeError, match="slugs as strings"):
        implements(slug, basis="paper")  # type: ignore[arg-type]


@pytest.mark.parametrize("slug", ["", "Some-Paper", "two words", "under_score", "-a", "a--b"])
def test_a_malformed_slug(slug: str) -> None:
    with pytest.raises(ValueError, match="not of the catalogue's form"):
        implements(slug, basis="paper")


def test_basis_is_a_claim_and_has_no_default() -> None:
    with pytest.raises(TypeError, match="basis"):
        implements("first")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "wrong", [{"basis": "rumour"}, {"basis": None}, {"basis": "paper", "maturity": "perfect"}]
)
def test_unknown_basis_or_maturity_names_the_known_ones(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"'paper' or 'abstract'|'stable' or 'experimental'"):
        implements("first", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("thing", [3, "text", object()])
def test_decorating_what_is_neither_class_nor_function(thing: object) -> None:
    with pytest.raises(TypeError, match="classes and functions"):
        implements("first", basis="paper")(thing)  # type: ignore[type-var]
    assert implementations() == {}


def test_one_object_with_two_bases_is_refused() -> None:
    @implements("first", basis="paper")
    class A:
        pass

    with pytest.raises(ValueError, match=r"already implements 'first' with basis='paper'"):
        implements("first", basis="abstract")(A)


def test_two_objects_of_one_name_are_refused_and_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = """
@implements("first", basis="paper")
class A: ...

@implements("other", "first", basis="paper")
class A: ...
"""
    with pytest.raises(ValueError, match=r"another object named made_up\.A"):
        module_with(monkeypatch, source)
    assert "other" not in implementations()
    assert len(implementations()["first"]) == 1


def test_a_module_whose_import_failed_half_way_may_be_imported_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = '@implements("first", basis="paper")\nclass A: ...\n'
    with pytest.raises(ZeroDivisionError):
        module_with(monkeypatch, source + "1 / 0\n")
    again = module_with(monkeypatch, source)
    assert len(implementations()["first"]) == 1
    assert own(again.A) == tuple(implementations()["first"])
