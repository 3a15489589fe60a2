"""Writes the code of the gallery, and with --run what it gives, into docs/recipes.md.

    python scripts/make_recipes.py          # the code, from examples/; at once
    python scripts/make_recipes.py --run    # what the scripts print too; some minutes

The words of the page are its own. A fence below a mark is replaced:

    <!-- code: examples/gan.py steepness main -->     by these functions of that file
    <!-- output: python examples/gan.py -->           by what that command prints, but for the lines of the epochs
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes.md"

FENCE = re.compile(
    r"^<!-- (?P<kind>code|output): (?P<what>[^\n]*) -->\n```(?P<language>\w+)\n(?P<text>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)


def functions(path: Path, names: list[str]) -> str:
    """The source of top-level functions of a file, in the order of `names`."""
    text = path.read_text(encoding="utf-8")
    found = {node.name: node for node in ast.parse(text).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    parts = []
    for name in names:
        node = found[name]
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        parts.append("\n".join(text.splitlines()[first - 1 : node.end_lineno]))
    return "\n\n\n".join(parts) + "\n"


def with_code(page: str) -> str:
    """The page with the code as it is in the files now."""

    def renew(found: re.Match[str]) -> str:
        if found["kind"] != "code":
            return found[0]
        file, *names = found["what"].split()
        return f"<!-- code: {found['what']} -->\n```{found['language']}\n{functions(ROOT / file, names)}```"

    return FENCE.sub(renew, page)


def with_outputs(page: str) -> str:
    """The page with what its commands print now."""

    def renew(found: re.Match[str]) -> str:
        if found["kind"] != "output":
            return found[0]
        print(found["what"], flush=True)
        command = [sys.executable, *found["what"].split()[1:]]
        printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        lines = [line.rstrip() for line in printed.splitlines() if not line.startswith("epoch ")]
        return "\n".join([f"<!-- output: {found['what']} -->", f"```{found['language']}", *lines, "```"])

    return FENCE.sub(renew, page)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Writes the code of the gallery into docs/recipes.md.")
    parser.add_argument("--run", action="store_true", help="run the scripts too, and write what they print")
    page = with_code(PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(with_outputs(page) if parser.parse_args().run else page, encoding="utf-8")
