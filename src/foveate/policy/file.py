"""``policy.toml``: a policy as a text that people read, compare and send."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import FoveateError
from ..find._model import ModelId
from .place import check_versions, versions
from .rewrites import REWRITES
from .rules import RULES
from .toml import dumps, plain
from .written import read_method, write_method

if TYPE_CHECKING:
    from .policy import Policy

__all__ = ["parse", "read", "store", "write"]

FORMAT = "foveate policy, version 1"
HEAD = """\
A policy of foveate: what is changed in a model's attention, where, and what it gained.

  foveate steer --policy policy.toml "…"        any command that takes --model takes it

  import foveate as fv
  model, tokenizer = fv.load("MODEL")
  policy = fv.Policy.load("policy.toml")
  prompt = policy.prompt(tokenizer, {"context": ["…", "…"], "prompt": "…"})
  with fv.attach(model, policy, prompt=prompt):
      ids = model.generate(**prompt.inputs, max_new_tokens=32)
"""
_BESIDE = ".safetensors"
_TEXTS, _NUMBERS = ("name", "architecture", "fingerprint"), ("layers", "heads")  # of [model]
_KEYS = ("format", "name", "rewrites", "library", "model", "data", "tensors", "method", "figures")


def write(policy: Policy) -> tuple[str, bytes | None]:
    """The text, and the bytes of the tensors that go beside it (None where there are none)."""
    for name in policy.regions:
        if name not in RULES:
            raise FoveateError(
                f"The policy {policy.name!r} speaks of {name!r}, which no rule finds when a model "
                f"is asked: the data mark it. Regions by rule are {', '.join(map(repr, RULES))}."
            )
    tensors: dict[str, Tensor] = {}
    methods = [write_method(one, tensors, str(n)) for n, one in enumerate(policy.methods)]
    stored = None
    data: dict[str, Any] = {
        "format": FORMAT,
        "name": policy.name,
        "rewrites": list(policy.rewrites),
        "library": dict(policy.versions) or versions(),
    }
    if policy.model is not None:
        data["model"] = dict(vars(policy.model))
        if policy.grid:
            data["model"] |= {"layers": policy.grid[0], "heads": policy.grid[1]}
    if policy.data:
        data["data"] = plain(policy.data, "data")
    if tensors:
        from safetensors.torch import save

        stored = save(tensors, {"format": FORMAT})
        data["tensors"] = {"sha256": hashlib.sha256(stored).hexdigest()}
    if methods:
        data["method"] = methods
    if policy.figures:
        data["figures"] = plain(policy.figures, "figures")
    model = policy.model.name if policy.model else "smollm2"
    return dumps(data, HEAD.replace('"MODEL"', json.dumps(model, ensure_ascii=False))), stored


def store(path: Path, text: str, tensors: bytes | None) -> Path:
    """Write what :func:`write` gave; the path is returned."""
    beside = path.with_suffix(_BESIDE)
    try:
        if tensors is not None:
            if path == beside or (beside.exists() and not _ours(beside)):
                raise FoveateError(
                    f"{str(beside)!r} is where the policy's tensors go, and is another file: save "
                    "the policy under another name, such as 'policy.toml'."
                )
            beside.write_bytes(tensors)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise FoveateError(f"{str(path)!r} cannot be written: {error.strerror}.") from None
    return path


def _ours(path: Path) -> bool:
    """Whether a file holds a policy's tensors, and no model's weights."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as held:
            return (held.metadata() or {}).get("format") == FORMAT
    except SafetensorError:
        return False


def read(path: Path) -> dict[str, Any]:
    """What :class:`Policy` is made of, from a file; every fault is told in one sentence."""
    with _faults(repr(str(path))):
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise FoveateError(f"{(error.strerror or str(error)).lower()}") from None
        except UnicodeDecodeError:
            raise FoveateError("it is no text in UTF-8") from None
        return _made(_parsed(text), path)


def parse(text: str) -> dict[str, Any]:
    """The same from a text, which has no tensors beside it."""
    with _faults("given as a text"):
        return _made(_parsed(text), None)


@contextmanager
def _faults(which: str) -> Iterator[None]:
    try:
        yield
    except FoveateError as error:
        why = str(error).rstrip(".")
        raise FoveateError(f"The policy {which} cannot be used: {why}.") from None


def _parsed(text: str) -> dict[str, Any]:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FoveateError(f"it is no TOML ({error})") from None
    form = data.get("format")
    if form != FORMAT:
        raise FoveateError(f"its format is {form!r}; this version of foveate reads {FORMAT!r}")
    unknown = [key for key in data if key not in _KEYS]
    if unknown:
        raise FoveateError(f"it has {', '.join(unknown)}; a policy has {', '.join(_KEYS)}")
    check_versions(_table(data, "library"))
    return data


