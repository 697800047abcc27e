"""generic-attention-explainability: the rules of Chefer, Gur and Wolf (2021) written out.

``make`` is a function ``(model, inputs, target, **options) -> scores [S]``: what each input token
counts for the logit ``target`` of the last query, or for what ``target(output)`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import relevance_oracle as oracle
from families import BY_NAME, build, inputs
from foveate.engine.program import Program
from foveate.engine.relevance import Edges
from foveate.find.attribution import attribute
from foveate.find.attribution.relevance import down, rolled_down
from seeing import seeing, shown

Make = Callable[..., Tensor]
TARGET = 7


def one_layer(implementation: str | None = None) -> Any:
    """A Llama of one layer: ``R = I + E_h[(∇A ⊙ A)^+]``, nothing to multiply."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(**BY_NAME["llama"].options | {"num_hidden_layers": 1})
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    if implementation:
        model.set_attn_implementation(implementation)
    return model.double()


def close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape, (found.shape, expected.shape)
    error = (found.double() - expected).abs().max()
    assert error < 2e-4 * expected.abs().max(), f"off by {error}"


def check(make: Make) -> None:
    batch = inputs("llama", batch=1)
    pick = lambda output: output.logits[:, -1, TARGET]
    # one layer, by autograd and by hand
    (attention,), (gradient,) = oracle.maps(one_layer("eager"), batch, pick)["attentions"]
    by_hand = (gradient * attention).clamp(min=0).mean(1)[0, -1]
    close(make(one_layer(), batch, TARGET), by_hand)
    # several layers: rule 6, grouped queries and sliding windows among them
    for name in ("llama", "mistral", "gpt2"):
        found = oracle.maps(build(name, "eager").double(), inputs(name, batch=1), pick)
        R = oracle.self_attention(found["attentions"])
        expected = R[0, -1] - torch.eye(R.shape[-1]).double()[-1]
        close(make(build(name).double(), inputs(name, batch=1), TARGET), expected)
    # encoder and decoder: rules 6, 7, 8, 9 and 10
    for name in ("bart", "t5"):
        given = inputs(name, batch=1)
        R_qi, _ = oracle.encoder_decoder(oracle.maps(build(name, "eager").double(), given, pick))
        close(make(build(name).double(), given, TARGET), R_qi[0, -1])
    check_pictures(make)


def check_pictures(make: Make) -> None:
    """A vision transformer, a decoder that sees, Q-Formers, a detector."""
    given = shown("vit")
    maps = oracle.recorded(seeing("vit", "eager"), given, lambda out: out.logits[:, TARGET])
    R = oracle.self_attention(tuple(zip(*maps.values(), strict=True)))
    close(make(seeing("vit"), given, TARGET), R[0, 0] - torch.eye(R.shape[-1])[0])

    given = shown("llava")
    last = lambda out: out.logits[:, -1, TARGET]
    maps = oracle.recorded(seeing("llava", "eager"), given, last)
    parts = [
        oracle.self_attention(tuple(zip(*some, strict=True)))
        for some in ([m for n, m in maps.items() if part in n] for part in ("vision", "language"))
    ]
    R_tower, R_text = parts
    row = R_text[0, -1] - torch.eye(R_text.shape[-1])[-1]
    close(make(seeing("llava"), given, TARGET), row)
    # and on through the tower: image token n is patch n, and [CLS] was made no token
    patches = torch.cat([row.new_zeros(1), row[given["input_ids"][0] == 63]])
    close(make(seeing("llava"), given, TARGET, stack="vision"), patches @ R_tower[0])

    for name in ("qformer", "instruct", "detr"):
        given = shown(name)
        pick = lambda out: getattr(out, "logits", out[0])[:, 0, TARGET - 1]
        maps = oracle.recorded(seeing(name, "eager"), given, pick)
        across = [n for n in maps if "cross" in n or "encoder_attn" in n]
        behind = [m for n, m in maps.items() if name == "detr" and "encoder.layers" in n]
        size = maps[across[0]][0].shape[-1]
        R_ii = torch.eye(size).double()[None]
        if behind:
            R_ii = oracle.self_attention(tuple(zip(*behind, strict=True)))
        own = [n for n in maps if name != "detr" or "decoder.layers" in n]
        steps = [(n in across, *maps[n]) for n in own]
        assert sum(crosses for crosses, _, _ in steps) == 2
        R_qi, _ = oracle.looking(steps, R_ii)
        target = TARGET - 1 if name == "detr" else pick
        close(make(seeing(name), given, target), R_qi[0, 0])


def relevance(model: Any, given: dict[str, Tensor], target: Any, **options: Any) -> Tensor:
    return attribute(model, given, "relevance", target, **options).scores


def baseline(model: Any, given: dict[str, Tensor], target: Any, **options: Any) -> Tensor:
    """Raw attention of the last layer."""
    return attribute(model, given, "attention", target, **options).scores


def test_relevance_follows_the_rules() -> None:
    check(relevance)


def test_the_rules_on_pictures_tell_raw_attention_apart() -> None:
    with pytest.raises(AssertionError, match="off by"):
        check_pictures(baseline)


def test_with_gradients_of_one_and_one_head_it_is_rollout_without_normalisation() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 9, 4, generator=g, dtype=torch.float64) for _ in range(2))
    v = torch.eye(4, dtype=torch.float64)[:1].expand(1, 1, 9, 4)  # dO · v = 1 everywhere
    grad = v.clone()
    start = torch.eye(9, dtype=torch.float64)[-1:]
    layers = [Edges(Program(causal=True), q * n, k, v, grad_out=grad) for n in (1, 2, 3)]
    plain = [Edges(Program(causal=True), q * n, k, v) for n in (1, 2, 3)]
    P = []
    for n in (1, 2, 3):
        s = (n * q[0, 0] @ k[0, 0].T / 2).masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
        P.append(s.softmax(-1))
    eye = torch.eye(9, dtype=torch.float64)
    product = (eye + P[2]) @ (eye + P[1]) @ (eye + P[0])
    torch.testing.assert_close(down(layers, start)[0], (product - eye)[-1])
    # normalised, it is rollout itself: every row of I + P sums to 2
    torch.testing.assert_close(rolled_down(plain, start)[0], product[-1] / 8)
