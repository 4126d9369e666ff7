"""Shared layers, LayerNorm and observations for the critic alone: what networks compute, and how policies take them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_ppo_edu import EduPPO, MaskableEduPPO, RecurrentEduPPO
from sb3_ppo_edu.algorithms.arguments import ArgumentError
from sb3_ppo_edu.policies.net_arch import (
    NET_ARCH_POLICIES,
    NetArchExtractor,
    NetArchMixin,
    NetArchMultiInputPolicy,
    NetArchPolicy,
    base_of,
)
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv
from tests.environments import RandomWalk
from tests.masked_environments import MaskedWalk
from tests.rollouts import largest_difference, parameters_of

OPTIONS: dict[str, dict[str, Any]] = {
    "shared": {"shared_net_arch": [5]},
    "norm": {"layer_norm": True},
    "shared and norm": {"shared_net_arch": [6, 5], "layer_norm": True},
    "critic": {"critic_keys": ["choice"]},
    "critic and norm": {"critic_keys": ["choice"], "layer_norm": True},
}


def make_model(observation: str = "dict", algorithm: type[Any] = EduPPO, **arguments: Any) -> Any:
    """A small model of two environments."""
    action = arguments.pop("action", "box")
    walk = partial(MaskedWalk if algorithm is MaskableEduPPO else RandomWalk, observation, action)
    policy = arguments.pop("policy", "MultiInputPolicy" if observation == "dict" else "MlpPolicy")
    defaults: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "n_epochs": 2, "seed": 0, "device": "cpu"}
    defaults["policy_kwargs"] = {"net_arch": [4]}
    return algorithm(policy, InProcessVecEnv([walk] * 2), **{**defaults, **arguments})


# -- what the networks compute -----------------------------------------------------------------------------------------------


def test_shared_layers_by_hand() -> None:
    """One shared unit, ReLU, x = (1, 2): s = 1·1 + 2·3 - 1 = 6. The actor's unit is 2·6 = 12, the critic's -6 + 10 = 4."""
    network = NetArchExtractor(2, [1], nn.ReLU, [1])
    rows = {"shared_net.0": ([[1.0, 3.0]], [-1.0]), "policy_net.0": ([[2.0]], [0.0]), "value_net.0": ([[-1.0]], [10.0])}
    for name, (weight, bias) in rows.items():
        layer: Any = network.get_submodule(name)
        layer.weight.data, layer.bias.data = th.tensor(weight), th.tensor(bias)
    x = th.tensor([[1.0, 2.0]])
    assert [latent.item() for latent in network(x)] == [12.0, 4.0]
    assert (network.forward_actor(x).item(), network.forward_critic(x).item()) == (12.0, 4.0)
    assert (network.latent_dim_pi, network.latent_dim_vf) == (1, 1)


def test_layer_norm_stands_before_the_activation_by_hand() -> None:
    """
    W x = (1, 3), mean 2 and variance 1: n = ∓1/√(1 + 10⁻⁵). With scale 2 and shift 3 that is 3 ∓ 1.99999; ReLU leaves both.

    Behind the activation, (1, 3) would have been the same, but (-1, 3) would not: mean 1, variance 4, n = ∓2/√(4 + 10⁻⁵).
    """
    network = NetArchExtractor(1, {"pi": [2]}, nn.ReLU, layer_norm=True)
    linear, norm, activation = network.policy_net
    assert isinstance(norm, nn.LayerNorm) and isinstance(activation, nn.ReLU)
    linear.bias.data, norm.weight.data, norm.bias.data = th.zeros(2), th.full((2,), 2.0), th.full((2,), 3.0)
    for z, centred in (((1.0, 3.0), 1.0), ((-1.0, 3.0), 2.0)):
        linear.weight.data = th.tensor([[z[0]], [z[1]]])
        n = centred / (centred**2 + 1e-5) ** 0.5
        latent, unchanged = network(th.ones(1, 1))
        th.testing.assert_close(latent, th.tensor([[3 - 2 * n, 3 + 2 * n]]))
        assert unchanged.tolist() == [[1.0]], "a critic without layers takes the features"


def test_what_is_for_the_critic_alone_reaches_the_critic_alone() -> None:
    """Other values of such keys leave actions and log-probabilities as they are to the bit, and change the values."""
    policy = make_model(critic_keys=["vector"], layer_norm=True).policy
    one = {"vector": th.randn(4, 3), "choice": th.tensor([[0], [1], [2], [3]])}
    other = {**one, "vector": -one["vector"]}
    actions = th.zeros(4, 2)
    (values, log_prob, _), (other_values, other_log_prob, _) = (policy.evaluate_actions(obs, actions) for obs in (one, other))
    assert th.equal(log_prob, other_log_prob) and not th.equal(values, other_values)
    assert not th.equal(policy.predict_values(one), policy.predict_values(other))
    assert policy.mlp_extractor.policy_net[0].in_features == 4 and policy.mlp_extractor.value_net[0].in_features == 7
    parts = {key: part.numpy() for key, part in one.items()}
    acts = policy.predict({**parts, "choice": parts["choice"][:, 0]}, deterministic=True)[0]
    np.testing.assert_array_equal(policy.predict({"choice": parts["choice"][:, 0]}, deterministic=True)[0], acts)
    assert policy.predict({"choice": np.array(2)}, deterministic=True)[0].shape == (2,)


def test_images_may_be_for_the_critic_alone() -> None:
    """What a convolution makes of them comes last, and the actor does not learn it."""
    space = spaces.Dict({"image": spaces.Box(0, 255, (1, 36, 36), np.uint8), "vector": spaces.Box(-1, 1, (3,))})
    policy: Any = NetArchMultiInputPolicy(
        space, spaces.Discrete(2), lambda _: 1e-3, critic_keys=["image"], features_extractor_kwargs={"cnn_output_dim": 7}
    )
    assert list(policy.features_extractor.extractors) == ["vector", "image"]
    assert (policy.mlp_extractor.policy_net[0].in_features, policy.features_dim) == (3, 10)
    observations = {"image": th.randint(0, 255, (2, 1, 36, 36)), "vector": th.randn(2, 3)}
    _, log_prob, _ = policy.evaluate_actions(observations, th.tensor([0, 1]))
    log_prob.sum().backward()
    assert all(not parameter.grad.any() for parameter in policy.features_extractor.parameters())


# -- policies and models -----------------------------------------------------------------------------------------------------

OBSERVATION_OF = {"Cnn": "image", "MultiInput": "dict"}


@pytest.mark.parametrize("base", NET_ARCH_POLICIES, ids=lambda base: base.__name__)
def test_every_policy_has_its_class(base: type[Any]) -> None:
    """By its class, the options make the one with the mixin, which a model names, builds and trains."""
    observation = next((found for part, found in OBSERVATION_OF.items() if part in base.__name__), "box")
    masked = "Maskable" in base.__name__
    algorithm, action = (MaskableEduPPO, "discrete") if masked else (EduPPO, "box")
    model = make_model(observation, algorithm, policy=base, action=action, layer_norm=True, shared_net_arch=[3], n_epochs=1)
    assert model.policy_class is NET_ARCH_POLICIES[base] and base_of(model.policy_class) is base
    before = parameters_of(model)
    model.learn(16)
    assert largest_difference(before, parameters_of(model)) > 0
    assert [type(module) for module in model.policy.mlp_extractor.shared_net] == [nn.Linear, nn.LayerNorm, nn.Tanh]


@pytest.mark.parametrize("name", OPTIONS)
def test_models_are_saved_with_their_options(name: str, tmp_path: Path) -> None:
    """The file names the class; trusted or not, and in SB3's PPO, the loaded model predicts as the saved one, and trains."""
    model = make_model(**OPTIONS[name]).learn(16)
    model.save(file := tmp_path / "model.zip")
    observations = model.env.reset()
    expected = model.predict(observations, deterministic=True)[0]
    loaded = [EduPPO.load(file, env=model.env, device="cpu", trusted=trusted) for trusted in (True, False)]
    for one in (*loaded, PPO.load(file, device="cpu")):
        assert type(one.policy).__name__ == "NetArchMultiInputPolicy"
        np.testing.assert_array_equal(one.predict(observations, deterministic=True)[0], expected)
    for one in loaded:
        assert {key: getattr(one, key) for key in OPTIONS[name]} == OPTIONS[name]
        assert one.learn(16).num_timesteps == 16
    with pytest.raises(ArgumentError, match="layer_norm="):
        EduPPO.load(file, device="cpu", layer_norm=not model.layer_norm)
    policy = type(model.policy)(**model.policy._get_constructor_parameters())
    policy.load_state_dict(model.policy.state_dict())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"])
