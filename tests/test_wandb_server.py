"""WandB online, with a server on this machine that says yes to everything until it is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb

from ignition.callbacks.wandb_file import rows
from ignition.callbacks.wandb_run import _patient

RUN = {"id": "1", "name": "first", "displayName": "first", "config": "{}", "summaryMetrics": "{}", "historyTail": "[]"}
RUN |= {"historyLineCount": 0, "eventsLineCount": 0, "logLineCount": 0, "eventsTail": "[]", "sweepName": None}
RUN |= {"project": {"id": "p", "name": "digits", "entity": {"id": "e", "name": "me"}}}
ANSWER = {
    "viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}},
    "serverInfo": {"cliVersionInfo": {"max_cli_version": "9.0.0"}, "latestLocalVersionInfo": None, "features": []},
    "upsertBucket": {"bucket": RUN, "inserted": True},
    "model": {"bucket": None},
    "createRunFiles": {"runID": "1", "uploadHeaders": [], "files": []},
}


class Server(ThreadingHTTPServer):
    gone = False


class Yes(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.gone:  # type: ignore[attr-defined]
            self.close_connection = True
            return
        answer = json.dumps({"data": ANSWER} if self.path == "/graphql" else {}).encode()
        known = self.path == "/graphql" or self.path.startswith("/files/")
        self.send_response(200 if known else 404)  # not where wandb sends its own telemetry
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: Any) -> None:
        pass


SCRIPT = """
import json, warnings
from pathlib import Path
from tracked import build
from ignition.callbacks import WandB

trainer = build(WandB("digits", every=1, dir=".", settings={"finish_timeout": 5.0}))


@trainer.on("epoch_begin")
def goes(trainer):
    if trainer.epoch == 2:
        print("gone", flush=True)
        input()


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    trainer.fit(epochs=3)  # without a limit wandb tries for hours
messages = [str(one.message) for one in caught]
Path("seen.json").write_text(json.dumps([trainer.step, trainer.history["train_loss"], messages]))
"""


@pytest.mark.slow
def test_a_server_that_is_gone_warns_once_and_the_fit_ends_all_the_same(tmp_path: Path) -> None:
    tests = Path(__file__).parent
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent / "src"), str(tests)])}
    environment |= {f"WANDB_{name}_DIR": str(tmp_path / "own") for name in ("CONFIG", "CACHE", "DATA", "ARTIFACT")}
    environment |= {"WANDB_SILENT": "true", "WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40}
    with Server(("127.0.0.1", 0), Yes) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        environment["WANDB_BASE_URL"] = f"http://127.0.0.1:{server.server_port}"
        run = [sys.executable, "script.py"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(run, cwd=tmp_path, env=environment, text=True, **pipes) as process:
            assert process.stdout is not None
            while (line := process.stdout.readline()) and "gone" not in line:
                pass
            server.gone = True
            _, errors = process.communicate("go on\n", timeout=300)
        server.shutdown()
        thread.join()
    assert process.returncode == 0, errors
    step, losses, messages = json.loads((tmp_path / "seen.json").read_text())
    assert (step, len(losses)) == (15, 3)
    (message,) = messages
    assert "WandB" in message
    assert "the training goes on" in message
    (path,) = tmp_path.glob("wandb/run-*/run-*.wandb")  # what `wandb sync` sends later
    assert [row["train_loss"] for row in rows(path) if "train_loss" in row] == losses


@pytest.mark.parametrize("form", [dict, lambda **given: wandb.Settings(**given)])
def test_what_the_user_sets_is_kept(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(settings: Any) -> Any:
        patient = _patient(settings)
        return patient if isinstance(patient, dict) else {name: getattr(patient, name) for name in usual}

    usual = {"finish_timeout": 300.0, "finish_timeout_raises": True}
    assert _patient(None) == usual
    assert found(form()) == usual
    assert found(form(finish_timeout=7.0)) == usual | {"finish_timeout": 7.0}
    assert found(form(finish_timeout_raises=False)) == usual | {"finish_timeout_raises": False}
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "9")
    assert _patient(None) is None
