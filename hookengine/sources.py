"""Where settings come from: a TOML file, the environment and flags, laid over each other, and the place of every value."""

from __future__ import annotations

import re
import tomllib
from difflib import get_close_matches
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from msgspec import Struct

from hookengine.errors import ConfigInvalid, Mistake

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

_PREFIX = "HOOKENGINE_"
_ENCRYPTION_KEY = f"{_PREFIX}ENCRYPTION_KEY"  # no option; where it is misspelled a start would make a key of its own
_SURE = 0.8  # the likeness from which a variable is taken for a misspelled option
_LONGEST_VARIABLE = 100  # characters; no option is near it


class Option(Struct, frozen=True, kw_only=True):
    """One option, as its field declares it."""

    section: str
    key: str
    type: Any
    default: Any
    help: str
    allowed: str
    example: str | None = None

    @property
    def name(self) -> str:
        """What flags and messages call it."""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"{_PREFIX}{self.section}_{self.key}".upper()


class Sources:
    """The tables of file, environment and flags laid over each other, and where each value is from."""

    def __init__(self, options: Sequence[Option]) -> None:
        self.tables: dict[str, Any] = {}
        self.places: dict[tuple[str, ...], str] = {}
        self.mistakes: list[tuple[str, Mistake]] = []
        self._options = {option.variable: option for option in options}
        self._file = ""

    @classmethod
    def read(
        cls, path: Path | None, *, environ: Mapping[str, str], flags: Mapping[str, Any], options: Sequence[Option]
    ) -> Sources:
        """
        All three, the later one winning; no file where *path* is None.

        Raises ConfigInvalid for a file that cannot be read or is not TOML.
        """
        sources = cls(options)
        if path is not None:
            sources._read_file(path)
        sources._read_environment(environ)
        sources._read_flags(flags)
        return sources

    def place_of(self, mistake: Mistake) -> str:
        """Where the value that *mistake* points to was set: `config.toml:4`, a variable's name, or `flag`."""
        keys = _keys(mistake)
        return next((self.places[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in self.places), self._file)

    def _read_file(self, path: Path) -> None:
        self._file = str(path)
        try:
            text = path.read_bytes().decode().replace("\r\n", "\n")
            self.tables = tomllib.loads(text)
        except OSError as error:
            raise ConfigInvalid(f"{path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigInvalid(f"{path} is not UTF-8") from None
        except (ValueError, RecursionError) as error:
            raise _unreadable(path, str(error)) from None
        self.places = {keys: f"{path}:{line}" for keys, line in _lines(text).items()}

    def _read_environment(self, environ: Mapping[str, str]) -> None:
        for variable, text in environ.items():
            if option := self._options.get(variable):
                self._lay(option.section, option.key, _from_text(option.type, text), variable)
            # What is not close to an option may be somebody else's: for a service named `hookengine-server`, Kubernetes sets
            # HOOKENGINE_SERVER_PORT in every pod.
            elif variable != _ENCRYPTION_KEY and (meant := _meant(variable, [*self._options, _ENCRYPTION_KEY])):
                detail = f"unknown variable - did you mean {meant}?"
                self.mistakes.append((variable, Mistake(code="unknown_variable", detail=detail)))

    def _read_flags(self, flags: Mapping[str, Any]) -> None:
        types = {option.name: option.type for option in self._options.values()}
        for name, value in flags.items():
            if value is not None:
                section, _, key = name.partition(".")
                self._lay(section, key, _from_text(types.get(name), value) if isinstance(value, str) else value, "flag")

    def _lay(self, section: str, key: str, value: Any, place: str) -> None:
        table = self.tables.setdefault(section, {})
        if isinstance(table, dict):  # else it is a mistake that is found later
            table[key] = value
            self.places[section, key] = place


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """The line of each key in a valid TOML text: every statement is read by itself."""
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    elements: dict[tuple[str, ...], int] = {}
    statement: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        statement.append(line)
        try:
            read = tomllib.loads("\n".join(statement))
        except ValueError:  # it goes on in the next line
            continue
        head = statement[0].lstrip(" \t")
        is_header = head.startswith("[")
        keys = [path if is_header else table + path for path in _paths(read)]
        if head.startswith("[["):  # the next element of an array
            array = keys[-1]
            elements[array] = elements.get(array, -1) + 1
            keys.append((*array, str(elements[array])))
        for each in keys:
            found.setdefault(each, number - len(statement) + 1)
        table = keys[-1] if is_header else table
        statement = []
    return found


def _paths(table: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, value in table.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *path) for path in _paths(value))


def _meant(variable: str, known: Iterable[str]) -> str | None:
    names = [name.removeprefix(_PREFIX) for name in known]
    if not variable.startswith(_PREFIX) or len(variable) > _LONGEST_VARIABLE:
        return None
    close = get_close_matches(variable.removeprefix(_PREFIX), names, 1, cutoff=_SURE)
    return _PREFIX + close[0] if close else None


def _from_text(hint: Any, text: str) -> Any:
    """The TOML value that the text of a variable or flag stands for; what cannot be read stays a text, to be refused later."""
    bare = hint.__origin__ if get_origin(hint) is Annotated else hint
    if bare is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if bare is int:
        return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text
    if get_origin(bare) in (tuple, frozenset):
        return [_from_text(get_args(bare)[0], item.strip()) for item in text.split(",") if item.strip()]
    if not text and NoneType in get_args(bare):
        return None
    return text


def _unreadable(path: Path, message: str) -> ConfigInvalid:
    at = re.search(r" \(at line ([0-9]+), column [0-9]+\)$", message)
    place = f"{path}:{at[1]}" if at else str(path)
    detail = message[: at.start()] if at else message
    return invalid([(place, Mistake(code="invalid_toml", detail=detail))])


def invalid(mistakes: list[tuple[str, Mistake]]) -> ConfigInvalid:
    """The error for mistakes, each with its place."""
    rows = [(place, _name(mistake), _sentence(place, mistake)) for place, mistake in mistakes]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{place:{widths[0]}}  {name:{widths[1]}}  {sentence}" for place, name, sentence in rows]
    return ConfigInvalid(
        "\n".join(lines),
        mistakes=tuple(
            Mistake(code=mistake.code, detail=sentence, parameter=f"{place}  {name}".strip())
            for (place, name, sentence), (_, mistake) in zip(rows, mistakes, strict=True)
        ),
    )


def _keys(mistake: Mistake) -> tuple[str, ...]:
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in (mistake.pointer or "").split("/")[1:])


def _name(mistake: Mistake) -> str:
    return "".join(f"[{key}]" if key.isdigit() else f".{key}" for key in _keys(mistake)).removeprefix(".")


def _sentence(place: str, mistake: Mistake) -> str:
    sentence = re.sub(r"^unknown member '.*?'(?= - |$)", "unknown key", mistake.detail)
    if place.startswith(_PREFIX):  # where every value is one
        sentence = sentence.removesuffix(", got a string")
    return re.sub(r"\ban object\b", "a table", re.sub(r"\ba boolean\b", "true or false", sentence))
