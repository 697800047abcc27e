"""A diagnosis in words: what was found, whether it mattered, and what cannot be said."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from ...statistics import wilson
from .compare import FEW, holm
from .figures import LITTLE
from .heads import Located
from .result import ItemDiagnosis, Row

__all__ = ["sentences", "verdict"]

_ALPHA = 0.05
_HOPELESS = 0.25  # raising mends less than this share, by its interval: attention is not it
# What is compared between failing and passing items in words; all else is in the figures alone.
_TOLD = {
    "tokens": "the length of the prompt",
    "passages": "the number of passages",
    "place.inner": "evidence in the middle of the context",
    "evidence.last": "the last token's attention on the evidence",
    "evidence.answer": "the reply's attention on the evidence",
    "evidence.reading": "the reading heads' attention on the evidence",
    "sink.last": "attention on the first token and special ones",
    "entropy.last": "how spread the attention is",
    "suspicious": "sentences that read like instructions",
    "focus": "attention on the question beside the context",
}

_OF_ALL = ("passages", "place.inner", "suspicious")  # read off the data, with or without a look


def verdict(items: Sequence[ItemDiagnosis], contexts: bool) -> str:
    """``attention``, ``elsewhere`` or ``unknown``; see :class:`Diagnosis`."""
    failing = [one for one in items if not one.right]
    raised = [one for one in failing if one.raised is not None]
    if not failing:
        return "unknown"
    if not contexts:
        return "elsewhere"
    if not raised:
        return "unknown"
    mended = sum(bool(one.raised) for one in raised)
    row = _against(raised)
    if row is not None and row[1] > row[0] and row[2] < _ALPHA:
        return "attention"
    return "elsewhere" if wilson(mended, len(raised))[1] < _HOPELESS else "unknown"


def sentences(
    items: Sequence[ItemDiagnosis],
    rows: Sequence[Row],
    located: Located,
    said: dict[str, Any],
) -> tuple[str, ...]:
    """The sentences, in the order they are read.

    Parameters
    ----------
    said : dict
        ``failing``, ``passing`` (all items), ``contexts`` (any item has one), ``verdict``,
        ``reading`` (on which items reading heads were chosen), ``gain``.
    """
    table = {row.key: row for row in rows}
    failing = [one for one in items if not one.right]
    passing = [one for one in items if one.right]
    found = [_sample(failing, passing, said)]
    if not failing:
        return tuple(found)
    found += _where(items, located, said["contexts"])
    found += _looked(failing, passing)
    found += _raised(failing, said["gain"])
    found += _hidden(failing, passing)
    sampled = len(items) < said["failing"] + said["passing"]
    found += _armed(table, failing, said)
    found += _apart(table, failing, passing, sampled)
    found.append(_verdict(said["verdict"], items, said["contexts"]))
    return tuple(found)


def _sample(
    failing: Sequence[ItemDiagnosis], passing: Sequence[ItemDiagnosis], said: dict[str, Any]
) -> str:
    n = said["failing"] + said["passing"]
    if not said["failing"]:
        return f"None of the {n} items fails: there is nothing to diagnose."
    text = f"{said['failing']} of {n} items fail."
    if len(failing) < said["failing"] or len(passing) < said["passing"]:
        text += (
            f" Looked at: {len(failing)} failing and {len(passing)} passing ones, drawn by lot; "
            "all that follows is of these unless it says otherwise."
        )
    return text


def _where(items: Sequence[ItemDiagnosis], located: Located, contexts: bool) -> list[str]:
    if not contexts:
        return [
            "No context was found beside the questions (of a chat, in what is asked last), so "
            "there is no evidence to look at. If there is one, give it as context."
        ]
    ways = {
        "given": "given in {}",
        "text": "found by the answer's own words in {}",
        "text, several places": "found by the answer's words, which stand in several places (the "
        "one likest the question was taken), in {}",
        "heads": "found by where copying heads look when the right answer is put into the model's "
        "mouth in {}",
        "nowhere": "found nowhere in {}",
    }
    count = {way: sum(one.located == way for one in items) for way in ways}
    parts = [text.format(count[way]) for way, text in ways.items() if count[way]]
    text = f"Of {_n(len(items), 'item')}, the evidence was {'; '.join(parts)}."
    if located.how == "these items":
        known = sum(one.located in ("given", "text", "text, several places") for one in items)
        more = " (more than were looked at)" if located.tried > known else ""
        text += (
            f" (Checked on {_n(located.tried, 'item')}{more} whose evidence is known: such heads "
            f"find it in {located.hits}.)"
        )
    elif located.how == "needles":
        text += " (The heads were calibrated on needles in other text, not checked on these items.)"
    elif located.how == "not trusted":
        text += " Copying heads could not be trusted to find it" + (
            f" ({located.hits} of {located.tried} where it is known)." if located.tried else "."
        )
    return [text]


def _looked(failing: Sequence[ItemDiagnosis], passing: Sequence[ItemDiagnosis]) -> list[str]:
    bad = [one for one in failing if one.evidence_tokens]
    good = [one for one in passing if one.evidence_tokens]
    if not bad:
        return []
    shares = [[one.last["evidence"] for one in side] for side in (bad, good)]
    little = [sum(x < LITTLE for x in side) for side in shares]
    what = f"under {_percent(LITTLE)} of what the last token looked at"
    if not little[0]:  # a long piece of evidence may get more, and yet less than its length would
        little = [
            sum(one.last["evidence"] * one.tokens < one.evidence_tokens for one in side)
            for side in (bad, good)
        ]
        what = "less of what the last token looked at than its length alone would give it"
    size = median(one.evidence_tokens / one.tokens for one in bad)
    text = (
        f"On {little[0]} of {_n(len(bad), 'failure')} the evidence got {what} (median "
        f"{_percent(median(shares[0]))}"
    )
    if good:
        text += f"; where right: {little[1]} of {len(good)}, median {_percent(median(shares[1]))}"
    return [f"{text}); its tokens are {_percent(size)} of the prompt."]


def _raised(failing: Sequence[ItemDiagnosis], gain: float) -> list[str]:
    asked = [one for one in failing if one.raised is not None]
    if not asked:
        return []
    mended = sum(bool(one.raised) for one in asked)
    text = f"Raising the evidence (a gain of {gain:g}) mends {mended} of {len(asked)}"
    row = _against(asked)
    if row is None:
        return [f"{text}; there is no other passage to raise for comparison."]
    other, own, p, n = row
    both = "" if n == len(asked) else f" of the {n} where there is one, against {own}"
    return [f"{text} (raising another passage mends {other}{both}; p = {_p(p)})."]


def _hidden(failing: Sequence[ItemDiagnosis], passing: Sequence[ItemDiagnosis]) -> list[str]:
    good = [one for one in passing if one.hidden is not None]
    bad = [one for one in failing if one.hidden is not None]
    texts = []
    if good:
        broken = sum(not one.hidden for one in good)
        text = f"Hiding the evidence breaks {broken} of {_n(len(good), 'right answer')}"
        if len(good) >= FEW and broken <= len(good) / 2:
            text += ": most of them do not hang on it"
        texts.append(text + ".")
    mended = sum(bool(one.hidden) for one in bad)
    if mended:
        texts.append(
            f"Hiding it mends {mended} of {_n(len(bad), 'failure')}; nothing else was hidden to "
            "compare, so that may be chance."
        )
    return texts


def _armed(
    table: dict[str, Row], failing: Sequence[ItemDiagnosis], said: dict[str, Any]
) -> list[str]:
    row = table.get("suspicious")
    if row is None or not (row.failing or row.passing):
        return []
    held = [round((x or 0) * n) for x, n in
            ((row.failing, row.n_failing), (row.passing, row.n_passing))]  # fmt: skip
    text = (
        f"A sentence that reads like an instruction stands in the context of {held[0]} of "
        f"{row.n_failing} failing items and {held[1]} of {row.n_passing} passing ones"
    )
    if row.n_failing + row.n_passing < said["failing"] + said["passing"]:
        text += " that have a context"
    text += f" (p = {_p(row.p)})" if row.p is not None else ""
    asked = [one for one in failing if one.disarmed is not None]
    if asked:
        text += f"; hiding it mends {sum(bool(one.disarmed) for one in asked)} of {len(asked)}"
        text += " that were asked" if len(failing) < said["failing"] else ""
    return [text + "."]


def _apart(
    table: dict[str, Row],
    failing: Sequence[ItemDiagnosis],
    passing: Sequence[ItemDiagnosis],
    sampled: bool,
) -> list[str]:
    tested = [table[key] for key in _TOLD if key in table and table[key].p is not None]
    if not tested:
        few, kind = (
            (len(passing), "passing") if len(passing) <= len(failing) else (len(failing), "failing")
        )
        if few >= FEW:
            return []
        return [
            f"There {'is' if few == 1 else 'are'} {_n(few, f'{kind} item')}: too few to say what "
            "tells failing from passing ones apart."
        ]
    adjusted = holm([row.p for row in tested])  # type: ignore[misc]
    sure = [(row, p) for row, p in zip(tested, adjusted, strict=True) if p < _ALPHA]
    if not sure:
        return [
            f"None of {_n(len(tested), 'figure')} compared tells failing from passing items apart "
            "for sure (p < 0.05 after Holm's correction)."
        ]
    parts = [
        f"{_TOLD[row.key]} ({_value(row.failing, row.unit)} on failures, "
        f"{_value(row.passing, row.unit)} where right; p = {_p(p)}"
        f"{', of all items' if sampled and row.key in _OF_ALL else ''})"
        for row, p in sure
    ]
    return [f"What differs for sure (after Holm's correction): {'; '.join(parts)}."]


def _verdict(found: str, items: Sequence[ItemDiagnosis], contexts: bool) -> str:
    if found == "attention":
        return (
            "So attention is part of the trouble: the evidence is there, and answers change for "
            "the better when more of the attention goes to it."
        )
    if not contexts:
        return "So attention on a context is not the trouble: none was found."
    failing = [one for one in items if not one.right]
    if not any(one.raised is not None for one in failing):
        why = "evidence that could be raised."
        if not any(one.evidence for one in failing):
            why = (
                "its answer in the context, in words that could be found. Where it stands there in "
                "other words, give them as evidence."
            )
        return f"Whether attention is the trouble cannot be told: no failing item has {why}"
    if found == "elsewhere":
        return (
            "So too little attention on the evidence is not shown to be the trouble: with it "
            "raised, most failures stay."
        )
    asked = sum(one.raised is not None for one in failing)
    return (
        "Whether attention is the trouble cannot be told: raising the evidence does not mend "
        f"more than raising another passage does, by more than chance. Only {_n(asked, 'failure')} "
        "could be asked, so that does not speak against a change of attention that is measured on "
        "all questions."
    )


def _against(asked: Sequence[ItemDiagnosis]) -> tuple[int, int, float, int] | None:
    """Mended by another passage, by the evidence, McNemar's p, items with both asked."""
    from ...statistics import mcnemar

    both = [one for one in asked if one.control is not None and one.raised is not None]
    if not both:
        return None
    other, own = [bool(one.control) for one in both], [bool(one.raised) for one in both]
    return sum(other), sum(own), mcnemar(other, own), len(both)


def _n(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _percent(share: float) -> str:
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 or value == round(value) else f"{value:.1f} %"


def _p(p: float | None) -> str:
    return "–" if p is None else f"{p:.2g}" if p >= 0.001 else "under 0.001"


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit.startswith("share"):
        return _percent(value)
    return f"{value:.0f} {unit}" if unit == "tokens" else f"{value:.2g} {unit}"
