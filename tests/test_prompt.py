"""Prompt: which tokens come from which piece of the text, on three kinds of tokenizer."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from foveate.errors import FoveateError
from foveate.prompt import Prompt

CORPUS = [
    "The lighthouse on Tarn Point was built in 1877. The one on Ash Head was built in 1934.",
    "You are a helpful assistant. user assistant system",
    "In which year was the lighthouse built? Answer with the year only.\n\nThank you!",
] * 4
CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|s|>system\n"
    "You are a helpful assistant.<|e|>\n{% endif %}<|s|>{{ m['role'] }}\n{{ m['content'] }}<|e|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|s|>assistant\n{% endif %}"
)


def byte_level(**more: object) -> PreTrainedTokenizerFast:
    """GPT-2's kind: tokens carry the space before the word, no padding token unless given."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|s|>", "<|e|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|s|>", eos_token="<|e|>", **more
    )


def word_piece() -> PreTrainedTokenizerFast:
    """BERT's kind: lower-cased, words cut with ##, [CLS] and [SEP] added, unknown words."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    core.train_from_iterator(
        CORPUS,
        trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False),
    )
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        padding_side="right",
    )


def unigram() -> PreTrainedTokenizerFast:
    """Llama's and T5's kind: a metaspace for every blank, one before the text."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=120, special_tokens=["<unk>", "<s>"], unk_token="<unk>", show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", padding_side="left"
    )


CHAT_TOKENIZER = byte_level(chat_template=CHATML, padding_side="left")
KINDS = {"byte-level": byte_level(), "word piece": word_piece(), "unigram": unigram()}


@pytest.fixture(params=KINDS, ids=str)
def any_tokenizer(request):
    return KINDS[request.param]


@pytest.fixture
def chat_tokenizer():
    return CHAT_TOKENIZER


def covered(prompt: Prompt, name: str, item: int = 0) -> str:
    """The marked tokens' text, blanks at the edges removed."""
    return "".join(prompt.token_rows[item][i] for i in prompt.positions(name, item)).strip()


# --------------------------------------------------------------------------- inputs


def test_raw_text_is_tokenized_as_the_tokenizer_does(any_tokenizer):
    text = "The lighthouse on Tarn Point was built in 1877."
    prompt = Prompt(any_tokenizer, text)
    assert prompt.text == text and prompt.texts == [text] and prompt.batch_size == 1
    expected = any_tokenizer(text)["input_ids"]
    assert prompt.inputs["input_ids"].tolist() == [expected]
    assert prompt.inputs["attention_mask"].tolist() == [[1] * len(expected)]
    assert len(prompt) == prompt.length == len(expected) == len(prompt.tokens)
    plain = Prompt(any_tokenizer, text, add_special_tokens=False)
    assert plain.inputs["input_ids"].tolist()[0] == any_tokenizer.encode(
        text, add_special_tokens=False
    )


def test_chat_is_tokenized_as_the_template_does(smollm2):
    _, tokenizer = smollm2
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    for header in (True, False):
        prompt = Prompt(tokenizer, chat, add_generation_prompt=header)
        ids = tokenizer.apply_chat_template(
            chat, add_generation_prompt=header, return_dict=False, tokenize=True
        )
        assert prompt.inputs["input_ids"].tolist() == [ids]
        assert prompt.text.endswith("assistant\n") == header
    assert "Be brief." in Prompt(tokenizer, chat, system="Be brief.").text


