"""What a policy does to prompts and to a model, and what it refuses."""

from __future__ import annotations

import warnings

import pytest
import torch

import foveate as fv
from families import build
from foveate import FoveateError
from foveate.decoding import DeCoRe
from foveate.policy.rewrites import REWRITES
from foveate.tasks import Distractors, Item, Questions, answer
from foveate.tasks.answering import generate
from words import text, tokenizer

NOTES = [text(3, 4, 5), text(9, 8, 7)]
ASKED = {"context": NOTES, "prompt": text(9, 8, 20)}
TURNED = fv.Policy([fv.Emphasize("closest passage", 6.0)], name="turned")
TWICE = fv.Policy(rewrites=["question twice"], name="twice")


def test_a_policy_stands_for_its_methods():
    model, prompt = build("llama"), TURNED.prompt(tokenizer(), ASKED)
    assert prompt.positions("closest passage") == [3, 4, 5]
    with fv.attach(model, TURNED, prompt=prompt) as run:
        got = generate(model, prompt, 5)
    with fv.attach(model, fv.Emphasize("closest passage", 6.0), prompt=prompt):
        assert torch.equal(generate(model, prompt, 5), got)
    assert len(run.calls) == got.shape[1]
    assert TURNED.generate(model, tokenizer(), list(prompt.items), 5) == [
        tokenizer().decode(got[0], skip_special_tokens=True).strip()
    ]


def test_beside_other_methods_and_nested():
    model, prompt = build("llama"), TURNED.prompt(tokenizer(), ASKED)
    window = fv.SlidingWindow(4)

    def said(*methods, inner=()):
        with (
            torch.no_grad(),
            fv.attach(model, *methods, prompt=prompt),
            fv.attach(model, *inner, prompt=prompt),
        ):
            return model(**prompt.inputs).logits

    want = said(fv.Emphasize("closest passage", 6.0), window)
    assert torch.equal(said(TURNED, window), want)
    assert torch.equal(said(TURNED, inner=[fv.Policy([window])]), want)


def test_marks_of_ones_own_count():
    model = build("llama")
    prompt = fv.Prompt(tokenizer(), text(3, 4, 5, 9, 8, 7, 20))
    with pytest.raises(FoveateError, match=r"speaks of 'closest passage'.*policy.prompt.*mark"):
        fv.attach(model, TURNED, prompt=prompt)
    with pytest.raises(FoveateError, match="speaks of 'closest passage'"):
        fv.attach(model, TURNED)
    prompt.mark("closest passage", text(3, 4))
    with fv.attach(model, TURNED, prompt=prompt) as run:
        model(**prompt.inputs)
    assert len(run.calls) == 1
    mask = torch.arange(7) < 2
    with fv.attach(model, TURNED, regions={"closest passage": mask}):
        model(**prompt.inputs)
    item = Item("mine", ASKED["prompt"], "", {"closest passage": text(9)})
    assert TURNED.items([item])[0].marks == item.marks


def test_prompts_from_what_a_user_has():
    tok = tokenizer()
    whole = "\n\n".join([*NOTES, ASKED["prompt"]])
    assert TURNED.prompt(tok, ASKED).text == whole
    assert TURNED.prompt(tok, Questions.of([{**ASKED, "answer": "w9"}]).items()[0]).text == whole
    assert TURNED.prompt(tok, {**ASKED, "choices": ["w3", "w4"], "check": "choices"}).text == whole
    assert fv.Policy().prompt(tok, text(5, 6)).text == text(5, 6)
    pair = TURNED.prompt(tok, [ASKED, {**ASKED, "context": [*NOTES, text(11, 12)]}])
    assert pair.batch_size == 2 and pair.padding_side == "left"
    assert bool(pair.regions["closest passage"].any(-1).all())


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (7, "something|a question such as"),
        ({"role": "user", "content": "w3"}, r'A chat is \{"messages"'),
        ({"context": NOTES}, "prompt and messages was wanted; there is context$"),
        ({"context": NOTES, "promt": "?"}, r"did you mean prompt, not promt\?"),
        ({"prompt": " "}, "a text was wanted"),
        ([], "no items"),
        ({"prompt": text(3, 4)}, "speaks of 'closest passage', which the item does not have"),
    ],
)
def test_what_is_no_question(asked, sentence):
    with pytest.raises(FoveateError, match=sentence):
        TURNED.prompt(tokenizer(), asked)


