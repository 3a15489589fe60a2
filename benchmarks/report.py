"""What was measured, as tables in Markdown."""

from statistics import median

# The modules of benchmarks/peers/ in the order of the tables: what each is called, and the package it measures.
LIBRARIES = {
    "by_hand": ("hand-written loop", "torch"),
    "ignition_": ("Ignition", "torch-ignition"),
    "ignition_own_step": ("Ignition, own train function", "torch-ignition"),
    "ignite_": ("Ignite", "pytorch-ignite"),
    "poutyne_": ("Poutyne", "poutyne"),
    "skorch_": ("skorch", "skorch"),
    "accelerate_": ("Accelerate", "accelerate"),
    "transformers_": ("Hugging Face Trainer", "transformers"),
    "fastai_": ("fastai", "fastai"),
    "keras_": ("Keras on torch", "keras"),
    "lightning_": ("Lightning", "lightning"),
    "by_hand_in_memory": ("hand-written loop, direct index", "torch"),
    "ignition_in_memory": ("Ignition, TensorLoader", "torch-ignition"),
}
NOOPS = {
    "noop_minimal_reference": "minimal reference loop",
    "noop": "a run",
    "noop_five_callbacks": "a run, five callbacks without batch hooks",
    "noop_evaluate": "evaluation",
}
READS = {
    "read_direct_index": "direct index `x[indices], y[indices]`",
    "read_tensor_loader": "TensorLoader",
    "read_data_loader": "DataLoader over a TensorDataset",
    "read_fit_tensor_loader": "Trainer over the TensorLoader",
    "read_fit_tensor_loader_seed": "the same with `seed=0`",
    "read_fit_data_loader": "Trainer over the DataLoader",
    "read_fit_data_loader_seed": "the same with `seed=0`",
}
ALONE = {"loading": "reading data", "predicting": "prediction", "saving": "saving", "compiling": "compile=True"}
PREDICTIONS = {
    "": "the tiny classifier",
    "nothing_": "a function that does nothing",
    "same_": "one that returns the same tensor each time",
}
SAVES = {
    "stall": "the loop stops for",
    "first stall": "at the first save, which takes the memory",
    "copy": "the copy to memory alone",
    "pause": "the longest that Python waits while the thread writes",
    "torch.save": "`torch.save`, not flushed",
    "flushed torch.save": "`torch.save`, flushed",
    "trainer.save": "`trainer.save`: flushed, with checksums",
}
MEASURES = {
    "tiny": "the tiny classifier, µs a step",
    "digits": "digits, seconds",
    "import": "import, ms",
    "memory": "memory, MiB",
}


class Figures:
    """What all rounds found, by module and key; what failed is missing."""

    def __init__(self, rounds: list[dict[str, dict]]) -> None:
        self.rounds = rounds
        self.modules = [module for module in LIBRARIES if module in rounds[0]]

    def values(self, module: str, key: str) -> list[float]:
        return [found[module][key] for found in self.rounds if key in found.get(module, ())]

    def ratios(self, module: str, key: str, base: str, base_key: str | None = None) -> list[float]:
        """A module's figure by that of another, round by round."""
        return [figure / other for figure, other in self._pairs(module, key, base, base_key or key)]

    def above(self, module: str, key: str, base: str, base_key: str | None = None) -> list[float]:
        """A module's figure less that of another, round by round."""
        return [figure - other for figure, other in self._pairs(module, key, base, base_key or key)]

    def errors(self, module: str) -> dict[str, str]:
        return {work: error for found in self.rounds for work, error in found[module]["errors"].items()}

    def _pairs(self, module: str, key: str, base: str, base_key: str) -> list[tuple[float, float]]:
        pairs = [(found.get(module, {}).get(key), found.get(base, {}).get(base_key)) for found in self.rounds]
        return [pair for pair in pairs if None not in pair]


def tables(figures: Figures) -> dict[str, str]:
    """All tables by the names that page.md calls them."""
    return {
        "tiny": run_table(figures, "tiny", "µs a step", "above, µs"),
        "digits": run_table(figures, "digits", "seconds", "above, s"),
        "noop": noop_table(figures),
        "imports": import_table(figures),
        "reading": reading_table(figures),
        "predicting": predicting_table(figures),
        "saving": saving_table(figures),
        "compiling": compiling_table(figures),
        "losses": losses(figures),
        "failures": failures(figures),
    }


def run_table(figures: Figures, key: str, unit: str, above: str) -> str:
    head = ["", unit, above, "ratio: median", "min", "max", *(["test accuracy, %"] if key == "digits" else [])]
    rows = []
    for module in figures.modules:
        base = "by_hand_in_memory" if module.endswith("_in_memory") else "by_hand"
        more = figures.above(module, key, base)
        cells = ["failed, see below"] + [""] * (len(head) - 2)
        if more:
            cells = [number(median(figures.values(module, key))), number(median(more))]
            cells += spread(figures.ratios(module, key, base))
            cells += [number(100 * median(figures.values(module, "accuracy")))] if key == "digits" else []
        rows.append([LIBRARIES[module][0], *cells])
    return table(head, rows)


