"""What a run is told to do: a recipe, and on the command line the options in which this run differs from it."""

import contextlib
import copy
import dataclasses
import inspect
import io
import os
import sys
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Generic, NoReturn, TypeVar

from launch.strict_json import closest

Config = TypeVar("Config")


class _Required(str):
    """A string that differs from every other and from itself: a `__post_init__` may handle it like the path to come."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True


REQUIRED: Any = _Required("(required on the command line)")
"""For the fields of a recipe's config that no recipe can know, such as where the data lie: `data=REQUIRED`."""


@dataclasses.dataclass(frozen=True)
class Recipe(Generic[Config]):
    """A config under a name. `outcome` is one line: "measured: ..." or "published: ...", as `--help` shows it."""

    config: Config
    outcome: str


def parse(
    program_doc: str, recipes: Mapping[str, Recipe[Config]], arguments: Sequence[str] | None = None
) -> tuple[str, Config]:
    """The recipe's name and its config with the overrides applied: `vit-b16-in1k --data D --optimizer.lr 3e-4`.

    `arguments` are those of the command line without the program's name; by default `sys.argv[1:]`. Options are the
    fields of the config, a frozen dataclass; those of nested dataclasses are dotted, and a boolean is `--flag` or
    `--no-flag`. Fields that are REQUIRED in the recipe must be given.

    Exits with 0 after `--help`, and with 2 after a message on stderr for an unknown recipe or option, a bad value, or
    a ValueError from a `__post_init__`. Only rank 0 (environment variable RANK, 0 if absent) prints.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    program = sys.argv[0]
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        if _prints():
            print(f"usage: {program} RECIPE [--option value ...]\n\n{_describe(program_doc, recipes)}\n")
            print(f"The options of a recipe and their values: {program} RECIPE --help")
        raise SystemExit(0)
    if first not in recipes:
        _refuse(f"{program}: {_unknown_word(first, recipes, 'recipe')}")
    recipe = recipes[first]
    description = f"{_describe(program_doc, recipes)}\n\nOptions and values below are those of {first}."
    return first, _override(description, f"{program} {first}", type(recipe.config), recipe.config, arguments[1:])


def parse_options(program_doc: str, config_type: type[Config], arguments: Sequence[str] | None = None) -> Config:
    """A config from options alone, for programs without recipes; fields without a default must be given.

    Exits as `parse` does.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return _override(inspect.cleandoc(program_doc), sys.argv[0], config_type, None, arguments)


