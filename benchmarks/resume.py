"""How far a resumed training ends from one that was never stopped, by library: ``make bench-resume``.

The table stands in docs/reliability.md, between two markers; what is written by hand around it stays.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.page import machine  # noqa: E402 (found from the line above)
from benchmarks.report import table  # noqa: E402
from benchmarks.resuming.work import CASES  # noqa: E402

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- peers -->", "<!-- end of peers -->"
LIBRARIES = {  # the modules of benchmarks/resuming/: what each is called, and the package it measures
    "ignition_": ("Ignition", "torch-ignition"),
    "ignition_stateful": ("Ignition, stateful", "torchdata"),
    "ignite_": ("Ignite", "pytorch-ignite"),
    "lightning_": ("Lightning", "lightning"),
    "lightning_stateful": ("Lightning, stateful", "lightning"),
    "accelerate_": ("Accelerate", "accelerate"),
    "accelerate_stateful": ("Accelerate, stateful", "accelerate"),
    "transformers_": ("Hugging Face", "transformers"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="MODULE", help="some modules of benchmarks/resuming/ alone")
    parser.add_argument("--write", action="store_true", help="write the table into docs/reliability.md")
    arguments = parser.parse_args()
    found = {}
    for module in arguments.only or LIBRARIES:
        found[module] = measured(module)
        print(f"{LIBRARIES[module][0]}: {'; '.join(found[module]['errors']) or 'done'}"[:300], flush=True)
    written = comparison(found)
    print(f"\n{written}")
    if arguments.write:
        PAGE.write_text(between_markers(PAGE.read_text(), written))


def measured(module: str, limit: float = 1200) -> dict[str, list]:
    """What `resume_one.py` found out about a module."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [sys.executable, "-m", "benchmarks.resume_one", f"benchmarks.resuming.{module}", str(result)]
        try:
            subprocess.run(command, cwd=folder, env=environment | {"PYTHONPATH": str(ROOT)}, timeout=limit, check=True)
            return json.loads(result.read_text())
        except (subprocess.SubprocessError, OSError) as error:
            return {"differences": [], "errors": [str(error)]}


def comparison(found: dict[str, dict[str, list]]) -> str:
    """A row for each case, a column for each library, and what failed."""
    head = ["dropout", "shuffle", "augmentation", "workers", *(LIBRARIES[module][0] for module in found)]
    rows = []
    for place, case in enumerate(CASES):
        cells = [shown(found[module]["differences"], place) for module in found]
        rows.append([*("yes" if setting else "" for setting in case[:3]), str(case.workers), *cells])
    names = dict.fromkeys(LIBRARIES[module][1] for module in found)
    lines = [f"Measured on {machine()}, with {', '.join(named(package) for package in names)}.", table(head, rows)]
    failed = [f"- {LIBRARIES[module][0]}: {error}" for module in found for error in found[module]["errors"]]
    return "\n\n".join([*lines, *(["What failed:\n\n" + "\n".join(failed)] if failed else [])])


def shown(differences: list[float | None], place: int) -> str:
    difference = differences[place] if place < len(differences) else None
    return "failed" if difference is None else "0" if difference == 0 else f"{difference:.0e}"


def named(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} (not installed)"


def between_markers(text: str, content: str) -> str:
    """The page with what stands between the two markers exchanged."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


if __name__ == "__main__":
    main()
