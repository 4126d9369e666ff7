"""What torch users do to a policy: its modules, its parameters and its weights. Each is a small function of the model."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from torch import nn
from torch.nn.utils import parametrizations, prune

Undo = Callable[[], object] | None
Function = Callable[[Any], Undo]


@dataclass(frozen=True)
class Change:
    """
    One of the things that users do.

    :param name: the function's
    :param apply: does it to a model, and returns what takes it back where it reaches beyond the model
    :param box: it needs actions in a Box
    :param served: it changes nothing but numbers, or ends with a policy as SB3 builds them: the default engine goes on with it
    :param neutral: SB3's training need not differ from one without it
    :param alone: it goes with no other change
    :param about: a word of the reason, where an engine falls back
    """

    name: str
    apply: Function
    box: bool = False
    served: bool = False
    neutral: bool = False
    alone: bool = False
    about: str = ""


class Catalogue(dict[str, Change]):
    """Changes by name."""

    def add(self, **properties: Any) -> Callable[[Function], Function]:
        """Decorate a function that is one, with its properties."""

        def register(function: Function) -> Function:
            name = function.__name__
            self[name] = Change(name, function, **properties)
            return function

        return register


CHANGES = Catalogue()


@contextmanager
def own_stream() -> Iterator[None]:
    """Draw what a change draws from a stream of its own, so that it is the same for every model."""
    with th.random.fork_rng(devices=[]):
        th.manual_seed(7)
        yield


def new_adam(model: Any) -> None:
    """Give the policy a new optimizer for the parameters it has now."""
    model.policy.optimizer = th.optim.Adam(model.policy.parameters(), lr=1e-3, eps=1e-5)


def linear(like: nn.Linear) -> nn.Linear:
    """A fresh layer of the same shape."""
    with own_stream():
        return nn.Linear(like.in_features, like.out_features)


@CHANGES.add(served=True, neutral=True)
def nothing(model: Any) -> None:
    """Leave everything as it is."""


# -- frozen --------------------------------------------------------------------------------------------------------------


@CHANGES.add(about="frozen|requires_grad|grad")
def freeze_actor_tower(model: Any) -> None:
    """Freeze the hidden layers of the actor, as SB3's maintainers advise."""
    model.policy.mlp_extractor.policy_net.requires_grad_(False)


@CHANGES.add(about="frozen|requires_grad|grad")
def freeze_critic(model: Any) -> None:
    """Freeze the whole critic."""
    model.policy.mlp_extractor.value_net.requires_grad_(False)
    model.policy.value_net.requires_grad_(False)


@CHANGES.add(about="frozen|requires_grad|grad")
def freeze_first_layers(model: Any) -> None:
    """Freeze the first layer of both towers."""
    model.policy.mlp_extractor.policy_net[0].requires_grad_(False)
    model.policy.mlp_extractor.value_net[0].requires_grad_(False)


@CHANGES.add(about="frozen|requires_grad|grad")
def freeze_biases(model: Any) -> None:
    """Freeze the biases and nothing else."""
    for name, parameter in model.policy.named_parameters():
        parameter.requires_grad_(not name.endswith("bias"))


@CHANGES.add(about="frozen|requires_grad|grad", box=True)
def freeze_log_std(model: Any) -> None:
    """Keep the exploration as it is."""
    model.policy.log_std.requires_grad_(False)


@CHANGES.add(served=True, neutral=True)
def freeze_and_unfreeze(model: Any) -> None:
    """Toggle ``requires_grad`` and back."""
    model.policy.requires_grad_(False)
    model.policy.requires_grad_(True)


@CHANGES.add(about="frozen|requires_grad|optimizer|parameters")
def linear_probe(model: Any) -> None:
    """Freeze all but the head, and give only that to an optimizer."""
    model.policy.requires_grad_(False)
    model.policy.action_net.requires_grad_(True)
    model.policy.optimizer = th.optim.Adam(model.policy.action_net.parameters(), lr=1e-3)


# -- new modules ---------------------------------------------------------------------------------------------------------


