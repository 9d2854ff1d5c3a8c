"""What a training tells W&B, and several devices that train one model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import torch
import wandb
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file, save_file

from pcg.command import cli
from pcg.config.build import build
from pcg.config.validate import ConfigError
from pcg.groups.cosine import Cosine
from pcg.models.phonemes import Phonemes
from pcg.runner.stage import run_stage
from pcg.training.drafts import DraftTrainer
from pcg.training.losses.kl import KL
from pcg.training.students import EagleDraft
from tests.fakes import make_bundled_folder
from tests.tracking.offline import items, records
from tests.warm import start

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A target, and eight utterances of equal length: a corpus, which holds a target's samples beside it."""
    make_bundled_folder(tmp_path / "target", audio_tokens=16, width=16, layers=2)
    (tmp_path / "tokens").mkdir()
    letters = sorted(json.loads((tmp_path / "target" / "tokens.json").read_text())["phonemes"])
    said = [[(i * j) % 16 for j in range(20)] for i in range(8)]
    spoken = [
        {"id": str(i), "speaker": "s", "phonemes": letters[i] * 3, "tokens": tokens,
         "ids": [1, 5, 6, 7, 2, 3, *(64 + token for token in tokens), 4]}
        for i, tokens in enumerate(said)
    ]  # fmt: skip
    for split in ("train", "heldout"):
        datasets.Dataset.from_list(spoken).to_parquet(tmp_path / "tokens" / f"{split}-0000.parquet")
    return tmp_path


def stage(work: Path, **changes: object) -> DraftTrainer:
    where = {"tokens": str(work / "tokens"), "labels": "corpus", "out": str(work / "draft")}
    what = {
        "target": str(work / "target"),
        "target_dtype": "float32",
        "text": Phonemes(str(work / "target")),
        "student": EagleDraft([1, 2]),
    }
    sizes = {"temperature": 0.8, "depths": 2, "share": 1.0, "steps": 4, "batch_tokens": 200, "learning_rate": 1e-2}
    how = {"seed": 0, "accelerator": "cpu", "precision": "32-true", "checkpoint_every": 100}
    reports = {"groups": {"near": Cosine(0.5)}, "report_every": 2, "heldout": 1}
    return DraftTrainer(**{**where, **what, **sizes, **how, **reports, "loss": KL()} | changes)


def history(work: Path) -> list[dict[str, float]]:
    rows = [items(each.history.item) for each in records(work) if each.WhichOneof("record_type") == "history"]
    return [
        {key: value for key, value in row.items() if key.startswith("heldout")} | {"step": row["trainer/global_step"]}
        for row in rows
        if "heldout_exact_1" in row
    ]


def test_held_out_acceptance_reaches_wandb_at_its_steps(work):
    wandb.teardown()  # a service of its own: that of earlier tests may still wait for a server that never answers
    stage(work, wandb="offline").run()
    rows = history(work)
    assert [row.pop("step") for row in rows] == [1, 3]
    for row in rows:
        assert set(row) == {f"heldout_{name}_{depth}" for name in ("exact", "near") for depth in (1, 2)}
        assert all(0 < value <= 1 + 1e-6 for value in row.values())
    assert rows[0] != rows[1]
    config = next(items(each.run.config.update) for each in records(work) if each.WhichOneof("record_type") == "run")
    assert config["learning_rate"] == 0.01
    assert config["loss"] == "KL()"


