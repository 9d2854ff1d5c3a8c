"""A draft that reads the target: exact with it has the target's law, in any batch, and what does not fit is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from pcg.acceptance.dropmatch import DropMatch
from pcg.acceptance.exact import Exact
from pcg.decoding.autoregressive import decode
from pcg.decoding.rows import Batch, Prompt
from pcg.decoding.speculative import speculative_decode
from pcg.models.checkpoint import Checkpoint
from pcg.models.eagle import EagleLM
from pcg.models.hf import HfLM
from pcg.models.llama import LlamaLM
from pcg.models.ngram import NGram
from pcg.models.phonemes import Phonemes
from pcg.models.rope import rope_table
from pcg.sampling import Randomness, Sampling, as_keys
from pcg.training.students import EagleDraft
from pcg.training.teacher import Teacher
from pcg.types import Utterance
from tests.fakes import make_bundled_folder

TEXTS = ("Yes.", "The cat sat on the mat.", "Who is there?", "Come here now, please.")


def load_target(folder: Path) -> LlamaLM:
    return LlamaLM(str(folder), Phonemes(str(folder)), "float32", "cpu", "speech")


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[LlamaLM, EagleLM]:
    """A random target of few tokens, and a draft made from its last layer: alike, far from equal."""
    root = tmp_path_factory.mktemp("eagle")
    folder = make_bundled_folder(
        root / "target", layers=3, width=32, kv_heads=4, audio_tokens=12, tied=False, initializer_range=0.5
    )
    teacher = Teacher(str(folder), Phonemes(str(folder)).speech_ids)
    maker = EagleDraft([1, 2, 3])
    torch.manual_seed(0)
    maker.save(maker.make(teacher), root / "draft", teacher)
    target = load_target(folder)
    return target, EagleLM(str(root / "draft"), target, "float32", "cpu")


def say(
    pair: tuple[LlamaLM, EagleLM],
    texts: Sequence[str],
    sampling: Sampling,
    gamma: int,
    voice: int = 6,
    length: int = 24,
    rule: Exact | DropMatch | None = None,
) -> list[list[int]]:
    target, draft = pair
    prompts = [Prompt(Utterance(text, text), torch.arange(voice + i % 3) % 12) for i, text in enumerate(texts)]
    randomness = Randomness(3, as_keys(list(texts), torch.device("cpu")))
    if gamma == 0:
        said = decode(target, Batch(prompts, sampling, 24, randomness))
    else:
        said = speculative_decode(target, draft, rule or Exact(), Batch(prompts, sampling, 24, randomness), gamma=gamma)
    return [[*each.tokens.tolist(), each.finished] for each in said]


def test_a_rule_may_read_the_target_beside_it(pair) -> None:
    """Both find their own among the states that the target keeps: greedy, undropped opinions are the target's own."""
    sampling = Sampling(temperature=0.0)
    assert say(pair, TEXTS, sampling, 3, rule=DropMatch("naive", 1, 0.0)) == say(pair, TEXTS, sampling, 0)
    assert say(pair, TEXTS, sampling, 3, rule=DropMatch("naive", 1, 0.0)) == say(pair, TEXTS, sampling, 3)


@pytest.mark.usefixtures("types_unchecked")
@pytest.mark.parametrize("gamma", [1, 2, 3, 5])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_is_the_targets_own_in_batches_of_one_and_eight(pair, gamma: int, penalty: float) -> None:
    sampling = Sampling(temperature=0.0, repetition_penalty=penalty)
    texts = [f"{text} {i}" for i in ("one", "two") for text in TEXTS]
    plain = say(pair, texts, sampling, 0)
    assert say(pair, texts, sampling, gamma) == plain
    assert [say(pair, [text], sampling, gamma, voice=6 + i % 3)[0] for i, text in enumerate(texts)] == [
        say(pair, [text], sampling, 0, voice=6 + i % 3)[0] for i, text in enumerate(texts)
    ]


