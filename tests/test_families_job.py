"""The lines that users of NeuTTS, CosyVoice, Chatterbox, Orpheus and Spark-TTS type, on folders of the real form.

Hub ids are replaced by paths, phonemes need no eSpeak NG, and NeuTTS' 65,536 codes and CosyVoice2's 6,561 are 64.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from pcg.command import cli, inspect
from pcg.config.build import build
from pcg.config.run import parse
from pcg.config.validate import check_trainer
from pcg.models import templated
from pcg.models.espeak import phonemizer_of
from pcg.results.store import read_utterances
from pcg.runner import composition, loading, run
from pcg.studies import plan
from tests.shapes import (
    COSYVOICE,
    NEUTTS,
    make_chatterbox,
    make_chatterbox_voice,
    make_cosyvoice3,
    make_neucodec,
    make_orpheus,
    make_snac,
    make_spark,
    make_templated,
    other_weights,
)

NEUTTS_LINE = ["target=neutts_air", "draft=neutts_nano", "codec=neucodec", "decoding.temperature=1.0",
               "decoding.top_k=50", "dataset.limit=2"]  # fmt: skip
COSYVOICE_LINE = ["target=cosyvoice2", "draft=hf", "text@draft.text=cosyvoice2", "codec=none", "dataset=texts",
                  "dataset.path=lines.txt"]  # fmt: skip
COSYVOICE3_LINE = ["target=cosyvoice3", "draft=hf", "text@draft.text=cosyvoice3", *COSYVOICE_LINE[3:],
                   "decoding.top_k=25", "decoding.top_p=0.95", "decoding.repetition_penalty=1.1"]  # fmt: skip
CHATTERBOX_LINE = ["target=chatterbox_turbo", "draft=chatterbox_nano", *COSYVOICE_LINE[3:],
                   "target.voice=voice.safetensors",
                   "decoding.top_k=1000", "decoding.top_p=0.95", "decoding.repetition_penalty=1.2"]  # fmt: skip
ORPHEUS_LINE = ["target=orpheus", "draft=hf", "text@draft.text=orpheus", *COSYVOICE_LINE[3:]]
SPARK_LINE = ["target=spark", "draft=hf", "text@draft.text=spark", "codec=none", "dataset=tokens",
              "dataset.path=voices.parquet", "dataset.codes=null", "dataset.voice=voice"]  # fmt: skip
MODELS = {"neutts_air": ("air", "nano"), "cosyvoice2": ("cosyvoice", "small"), "cosyvoice3": ("third", "third_small"),
          "chatterbox_turbo": ("turbo", "chatterbox_nano"), "orpheus": ("orpheus", "orpheus_small"),
          "spark": ("spark", "spark_small")}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Air and Nano differ in architecture, in ids and in how a text begins, as theirs do."""
    folder = tmp_path_factory.mktemp("families")
    make_templated(folder / "air", "Qwen2", NEUTTS, "<|speech_{}|>", codes=64, seed=1)
    make_templated(folder / "nano", "Llama", NEUTTS, "<|speech_{}|>", codes=64, before=7, seed=2,
                   begin="<|begin_of_text|>")  # fmt: skip
    make_templated(folder / "cosyvoice", "Qwen2", COSYVOICE, "<|s_{}|>", codes=64, seed=3)
    make_templated(folder / "small", "Qwen2", COSYVOICE, "<|s_{}|>", codes=64, seed=4)
    make_cosyvoice3(folder / "third", seed=5)
    make_cosyvoice3(folder / "third_small", seed=6)
    make_chatterbox(folder / "turbo", "t3_turbo_v1.safetensors", seed=7)
    make_chatterbox(folder / "chatterbox_nano", "t3_nano_v1.safetensors", layers=1, seed=8)
    make_chatterbox_voice(folder / "voice.safetensors")
    make_orpheus(folder / "orpheus", seed=9)
    make_spark(folder / "spark", seed=10)
    for name in ("orpheus", "spark"):
        other_weights(folder / name, folder / f"{name}_small", seed=11)
    voices = [{"text": f"Good morning {i}.", "voice": [(31 * i + j) % 4096 for j in range(32)]} for i in range(2)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(voices), folder / "voices.parquet")
    make_neucodec(folder / "codec", levels=(4, 4, 4))
    (folder / "lines.txt").write_text("Good morning.\nIs it late?\n")
    return folder


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, folders: Path) -> Iterator[None]:
    loading.kept.clear()
    monkeypatch.setattr(templated, "phonemizer_of", lambda language: str.lower)
    monkeypatch.setitem(inspect.CODECS, "neucodec", (64, "<|speech_{}|>"))
    monkeypatch.chdir(folders)
    with initialize_config_dir(cli.CONF, version_base="1.3"):
        yield


