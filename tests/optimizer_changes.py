"""What torch users do to a policy's optimizer: another one, other groups, steps of their own, other states, hooks."""

from __future__ import annotations

import copy
from typing import Any

import torch as th
import torch.optim.optimizer as torch_optimizer
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from tests.policy_changes import Catalogue, Undo, own_stream
from tests.policy_changes import new_adam as adam

CHANGES = Catalogue()
LR = 1e-3


# -- another one ---------------------------------------------------------------------------------------------------------


@CHANGES.add(served=True)
def new_adam(model: Any) -> None:
    """A new optimizer as SB3 builds it."""
    adam(model)


@CHANGES.add(about="optimizer|Adam|amsgrad")
def new_adam_with_amsgrad(model: Any) -> None:
    """A further state for each parameter."""
    model.policy.optimizer = th.optim.Adam(model.policy.parameters(), lr=LR, amsgrad=True)


@CHANGES.add(about="optimizer|Adam|maximi")
def new_adam_that_maximises(model: Any) -> None:
    """Steps in the other direction."""
    model.policy.optimizer = th.optim.Adam(model.policy.parameters(), lr=LR, maximize=True)


@CHANGES.add(about="optimizer|Adam|fused")
def new_adam_with_torchs_kernel(model: Any) -> None:
    """Torch's own fused steps."""
    model.policy.optimizer = th.optim.Adam(model.policy.parameters(), lr=LR, fused=True)


@CHANGES.add(about="optimizer|Adam|foreach")
def new_adam_for_each(model: Any) -> None:
    """Torch's steps of all parameters at once."""
    model.policy.optimizer = th.optim.Adam(model.policy.parameters(), lr=LR, foreach=True)


@CHANGES.add(served=True)
def new_adamw(model: Any) -> None:
    """Decoupled weight decay."""
    model.policy.optimizer = th.optim.AdamW(model.policy.parameters(), lr=LR, weight_decay=0.5)


@CHANGES.add(served=True)
def new_adam_with_weight_decay(model: Any) -> None:
    """The penalty in the gradient."""
    model.policy.optimizer = th.optim.Adam(model.policy.parameters(), lr=LR, weight_decay=0.1)


@CHANGES.add(about="optimizer|SGD")
def new_sgd_with_momentum(model: Any) -> None:
    """Heavy-ball momentum."""
    model.policy.optimizer = th.optim.SGD(model.policy.parameters(), lr=LR, momentum=0.9)


@CHANGES.add(about="optimizer|SGD")
def new_sgd_with_nesterov(model: Any) -> None:
    """Nesterov's momentum and a weight decay."""
    model.policy.optimizer = th.optim.SGD(model.policy.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=0.01)


@CHANGES.add(about="optimizer|RMSprop")
def new_rmsprop(model: Any) -> None:
    """Centred, with momentum."""
    model.policy.optimizer = th.optim.RMSprop(model.policy.parameters(), lr=LR, centered=True, momentum=0.5)


@CHANGES.add(about="optimizer|RMSprop")
def new_rmsprop_like_tensorflows(model: Any) -> None:
    """SB3's own optimizer."""
    model.policy.optimizer = RMSpropTFLike(model.policy.parameters(), lr=LR)


@CHANGES.add(about="optimizer|NAdam")
def new_nadam(model: Any) -> None:
    """An optimizer that nobody derived by hand."""
    model.policy.optimizer = th.optim.NAdam(model.policy.parameters(), lr=LR)


class CautiousAdam(th.optim.Adam):
    """A user's subclass: it halves the gradients of the first parameter."""

    def step(self, closure: Any = None) -> Any:
        """Take a step."""
        first = self.param_groups[0]["params"][0]
        if first.grad is not None:
            first.grad.mul_(0.5)
        return super().step(closure)


@CHANGES.add(about="optimizer|Adam")
def new_optimizer_of_ones_own(model: Any) -> None:
    """A subclass of torch's."""
    model.policy.optimizer = CautiousAdam(model.policy.parameters(), lr=LR)


# -- groups --------------------------------------------------------------------------------------------------------------


@CHANGES.add(about="group")
def two_parameter_groups(model: Any) -> None:
    """A step size and weight decay of its own for the critic; ``learn`` sets the step size of all groups."""
    critic = [one for name, one in model.policy.named_parameters() if "value" in name]
    rest = [one for name, one in model.policy.named_parameters() if "value" not in name]
    groups: list[dict[str, Any]] = [{"params": rest}, {"params": critic, "lr": 0.1, "weight_decay": 0.1}]
    model.policy.optimizer = th.optim.Adam(groups, lr=LR)