@pytest.mark.parametrize("side", ["left", "right"])
def test_batch_is_padded_and_nothing_on_padding_belongs_to_a_region(any_tokenizer, side):
    texts = ["Tarn Point.", "The lighthouse on Tarn Point was built in 1877."]
    prompt = Prompt(any_tokenizer, texts, padding_side=side).mark("point", "Tarn Point")
    mask, ids = prompt.inputs["attention_mask"].bool(), prompt.inputs["input_ids"]
    assert prompt.batch_size == 2 and prompt.length == int(mask.sum(1).max())
    for number, text in enumerate(texts):
        alone = Prompt(any_tokenizer, text).mark("point", "Tarn Point")
        assert ids[number][mask[number]].tolist() == alone.inputs["input_ids"][0].tolist()
        for name, region in prompt.regions.items():
            assert region.shape == (2, prompt.length) and region.dtype == torch.bool
            assert not (region[number] & ~mask[number]).any()
            assert torch.equal(region[number][mask[number]], alone.regions[name][0])
        first = prompt.positions("first", number)
        assert first == [int(mask[number].nonzero()[0])]
    assert mask[0, 0].item() == (side == "right")
    default = Prompt(any_tokenizer, texts).inputs["attention_mask"][0, 0].item()
    assert default == (any_tokenizer.padding_side == "right")


def test_batch_of_chats(chat_tokenizer):
    chats = [
        [{"role": "user", "content": "Ash Head?"}],
        [{"role": "system", "content": "Thank you."}, {"role": "user", "content": "built?"}],
    ]
    prompt = Prompt(chat_tokenizer, chats)
    assert covered(prompt, "user", 0) == "Ash Head?" and covered(prompt, "user", 1) == "built?"
    assert covered(prompt, "system", 0) == "You are a helpful assistant."
    assert covered(prompt, "system", 1) == "Thank you."


def test_a_processor_lends_its_tokenizer(chat_tokenizer):
    class Processor:
        tokenizer = chat_tokenizer

    assert Prompt(Processor(), [{"role": "user", "content": "year"}]).positions("user")


def test_to_moves_inputs_and_regions(any_tokenizer):
    prompt = Prompt(any_tokenizer, "Tarn Point").mark("a", "Tarn").to("meta")
    assert all(tensor.is_meta for tensor in (*prompt.inputs.values(), *prompt.regions.values()))


# --------------------------------------------------------------------------- roles


def test_roles_are_contents_not_headers(chat_tokenizer):
    chat = [
        {"role": "user", "content": "user"},
        {"role": "assistant", "content": "assistant"},
        {"role": "user", "content": "user"},
    ]
    prompt = Prompt(chat_tokenizer, chat)
    text = prompt.text
    assert text.count("user") == 4  # two headers, two contents
    marked = Prompt(chat_tokenizer, chat).mark("x", "user", nth=1).mark("x", "user", nth=3)
    assert prompt.positions("user") == marked.positions("x")
    marked.mark("y", "assistant", nth=2)  # the default system prompt has the first, a header next
    assert prompt.positions("assistant") == marked.positions("y")
    assert not prompt.regions["generated"].any()


def test_the_default_system_prompt_counts_as_system(smollm2):
    _, tokenizer = smollm2
    chat = [{"role": "user", "content": "Hello"}]
    prompt = Prompt(tokenizer, chat)
    default = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert covered(prompt, "system") == default
    assert covered(Prompt(tokenizer, chat, system="Be brief."), "system") == "Be brief."
    assert [prompt.tokens[i] for i in prompt.positions("special")] == [
        "<|im_start|>",
        "<|im_end|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|im_start|>",
    ]


