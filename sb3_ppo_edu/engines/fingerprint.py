"""
What an engine with backward passes of its own has to know of a policy: whether it is still the one that was looked at.

Torch calls a policy's modules, and everybody may change what such a call does: replace a module or parameter, freeze it, put a
hook on a module or tensor, patch a method of an instance or a class, build another optimizer. :func:`fingerprint` collects all
that at little cost, so that it can be compared before each rollout and each update; :func:`why_not_plain` names the first
thing that a backward pass by hand would leave out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise, repeat
from operator import getitem, is_, itemgetter
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common import distributions as sb3_distributions
from stable_baselines3.common import policies as sb3_policies
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, MlpExtractor
from torch import nn
from torch._C import _len_torch_dispatch_stack, _len_torch_function_stack
from torch.nn import functional
from torch.nn.modules import module as torch_module
from torch.optim import optimizer as torch_optimizer
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from sb3_ppo_edu.functional import distributions, losses
from sb3_ppo_edu.functional.objectives import Objective, PPOObjective
from sb3_ppo_edu.policies.further_inputs import sb3_contribs
from sb3_ppo_edu.policies.net_arch import NetArchExtractor, base_of


def is_foreign(function: Any, module: str) -> bool:
    """Tell whether a function, or one that it is wrapped around, was written neither in a module nor in torch."""
    while isinstance(function, FunctionType):
        written_in = function.__code__.co_filename
        if written_in != sys.modules[module].__file__ and not written_in.startswith(th.__path__[0]):
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def active_mode() -> str | None:
    """Name a mode that sees every call of torch's, but the default device, which changes nothing here."""
    if not _len_torch_function_stack() and not _len_torch_dispatch_stack():
        return None  # in a tenth of the time
    modes = (*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack())
    return next((type(mode).__name__ for mode in modes if type(mode) is not DeviceContext), None)


MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
NUMBERS = (float, int, str, np.generic)
"""Kinds of values that options of an activation have."""
WITHOUT_OPTIONS = len(vars(nn.Module()))
"""Attributes of a module without any of its own."""
module_parts = itemgetter("_parameters", "_modules", "_buffers", *MODULE_HOOKS)

ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.ELU, nn.LeakyReLU, nn.GELU, nn.SiLU)
FORWARDS = (FlattenExtractor, CombinedExtractor, nn.Flatten, nn.Linear, nn.LayerNorm, nn.LSTM, nn.GRU, *ACTIVATIONS)
DISTRIBUTIONS = (
    sb3_distributions.CategoricalDistribution,
    sb3_distributions.MultiCategoricalDistribution,
    sb3_distributions.BernoulliDistribution,
    sb3_distributions.DiagGaussianDistribution,
    distributions.TanhGaussianDistribution,
    distributions.BetaDistribution,
    sb3_distributions.StateDependentNoiseDistribution,
)
TORCHS_DISTRIBUTIONS = (th.distributions.Normal, th.distributions.Categorical, th.distributions.Bernoulli)
POLICY_METHODS = (
    *("forward", "evaluate_actions", "predict_values", "extract_features", "_get_action_dist_from_latent"),
    "_process_sequence",  # of policies with a memory
)
DISTRIBUTION_METHODS = ("proba_distribution", "log_prob", "entropy", "sample", "get_actions", "get_std", "get_noise")


MASKED_POLICIES = ("MaskableActorCriticPolicy", "MaskableMultiInputActorCriticPolicy")
MASKED_DISTRIBUTIONS = (
    "MaskableCategoricalDistribution",
    "MaskableMultiCategoricalDistribution",
    "MaskableBernoulliDistribution",
)
"""Policies and distributions of sb3-contrib that are known as SB3's are."""


def own_functions(owner: Any, *names: str) -> Iterator[tuple[Any, str, Any, Any]]:
    """Those of a class's or module's functions that it has itself: owner, name, function, and where to look it up."""
    for name in names:
        if name in vars(owner):
            yield owner, name, vars(owner)[name], vars(owner)


PATCHABLE = [
    *own_functions(nn.Module, "__call__", "_call_impl"),
    *own_functions(BaseModel, "extract_features"),
    *own_functions(ActorCriticPolicy, *POLICY_METHODS),
    *own_functions(MlpExtractor, "forward", "forward_actor", "forward_critic"),
    *own_functions(NetArchExtractor, "forward", "forward_actor", "forward_critic"),
    *(found for owner in FORWARDS for found in own_functions(owner, "forward")),
    *(found for owner in DISTRIBUTIONS for found in own_functions(owner, *DISTRIBUTION_METHODS)),
    *own_functions(sb3_distributions.Distribution, "get_actions"),
    *own_functions(sb3_distributions.TanhBijector, "forward", "atanh", "inverse", "log_prob_correction"),
    *own_functions(sb3_distributions, "sum_independent_dims"),
    *own_functions(sb3_policies, "preprocess_obs"),
    *(found for owner in TORCHS_DISTRIBUTIONS for found in own_functions(owner, "log_prob", "entropy", "sample", "rsample")),
    *own_functions(functional, "mse_loss", "linear", "layer_norm", "softmax", "one_hot"),
    *own_functions(Objective, "policy_loss", "value_loss", "entropy_loss", "weights", "__call__"),
    *own_functions(PPOObjective, "policy_loss", "value_loss", "entropy_loss", "weights", "__call__", "gradients"),
    *own_functions(losses, "clipped_surrogate_loss", "value_loss", "entropy_loss", "average", "normalize_advantages"),
    *own_functions(th.optim.Optimizer, "zero_grad"),
    *own_functions(th.nn.utils, "clip_grad_norm_"),
]
"""Functions that a training goes through, as they were when this was imported."""

