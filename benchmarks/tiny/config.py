"""A small configuration of any class: what its fields are called says what they may become.

Every width is the same (32), so that parts which must fit each other do. Fields that no rule knows
keep their default; what a class derives from others when it is not given is left to it.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .overrides import CONFIG

__all__ = ["WIDTH", "tiny"]

WIDTH, HEADS, HEAD, LAYERS, VOCAB, IMAGE = 32, 4, 8, 2, 64, 32
Rule = Callable[[Any], Any]


def _to(value: int) -> Rule:
    """At most ``value``, in every place of a list."""

    def rule(old: Any) -> Any:
        if isinstance(old, list | tuple):
            return type(old)(rule(one) for one in old)
        return min(old, value) if isinstance(old, int) and not isinstance(old, bool) else old

    return rule


def _exactly(value: Any) -> Rule:
    def rule(old: Any) -> Any:
        if isinstance(old, list | tuple):
            return type(old)(rule(one) for one in old)
        return value if isinstance(old, int) and not isinstance(old, bool) and old > 0 else old

    return rule


def _always(value: Any) -> Rule:
    return lambda old: value


def _image(old: Any) -> Any:
    if isinstance(old, Mapping):
        return dict.fromkeys(old, IMAGE)
    return _exactly(IMAGE)(old)


def _patch(old: Any) -> Any:
    return _to(8)(old)


def _layers(old: Any) -> Any:
    return _to(1 if isinstance(old, list | tuple) else LAYERS)(old)


def _kinds(old: Any) -> Any:
    """Two layers of different kinds, one of them full attention where there is such a kind."""
    if not isinstance(old, list | tuple) or len(old) <= LAYERS:
        return old
    kinds = list(dict.fromkeys(old))
    full = [k for k in kinds if isinstance(k, str) and re.match(r"(full_)?attention$|hybrid$", k)]
    kinds = [k for k in kinds if k not in full[:1]][: LAYERS - len(full[:1])] + full[:1]
    return type(old)((kinds + kinds)[:LAYERS])


def _rope(old: Any) -> Any:
    """Rotary sections that fit a head of 8, and the whole head rotated."""
    if not isinstance(old, Mapping):
        return old
    new = {}
    for key, value in old.items():
        if key == "mrope_section" and value:
            new[key] = [2, 1, 1] if len(value) == 3 else [2, 2]
        elif key == "partial_rotary_factor" and value is not None:
            new[key] = 1.0
        else:
            new[key] = _rope(value)
    return new


RULES: list[tuple[str, Rule]] = [
    (r"_token_(id|index|ids)$|^(boi|eoi|boa|eoa|image|video|audio)_token", lambda old: old),
    (r"type_vocab_size$", lambda old: old),
    (r"vocab_size(_per_layer_input)?$", _to(VOCAB)),
    (r"(layer_types|layers_block_type|indexer_types|no_rope_layers|block_types?)$", _kinds),
    (r"^(rope_parameters|rope_scaling)$", _rope),
    (r"^partial_rotary_factor$", _always(1.0)),
    (r"^rotary_dim$", _exactly(HEAD)),
    (r"(key_value|kv)_heads$|^num_key_value_heads$", lambda old: min(old, 2) if old else old),
    (r"(attention_heads|num_heads|n_heads?|encoder_num_attention_heads)$", _exactly(HEADS)),
    (r"(intermediate_size|ffn_dim|d_ff|mlp_dim|ffn_hidden_size|n_inner|d_inner)$", _exactly(48)),
    (
        r"(num_hidden_layers|num_layers|n_layers?|(en|de)coder_layers|^depths?|depth"
        r"|(en|de)coder_depth|num_(en|de)coder_layers|layer_depths)$",
        _layers,
    ),
    (
        r"^(hidden_size|d_model|n_embd|embed_dim|dim|emb_dim|hidden_dim|.*_hidden_size"
        r"|.*_hidden_dim|.*projection_dim|embedding_size|hidden_sizes|.*_embed_dim|embed_dims"
        r"|output_dim|.*_embedding_dim|pooler_output_size|d_embed|reassemble_hidden_size"
        r"|neck_hidden_sizes|attention_size|.*_projection_size|proj_dim|hidden_channels"
        r"|d_text|text_dim|vision_dim|.*_d_model)$",
        _exactly(WIDTH),
    ),
    (r"^(attention_head_dim|d_kv|d_head|dim_head|.*head_dim)$", _exactly(HEAD)),
    (
        r"(max_position_embeddings|n_positions|max_(source|target)_positions|max_seq(uence)?_len"
        r"(gth)?|context_length|n_ctx|max_2d_position_embeddings)$",
        _to(128),
    ),
    (r"image_size$", _image),
    (r"^patch_sizes?$", _patch),
    (r"moe_intermediate_size|expert_ffn", _exactly(16)),
    (r"(experts_per_tok|top_?k_experts|moe_topk|moe_k|num_selected_experts)$", _to(2)),
    (r"(n|num)_(shared_)?experts?$|num_(local|routed|zero)_experts|n_routed_experts"
     r"|moe_num_(shared_)?experts", _to(4)),
    (r"^(n_group|topk_group)$", _exactly(1)),
    (r"^attn_layer_(period|offset)$", lambda old: 2 if old > 4 else 1),
    (r"lora_rank$", _exactly(16)),
    (r"^first_k_dense_replace$", _to(1)),
    (r"^(sliding_window|attention_window|local_attention|attention_chunk_size)$", _to(6)),
    (r"^num_queries$", _to(8)),
    (r"^window_size$", _to(4)),
    (r"^decoder_in_channels$", _exactly(WIDTH)),
    (r"^(deepstack_visual_indexes|global_attn_indexes)$", lambda old: type(old)([0])),
    (r"^fullatt_block_indexes$", lambda old: type(old)([1])),
]  # fmt: skip


def tiny(cls: type, overrides: Mapping[str, Any] | None = None, default: Any = None) -> Any:
    """A small instance of a configuration class.

    Parameters
    ----------
    cls : type
        A subclass of transformers' ``PreTrainedConfig``.
    overrides : mapping, optional
        Values that win over the rules; a mapping under the name of a nested configuration is for
        that one. ``...`` leaves a field to the class.
    default : PreTrainedConfig, optional
        An instance to shrink instead of the class's default.
    """
    return cls(**arguments(cls, CONFIG.get(cls.__name__, {}) | dict(overrides or {}), default))


def arguments(cls: Any, overrides: Mapping[str, Any] | None, default: Any = None) -> dict[str, Any]:
    """What :func:`tiny` hands the class."""
    wanted, nested_default = dict(overrides or {}), default is not None
    given: dict[str, Any] = {}
    if default is None:
        nested = {k: v for k, v in wanted.items() if not isinstance(v, Mapping) and v is not ...}
        try:
            default = cls()
        except Exception:  # a class with no default, or one whose default is not valid
            default = cls(**nested)
    values = vars(default)
    names = {f.name: f.default for f in dataclasses.fields(cls)}
    for name, unset in names.items():
        value = values.get(name)
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            over = wanted.pop(name, {})
            if over is ...:
                continue
            if isinstance(over, Mapping):
                inner = over.get("__class__", type(value))
                over = {k: v for k, v in over.items() if k != "__class__"}
                same = value if inner is type(value) else None
                given[name] = tiny(inner, over, same)
            else:
                given[name] = over
        elif name not in wanted and value is not None and (unset is not None or name in _DERIVED):
            new = _shrunk(name, value)
            if new != value or (nested_default and new != unset and _plain(new)):
                given[name] = new
    given |= {name: value for name, value in wanted.items() if value is not ...}
    for name in [name for name, value in wanted.items() if value is ...]:
        given.pop(name, None)
    rope = given.get("rope_parameters", values.get("rope_parameters"))
    sections = "rope_parameters" in names and _mentions(cls, "mrope_section")
    if sections and "rope_parameters" not in wanted and "vision" not in cls.__name__.lower():
        given["rope_parameters"] = _sectioned(rope or {})
    if names.get("head_dim", 0) is None and values.get("head_dim") is None:
        given.setdefault("head_dim", HEAD)
    if "fullatt_block_indexes" in names:  # windows of pixels, not of patches
        given["window_size"] = IMAGE
    _stages(values, given, wanted)
    if "kv_lora_rank" in names and "num_key_value_heads" in given:  # latent attention: no groups
        given["num_key_value_heads"] = given.get("num_attention_heads", HEADS)
    return _tokens(values, given, wanted)


# lists that a class derives in a pattern longer than two layers: shrunk as if they had been given
_DERIVED = ("layer_types", "layers_block_type", "rope_parameters", "block_types")


def _plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def _shrunk(name: str, value: Any) -> Any:
    for pattern, rule in RULES:
        if re.search(pattern, name):
            return rule(value)
    return value


def _stages(values: Mapping[str, Any], given: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    """A backbone that hands on as many of its stages as before."""
    outputs = values.get("_out_indices")
    if not outputs or "out_indices" in wanted or "out_features" in wanted:
        return
    if isinstance(values.get("depths"), list | tuple):
        given["out_indices"] = list(outputs)
    elif len(outputs) > 1 and "num_hidden_layers" in values:
        given["num_hidden_layers"] = len(outputs)
        given["out_indices"] = list(range(1, len(outputs) + 1))


def _sectioned(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary parameters, of one kind of layer or of each, with sections."""
    if any(isinstance(one, Mapping) for one in rope.values()):
        return {name: _sectioned(one) for name, one in rope.items()}
    return {"mrope_section": [2, 1, 1]} | dict(rope)


@cache
def _mentions(cls: type, word: str) -> bool:
    """Whether the code beside a configuration speaks of something that the class may not."""
    folder = Path(inspect.getfile(cls)).parent
    return any(word in path.read_text(encoding="utf-8") for path in folder.glob("modeling_*.py"))


_SPECIAL = re.compile(r"_token_(id|index|ids)$|^(mask|unk|lang|sep)_index$")
_FIXED = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}


def _tokens(values: Mapping[str, Any], given: dict[str, Any], wanted: Any) -> dict[str, Any]:
    """Special tokens inside the small vocabulary, each with a number of its own."""
    free = iter(range(VOCAB - 1, 2, -1))
    for name, value in values.items():
        if name in wanted or not _SPECIAL.search(name) or isinstance(value, bool):
            continue
        if isinstance(value, int) and value >= 0:
            given[name] = _FIXED[name] if name in _FIXED else next(free)
        elif isinstance(value, list) and value and all(isinstance(one, int) for one in value):
            given[name] = [_FIXED[name]] if name in _FIXED else [next(free) for _ in value]
    return given