@CHANGES.add(served=True)
def new_head(model: Any) -> None:
    """Start with a new head, for another task, and a new optimizer."""
    model.policy.action_net = linear(model.policy.action_net)
    new_adam(model)


@CHANGES.add(about="optimizer|parameters")
def new_head_that_nobody_trains(model: Any) -> None:
    """Forget that the optimizer has the old head's parameters."""
    model.policy.action_net = linear(model.policy.action_net)


@CHANGES.add(served=True)
def new_value_net(model: Any) -> None:
    """Start with a new value function on the features of the old one."""
    model.policy.value_net = linear(model.policy.value_net)
    new_adam(model)


@CHANGES.add(served=True, box=True)
def new_log_std(model: Any) -> None:
    """Explore less from now on."""
    model.policy.log_std = nn.Parameter(th.full_like(model.policy.log_std.detach(), -1.0))
    new_adam(model)


@CHANGES.add(about="optimizer|parameters")
def new_bias_that_nobody_trains(model: Any) -> None:
    """Put a new parameter in the place of one, without telling the optimizer."""
    model.policy.action_net.bias = nn.Parameter(model.policy.action_net.bias.detach() + 0.1)


def towers(model: Any, *layers: str, activation: type[nn.Module] = nn.Tanh, which: str = "both", hidden: int = 8) -> None:
    """Build towers anew, from the width of the features to that of the old tower's last layer, and an optimizer."""
    extractor = model.policy.mlp_extractor
    for name, latent in (("policy_net", extractor.latent_dim_pi), ("value_net", extractor.latent_dim_vf)):
        if which in ("both", name):
            with own_stream():
                modules: list[nn.Module] = [nn.Linear(model.policy.features_dim, hidden)]
                for layer in layers:
                    modules.append({"norm": nn.LayerNorm(hidden), "dropout": nn.Dropout(0.2)}[layer])
                modules += [activation(), nn.Linear(hidden, latent), activation()]
            setattr(extractor, name, nn.Sequential(*modules))
    new_adam(model)


@CHANGES.add(served=True)
def new_towers(model: Any) -> None:
    """Start both towers anew."""
    towers(model)


@CHANGES.add(served=True)
def new_towers_of_another_width(model: Any) -> None:
    """Start both towers anew, with hidden layers of 5 units."""
    towers(model, hidden=5)


@CHANGES.add(served=True)
def new_actor_tower_of_another_width(model: Any) -> None:
    """Start the actor's tower anew: the two now differ in shape."""
    towers(model, which="policy_net", hidden=12)


@CHANGES.add(served=True)
def new_towers_with_relu(model: Any) -> None:
    """Start both towers anew, with another activation."""
    towers(model, activation=nn.ReLU)


@CHANGES.add(about="activation|tower|network|differ")
def new_actor_tower_with_relu(model: Any) -> None:
    """Start the actor's tower anew: the two now have different activations."""
    towers(model, which="policy_net", activation=nn.ReLU)


@CHANGES.add(about="network|tower|activation|dropout")
def new_towers_with_dropout(model: Any) -> None:
    """Towers that draw random numbers while training."""
    towers(model, "dropout")


@CHANGES.add(about="network|tower|activation|norm")
def new_actor_tower_with_layer_norm(model: Any) -> None:
    """A tower with a layer that is neither linear nor an activation."""
    towers(model, "norm", which="policy_net")


@CHANGES.add(about="activation|tower|network")
def new_activation_of_the_critic(model: Any) -> None:
    """Exchange one activation module for another in place."""
    model.policy.mlp_extractor.value_net[1] = nn.ReLU()


@CHANGES.add(about="share|tied|tower|network|parameter")
def shared_first_layer(model: Any) -> None:
    """Let both towers have the same first layer."""
    model.policy.mlp_extractor.value_net[0] = model.policy.mlp_extractor.policy_net[0]
    new_adam(model)


