"""Completion of commands and options in a shell, made from what the parser knows."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

SHELLS = ("bash", "zsh", "fish")


class Word(NamedTuple):
    """An option of a command."""

    names: list[str]
    """As it is written, the short form first."""
    text: str
    """What it is for."""
    takes: str | None
    """What is completed after it: ``files``, ``folders``, a list of words, nothing; None if it
    takes no value."""


class Command(NamedTuple):
    """A command and what may follow it."""

    text: str
    """What it is for."""
    options: list[Word]
    """Its options."""
    places: str
    """What is completed where no option is begun: ``files``, or a list of words."""


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return a script for a shell that completes the words of a program.

    Parameters
    ----------
    shell
        One of :data:`SHELLS`.
    parser
        Of the program; with commands.
    """
    commands, program = _commands(parser), parser.prog
    make = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]
    return "\n".join(make(program, re.sub(r"\W", "_", program), commands))


def _commands(parser: argparse.ArgumentParser) -> dict[str, Command]:
    (group,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    texts = {action.dest: action.help or "" for action in group._choices_actions}
    found = {}
    for name, command in group.choices.items():
        given = [action for action in command._actions if not action.option_strings]
        choices = [word for action in given for word in action.choices or ()]
        options = [_option(action) for action in command._actions if action.option_strings]
        places = " ".join(map(str, choices)) if choices else "files"
        found[name] = Command(texts.get(name, ""), options, places)
    return found


def _option(action: argparse.Action) -> Word:
    takes: str | None = None
    if action.nargs != 0:
        if action.choices:
            takes = " ".join(map(str, action.choices))
        elif action.type is Path:
            takes = "folders" if action.metavar == "DIR" else "files"
        else:
            takes = "auto" if action.dest == "n_clusters" else ""
    # The formatter of argparse does the same to `%`.
    text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
    return Word(sorted(action.option_strings, key=len), text, takes)


def _bash(program: str, name: str, commands: Mapping[str, Command]) -> Iterator[str]:
    yield f"# Completion of {program} in bash."
    yield f"_{name}() {{"
    yield "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words= places="
    yield "  COMPREPLY=()"
    yield "  if (( COMP_CWORD == 1 )); then"
    every = " ".join([*commands, "--help", "--version"])
    yield f'    COMPREPLY=($(compgen -W {_quoted(every)} -- "$cur")); return'
    yield "  fi"
    yield "  case ${COMP_WORDS[1]} in"
    for key, command in commands.items():
        words = " ".join(word for option in command.options for word in option.names)
        yield f"    {key}) words={_quoted(words)} places={_quoted(command.places)} ;;"
    yield "    *) return ;;"
    yield "  esac"
    yield "  case ${COMP_WORDS[1]}:$prev in"
    for key, command in commands.items():
        for option in command.options:
            if option.takes is not None:
                cases = "|".join(f"{key}:{word}" for word in option.names)
                yield f"    {cases}) words= places={_quoted(option.takes or 'nothing')} ;;"
    yield "  esac"
    yield "  if [[ $cur == -* && -n $words ]]; then"
    yield '    COMPREPLY=($(compgen -W "$words" -- "$cur")); return'
    yield "  fi"
    yield "  local IFS=$'\\n'"
    yield "  case $places in"
    yield "    nothing) return ;;"
    yield '    files) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")) ;;'
    yield '    folders) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$cur")) ;;'
    yield '    *) IFS=$\' \\n\'; COMPREPLY=($(compgen -W "$places" -- "$cur")) ;;'
    yield "  esac"
    yield "}"
    yield f"complete -F _{name} {program}"


def _zsh(program: str, name: str, commands: Mapping[str, Command]) -> Iterator[str]:
    yield f"#compdef {program}"
    yield f"_{name}() {{"
    yield "  local -a commands"
    yield "  commands=("
    for key, command in commands.items():
        yield f"    {_quoted(f'{key}:{command.text}')}"
    yield "  )"
    yield "  if (( CURRENT == 2 )); then _describe command commands; return; fi"
    yield "  local command=$words[2]"
    yield "  shift words; (( CURRENT-- ))"
    yield "  case $command in"
    complete = {"files": "_files", "folders": "_files -/", "": " "}
    for key, command in commands.items():
        specs = []
        for option in command.options:
            text = re.sub(r"([\[\]:\\])", r"\\\1", option.text)
            takes = option.takes
            value = "" if takes is None else f":value:{complete.get(takes, f'({takes})')}"
            specs += [f"*{word}[{text}]{value}" for word in option.names]
        places = complete.get(command.places, f"({command.places})")
        specs.append(f"*:value:{places}")
        yield f"    {key}) _arguments {' '.join(map(_quoted, specs))} ;;"
    yield "  esac"
    yield "}"
    # Whether it is read by the shell, or lies in a folder of functions.
    yield f'if [ "$funcstack[1]" = "_{name}" ]; then _{name} "$@"'
    yield f"else compdef _{name} {program}; fi"


def _fish(program: str, name: str, commands: Mapping[str, Command]) -> Iterator[str]:
    yield f"# Completion of {program} in fish."
    yield f"complete -c {program} -f -n __fish_use_subcommand -l help -l version"
    for key, command in commands.items():
        about = f"-a {key} -d {_fish_quoted(command.text)}"
        yield f"complete -c {program} -f -n __fish_use_subcommand {about}"
        begun = f"complete -c {program} -n '__fish_seen_subcommand_from {key}'"
        if command.places != "files":
            yield f"{begun} -f -a {_fish_quoted(command.places)}"
        for option in command.options:
            words = [f"-l {w[2:]}" if w.startswith("--") else f"-s {w[1:]}" for w in option.names]
            kinds = {"files": "-r -F", "folders": "-x -a '(__fish_complete_directories)'", "": "-x"}
            takes = option.takes
            kind = "" if takes is None else kinds.get(takes, f"-x -a {_fish_quoted(takes)}")
            yield f"{begun} {' '.join(words)} {kind} -d {_fish_quoted(option.text)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