def noop_table(figures: Figures) -> str:
    head = ["above the bare loop, µs a step"]
    rows = {}
    for kind in ("floats", "tensors"):
        head += [f"{kind}: median", "min", "max", "by the reference"]
        bare = ("by_hand", f"noop {kind}")
        reference = figures.above("by_hand", f"noop_minimal_reference {kind}", *bare)
        for module in figures.modules:
            for key, label in NOOPS.items():
                costs = figures.above(module, f"{key} {kind}", *bare)
                if costs and (module, key) != ("by_hand", "noop"):
                    name = label if module == "by_hand" else f"{LIBRARIES[module][0]}: {label}"
                    rows.setdefault(name, [name]).extend([*spread(costs), number(median(costs) / median(reference))])
    return table(head, list(rows.values()))


def import_table(figures: Figures) -> str:
    rows = []
    for module in figures.modules:
        if not module.endswith(("_in_memory", "_own_step")):
            cells = [cell for key in ("import", "memory") for cell in spread(figures.values(module, key))]
            rows.append([LIBRARIES[module][0], *cells])
    return table(["", "import, ms: median", "min", "max", "memory, MiB: median", "min", "max"], rows)


def reading_table(figures: Figures) -> str:
    ratios = {key: figures.ratios("loading", key, "loading", "read_direct_index") for key in READS}
    rows = [
        [label, number(median(figures.values("loading", key))), *spread(ratios[key])]
        for key, label in READS.items()
        if ratios[key]
    ]
    return table(["", "µs a batch of 32", "ratio: median", "min", "max"], rows)


def predicting_table(figures: Figures) -> str:
    rows = []
    for kind, label in PREDICTIONS.items():
        by_hand, copied, own = (f"predict_{kind}{how}" for how in ("by_hand", "copied_by_hand", "ignition"))
        ratios = figures.ratios("predicting", own, "predicting", copied)
        if ratios:
            medians = [number(median(figures.values("predicting", key))) for key in (by_hand, copied, own)]
            rows.append([label, *medians, *spread(ratios)])
    head = ["µs a batch of 32", "by hand: kept, then `torch.cat`", "by hand: copied at once", "`predict`"]
    return table([*head, "ratio to copying: median", "min", "max"], rows)


def saving_table(figures: Figures) -> str:
    sizes = ("10 MB", "500 MB")
    rows = [
        [label, *(cell for size in sizes for cell in spread(figures.values("saving", f"{key} {size}")))]
        for key, label in SAVES.items()
        if figures.values("saving", f"{key} {sizes[0]}")
    ]
    return table(["ms", *(cell for size in sizes for cell in (f"{size}: median", "min", "max"))], rows)


def compiling_table(figures: Figures) -> str:
    rows = []
    for size in ("large", "small"):
        ratios = figures.ratios("compiling", f"compiled {size}", "compiling", f"eager {size}")
        if ratios:
            keys = (f"eager {size}", f"compiled {size}", f"compiling {size}", f"graphs {size}")
            medians = [median(figures.values("compiling", key)) for key in keys]
            rows.append([size, *map(number, medians[:3]), f"{medians[3]:.0f}", *spread(ratios)])
    head = ["ms a step", "eager", "compiled", "compiling, ms", "graphs", "ratio: median", "min", "max"]
    return table(head, rows)


def losses(figures: Figures) -> str:
    """Every library that did better than Ignition at something, by the medians, and what its comforts cost."""
    peers = [module for module in figures.modules if not module.startswith(("by_hand", "ignition_"))]
    lines = []
    for key, label in MEASURES.items():
        own = median(figures.values("ignition_", key) or [0])
        for module in peers:
            theirs = figures.values(module, key)
            if theirs and median(theirs) < own:
                lines.append(f"- {label}: {LIBRARIES[module][0]} {number(median(theirs))}, Ignition {number(own)}")
    lines = lines or ["- To no other library at any of these, in this run."]
    ready_made = figures.above("ignition_", "tiny", "ignition_own_step")
    seeded = figures.above("loading", "read_fit_data_loader_seed", "loading", "read_fit_data_loader")
    if ready_made:
        lines.append(f"- `fit_on_batch` takes {number(median(ready_made))} µs a step more than the step written out.")
    predicting = figures.above("predicting", "predict_ignition", "predicting", "predict_by_hand")
    if predicting:
        more = number(median(predicting))
        lines.append(f"- `predict` takes {more} µs a batch more than a loop that keeps the outputs until its end.")
    slower = median(figures.ratios("compiling", "compiled small", "compiling", "eager small") or [0])
    if slower > 1:
        lines.append(f"- `compile=True` makes a step of the tiny classifier {number(slower)} times as long.")
    if seeded:
        lines.append(f"- `seed=` takes {number(median(seeded))} µs a batch more over a DataLoader.")
    return "\n".join(lines)


def failures(figures: Figures) -> str:
    names = {module: LIBRARIES[module][0] for module in figures.modules} | ALONE
    lines = [
        f"- {name}, {work}: {' '.join(error.split())[:200]}"
        for module, name in names.items()
        if module in figures.rounds[0]
        for work, error in figures.errors(module).items()
    ]
    return "\n".join(lines) or "- Nothing failed."


def spread(values: list[float]) -> list[str]:
    return [number(take(values)) for take in (median, min, max)] if values else ["failed", "", ""]


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, padded so that a terminal shows it well too."""
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    lines = [
        [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
        for cells in [head, rule, *rows]
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
