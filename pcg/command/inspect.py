"""``pcg inspect TARGET [DRAFT ...]``: what a model folder is and lacks, which groups its table makes at which theta,
and the line that runs it.

No weights are loaded but the rows of the input table, a block at a time, and none are fetched. Which choice reads a
folder is found out by the choices themselves: each text side of conf/text is tried on it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from jaxtyping import Int
from omegaconf import OmegaConf
from torch import Tensor

from pcg.command import theta
from pcg.command.folders import CONF
from pcg.command.overrides import quoted
from pcg.config.build import build, constructor
from pcg.decoding.pair import check_tokens
from pcg.models.look import Look, Numbered, at_hand, look, numbered

_TEXT = "/text@text"  # how the choice of a model names its text side in its defaults
# Codes of each choice of codec, and what models call them; None where they do not name them.
CODECS = {"bundled": (4096, None), "xcodec2": (65_536, "<|s_{}|>"), "neucodec": (65_536, "<|speech_{}|>"),
          "snac": (28_672, "<custom_token_{}>")}  # fmt: skip


@dataclass(frozen=True)
class Voice:
    """A text side that reads the folder; see ``pcg.decoding.pair.Speaks``.

    Attributes:
        name: of the choice of conf/text.
        speech: what speech tokens are called, where the choice has to be told (``text.speech``).
    """

    text: Any
    name: str
    speech: str | None = None

    @property
    def codes(self) -> int:
        return len(self.text.speech_ids) - 1

    @property
    def vocab_size(self) -> int:
        return self.codes + 1

    @property
    def end(self) -> int:
        return self.codes


def main(arguments: Sequence[str]) -> int:
    """Print the report; the exit status: 0 if a run could begin with the folder, 1 if not, 2 if none was named."""
    if not arguments or any("=" in each or each.startswith("-") for each in arguments):
        print("pcg inspect TARGET [DRAFT ...]: model folders, or ids of the hub, the target's first", file=sys.stderr)
        return 2
    path, *drafts = arguments
    try:
        found = look(path)
        names = numbered(found.folder)
        _refuse_other_models(found)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(found.folder)
    voice, refused = _voice(found.folder, names)
    _section("what it is", [*_facts(found), *_tokens(voice, names)])
    missing = [*found.problems, *_missing(voice, refused, names)]
    _section("missing", missing)
    chosen = dict(_drafts(found, voice, drafts)) if voice else {}
    _section("drafts", [f"{name:<22} {told}" for name, told in chosen.items()])
    ids = _first_slot(voice) if voice else names.ids if names else None
    chosen_theta = _groups(found, ids, _slots(voice)) if ids is not None else None
    if voice and not missing:
        _section("to run it", [_line(path, found, voice, names, drafts, chosen, chosen_theta)])
    return 0 if voice and not missing else 1


def _slots(voice: Voice | None) -> int:
    """Tokens of a frame; 1 where each is heard by itself."""
    return getattr(voice.text, "slots", 1) if voice else 1


def _first_slot(voice: Voice) -> Int[Tensor, "tokens"]:
    return voice.text.speech_ids[: voice.codes // _slots(voice)]


def _groups(found: Look, ids: Int[Tensor, "tokens"], slots: int) -> tuple[float, bool] | None:
    """Show the sizes of groups over the input table; the theta of a middling one, and whether to centre.

    Args:
        slots: of a frame, of whose first ``ids`` are the tokens: groups never mix them.
    """
    of_slot = f", tokens of the first of {slots} slots (each has groups of its own)" if slots > 1 else ""
    checkpoint, table = found.checkpoint, found.table
    if checkpoint is None or table is None:
        return None
    if int(ids.max()) >= (rows := checkpoint.shape(table)[0]):
        _section("groups", [f"none: speech token id {int(ids.max())} is beyond the {rows} rows of {table}"])
        return None
    print(f"\ngroups by cosine of {table}{of_slot}")
    return theta.show(lambda start, stop: checkpoint.rows(table, ids[start:stop]), len(ids))


def _refuse_other_models(found: Look) -> None:
    """Raises ValueError for a folder of something else than a model that speaks by itself."""
    if "target_fingerprint" in found.config:
        raise ValueError(f"{found.folder} is a draft that reads its target: inspect the target; draft=eagle names it")
    if "vocab_size" not in found.config:
        raise ValueError(f"{found.folder} is no language model: its config.json has no vocab_size")


def _section(title: str, lines: Sequence[str]) -> None:
    if lines:
        print("\n".join([f"\n{title}", *(f"  {line}" for line in lines)]))


def _fact(name: str, told: str) -> str:
    return f"{name:<16} {told}"


def _facts(found: Look) -> Iterator[str]:
    config = found.config
    architecture = (config.get("architectures") or [config.get("model_type", "unknown")])[0]
    depth = config.get("num_hidden_layers") or config.get("n_layer")
    width = config.get("hidden_size") or config.get("n_embd")
    told = "our decoder reads it" if found.not_llama is None else f"through transformers ({found.not_llama})"
    yield _fact("architecture", f"{architecture}, {depth} layers of width {width}: {told}")
    if found.checkpoint is not None:
        tied = ", input and output tables tied" if config.get("tie_word_embeddings") else ""
        yield _fact("parameters", f"{found.parameters:,} in {found.dtypes}{tied}")
    positions = config.get("max_position_embeddings") or config.get("n_positions") or 0
    yield _fact("vocabulary", f"{config['vocab_size']:,} rows, context {positions:,} tokens")


def _tokens(voice: Voice | None, names: Numbered | None) -> Iterator[str]:
    if names is not None:
        yield _fact("numbered tokens", f"{names.count:,} of {names.pattern} {_span(names.ids)}")
    if voice is None:
        return
    yield _fact(
        "speech tokens", f"{voice.codes:,}, {_span(voice.text.speech_ids[:-1])}; end {voice.text.speech_ids[-1]}"
    )
    told = f" with text.speech={voice.speech!r}" if voice.speech else ""
    yield _fact("text side", f"{voice.name}: target={', '.join(_with_text('target', voice.name))}{told}")
    for choice, advised in _sampling(voice):
        yield _fact("sampling", f"{advised}: as its authors do, and as target={choice} does unasked")
    fits = _codecs(voice, names)
    told = f"codec={', '.join(fits)}" if fits else f"none of {', '.join(CODECS)} has {voice.codes:,} codes"
    yield _fact("codec", told)


def _sampling(voice: Voice) -> Iterator[tuple[str, str]]:
    """The first choice of a target with this text side whose authors recommend how to sample, and how."""
    for choice in _with_text("target", voice.name):
        advised = _choice("target", choice).get("sampling")
        if advised:
            yield choice, ", ".join(f"{key} {value}" for key, value in advised.items())
            return


def _span(ids: Int[Tensor, "tokens"]) -> str:
    first, last = int(ids[0]), int(ids[-1])
    return f"ids {first:,} to {last:,}{'' if last - first == len(ids) - 1 else ', not in one piece'}"


def _codecs(voice: Voice, names: Numbered | None) -> list[str]:
    """Choices with as many codes, called as theirs are; where there is none, a run without a codec if conf/ has one."""
    pattern, choices = names.pattern if names else None, _choices("codec")
    fits = [name for name, (codes, called) in CODECS.items() if codes == voice.codes and called in (None, pattern)]
    return [name for name in fits if name in choices] or [name for name in choices if name == "none"]


def _missing(voice: Voice | None, refused: Mapping[str, str], names: Numbered | None) -> Iterator[str]:
    if names is not None and names.gap is not None and (voice is None or voice.codes > len(names.ids)):
        yield f"{names.gap}, though later ones are there"
    if voice is None:
        yield from (f"text side {name}: {reason}" for name, reason in refused.items())
    elif not _codecs(voice, names):
        yield f"a codec of {voice.codes:,} codes"


def _choice(group: str, name: str, path: str | None = None) -> dict[str, Any]:
    """A choice of conf/, with what it takes over from others of its group and its text side, at another path."""
    node: Any = OmegaConf.load(CONF / group / f"{name}.yaml")
    defaults = node.pop("defaults", [])
    inherited = [_choice(group, each) for each in defaults if isinstance(each, str) and each != "_self_"]
    inherited += [{"text": _choice("text", each[_TEXT])} for each in defaults if _TEXT in each]
    merged = OmegaConf.merge(*map(OmegaConf.create, inherited), node)
    if path is not None:
        merged.path = path
    return dict(OmegaConf.to_container(merged, resolve=path is not None))  # type: ignore[arg-type]


def _with_text(role: str, name: str) -> list[str]:
    """The choices of a role that have this text side."""
    side = _choice("text", name)
    return [choice for choice in _choices(role) if _choice(role, choice).get("text") == side]


def _choices(group: str) -> list[str]:
    return [path.stem for path in sorted((CONF / group).glob("*.yaml"))]


def _voice(folder: Path, names: Numbered | None) -> tuple[Voice | None, dict[str, str]]:
    """The text side that reads a folder, as it is or told what speech tokens are called there; else, by the name of
    each, why it does not."""
    refused: dict[str, str] = {}
    for speech in (None, *([names.pattern] if names else [])):
        for name in _choices("text"):
            node = _choice("text", name, str(folder))
            if speech is not None and "speech" not in node:
                continue
            try:
                return Voice(build(node | ({"speech": speech} if speech else {})), name, speech), {}
            except (OSError, ImportError, ValueError) as error:
                refused.setdefault(name, str(error))
    return None, refused


def _drafts(found: Look, voice: Voice, paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """By choice or path, whether it drafts for the target."""
    yield from ((path, _shares(voice, path)) for path in paths)
    for name in _choices("draft"):
        node = _choice("draft", name)
        path = node.get("path")
        if "_target_" not in node or path == "???":
            continue
        if path is None or "${" in path:
            yield name, "needs no folder"
        elif at_hand(path) == found.folder:
            yield name, "is the target itself"
        elif "text" not in node and "target" not in signature(constructor(node["_target_"])).parameters:
            yield name, f"no: reads and speaks otherwise ({node['_target_'].rpartition('.')[2]})"
        elif "text" in node and name not in _with_text("draft", voice.name):
            yield name, "no: has another text side"
        elif at_hand(path) is None:
            yield name, f"of the same text side; {path} is not at hand: inspect it as a second folder"
        elif "text" in node:
            yield name, _shares(voice, path)
        else:
            yield name, _trained_on(found, path)


def _shares(voice: Voice, path: str) -> str:
    try:
        other, refused = _draft_voice(path)
    except (FileNotFoundError, ValueError) as error:
        return f"no: {error}"
    if other is None:
        return f"no: {next(iter(refused.values()))}"
    try:
        check_tokens(other, voice)
    except ValueError as error:
        return f"no: {error}"
    return "shares its tokens"


def _trained_on(found: Look, path: str) -> str:
    wanted = look(path).config.get("target_fingerprint")
    if found.checkpoint is None or wanted is None:
        return "does not tell which target it was trained on"
    return "trained on it" if wanted == found.checkpoint.fingerprint else "no: trained on another target"


def _line(
    path: str,
    found: Look,
    voice: Voice,
    names: Numbered | None,
    drafts: Sequence[str],
    told: Mapping[str, str],
    groups: tuple[float, bool] | None,
) -> str:
    """The run that this folder is ready for."""
    words = ["pcg run", *_model("target", path, found, voice)]
    good = [name for name, what in told.items() if what in ("shares its tokens", "trained on it") and name != path]
    if good and good[0] in drafts:
        drafting, _ = _draft_voice(good[0])
        assert drafting is not None  # else it could share nothing
        words += _model("draft", good[0], look(good[0]), drafting)
    else:
        words.append(f"draft={good[-1] if good else 'ngram'}")
    words += [f"codec={_codecs(voice, names)[0]}", "grouping=pcg"]
    if groups is not None:
        words += [f"grouping.theta={groups[0]:g}", *(["grouping.groups.center=true"] if groups[1] else [])]
    return " ".join(words)


def _draft_voice(path: str) -> tuple[Voice | None, dict[str, str]]:
    folder = look(path).folder
    return _voice(folder, numbered(folder))


def _model(role: str, path: str, found: Look, voice: Voice) -> list[str]:
    """The choice of a model and, where the choice does not know it, its path and text side."""
    by_name = {name: _choice(role, name).get("path") for name in _with_text(role, voice.name)}
    own = [name for name, known in by_name.items() if known == path]
    if own:
        return [f"{role}={own[0]}"]
    of_any_path = [name for name, known in by_name.items() if known == "???"]
    wanted = "transformers" if found.not_llama is not None else (of_any_path or [*by_name, "hf"])[0]
    text = [] if wanted in by_name else [f"text@{role}.text={voice.name}"]
    plain = all(sign.isalnum() or sign in "/._-" for sign in path)
    where = f"{role}.path={path}" if plain else quoted(f"{role}.path", path)
    speech = [quoted(f"{role}.text.speech", voice.speech)] if voice.speech else []
    return [f"{role}={wanted}", *text, where, *speech]
