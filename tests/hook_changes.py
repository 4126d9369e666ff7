"""What torch users do around a policy's modules: hooks, methods patched on instances and classes, global state."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch as th
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import nn

from tests.policy_changes import Catalogue, Undo

CHANGES = Catalogue()


def note(model: Any, what: str) -> Callable[..., None]:
    """A function that writes down its calls on the model, and returns nothing."""
    model.calls = [*getattr(model, "calls", [])]

    def write(*_: Any) -> None:
        model.calls.append(what)

    return write


# -- hooks ---------------------------------------------------------------------------------------------------------------


@CHANGES.add(about="hook")
def forward_hook(model: Any) -> None:
    """Change what a hidden layer returns."""
    model.policy.mlp_extractor.policy_net[0].register_forward_hook(lambda module, inputs, output: 0.5 * output)


@CHANGES.add(about="hook")
def forward_hook_on_the_value_net(model: Any) -> None:
    """Shift the values."""
    model.policy.value_net.register_forward_hook(lambda module, inputs, output: output + 1.0)


@CHANGES.add(about="hook")
def forward_hook_on_the_policy(model: Any) -> None:
    """Shift the values that the policy returns when it acts."""
    model.policy.register_forward_hook(lambda module, inputs, output: (output[0], output[1] + 1.0, output[2]))


@CHANGES.add(about="hook")
def forward_hook_on_an_activation(model: Any) -> None:
    """Drop the first unit of a hidden layer."""
    model.policy.mlp_extractor.value_net[1].register_forward_hook(
        lambda module, inputs, output: output * (th.arange(output.shape[-1]) > 0)
    )


@CHANGES.add(about="hook")
def forward_hook_on_the_features(model: Any) -> None:
    """Change the features."""
    model.policy.features_extractor.register_forward_hook(lambda module, inputs, output: 0.5 * output)


@CHANGES.add(about="hook")
def forward_hook_that_records(model: Any) -> None:
    """Only look: at every forward pass of the head."""
    model.policy.action_net.register_forward_hook(note(model, "forward"))


@CHANGES.add(about="hook")
def forward_pre_hook(model: Any) -> None:
    """Change what the head is given."""
    model.policy.action_net.register_forward_pre_hook(lambda module, inputs: (2.0 * inputs[0],))


@CHANGES.add(about="hook")
def full_backward_hook(model: Any) -> None:
    """Halve the gradient that the head passes on."""
    model.policy.action_net.register_full_backward_hook(
        lambda module, grad_input, grad_output: tuple(None if one is None else 0.5 * one for one in grad_input)
    )


@CHANGES.add(about="hook")
def full_backward_pre_hook(model: Any) -> None:
    """Halve the gradient that the value net is given."""
    model.policy.value_net.register_full_backward_pre_hook(lambda module, grad_output: (0.5 * grad_output[0],))


@CHANGES.add(about="hook")
def full_backward_hook_that_records(model: Any) -> None:
    """Only look: at every backward pass of the head."""
    model.policy.action_net.register_full_backward_hook(note(model, "backward"))


@CHANGES.add(about="hook")
def tensor_hook(model: Any) -> None:
    """Halve the gradient of one weight."""
    model.policy.action_net.weight.register_hook(lambda grad: 0.5 * grad)


@CHANGES.add(about="hook")
def tensor_hook_that_masks(model: Any) -> None:
    """Train only the first output of the head."""
    mask = th.zeros(model.policy.action_net.weight.shape)
    mask[0] = 1
    model.policy.action_net.weight.register_hook(lambda grad: grad * mask)


@CHANGES.add(about="hook", box=True)
def tensor_hook_on_log_std(model: Any) -> None:
    """Let the exploration learn at a tenth of the speed."""
    model.policy.log_std.register_hook(lambda grad: 0.1 * grad)


@CHANGES.add(about="hook")
def tensor_hook_that_records(model: Any) -> None:
    """Only look: at every gradient of one weight."""
    model.policy.value_net.weight.register_hook(note(model, "gradient"))


@CHANGES.add(about="hook")
def post_accumulate_grad_hook(model: Any) -> None:
    """Change a gradient in place when it is complete."""

    def halve(parameter: th.Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad.mul_(0.5)

    model.policy.mlp_extractor.value_net[0].weight.register_post_accumulate_grad_hook(halve)


@CHANGES.add(served=True, neutral=True)
def hook_that_was_removed(model: Any) -> None:
    """Register a hook, and remove it."""
    model.policy.action_net.register_forward_hook(lambda module, inputs, output: 2 * output).remove()


# -- methods of instances ------------------------------------------------------------------------------------------------


def patch(owner: Any, name: str, change: Callable[[Any], Any]) -> None:
    """Let a method of one object return something else."""
    original = getattr(owner, name)
    setattr(owner, name, lambda *arguments, **named: change(original(*arguments, **named)))


PATCHED = "patch|replaced|overrid|method|instance|forward"


@CHANGES.add(about=PATCHED)
def patched_forward(model: Any) -> None:
    """Shift the values of ``policy.forward``."""
    patch(model.policy, "forward", lambda out: (out[0], out[1] + 1.0, out[2]))


@CHANGES.add(about=PATCHED)
def patched_evaluate_actions(model: Any) -> None:
    """Add a penalty to the values of ``policy.evaluate_actions``."""
    patch(model.policy, "evaluate_actions", lambda out: (out[0] + 0.1 * out[1][:, None], out[1], out[2]))


@CHANGES.add(about=PATCHED)
def patched_predict_values(model: Any) -> None:
    """Bound the values to bootstrap from."""
    patch(model.policy, "predict_values", lambda values: values.clamp(-0.1, 0.1))


@CHANGES.add(about=PATCHED)
def patched_extract_features(model: Any) -> None:
    """Scale the features in ``policy.extract_features``."""
    patch(model.policy, "extract_features", lambda features: 0.5 * features)


@CHANGES.add(about=PATCHED)
def patched_forward_actor(model: Any) -> None:
    """Scale what the actor's tower returns."""
    patch(model.policy.mlp_extractor, "forward_actor", lambda latent: 0.5 * latent)