def test_rewrites_are_done_once_and_in_order():
    tok = tokenizer()
    policy = fv.Policy(rewrites=["question twice", "closest passage last"])
    prompt = policy.prompt(tok, {**ASKED, "context": NOTES[::-1]})
    asks = ASKED["prompt"]
    assert prompt.text.split("\n\n") == [asks, NOTES[0], NOTES[1], asks]
    (item,) = prompt.items
    assert item.info["rewrites"] == policy.rewrites
    assert policy.items([item]) == [item]
    with pytest.raises(FoveateError, match="rewritten already"):
        TWICE.items([item])
    plain = Item("plain", text(3, 4), "")  # nothing in it to rewrite
    assert policy.items([plain])[0].content == plain.content


def test_a_part_of_the_rewrites_is_not_all_of_them():
    model, tok = build("llama"), tokenizer()
    both = fv.Policy(rewrites=["question twice", "closest passage first"], name="both")
    prompt = TWICE.prompt(tok, ASKED)
    with pytest.raises(FoveateError, match="'both' rewrites prompts"):
        fv.attach(model, both, prompt=prompt)
    with pytest.raises(FoveateError, match=r"rewritten already .question twice"):
        both.items(list(prompt.items))
    with pytest.raises(FoveateError, match="rewritten already"):
        fv.Policy().items(list(prompt.items))
    fits_nothing = both.prompt(tok, text(3, 4))  # asked of it, and left as it is
    with fv.attach(model, both, prompt=fits_nothing):
        model(**fits_nothing.inputs)


@pytest.mark.parametrize("method", [fv.PASTA, fv.Emphasize], ids=["PASTA", "Emphasize"])
def test_a_batch_is_its_items(method):
    """Padded, with a row in which the rule finds nothing, and under beams."""
    model, tok = build("llama"), tokenizer()
    policy = fv.Policy([method("closest passage", 0.01)], name="strong")
    bare = {"prompt": text(3, 4, 11)}
    longer = {**ASKED, "context": [*NOTES, text(11, 12, 13)]}

    def said(asked, by, beams=1):
        prompt = by.prompt(tok, asked)
        with torch.no_grad(), fv.attach(model, *by.at(prompt), prompt=prompt):
            ids = model.generate(
                **prompt.inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False,
                num_beams=beams, pad_token_id=0,
            )  # fmt: skip
        return ids[:, prompt.length :]

    for beams in (1, 2):
        together = said([ASKED, bare, longer], policy, beams)
        assert torch.equal(together[0], said(ASKED, policy, beams)[0])
        assert torch.equal(together[1], said(bare, fv.Policy(), beams)[0])
        assert torch.equal(together[2], said(longer, policy, beams)[0])


def test_a_prompt_that_was_not_rewritten_is_refused():
    model, tok = build("llama"), tokenizer()
    for prompt in (None, fv.Prompt(tok, text(3, 4)), fv.Policy().prompt(tok, ASKED)):
        with pytest.raises(FoveateError, match=r"rewrites prompts .question twice.*policy.prompt"):
            fv.attach(model, TWICE, prompt=prompt)
    prompt = TWICE.prompt(tok, ASKED)
    with fv.attach(model, TWICE, prompt=prompt):
        model(**prompt.inputs)


def test_replies_are_read_as_the_rewrites_say(chats):
    model, tok = chats
    policy = fv.Policy(rewrites=["quote first"])
    quoted = "“It is red.”\n\nAnswer: red"
    assert policy.reply(quoted) == REWRITES["quote first"].reply(quoted) == "red"
    untouched = Item("raw", text(3, 4), "", raw=True)
    assert policy.reply(quoted, policy.items([untouched])[0]) == quoted
    items = Distractors(n=1, passages=2).items(tok)
    (said,) = policy.generate(model, tok, items, 4)
    (whole,) = answer(
        model, tok, policy.items(items), max_new_tokens=4 + REWRITES["quote first"].extra_tokens
    )
    assert said == REWRITES["quote first"].reply(whole)


def test_a_batch_in_which_a_rule_finds_nothing_in_some():
    model, tok = build("llama"), tokenizer()
    items = list(TURNED.prompt(tok, ASKED).items)
    bare = [Item(f"bare {n}", text(3 + n, 4), "") for n in range(8)]
    got = TURNED.generate(model, tok, [*bare, *items], 4, batch_size=8)
    assert got[:8] == fv.Policy().generate(model, tok, bare, 4, batch_size=8)
    with pytest.raises(FoveateError, match="these items do not have"):
        TURNED.generate(model, tok, bare, 4)


def test_what_asks_by_itself():
    model, tok = build("llama"), tokenizer()
    asking = DeCoRe([(0, 1)], alpha=1.0)
    policy = fv.Policy(asking, name="contrast")
    items = list(fv.Policy().prompt(tok, [ASKED, ASKED]).items)
    assert policy.generate(model, tok, items, 4) == asking.generate(model, tok, items, 4)
    with pytest.raises(FoveateError, match=r"policy.generate"):
        fv.attach(model, policy)
    with pytest.raises(FoveateError, match="holds it alone"):
        fv.Policy([asking, fv.SlidingWindow(3)])