@CHANGES.add(about="share|tied|tower|network|parameter")
def tied_weights(model: Any) -> None:
    """Let the first layers of both towers have the same weight, each with a bias of its own."""
    model.policy.mlp_extractor.value_net[0].weight = model.policy.mlp_extractor.policy_net[0].weight
    new_adam(model)


class LinearExtractor(BaseFeaturesExtractor):
    """One linear layer as wide as the observation."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space, observation_space.shape[0])
        with own_stream():
            self.linear = nn.Linear(observation_space.shape[0], observation_space.shape[0])

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Features."""
        out: th.Tensor = self.linear(observations)
        return out


class HalvingExtractor(FlattenExtractor):
    """SB3's own extractor but for the scale."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Features."""
        return 0.5 * super().forward(observations)


class DoubleExtractor(FlattenExtractor):
    """Casts to float64."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Features."""
        return super().forward(observations).double()


def extractor(model: Any, module: nn.Module) -> None:
    """Give actor and critic one features extractor."""
    policy = model.policy
    policy.features_extractor = policy.pi_features_extractor = policy.vf_features_extractor = module


@CHANGES.add(about="extractor")
def new_features_extractor(model: Any) -> None:
    """Learn features."""
    extractor(model, LinearExtractor(model.observation_space))
    new_adam(model)


@CHANGES.add(about="extractor")
def new_features_extractor_without_parameters(model: Any) -> None:
    """Scale the observations inside the policy."""
    extractor(model, HalvingExtractor(model.observation_space))


@CHANGES.add(about="extractor")
def separate_features_extractors(model: Any) -> None:
    """Let the critic see other features than the actor."""
    model.policy.share_features_extractor = False
    model.policy.vf_features_extractor = HalvingExtractor(model.observation_space)


@CHANGES.add(about="float|double|dtype|extractor", alone=True)
def double_precision(model: Any) -> None:
    """Compute in float64."""
    extractor(model, DoubleExtractor(model.observation_space))
    model.policy.double()
    new_adam(model)


@CHANGES.add(about="parameter", neutral=True)
def unused_parameter(model: Any) -> None:
    """Let the policy have a parameter that no loss depends on."""
    model.policy.temperature = nn.Parameter(th.ones(3))


@CHANGES.add(about="parameter", neutral=True)
def unused_parameter_in_the_optimizer(model: Any) -> None:
    """Let the optimizer have it too."""
    model.policy.temperature = nn.Parameter(th.ones(3))
    model.policy.optimizer.param_groups[0]["params"].append(model.policy.temperature)


@CHANGES.add(about="parametri|hook|spectral|layer|network")
def spectral_norm(model: Any) -> None:
    """Bound the slope of the head; each forward pass in training mode changes a buffer."""
    with own_stream():
        parametrizations.spectral_norm(model.policy.action_net)


@CHANGES.add(about="parametri|hook|weight|layer|network|optimizer")
def weight_norm(model: Any) -> None:
    """Learn the length and the direction of the weights of a hidden layer."""
    parametrizations.weight_norm(model.policy.mlp_extractor.policy_net[0])
    new_adam(model)


@CHANGES.add(about="prun|hook|layer|network|parametri")
def pruned(model: Any) -> None:
    """Prune a third of a layer's weights."""
    prune.l1_unstructured(model.policy.mlp_extractor.policy_net[0], "weight", amount=0.3)


class Compiled(nn.Module):
    """What ``torch.compile`` makes of a module, without the compiler: it forwards all names, and its forward is its own."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__["_modules"]
        return own["_orig_mod"] if name == "_orig_mod" else getattr(own["_orig_mod"], name)

    def forward(self, *arguments: Any) -> Any:
        """Compute the values in another way."""
        actions, values, log_prob = self._orig_mod(*arguments)
        return actions, 0.5 * values, log_prob


@CHANGES.add(about="compil|policy is", alone=True)
def compiled_policy(model: Any) -> None:
    """Replace the policy by one that wraps it."""
    model.policy = Compiled(model.policy)


class CautiousPolicy(ActorCriticPolicy):
    """A user's own class."""

    def predict_values(self, obs: Any) -> th.Tensor:
        """Values, halved."""
        return 0.5 * super().predict_values(obs)