@pytest.fixture
def composed(folders: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``composed(line, ...)``: the line with further overrides, of which the last of a key counts."""

    def make(line: list[str], *overrides: str) -> dict[str, Any]:
        models = zip(("target", "draft"), MODELS[line[0].removeprefix("target=")], strict=True)
        at = [f"{role}.{key}" for role, name in models for key in (f"path={folders / name}", "dtype=float32")]
        at += [f"codec.path={folders / 'codec'}"] if "codec=neucodec" in line else []
        rest = ["logger=none", f"paths.outputs={tmp_path}", "device=cpu", "decoding.max_tokens=24", "metrics=none"]
        by_key = {item.partition("=")[0]: item for item in [*line, *at, *rest, *overrides]}
        return cli.plain(compose("run", list(by_key.values())))

    return make


LINES = [NEUTTS_LINE, COSYVOICE_LINE, COSYVOICE3_LINE, CHATTERBOX_LINE, ORPHEUS_LINE, SPARK_LINE]


@pytest.mark.parametrize("line", LINES, ids=list(MODELS))
def test_the_line_is_valid_and_plans(line: list[str], composed, capsys) -> None:
    config = composed(line)
    cli.check_run(config)
    plan.show(config)
    assert re.search(r"target alone: at most \d+ tokens/s", capsys.readouterr().out)
    few = plan.needs(composed(line, "plan.codes=6561"))
    assert few.working * 65_537 == plan.needs(config).working * 6562


@pytest.mark.parametrize("rule", ["exact", "pcg"])
def test_neutts_speaks_at_24_khz(rule: str, composed) -> None:
    result = run.run_once(composed(NEUTTS_LINE, f"grouping={rule}"))
    values = result.values
    assert not values["failures"]
    assert values["counts"]["utterances"] == 2
    assert values["counts"]["tested"] > 0
    assert (values["config"]["decoding"]["temperature"], values["config"]["decoding"]["top_k"]) == (1.0, 50)
    for row in read_utterances(Path(result.folder)):
        found = soundfile.info(Path(result.folder) / row["audio"])
        assert (found.samplerate, found.frames) == (24_000, 480 * len(row["tokens"]))  # the voice is cut off


def test_a_draft_of_the_targets_weights_under_other_ids_is_always_kept(folders: Path, tmp_path: Path, composed) -> None:
    other = make_templated(tmp_path / "other", "Qwen2", NEUTTS, "<|speech_{}|>", codes=64, before=7)
    tensors = load_file(folders / "air" / "model.safetensors")
    table = tensors["model.embed_tokens.weight"]
    letters = len(table) - len(NEUTTS) - 64
    shifted = torch.cat([table[:letters], torch.zeros(7, table.shape[1]), table[letters:]])
    save_file({**tensors, "model.embed_tokens.weight": shifted}, other / "model.safetensors", {"format": "pt"})
    values = run.run_once(composed(NEUTTS_LINE, "grouping=exact", f"draft.path={other}")).values
    assert values["counts"]["tested"] > 10
    assert values["acceptance"]["alpha"] == 1.0


@pytest.mark.parametrize(
    ("line", "codes"),
    [(COSYVOICE_LINE, 64), (COSYVOICE3_LINE, 6561), (CHATTERBOX_LINE, 6561), (SPARK_LINE, 8192)],
    ids=["cosyvoice2", "cosyvoice3", "chatterbox_turbo", "spark"],
)
def test_without_a_codec_tokens_are_written_for_a_vocoder(line: list[str], codes: int, composed) -> None:
    result = run.run_once(composed(line, "grouping=pcg", "metrics=bundled"))
    values = result.values
    assert not values["failures"]
    assert values["counts"]["tested"] > 0
    assert values["distortion"]["tv"] is not None
    assert set(values["quality"].values()) == {None}
    for row in read_utterances(Path(result.folder)):
        for file in (row["tokens_file"], f"baseline_{row['tokens_file']}"):
            tokens = np.load(Path(result.folder) / file)
            assert tokens.min() >= 0
            assert tokens.max() < codes


@pytest.mark.parametrize(
    ("names", "choices"),
    [
        (("air", "nano"), ["target=neutts_air", "draft=neutts_nano", "codec=neucodec"]),
        (("cosyvoice", "small"), ["target=cosyvoice2", "draft=hf", "text@draft.text=cosyvoice2", "codec=none"]),
        (("third", "third_small"), ["target=cosyvoice3", "draft=hf", "text@draft.text=cosyvoice3", "codec=none"]),
        (("orpheus", "orpheus_small"), ["target=orpheus", "draft=hf", "text@draft.text=orpheus", "codec=snac"]),
    ],
)
def test_what_inspect_says_runs(names: tuple[str, str], choices: list[str], folders: Path, capsys) -> None:
    assert inspect.main([str(folders / name) for name in names]) == 0
    shown = capsys.readouterr().out
    assert "shares its tokens" in shown
    if names[0] == "orpheus":
        assert "temperature 0.6, top_p 0.8, repetition_penalty 1.3: as its authors do" in shown
        assert "tokens of the first of 7 slots" in shown
    words = shlex.split(re.search(r"^  pcg run (.+)$", shown, re.MULTILINE)[1])  # type: ignore[index]
    assert [word for word in words if word in choices] == choices
    GlobalHydra.instance().clear()  # it sets Hydra up by itself
    cli.check_command_line("run", words)


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (NEUTTS_LINE, ["draft.path=small"], r"small: the tokenizer has no speech tokens <\|speech_0\|>"),
        (NEUTTS_LINE, ["codec=bundled", "codec.path=bundled:codec"], "codec: has 4096 tokens, the target speaks 64"),
        (
            NEUTTS_LINE,
            ["draft=hf", "text@draft.text=cosyvoice2", "draft.path=small"],
            r"speech token 0 is <\|s_0\|> in the draft, <\|speech_0",
        ),
        (COSYVOICE_LINE, ["grouping.groups.source=codec"], r"grouping\.groups\.source=codec: there is no codec"),
        (COSYVOICE_LINE[:4], ["dataset.limit=2"], "the voice prompts of 2 of 2 utterances are audio"),
        (CHATTERBOX_LINE, ["draft.voice=null"], r"voice=FILE\.safetensors \(docs/models\.md\)"),
        (
            CHATTERBOX_LINE,
            ["target.voice=elsewhere.safetensors"],
            r"voice=elsewhere\.safetensors: the file does not exist",
        ),
    ],
)
def test_what_does_not_fit_is_named(line: list[str], change: list[str], message: str, composed) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run.run_once(composed(line, *change))


@pytest.mark.parametrize("rule", ["exact", "pcg", "coupling"])
def test_orpheus_speaks_in_frames_and_is_told_slot_by_slot(rule: str, tmp_path: Path, composed) -> None:
    pytest.importorskip("snac")
    snac = make_snac(tmp_path / "snac")
    of_groups = [] if rule == "exact" else ["grouping.theta=0.5"]
    config = composed(
        ORPHEUS_LINE, "codec=snac", f"codec.path={snac}", f"grouping={rule}", *of_groups, "dataset.limit=1"
    )
    result = run.run_once(config)
    values = result.values
    assert not values["failures"]
    assert values["config"]["decoding"]["repetition_penalty"] == 1.3  # as the family's YAML recommends
    acceptance, by_slot = values["acceptance"], values["acceptance"]["alpha_by_slot"]
    assert len(by_slot) == 7
    assert all(0 <= alpha <= 1 for alpha in by_slot)
    assert values["counts"]["tested"] > 0
    assert acceptance["alpha_exact"] is not None
    if rule != "exact":
        assert values["groups"]["max_size"] < 4096
    for row in read_utterances(Path(result.folder)):
        found = soundfile.info(Path(result.folder) / row["audio"])
        assert (found.samplerate, found.frames) == (24_000, len(row["tokens"]) // 7 * 2048)


@pytest.mark.parametrize("rule", ["pcg", "coupling"])
def test_orpheus_groups_stay_within_a_slot(rule: str, composed) -> None:
    config = composed(ORPHEUS_LINE, f"grouping={rule}", "grouping.theta=0.5")
    table = composition.load(parse(config)).rule.groups
    owners = torch.repeat_interleave(torch.arange(len(table)), table.sizes)
    assert len(table.members) > 2 * 28_672
    assert torch.equal(owners // 4096, table.members.long() // 4096)


def test_coupling_on_orpheus_pairs_tokens_of_one_slot_only(composed) -> None:
    """Most of what exact rejects has no pair where draft and target put their probability into different slots."""
    rule = composition.load(parse(composed(ORPHEUS_LINE, "grouping=coupling", "grouping.theta=0.5"))).rule
    tokens = torch.tensor([5, 4095, 4096, 28_671, 28_672])
    for neighbours in (rule.alike.near, rule.alike.back):
        assert torch.equal(neighbours.of(tokens) // 4096, (tokens // 4096).unsqueeze(1).expand(-1, neighbours.widest))
    draft, target = torch.zeros(2, 28_673)
    draft[:4096], target[4096:8192] = 1 / 4096, 1 / 4096  # all of it in slot 0, all of it in slot 1
    assert rule.expected_acceptance(draft, target) == 0
    torch.testing.assert_close(rule.law(draft, target), target)
    same_slot = torch.zeros(28_673)
    same_slot[:4096] = torch.rand(4096, generator=torch.Generator().manual_seed(0)) ** 8
    same_slot /= same_slot.sum()
    exact = draft.minimum(same_slot).sum()
    assert rule.expected_acceptance(draft, same_slot) > exact + 0.1


def test_spark_says_each_utterance_in_its_own_voice(folders: Path, composed) -> None:
    loaded = composition.load(parse(composed(SPARK_LINE, "grouping=exact")))
    names = AutoTokenizer.from_pretrained(folders / "spark")
    for index, utterance in enumerate(loaded.dataset):
        prompt = names.decode(loaded.target.prompt(utterance, None))
        voice = "".join(f"<|bicodec_global_{(31 * index + j) % 4096}|>" for j in range(32))
        assert f"<|start_global_token|>{voice}<|end_global_token|><|start_semantic_token|>" in prompt


@pytest.mark.parametrize(("line", "sampling"), [
    (["target=orpheus"], (0.6, None, 0.8, 1.3)), (["target=spark", "target.path=x"], (0.8, 50, 0.95, 1.0)),
    (["target=neutts_air"], (1.0, 50, 1.0, 1.0)), (["target=bundled"], (0.8, None, 1.0, 1.0)),
    (["target=cosyvoice2"], (1.0, 25, 0.8, 1.0)),
])  # fmt: skip
def test_a_run_samples_as_the_targets_authors_do_unless_told(line: list[str], sampling: tuple, capsys) -> None:
    keys = ("temperature", "top_k", "top_p", "repetition_penalty")
    config = cli.plain(compose("run", line))
    assert tuple(config["decoding"][key] for key in keys) == sampling
    assert "sampling" not in config["target"]
    assert config["decoding"]["ras"] == ({"window": 10, "tau": 0.1} if "cosyvoice" in line[0] else None)
    told = cli.plain(compose("run", [*line, "decoding.temperature=0.3"]))
    assert told["decoding"] == config["decoding"] | {"temperature": 0.3}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore:.*isinstance.*LeafSpec")
@pytest.mark.parametrize(
    ("line", "codes"), [(COSYVOICE_LINE, 64), (ORPHEUS_LINE, 28_672)], ids=["cosyvoice2", "orpheus"]
)
def test_a_draft_that_reads_the_target_is_trained_from_codes_alone(
    line: list[str], codes: int, folders: Path, tmp_path: Path, composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"text": f"Good morning {i}.", "codes": [(4097 * i + j) % codes for j in range(30)]} for i in range(8)]
    coded = tmp_path / "coded.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), coded)
    family = line[0].removeprefix("target=")
    recorded, draft, target = tmp_path / "recorded", tmp_path / "eagle", folders / MODELS[family][0]
    _train("trainer=recorded", f"trainer.dataset.path={coded}", f"text@trainer.text={family}",
           f"trainer.text.path={target}", f"trainer.out={recorded}", "trainer.heldout=1")  # fmt: skip
    _train("trainer=eagle", "trainer.labels=self", f"trainer.tokens={recorded}", f"trainer.target={target}",
           f"text@trainer.text={family}", f"trainer.out={draft}", "trainer.student.reads=[1,2]", "trainer.steps=2",
           "trainer.heldout=0", "trainer.report_every=10", "trainer.batch_tokens=200")  # fmt: skip
    line = [each for each in line if not each.startswith(("draft=", "text@draft"))]
    values = run.run_once(composed(line, "draft=eagle", f"draft.path={draft}", "dataset.limit=1")).values
    assert values["counts"]["rounds"] > 0
    assert not values["failures"]


def _train(*overrides: str) -> None:
    config = cli.plain(compose("train", [*overrides, "accelerator=cpu", "precision=32-true", "threads=1"]))
    check_trainer(config)
    build(config["trainer"]).run()


def test_without_espeak_the_extra_is_named(composed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templated, "phonemizer_of", phonemizer_of.__wrapped__)
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r"text\.phonemes=en-us: needs eSpeak NG: pip install pcg\[espeak\]"):
        run.run_once(composed(NEUTTS_LINE))
