"""Checks of the model: what changes and what does not, what comes out, and what depends on what."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ignition import rng
from ignition.check_report import Failed, Skipped
from ignition.check_runs import Call, Material, first_outputs, forwards, labels_of, listed, parameters_of, train_on
from ignition.data import batch_weight
from ignition.device import tensors_in
from ignition.modes import evaluation_mode, is_frozen
from ignition.structure import named

__all__ = [
    "evaluation_changes_nothing",
    "first_loss",
    "frozen_stay",
    "outputs_in_range",
    "samples_are_independent",
    "trained_change",
]

_STEPS = 10  # until a parameter has to have changed: a GAN's generator waits, a warm-up begins at 0
_LARGEST = 1e4  # of an output: near the end of what fp16 holds
_SCATTER = 1.5  # of a first loss, where classes and samples are few
_LEAK = 1e-6  # of the gradient of a sample's own input
_MOVED = 1e-4  # of the largest output: more than what kernels round otherwise


def trained_change(material: Material) -> str:
    """Every parameter that requires a gradient changes within a few steps."""
    trained = parameters_of(material.trainer.model, True)
    if not trained:
        raise Skipped("no parameter requires a gradient")
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    waiting = dict.fromkeys(trained)

    def look(trainer: Any) -> None:
        for name in [name for name in waiting if not _equal(before[name], trained[name])]:
            del waiting[name]
        if not waiting:
            trainer.stop("all have changed")

    train_on(material.trainer, material.train, _STEPS, step_end=look)
    if waiting:
        raise Failed(_unchanged(material, {name: trained[name] for name in waiting}))
    return f"all {len(trained)} trainable parameters changed"


def _unchanged(material: Material, parameters: dict[str, Tensor]) -> str:
    optimizers = named(material.trainer.optimizer).values()
    held = {id(one) for each in optimizers for group in getattr(each, "param_groups", ()) for one in group["params"]}
    reasons: dict[str, list[str]] = {}
    for name, parameter in parameters.items():
        if held and id(parameter) not in held:
            reason = "in no optimizer; give them to it, or freeze(...) the layer"
        elif parameter.grad is None:
            reason = "no gradient reaches them; look for detach and no_grad between layer and loss, or freeze(...) it"
        elif not bool(parameter.grad.any()):
            reason = "their gradient is zero; look for a dead activation or weights of zero around the layer"
        else:
            reason = "the step is too small to change a bit; raise the learning rate"
        reasons.setdefault(reason, []).append(name)
    found = [f"{listed(names)}: {reason}" for reason, names in reasons.items()]
    return f"unchanged after {_STEPS} steps: {'; '.join(found)}"


def frozen_stay(material: Material) -> str:
    """What requires no gradient, and the buffers of what `freeze` froze, stay as they are in training."""
    model = material.trainer.model
    frozen = parameters_of(model, False)
    for name, one in named(model).items():
        for path, module in one.named_modules():
            for leaf, buffer in module.named_buffers(recurse=False) if is_frozen(module) else ():
                frozen[".".join(part for part in (name, path, leaf) if part)] = buffer
    if not frozen:
        raise Skipped("nothing is frozen")
    before = {name: tensor.detach().clone() for name, tensor in frozen.items()}
    train_on(material.trainer, material.train, 3)
    changed = [name for name, tensor in frozen.items() if not _equal(before[name], tensor)]
    if changed:
        raise Failed(
            f"frozen, and yet changed by training: {listed(changed)}; leave them out of the optimizer, whose weight "
            "decay and momentum move what has an old gradient, and see whether train_fn writes to them"
        )
    return f"all {len(frozen)} frozen tensors stayed"


def first_loss(material: Material) -> str:
    """The first loss of a classifier that has learned nothing is near the logarithm of the number of classes."""
    trainer, batch, losses = material.trainer, material.train[0], []
    if trainer.step:
        raise Skipped(f"it has been trained already, for {trainer.step} steps")
    with forwards(trainer) as calls:
        train_on(trainer, [batch], 1, batch_end=lambda one: losses.append(one.batch_metrics.get("loss")))
    if not losses or losses[0] is None:
        raise Skipped("train_fn returns no loss")
    outputs, targets = _as_classifier(calls, batch)
    classes, samples, loss = outputs.shape[1], len(outputs), float(losses[0])
    usual = math.log(classes)
    seen = f"a first loss of {loss:.3f}, and ln({classes}) is {usual:.3f}"
    if not loss <= usual + max(_SCATTER, usual / 2):  # NaN fails
        is_sum = 2 / 3 < loss / (samples * usual) < 1.5
        summed = " (it looks like a sum over the batch: take the mean)" if is_sum else ""
        raise Failed(
            f"{seen}{summed}: look at the scale of the last layer's weights and of the inputs, at the number of "
            "classes, and whether the loss takes logits and gets probabilities"
        )
    if loss < usual / 2:
        if float((outputs.argmax(1) == targets).double().mean()) > 0.5:
            raise Skipped(f"the model classifies well already; {seen}")
        raise Failed(f"{seen}, while the answers are wrong: see whether the loss is divided twice")
    return seen


def _as_classifier(calls: list[Call], batch: Any) -> tuple[Tensor, Tensor]:
    targets = labels_of(batch)
    if isinstance(targets, Tensor) and not (targets.is_floating_point() or targets.dtype is torch.bool):
        for output in first_outputs(calls):
            fits = output.ndim >= 2 and (output.shape[0], *output.shape[2:]) == tuple(targets.shape)
            if fits and output.shape[1] >= 2 and int(targets.min()) >= 0 and int(targets.max()) < output.shape[1]:
                return output.detach(), targets
    raise Skipped(
        "not a classifier: no outputs (batch, classes) with class numbers (batch,) as the batch's last item or label"
    )


def outputs_in_range(material: Material) -> str:
    """What the model gives in training and in evaluation is finite, and no giant."""
    trainer = material.trainer
    losses: list[Any] = []
    with forwards(trainer) as calls:
        if trainer.eval_fn is not None and material.test:
            trainer.evaluate(material.test[:1])
        train_on(trainer, material.train[:1], 1, batch_end=lambda one: losses.extend(one.batch_metrics.values()))
    if any(isinstance(one, (float, Tensor)) and not math.isfinite(float(one)) for one in losses):
        raise Failed("train_fn returned NaN or infinity for the first batch: look for log(0), a division or a root")
    outputs = [output for output in first_outputs(calls) if output.numel()]
    if not all(bool(torch.isfinite(output).all()) for output in outputs):
        raise Failed("the model gives NaN or infinity: look at its inputs and its weights, and for log(0) or a root")
    largest = max(float(output.abs().max()) for output in outputs)
    if largest > _LARGEST:
        raise Failed(f"outputs of up to {largest:.3g}: scale the inputs, and look at the weights' initialisation")
    return f"finite, up to {largest:.3g}"


def evaluation_changes_nothing(material: Material) -> str:
    """An evaluation leaves parameters, gradients, buffers and generators as they are."""
    trainer = material.trainer
    if trainer.eval_fn is None:
        raise Skipped("there is no eval_fn")
    before, generators = _tensors(trainer.model), rng.capture()
    trainer.evaluate(material.test[:2])  # in a list, so that reading them draws nothing
    after = _tensors(trainer.model)
    changed = [name for name in {**before, **after} if not _both_equal(before.get(name), after.get(name))]
    drawn = [name for name, state in rng.capture().items() if not _same_state(state, generators[name])]
    if changed:
        raise Failed(
            f"an evaluation changed {listed(changed)}: leave the model in eval mode in eval_fn, and write nothing "
            "to it there"
        )
    if drawn:
        raise Failed(
            f"an evaluation drew from the global generator of {listed(drawn)}, so that evaluating more or less often "
            "changes the training: leave dropout off, and give eval_fn a torch.Generator of its own"
        )
    return "parameters, gradients, buffers and generators are the same after it"


def samples_are_independent(material: Material) -> str:
    """In evaluation mode an output depends on its own sample alone: other samples' inputs have no gradient of it.

    Where inputs are whole numbers, which have no gradients, one sample is exchanged, and the other outputs stay.
    """
    trainer, batch = material.trainer, material.train[0]
    size = batch_weight(batch, trainer.batch_axis)
    if size is None or size < 2:
        raise Skipped("a batch has fewer than two samples")
    with forwards(trainer) as calls:
        train_on(trainer, [batch], 1)
    firsts = list({id(call.model): call for call in reversed(calls)}.values())
    axis = trainer.batch_axis
    traced = sum([_check_independent(call, axis, size) for call in firsts])
    exchanged = 0 if traced else sum([_check_exchanged(call, axis, size) for call in firsts])
    if traced:
        return f"{min(size, 3)} outputs have no gradient at the other {size - 1} samples of their batch"
    if exchanged:
        return f"{size - 1} outputs stay when the other sample of their batch is exchanged, {min(size, 3)} times"
    raise Skipped("no tensors with a batch axis go into the model's calls and come out of them")


def _axis_of(tensor: Tensor, axis: int, size: int) -> int | None:
    """Where its samples lie: a recurrent net with the batch in axis 1 may give outputs with it in axis 0."""
    fits = (one for one in (axis, 0) if -tensor.ndim <= one < tensor.ndim and tensor.size(one) == size)
    return next(fits, None)


def _check_independent(call: Call, axis: int, size: int) -> bool:
    """Whether a call could be looked at by gradients."""
    inputs: list[Tensor] = []

    def axis_of(tensor: Tensor) -> int | None:
        return _axis_of(tensor, axis, size)

    def traced(value: Any) -> Any:
        if not (isinstance(value, Tensor) and value.is_floating_point()) or axis_of(value) is None:
            return value
        inputs.append(value.detach().clone().requires_grad_())
        return inputs[-1].clone()  # the model may write to its input

    with evaluation_mode(call.model), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        given = [traced(value) for value in call.args], {name: traced(value) for name, value in call.kwargs.items()}
        output = call.model(*given[0], **given[1])
        outputs = [
            one.movedim(place, 0)
            for one in tensors_in(output)
            if one.is_floating_point() and one.requires_grad and (place := axis_of(one)) is not None
        ]
        if not inputs or not outputs:
            return False
        draws = torch.Generator().manual_seed(0)
        for chosen in {0, size // 2, size - 1}:
            total = torch.zeros((), device=outputs[0].device)
            for one in outputs:  # weighted, since a sum may not depend on what each part depends on: that of a softmax
                total = total + (one[chosen] * torch.rand(one[chosen].shape, generator=draws).to(one)).sum()
            gradients = torch.autograd.grad(total, inputs, retain_graph=True, allow_unused=True)
            for given_input, gradient in zip(inputs, gradients, strict=True):
                place = axis_of(given_input)
                if gradient is not None and place is not None:
                    _check_alone(gradient.detach(), place, chosen)
    return True


def _check_alone(gradient: Tensor, axis: int, chosen: int) -> None:
    sizes = gradient.movedim(axis, 0).flatten(1).abs().amax(1) if gradient.ndim > 1 else gradient.abs()
    if not bool(torch.isfinite(sizes).all()):
        raise Skipped("gradients of the outputs are not finite")
    others = sizes.clone()
    others[chosen] = 0
    if float(others.max()) > _LEAK * max(float(sizes[chosen]), 1e-30):
        raise Failed(_leak(chosen, int(others.argmax()), axis))


def _check_exchanged(call: Call, axis: int, size: int) -> bool:
    """Whether a call could be looked at by exchanging samples; each is put into the place of another one."""

    def outputs(chosen: int | None) -> list[Tensor]:
        def given(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            copied, place = value.detach().clone(), _axis_of(value, axis, size)
            if chosen is not None and place is not None:
                copied.movedim(place, 0)[chosen] = value.movedim(place, 0)[(chosen + 1) % size]
            return copied

        output = call.model(*map(given, call.args), **{name: given(value) for name, value in call.kwargs.items()})
        places = ((one, _axis_of(one, axis, size)) for one in tensors_in(output) if one.is_floating_point())
        return [one.movedim(place, 0).flatten(1) for one, place in places if place is not None and one.ndim > 1]

    if all(_axis_of(one, axis, size) is None for one in tensors_in((call.args, call.kwargs))):
        return False
    with evaluation_mode(call.model), torch.no_grad():
        usual = outputs(None)
        for chosen in {0, size // 2, size - 1} if usual else ():
            for before, after in zip(usual, outputs(chosen), strict=True):
                moved = (after - before).abs().amax(1) / before.abs().amax().clamp(min=1e-30)
                moved[chosen] = 0
                if float(moved.max()) > _MOVED:
                    raise Failed(_leak(int(moved.argmax()), chosen, axis))
    return bool(usual)


def _leak(output: int, sample: int, axis: int) -> str:
    return (
        f"output {output} depends on the input of sample {sample}: look for a mean, a norm, a softmax, a reshape or a "
        f"transpose over the batch axis ({axis})"
    )


def _tensors(models: Any) -> dict[str, Tensor]:
    """Copies of parameters, gradients and buffers, by name."""
    found: dict[str, Tensor] = {}
    for name, model in named(models).items():
        prefix = f"{name}." if name else ""
        for path, parameter in model.named_parameters():
            found[f"{prefix}{path}"] = parameter.detach().clone()
            if parameter.grad is not None:
                found[f"{prefix}{path}.grad"] = parameter.grad.detach().clone()
        found |= {f"{prefix}{path}": buffer.detach().clone() for path, buffer in model.named_buffers()}
    return found


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal; NaN is equal to NaN."""
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and bool(((one == other) | ((one != one) & (other != other))).all())


def _both_equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and _equal(one, other)


def _same_state(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(_same_state, one, other))
    return bool(np.array_equal(one, other))
