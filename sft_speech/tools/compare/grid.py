"""The grid of a comparison: which settings its candidates have, from YAML and the command line."""

from __future__ import annotations

import dataclasses
import itertools
import json
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sft_speech.errors import UserError
from sft_speech.options.names import advice
from sft_speech.options.settings import from_command_line, parse_yaml, read_yaml, shown, yaml_scalar
from sft_speech.options.spec import TaskSpec

STRATEGIES = "strategies"
STRATEGY = "strategy"  # the setting of a candidate that names its strategy
KEYS = ("base", "vary", STRATEGIES)  # of a YAML that describes a comparison
LONGEST_NAME = 120


@dataclass(frozen=True)
class Choice:
    """One of the alternatives of a factor.

    Args:
        label: as in the names of candidates.
        shown: as in tables: the varied key, or "strategy", with its value.
        options: what it sets.
        strategies: by name of a strategy, what that strategy sets for this alternative beside or in place of its own.
    """

    label: str
    shown: dict[str, Any]
    options: dict[str, Any]
    strategies: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A comparison as it was asked for.

    Args:
        file: YAML of the options that all candidates share; None if all are in ``base``.
        base: options that all candidates share and that override the file.
        factors: the alternatives of each varied key, then the strategies.
    """

    file: str | None = None
    base: dict[str, Any] = field(default_factory=dict)
    factors: dict[str, list[Choice]] = field(default_factory=dict)

    def cells(self) -> list[Choice]:
        """Return the cartesian product without duplicates: the names, shown settings and options of candidates.

        Raises:
            UserError: two factors set the same key.
        """
        factors = [_named(key, choices) for key, choices in self.factors.items()]
        cells: dict[str, Choice] = {}
        for combination in itertools.product(*factors):
            settings = {key: value for choice in combination for key, value in choice.shown.items()}
            options = _joined(combination, settings.get(STRATEGY, ""))
            name = " ".join(choice.label for choice in combination)
            cells.setdefault(json.dumps(options, sort_keys=True, default=str), Choice(name, settings, options))
        return list(cells.values())


def _joined(combination: Sequence[Choice], strategy: str) -> dict[str, Any]:
    """Return the options of a combination of alternatives, of which one may be a strategy.

    Raises:
        UserError: two of them set the same key.
    """
    options: dict[str, Any] = {}
    for choice in combination:
        own = dict(choice.options)
        if STRATEGY in choice.shown:
            for other in combination:
                own |= other.strategies.get(strategy, {})
        for key, value in own.items():
            if key in options:
                why = f"{key} is set by two of them"
                raise UserError(" ".join(one.label for one in combination), why, "set it in one place")
            options[key] = value
    return options


def plan_of(spec: TaskSpec, file: str | None, base: dict[str, Any], vary: Sequence[str], named: Sequence[str]) -> Plan:
    """Return the plan in a YAML file and on the command line.

    Args:
        file: YAML of a run's options, or of a comparison, with the keys ``base`` (a file or a table of options),
            ``vary`` (a table of lists) and ``strategies`` (a table of tables of options).
        base: options from the command line.
        vary: "KEY=VALUE,VALUE,..."; those of a repeated key are joined.
        named: "NAME={key: value, ...}": strategies.

    Raises:
        UserError: nothing varies, or it is not written like this.
    """
    varied: dict[str, list[Any]] = {}
    strategies: dict[str, dict[str, Any]] = {}
    content = read_yaml(file) if file else {}
    if any(key in content for key in KEYS):
        for key in content:
            if key not in KEYS:
                do = "options of the runs belong below `base:`"
                raise UserError(f"--config {file}: {shown(key)}", "it isn't a part of a comparison", do)
        varied = _table(content.get("vary") or {}, "vary", list, "a list of values")
        strategies = _table(content.get(STRATEGIES) or {}, STRATEGIES, dict, "a table of options")
        shared, here = content.get("base"), Path(str(file)).parent
        file = str(here / shared) if isinstance(shared, str) else None
        base = (shared if isinstance(shared, dict) else {}) | base
    for text in vary:
        key, values = _split(text, "--vary", "KEY=VALUE,VALUE")
        varied.setdefault(key, []).extend(_values(text, key, values, spec))
    for text in named:
        name, written = _split(text, "--strategy", "'NAME={key: value}'")
        strategies[name] = _options(text, written)
    if not varied and not strategies:
        do = "add --vary KEY=VALUE,VALUE or --strategy 'NAME={key: value}'"
        raise UserError("nothing to compare", "no option varies", do)
    known = [one.name for one in dataclasses.fields(spec.config)]
    for key in varied:
        if key not in known:
            raise UserError(f"--vary {shown(key)}", "there is no such option", advice(shown(key), known))
    factors = {key: [_choice(key, value, strategies) for value in values] for key, values in varied.items()}
    if strategies:
        factors[STRATEGY] = [Choice(name, {STRATEGY: name}, own) for name, own in strategies.items()]
    return Plan(file, base, factors)


def _table(value: Any, name: str, kind: type, wanted: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{name}: {shown(value)}", "it must be a table", f"write `key:` and {wanted} on lines below it")
    for key, item in value.items():
        if not isinstance(item, kind) or not isinstance(key, str):
            raise UserError(f"{name}: {shown(key)}", f"it must have {wanted}", "correct it in the YAML")
    return {key: kind(item) for key, item in value.items()}


def _split(text: str, flag: str, form: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"{flag} {text}", "it has no `=`", f"write {flag} {form}")
    return key.strip(), value


def _values(text: str, key: str, written: str, spec: TaskSpec) -> list[Any]:
    """Return the values of ``--vary``, each written as after ``--KEY``, or quoted, or a table in YAML.

    Raises:
        UserError: it is not YAML, or there is no value.
    """
    hint, values = typing.get_type_hints(spec.config).get(key), []
    for item in _at_commas(written):
        if not item:
            raise UserError(f"--vary {text}", "it has no values", "write --vary KEY=VALUE,VALUE")
        if item[0] not in "{'\"":
            values.append(from_command_line(key, item, hint))
            continue
        try:
            values.append(parse_yaml(item)[0])
        except (yaml.YAMLError, ValueError, RecursionError):
            why = f"{shown(item)} is not valid YAML"
            raise UserError(f"--vary {text}", why, "write a table as {key: value, key: value}") from None
    return values


def _at_commas(text: str) -> list[str]:
    """Return the parts of a text between commas outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"" and not parts[-1].strip():
            quote = sign
        depth += 0 if quote else (sign in "[{") - (sign in "]}")
        if sign == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts]


