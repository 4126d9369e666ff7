"""Which engine a model has: by name, by class, chosen anew when the policy is another one, and one from outside."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.engines import (
    AutogradEngine,
    EngineName,
    FusedEngine,
    PolicyInputs,
    UnsupportedPolicyError,
    make_engine,
)
from sb3_ppo_edu.engines.derivation.engine import NumpyEngine
from tests.rollouts import N_STEPS, collect, largest_difference, make_env, make_model, parameters_of

# -- by name -------------------------------------------------------------------------------------------------------------


def test_make_engine_gives_the_reference_on_request() -> None:
    """Asking for autograd gives it, on the policy given, with one sentence that says so."""
    policy = make_model().policy
    engine, reason = make_engine("autograd", policy)
    assert engine.name == "autograd"
    assert engine.policy is policy
    assert reason.startswith("autograd: ")
    assert reason.endswith(".")


@pytest.mark.parametrize(("name", "kind"), [("autograd", AutogradEngine), ("numpy", NumpyEngine), ("fused", FusedEngine)])
def test_each_name_is_an_engine(name: EngineName, kind: type) -> None:
    """An engine's name is what ``engine=`` takes, and begins the reason."""
    model = make_model(engine=name)
    engine = model.attach_engine()
    assert type(engine) is kind and engine.name == name and engine.policy is model.policy
    assert model.engine_reason.startswith(f"{name}: ")
    assert model.attach_engine() is engine, "it is built once"


@pytest.mark.parametrize("name", ["fused", "numpy"])
def test_fused_where_it_cannot_be_says_why(name: EngineName) -> None:
    """
    An image policy with ``engine="fused"`` won't learn, with the reason and what to use; "auto" takes autograd for it.

    To build, to ask for the reason, to save, to load and to predict no engine is needed.
    """
    model = make_model("image", "discrete", engine=name)
    refusal = rf"engine='{name}': .+: use engine='auto' or 'autograd'"
    for attempt in (lambda: model.learn(N_STEPS), model.attach_engine):
        with pytest.raises(UnsupportedPolicyError, match=refusal):
            attempt()
    assert issubclass(UnsupportedPolicyError, ValueError)
    assert model.engine_reason.startswith("none: engine=")
    model = make_model("image", "discrete", engine="auto")
    assert model.engine_reason.startswith("autograd: ")
    assert len(model.engine_reason) > len("autograd: .")


def test_only_learning_needs_an_engine(tmp_path: Any) -> None:
    """A model whose engine can't be had is built, saved, loaded and predicts; loaded with another engine it learns."""
    model = make_model(engine="fused", policy_kwargs={"optimizer_class": th.optim.Adagrad})
    model.save(tmp_path / "model")
    loaded = EduPPO.load(tmp_path / "model", env=make_env(), device="cpu")
    observations = np.zeros((3, 5), np.float32)
    np.testing.assert_array_equal(
        loaded.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )
    with pytest.raises(UnsupportedPolicyError, match="the optimizer is Adagrad"):
        loaded.learn(N_STEPS)
    EduPPO.load(tmp_path / "model", env=make_env(), device="cpu", engine="auto").learn(N_STEPS)


def test_what_is_compiled_is_the_autograd_engines() -> None:
    """``compile=True`` turns "auto" to autograd, which says so, and cannot be had with "fused" or "numpy"."""
    model = make_model(engine_kwargs={"compile": True})
    assert model.engine_reason.startswith("autograd: compile=True")
    for name in ("fused", "numpy"):
        model = make_model(engine_kwargs={"compile": True}, engine=name)
        with pytest.raises(ValueError, match=rf"engine='{name}': compile=True .+: use engine='auto' or 'autograd'"):
            model.learn(N_STEPS)
    assert make_model(engine_kwargs={"compile": False}).engine_reason.startswith("fused: ")


def test_without_a_library_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the kernels are missing, "auto" takes numpy and says what is missing; "fused" by name won't learn."""
    monkeypatch.setenv("SB3_EDU_KERNELS", "off")
    model = make_model().learn(N_STEPS)
    assert model.engine_reason == "numpy: there is no library of kernels: SB3_EDU_KERNELS=off."
    assert make_model("image", "discrete").engine_reason.startswith("autograd: ")
    with pytest.raises(UnsupportedPolicyError, match="engine='fused': there is no library of kernels: SB3_EDU_KERNELS=off"):
        make_model(engine="fused").learn(N_STEPS)


