"""Runs the script of docs/start.md and writes what it prints and draws into the page: a minute.

python scripts/make_start.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "start.md"
FILE = re.compile(r"<!-- file: train\.py -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(r"(<!-- output: train\.py -->\n```text\n).*?(^```$)", re.MULTILINE | re.DOTALL)

if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    (script,) = FILE.findall(page)
    with TemporaryDirectory() as folder:
        Path(folder, "train.py").write_text(script, encoding="utf-8")
        run = [sys.executable, "train.py"]
        printed = subprocess.run(run, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout
        for name in ("loss", "accuracy"):
            shutil.copy(Path(folder, "runs", "digits", f"{name}.png"), DOCS / "assets" / f"start-{name}.png")
    lines = "".join(f"{line.rstrip()}\n" for line in printed.splitlines())
    PAGE.write_text(OUTPUT.sub(lambda found: found[1] + lines + found[2], page), encoding="utf-8")