def test_a_prompt_may_be_shorter_than_a_block(pair) -> None:
    sampling, texts = Sampling(temperature=0.0), ["No.", TEXTS[0]]
    assert say(pair, texts, sampling, 60) == say(pair, texts, sampling, 0)


@pytest.mark.parametrize("gamma", [2, 4])
def test_tokens_are_the_same_in_any_batch(pair, gamma: int) -> None:
    """Rows of different lengths that leave at different times; float32 differs in its last digits between batches."""
    sampling = Sampling(temperature=0.9, repetition_penalty=1.2)
    together = say(pair, TEXTS, sampling, gamma)
    alone = [say(pair, [text], sampling, gamma, voice=6 + i % 3)[0] for i, text in enumerate(TEXTS)]
    assert together == alone
    assert len({len(each) for each in together}) > 1


@pytest.mark.usefixtures("types_unchecked")
def test_exact_with_it_has_the_targets_law(pair) -> None:
    """Three tokens of many rows of one prompt, against the target's distribution of them by the chain rule."""
    target, draft = pair
    rows, sampling = 6_000, Sampling(temperature=0.7, top_k=3)
    prompt = Prompt(Utterance("u", TEXTS[1]), torch.arange(6))
    ids = target.prompt(prompt.utterance, prompt.speech)
    law: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        longer: dict[tuple[int, ...], float] = {}
        for said, probability in law.items():
            if target.end in said:
                longer[said] = probability
                continue
            cache = target.prefill([ids], 60)
            fed = torch.cat([ids[-1:], target.token_ids(torch.tensor(said, dtype=torch.int64))])[None]
            probs = sampling.probabilities(target.step(fed, cache)[0, -1])
            for token in probs.nonzero()[:, 0].tolist():
                longer[(*said, token)] = probability * float(probs[token])
        law = longer
    counts = dict.fromkeys(law, 0)
    said = speculative_decode(
        target,
        draft,
        Exact(),
        Batch([prompt] * rows, sampling, 3, Randomness(0, torch.arange(rows) * 7919 + 1)),
        gamma=2,
    )
    for each in said:
        counts[(*each.tokens.tolist(), *([target.end] if each.finished else []))] += 1
    expected = torch.tensor([rows * probability for probability in law.values()])
    often = expected > 5
    assert int(often.sum()) > 8
    chi_square = float((((torch.tensor(list(counts.values())) - expected) ** 2) / expected)[often].sum())
    freedom = int(often.sum()) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def test_transformers_gives_the_same_states(pair) -> None:
    """``models/hf.py`` as the target: states, embeddings and head of the same model, rows of different lengths."""
    target, _ = pair
    other = HfLM(str(target.folder), Phonemes(str(target.folder)), "float32", "cpu")
    ids = [torch.tensor([1, 8, 2, 3, 70, 71]), torch.tensor([1, 9, 2, 3, 72])]
    more = torch.tensor([[70, 73, 74], [75, 70, 71]])
    caches = [model.prefill(ids, 20, (0, 1, 3)) for model in (target, other)]
    for model, cache in zip((target, other), caches, strict=True):
        model.step(more, cache)
        cache.lengths = cache.lengths - 2
        model.step(more[:, :1], cache)
    assert caches[0].lengths.tolist() == caches[1].lengths.tolist()
    for row, length in enumerate(caches[0].lengths.tolist()):
        mine, theirs = (cache.hidden[row, :, :length] for cache in caches)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)
    assert other.fingerprint == target.fingerprint
    torch.testing.assert_close(other.embed(more), target.embed(more))
    hidden = caches[0].hidden[:, 2, :3]
    torch.testing.assert_close(other.head(hidden), target.head(hidden), rtol=0, atol=1e-4)