TEMPLATES = {
    # strips the contents, and writes the system message into the first user turn
    "merged system": (
        "{% if messages[0]['role'] == 'system' %}{% set head = messages[0]['content'] %}"
        "{% set messages = messages[1:] %}{% else %}{% set head = '' %}{% endif %}"
        "{% for m in messages %}{% if loop.first and head %}<<SYS>>{{ head }}<</SYS>>\n{% endif %}"
        "[{{ m['role'] }}] {{ m['content'] | trim }} {% endfor %}"
    ),
    # removes the reasoning from earlier answers, as reasoning models do
    "no thoughts": (
        "{% for m in messages %}<|s|>{{ m['role'] }}\n"
        "{{ m['content'].split('</think>')[-1] }}<|e|>\n{% endfor %}"
    ),
    # rewrites the contents
    "upper case": (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | upper }}\n{% endfor %}"
    ),
    # looks into the contents and refuses strangers, so that it cannot be rendered hollow
    "suspicious": (
        "{% for m in messages %}{% if 'fvslot' in m['content'] %}{{ raise_exception('no') }}"
        "{% endif %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    ),
}
CHAT = [
    {"role": "system", "content": "Thank you."},
    {"role": "user", "content": "  Ash Head?  "},
    {"role": "assistant", "content": "<think>Tarn</think>1934."},
    {"role": "user", "content": "Ash Head?"},
]


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "merged system": ("Thank you.", "Ash Head?Ash Head?", "<think>Tarn</think>1934."),
        "no thoughts": ("Thank you.", "Ash Head?Ash Head?", "1934."),
        "upper case": ("THANK YOU.", "ASH HEAD?ASH HEAD?", "<THINK>TARN</THINK>1934."),
        "suspicious": ("Thank you.", "Ash Head?Ash Head?", "<think>Tarn</think>1934."),
    }.items(),
)
def test_roles_survive_what_templates_do(name, expected):
    tokenizer = byte_level(chat_template=TEMPLATES[name])
    prompt = Prompt(tokenizer, CHAT)
    for role, wanted in zip(("system", "user", "assistant"), expected):
        assert covered(prompt, role).replace(" ", "") == wanted.replace(" ", "")


def test_a_content_that_cannot_be_found_is_refused():
    template = "{% for m in messages %}{% if 'fvslot' in m['content'] %}{{ raise_exception('no') }}"
    template += "{% endif %}{{ m['content'] | upper }}{% endfor %}"
    with pytest.raises(FoveateError, match="changes the user message 'Tarn'"):
        Prompt(byte_level(chat_template=template), [{"role": "user", "content": "Tarn"}])


def test_parts_and_template_arguments():
    template = (
        "{% for m in messages %}{% for p in m['content'] %}[{{ p['text'] }}]"
        "{% endfor %}{% endfor %}{{ extra }}"
    )
    tokenizer = byte_level(chat_template=template)
    parts = [{"type": "text", "text": "Tarn"}, {"type": "text", "text": "Head"}]
    prompt = Prompt(
        tokenizer, [{"role": "user", "content": parts}], template_args={"extra": "Thank you"}
    )
    assert prompt.text == "[Tarn][Head]Thank you" and covered(prompt, "user") == "TarnHead"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["user", "assistant"]),
            st.text(alphabet="user asitn\n<|é😀", max_size=12),
        ),
        min_size=1,
        max_size=5,
    ).filter(lambda turns: any(text for _, text in turns))
)
def test_roles_on_any_chat(turns):
    """Against the template written out by hand, with contents made of its own letters."""
    tokenizer = CHAT_TOKENIZER
    prompt = Prompt(tokenizer, [{"role": role, "content": text} for role, text in turns])
    text = "<|s|>system\nYou are a helpful assistant.<|e|>\n"
    spans: dict[str, list[tuple[int, int]]] = {
        "system": [(len("<|s|>system\n"), len(text) - len("<|e|>\n"))],
        "user": [],
        "assistant": [],
    }
    for role, content in turns:
        text += f"<|s|>{role}\n"
        spans[role].append((len(text), len(text) + len(content)))
        text += f"{content}<|e|>\n"
    assert prompt.text == text + "<|s|>assistant\n"
    offsets = tokenizer(prompt.text, return_offsets_mapping=True)["offset_mapping"]
    for role, expected in spans.items():
        positions = [i for i, token in enumerate(offsets) if _inside(prompt.text, token, expected)]
        assert prompt.positions(role) == positions


def _inside(text: str, token: tuple[int, int], spans: list[tuple[int, int]]) -> bool:
    """The rule of the package, written out."""
    characters = [c for c in range(*token) if not text[c].isspace()] or list(range(*token))
    return any(a <= c < b for c in characters for a, b in spans)


# --------------------------------------------------------------------------- special and first


