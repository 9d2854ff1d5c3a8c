"""``pcg inspect TARGET [DRAFT ...]``: what a model folder holds and lacks, how large its groups are at which theta, and
the line that runs it.

No weights are fetched, and none are loaded but rows of the input table, a block at a time. To find the choice that
reads a folder, each text side of conf/text is tried on it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from jaxtyping import Int
from omegaconf import OmegaConf
from torch import Tensor

from pcg.command import theta
from pcg.command.folders import choice, choices
from pcg.command.overrides import quoted
from pcg.config.build import build, constructor
from pcg.decoding.pair import check_tokens
from pcg.models.contents import Contents, NumberedTokens, local_folder, numbered_tokens, read_contents

# By choice of codec, how many codes it has and what models call them; None where they do not name them.
CODECS = {"bundled": (4096, None), "xcodec2": (65_536, "<|s_{}|>"), "neucodec": (65_536, "<|speech_{}|>"),
          "snac": (28_672, "<custom_token_{}>")}  # fmt: skip
_GOOD = ("shares its tokens", "trained on it")  # drafts


@dataclass(frozen=True)
class TextSide:
    """A text side that reads the folder; see ``pcg.decoding.pair.HasTokens``.

    Attributes:
        name: of the choice of conf/text.
        speech: the pattern of the speech tokens' names, where the choice must be given it (``text.speech``).
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

    @property
    def slots(self) -> int:
        """Tokens of a frame."""
        return getattr(self.text, "slots", 1)


@dataclass(frozen=True)
class Model:
    """A model folder.

    Attributes:
        path: as it was typed.
        refused: by text side, why it does not read the folder; empty where one does.
    """

    path: str
    contents: Contents
    numbered: NumberedTokens | None
    side: TextSide | None
    refused: Mapping[str, str]

    @property
    def codecs(self) -> list[str]:
        """Codecs with as many codes of the same names; where there is none, ``none`` if that is a choice."""
        assert self.side is not None
        pattern, known = self.numbered.pattern if self.numbered else None, choices("codec")
        fits = [
            name for name, (codes, names) in CODECS.items() if codes == self.side.codes and names in (None, pattern)
        ]
        return [name for name in fits if name in known] or [name for name in known if name == "none"]


def main(arguments: Sequence[str]) -> int:
    """Print the report; returns the exit status: 0 if the folder could be run, 1 if not, 2 if none was named."""
    if not arguments or any("=" in word or word.startswith("-") for word in arguments):
        print("pcg inspect TARGET [DRAFT ...]: model folders, or ids of the hub, the target's first", file=sys.stderr)
        return 2
    path, *draft_paths = arguments
    try:
        model = _model(path)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(model.contents.folder)
    side = model.side
    _section("what it is", [*_facts(model.contents), *_token_facts(model)])
    missing = [*model.contents.problems, *_missing(model)]
    _section("missing", missing)
    drafts = dict(_drafts(model, side, draft_paths)) if side else {}
    _section("drafts", [f"{name:<22} {verdict}" for name, verdict in drafts.items()])
    groups = _groups(model)
    if side and not missing:
        _section("to run it", [_line(model, side, draft_paths, drafts, groups)])
    return 0 if side and not missing else 1


def _section(title: str, lines: Sequence[str]) -> None:
    if lines:
        print("\n".join([f"\n{title}", *(f"  {line}" for line in lines)]))


def _model(path: str) -> Model:
    """
    Raises:
        FileNotFoundError, ValueError: there is no folder, or it is not that of a language model.
    """
    seen = read_contents(path)
    if "target_fingerprint" in seen.config:
        raise ValueError(f"{seen.folder} is a draft that reads its target: inspect the target; draft=eagle names it")
    if "vocab_size" not in seen.config:
        raise ValueError(f"{seen.folder} is no language model: its config.json has no vocab_size")
    tokens = numbered_tokens(seen.folder)
    refused: dict[str, str] = {}
    for speech in (None, *([tokens.pattern] if tokens else [])):  # as the choice has it, or by the names found here
        for name in choices("text"):
            node = _choice("text", name, str(seen.folder))
            if speech is not None and "speech" not in node:
                continue
            try:
                text = build(node | ({"speech": speech} if speech else {}))
            except (OSError, ImportError, ValueError) as error:
                refused.setdefault(name, str(error))
            else:
                return Model(path, seen, tokens, TextSide(text, name, speech), {})
    return Model(path, seen, tokens, None, refused)