@CHANGES.add(about="group|eps|betas")
def groups_with_other_betas(model: Any) -> None:
    """Groups that differ in what ``learn`` does not set."""
    one, *rest = model.policy.parameters()
    groups: list[dict[str, Any]] = [{"params": [one], "betas": (0.5, 0.9)}, {"params": rest, "eps": 1e-3}]
    model.policy.optimizer = th.optim.Adam(groups, lr=LR)


@CHANGES.add(about="optimizer|parameters")
def optimizer_over_some_parameters(model: Any) -> None:
    """Leave the first and the last two parameters out, without freezing them."""
    model.policy.optimizer = th.optim.Adam(list(model.policy.parameters())[1:-2], lr=LR)


@CHANGES.add(about="optimizer|parameters|order")
def optimizer_in_another_order(model: Any) -> None:
    """Give the optimizer all parameters, the last one first."""
    model.policy.optimizer = th.optim.SGD(list(model.policy.parameters())[::-1], lr=LR, momentum=0.5)


@CHANGES.add(about="optimizer|parameters|frozen")
def optimizer_over_what_is_not_frozen(model: Any) -> None:
    """Freeze the actor's tower, and give the rest to a new optimizer."""
    model.policy.mlp_extractor.policy_net.requires_grad_(False)
    model.policy.optimizer = th.optim.Adam([one for one in model.policy.parameters() if one.requires_grad], lr=LR)


@CHANGES.add(about="optimizer|parameters")
def a_parameter_twice_in_the_group(model: Any) -> None:
    """Torch steps twice with the value's bias, if somebody lists it again."""
    model.policy.optimizer.param_groups[0]["params"].append(model.policy.value_net.bias)


@CHANGES.add(served=True)
def hyperparameters_of_the_group(model: Any) -> None:
    """Set options of the optimizer that is there."""
    model.policy.optimizer.param_groups[0].update(weight_decay=0.1, eps=1e-4, betas=(0.8, 0.95))


@CHANGES.add(served=True, neutral=True)
def learning_rate_of_the_group(model: Any) -> None:
    """Set the step size, which ``learn`` sets to the schedule's."""
    model.policy.optimizer.param_groups[0]["lr"] = 0.5


# -- steps of the user's own ---------------------------------------------------------------------------------------------


def pretrain(model: Any, optimizer: th.optim.Optimizer, actor: float, critic: float) -> None:
    """Clone a behaviour, fit values, or both, on made-up data."""
    space = model.action_space
    with own_stream():
        observations = th.randn(16, *model.observation_space.shape)
        shape = (16,) if not space.shape and not hasattr(space, "nvec") else (16, *space.shape)
        actions = th.randn(shape) if hasattr(space, "low") else th.randint(0, 2, shape)
    for _ in range(3):
        values, log_prob, _ = model.policy.evaluate_actions(observations, actions)
        optimizer.zero_grad()
        losses = [(actor, -log_prob.mean()), (critic, ((values - 3) ** 2).mean())]
        # A loss without weight is left out: a parameter without a gradient takes no step, one with a gradient of zero does.
        sum(weight * loss for weight, loss in losses if weight).backward()
        optimizer.step()


@CHANGES.add(about="optimizer|state|step")
def pretrained_actor(model: Any) -> None:
    """Behaviour cloning with the policy's own optimizer: the critic has taken no step then."""
    pretrain(model, model.policy.optimizer, 1.0, 0.0)


@CHANGES.add(about="optimizer|state|step")
def pretrained_critic(model: Any) -> None:
    """A warm-up of the critic with the policy's own optimizer."""
    pretrain(model, model.policy.optimizer, 0.0, 1.0)


@CHANGES.add(served=True)
def pretrained_both(model: Any) -> None:
    """Both losses with the policy's own optimizer."""
    pretrain(model, model.policy.optimizer, 1.0, 0.5)


@CHANGES.add(served=True)
def pretrained_with_another_optimizer(model: Any) -> None:
    """Both losses with an optimizer that is thrown away: it leaves gradients behind, and no state."""
    pretrain(model, th.optim.SGD(model.policy.parameters(), lr=0.01), 1.0, 0.5)


# -- states --------------------------------------------------------------------------------------------------------------


@CHANGES.add(served=True)
def state_cleared(model: Any) -> None:
    """Forget all moments."""
    model.policy.optimizer.state.clear()


@CHANGES.add(served=True)
def state_loaded_empty(model: Any) -> None:
    """Forget all moments by loading a state without any."""
    model.policy.optimizer.load_state_dict({**model.policy.optimizer.state_dict(), "state": {}})


