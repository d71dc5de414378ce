"""Parses command lines of the documentation with the flags of the launchers, one launcher after the other.

Reads a JSON list of argument lists, `["train", "--config", ...]`, from stdin and prints one line per command that the
launcher would refuse. A process of its own: launchers define flags of the same names.
"""

import importlib
import json
import sys

from absl import flags

import launch
from launch import app


def refusals(commands: list[list[str]]) -> list[str]:
    """The messages for commands that a launcher does not accept; configurations are loaded with their keys."""
    found = []
    for job in sorted({command[0] for command in commands}):
        before = set(flags.FLAGS)
        for name in [name for name in sys.modules if name.startswith("launch.") and name != "launch.app"]:
            del sys.modules[name]
            vars(launch).pop(name.split(".")[1], None)  # `from launch import x` would find the old module there
        try:
            importlib.import_module(f"launch.{job}")
        except ModuleNotFoundError as error:
            found.append(f"{job}: {error}")
            continue
        for command in commands:
            if command[0] == job:
                found += refusal(command)
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
    return found


def refusal(command: list[str]) -> list[str]:
    """[message] if the imported launcher does not accept the command."""
    before = set(flags.FLAGS)
    try:
        sys.argv = ["launcher", *app.resolve_config_paths(command[1:])]  # ml_collections reads overrides of keys here
        rest = flags.FLAGS(sys.argv)
        if "config" in flags.FLAGS and flags.FLAGS.config is not None:
            flags.FLAGS.config.system  # noqa: B018 - a file that could not be read fails at the first use
        return [f"{' '.join(command)}: not flags: {rest[1:]}"] if rest[1:] else []
    except Exception as error:  # absl and ml_collections raise many types
        return [f"{' '.join(command)}: {error}"]
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()


if __name__ == "__main__":
    print("\n".join(refusals(json.load(sys.stdin))))
