"""The whole pipeline on a handful of sentences: every stage makes its output, and picks up where it stopped."""

from pathlib import Path

import pytest
import torch

from pcg.codecs.bundled import BundledCodec
from pcg.groups.cosine import Cosine
from pcg.models.eagle import EagleLM
from pcg.models.llama import LlamaLM
from pcg.models.phonemes import Phonemes
from pcg.training.drafts import DraftTrainer
from pcg.training.fit import schedule
from pcg.training.losses.kl import KL
from pcg.training.pair.codec import CodecTrainer
from pcg.training.pair.corpus import Corpus, Speaker, trim
from pcg.training.pair.lm import LMTrainer
from pcg.training.pair.tokens import TokenCorpus
from pcg.training.sequences import AUDIO_OFFSET, MARKERS, Batches, Spoken, corpus, join, pad
from pcg.training.shards import audio_rows, shards
from pcg.training.speech import SpeechLM, TokenTable
from pcg.training.students import EagleDraft, LlamaDraft

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.*LeafSpec"),
]

MEL = {"sample_rate": 16000, "hop": 160, "fft": 640, "bands": 100}
NET = {"levels": [4, 4], "encoder_width": 8, "encoder_blocks": 1, "decoder_width": 8, "decoder_blocks": 1}
LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    corpus = Corpus(str(folder / "corpus"), "sentences", 6, 3, [0.82, 1.0], 0.94, seed=0, shard_size=3, workers=1)
    corpus.run()
    return folder


def codec_stage(work: Path, steps: int) -> CodecTrainer:
    critic = {"critic_width": 4, "critic_after": 2, "critic_share": 0.7}
    sizes = {"steps": steps, "batch": 2, "crop": 32, "learning_rate": 1e-3}
    where = {"corpus": str(work / "corpus"), "out": str(work / "codec"), "shards": 1, "mel": MEL, "net": NET}
    return CodecTrainer(
        **where, critic=critic, **sizes, seed=0, accelerator="cpu", precision="32-true", checkpoint_every=100
    )


def lm_stage(work: Path, steps: int) -> LMTrainer:
    guide = {"guide_layer": 0, "guide": 0.3, "guide_width": 3.0}
    sizes = {"steps": steps, "batch_tokens": 1500, "single": 0.5, "learning_rate": 1e-3}
    where = {
        "tokens": str(work / "tokens"),
        "out": str(work / "draft"),
        "start": None,
        "llama": LLAMA,
        "levels": [4, 4],
    }
    return LMTrainer(
        **where, guide=guide, **sizes, seed=0, accelerator="cpu", precision="32-true", checkpoint_every=100
    )


def test_corpus_keeps_texts_and_speakers_apart(work):
    train = [row for shard in shards(str(work / "corpus"), "train") for row in audio_rows(shard)]
    held = [row for shard in shards(str(work / "corpus"), "heldout") for row in audio_rows(shard)]
    assert len(train) == 6
    assert len(held) == 3
    assert not {r["text"] for r in train} & {r["text"] for r in held}
    assert {r["speaker"] for r in train} <= {"s082", "s100"}
    assert all(abs(len(r["samples"]) / 16_000 - r["seconds"]) < 1e-6 for r in train)


def test_a_finished_shard_is_not_spoken_again(work):
    (first, *_) = shards(str(work / "corpus"), "train")
    before = first.stat().st_mtime_ns
    Corpus(str(work / "corpus"), "sentences", 6, 3, [0.82, 1.0], 0.94, seed=0, shard_size=3, workers=1).run()
    assert first.stat().st_mtime_ns == before


def test_a_missing_corpus_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="trainer=corpus"):
        shards(str(tmp_path), "train")


def test_scale_moves_the_pitch_and_keeps_the_pace():
    speaker = Speaker()
    low, high = (speaker.say("My sister never saw the yellow river.", scale, seed=0) for scale in (0.8, 1.2))
    assert abs(len(low) / len(high) - 1) < 0.25

    def pitch(audio):
        """Hz, where the autocorrelation peaks between 80 and 400 Hz."""
        power = torch.fft.rfft(torch.from_numpy(audio), n=2 * len(audio)).abs() ** 2
        lags = torch.fft.irfft(power)[40:200]
        return 16_000 / (40 + int(lags.argmax()))

    assert pitch(high) / pitch(low) == pytest.approx(1.5, rel=0.15)


