"""What the kernels are told: ``csrc/kernels.h`` has the same structures, member by member."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common import distributions as sb3
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_ppo_edu.engines.support import Tower, classes_of, read_tower, shared_net
from sb3_ppo_edu.functional.distributions import BetaDistribution, TanhGaussianDistribution, standard_normal_quadrature
from sb3_ppo_edu.functional.objectives import Array, UpdateSettings

CATEGORICAL, BERNOULLI, GAUSSIAN, TANH_GAUSSIAN, BETA, GSDE = range(6)
AS_THEY_ARE, OWN_MOMENTS, GIVEN_MOMENTS = range(3)

DISTRIBUTIONS: dict[Any, int] = {
    sb3.BernoulliDistribution: BERNOULLI,
    sb3.DiagGaussianDistribution: GAUSSIAN,
    TanhGaussianDistribution: TANH_GAUSSIAN,
    BetaDistribution: BETA,
    sb3.StateDependentNoiseDistribution: GSDE,
}
TANH, RELU, ELU, LEAKY_RELU, GELU, GELU_TANH, SILU = range(7)
LSTM, GRU = range(2)
CELLS: dict[Any, int] = {nn.LSTM: LSTM, nn.GRU: GRU}
RECURRENT_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""Torch's names of a recurrent layer's parameters, with the layer's number behind them."""

I64, F64, POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


def members(integers: str = "", numbers: str = "", pointers: str = "") -> list[tuple[str, Any]]:
    """Members of a structure by type, from their names."""
    kinds = ((integers, I64), (numbers, F64), (pointers, POINTER))
    return [(name, kind) for names, kind in kinds for name in names.split()]


class LayerStruct(ctypes.Structure):
    """A linear layer, and the LayerNorm behind it."""

    _fields_ = [
        *members("inputs outputs", "epsilon", "weight bias weight_gradient bias_gradient z h"),
        *members("", "", "scale shift scale_gradient shift_gradient normal inverse_sigma"),
    ]


class RecurrentLayerStruct(ctypes.Structure):
    """A layer of an LSTM or GRU."""

    _fields_ = [
        *members("inputs", "", "weight_ih weight_hh bias_ih bias_hh"),
        *members("", "", "weight_ih_gradient weight_hh_gradient bias_ih_gradient bias_hh_gradient"),
        *members("", "", "gates h c h_old c_old"),
    ]


class RecurrentStruct(ctypes.Structure):
    """Layers of an LSTM or GRU, one on the other, and where states lie."""

    _fields_ = [
        *members("kind depth units", "", "layers"),
        *members("state_row state_layer", "", "hidden cell next_hidden next_cell"),
        *members("in_panels", "", "panels bias slope h_slope c_slope totals"),
    ]


class TowerStruct(ctypes.Structure):
    """Layers one after the other, and what recurrent layers give them."""

    _fields_ = [
        *members("depth activation", "option", "layers"),
        *members("linear head", "", "recurrent"),
        *members("borrows", "", "x x_rows"),
        *members("x_row"),
    ]


class ModelStruct(ctypes.Structure):
    """A policy, and the scratch memory of its passes."""

    _fields_ = [
        *members("features action_size"),
        ("actor", TowerStruct),
        ("critic", TowerStruct),
        ("shared", TowerStruct),
        *members("distribution choices", "", "sizes log_std log_std_gradient"),
        *members("nodes", "", "node node_weight"),
        *members("", "", "masks"),
        *members("full_std expln squashed", "epsilon squash_epsilon"),
        *members("steps", "", "counts episode_starts scratch"),
        *members("capacity"),
        *members("", "", "valid kept log_prob entropy old_values old_log_prob advantages returns"),
        *members("", "", "log_prob_slope value_slope entropy_slope"),
        *members("", "", "x x_rows actions p log_p transposed slope slope_below shared_slope"),
        *members("", "", "row row_below shared_row shared_row_below"),
        *members("", "", "std_squared std_squared_slope std_squared_gradient"),
    ]


class RolloutStruct(ctypes.Structure):
    """The rollout buffer's columns."""

    _fields_ = members("", "", "observations actions old_values old_log_prob advantages returns parts masks")


