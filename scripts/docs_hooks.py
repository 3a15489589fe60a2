"""What the site has besides docs/: the files of the project that its pages link to, each as a page of its own.

The pages are written to be read in the repository as well, where a link such as ``../examples/gan.py`` leads to the
file. mkdocs knows docs/ alone, so these hooks add a page for each file or folder linked to, and turn the links to it.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")
ADDED = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
PAGES = {"README.md": "index.md", **ADDED}
LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml", ".yaml": "yaml", ".ipynb": "json"}
WIDE = {"benchmarks.md", "reliability.md", "scale.md"}
HIDDEN = "---\nsearch:\n  exclude: true\n---\n"


def on_files(files: Files, config: Any) -> Files:
    """Adds the changelog, the page for contributors, and all that the pages link to outside docs/."""
    sources = [Path("docs", file.src_uri) for file in files.documentation_pages()]
    for name, uri in ADDED.items():
        files.append(File.generated(config, uri, content=(ROOT / name).read_text(encoding="utf-8")))
        sources.append(Path(name))
    shown_too = {path for source in sources for path in linked(source) if page_of(path).startswith("files/")}
    for path in sorted(shown_too | {inside for folder in shown_too for inside in files_in(folder)}):
        files.append(File.generated(config, page_of(path), content=HIDDEN + shown(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """The page with its links to the project's other files turned to their pages."""
    uri = page.file.src_uri
    if uri.startswith("moving/") or uri in WIDE:
        page.meta["hide"] = ["navigation", "toc"]  # two programs or a large table need the whole width
    elif "/" not in uri and page.parent is None:
        page.meta["hide"] = ["navigation"]  # a page by itself has no neighbours to show
    source = next((name for name, added in ADDED.items() if added == uri), f"docs/{uri}")

    def turned(found: re.Match[str]) -> str:
        path = inside_project(source, found["target"])
        if path is None or uri.startswith("files/"):
            return found[0]
        return f"]({posixpath.relpath(page_of(path), posixpath.dirname(uri) or '.')}{found['anchor'] or ''})"

    return LINK.sub(turned, markdown)


def inside_project(source: str | os.PathLike[str], target: str) -> str | None:
    """The path in the project of what a link in a file leads to, or None if there is no such file."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(os.fspath(source)), target))
    return path if not path.startswith("..") and (ROOT / path).exists() else None


def linked(source: Path) -> list[str]:
    """What a file of the project links to in the project."""
    text = (ROOT / source).read_text(encoding="utf-8")
    found = (inside_project(source, match["target"]) for match in LINK.finditer(text))
    return [path for path in found if path is not None]


def files_in(path: str) -> list[str]:
    """The files in a folder of the project that can be shown; none in what is no folder."""
    if not (ROOT / path).is_dir():
        return []
    return sorted(f"{path.rstrip('/')}/{entry.name}" for entry in (ROOT / path).iterdir() if entry.suffix in LANGUAGES)


def page_of(path: str) -> str:
    """The file that mkdocs knows a path in the project by."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return PAGES.get(path, f"files/{path}.md")


def shown(path: str) -> str:
    """A page that shows a file, or lists a folder."""
    if (ROOT / path).is_dir():
        folder = posixpath.dirname(page_of(path))
        lines = [
            f"- [`{posixpath.basename(one)}`]({posixpath.relpath(page_of(one), folder)})" for one in files_in(path)
        ]
        return f"# {path}\n\n" + "\n".join(lines) + "\n"
    text = (ROOT / path).read_text(encoding="utf-8")
    return f"# {path}\n\n````{LANGUAGES.get(Path(path).suffix, 'text')}\n{text}````\n"