def test_trim_keeps_a_margin():
    audio = torch.zeros(16_000).numpy()
    audio[8000:9000] = 0.5
    assert len(trim(audio)) == pytest.approx(1000 + 0.24 * 16_000, abs=2)


def test_codec_stage_resumes_and_settles_its_tokens(work):
    codec_stage(work, 2).run()
    settled = BundledCodec(str(work / "codec"))._net.state_dict()
    codec_stage(work, 5).run()  # three more steps, against the critic
    final = BundledCodec(str(work / "codec"))._net.state_dict()
    changed = {name for name in final if not torch.equal(final[name], settled[name])}
    assert changed
    assert all(name.startswith("decoder") for name in changed)
    state = torch.load(work / "codec.ckpt", weights_only=True)["state_dict"]
    assert int(state["trained"]) == 5


def test_token_and_language_model_stages(work):
    from transformers import LlamaForCausalLM

    codec_stage(work, 2).run()
    TokenCorpus(str(work / "corpus"), str(work / "codec"), str(work / "tokens"), "cpu").run()
    assert len(list((work / "tokens").glob("*.parquet"))) == 3
    lm_stage(work, 2).run()
    lm_stage(work, 3).run()
    state = torch.load(work / "draft.ckpt", weights_only=True)["state_dict"]
    assert int(state["trained"]) == 3
    model = LlamaForCausalLM.from_pretrained(work / "draft", dtype=torch.float32)
    assert model.config.vocab_size == AUDIO_OFFSET + 16
    module = SpeechLM(LLAMA, [4, 4], 0, 0.3, 3.0)
    module.load_state_dict(state)
    ids = torch.tensor([[1, 7, 2, 3, AUDIO_OFFSET, AUDIO_OFFSET + 5]])
    with torch.no_grad():
        ours = module.logits(module.hidden(ids))
        theirs = model(ids).logits
    speech = [*range(AUDIO_OFFSET, AUDIO_OFFSET + 16), MARKERS["speech_end"]]
    torch.testing.assert_close(theirs[..., speech], ours, atol=2e-3, rtol=2e-3)  # float16 weights


def test_an_exported_model_can_be_trained_further(tmp_path):
    phonemes = {"a": 5}
    first, second = (SpeechLM(LLAMA, [4, 4], 0, 0.3, 3.0) for _ in range(2))
    first.export(tmp_path / "model", phonemes)
    second.start_from(str(tmp_path / "model"), phonemes)
    ids = torch.tensor([[1, 5, 2, 3, AUDIO_OFFSET, AUDIO_OFFSET + 5]])
    with torch.no_grad():
        want, got = (m.logits(m.hidden(ids)) for m in (first, second))
    torch.testing.assert_close(got, want, atol=2e-3, rtol=2e-3)  # float16 weights
    with pytest.raises(ValueError, match="phoneme ids"):
        second.start_from(str(tmp_path / "model"), {"b": 5})
    wide = SpeechLM(LLAMA | {"intermediate_size": 48}, [4, 4], 0, 0.3, 3.0)
    with pytest.raises(ValueError, match="does not fit"):
        wide.start_from(str(tmp_path / "model"), phonemes)