@pytest.mark.parametrize("name", ["shared and norm", "critic and norm"])
def test_copies_train_as_the_original(name: str, duplicate: Callable[[Any], Any]) -> None:
    """A copy has networks of its own, and goes on to the same bits."""
    model = make_model(**OPTIONS[name]).learn(16)
    results = []
    for one in (duplicate(model), model):
        np.random.seed(3), th.manual_seed(3)
        one.env.seed(3)
        results.append(parameters_of(one.learn(16)))
    assert largest_difference(*results) == 0


def test_options_and_policy_kwargs_are_one() -> None:
    """Whoever overwrites ``policy_kwargs``, as the zoo's search does, keeps the options; what is said twice has to agree."""
    model = make_model(policy_kwargs={"net_arch": [3], "activation_fn": nn.ReLU}, shared_net_arch=(4,))
    assert [one.out_features for one in model.policy.mlp_extractor.shared_net if isinstance(one, nn.Linear)] == [4]
    assert model.policy.mlp_extractor.policy_net[0].weight.shape == (3, 4)
    given = {"shared_net_arch": [4], "layer_norm": True}
    model = make_model(policy_kwargs=given)
    assert (model.shared_net_arch, model.layer_norm) == ([4], True) and isinstance(model.policy, NetArchMixin)
    make_model(policy_kwargs=given, shared_net_arch=[4])
    with pytest.raises(ArgumentError, match=r"shared_net_arch=\[5\]: expected \[4\], as policy_kwargs has it"):
        make_model(policy_kwargs=given, shared_net_arch=[5])
    model = make_model(layer_norm=True)
    model.layer_norm = False
    with pytest.raises(ArgumentError, match="layer_norm=False: expected True, which the model was built with"):
        model.learn(16)