def _choice(group: str, name: str, path: str) -> dict[str, Any]:
    """A choice at another path, its interpolations resolved."""
    node = OmegaConf.create(choice(group, name) | {"path": path})
    return dict(OmegaConf.to_container(node, resolve=True))  # type: ignore[arg-type]


def _with_side(role: str, name: str) -> dict[str, dict[str, Any]]:
    """The choices of a role that have this text side, by name."""
    side, nodes = choice("text", name), {name: choice(role, name) for name in choices(role)}
    return {name: node for name, node in nodes.items() if node.get("text") == side}


def _fact(name: str, value: str) -> str:
    return f"{name:<16} {value}"


def _facts(seen: Contents) -> Iterator[str]:
    config = seen.config
    architecture = (config.get("architectures") or [config.get("model_type", "unknown")])[0]
    depth = config.get("num_hidden_layers") or config.get("n_layer")
    width = config.get("hidden_size") or config.get("n_embd")
    reader = "our decoder reads it" if seen.not_llama is None else f"through transformers ({seen.not_llama})"
    yield _fact("architecture", f"{architecture}, {depth} layers of width {width}: {reader}")
    if seen.checkpoint is not None:
        tied = ", input and output tables tied" if config.get("tie_word_embeddings") else ""
        yield _fact("parameters", f"{seen.parameters:,} in {seen.dtypes}{tied}")
    positions = config.get("max_position_embeddings") or config.get("n_positions") or 0
    yield _fact("vocabulary", f"{config['vocab_size']:,} rows, context {positions:,} tokens")


def _token_facts(model: Model) -> Iterator[str]:
    side, tokens = model.side, model.numbered
    if tokens is not None:
        yield _fact("numbered tokens", f"{tokens.count:,} of {tokens.pattern} {_span(tokens.ids)}")
    if side is None:
        return
    ids = side.text.speech_ids
    yield _fact("speech tokens", f"{side.codes:,}, {_span(ids[:-1])}; end {ids[-1]}")
    speech = f" with text.speech={side.speech!r}" if side.speech else ""
    targets = _with_side("target", side.name)
    yield _fact("text side", f"{side.name}: target={', '.join(targets)}{speech}")
    for name, node in targets.items():
        if sampling := node.get("sampling"):
            settings = ", ".join(f"{key} {value}" for key, value in sampling.items())
            yield _fact("sampling", f"{settings}: as its authors do, and as target={name} does by default")
            break
    none = f"none of {', '.join(CODECS)} has {side.codes:,} codes"
    yield _fact("codec", f"codec={', '.join(model.codecs)}" if model.codecs else none)


def _span(ids: Int[Tensor, "tokens"]) -> str:
    first, last = int(ids[0]), int(ids[-1])
    return f"ids {first:,} to {last:,}{'' if last - first == len(ids) - 1 else ', not in one piece'}"


def _missing(model: Model) -> Iterator[str]:
    side, tokens = model.side, model.numbered
    if tokens is not None and tokens.gap is not None and (side is None or side.codes > len(tokens.ids)):
        yield f"{tokens.gap}, though later ones are there"
    if side is None:
        yield from (f"text side {name}: {reason}" for name, reason in model.refused.items())
    elif not model.codecs:
        yield f"a codec of {side.codes:,} codes"


