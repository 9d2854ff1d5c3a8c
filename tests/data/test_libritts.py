"""LibriTTS from parquet of the hub's schema and from folders as published, and Seed-TTS-eval's list."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcg.data.audio import UnreadableAudio
from pcg.data.libritts import LibriTTS
from pcg.data.libritts_local import LibriTTSLocal
from pcg.data.seedtts import SeedTTS
from pcg.data.voices import Clip, Voices
from tests.shapes import make_libritts_folders, make_libritts_parquet, make_seedtts, recordings

BOUNDS = [1.0, 20.0]


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_libritts_parquet(tmp_path_factory.mktemp("parquet")))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_libritts_folders(tmp_path_factory.mktemp("LibriTTS") / "test-clean"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "cache")
    datasets.disable_progress_bars()


def test_both_layouts_yield_the_same_utterances(parquet: str, folders: str) -> None:
    hub, local = LibriTTS(parquet, prompt_seconds=BOUNDS), LibriTTSLocal(folders, prompt_seconds=BOUNDS)
    assert len(hub) == len(local) == 8
    by_id = {u.id: u for u in hub}
    originals = {r.id: r for r in recordings()}
    for utterance in local:
        other = by_id[utterance.id]
        assert (other.text, other.speaker, other.prompt_text) == (
            utterance.text, utterance.speaker, utterance.prompt_text,
        )  # fmt: skip
        assert utterance.text == originals[utterance.id].text
        prompt, reference = utterance.load_prompt(), utterance.load_reference()
        assert prompt.sample_rate == reference.sample_rate == 24_000
        assert (prompt.samples == other.load_prompt().samples).all()
        assert prompt.seconds != reference.seconds  # another utterance
        said = [r for r in originals.values() if r.text == utterance.prompt_text]
        assert [r.speaker for r in said] == [utterance.speaker]


def test_prompts_do_not_depend_on_the_limit_but_on_the_seed(folders: str) -> None:
    def prompts(**settings: object) -> list[str]:
        return [u.prompt_text for u in LibriTTSLocal(folders, prompt_seconds=BOUNDS, **settings)]

    assert prompts() == prompts()
    assert prompts(limit=3) == prompts()[:3]
    assert any(prompts(seed=seed) != prompts() for seed in (1, 2, 3))


def test_streaming_reads_no_more_than_it_needs(parquet: str) -> None:
    streamed = LibriTTS(parquet, streaming=True, limit=2, prompt_seconds=BOUNDS)
    utterances = list(streamed)
    assert [u.id for u in utterances] == [u.id for u in LibriTTS(parquet, limit=2, prompt_seconds=BOUNDS)]
    assert len(streamed) == 2
    assert len(streamed._clips) == 4  # two speakers by turns: each needs a second clip
    assert utterances[0].load_prompt().seconds > 1
    assert len(LibriTTS(parquet, streaming=True, prompt_seconds=BOUNDS)) == 8


def test_bounds_are_kept_or_named(folders: str) -> None:
    lengths = sorted(u.load_reference().seconds for u in LibriTTSLocal(folders, prompt_seconds=BOUNDS))
    bounds = [lengths[1], lengths[-2]]
    assert all(bounds[0] <= u.load_prompt().seconds <= bounds[1] for u in LibriTTSLocal(folders, None, bounds))
    with pytest.raises(ValueError, match=r"speaker 1089 has no utterance of 0 to 0\.1 seconds.*widen"):
        list(LibriTTSLocal(folders, prompt_seconds=[0, 0.1]))
    with pytest.raises(ValueError, match="two numbers, the least and then the most"):
        LibriTTSLocal(folders, prompt_seconds=[8, 3])
    with pytest.raises(ValueError, match="two numbers"):
        LibriTTSLocal(folders, prompt_seconds=[8])


def test_no_audio_is_held_or_read_twice_for_its_length() -> None:
    reads: list[str] = []
    data = recordings(2)[0].audio

    def clip(name: str) -> Clip:
        return Clip(name, "s", name, lambda: reads.append(name) or data)

    clips = [clip(f"c{i}") for i in range(6)]
    voices = Voices(0.1, 60, 0)
    list(voices.utterances(clips, None))
    assert len(reads) <= 6
    assert all(set(vars(c)) <= {"id", "speaker", "text", "read", "source", "seconds"} for c in clips)


def test_a_damaged_recording_is_named_and_the_next_voice_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_libritts_folders(tmp_path / "test-clean")
    before = {u.id: u for u in LibriTTSLocal(str(folder), prompt_seconds=BOUNDS)}
    spoilt = Path(next(iter(before.values())).load_prompt.source)
    spoilt.write_bytes(spoilt.read_bytes()[:9000])
    after = list(LibriTTSLocal(str(folder), prompt_seconds=BOUNDS))
    assert [u.id for u in after] == list(before)
    assert all(Path(u.load_prompt.source) != spoilt for u in after)
    for utterance in after:
        utterance.load_prompt()
        old = before[utterance.id]
        assert utterance.prompt_text == old.prompt_text or Path(old.load_prompt.source) == spoilt
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert told[0].startswith(f"{spoilt} is truncated: it holds 9000 of ")
    (itself,) = [u for u in after if u.id == spoilt.stem]
    with pytest.raises(UnreadableAudio, match=f"{spoilt.name} is truncated"):
        itself.load_reference()


def test_hidden_files_do_not_count_and_texts_are_decoded_by_their_mark(tmp_path: Path) -> None:
    folder = make_libritts_folders(tmp_path / "test-clean")
    before = [(u.id, u.text, u.prompt_text) for u in LibriTTSLocal(str(folder), prompt_seconds=BOUNDS)]
    wav = next(folder.glob("*/*/*.wav"))
    wav.with_name(f"._{wav.name}").write_bytes(b"\0\5\x16\7")
    (folder / ".trash" / "1").mkdir(parents=True)
    (folder / ".trash" / "1" / "old.wav").write_bytes(wav.read_bytes())
    text = wav.with_suffix(".normalized.txt")
    text.write_text(text.read_text(), encoding="utf-16")
    assert [(u.id, u.text, u.prompt_text) for u in LibriTTSLocal(str(folder), prompt_seconds=BOUNDS)] == before
    text.write_bytes("Im Café".encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{text.name} is not UTF-8 \(line 1, byte 0xe9\); save it as UTF-8"):
        list(LibriTTSLocal(str(folder)))


def test_what_is_not_there_is_said(tmp_path: Path, folders: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="none: no such file or folder"):
        LibriTTSLocal(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="holds no <speaker>/<chapter>"):
        list(LibriTTSLocal(str(tmp_path)))
    with pytest.raises(ValueError, match="limit=0"):
        LibriTTS(limit=0)
    (tmp_path / "1" / "2").mkdir(parents=True)
    (tmp_path / "1" / "2" / "1_2_3.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no text; the first missing file is .*1_2_3\.normalized\.txt"):
        len(LibriTTSLocal(str(tmp_path)))

    import datasets

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(FileNotFoundError, match=r"no route to host.*hf download.*libritts_local"):
        len(LibriTTS())


def test_seed_tts_list(tmp_path: Path) -> None:
    path = make_seedtts(tmp_path / "en")
    utterances = list(SeedTTS(str(path)))
    assert len(utterances) == len(SeedTTS(str(path))) == 3
    assert len(SeedTTS(str(path), limit=2)) == 2
    first = utterances[0]
    assert (first.text, first.prompt_text) == ("Say this.", recordings(1)[0].text)
    assert first.load_prompt().sample_rate == 24_000
    assert first.load_reference().seconds == first.load_prompt().seconds
    (tmp_path / "en" / "wavs" / f"{first.id}.wav").unlink()
    assert next(iter(SeedTTS(str(path)))).load_reference is None


def test_seed_tts_in_both_languages_from_its_folder(tmp_path: Path) -> None:
    for language, text in (("en", "Say this."), ("zh", "说这个。")):
        made = make_seedtts(tmp_path / language)
        made.write_text(made.read_text().replace("Say this.", text))
        assert {each.text for each in SeedTTS(str(tmp_path), language)} == {text}
    (tmp_path / "zh" / "hardcase.lst").write_text((tmp_path / "zh" / "meta.lst").read_text().splitlines()[0])
    assert len(SeedTTS(str(tmp_path), "zh", file="hardcase.lst")) == 1
    with pytest.raises(ValueError, match=r"no such file as en/hardcase\.lst in it"):
        SeedTTS(str(tmp_path), "en", file="hardcase.lst")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "holds no lines"),
        ("a|b|c", "line 1: 3 fields"),
        ("a|b|prompt-wavs/c.wav|d", r"line 1: the voice prompt is missing: .*c\.wav: no such file"),
    ],
)
def test_a_broken_list_is_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "meta.lst").write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        list(SeedTTS(str(tmp_path / "meta.lst")))


def test_a_bar_in_a_text_belongs_to_it(tmp_path: Path) -> None:
    path = make_seedtts(tmp_path / "en")
    first = path.read_text().splitlines()[0].rpartition("|")[0]
    spoken = f"wavs/{first.partition('|')[0]}.wav"
    path.write_text(f"{first}|One | two.\n{first.replace('-x|', '-y|')}|Three|four.|{spoken}\n")
    one, two = SeedTTS(str(path))
    assert (one.text, two.text) == ("One | two.", "Three|four.")
    assert two.load_reference().seconds == one.load_reference().seconds


def test_a_recording_that_a_list_names_must_be_there(tmp_path: Path) -> None:
    path = make_seedtts(tmp_path / "en")
    line = path.read_text().splitlines()[0]
    path.write_text(f"{line}|wavs/gone.wav\n")
    with pytest.raises(
        ValueError, match=r"meta\.lst line 1: the recording of the text is missing: .*gone\.wav: no such"
    ):
        list(SeedTTS(str(path)))
    path.write_text(f"{line}\n")
    recording = tmp_path / "en" / "wavs" / f"{line.partition('|')[0]}.wav"
    recording.unlink()
    recording.symlink_to("nowhere.wav")
    with pytest.raises(ValueError, match=r"line 1: .*\.wav is a link to nowhere\.wav, which is not there"):
        list(SeedTTS(str(path)))