def test_a_failing_logger_is_told_of_and_costs_no_training(work, caplog, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("wandb.init", fail)
    stage(work, wandb="offline").run()
    assert caplog.text.count("the training goes on without it: OSError: no space left") == 1
    assert int(torch.load(work / "draft.ckpt", weights_only=True)["state_dict"]["trained"]) == 4


def node(work: Path, name: str, **changes: object) -> dict[str, object]:
    """The same stage as a config."""
    target = str(work / "target")
    parts = {
        "text": {"_target_": "pcg.models.phonemes.Phonemes", "path": target},
        "student": {"_target_": "pcg.training.students.EagleDraft", "reads": [1, 2]},
        "loss": {"_target_": "pcg.training.losses.kl.KL"},
    }
    plain = {field: value for field, value in vars(stage(work)).items() if field not in parts}
    told = {"_target_": "pcg.training.drafts.DraftTrainer", **plain, **parts}
    return told | {"labels": "self", "out": str(work / name), "groups": {}, "heldout": 0, "steps": 2} | changes


def weights(work: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(work / name / "model.safetensors")


def test_a_training_goes_on_with_what_it_was_begun_with_and_with_nothing_else(work, caplog):
    caplog.set_level("INFO")
    run_stage(node(work, "head"))
    before = (work / "head" / "model.safetensors").read_bytes()
    run_stage(node(work, "head", wandb="disabled", report_every=1, checkpoint_every=1))
    assert "head: already trained, 2 steps of trainer.steps=2" in caplog.text
    other = {**load_file(work / "target" / "model.safetensors")}
    other["model.norm.weight"] = other["model.norm.weight"] * 1.01
    student = {"_target_": "pcg.training.students.EagleDraft", "reads": [0, 2]}
    for changes, said in (
        ({"student": student}, r"student\.reads was \[1, 2\], is \[0, 2\]"),
        ({"temperature": 0.9}, "temperature was 0.8, is 0.9"),
        ({"seed": 1, "steps": 3}, "seed was 0, is 1"),
        ({"labels": "corpus"}, "labels was 'self', is 'corpus'"),
    ):
        with pytest.raises(
            ConfigError, match=rf"head was made with other settings: {said}\. Choose another folder, or"
        ):
            run_stage(node(work, "head", **changes))
    save_file(other, work / "target" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"target was '\w{10}', is '\w{10}'"):  # by content, under the same name
        run_stage(node(work, "head"))
    assert (work / "head" / "model.safetensors").read_bytes() == before
    run_stage(node(work, "other"))
    assert not torch.equal(weights(work, "head")["fc.weight"], weights(work, "other")["fc.weight"])


def test_more_steps_go_on_and_a_folder_that_is_missing_is_written(work, caplog):
    caplog.set_level("INFO")
    run_stage(node(work, "head"))
    first = weights(work, "head")
    shutil.rmtree(work / "head")
    run_stage(node(work, "head"))
    assert "the folder was missing and has been written from the checkpoint" in caplog.text
    assert all(torch.equal(first[name], value) for name, value in weights(work, "head").items())
    run_stage(node(work, "head", steps=4))
    assert "head: resuming" in caplog.text
    assert int(torch.load(work / "head.ckpt", weights_only=True)["state_dict"]["trained"]) == 4


def test_names_that_differ_behind_a_dot_are_two_trainings(work):
    run_stage(node(work, "eagle-t0.8"))
    run_stage(node(work, "eagle-t0.9", temperature=0.9, seed=1))
    assert {path.name for path in work.glob("*.ckpt")} == {"eagle-t0.8.ckpt", "eagle-t0.9.ckpt"}
    one, two = weights(work, "eagle-t0.8"), weights(work, "eagle-t0.9")
    assert not torch.equal(one["fc.weight"], two["fc.weight"])


def test_what_nobody_noted_the_settings_of(work, caplog):
    run_stage(node(work, "head"))
    (work / "head.made.json").unlink()
    run_stage(node(work, "head", steps=3))  # of an earlier version: its checkpoint is gone on with
    assert "made by a version that did not note settings" in caplog.text
    (work / "head.made.json").unlink()
    (work / "head.ckpt").unlink()
    with pytest.raises(ConfigError, match="head holds a model without a note of its settings: choose another folder"):
        run_stage(node(work, "head"))


def test_a_checkpoint_that_was_cut_is_named(work):
    run_stage(node(work, "head"))
    whole = (work / "head.ckpt").read_bytes()
    for size in (0, 100, len(whole) // 2):
        (work / "head.ckpt").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"head\.ckpt is truncated or no checkpoint .*remove it to start again"):
            run_stage(node(work, "head", steps=3))


def test_shards_without_a_sequence_are_named(work):
    empty = pyarrow.table({"ids": pyarrow.array([], pyarrow.list_(pyarrow.int64()))})
    pyarrow.parquet.write_table(empty, work / "tokens" / "train-0000.parquet")
    with pytest.raises(ValueError, match=r"train-0000\.parquet: no rows"):
        run_stage(node(work, "head"))


def test_no_held_out_speech_is_needed_for_no_reports(work):
    (work / "tokens" / "heldout-0000.parquet").unlink()
    run_stage(node(work, "head", report_every=1))
    with pytest.raises(FileNotFoundError, match=r"no heldout-\*\.parquet .*trainer\.heldout=0 trains without"):
        run_stage(node(work, "head", heldout=1, steps=3))


@pytest.mark.slow
@pytest.mark.timeout(900)  # three processes, each with all imports
@pytest.mark.parametrize("trainer", ["target", "eagle"])
def test_two_processes_with_half_of_each_batch_take_the_steps_of_one(work, trainer):
    """By the command: the weights after three steps are those of one process with the whole batch."""
    length = 1 + 3 + 2 + 20 + 1  # text_start, phonemes, text_end and speech_start, audio, speech_end
    told = {
        "target": ["trainer.single=1.0", "trainer.levels=[4,4]", "trainer.guide.guide_layer=0",
                   "trainer.llama.num_hidden_layers=1", "trainer.llama.hidden_size=64",
                   "trainer.llama.intermediate_size=96", "trainer.llama.num_attention_heads=2",
                   "trainer.llama.num_key_value_heads=1"],
        "eagle": ["trainer.labels=self", "trainer.share=1.0", f"trainer.target={work}/target",
                  "trainer.student.reads=[1,2]"],
    }  # fmt: skip
    common = [f"trainer={trainer}", *told[trainer], "accelerator=cpu", "precision=32-true", "threads=1",
              "wandb=disabled", "trainer.steps=3", f"paths.work={work}"]  # fmt: skip

    def overrides(devices: int) -> list[str]:
        size = 8 // devices * length
        return [*common, f"devices={devices}", f"trainer.out={work}/of_{devices}", f"trainer.batch_tokens={size}"]

    with initialize_config_dir(cli.CONF, version_base="1.3"):
        alone = build(cli.plain(compose("train", overrides(1)))["trainer"])
    alone.run()
    (work / "pcg").write_text("from pcg.command.main import main\nmain()\n")
    found = start(work / "pcg", ["train", *overrides(2)], work)
    assert found.returncode == 0, found.stderr
    one, two = (torch.load(work / f"of_{n}.ckpt", weights_only=True)["state_dict"] for n in (1, 2))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)