def _made(data: Mapping[str, Any], path: Path | None) -> dict[str, Any]:
    rewrites = data.get("rewrites", [])
    if not isinstance(rewrites, list):
        raise FoveateError(f'rewrites = {rewrites!r:.40}; a list was wanted: ["question twice"]')
    for one in rewrites:
        if not isinstance(one, str) or one not in REWRITES:
            raise FoveateError(
                f"there is no rewrite {one!r} in this version; there are "
                f"{', '.join(map(repr, REWRITES))}"
            )
    tables = data.get("method", [])
    if not isinstance(tables, list):
        raise FoveateError("[method] was found; each method begins with [[method]]")
    tensors = _tensors(_table(data, "tensors"), path)
    methods = [_method(n, table, tensors) for n, table in enumerate(tables, 1)]
    who, grid = _model(_table(data, "model"))
    for n, method in enumerate(methods, 1):
        _there(f"[[method]] {n} ({type(method).__name__})", method, grid)
    name = data.get("name", path.stem if path else "policy")
    if not isinstance(name, str) or not name.strip():
        raise FoveateError(f"name = {name!r:.40}; a policy's name is a text")
    return {
        "methods": methods,
        "rewrites": tuple(rewrites),
        "name": name,
        "model": who,
        "grid": grid,
        "data": _table(data, "data"),
        "versions": _table(data, "library"),
        "figures": _table(data, "figures"),
    }


def _model(table: Mapping[str, Any]) -> tuple[ModelId | None, tuple[int, int] | None]:
    """Whose it is, and its layers and heads a layer where they are told."""
    if not table:
        return None, None
    if table.keys() not in ({*_TEXTS}, {*_TEXTS, *_NUMBERS}):
        raise FoveateError(
            f"[model] has {', '.join(table)}; name, architecture, fingerprint, layers and heads "
            "were wanted"
        )
    for key, value in table.items():
        kind, wanted = (str, "a text") if key in _TEXTS else (int, "a whole number")
        if isinstance(value, bool) or not isinstance(value, kind):
            raise FoveateError(f"[model] has {key} = {value!r:.40}; {wanted} was wanted")
    grid = (table["layers"], table["heads"]) if "layers" in table else None
    return ModelId(**{key: table[key] for key in _TEXTS}), grid


def _method(number: int, table: Any, tensors: Mapping[str, Tensor]) -> Any:
    from .policy import Policy

    try:
        method = read_method(table, tensors)
        for name in Policy([method]).regions:
            if name not in RULES:
                raise FoveateError(
                    f"{table['name']} speaks of {name!r}, for which this version has no rule; "
                    f"there are {', '.join(map(repr, RULES))}"
                )
    except FoveateError as error:
        named = table.get("name") if isinstance(table, Mapping) else None
        whose = f" ({named})" if isinstance(named, str) and named not in str(error) else ""
        raise FoveateError(f"[[method]] {number}{whose}: {error}") from None
    return method


def _there(who: str, method: Any, grid: tuple[int, int] | None) -> None:
    """Refuse layers and heads that the model of the file has not, before a model is there."""
    scope = getattr(method, "scope", None)
    if scope is None or grid is None or scope.stack is not None:
        return
    by_layer = scope.heads if isinstance(scope.heads, Mapping) else {None: scope.heads or ()}
    layers = [*(scope.layers or ()), *(n for n in by_layer if n is not None)]
    heads = [head for some in by_layer.values() for head in some]
    for what, named, count in (("layer", layers, grid[0]), ("head", heads, grid[1])):
        for n in named:
            if not -count <= n < count:
                raise FoveateError(
                    f"{who} names {what} {n}; the model that [model] tells of has {what}s "
                    f"0–{count - 1}"
                )


def _table(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = data.get(key, {})
    if not isinstance(found, dict):
        raise FoveateError(f"{key} = {found!r:.40} was found; a table [{key}] was wanted")
    return dict(found)


def _tensors(told: Mapping[str, Any], path: Path | None) -> dict[str, Tensor]:
    if not told or path is None:
        return {}
    from safetensors.torch import load

    beside = path.with_suffix(_BESIDE)
    try:
        stored = beside.read_bytes()
    except OSError:
        raise FoveateError(f"its tensors were to be beside it, in {beside.name!r}") from None
    if hashlib.sha256(stored).hexdigest() != told.get("sha256"):
        raise FoveateError(f"{beside.name!r} beside it is another file (sha256 differs)")
    return load(stored)