MAPPINGS, NAMES, FUNCTIONS = ([found[index] for found in PATCHABLE] for index in (3, 1, 2))

FOREIGN = [
    f"{owner.__name__}.{name}"
    for owner, name, function, _ in PATCHABLE
    if isinstance(owner, type) and is_foreign(function, owner.__module__)
]
"""Those that had been replaced before this was imported."""


def functions_of_masks(policy: Any) -> list[tuple[Any, str, Any]]:
    """Functions of sb3-contrib that a training with masks goes through, as they are now: owner, name, function."""
    kinds = sb3_contribs("maskable.policies", *MASKED_POLICIES)
    if base_of(type(policy)) not in kinds:
        return []
    distributions = sb3_contribs("maskable.distributions", "MaskableCategorical", *MASKED_DISTRIBUTIONS)
    names = {kinds[0]: POLICY_METHODS, **dict.fromkeys(distributions, ("__init__", "apply_masking", *DISTRIBUTION_METHODS))}
    return [found[:3] for owner, methods in names.items() for found in own_functions(owner, *methods)]


class Fingerprint(NamedTuple):
    """
    What a policy and its optimizer were made of.

    :param objects: modules, parameters, types and the like, compared by identity
    :param facts: everything else, compared by value
    """

    objects: list[Any]
    facts: list[Any]

    def matches(self, other: Fingerprint) -> bool:
        """Tell whether both are of the same policy in the same state, but for the values of its numbers."""
        same_length = len(self.objects) == len(other.objects)
        return same_length and all(map(is_, self.objects, other.objects)) and self.facts == other.facts