@CHANGES.add(about=PATCHED)
def patched_forward_of_a_layer(model: Any) -> None:
    """Scale what one linear layer returns."""
    patch(model.policy.mlp_extractor.value_net[0], "forward", lambda latent: 0.5 * latent)


@CHANGES.add(about=PATCHED)
def patched_forward_of_an_activation(model: Any) -> None:
    """Scale what one activation returns."""
    patch(model.policy.mlp_extractor.policy_net[1], "forward", lambda latent: 0.5 * latent)


@CHANGES.add(about=PATCHED + "|distribution")
def patched_distribution_from_latent(model: Any) -> None:
    """Write down every distribution that the policy builds."""
    patch(model.policy, "_get_action_dist_from_latent", lambda found: note(model, type(found).__name__)() or found)


@CHANGES.add(about=PATCHED + "|distribution")
def patched_entropy(model: Any) -> None:
    """Double the entropy of the policy's distribution, by a method of the instance."""
    patch(model.policy.action_dist, "entropy", lambda entropy: 2.0 * entropy)


@CHANGES.add(neutral=True, about=PATCHED)
def patched_set_training_mode(model: Any) -> None:
    """Write down the training modes."""
    original = model.policy.set_training_mode
    model.policy.set_training_mode = lambda mode: note(model, f"training={mode}")() or original(mode)


def other_distribution(model: Any, **methods: Any) -> None:
    """Replace the policy's distribution by one of a subclass."""
    distribution = copy.copy(model.policy.action_dist)
    distribution.__class__ = type("Other", (type(distribution),), methods)
    model.policy.action_dist = distribution


@CHANGES.add(about="distribution|Other")
def distribution_with_another_entropy(model: Any) -> None:
    """A subclass whose entropy is doubled."""
    base = type(model.policy.action_dist)
    other_distribution(model, entropy=lambda self: 2.0 * base.entropy(self))


@CHANGES.add(about="distribution|Other")
def distribution_with_another_log_prob(model: Any) -> None:
    """A subclass whose log-probability is halved."""
    base = type(model.policy.action_dist)
    other_distribution(model, log_prob=lambda self, actions: 0.5 * base.log_prob(self, actions))


@CHANGES.add(about="distribution|Other")
def distribution_that_samples_the_mode(model: Any) -> None:
    """A subclass that draws no random numbers."""
    base = type(model.policy.action_dist)
    other_distribution(model, sample=lambda self: base.mode(self))


