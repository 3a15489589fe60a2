"""The layers of the package: imports point one way, and importing it loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ignition

ROOT = Path(ignition.__file__).parent

# Each module imports only from those above it. A new one takes its place here.
ORDER = """
    errors types structure lazy_modules position running files distributed parting
    device generators rng shards drawn keyed_order keyed precision dtensors fsdp_plan stale_parameters fsdp
    sharded_weights weighing strategy batch_norm said roll_call gradient_sync gradients window optimize duration
    transfer memory metric_objects means metrics tensor_loader data data_order gathered_metrics in_place
    encoded_values plain_copy codec own_generators shared_iterable reading processes signature modes notes
    optimizers capturable granted side_effects step_graphs predictions
    ranking plots figures records markup history notebook progress buffers weights averages lr_finder
    report arguments goal clock passes loader_place loader_advice
    model_parts sampler_memory epoch_start
    tensor_files checkpoint state_values tensor_parts sharded_checkpoint pretrained checkpoint_folder lock signals
    background callbacks.base matching optimizer_states sharing growth process_state rollback snapshot
    callbacks.lr_schedule callbacks.schedule callbacks.warmup callbacks.schedules callbacks.saving
    callbacks.stopping callbacks.averaging
    callbacks.display callbacks.logging callbacks.profiling callbacks.tracking callbacks.tensorboard_folder
    callbacks.mlflow_run callbacks.wandb_file callbacks.wandb_run callbacks.pruning callbacks.checkpointing callbacks
    events assigned steps first_step unused_gradients training recording captured loop settings differences fitting
    evaluation trial finding
    trainer check_report check_runs data_checks model_checks training_checks checks summary
    ignition
"""
LAYERS = ORDER.split()


def name_of(path: Path) -> str:
    """A file's module, without the package before it: ``callbacks.base``; the packages are their own names."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix("__init__").rstrip(".") or "ignition"


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(tree: ast.AST) -> set[str]:
    """The modules of the package that a file imports, at its top or in a function; not those for types alone."""
    return {module_of(name) for name in imported_names(tree) if name.split(".")[0] == "ignition"}


def imported_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their module in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imported_names(node)


def module_of(name: str) -> str:
    """``ignition.callbacks.base.Callback`` is in ``callbacks.base``."""
    name = name.removeprefix("ignition.")
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or "ignition"


def test_every_module_has_its_layer():
    assert sorted(LAYERS) == sorted(MODULES)


@pytest.mark.parametrize("name", LAYERS)
def test_a_module_imports_only_from_the_layers_above_it(name):
    above = set(LAYERS[: LAYERS.index(name)])
    assert imports(ast.parse(MODULES[name].read_text(encoding="utf-8"))) <= above


def test_imports_are_found_wherever_they_stand():
    source = """
if TYPE_CHECKING:
    from ignition.trainer import Trainer
from ignition.callbacks.base import Callback
from ignition import loop
import torch
def late():
    if True:
        import ignition.plots
"""
    assert imports(ast.parse(source)) == {"callbacks.base", "loop", "plots"}


@pytest.mark.slow
def test_importing_ignition_loads_nothing_heavy():
    script = "import sys, torch; before = {*sys.modules}; import ignition; print(*{*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "ignition.trainer" in loaded
    packages = {name.split(".")[0] for name in loaded}
    assert not packages & {
        "matplotlib",
        "pandas",
        "IPython",
        "tqdm",
        "safetensors",
        "sklearn",
        "torchmetrics",
        "tensorboard",
        "mlflow",
        "wandb",
        "optuna",
    }
    assert not [name for name in loaded if name.startswith("torch.distributed")]


def test_every_module_has_a_test_file_of_its_own():
    named = {f"test_{path.stem}" for path in MODULES.values() if path.stem != "__init__"}
    assert named - {path.stem for path in Path(__file__).parent.glob("test_*.py")} == set()


def test_every_module_is_short_enough_to_read():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