def test_special_and_first():
    prompt = Prompt(KINDS["word piece"], "The lighthouse ☃ built")
    assert prompt.tokens[0] == "[CLS]" and prompt.tokens[-1] == "[SEP]"
    # The snowman is unknown to the vocabulary, yet it is content. Written out, [UNK] is special.
    assert prompt.positions("special") == [0, prompt.length - 1]
    assert prompt.positions("first") == [0]
    written = Prompt(KINDS["word piece"], "built [UNK]", add_special_tokens=False)
    assert len(written.positions("special")) == 1


def test_headers_that_are_special_without_a_name():
    tokenizer = byte_level()
    tokenizer.add_tokens(["<|header|>"], special_tokens=True)
    prompt = Prompt(tokenizer, "<|header|>year<|e|>")
    assert [prompt.tokens[i] for i in prompt.positions("special")] == ["<|header|>", "<|e|>"]


# --------------------------------------------------------------------------- marks


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)),
    st.text(alphabet="The lighouse nTar\n\t18.é日😀ß,", min_size=1, max_size=40),
    st.data(),
)
def test_a_span_marks_exactly_its_tokens(kind, text, data):
    tokenizer = KINDS[kind]
    prompt = Prompt(tokenizer, text)
    a = data.draw(st.integers(0, len(text) - 1))
    b = data.draw(st.integers(a + 1, len(text)))
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    expected = [i for i, token in enumerate(offsets) if _inside(text, token, [(a, b)])]
    if not expected:
        with pytest.raises(FoveateError, match="belong to no token"):
            prompt.mark("x", span=(a, b))
        assert "x" not in prompt.regions
        return
    prompt.mark("x", span=(a, b))
    assert prompt.positions("x") == expected
    # ... and so every character of the span that any token covers is in a marked token.
    inked = {c for c in range(a, b) if not text[c].isspace()}
    in_tokens = {c for token in offsets for c in range(*token)}
    in_marked = {c for i in expected for c in range(*offsets[i])}
    assert inked & in_tokens <= in_marked


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="The lighouse nTar\n18.é日,", min_size=1, max_size=40))
def test_the_tokens_spell_the_text(text):
    # (A character cut in several tokens is shown with the first of them.)
    prompt = Prompt(KINDS["byte-level"], text)
    offsets = KINDS["byte-level"](text, return_offsets_mapping=True)["offset_mapping"]
    ends = [0, *[b for _, b in offsets]]
    shown = [s for s, end, before in zip(prompt.tokens, ends[1:], ends) if end > before]
    assert "".join(shown) == text


def test_a_token_that_straddles_an_edge():
    prompt = Prompt(KINDS["byte-level"], "The lighthouse on Tarn Point")
    before = prompt.text.index(" Tarn")
    assert covered(prompt.mark("x", "Tarn Point"), "x") == "Tarn Point"
    with pytest.raises(FoveateError, match="belong to no token of their own"):
        prompt.mark("y", span=(before, before + 1))  # the blank alone belongs to the word
    assert covered(prompt.mark("z", span=(before, before + 2)), "z") == "Tarn"


def test_line_breaks_between_marked_lines_are_marked():
    prompt = Prompt(KINDS["byte-level"], "The year\nThank you").mark("x", "year\nThank")
    assert covered(prompt, "x") == "year\nThank"


def test_every_match_nth_item_and_union(any_tokenizer):
    text = "Tarn Point, Ash Head, Tarn Point"
    every = Prompt(any_tokenizer, text).mark("x", "Tarn Point")
    first = Prompt(any_tokenizer, text).mark("x", "Tarn Point", nth=0)
    last = Prompt(any_tokenizer, text).mark("x", "Tarn Point", nth=-1)
    assert first.positions("x") < last.positions("x")
    assert every.positions("x") == first.positions("x") + last.positions("x")
    first.mark("x", "Tarn Point", nth=1)
    assert first.positions("x") == every.positions("x")
    batch = Prompt(any_tokenizer, [text, "Ash Head"]).mark("x", "Tarn", item=0)
    assert batch.positions("x", 0) and not batch.positions("x", 1)
    assert batch.positions("x", -1) == []