def parse_command(
    program_doc: str, commands: Mapping[str, type[Any]], arguments: Sequence[str] | None = None
) -> tuple[str, Any]:
    """The command's name and its config from the options after it: `verify --data D`.

    Each config is a frozen dataclass; the first line of its docstring is what `--help` says of the command. Fields
    without a default must be given.

    Exits as `parse` does.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    program = sys.argv[0]
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        if _prints():
            lines = {
                name: inspect.cleandoc(config.__doc__ or "").partition("\n")[0] for name, config in commands.items()
            }
            print(f"usage: {program} COMMAND [--option value ...]\n\n{_listed(program_doc, 'commands', lines)}\n")
            print(f"The options of a command and their values: {program} COMMAND --help")
        raise SystemExit(0)
    if first not in commands:
        _refuse(f"{program}: {_unknown_word(first, commands, 'command')}")
    config_type = commands[first]
    description = inspect.cleandoc(config_type.__doc__ or "")
    return first, _override(description, f"{program} {first}", config_type, None, arguments[1:])


def _override(
    description: str, program: str, config_type: type[Config], default: Config | None, arguments: list[str]
) -> Config:
    import tyro

    if not {"-h", "--help"} & set(arguments):
        _refuse_unknown_options(program, config_type, default, arguments)
    given = {} if default is None else {"default": _ask_for_required(default, tyro.MISSING)}
    errors = io.StringIO()
    try:
        # tyro draws boxes on stderr, some of them on every rank: held back, so that rank 0 alone prints.
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                config_type,
                prog=program,
                description=description,
                args=arguments,
                console_outputs=_prints(),
                **given,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        refusal = _refusal_of_config(stop)
        _refuse(errors.getvalue().rstrip() if refusal is None else f"{program}: {refusal}")
    except ValueError as error:
        # Versions of tyro before 1.0 let those of the outermost config through.
        _refuse(f"{program}: {error}")


def _ask_for_required(config: Any, missing: Any) -> Any:
    # Not dataclasses.replace: it would run the cross-field checks on a config that is not complete yet.
    asking = copy.copy(config)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, _Required):
            object.__setattr__(asking, field.name, missing)
        elif dataclasses.is_dataclass(value):
            object.__setattr__(asking, field.name, _ask_for_required(value, missing))
    return asking


def _refusal_of_config(stop: SystemExit) -> ValueError | None:
    """The ValueError of a `__post_init__` that made tyro exit; None if tyro itself refused the command line."""
    error: BaseException | None = stop
    while error is not None:
        if isinstance(error, ValueError):
            trace = error.__traceback__
            while trace is not None:
                if trace.tb_frame.f_code.co_name == "__post_init__":
                    return error
                trace = trace.tb_next
        error = error.__cause__ or error.__context__
    return None


def _refuse_unknown_options(program: str, config_type: Any, default: Any, arguments: list[str]) -> None:
    # Before tyro sees them: where a required option is missing too, it lists the unknown ones without a suggestion.
    known = _option_names(config_type, default)
    for argument in arguments:
        name = argument.removeprefix("--").partition("=")[0].replace("_", "-")
        if not argument.startswith("--") or not name or name in known or name.startswith("tyro-"):
            continue
        near = closest(name, known)
        advice = f"did you mean --{near}? " if near else ""
        _refuse(f"{program}: unknown option --{name}; {advice}All options: {program} --help")


def _option_names(config_type: Any, default: Any, prefix: str = "") -> list[str]:
    """Every option of a config as tyro spells it, without the leading dashes."""
    names: list[str] = []
    hints = typing.get_type_hints(config_type)
    for field in dataclasses.fields(config_type):
        hint, name = hints[field.name], field.name.replace("_", "-")
        value = getattr(default, field.name, None)
        assert not any(dataclasses.is_dataclass(part) for part in typing.get_args(hint)), (
            f"{config_type.__name__}.{field.name}: tyro turns a union of dataclasses into subcommands"
        )
        if dataclasses.is_dataclass(hint):
            names += _option_names(hint, value, f"{prefix}{name}.")
        elif isinstance(value, dict) and value:
            names += [f"{prefix}{name}.{key.replace('_', '-')}" for key in value]
        else:
            names.append(f"{prefix}{name}")
        if hint is bool:
            names.append(f"{prefix}no-{name}")
    return names


def _unknown_word(name: str, known: Mapping[str, Any], kind: str) -> str:
    names = f"{kind.capitalize()}s: {', '.join(known)}"
    if not name or name.startswith("-"):
        got = f", got {name}" if name else ""
        return f"expected a {kind} as the first argument{got}. {names}"
    near = closest(name, known)
    return f"unknown {kind} '{name}'; did you mean {near}? {names}" if near else f"unknown {kind} '{name}'. {names}"


def _describe(program_doc: str, recipes: Mapping[str, Recipe[Any]]) -> str:
    return _listed(program_doc, "recipes", {name: recipe.outcome for name, recipe in recipes.items()})


def _listed(program_doc: str, heading: str, what: Mapping[str, str]) -> str:
    width = max((len(name) for name in what), default=0)
    lines = [f"  {name:{width}}  {text}" for name, text in what.items()]
    return "\n".join([inspect.cleandoc(program_doc), "", f"{heading}:", *lines])


def _prints() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _refuse(message: str) -> NoReturn:
    if _prints():
        print(message, file=sys.stderr, flush=True)
    raise SystemExit(2)