class SettingsStruct(ctypes.Structure):
    """The settings of an update."""

    _fields_ = [
        *members("", "clip_range clip_range_vf ent_coef vf_coef mean std clip_advantage dual_clip kl_limit"),
        *members("clips_values takes_larger_error normalization clips_advantages clips_twice k1"),
    ]

    def take(self, settings: UpdateSettings) -> None:
        """
        Take over the settings of an update.

        :param settings: settings of this update
        """
        self.clip_range, self.ent_coef, self.vf_coef = settings.clip_range, settings.ent_coef, settings.vf_coef
        self.clips_values, self.clip_range_vf = optional(settings.clip_range_vf)
        self.takes_larger_error = settings.vf_clip_mode == "max"
        self.clips_advantages, self.clip_advantage = optional(settings.clip_advantage)
        self.clips_twice, self.dual_clip = optional(settings.dual_clip)
        self.kl_limit = math.inf if settings.kl_limit is None else settings.kl_limit
        self.k1 = settings.kl_estimator == "k1"
        self.normalization = AS_THEY_ARE
        if settings.normalize_advantage:
            self.normalization = OWN_MOMENTS if settings.advantage_moments is None else GIVEN_MOMENTS
            self.mean, self.std = settings.advantage_moments or (0.0, 0.0)


class StatisticsStruct(ctypes.Structure):
    """What a minibatch says about the update."""

    _fields_ = members("", "policy_loss value_loss entropy_loss loss approx_kl clip_fraction ratio_max")


def optional(number: float | None) -> tuple[bool, float]:
    """Whether there is a number, and the number."""
    return number is not None, 0.0 if number is None else number


def address(tensor: th.Tensor, name: str, dtype: th.dtype, shape: Sequence[int]) -> int:
    """
    Where a tensor's numbers lie, after a look at whether a kernel may go there.

    :param tensor: the tensor
    :param name: what it is, for the error
    :param dtype: type that the kernel expects
    :param shape: shape that the kernel expects
    :return: address of the first number
    :raises ValueError: if the kernel would read or write something else
    """
    if tensor.dtype is not dtype or tensor.shape != tuple(shape) or tensor.device.type != "cpu" or not tensor.is_contiguous():
        found = f"{tensor.dtype}, shape {tuple(tensor.shape)}, strides {tensor.stride()} on {tensor.device}"
        raise ValueError(f"{name}: found {found}, expected {dtype}, shape {tuple(shape)}, contiguous, on the CPU")
    return tensor.data_ptr()


def array_address(array: NDArray[Any]) -> int:
    """Where an array's numbers lie."""
    return int(array.__array_interface__["data"][0])


def activation_of(tower: Tower) -> tuple[int, float]:
    """The number by which the kernels know a tower's activation, and its option."""
    if not tower.activations:
        return TANH, 0.0
    module: Any = tower.activations[0]
    if isinstance(module, nn.GELU):
        return (GELU if module.approximate == "none" else GELU_TANH), 0.0
    if isinstance(module, nn.ELU):
        return ELU, module.alpha
    if isinstance(module, nn.LeakyReLU):
        return LEAKY_RELU, module.negative_slope
    return {nn.Tanh: TANH, nn.ReLU: RELU, nn.SiLU: SILU}[type(module)], 0.0


class Place(NamedTuple):
    """
    Where in the description the addresses of a parameter and its gradient are kept.

    :param parameter: the parameter
    :param struct: structure that has them
    :param value: name of the member for the parameter's address
    """

    parameter: nn.Parameter
    struct: Any
    value: str