def test_a_smaller_model_grows_without_changing_what_it_says(tmp_path):
    small, large = (
        SpeechLM(LLAMA | size, [4, 4], 0, 0.3, 3.0)
        for size in (
            {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1},
            {"num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 4},
        )
    )
    small.export(tmp_path / "model", {"a": 5})
    large.start_from(str(tmp_path / "model"), {"a": 5})
    ids = torch.tensor([[1, 5, 2, 3, AUDIO_OFFSET, AUDIO_OFFSET + 5]])
    with torch.no_grad():
        torch.testing.assert_close(large.hidden(ids), small.hidden(ids), atol=2e-3, rtol=2e-3)  # float16 weights
    large.loss(ids, torch.full(ids.shape, -1.0))[0].backward()
    new = large.llama.model.layers[1]  # adds nothing yet, but learns to
    assert not new.mlp.down_proj.weight.any()
    assert new.mlp.down_proj.weight.grad.any()


def draft_stage(work: Path, student: object, name: str, steps: int, **changes: object) -> DraftTrainer:
    where = {"tokens": str(work / "tokens"), "labels": "corpus", "out": str(work / name), "target": str(work / "draft")}
    where["target_dtype"] = "float32"
    sizes = {"temperature": 0.8, "depths": 2, "share": 0.5, "steps": steps, "batch_tokens": 800, "learning_rate": 1e-3}
    how = {"seed": 0, "accelerator": "cpu", "precision": "32-true", "checkpoint_every": 100}
    reports = {"groups": {"near": Cosine(0.5)}, "report_every": 2, "heldout": 0}  # its phonemes may be unknown
    text = Phonemes(str(work / "draft"))
    return DraftTrainer(
        **{**where, **sizes, **how, **reports, "text": text, "student": student, "loss": KL()} | changes
    )


def test_a_draft_of_either_kind_is_trained_saved_and_resumed(work, caplog):
    codec_stage(work, 2).run()
    TokenCorpus(str(work / "corpus"), str(work / "codec"), str(work / "tokens"), "cpu").run()
    lm_stage(work, 1).run()
    caplog.set_level("INFO", "pcg")
    target = LlamaLM(str(work / "draft"), Phonemes(str(work / "draft")), "float32", "cpu", "speech")
    for name, student in (("own", LlamaDraft(LLAMA, [4, 4])), ("reading", EagleDraft([1, 2]))):
        draft_stage(work, student, name, steps=2).run()
        draft_stage(work, student, name, steps=3).run()
        assert "resuming" in caplog.text
        if name == "own":
            LlamaLM(str(work / name), Phonemes(str(work / name)), "float32", "cpu", "speech")
        else:
            assert EagleLM(str(work / name), target, "float32", "cpu").reads == (1, 2)


def test_joined_utterances_and_their_centres():
    ids = {c: 5 + i for i, c in enumerate("ab ")}
    sequence = join([Spoken("ab", [0, 1, 2, 3]), Spoken("b", [9, 8])], ids)
    start, end, speech, stop = (MARKERS[m] for m in ("text_start", "text_end", "speech_start", "speech_end"))
    assert sequence.ids == [start, 5, 6, 7, 6, end, speech, 64, 65, 66, 67, 73, 72, stop]
    assert sequence.centre[:7] == [-1.0] * 7
    assert sequence.centre[-1] == -1.0
    assert sequence.centre[7:13] == [1.25, 1.75, 2.25, 2.75, 4.25, 4.75]


def test_batches_hold_their_size_and_say_everything_once():
    spoken = [Spoken("a", [i] * (5 + i)) for i in range(40)]
    batches = Batches(corpus({"s": spoken}, {"a": 5, " ": 6}, single=0.5), 120, 0, pad)
    seen = []
    for ids, centre in batches:
        assert (ids.shape == centre.shape and ids.numel() <= 120) or len(ids) == 1
        seen += (ids[ids >= AUDIO_OFFSET] - AUDIO_OFFSET).tolist()
        if len(seen) >= sum(5 + i for i in range(40)):
            break
    assert sorted(seen) == sorted(t for u in spoken for t in u.tokens)


def test_guidance_is_the_attention_mass_outside_the_window():
    module = SpeechLM(LLAMA, [4, 4], 0, 0.3, 0.5)
    sequence = join([Spoken("aaaaaaaa", [1] * 16)], {"a": 5})
    ids, centre = torch.tensor([sequence.ids]), torch.tensor([sequence.centre])
    narrow = module.loss(ids, centre)[1]
    module.guide_width = 50.0
    assert module.loss(ids, centre)[1] < narrow
    assert module.loss(ids, centre)[1] < 0.2


def test_audio_rows_of_a_table_are_centred():
    table = TokenTable([4, 4], 8, 0.5)()
    assert table.shape == (AUDIO_OFFSET + 16, 8)
    torch.testing.assert_close(table[AUDIO_OFFSET:].mean(0), torch.zeros(8), atol=1e-6, rtol=0)


def test_the_schedule_warms_up_holds_and_falls():
    assert schedule(0, 1000) == pytest.approx(0.01)
    assert schedule(100, 1000) == schedule(500, 1000) == 1.0
    assert schedule(750, 1000) == pytest.approx(0.5)
    assert schedule(1000, 1000) == 0.02