def _drafts(model: Model, side: TextSide, paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """By path or choice, whether it drafts for the target."""
    yield from ((path, _shares_tokens(side, path)) for path in paths)
    text = choice("text", side.name)
    for name in choices("draft"):
        node = choice("draft", name)
        path = node.get("path")
        if "_target_" not in node or path == "???":
            continue
        if path is None or "${" in path:
            yield name, "needs no folder"
        elif local_folder(path) == model.contents.folder:
            yield name, "is the target itself"
        elif "text" not in node and "target" not in signature(constructor(node["_target_"])).parameters:
            yield name, f"no: reads and speaks otherwise ({node['_target_'].rpartition('.')[2]})"
        elif node.get("text", text) != text:
            yield name, "no: has another text side"
        elif local_folder(path) is None:
            yield name, f"has the same text side; {path} is not on this machine: name it as a second folder"
        elif "text" in node:
            yield name, _shares_tokens(side, path)
        else:
            yield name, _trained_on(model.contents, path)


def _shares_tokens(side: TextSide, path: str) -> str:
    try:
        draft = _model(path)
        if draft.side is None:
            return f"no: {next(iter(draft.refused.values()))}"
        check_tokens(draft.side, side)
    except (FileNotFoundError, ValueError) as error:
        return f"no: {error}"
    return _GOOD[0]


def _trained_on(target: Contents, path: str) -> str:
    wanted = read_contents(path).config.get("target_fingerprint")
    if target.checkpoint is None or wanted is None:
        return "does not record which target it was trained on"
    return _GOOD[1] if wanted == target.checkpoint.fingerprint else "no: trained on another target"


def _groups(model: Model) -> tuple[float, bool] | None:
    """Print the sizes of groups over the input table; returns the theta of middling ones, and whether to centre."""
    side, checkpoint, table = model.side, model.contents.checkpoint, model.contents.table
    ids = side.text.speech_ids[: side.codes // side.slots] if side else model.numbered.ids if model.numbered else None
    if ids is None or checkpoint is None or table is None:
        return None
    if int(ids.max()) >= (rows := checkpoint.shape(table)[0]):
        _section("groups", [f"none: speech token id {int(ids.max())} is beyond the {rows} rows of {table}"])
        return None
    slots = side.slots if side else 1
    first = f", tokens of the first of {slots} slots (each has groups of its own)" if slots > 1 else ""
    print(f"\ngroups by cosine of {table}{first}")
    return theta.show(lambda start, stop: checkpoint.rows(table, ids[start:stop]), len(ids))


def _line(
    model: Model,
    side: TextSide,
    draft_paths: Sequence[str],
    drafts: Mapping[str, str],
    groups: tuple[float, bool] | None,
) -> str:
    """The run that this folder is ready for."""
    words = ["pcg run", *_overrides("target", model, side)]
    good = [name for name, verdict in drafts.items() if verdict in _GOOD and name != model.path]
    if good and good[0] in draft_paths:
        draft = _model(good[0])
        assert draft.side is not None  # it shares its tokens
        words += _overrides("draft", draft, draft.side)
    else:
        words.append(f"draft={good[-1] if good else 'ngram'}")
    words += [f"codec={model.codecs[0]}", "grouping=pcg"]
    if groups is not None:
        words += [f"grouping.theta={groups[0]:g}", *(["grouping.groups.center=true"] if groups[1] else [])]
    return " ".join(words)


def _overrides(role: str, model: Model, side: TextSide) -> list[str]:
    """The choice of a model and, where the choice does not have them, its path and text side."""
    paths = {name: node.get("path") for name, node in _with_side(role, side.name).items()}
    own = [name for name, path in paths.items() if path == model.path]
    if own:
        return [f"{role}={own[0]}"]
    of_any_path = [name for name, path in paths.items() if path == "???"]
    chosen = "transformers" if model.contents.not_llama is not None else (of_any_path or [*paths, "hf"])[0]
    text = [] if chosen in paths else [f"text@{role}.text={side.name}"]
    is_plain = all(sign.isalnum() or sign in "/._-" for sign in model.path)
    path = f"{role}.path={model.path}" if is_plain else quoted(f"{role}.path", model.path)
    speech = [quoted(f"{role}.text.speech", side.speech)] if side.speech else []
    return [f"{role}={chosen}", *text, path, *speech]
