"""A group of commands that are imported when they are called, so that help and typing errors are answered at once."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import ClassVar

import click

from codetr.errors import suggestion

USER_ERROR = 2


class Failure(click.ClickException):
    """An error of the user: the message alone, exit code 2."""

    exit_code = USER_ERROR


class LazyGroup(click.Group):
    """A group that knows its commands by module.

    modules: of each command, the module, which calls it `command`, and its line in the help.
    """

    modules: ClassVar[Mapping[str, tuple[str, str]]]

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.modules)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.modules:
            return None
        command: click.Command = importlib.import_module(self.modules[name][0]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.modules and not args[0].startswith("-"):
            raise Failure(f"no command is called {args[0]!r}; {suggestion(args[0], self.modules, kind='commands')}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.modules.items()])
