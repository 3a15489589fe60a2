"""Cells run in a real Jupyter kernel, as a notebook's page runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

SETUP = """
import warnings
warnings.simplefilter("error")
warnings.simplefilter("ignore", PendingDeprecationWarning)  # the kernel's own, at its end

import torch
from torch import nn
from ignition import Trainer, fit_on_batch, crossentropy_loss, evaluate_on_batch

torch.manual_seed(0)
model = nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
batches = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(5)]

def train_fn(model, x, y):
    return fit_on_batch(model, x, y, crossentropy_loss, optimizer)

trainer = Trainer(model, optimizer, train_fn, batches, evaluate_on_batch, batches)
"""


class Client(NotebookClient):
    """A client that keeps each message about something shown."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.messages: list[dict[str, Any]] = []

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> Any:
        if msg["msg_type"] in ("display_data", "update_display_data", "stream", "error") or "comm" in msg["msg_type"]:
            self.messages.append(msg)
        return super().process_message(msg, cell, cell_index)

    def shown(self, mime: str) -> list[list[str]]:
        """What was shown of a type: for each display what came first, and what then took its place."""
        found: dict[str, list[str]] = {}
        for msg in self.messages:
            content = msg["content"]
            if msg["msg_type"] == "display_data" and mime in content["data"]:
                place = content["transient"].get("display_id", msg["header"]["msg_id"])
                assert place not in found
                found[place] = [content["data"][mime]]
            elif msg["msg_type"] == "update_display_data" and content["transient"]["display_id"] in found:
                found[content["transient"]["display_id"]].append(content["data"].get(mime, ""))
        return list(found.values())

    def kinds(self, kind: str) -> list[dict[str, Any]]:
        """The contents of all messages of a kind."""
        return [msg["content"] for msg in self.messages if msg["msg_type"] == kind]


def run(
    notebook: NotebookNode, folder: Path, monkeypatch: pytest.MonkeyPatch, allow_errors: bool = False, **settings: Any
) -> Client:
    """Runs a notebook in a folder, with all that Jupyter writes beside it in there too."""
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR"):
        own = folder / ".kernel" / name
        own.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv(name, str(own))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own, which shows figures in the page
    client = Client(
        notebook, timeout=300, kernel_name="python3", allow_errors=allow_errors,
        resources={"metadata": {"path": str(folder)}}, **settings,
    )  # fmt: skip
    client.execute()
    return client


def run_cells(
    *cells: str, folder: Path, monkeypatch: pytest.MonkeyPatch, allow_errors: bool = False
) -> tuple[Client, list[NotebookNode]]:
    """Runs cells of code after `SETUP`; returns what came, and the cells with their outputs."""
    code = [nbformat.v4.new_code_cell(text) for text in (SETUP, *cells)]
    notebook = nbformat.v4.new_notebook(cells=code)
    client = run(notebook, folder, monkeypatch, allow_errors)
    assert code[0].outputs == []
    return client, code[1:]
