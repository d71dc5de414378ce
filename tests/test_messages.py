"""Every message for users says what to do: `<file or flag>: <what is wrong>; <what to do>`."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(path for folder in ("jaxface", "launch") for path in (ROOT / folder).rglob("*.py"))
# Files with incomplete messages: `data.prepare` lists the error of one face with its name, and adds the expected files
# to the error of a whole data set.
COMPLETED = ("builders/", "data/faces.py", "data/points3d.py", "data/image_index.py")


def literal(message: ast.expr) -> str | None:
    """The text of a message, with {} for its values; None if it is not written out, or ends with another message."""
    if isinstance(message, ast.Constant):
        return str(message.value)
    if not isinstance(message, ast.JoinedStr):
        return None
    last = message.values[-1]
    if isinstance(last, ast.FormattedValue) and ast.unparse(last.value) in ("error", "reason"):
        return None
    return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in message.values)


@pytest.mark.parametrize("folder", ["jaxface", "launch"])
def test_messages_say_what_to_do(folder):
    found, silent = 0, []
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(folder) or any(part in name for part in COMPLETED):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("UserError") and node.args:
                text = literal(node.args[0])
                found += text is not None
                if text is not None and ";" not in text:
                    silent.append(f"{name}:{node.lineno}: {text}")
    assert found > 20 and not silent, "\n".join(silent)