def test_a_published_head_of_fewer_tokens_loads(pair, tmp_path: Path) -> None:
    """EAGLE-3 as others publish it: its own head over a part of the vocabulary, ``d2t`` telling which."""
    target, _ = pair
    config = json.loads((target.folder / "config.json").read_text())
    rows = target.token_ids(torch.arange(target.vocab_size))[::2]
    config |= {"num_hidden_layers": 1, "draft_vocab_size": len(rows)}
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {
        "fc.weight": (width, 3 * width), "norm.weight": (width,), "lm_head.weight": (len(rows), width),
        **{f"midlayer.{name}_layernorm.weight": (width,) for name in ("input", "post_attention")},
        "midlayer.hidden_norm.weight": (width,),
        **{f"midlayer.self_attn.{name}_proj.weight": (width, 2 * width) for name in "qkv"},
        "midlayer.self_attn.o_proj.weight": (width, width),
        **{f"midlayer.mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")},
        "midlayer.mlp.down_proj.weight": (width, inner),
    }  # fmt: skip
    weights = {name: torch.randn(shape) * 0.2 for name, shape in shapes.items()}
    weights["d2t"] = rows - torch.arange(len(rows))
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    draft = EagleLM(str(tmp_path), target, "float32", "cpu")
    assert draft.reads == (2, 1, 0)  # where the folder does not say: as published heads do, of 3 layers
    ids = torch.tensor([1, 8, 2, 3, 70, 71])
    memory = target.prefill([ids], 20, draft.reads)
    logits = draft.step(ids[None, -1:], draft.prefill([ids], 20, target=memory))[0, 0]
    assert torch.isfinite(logits).nonzero()[:, 0].tolist() == list(range(0, target.vocab_size, 2))
    hidden = say((target, draft), TEXTS[:2], Sampling(temperature=0.8), 3)
    assert len(hidden) == 2


def changed(pair, folder: Path, more: dict[str, torch.Tensor] | None = None, **config: object) -> Path:
    """The draft's folder with other tensors and keys; a key that is None is left out."""
    target, _ = pair
    shutil.copytree(target.folder.parent / "draft", folder, dirs_exist_ok=True)
    tensors = load_file(folder / "model.safetensors") | (more or {})
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    told = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({key: value for key, value in told.items() if value is not None}))
    return folder


def next_logits(target: LlamaLM, draft: EagleLM) -> torch.Tensor:
    ids = torch.tensor([1, 8, 2, 3, 70, 71])
    memory = target.prefill([ids], 20, draft.reads)
    return draft.step(ids[None, -1:], draft.prefill([ids], 20, target=memory))[0, 0]


@pytest.mark.parametrize(
    ("said", "reads"),
    [
        ({"reads": None, "eagle_aux_hidden_state_layer_ids": [0, 1, 2]}, (0, 1, 2)),  # vLLM: after so many layers
        ({"reads": None, "eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 0, 1]}}, (1, 1, 2)),  # after layer i
        ({"eagle_aux_hidden_state_layer_ids": [1, 2, 3]}, (1, 2, 3)),  # the same twice
        ({"reads": None, "eagle_config": {"eagle_aux_hidden_state_layer_ids": []}}, (2, 1, 0)),
    ],
)
def test_the_states_that_a_folder_names_are_read(pair, said: dict, reads: tuple[int, ...], tmp_path: Path) -> None:
    target, _ = pair
    assert EagleLM(str(changed(pair, tmp_path, **said)), target, "float32", "cpu").reads == reads


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"reads": [1, 2, 4]}, r"reads=\[1, 2, 4\]; states 0 to 3 can be read"),
        ({"reads": None, "eagle_aux_hidden_state_layer_ids": [1, 2, 3]}, r"layer_ids=\[1, 2, 3\]; states 0 to 2"),
        (
            {"eagle_aux_hidden_state_layer_ids": [0, 1, 2]},
            "different states in reads and in eagle_aux_hidden_state_layer",
        ),
        ({"fc_norm": True}, "has fc_norm=True, which is not supported"),
        ({"norm_output": True, "norm_before_fc": True}, "norm_output=True, norm_before_fc=True"),
        ({"eagle_config": {"use_aux_hidden_state": False}}, "use_aux_hidden_state=False"),
        ({"eagle_config": {"use_last_layernorm": False}}, "use_last_layernorm=False"),
        ({"transformer_layer_config": {}}, "no norm_before_residual, which vLLM takes as true"),
        ({"target_fingerprint": "0123456789"}, "was trained on the target with fingerprint 0123456789"),
        ({"draft_vocab_size": 12}, "draft_vocab_size=12 of vocab_size=.* ids, and there is no tensor lm_head.weight"),
    ],
)
def test_what_a_folder_says_and_is_not_computed_is_refused(pair, said: dict, message: str, tmp_path: Path) -> None:
    target, _ = pair
    with pytest.raises(ValueError, match=message):
        EagleLM(str(changed(pair, tmp_path, **said)), target, "float32", "cpu")