def test_generate_takes_what_a_user_has():
    model, tok = build("llama"), tokenizer()
    items = list(TURNED.prompt(tok, [ASKED, ASKED]).items)
    want = TURNED.generate(model, tok, items, 4)
    assert TURNED.generate(model, tok, [ASKED, {**ASKED, "answer": "w9"}], 4) == want
    assert TURNED.generate(model, tok, ASKED, 4) == want[:1]
    with pytest.raises(FoveateError, match="a question such as"):
        TURNED.generate(model, tok, [3], 4)
    with pytest.raises(FoveateError, match="one of prompt and messages was wanted"):
        TURNED.generate(model, tok, [{"context": NOTES}], 4)


def test_evaluate_takes_one(chats):
    model, tok = chats
    asked = Questions.of([{"context": ["The gate is red.", "The door is blue."],
                           "prompt": "Which colour has the door?", "answer": "blue"}],
                         max_new_tokens=4)  # fmt: skip
    table = fv.evaluate(model, tok, {"dense": [], "empty": fv.Policy(), "mine": TURNED}, [asked])
    said = {cell.method: cell.replies for cell in table.cells}
    assert said["empty"] == said["dense"]
    assert len(said["mine"]) == 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"methods": [fv.Emphasize]}, "no method"),
        ({"methods": "Emphasize"}, "no method"),
        ({"methods": [3]}, "no method"),
        ({"rewrites": ["ask nicely"]}, "no rewrite 'ask nicely'; there are 'quote first'"),
        ({"rewrites": "ask nicely"}, "no rewrite 'ask nicely'"),
        ({"rewrites": 3}, "no rewrite 3"),
        ({"rewrites": [["question twice"]]}, "no rewrite"),
        ({"name": " "}, "a policy's name is a text"),
        ({"name": 3}, "a policy's name is a text"),
    ],
)
def test_what_is_no_policy(given, sentence):
    with pytest.raises(FoveateError, match=sentence):
        fv.Policy(**given)


def test_attach_says_how_a_file_is_read():
    model = build("llama")
    with pytest.raises(FoveateError, match=r'fv\.Policy\.load\("mine\.toml"\)'):
        fv.attach(model, "mine.toml")
    with pytest.raises(FoveateError, match="class Policy"):
        fv.attach(model, fv.Policy)


def test_for_another_architecture_or_size():
    policy = TURNED.for_model(build("llama"))
    assert policy.grid == (2, 4) and policy.model.architecture == "LlamaForCausalLM"
    assert {"foveate", "torch"} <= policy.versions.keys()
    with pytest.raises(FoveateError, match=r"'turned' was made for .*Llama.* this is a GPT2"):
        policy.check_model(build("gpt2"))
    with pytest.raises(FoveateError, match="was made for"):
        fv.attach(build("gpt2"), policy)
    larger = fv.Policy(model=policy.model, grid=(30, 9), name="large")
    with pytest.raises(FoveateError, match=r"of 30 × 9 .layers × heads.; this is a .* of 2 × 4"):
        larger.check_model(build("llama"))


def test_other_weights_warn_and_the_same_do_not():
    model = build("llama")
    policy = TURNED.for_model(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert policy.check_model(model) is policy
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    with pytest.warns(UserWarning, match="same architecture and other weights") as told:
        policy.check_model(model)
        with fv.attach(model, policy, prompt=TURNED.prompt(tokenizer(), ASKED)):
            pass
    with pytest.warns(UserWarning, match="other weights") as more:
        policy.generate(model, tokenizer(), list(TURNED.prompt(tokenizer(), ASKED).items), 2)
    # each points at the line that led to it
    assert len(told) == 2 and {one.filename for one in (*told, *more)} == {__file__}


def test_it_says_what_it_is():
    assert repr(fv.Policy()) == "Policy('nothing': changes nothing)"
    both = fv.Policy([fv.SlidingWindow(4)], ["question twice"], name="both")
    assert repr(both).startswith("Policy('both': 'question twice' + Select(SlidingWindow(window=4")
    assert both.regions == () and TURNED.regions == ("closest passage",)
    assert fv.Policy([fv.ZeroTuning(2.0)]).regions == ()
    assert fv.Policy(TURNED.methods, ["question twice"]).name == (
        "question twice + Emphasize on closest passage"
    )
    assert fv.Policy(fv.SlidingWindow(4)).name == "Select" and fv.Policy().name == "nothing"