@CHANGES.add(about="policy is|class")
def another_class(model: Any) -> None:
    """Make the policy an instance of a class of one's own."""
    model.policy.__class__ = CautiousPolicy


@CHANGES.add(served=True, neutral=True)
def policy_replaced_by_its_copy(model: Any) -> None:
    """Replace the policy by a copy, optimizer included."""
    model.predict(model.observation_space.sample())  # torch copies no graph, and the policy keeps its last distribution
    model.policy = copy.deepcopy(model.policy)


@CHANGES.add(served=True)
def policy_replaced_by_a_saved_one(model: Any) -> None:
    """Replace the policy by one that was saved and loaded, without the optimizer's state."""
    file: Any = io.BytesIO()
    model.policy.save(file)
    file.seek(0)
    with own_stream():
        model.policy = ActorCriticPolicy.load(file)


# -- weights -------------------------------------------------------------------------------------------------------------


@CHANGES.add(served=True)
def weights_copied_in_place(model: Any) -> None:
    """Write into every parameter."""
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.copy_(0.9 * parameter)


@CHANGES.add(served=True)
def weights_given_as_data(model: Any) -> None:
    """Give every parameter new memory."""
    for parameter in model.policy.parameters():
        parameter.data = 0.9 * parameter.data


@CHANGES.add(served=True)
def weights_written_by_numpy(model: Any) -> None:
    """Write through a numpy array that shares the memory."""
    for parameter in model.policy.parameters():
        array = parameter.detach().numpy()
        array *= 0.9


@CHANGES.add(served=True)
def weights_loaded(model: Any) -> None:
    """Load a ``state_dict``."""
    model.policy.load_state_dict({name: 0.9 * tensor for name, tensor in model.policy.state_dict().items()})


@CHANGES.add(served=True)
def weights_loaded_by_assignment(model: Any) -> None:
    """Let ``load_state_dict`` replace the parameters themselves, and train the new ones."""
    model.policy.load_state_dict({name: 0.9 * one for name, one in model.policy.state_dict().items()}, assign=True)
    new_adam(model)


@CHANGES.add(served=True)
def weights_from_a_vector(model: Any) -> None:
    """Set all weights from one vector, as evolution strategies do: they then lie in its memory."""
    vector = th.nn.utils.parameters_to_vector(model.policy.parameters()).detach()
    th.nn.utils.vector_to_parameters(0.9 * vector, model.policy.parameters())


@CHANGES.add(served=True)
def weights_drawn_anew(model: Any) -> None:
    """Initialise the heads again."""
    with own_stream():
        nn.init.orthogonal_(model.policy.action_net.weight, 0.5)
        nn.init.normal_(model.policy.value_net.weight)


@CHANGES.add(served=True)
def parameters_of_another_model(model: Any) -> None:
    """Take over weights and optimizer of another member of a population."""
    parameters = copy.deepcopy(model.get_parameters())
    parameters["policy"] = {name: 0.9 * tensor for name, tensor in parameters["policy"].items()}
    model.set_parameters(parameters, device="cpu")


@CHANGES.add(neutral=True, about="contiguous|memory|stride|layout")
def weight_stored_by_columns(model: Any) -> None:
    """Store a weight in another order."""
    weight = model.policy.mlp_extractor.policy_net[0].weight
    weight.data = weight.data.t().contiguous().t()


@CHANGES.add(served=True, neutral=True)
def weights_in_shared_memory(model: Any) -> None:
    """Let other processes see the weights."""
    model.policy.share_memory()


@CHANGES.add(served=True, neutral=True)
def training_mode(model: Any) -> None:
    """Set the training mode; ``learn`` sets it anyway."""
    model.policy.train(not model.policy.training)


@CHANGES.add(served=True, neutral=True)
def gradients_left_behind(model: Any) -> None:
    """Leave gradients in all parameters."""
    for parameter in model.policy.parameters():
        parameter.grad = th.ones_like(parameter)
