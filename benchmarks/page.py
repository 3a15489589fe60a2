"""docs/benchmarks.md and its chart, from what was measured."""

import ast
import math
import os
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from benchmarks.report import LIBRARIES, Figures, tables

HERE = Path(__file__).parent
OWN_COLOR, OTHER_COLOR, TEXT_COLOR = "#e8590c", "#7d8fa3", "#7a7f87"  # seen on white and on black alike


def write(figures: Figures, folder: Path) -> None:
    """Writes benchmarks.md and benchmarks.svg into a folder."""
    text = (HERE / "page.md").read_text().format(
        date=f"{date.today():%d %B %Y}",
        machine=machine(),
        versions=", ".join([f"Python {platform.python_version()}", *versions(figures)]),
        rounds=len(figures.rounds),
        features=features(figures),
        **tables(figures),
    )  # fmt: skip
    (folder / "benchmarks.md").write_text(text)
    draw(figures, folder / "benchmarks.svg")


def machine() -> str:
    names = [platform.processor() or platform.machine()]
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")] or names
    return f"{names[0]}, {os.cpu_count()} cores, {platform.system()}"


def versions(figures: Figures) -> list[str]:
    """The version of each package that was measured."""
    found = []
    for package in dict.fromkeys(LIBRARIES[module][1] for module in figures.modules):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} (not installed)")
    return found


def features(figures: Figures) -> str:
    """What each file says about itself in its docstring."""
    rows = []
    for module in figures.modules:
        path = HERE / "peers" / f"{module}.py"
        said = ast.get_docstring(ast.parse(path.read_text()))
        rows.append(f"- [{module}.py](../benchmarks/peers/{module}.py): {' '.join(said.split())}")
    return "\n".join(rows)


def draw(figures: Figures, path: Path) -> None:
    """Bars of the median ratios to the hand-written loop, with a line from the minimum to the maximum."""
    from matplotlib import pyplot

    modules = [module for module in figures.modules if not module.endswith(("_in_memory", "_own_step"))]
    modules.sort(key=lambda module: median(figures.ratios(module, "tiny", "by_hand") or [math.inf]), reverse=True)
    pyplot.rcParams.update({"text.color": TEXT_COLOR, "svg.hashsalt": "benchmarks"})
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 0.8 + 0.3 * len(modules)), sharey=True, layout="constrained")
    panels[0].set_title("A step of a tiny classifier", fontsize=11)
    panels[1].set_title("Five epochs of digits", fontsize=11)
    for axes, key in zip(panels, ("tiny", "digits"), strict=True):
        draw_bars(axes, [figures.ratios(module, key, "by_hand") for module in modules], modules)
    panels[0].set_yticks(range(len(modules)), [LIBRARIES[module][0] for module in modules])
    figure.supxlabel("time, as a multiple of the hand-written loop (less is better)", fontsize=9)
    figure.savefig(path, transparent=True)
    pyplot.close(figure)


def draw_bars(axes, ratios: list[list[float]], modules: list[str]) -> None:
    for place, (values, module) in enumerate(zip(ratios, modules, strict=True)):
        if not values:
            axes.text(0.05, place, "failed", va="center", fontsize=9)
            continue
        axes.barh(place, median(values), height=0.7, color=OWN_COLOR if module == "ignition_" else OTHER_COLOR)
        axes.plot([min(values), max(values)], [place, place], color=TEXT_COLOR, linewidth=1)
        axes.text(max(values), place, f"  {median(values):.2f}", va="center", fontsize=9)
    axes.margins(x=0.15)
    axes.set_xlim(left=0)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0, labelcolor=TEXT_COLOR)
    axes.spines[:].set_visible(False)