@CHANGES.add(served=True, neutral=True)
def state_loaded(model: Any) -> None:
    """Load the state as it is: other tensors of the same values."""
    model.policy.optimizer.load_state_dict(copy.deepcopy(model.policy.optimizer.state_dict()))


@CHANGES.add(about="optimizer|state|step")
def state_of_one_parameter_deleted(model: Any) -> None:
    """Forget the moments of one parameter."""
    model.policy.optimizer.state.pop(model.policy.action_net.weight, None)


def states(model: Any) -> list[dict[str, Any]]:
    """The optimizer's states, one a parameter, in the order of the parameters."""
    optimizer = model.policy.optimizer
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [optimizer.state[parameter] for parameter in parameters if parameter in optimizer.state]


@CHANGES.add(served=True)
def moments_zeroed(model: Any) -> None:
    """Set all moments to zero, and leave the count of steps."""
    for state in states(model):
        for name, value in state.items():
            if name != "step" and isinstance(value, th.Tensor):
                value.zero_()


@CHANGES.add(served=True)
def moments_replaced(model: Any) -> None:
    """Put other tensors in the place of the moments."""
    for state in states(model):
        for name, value in state.items():
            if name != "step" and isinstance(value, th.Tensor):
                state[name] = 0.5 * value


@CHANGES.add(served=True)
def steps_edited(model: Any) -> None:
    """Let Adam's correction of the bias believe that 100 steps have been taken."""
    for state in states(model):
        if isinstance(state.get("step"), th.Tensor):
            state["step"].fill_(100)


@CHANGES.add(about="optimizer|state|step")
def steps_of_one_parameter_edited(model: Any) -> None:
    """The same for one parameter only."""
    for state in states(model)[:1]:
        if isinstance(state.get("step"), th.Tensor):
            state["step"] = th.tensor(100.0)


# -- hooks and patches ---------------------------------------------------------------------------------------------------


def halve_first(optimizer: th.optim.Optimizer, *_: Any) -> None:
    """Halve the gradient of the first parameter."""
    first = optimizer.param_groups[0]["params"][0]
    if first.grad is not None:
        first.grad.mul_(0.5)


def clip_weights(optimizer: th.optim.Optimizer, *_: Any) -> None:
    """Keep the first parameter's weights within bounds."""
    with th.no_grad():
        optimizer.param_groups[0]["params"][0].clamp_(-0.1, 0.1)


@CHANGES.add(about="hook|optimizer")
def step_pre_hook(model: Any) -> None:
    """Change gradients before each step."""
    model.policy.optimizer.register_step_pre_hook(halve_first)


@CHANGES.add(about="hook|optimizer")
def step_post_hook(model: Any) -> None:
    """Change weights after each step."""
    model.policy.optimizer.register_step_post_hook(clip_weights)


@CHANGES.add(about="hook|optimizer")
def global_step_pre_hook(_: Any) -> Undo:
    """Change gradients before each step of every optimizer."""
    return torch_optimizer.register_optimizer_step_pre_hook(halve_first).remove


@CHANGES.add(about="hook|optimizer")
def global_step_post_hook(_: Any) -> Undo:
    """Change weights after each step of every optimizer."""
    return torch_optimizer.register_optimizer_step_post_hook(clip_weights).remove


@CHANGES.add(about="patch|replaced|overrid|optimizer|step|method")
def patched_step(model: Any) -> None:
    """Take each step twice."""
    optimizer = model.policy.optimizer
    original = optimizer.step

    def twice(*arguments: Any) -> None:
        original(*arguments)
        original(*arguments)

    optimizer.step = twice


@CHANGES.add(about="patch|replaced|overrid|optimizer|zero_grad|method")
def patched_zero_grad(model: Any) -> None:
    """Never forget a gradient."""
    model.policy.optimizer.zero_grad = lambda set_to_none=True: None


@CHANGES.add(neutral=True, about="patch|replaced|overrid|optimizer|schedul|step|method")
def scheduler_attached(model: Any) -> None:
    """Attach a schedule of the step size that nobody steps; torch patches the optimizer's ``step`` to count its calls."""
    model.scheduler = th.optim.lr_scheduler.LambdaLR(model.policy.optimizer, lambda step: 1.0)


@CHANGES.add(about="hook|optimizer|patch|replaced|schedul|method")
def scheduler_stepped(model: Any) -> None:
    """Let a schedule decay the step size after each step of an update."""
    scheduler = th.optim.lr_scheduler.ExponentialLR(model.policy.optimizer, 0.7)
    model.policy.optimizer.register_step_post_hook(lambda *_: scheduler.step())