def test_marks_by_tokens_are_absolute_positions():
    prompt = Prompt(KINDS["byte-level"], ["year", "The lighthouse was built"], padding_side="left")
    start = prompt.positions("first", 0)[0]
    assert start > 0
    assert prompt.mark("x", tokens=(start, prompt.length), item=0).positions("x", 0) == list(
        range(start, prompt.length)
    )
    with pytest.raises(FoveateError, match="reaches into the padding"):
        prompt.mark("y", tokens=(0, 2))


def test_html_escapes_and_shows_marks(any_tokenizer):
    prompt = Prompt(any_tokenizer, "built <b>in</b> 1877").mark("<year>", "1877")
    page = prompt._repr_html_()
    assert "<b>" not in page and "<year>" not in page
    assert "&lt;year&gt;" in page and "background" in page
    assert "marks={<year>:" in repr(prompt)


# --------------------------------------------------------------------------- bad input


def user(content: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ("", "empty"),
        ([], "empty"),
        ([[]], "no messages"),
        (["year", ""], "Item 1 of the prompt is empty"),
        (user(""), "empty"),
        (7, "got int"),
        (b"year", "got bytes"),
        (["year", user("year")], "list of list, str"),
        ([7], "list of int"),
        ([["year"]], "a message is a dict"),
        ([{"role": "user"}], "a message is a dict"),
        ([{"role": "wizard", "content": "year"}], "role 'wizard'"),
        (user(7), "content that is not text"),
        (user(None), "content that is not text"),
        (user([{"type": "image"}]), "image part without its picture"),
    ],
)
def test_bad_prompts(chat_tokenizer, given_, message):
    with pytest.raises(FoveateError, match=message):
        Prompt(chat_tokenizer, given_)


def test_bad_arguments(chat_tokenizer):
    with pytest.raises(FoveateError, match="padding_side='middle'"):
        Prompt(chat_tokenizer, "year", padding_side="middle")
    with pytest.raises(FoveateError, match="raw text, which has no roles"):
        Prompt(chat_tokenizer, "year", system="Be brief.")
    with pytest.raises(FoveateError, match="has a system message already"):
        Prompt(chat_tokenizer, CHAT, system="Be brief.")
    with pytest.raises(FoveateError, match="system= is a str"):
        Prompt(chat_tokenizer, user("year"), system=3)  # type: ignore[arg-type]
    with pytest.raises(FoveateError, match="as its tokenizer"):
        Prompt("gpt2", "year")
    with pytest.raises(FoveateError, match="as its tokenizer"):
        Prompt(torch.nn.Linear(2, 2), "year")
    with pytest.raises(FoveateError, match="no chat template"):
        Prompt(KINDS["byte-level"], user("year"))
    refusing = byte_level(chat_template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(FoveateError, match=r"refuses these messages .*roles must alternate"):
        Prompt(refusing, user("year"))


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False
        all_special_ids: tuple[int, ...] = ()

        def __call__(self, text):
            raise AssertionError("not reached")

    with pytest.raises(FoveateError, match="slow tokenizer"):
        Prompt(Slow(), "year")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(text=""), "empty text"),
        (dict(text=7), "as a str, not int"),
        (dict(), "exactly one of .* none"),
        (dict(text="Tarn", span=(0, 4)), "exactly one of .* text and span"),
        (dict(span=(0, 4), tokens=(0, 1)), "exactly one of .* span and tokens"),
        (dict(text="Tarn", nth=1), "occurs 1 time"),
        (dict(text="Tarn", nth=-2), "occurs 1 time"),
        (dict(text="Tarn", nth=True), "it is an int"),
        (dict(text="Tarn", nth="0"), "it is an int"),
        (dict(span=(0, 4), nth=0), "counts occurrences of a text"),
        (dict(span=(0, 99)), "does not fit: there are 20 characters"),
        (dict(span=(-1, 3)), "does not fit"),
        (dict(span=(3, 3)), "does not fit"),
        (dict(span=(4, 3)), "does not fit"),
        (dict(span=4), "pair of ints"),
        (dict(span=(0, 1, 2)), "pair of ints"),
        (dict(span=(0, 1.5)), "pair of ints"),
        (dict(span="ab"), "pair of ints"),
        (dict(tokens=(0, 99)), "does not fit: there are"),
        (dict(tokens=(2, 2)), "does not fit"),
        (dict(tokens=(-2, -1)), "does not fit"),
        (dict(text="Tarn", item=1), "1 item"),
        (dict(text="Tarn", item=-2), "1 item"),
        (dict(text="Tarn", item="0"), "it is an int"),
    ],
)
def test_bad_marks_change_nothing(arguments, message):
    prompt = Prompt(KINDS["byte-level"], "Tarn Point, Ash Head").mark("x", "Ash")
    before = {name: region.clone() for name, region in prompt.regions.items()}
    with pytest.raises(FoveateError, match=message):
        prompt.mark("x", **arguments)
    assert prompt.regions.keys() == before.keys()
    assert all(torch.equal(prompt.regions[name], before[name]) for name in before)