# -- methods of classes --------------------------------------------------------------------------------------------------


def patch_class(owner: type, name: str, change: Callable[[Any], Any]) -> Undo:
    """Let a method of a class return something else, until it is taken back."""
    original = getattr(owner, name)
    patcher = mock.patch.object(owner, name, lambda *arguments, **named: change(original(*arguments, **named)))
    patcher.start()
    return patcher.stop


CLASS = "patch|replaced|overrid|class|method"


@CHANGES.add(about=CLASS)
def class_evaluate_actions(_: Any) -> Undo:
    """Double the entropy in SB3's ``evaluate_actions``."""
    return patch_class(ActorCriticPolicy, "evaluate_actions", lambda out: (out[0], out[1], 2.0 * out[2]))


@CHANGES.add(about=CLASS)
def class_forward(_: Any) -> Undo:
    """Shift the values in SB3's ``forward``."""
    return patch_class(ActorCriticPolicy, "forward", lambda out: (out[0], out[1] + 1.0, out[2]))


@CHANGES.add(about=CLASS)
def class_predict_values(_: Any) -> Undo:
    """Halve the values to bootstrap from."""
    return patch_class(ActorCriticPolicy, "predict_values", lambda values: 0.5 * values)


@CHANGES.add(about=CLASS)
def class_forward_critic(_: Any) -> Undo:
    """Scale what the critic's tower returns."""
    return patch_class(MlpExtractor, "forward_critic", lambda latent: 0.5 * latent)


@CHANGES.add(about=CLASS)
def class_linear(_: Any) -> Undo:
    """Scale what every linear layer returns."""
    return patch_class(nn.Linear, "forward", lambda out: 0.5 * out)


@CHANGES.add(about=CLASS)
def class_tanh(_: Any) -> Undo:
    """Scale what every activation returns."""
    return patch_class(nn.Tanh, "forward", lambda out: 0.5 * out)


@CHANGES.add(about=CLASS + "|distribution")
def class_categorical(_: Any) -> Undo:
    """Double every categorical entropy."""
    return patch_class(CategoricalDistribution, "entropy", lambda entropy: 2.0 * entropy)


@CHANGES.add(box=True, about=CLASS + "|distribution")
def class_gaussian(_: Any) -> Undo:
    """Halve every Gaussian log-probability."""
    return patch_class(DiagGaussianDistribution, "log_prob", lambda log_prob: 0.5 * log_prob)


@CHANGES.add(about=CLASS + "|optimizer|step")
def class_adam_step(_: Any) -> Undo:
    """Write into the gradient of the first parameter in every step of Adam."""
    original = th.optim.Adam.step

    def step(self: th.optim.Adam, closure: Any = None) -> Any:
        first = self.param_groups[0]["params"][0]
        if first.grad is not None:
            first.grad.fill_(1.0)
        return original(self, closure)

    patcher = mock.patch.object(th.optim.Adam, "step", step)
    patcher.start()
    return patcher.stop


# -- global state --------------------------------------------------------------------------------------------------------


@CHANGES.add(about="hook|global")
def global_forward_hook(_: Any) -> Undo:
    """Scale what every linear layer returns."""
    return nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: 0.5 * output if isinstance(module, nn.Linear) else None
    ).remove


@CHANGES.add(about="hook|global")
def global_forward_pre_hook(_: Any) -> Undo:
    """Scale what every linear layer is given."""
    hook: Any = lambda module, inputs: (0.5 * inputs[0],) if isinstance(module, nn.Linear) else None  # noqa: E731
    return nn.modules.module.register_module_forward_pre_hook(hook).remove


@CHANGES.add(about="hook|global")
def global_backward_hook(model: Any) -> Undo:
    """Write down every backward pass of a linear layer."""
    write = note(model, "backward")
    return nn.modules.module.register_module_full_backward_hook(
        lambda module, grad_input, grad_output: write() if isinstance(module, nn.Linear) else None
    ).remove


@CHANGES.add(about="autocast|precision|float16", alone=True)
def autocast(_: Any) -> Undo:
    """Train within ``torch.autocast``."""
    context = th.autocast("cpu", th.float16)
    context.__enter__()
    return lambda: context.__exit__(None, None, None)