def fingerprint(policy: ActorCriticPolicy) -> Fingerprint:
    """
    Collect what decides which operations a training consists of.

    Values of parameters and moments, learning rates and the training mode are left out: they change all the time.

    :param policy: actor-critic policy with its optimizer
    :return: its fingerprint
    """
    optimizer, distribution = policy.optimizer, getattr(policy, "action_dist", None)
    bijector = getattr(distribution, "bijector", None)
    kind: Any = type(optimizer)
    objects: list[Any] = [policy, optimizer, kind, kind.step, kind.zero_grad]
    objects += map(getattr, repeat(type(policy)), POLICY_METHODS, repeat(None))
    objects += [function for *_, function in functions_of_masks(policy)]
    facts: list[Any] = [
        all(map(is_, map(getitem, MAPPINGS, NAMES), FUNCTIONS)),
        bool(torch_module._has_any_global_hook()),
        len(torch_optimizer._global_optimizer_pre_hooks) + len(torch_optimizer._global_optimizer_post_hooks),
        [len(getattr(optimizer, name, ())) for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")],
        th.is_autocast_enabled("cpu"),
        active_mode(),
        th.is_grad_enabled(),
        *optimizer.__dict__,
        getattr(policy, "normalize_images", None),
        getattr(policy, "shared_lstm", None),
        getattr(getattr(policy, "mlp_extractor", None), "actor_inputs", None),
    ]
    for thing in (distribution, bijector):
        objects += (thing, type(thing))
        facts += (options := getattr(thing, "__dict__", {}))
        facts += [value for value in options.values() if isinstance(value, NUMBERS)]
    modules: list[Any] = [policy]
    seen = {policy}
    for module in modules:  # grows while it is walked
        attributes = module.__dict__
        parameters, children, buffers, before, around, backward, backward_before = module_parts(attributes)
        kind = type(module)
        objects += (kind, kind.__call__)
        facts += attributes
        facts.append(not (before or around or backward or backward_before))
        if parameters:
            objects += parameters.values()
            for parameter in parameters.values():
                if type(parameter) is nn.Parameter:
                    hooked = parameter._backward_hooks or parameter._post_accumulate_grad_hooks
                    facts += (parameter.shape, parameter.data_ptr(), parameter.stride(), parameter.requires_grad, not hooked)
                elif parameter is not None:
                    facts += (type(parameter), parameter.requires_grad)
        has_options = isinstance(module, (nn.RNNBase, nn.LayerNorm)) or (not parameters and len(attributes) > WITHOUT_OPTIONS)
        if not children and has_options:  # of an activation, of recurrent layers, or of a LayerNorm
            facts += [value for name, value in attributes.items() if name != "training" and isinstance(value, NUMBERS)]
        for child in children.values():
            objects.append(child)
            if child is not None and child not in seen:
                seen.add(child)
                modules.append(child)
        if buffers:
            objects += buffers.values()
    for group in optimizer.param_groups:
        objects += group["params"]
        facts += [value for name, value in group.items() if name not in ("params", "lr")]
    return Fingerprint(objects, facts)


def why_not_plain(policy: ActorCriticPolicy) -> str | None:
    """
    Find the first thing about a policy that only torch's own calls would honour.

    :param policy: actor-critic policy with its optimizer
    :return: what it is, as the end of a sentence, or None if there is nothing
    """
    if th.is_autocast_enabled("cpu"):
        return "autocast is on"
    if mode := active_mode():
        return f"a {mode} is active"
    if not th.is_grad_enabled():
        return "gradients are switched off"
    if torch_module._has_any_global_hook():
        return "there is a global module hook"
    replaced = [
        f"{owner.__name__}.{name}" for owner, name, function, mapping in PATCHABLE if mapping.get(name) is not function
    ]
    replaced += [
        f"{owner.__name__}.{name}"
        for owner, name, function in functions_of_masks(policy)
        if not isinstance(function, FunctionType) or is_foreign(function, owner.__module__)
    ]
    if replaced or FOREIGN:
        return f"{(replaced + FOREIGN)[0]} has been replaced"
    for path, module in policy.named_modules():
        where = f"policy.{path}" if path else "the policy"
        for name in MODULE_HOOKS:
            if vars(module)[name]:
                return f"{where} has hooks"
        if type(module).__call__ is not nn.Module.__call__:
            return f"{type(module).__name__}.__call__ has been replaced"
        if patched := patched_methods(module):
            return f"{where}.{patched[0]} has been replaced"
    for path, parameter in policy.named_parameters():
        if type(parameter) is not nn.Parameter:
            return f"policy.{path} is a {type(parameter).__name__}"
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            return f"policy.{path} has hooks"
    distribution = getattr(policy, "action_dist", None)
    for where, thing in (("", distribution), ("bijector.", getattr(distribution, "bijector", None))):
        if patched := patched_methods(thing):
            return f"policy.action_dist.{where}{patched[0]} has been replaced"
    return None


def why_not_plain_optimizer(optimizer: th.optim.Optimizer) -> str | None:
    """
    Find the first thing about an optimizer that only its own ``step`` would honour.

    :param optimizer: the policy's optimizer
    :return: what it is, as the end of a sentence, or None if there is nothing
    """
    if torch_optimizer._global_optimizer_pre_hooks or torch_optimizer._global_optimizer_post_hooks:
        return "there is a global optimizer hook"
    if any(getattr(optimizer, name, None) for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")):
        return "the optimizer has hooks"
    # Torch itself puts one of its own functions around ``step``, on the class.
    if is_foreign(type(optimizer).step, type(optimizer).__module__):
        return f"{type(optimizer).__name__}.step has been replaced"
    if type(optimizer).zero_grad is not th.optim.Optimizer.zero_grad:
        return f"{type(optimizer).__name__}.zero_grad has been replaced"
    if patched := patched_methods(optimizer):
        return f"policy.optimizer.{patched[0]} has been replaced"
    return None


def overlap(tensors: Iterable[th.Tensor]) -> bool:
    """
    Tell whether any of some dense tensors share a part of their memory.

    :param tensors: the tensors; one that is there twice overlaps itself
    :return: True if there are such
    """
    spans = sorted((tensor.data_ptr(), span_of(tensor)) for tensor in tensors if tensor.numel())
    return any(start + size > following for (start, size), (following, _) in pairwise(spans))


def span_of(tensor: th.Tensor) -> int:
    """Bytes from a tensor's first element to its last, that one included."""
    strides = zip(tensor.shape, tensor.stride(), strict=True)
    return (1 + sum((size - 1) * stride for size, stride in strides)) * tensor.element_size()


def has_memory(tensor: th.Tensor) -> bool:
    """Tell whether a tensor's storage reaches as far as the tensor does: whoever offloads parameters shrinks it to nothing."""
    if not tensor.numel():
        return True
    end = tensor.storage_offset() * tensor.element_size() + span_of(tensor)
    return tensor.untyped_storage().nbytes() >= end


def holders_of(tensor: th.Tensor) -> tuple[int, int]:
    """
    Count who has a tensor or its memory: more than before means that somebody keeps it, or a view or array of it.

    :param tensor: the tensor
    :return: references to it, and tensors that share its memory, of which some are always there
    """
    torchs: Any = th._C
    return sys.getrefcount(tensor), torchs._storage_Use_Count(tensor.untyped_storage()._cdata)


def patched_methods(thing: Any) -> list[str]:
    """Names of methods of its class that an object carries itself, so that they are called instead."""
    kind = type(thing)
    return [
        name for name in getattr(thing, "__dict__", ()) if callable(getattr(kind, name, None)) or name == "_compiled_call_impl"
    ]