def test_the_reason_names_the_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another one than the processor's best is asked for."""
    engine = make_model(engine="fused").attach_engine()
    assert isinstance(engine, FusedEngine)
    assert make_model().engine_reason.endswith(f"kernels for {engine.instruction_set}.")
    if engine.instruction_set.startswith("v"):
        monkeypatch.setenv("SB3_EDU_KERNELS", "v2")
        assert make_model().engine_reason.endswith("kernels for v2.")


# -- chosen anew ---------------------------------------------------------------------------------------------------------


@contextmanager
def frozen(model: EduPPO) -> Iterator[None]:
    """Freeze a layer, as SB3's maintainers advise."""
    layer: Any = model.policy.mlp_extractor.policy_net[0]
    layer.requires_grad_(False)
    yield
    layer.requires_grad_(True)


@contextmanager
def module_hook(model: EduPPO) -> Iterator[None]:
    """Put a hook on a module."""
    handle = model.policy.value_net.register_forward_hook(lambda module, given, output: None)
    yield
    handle.remove()


@contextmanager
def tensor_hook(model: EduPPO) -> Iterator[None]:
    """Put a hook on a parameter, such as one that scales its gradient."""
    handle = model.policy.log_std.register_hook(lambda gradient: None)
    yield
    handle.remove()


@contextmanager
def global_hook(model: EduPPO) -> Iterator[None]:
    """Put a hook on all modules."""
    handle = th.nn.modules.module.register_module_forward_hook(lambda module, given, output: None)
    yield
    handle.remove()


@contextmanager
def optimizer_hook(model: EduPPO) -> Iterator[None]:
    """Put a hook on the optimizer's step."""
    handle = model.policy.optimizer.register_step_pre_hook(lambda optimizer, arguments, named: None)
    yield
    handle.remove()


@contextmanager
def patched_instance(model: EduPPO) -> Iterator[None]:
    """Replace a method of this policy."""
    forward = model.policy.forward
    model.policy.forward = lambda *given, **named: forward(*given, **named)  # type: ignore[method-assign]
    yield
    del model.policy.forward


@contextmanager
def patched_class(model: EduPPO) -> Iterator[None]:
    """Replace a method of all policies."""
    method = ActorCriticPolicy.evaluate_actions
    ActorCriticPolicy.evaluate_actions = lambda *given: method(*given)  # type: ignore[method-assign]
    yield
    ActorCriticPolicy.evaluate_actions = method  # type: ignore[method-assign]


@contextmanager
def autocast(model: EduPPO) -> Iterator[None]:
    """Train under autocast."""
    with th.autocast("cpu", th.bfloat16):
        yield


class CountedCalls(TorchFunctionMode):
    """Counts calls of torch's functions."""

    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one."""
        type(self).calls += 1
        return func(*args, **(kwargs or {}))


class CountedOperators(TorchDispatchMode):
    """Counts operators, as torch's counter of floating-point operations does."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one."""
        type(self).calls += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def function_mode(model: EduPPO) -> Iterator[None]:
    """Train under a mode that sees torch's functions."""
    with CountedCalls():
        yield


@contextmanager
def dispatch_mode(model: EduPPO) -> Iterator[None]:
    """Train under a mode that sees torch's operators."""
    with CountedOperators():
        yield


@contextmanager
def another_optimizer(model: EduPPO) -> Iterator[None]:
    """Take an optimizer that is not elementwise known."""
    before = model.policy.optimizer
    model.policy.optimizer = th.optim.Adagrad(model.policy.parameters(), lr=0.0)
    yield
    model.policy.optimizer = before


@contextmanager
def parameter_groups(model: EduPPO) -> Iterator[None]:
    """Give the actor and the rest a learning rate of their own."""
    before, policy = model.policy.optimizer, model.policy
    actor = {id(parameter) for parameter in policy.action_net.parameters()}
    groups = [[p for p in policy.parameters() if (id(p) in actor) is inside] for inside in (True, False)]
    policy.optimizer = th.optim.SGD([{"params": group} for group in groups], lr=0.0)
    yield
    policy.optimizer = before


@contextmanager
def new_head(model: EduPPO) -> Iterator[None]:
    """Put a new head on, as for transfer learning, with the optimizer that there was."""
    policy: Any = model.policy
    before, policy.action_net = policy.action_net, th.nn.Linear(8, 2)
    yield
    policy.action_net = before


@contextmanager
def new_layer(model: EduPPO) -> Iterator[None]:
    """Put a dropout into a tower."""
    tower: Any = model.policy.mlp_extractor.value_net
    tower.append(th.nn.Dropout(0.5))
    yield
    del tower[-1]


@contextmanager
def other_objective(model: EduPPO) -> Iterator[None]:
    """Ask for what only the other engines do."""
    model.engine_kwargs["bf16"] = True
    yield
    del model.engine_kwargs["bf16"]