class Description:
    """
    The model as the kernels see it. What it points to is kept here, or is the policy's.

    :param policy: actor-critic policy that :func:`~sb3_ppo_edu.engines.support.why_not_derived` does not refuse
    :param below: what is between features and networks: the actor's LSTM or GRU, the critic's, and its linear layer
    """

    def __init__(self, policy: ActorCriticPolicy, below: tuple[Any, Any, Any] = (None, None, None)) -> None:
        self.model = ModelStruct()
        self.places: list[Place] = []
        self.dtype: th.dtype = policy.value_net.weight.dtype
        self._kept: list[Any] = []
        recurrent_actor, recurrent_critic, first = below
        self.model.actor = self._describe(policy.mlp_extractor.policy_net, policy.action_net)
        self.model.critic = self._describe(policy.mlp_extractor.value_net, policy.value_net, first)
        self.model.shared = self._describe(shared_net(policy))
        self.recurrent: dict[Any, RecurrentStruct] = {}
        for tower, module in ((self.model.actor, recurrent_actor), (self.model.critic, recurrent_critic)):
            if module is not None:
                tower.borrows = module in self.recurrent
                if not tower.borrows:
                    self.recurrent[module] = self._describe_recurrent(module)
                tower.recurrent = ctypes.addressof(self.recurrent[module])
        self.model.features = policy.features_dim
        distribution: Any = policy.action_dist
        self.sizes: list[int] = classes_of(distribution)
        self.model.distribution = kind = CATEGORICAL if self.sizes else DISTRIBUTIONS[type(distribution)]
        action_net: Any = policy.action_net
        self.n_outputs: int = action_net.out_features
        if self.sizes:
            self.model.choices, self.model.sizes = len(self.sizes), self._keep(np.array(self.sizes, np.int64))
        self.action_size = len(self.sizes) or self.n_outputs // (2 if kind == BETA else 1)
        self.model.action_size = self.action_size
        if hasattr(policy, "log_std"):
            self.places.append(Place(policy.log_std, self.model, "log_std"))
        if kind == TANH_GAUSSIAN:
            nodes, weights = (tensor.numpy() for tensor in standard_normal_quadrature(self.dtype, th.device("cpu")))
            self.model.nodes, self.model.node, self.model.node_weight = len(nodes), self._keep(nodes), self._keep(weights)
        if kind == GSDE:
            model, squashed = self.model, distribution.bijector is not None
            model.full_std, model.expln, model.squashed = distribution.full_std, distribution.use_expln, squashed
            model.epsilon = distribution.epsilon
            model.squash_epsilon = distribution.bijector.epsilon if squashed else 0.0
        self.rows = 0
        self._scratch: Array = np.empty(0)

    def _keep(self, array: NDArray[Any]) -> int:
        """Keep an array alive; gives its address."""
        self._kept.append(array)
        return array_address(array)

    def _describe_recurrent(self, module: Any) -> RecurrentStruct:
        """The layers of an LSTM or GRU."""
        layers = (RecurrentLayerStruct * module.num_layers)()
        self._kept.append(layers)
        for number, layer in enumerate(layers):
            layer.inputs = module.hidden_size if number else module.input_size
            self.places += [Place(getattr(module, f"{name}_l{number}"), layer, name) for name in RECURRENT_PARAMETERS]
        return RecurrentStruct(CELLS[type(module)], module.num_layers, module.hidden_size, ctypes.addressof(layers))

    def _describe(self, network: nn.Module, head: Any = None, first: nn.Module | None = None) -> TowerStruct:
        """A tower with the last layer, and a linear layer below it that no activation follows."""
        tower = read_tower(network)
        assert tower is not None
        below, above = [first] if first is not None else [], [head] if head is not None else []
        linears: list[Any] = [*below, *tower.linears, *above]
        norms: list[Any] = [*(None for _ in below), *tower.norms, *(None for _ in above)]
        layers = (LayerStruct * len(linears))()
        self._kept.append(layers)
        for layer, linear, norm in zip(layers, linears, norms, strict=True):
            layer.inputs, layer.outputs = linear.in_features, linear.out_features
            self.places += [Place(linear.weight, layer, "weight"), Place(linear.bias, layer, "bias")]
            if norm is not None:
                layer.epsilon = norm.eps
                self.places += [Place(norm.weight, layer, "scale"), Place(norm.bias, layer, "shift")]
        activation, option = activation_of(tower)
        return TowerStruct(len(linears), activation, option, ctypes.addressof(layers), len(below), len(above))

    def point_to_parameters(self) -> None:
        """Look up where the parameters lie."""
        for place in self.places:
            setattr(place.struct, place.value, address(place.parameter, place.value, self.dtype, place.parameter.shape))

    def point_to_gradients(self) -> None:
        """Look up where the gradients lie, which all parameters must have."""
        for parameter, struct, value in self.places:
            assert parameter.grad is not None
            setattr(struct, f"{value}_gradient", address(parameter.grad, f"{value}.grad", self.dtype, parameter.shape))

    def reserve(self, rows: int, scratch_size: Any) -> None:
        """
        Have scratch memory for so many transitions.

        :param rows: number of transitions
        :param scratch_size: the kernel that tells how much it is
        """
        self.model.capacity = 0
        count = scratch_size(ctypes.addressof(self.model), rows)
        size = 8 if self.dtype is th.float64 else 4
        # Zeros: what the padding holds has to be finite. The kernels want whole cache lines.
        self._scratch = np.zeros(count * size // 8 + 8)
        start = array_address(self._scratch)
        self.model.scratch, self.model.capacity = start + -start % 64, count
        self.rows = rows
