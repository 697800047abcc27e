"""The page: self-contained, escaped, its data intact, of bearable size."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from foveate.errors import FoveateError
from foveate.report import Ablation, build, render, write
from foveate.report.html import thirds
from foveate.results import Results

Make = Callable[..., Any]


class Page(HTMLParser):
    """Tags, attributes and texts by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.tags:
            self.texts.setdefault(self.tags[-1], []).append(data)


def full(make_run: Make) -> str:
    return render(
        build(
            make_run(batch=2, pad=1, steps=2),
            baseline=make_run(batch=2, pad=1, seed=1),
            answers={"<i>before</i>": "<script>alert(1)</script>", "after": ["x", "y"]},
            ablations=[Ablation("<cat>", "</script>", -1.5), Ablation("first", "", None)],
            title="<img src=x onerror=alert(1)>",
            model="<model>",
        )
    )


def test_it_loads_nothing(make_run: Make) -> None:
    text = full(make_run)
    page = Page(text)
    assert not [a for a in page.attributes if a[1] in ("src", "href", "action", "srcset")]
    assert not {"link", "img", "iframe", "object", "embed"} & set(page.tags)
    assert "@import" not in text and "url(" not in text
    # the one address is the name of SVG's namespace
    assert set(re.findall(r"https?://[^\"'\s]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_everything_is_escaped(make_run: Make) -> None:
    page = Page(full(make_run))
    assert page.tags.count("script") == 2 and "i" in page.tags and "b" in page.tags
    assert page.texts["title"][0] == "<img src=x onerror=alert(1)>"
    assert "<script>alert(1)</script>" in page.texts["blockquote"]
    assert not [a for a in page.attributes if a[1].startswith("on")]


def test_its_data_are_the_data(make_run: Make) -> None:
    data = build(make_run(steps=1))
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', render(data), re.S
    )
    assert found is not None
    assert json.loads(found[1]) == json.loads(json.dumps(data.to_dict()))


def test_size(make_run: Make) -> None:
    size = 2000
    run = make_run(tokens=[" word"] * 10)
    run.prompt.token_rows = [[" word"] * size]
    run.prompt.inputs = {"attention_mask": torch.ones(1, size)}
    run.prompt.regions = {"half": torch.arange(size)[None] < size // 2}
    run.results = Results({"decoder": 30})
    shapes = {"mass:half": [size], "entropy": [size], "distance": [size], "received": [size],
              "rows": [1, size], "block_map": [32, 32]}  # fmt: skip
    for layer in range(30):
        for key, shape in shapes.items():
            value = torch.rand(1, 9, *shape)
            run.results.record("decoder", layer, "prefill", 0, key, value, q_start=0, kv_start=0)
    data = build(run)
    assert all(one.heads is not None for one in data.items[0].token_maps)
    assert len(render(data).encode()) < 3_000_000


def test_it_offers_ablation(make_run: Make) -> None:
    without = render(build(make_run()))
    assert "Attention is not explanation" in without and "--ablate" in without
    assert "−1.50 nats" in full(make_run)


def test_write(make_run: Make, tmp_path: Path) -> None:
    path = write(make_run(), tmp_path / "r.html", title="Grün")
    assert "Grün" in path.read_text(encoding="utf-8")
    with pytest.raises(FoveateError, match="cannot be written"):
        write(make_run(), tmp_path / "none" / "r.html")
    with pytest.raises(FoveateError, match="cannot be written"):
        write(make_run(), tmp_path)


def test_thirds() -> None:
    assert thirds([1.0, 2.0, 3.0, None, 5.0, 7.0]) == [1.5, 3.0, 6.0]
    assert thirds([]) == [None, None, None]