def test_without_options_nothing_changes() -> None:
    """None of them, and lists of nothing refused: the policy is SB3's class."""
    assert type(make_model("box").policy) is ActorCriticPolicy
    assert "layer_norm" not in make_model("box").policy_kwargs


class OwnPolicy(ActorCriticPolicy):
    """A policy that somebody wrote."""


class OwnPolicyWithOptions(NetArchMixin, OwnPolicy):
    """The same with the mixin."""


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"shared_net_arch": []}, r"shared_net_arch=\[\]: expected None or a list of units"),
    ({"shared_net_arch": [0]}, r"shared_net_arch=0: expected an integer ≥ 1"),
    ({"shared_net_arch": 64}, r"shared_net_arch=64: expected None or a list of units"),
    ({"layer_norm": 1}, r"layer_norm=1: expected True or False"),
    ({"critic_keys": "choice"}, r"critic_keys='choice': expected None or a list of keys"),
    ({"critic_keys": [3]}, r"critic_keys=3: expected a key of the observations"),
    (
        {"critic_keys": ["state"]},
        r"critic_keys=\['state'\] with NetArchMultiInputPolicy: found 'state', expected some of 'choice'",
    ),
    ({"critic_keys": ["Choice"]}, r"found 'Choice' \(did you mean 'choice'\?\), expected some of 'choice', 'vector'"),
    ({"critic_keys": ["choice", "choice"]}, r"found a key twice, expected each once"),
    ({"critic_keys": []}, r"critic_keys=\[\]: expected None or a list of keys"),
    ({"critic_keys": ["vector", "choice"]}, r"found all keys, expected one more at least"),
    ({"critic_keys": ["choice"], "shared_net_arch": [4]}, r"expected one of the two: shared layers would show the actor"),
    ({"critic_keys": ["choice"], "observation": "box"}, r"found observation_space=Box.*expected a Dict of observations"),
    (
        {"critic_keys": ["choice"], "observation": "image", "policy": "CnnPolicy"},
        r"NatureCNN, expected a Dict of observations",
    ),
    ({"layer_norm": True, "observation": "box", "policy": OwnPolicy}, r"layer_norm=True with the policy OwnPolicy, which"),
    (
        {"algorithm": RecurrentEduPPO, "observation": "box", "policy": "MlpLstmPolicy", "policy_kwargs": {"layer_norm": True}},
        "layer_norm=True with the policy RecurrentActorCriticPolicy: found one with a memory",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    """Each says what was found, what was expected and what to do."""
    with pytest.raises(ValueError, match=message):
        make_model(**arguments)


def test_policies_of_ones_own_take_the_mixin_and_sb3_trains_ours() -> None:
    """A class of one's own with the mixin is built as it is; A2C and PPO train a class of ours by ``policy_kwargs``."""
    model = make_model("box", policy=OwnPolicyWithOptions, layer_norm=True)
    assert type(model.policy) is OwnPolicyWithOptions and model.learn(16).engine_reason.startswith(
        "autograd: the policy is a Own"
    )
    for algorithm in (A2C, partial(PPO, batch_size=8)):
        theirs: Any = algorithm(NetArchPolicy, RandomWalk(), n_steps=8, policy_kwargs={"shared_net_arch": [4]}, device="cpu")
        assert theirs.learn(8).num_timesteps == 8