@pytest.mark.parametrize("name", ["system", "user", "assistant", "special", "first", "generated"])
def test_built_in_names_are_taken(name):
    with pytest.raises(FoveateError, match="there unasked"):
        Prompt(KINDS["byte-level"], "Tarn Point").mark(name, "Tarn")


@pytest.mark.parametrize("name", ["", None, 3])
def test_bad_names(name):
    with pytest.raises(FoveateError, match="non-empty str"):
        Prompt(KINDS["byte-level"], "Tarn Point").mark(name, "Tarn")


def test_unknown_regions_and_singular_questions_to_a_batch():
    prompt = Prompt(KINDS["byte-level"], ["Tarn Point", "Ash Head"])
    with pytest.raises(FoveateError, match="no region 'evidence'"):
        prompt.positions("evidence")
    with pytest.raises(FoveateError, match=r"use \.positions"):
        prompt.positions("first")
    with pytest.raises(FoveateError, match=r"use \.texts"):
        _ = prompt.text
    with pytest.raises(FoveateError, match=r"use \.token_rows"):
        _ = prompt.tokens
    with pytest.raises(FoveateError, match=r"of item 1; .* item="):
        prompt.mark("x", "Tarn Point")


@pytest.mark.parametrize(
    ("wanted", "nearest"),
    [
        ("lighthouse on Tarn Pointe", "lighthouse on Tarn Point"),
        ("ash head was built in 1934", "Ash Head was built in 1934"),
        ("built  in 1877", "built in 1877"),
        ("Tarn\nPoint", "Tarn Point"),
    ],
)
def test_the_nearest_piece_is_quoted(wanted, nearest):
    text = "The lighthouse on Tarn Point was built in 1877. The one on Ash Head was built in 1934."
    with pytest.raises(FoveateError, match="does not occur") as error:
        Prompt(KINDS["byte-level"], text).mark("x", wanted)
    assert nearest in str(error.value)


def test_the_nearest_piece_of_a_long_prompt_comes_quickly():
    filler = "Nothing to see on this rock, says the keeper, and closes the door. "
    text = filler * 150 + "The lighthouse on Tarn Point was built in 1877. " + filler * 150
    prompt = Prompt(KINDS["byte-level"], text)
    began = time.perf_counter()
    with pytest.raises(FoveateError, match="Tarn Point was built in 1877"):
        prompt.mark("x", "the light house on Tarn Point was build in 1877." + " Or so." * 9)
    assert time.perf_counter() - began < 2.0  # 20,000 characters; 0.05 s seen


@pytest.mark.parametrize("wanted", ["z", "zzzz", "☃", "x" * 5000])
def test_something_is_quoted_however_strange_the_text(wanted):
    with pytest.raises(FoveateError, match="nearest piece"):
        Prompt(KINDS["byte-level"], "Tarn").mark("x", wanted)