@pytest.mark.parametrize("name", ["fc_norm.0.weight", "fc.bias", "midlayer.self_attn.q_proj.bias", "d2t"])
def test_a_tensor_of_a_head_that_is_not_read_is_named(pair, name: str, tmp_path: Path) -> None:
    target, _ = pair
    folder = changed(pair, tmp_path, {name: torch.ones(32)})
    with pytest.raises(ValueError, match=f"{name}: no part of the model reads it"):
        EagleLM(str(folder), target, "float32", "cpu")


def test_embeddings_of_its_own_and_a_normed_residual_are_read(pair, tmp_path: Path) -> None:
    target, draft = pair
    config = json.loads((target.folder / "config.json").read_text())
    rows = Checkpoint(target.folder).tensor("model.embed_tokens.weight", None)
    same = EagleLM(str(changed(pair, tmp_path / "a", {"embed_tokens.weight": rows})), target, "float32", "cpu")
    torch.testing.assert_close(next_logits(target, same), next_logits(target, draft))
    table = torch.randn(config["vocab_size"], 32)
    own = EagleLM(str(changed(pair, tmp_path / "b", {"embed_tokens.weight": table})), target, "float32", "cpu")
    assert not torch.allclose(next_logits(target, own), next_logits(target, draft))
    torch.testing.assert_close(own.embeddings("input"), table[target.token_ids(torch.arange(target.vocab_size))])
    folder = str(changed(pair, tmp_path / "c", norm_before_residual=True))
    normed = EagleLM(folder, target, "float32", "cpu")
    assert not torch.allclose(next_logits(target, normed), next_logits(target, draft))
    assert torch.allclose(next_logits(target, normed), by_hand(target, folder), atol=1e-4)