def _options(text: str, written: str) -> dict[str, Any]:
    try:
        options = parse_yaml(written)[0] if written.strip() else {}
    except (yaml.YAMLError, ValueError, RecursionError):
        options = None
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        why = "its options are not a table in YAML"
        raise UserError(f"--strategy {text}", why, "write --strategy 'NAME={key: value, key: value}'")
    return options


def _choice(key: str, value: Any, strategies: Collection[str]) -> Choice:
    """Return an alternative of a varied key.

    A table with this key sets further options of the candidate, and below ``strategies``, by their names, options that
    strategies set too: models differ in the learning rates that suit them.

    Raises:
        UserError: there is no such strategy, or it has no table of options.
    """
    if not isinstance(value, Mapping) or key not in value:
        return Choice(_label(key, value), {key: value}, {key: value})
    others = {name: one for name, one in value.items() if name not in (key, STRATEGIES)}
    label = " ".join(_label(name, one) for name, one in {key: value[key], **others}.items())
    changes = _table(value.get(STRATEGIES) or {}, f"{label}: {STRATEGIES}", dict, "a table of options")
    for name in changes:
        if name not in strategies:
            do = f"the strategies are {', '.join(strategies)}" if strategies else "define it with --strategy"
            raise UserError(f"{label}: {STRATEGIES}: {shown(name)}", "there is no such strategy", do)
    return Choice(label, {key: value[key]}, {key: value[key], **others}, changes)


def _label(key: str, value: Any) -> str:
    """Return a setting as in names; a model needs no key to be known as one."""
    return _short(value) if key == "model" else f"{key}={_short(value)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else yaml_scalar(value)
    return text.removesuffix("...").strip()


def _named(key: str, choices: Sequence[Choice]) -> list[Choice]:
    """Return different alternatives with paths as short as they can be told apart."""
    different = {json.dumps([one.options, one.strategies], sort_keys=True, default=str): one for one in choices}
    choices = list(different.values())
    paths = {one.shown[key] for one in choices if isinstance(one.shown[key], str) and "/" in one.shown[key]}
    for length in range(1, LONGEST_NAME):
        ends = {path: "/".join(Path(path).parts[-length:]) for path in paths}
        if len(set(ends.values())) == len(paths):
            break
    short = []
    for one in choices:
        value = one.shown[key]
        end = ends.get(value) if isinstance(value, str) else None
        label = one.label.replace(value, end, 1) if end else one.label
        short.append(dataclasses.replace(one, label=label[:LONGEST_NAME]))
    return short