CHANGES: dict[str, tuple[Callable[[EduPPO], AbstractContextManager[None]], str]] = {
    "frozen": (frozen, "some parameters are frozen"),
    "module hook": (module_hook, "policy.value_net has hooks"),
    "tensor hook": (tensor_hook, "policy.log_std has hooks"),
    "global hook": (global_hook, "there is a global module hook"),
    "optimizer hook": (optimizer_hook, "optimizer"),
    "patched instance": (patched_instance, "the policy.forward has been replaced"),
    "patched class": (patched_class, "ActorCriticPolicy.evaluate_actions has been replaced"),
    "autocast": (autocast, "autocast is on"),
    "function mode": (function_mode, "a CountedCalls is active"),
    "dispatch mode": (dispatch_mode, "a CountedOperators is active"),
    "another optimizer": (another_optimizer, "the optimizer is Adagrad"),
    "parameter groups": (parameter_groups, "the optimizer has several parameter groups"),
    "new head": (new_head, "the optimizer does not have exactly the policy's parameters"),
    "new layer": (new_layer, "the critic's network is not made of linear layers"),
    "options changed in place": (other_objective, "bf16=True is for the autograd engine"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("verbose", [0, 1])
def test_auto_falls_back_and_comes_back(name: str, verbose: int, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A policy that fused does not serve any more is autograd's from the next rollout on, and one that it serves again fused's.

    ``engine_reason`` says why, and so does the console, if it is wanted: once at each change, and not where nothing changed.
    """
    change, reason = CHANGES[name]
    model = make_model(verbose=verbose)
    model.learn(N_STEPS, log_interval=None)  # type: ignore[arg-type]
    assert isinstance(model.attach_engine(), FusedEngine)
    assert "engine:" not in capsys.readouterr().out
    with change(model):
        if name != "autocast":  # in which SB3 itself can't make an array of a value
            model.learn(2 * N_STEPS, reset_num_timesteps=False, log_interval=None)  # type: ignore[arg-type]
        assert isinstance(model.attach_engine(), AutogradEngine)
        fallen_back = model.engine_reason
    assert fallen_back.startswith("autograd: ") and reason in fallen_back
    assert capsys.readouterr().out.count(f"engine: {fallen_back}") == verbose
    model.learn(2 * N_STEPS, reset_num_timesteps=False, log_interval=None)  # type: ignore[arg-type]
    assert isinstance(model.attach_engine(), FusedEngine)
    assert model.engine_reason.startswith("fused: ")
    assert capsys.readouterr().out.count("engine: fused: ") == verbose


@pytest.mark.parametrize("name", sorted({*CHANGES} - {"options changed in place"}))
def test_fused_by_name_never_learns_something_else(name: str) -> None:
    """Asked for by name, it refuses with the reason to learn on, and goes on when the change is undone."""
    change, reason = CHANGES[name]
    model = make_model(engine="fused")
    model.learn(N_STEPS)
    before = parameters_of(model)
    with change(model):
        expected = parameters_of(model)
        with pytest.raises(UnsupportedPolicyError, match=reason):
            model.learn(N_STEPS)
        assert largest_difference(parameters_of(model), expected) == 0.0, "nothing moves"
    assert largest_difference(parameters_of(model), before) == 0.0
    model.learn(N_STEPS)
    assert largest_difference(parameters_of(model), before) > 0.0


def test_the_reason_is_of_the_policy_as_it_is() -> None:
    """``engine_reason`` needs no rollout in between to know that the policy has changed."""
    model = make_model()
    model.learn(N_STEPS)
    with frozen(model):
        assert model.engine_reason == "autograd: some parameters are frozen."
    assert model.engine_reason.startswith("fused: ")


class FreezeAtStep(BaseCallback):
    """Freezes the critic in mid-rollout, and thaws it later."""

    def __init__(self) -> None:
        super().__init__()
        self.engines: list[str] = []

    def _on_step(self) -> bool:
        if self.n_calls in (8, 24):
            self.model.policy.value_net.requires_grad_(self.n_calls == 24)
        return True

    def _on_rollout_end(self) -> None:
        self.engines.append(self.locals["engine"].name)


def test_a_callback_may_change_the_policy_in_mid_rollout() -> None:
    """The policy is looked at after every call of a callback of one's own: step 9 is autograd's, step 25 fused's again."""
    model = make_model()
    acting: list[str] = []
    act = EduPPO.act

    class Watched(EduPPO):
        """Notes who acts."""

        def act(self, engine: Any, obs_tensor: Any) -> Any:
            """Note it."""
            acting.append(engine.name)
            return act(self, engine, obs_tensor)

    model.__class__ = Watched
    model.learn(N_STEPS, callback=FreezeAtStep())
    assert acting == ["fused"] * 8 + ["autograd"] * 16 + ["fused"] * (N_STEPS - 24)


def test_weights_replaced_by_a_callback_act_at_once() -> None:
    """What a callback writes into the parameters in mid-rollout is what the next action is drawn with."""

    class Shift(BaseCallback):
        """Moves the means far away at the 10th step."""

        def _on_step(self) -> bool:
            if self.n_calls == 10:
                with th.no_grad():
                    self.model.policy.action_net.bias.fill_(100.0)  # type: ignore[operator, union-attr]
            return True

    for name in ("autograd", "numpy", "fused"):
        model = make_model(engine=name)
        model.n_epochs = 0
        _, callback = model._setup_learn(N_STEPS, Shift())
        assert model.env is not None
        model.collect_rollouts(model.env, callback, model.rollout_buffer, N_STEPS)
        actions = model.rollout_buffer.actions[:, 0, :]
        assert actions[:10].max() < 50.0 < actions[10:].min(), name


def test_autograd_honours_at_once_whatever_is_replaced() -> None:
    """It keeps nothing: between two of its calls, without ``attach``, a new head acts, is differentiated and stepped."""
    model = make_model(engine="autograd", learning_rate=1.0)
    collect(model)
    engine, policy = model.attach_engine(), model.policy
    old_head = policy.value_net
    policy.value_net = th.nn.Linear(8, 1)
    policy.optimizer = th.optim.SGD(policy.parameters(), lr=1.0)
    observations = th.randn(3, 5)
    assert th.equal(engine.value(PolicyInputs(observations)), policy.predict_values(observations))
    before = parameters_of(model)
    (minibatch,) = engine.minibatches(model.rollout_buffer, N_STEPS)
    engine.gradients(minibatch, model.update_settings())
    engine.apply(model.update_settings())
    assert old_head.weight.grad is None
    assert not th.equal(policy.value_net.weight, before["value_net.weight"])


@pytest.mark.parametrize("name", ["autograd", "numpy", "fused"])
def test_a_copy_has_an_engine_of_its_own(name: EngineName) -> None:
    """A model is copied without its engine: both learn what one learns, and neither moves the other's parameters."""
    model = make_model(engine=name, n_epochs=2)
    model.learn(N_STEPS)
    twin = copy.deepcopy(model)
    before = parameters_of(twin)
    model.set_random_seed(1)
    model.learn(N_STEPS, reset_num_timesteps=False)
    assert largest_difference(parameters_of(twin), before) == 0.0
    twin.set_random_seed(1)
    twin.learn(N_STEPS, reset_num_timesteps=False)
    assert largest_difference(parameters_of(model), parameters_of(twin)) == 0.0
    assert twin.attach_engine() is not model.attach_engine()


@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"action": "discrete"},
        {"action": "multidiscrete"},
        {"use_sde": True, "sde_sample_freq": 4},
        {"use_sde": True, "sde_sample_freq": 4, "engine": "auto"},
        {"action_distribution": "beta"},
        {"action_distribution": "tanh_gaussian"},
    ],
    ids=lambda arguments: "-".join(arguments),
)
def test_what_a_distribution_keeps_is_copied_without_its_graph(arguments: dict[str, Any], how: Any) -> None:
    """Right after an update, whose graph torch can't copy, and within a rollout; to copy a model changes no bit of either."""
    ends, twins = [], list[Any]()
    for copied in (False, True):
        model = make_model(**{"engine": "autograd", "batch_size": 8, **arguments})

        def watch(local_variables: Any, _: Any, model: EduPPO = model, copied: bool = copied) -> bool:
            """Copy once, within the second rollout."""
            if copied and model.num_timesteps == N_STEPS + 5:
                how(model)
            return True

        model.learn(2 * N_STEPS, callback=watch)
        twins += [how(model)] if copied else []
        for one in (model, *twins):
            one.set_env(make_env(action=arguments.get("action", "box")))
            one.set_random_seed(1)
            ends.append(parameters_of(one.learn(N_STEPS)))
    assert largest_difference(ends[0], ends[1]) == largest_difference(ends[0], ends[2]) == 0


def test_the_default_device_is_no_mode() -> None:
    """``torch.set_default_device`` is a mode of torch's own, under which the policy is what it was."""
    with th.device("cpu"):
        model = make_model().learn(N_STEPS)
        assert model.engine_reason.startswith("fused: ")