def by_hand(target: LlamaLM, folder: str) -> torch.Tensor:
    """The first draft logits of a head with a normed residual, over one token only: attention is then its value."""
    tensors = {name: value.float() for name, value in load_file(Path(folder) / "model.safetensors").items()}
    ids = torch.tensor([1, 8, 2, 3, 70, 71])

    def rms(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(x, (32,), tensors[f"{name}.weight"], target.llama.config.eps)

    # all positions at once, as a causal decoder layer of transformers
    memory = target.prefill([torch.cat([ids, ids[-1:]])], 20, (1, 2, 3))
    states = memory.hidden[0, :, :5].transpose(0, 1).flatten(1)
    x = torch.cat([torch.zeros(1, 32), states @ tensors["fc.weight"].T])
    normed = rms(x, "midlayer.hidden_norm")
    read = torch.cat([rms(target.embed(ids[None])[0], "midlayer.input_layernorm"), normed], -1)
    heads = {name: (read @ tensors[f"midlayer.self_attn.{name}_proj.weight"].T).view(6, -1, 8) for name in "qkv"}
    cos, sin = rope_table(target.llama.config.rope, torch.device("cpu"))[:6, None].unbind(-1)

    def turned(each: torch.Tensor) -> torch.Tensor:
        first, second = each.chunk(2, -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).transpose(0, 1)

    mixed = F.scaled_dot_product_attention(
        turned(heads["q"]), turned(heads["k"]), heads["v"].transpose(0, 1), is_causal=True, enable_gqa=True
    )
    x = normed + mixed.transpose(0, 1).flatten(1) @ tensors["midlayer.self_attn.o_proj.weight"].T
    h = rms(x, "midlayer.post_attention_layernorm")
    gate, up = (h @ tensors[f"midlayer.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
    x = x + (F.silu(gate) * up) @ tensors["midlayer.mlp.down_proj.weight"].T
    return target.head(rms(x[None], "norm"))[0, -1]


@pytest.mark.parametrize(
    ("ids", "offsets", "more", "message"),
    [
        ([124, 126, 128, 130], None, {}, "no tensor d2t, which says which ids they are"),
        ([124, 126, 128, 130], [124, 126, 128, 130], {}, "d2t leads to id 133, beyond .*must hold offsets, not ids"),
        ([124, 126, 128, 130], [124, 125, 125, 124], {}, "d2t leads 4 rows to 3 ids"),
        ([0, 1, 2, 3], [0, 0, 0, 0], {}, "none of the 4 ids of its draft vocabulary is a speech token"),
        ([124, 126, 128, 130], [-1, 125, 126, 127], {}, "leads to id -1"),
        ([124, 126, 128, 130], [124, 125, 126, 127], {"t2d": torch.zeros(131) > 0}, "d2t and t2d name different"),
    ],
)  # fmt: skip
def test_a_draft_vocabulary_that_cannot_be_right_is_refused(
    pair, ids: list[int], offsets: list[int] | None, more: dict, message: str, tmp_path: Path
) -> None:
    target, _ = pair
    tensors = {"lm_head.weight": torch.randn(len(ids), 32), **more}
    if offsets is not None:
        tensors["d2t"] = torch.tensor(offsets)
    with pytest.raises(ValueError, match=message):
        EagleLM(str(changed(pair, tmp_path, tensors, draft_vocab_size=len(ids))), target, "float32", "cpu")


def test_t2d_that_agrees_is_harmless(pair, tmp_path: Path) -> None:
    target, _ = pair
    ids = torch.tensor([124, 126, 128, 130])
    seen = torch.zeros(131, dtype=torch.bool)
    seen[ids] = True
    tensors = {"lm_head.weight": torch.randn(4, 32), "d2t": ids - torch.arange(4), "t2d": seen}
    EagleLM(str(changed(pair, tmp_path, tensors, draft_vocab_size=4)), target, "float32", "cpu")


def test_what_does_not_fit_is_one_clear_error(pair, tmp_path: Path) -> None:
    target, draft = pair
    ids = torch.tensor([1, 8, 2, 3, 70, 71])
    with pytest.raises(ValueError, match=r"reads the target's states \(1, 2, 3\)"):
        draft.prefill([ids], 20, target=target.prefill([ids], 20))
    with pytest.raises(ValueError, match="hidden state 4 asked for: 0 to 3"):
        target.prefill([ids], 20, (4,))
    narrow = load_target(make_bundled_folder(tmp_path / "narrow", width=16, audio_tokens=12))
    source = Path(str(tmp_path / "draft"))
    source.mkdir()
    config = json.loads((target.folder / "config.json").read_text()) | {"num_hidden_layers": 1, "reads": [1]}
    (source / "config.json").write_text(json.dumps(config))
    save_file({"fc.weight": torch.zeros(32, 32)}, source / "model.safetensors")
    with pytest.raises(ValueError, match="reads states of width 32, but the target's have width 16"):
        EagleLM(str(source), narrow, "float32", "cpu")
    with pytest.raises(ValueError, match="which a NGram does not give"):
        EagleLM(str(source), NGram(13), "float32", "cpu")
    (source / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(ValueError, match="has 2 layers"):
        EagleLM(str(source), target, "float32", "cpu")


def test_a_target_that_nobody_reads_keeps_no_states(pair) -> None:
    target, _ = pair
    assert target.prefill([torch.tensor([1, 8, 2, 3, 70])], 20).hidden.numel() == 0
