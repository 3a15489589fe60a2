"""The gallery in examples/: each script against a loop written by hand, and for what it learns.

The loops by hand use torch alone; from a script they take what surrounds its functions: models, data, one episode.
"""

from __future__ import annotations

import ast
import copy
import importlib.util
import math
import random
import re
import socket
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

EXAMPLES = Path(__file__).parents[1] / "examples"
NUMBER = re.compile(r"\b(\d+(?:\.\d+)?)(%?)")
GALLERY = (
    "cartpole",
    "distillation",
    "gan",
    "huggingface",
    "lbfgs",
    "moco",
    "sam",
    "transformer",
    "truncated_bptt",
    "vae",
)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts choose a device, and the loops by hand are on the CPU."""
    monkeypatch.setattr("ignition.device.default_device", lambda: torch.device("cpu"))
    monkeypatch.setenv("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # which Gymnasium sets


def load(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"gallery_{path.stem}", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@cache
def script(name: str) -> ModuleType:
    return load(EXAMPLES / f"{name}.py")


RECIPES = load(EXAMPLES.parent / "scripts" / "make_recipes.py")


def seed_all(seed: int = 0) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def cut(batch_size: int, *tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """One epoch of shuffled batches."""
    for indices in torch.randperm(len(tensors[0])).split(batch_size):
        yield tuple(tensor[indices] for tensor in tensors)


def assert_same(model: nn.Module, by_hand: nn.Module) -> None:
    """Every bit of the weights is the same."""
    ours, theirs = model.state_dict(), by_hand.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def said(capsys: pytest.CaptureFixture[str], name: str) -> list[float]:
    """The numbers in what a script said at its end, in words that are those of the recipes."""
    # Nor the advice about a slow loader, which is there when the machine is busy.
    not_its_own = re.compile(r"epoch |\d+% of the time was spent waiting")
    lines = [line for line in capsys.readouterr().out.splitlines() if not not_its_own.match(line)]
    found = re.search(rf"<!-- output: python examples/{name}.py -->\n```text\n(.*?)```", page(), re.DOTALL)
    expected = found[1].splitlines()
    if name == "transformer":  # whose other lines are its own
        lines, expected = lines[:1], expected[:1]
    assert [NUMBER.sub("#", line) for line in lines] == [NUMBER.sub("#", line) for line in expected]
    return [float(number) / (100 if percent else 1) for number, percent in NUMBER.findall("\n".join(lines))]


def page() -> str:
    return RECIPES.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", GALLERY)
def test_each_begins_with_three_lines_on_what_is_hard_and_names_its_command(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    hard, command, *_ = ast.get_docstring(ast.parse(text)).split("\n\n")
    assert len(hard.splitlines()) == 3
    assert "elsewhere" in hard.lower()
    assert "Here " in hard
    assert command.strip() == f"python examples/{name}.py"
    assert 40 <= len(text.splitlines()) <= 120


def test_the_recipes_show_the_code_as_it_is() -> None:
    assert RECIPES.with_code(page()) == page(), "run python scripts/make_recipes.py"


def test_the_recipes_show_each_train_function_and_what_its_script_gave() -> None:
    sections = re.split(r"^## ", page(), flags=re.MULTILINE)[1:]
    shown = []
    for section in sections:
        code, output = RECIPES.FENCE.finditer(section)
        file, *names = code["what"].split()
        shown.append(Path(file).stem)
        assert output["what"] == f"python {file}"
        assert names[-1] in ("main", "train")
        assert "    def train_fn(" in code["text"]
        assert output["text"].strip()
    assert sorted(shown) == sorted(GALLERY)


def test_the_table_of_recipes_leads_to_each() -> None:
    def anchor(title: str) -> str:
        return "#" + re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")

    titles = re.findall(r"^## (.+)$", page(), re.MULTILINE)
    assert re.findall(r"^\| \[(.+)\]\((.+?)\) \|", page(), re.MULTILINE) == [(one, anchor(one)) for one in titles]


def test_the_recipe_of_the_transformer_knows_what_pairs_of_characters_give() -> None:
    transformer = script("transformer")
    train_text, test_text = transformer.make_paragraphs()
    counts = torch.ones(transformer.CHARACTERS, transformer.CHARACTERS)
    for text in train_text:
        text = functional.pad(text, (1, 1))
        counts.index_put_((text[:-1], text[1:]), torch.ones(len(text) - 1), accumulate=True)
    surprise = -(counts / counts.sum(dim=1, keepdim=True)).log()
    padded = [functional.pad(text, (1, 1)) for text in test_text]
    mean = torch.cat([surprise[text[:-1], text[1:]] for text in padded]).mean().item()
    written = re.search(r"A table of pairs of characters, counted on the\s+same text, takes ([\d.]+) nats", page())
    assert float(written[1]) == pytest.approx(mean, abs=0.05)  # the text differs a little between Pythons


@pytest.mark.slow
def test_the_gan_equals_its_loop_by_hand_and_finds_all_clusters(capsys: pytest.CaptureFixture[str]) -> None:
    gan, epochs, samples = script("gan"), 4, 25_600
    trainer = gan.main(epochs, samples)
    near, reached, clusters, normal = said(capsys, "gan")
    assert near > 3 * normal
    assert reached == clusters == 8
    assert trainer.step == epochs * samples // 256  # one call is one step, though two optimizers took theirs

    seed_all()
    models = gan.make_models()
    optimizers = gan.make_optimizers(models)
    points = gan.make_points(samples)
    torch.randn(2000, gan.NOISE)
    for epoch in range(epochs):
        for optimizer in optimizers.values():
            optimizer.param_groups[0]["lr"] = 0.003 + (0.0001 - 0.003) * epoch / (epochs - 1)
        for (real,) in cut(256, points):
            fake = models["G"](torch.randn(len(real), gan.NOISE))
            on_real, on_fake = models["D"](real), models["D"](fake.detach())
            loss = functional.softplus(-on_real).mean() + functional.softplus(on_fake).mean()
            points_again = real.clone().requires_grad_()
            (slope,) = torch.autograd.grad(models["D"](points_again).sum(), points_again, create_graph=True)
            loss = loss + gan.PENALTY * slope.square().sum(dim=1).mean()
            optimizers["D"].zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(models["D"].parameters(), 1.0)
            optimizers["D"].step()

            optimizers["G"].zero_grad()
            functional.softplus(-models["D"](fake)).mean().backward()
            nn.utils.clip_grad_norm_(models["G"].parameters(), 1.0)
            optimizers["G"].step()
    for name, model in models.items():
        assert_same(trainer.model[name], model)


@pytest.mark.slow
def test_the_distilled_student_equals_its_loop_by_hand_and_reads_a_digit_that_it_never_saw(
    capsys: pytest.CaptureFixture[str],
) -> None:
    distillation, epochs = script("distillation"), 20
    trainer = distillation.main(epochs, teacher_epochs=6)
    right, _, right_of_unseen = said(capsys, "distillation")

    seed_all()
    train_x, train_y, test_x, test_y = distillation.make_data()
    teacher = distillation.make_teacher()
    optimizer = torch.optim.Adam(teacher.parameters(), lr=0.003)
    for _ in range(6):
        for x, y in cut(32, train_x, train_y):
            optimizer.zero_grad()
            functional.cross_entropy(teacher(x), y).backward()
            optimizer.step()
    teacher.eval()
    student = distillation.make_student()
    optimizer = torch.optim.Adam(student.parameters(), lr=0.003)
    shown = train_y != distillation.UNSEEN
    for _ in range(epochs):
        for (x,) in cut(32, train_x[shown]):
            with torch.no_grad():
                wanted = (teacher(x) / 10).softmax(dim=1)
            loss = 100 * functional.kl_div((student(x) / 10).log_softmax(dim=1), wanted, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert_same(trainer.model, student)

    from_labels = distillation.make_student()
    optimizer = torch.optim.Adam(from_labels.parameters(), lr=0.003)
    for _ in range(epochs):
        for x, y in cut(32, train_x[shown], train_y[shown]):
            optimizer.zero_grad()
            functional.cross_entropy(from_labels(x), y).backward()
            optimizer.step()
    unseen = test_y == distillation.UNSEEN
    assert (from_labels(test_x[unseen]).argmax(dim=1) == distillation.UNSEEN).sum() == 0
    assert right_of_unseen > 0.3
    assert right > (from_labels(test_x).argmax(dim=1) == test_y).float().mean()


@pytest.mark.slow
def test_the_vae_equals_its_loop_by_hand_and_its_code_is_worth_its_length(capsys: pytest.CaptureFixture[str]) -> None:
    vae, epochs, warmup = script("vae"), 25, 10
    trainer = vae.main(epochs, warmup)
    bound, _, without_code = said(capsys, "vae")
    assert bound < without_code - 3  # nats a digit
    betas = [min(epoch / (warmup - 1), 1) for epoch in range(epochs)]
    assert trainer.history["beta"] == pytest.approx(betas, abs=1e-12)

    seed_all()
    train_x, test_x = vae.make_data()
    model = vae.Autoencoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    bounds = []
    for beta in trainer.history["beta"]:
        for (x,) in cut(64, train_x):
            reconstruction, divergence = model(x)
            optimizer.zero_grad()
            (reconstruction.mean() + beta * divergence.mean()).backward()
            optimizer.step()
        with torch.no_grad():
            bounds.append(sum(part.mean() for part in model(test_x)).item())
    assert_same(trainer.model, model)
    assert trainer.history["val_bound"] == bounds


@pytest.mark.slow
def test_the_recurrent_network_equals_its_loop_by_hand_and_remembers_what_earlier_batches_showed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bptt, epochs = script("truncated_bptt"), 6
    trainer = bptt.main(epochs)
    repeated, at_most = said(capsys, "truncated_bptt")
    assert at_most == 0.625
    assert repeated > 0.95

    seed_all()
    train_chunks, test_chunks = bptt.make_chunks(64, 800), bptt.make_chunks(64, 400)
    model = bptt.Echo()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def train_by_hand(epochs: int) -> Tensor:
        for _ in range(epochs):
            hidden = None
            for x, y in train_chunks:
                outputs, hidden = model(x, hidden)
                hidden = hidden.detach()
                optimizer.zero_grad()
                functional.binary_cross_entropy_with_logits(outputs, y).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
        return hidden

    hidden = train_by_hand(epochs)
    assert_same(trainer.model, model)
    assert torch.equal(trainer.state["hidden"], hidden)

    right, hidden = [], None
    with torch.no_grad():
        for x, y in test_chunks:
            outputs, hidden = model(x, hidden)
            right.append(((outputs > 0) == y).float().mean().item())
    assert trainer.history.last["val_acc"] == pytest.approx(sum(right) / len(right), abs=1e-12)

    trainer.fit(steps=30)  # one epoch more, with a stop inside it
    trainer.fit(epochs=1)
    train_by_hand(1)
    assert_same(trainer.model, model)


@pytest.mark.slow
def test_lbfgs_takes_the_path_of_its_loop_by_hand_and_arrives_where_scikit_learn_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lbfgs, steps = script("lbfgs"), 10
    trainer = lbfgs.main(steps)
    _, loss, least = said(capsys, "lbfgs")
    assert loss == pytest.approx(least, abs=2e-5)

    seed_all()
    x, y = lbfgs.make_data()
    model = nn.Linear(64, 10)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=10, line_search_fn="strong_wolfe")
    calls = []

    def closure() -> Tensor:
        calls[-1] += 1
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y) + lbfgs.PENALTY / 2 * model.weight.square().sum()
        loss.backward()
        return loss

    losses = []
    for _ in range(steps):
        calls.append(0)
        losses.append(optimizer.step(closure).item())
    assert_same(trainer.model, model)
    assert trainer.history["train_loss"] == losses
    assert trainer.history["train_calls"] == calls


@pytest.mark.slow
def test_sam_equals_its_loop_by_hand_and_is_not_led_astray_by_wrong_labels(capsys: pytest.CaptureFixture[str]) -> None:
    sam, epochs, radius = script("sam"), 40, 0.5
    plain, aware = sam.main(epochs, radius)
    with_sam, without = said(capsys, "sam")
    assert with_sam > 0.85
    assert with_sam > without + 0.1

    def by_hand(radius: float) -> nn.Module:
        seed_all()
        train_x, train_y, _, _ = sam.make_data()
        model = sam.make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(epochs):
            for x, y in cut(50, train_x, train_y):
                optimizer.zero_grad()
                functional.cross_entropy(model(x), y).backward()
                if radius:
                    before = copy.deepcopy(model.state_dict())
                    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
                    for parameter in model.parameters():
                        parameter.data += radius * parameter.grad / norm
                    optimizer.zero_grad()
                    functional.cross_entropy(model(x), y).backward()
                    model.load_state_dict(before)
                optimizer.step()
        return model

    assert_same(plain.model, by_hand(0.0))
    assert_same(aware.model, by_hand(radius))


@pytest.mark.slow
def test_momentum_contrast_equals_its_loop_by_hand() -> None:
    moco, epochs = script("moco"), 2
    trainer = moco.main(epochs)

    seed_all()
    train_x, _, _, _ = moco.make_data()
    encoder = moco.Encoder()
    follower = copy.deepcopy(encoder)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.001)
    queue = functional.normalize(torch.randn(512, 32), dim=1)
    for _ in range(epochs):
        for (x,) in cut(100, train_x):
            queries = encoder(moco.augment(x))
            with torch.no_grad():
                for followed, parameter in zip(follower.parameters(), encoder.parameters(), strict=True):
                    followed.lerp_(parameter, 1 - 0.99)
                keys = follower(moco.augment(x))
            logits = torch.cat([(queries * keys).sum(dim=1, keepdim=True), queries @ queue.T], dim=1) / 0.1
            optimizer.zero_grad()
            functional.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long)).backward()
            optimizer.step()
            queue = torch.cat([keys, queue])[:512]
    assert_same(trainer.model["encoder"], encoder)
    assert_same(trainer.model["follower"], follower)
    assert torch.equal(trainer.state["queue"], queue)
    assert not any(parameter.requires_grad for parameter in trainer.model["follower"].parameters())


@pytest.mark.slow
def test_momentum_contrast_learns_features_without_labels(capsys: pytest.CaptureFixture[str]) -> None:
    script("moco").main(epochs=30)
    learned, untrained, pixels = said(capsys, "moco")
    assert learned > max(untrained, pixels) + 0.01


def test_the_policy_gradient_equals_its_loop_by_hand_with_each_move_of_a_step_counting_the_same() -> None:
    cartpole, steps = script("cartpole"), 4
    trainer = cartpole.main(steps)

    seed_all()
    policy = cartpole.make_policy()
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    episodes = iter(cartpole.Play(policy, seed=0))
    moves = []
    for _ in range(steps):
        losses = []
        for _ in range(4):
            observations, actions, returns = next(episodes)
            advantages = (returns - returns.mean()) / (returns.std() + 1e-6)
            chosen = torch.distributions.Categorical(logits=policy(observations)).log_prob(actions)
            losses.append(-advantages * chosen)
            moves.append(len(actions))
        optimizer.zero_grad()
        torch.cat(losses).mean().backward()
        optimizer.step()
    for parameter, expected in zip(trainer.model.parameters(), policy.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-6)
    assert trainer.history["train_reward"] == [sum(moves) / len(moves)]


@pytest.mark.slow
def test_the_policy_gradient_balances_the_pole(capsys: pytest.CaptureFixture[str]) -> None:
    script("cartpole").main(steps=30)
    before, after = said(capsys, "cartpole")
    assert before < 50
    assert after > 150


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-6), ("bf16", 2e-3)])
def test_four_batches_of_the_transformer_equal_one_batch_of_their_size_by_hand(
    precision: str, tolerance: float
) -> None:
    transformer, steps = script("transformer"), 8
    trainer = transformer.main(steps, precision)

    seed_all()
    train_text, test_text = transformer.make_paragraphs()
    model = transformer.Transformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005, weight_decay=0.01)
    batches = iter(DataLoader(train_text, batch_size=32, shuffle=True, collate_fn=transformer.as_batch))
    total = tokens = 0
    for step in range(steps):
        warmup = max(1, steps // 10)
        progress = max(0, step - warmup) / (steps - warmup - 1)
        optimizer.param_groups[0]["lr"] = 0.005 * min(1, (step + 1) / warmup) * (1 + math.cos(math.pi * progress)) / 2
        inputs, targets = next(batches)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total, tokens = total + loss.item() * (targets >= 0).sum(), tokens + (targets >= 0).sum()
    assert trainer.step == steps
    assert trainer.history.last["lr"] == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
    with torch.no_grad():
        inputs, targets = transformer.as_batch(test_text)
        ours, by_hand = (functional.log_softmax(one(inputs), dim=2)[targets >= 0] for one in (trainer.model, model))
    # With a mean of the four batches' means in its place, the two would be 1e-2 apart.
    assert (ours - by_hand).abs().mean() < tolerance


def test_the_batches_of_the_transformer_hold_each_character_once() -> None:
    transformer = script("transformer")
    paragraphs = [torch.tensor([72, 105]), torch.tensor([33])]
    inputs, targets = transformer.as_batch(paragraphs)
    assert inputs.tolist() == [[0, 72, 105], [0, 33, 0]]
    assert targets.tolist() == [[72, 105, 0], [33, 0, -100]]


@pytest.mark.slow
def test_the_transformer_learns_more_than_how_frequent_each_character_is(capsys: pytest.CaptureFixture[str]) -> None:
    transformer = script("transformer")
    transformer.main(steps=60)
    (learned,) = said(capsys, "transformer")
    train_text, test_text = transformer.make_paragraphs()
    counts = torch.ones(transformer.CHARACTERS)
    for paragraph in train_text:
        counts += torch.bincount(functional.pad(paragraph, (0, 1)), minlength=len(counts))
    surprise = -(counts / counts.sum()).log()
    without_context = torch.cat([surprise[functional.pad(paragraph, (0, 1))] for paragraph in test_text]).mean()
    assert learned < without_context - 0.4  # nats a character


@pytest.mark.slow
def test_the_hugging_face_model_equals_its_loop_by_hand_offline_and_tells_english_from_python(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the script asks for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    huggingface, lines = script("huggingface"), 3000
    trainer = huggingface.main(epochs=1, lines=lines)
    unseen, right = said(capsys, "huggingface")
    assert unseen == lines // 10
    assert right > 0.8  # half of the lines are English

    seed_all()
    samples = [huggingface.encode(line, label) for line, label in huggingface.make_lines(lines).items()]
    loader = DataLoader(samples[lines // 10 :], batch_size=32, shuffle=True)
    model = huggingface.make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    steps, warmup = len(loader), len(loader) // 10
    model.train()
    for step, batch in enumerate(loader):
        progress = max(0, step - warmup) / (steps - warmup - 1)
        optimizer.param_groups[0]["lr"] = 0.001 * min(1, (step + 1) / warmup) * (1 - progress)
        optimizer.zero_grad()
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert_same(trainer.model, model)
