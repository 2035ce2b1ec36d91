"""Options of an experiment: names, choices, refusals."""

import json

import pytest

from snnjax.experiments import Experiment
from snnjax.experiments import _parts as parts
from snnjax.experiments._experiment import STARTS
from snnjax.experiments._options import options_of
from snnjax.experiments._tasks import TASKS

RANDMAN = Experiment.from_options("randman")


@pytest.mark.parametrize("task", [task.name for task in TASKS])
@pytest.mark.parametrize("start", STARTS)
def test_options_come_back_through_json(task, start):
    experiment = Experiment.from_options(task, start=start, seed=3)
    assert Experiment.from_options(**json.loads(json.dumps(experiment.options()))) == experiment


@pytest.mark.parametrize("flag", ["model", "neuron", "init", "gradient", "optimizer", "task"])
def test_every_choice_has_a_name_of_its_own_and_can_be_chosen(flag):
    (option,) = [option for option in options_of(RANDMAN) if option.name == flag]
    names = [choice.name for choice in option.choices]
    assert len(set(names)) == len(names)
    dale = {"model": "dalian"}
    for name, choice in zip(names, option.choices, strict=True):
        needs = dale if choice is parts.Lognormal else {}
        if flag == "task":
            chosen = Experiment.from_options(name).task
        else:
            changed = RANDMAN.replace(**needs, **{flag: name})
            (chosen,) = [o.part for o in options_of(changed) if o.name == flag]
            chosen = getattr(chosen, option.field.name)
        assert type(chosen) is choice


def test_names_of_options_are_different():
    for task in TASKS:
        names = [option.name for option in options_of(Experiment.from_options(task.name))]
        assert len(set(names)) == len(names)


def test_a_choice_keeps_the_fields_of_a_common_base_class():
    experiment = RANDMAN.replace(sigma_u=0.5, mu_u=-0.2, dropout=0.1, hidden=(64, 32))
    assert experiment.replace(init="data_driven_balanced").start.weights == (
        parts.DataDrivenBalanced(sigma_u=0.5, mu_u=-0.2)
    )
    # the same network, with Dale's law
    assert experiment.replace(model="dalian").network == (
        parts.Dalian(hidden=(64, 32), dropout=0.1)
    )
    # depth of a dense network and of a convolutional one are different options
    deep = experiment.replace(hidden=(64,), depth=2, skip=True)
    assert deep.replace(model="csnn").network == parts.CSNN(depth=3, dropout=0.1, skip=True)
    # every optimizer has its own learning rate, unless one was named
    named = RANDMAN.replace(learning_rate=1.0)
    assert named.replace(optimizer="sgd").optimizer == parts.SGD(learning_rate=1.0)
    assert RANDMAN.replace(optimizer="sgd").optimizer == parts.SGD()
    # nothing is left of what a choice does not have
    back = experiment.replace(init="lsuv").replace(init="data_driven")
    assert back.start.weights == parts.DataDriven()


def test_a_number_in_the_name_of_a_model_is_its_depth():
    assert RANDMAN.replace(model="csnn7").network == parts.CSNN(depth=7)
    assert RANDMAN.replace(model="dalian_csnn10").network == parts.DalianCSNN(depth=10)


def test_widths_of_dense_networks():
    widths = lambda **options: RANDMAN.replace(**options).network.widths
    assert widths(depth=3) == (128, 128, 128)
    assert widths(hidden=[64, 32]) == (64, 32)
    with pytest.raises(
        ValueError, match=r"depth must be None .* got depth 2 and hidden \(64, 32\)"
    ):
        RANDMAN.replace(hidden=(64, 32), depth=2)


PAPER = {"start": "paper", "recurrent": True, "upper_strength": 0.1}


@pytest.mark.parametrize(
    ("options", "name", "reason"),
    [
        ({"upper_strength": 0.0}, "upper_rate", "upper_strength is 0"),
        ({"upper_strength": 0.0}, "upper_pool", "upper_strength is 0"),
        ({"lower_strength": 0.0}, "lower_threshold", "lower_strength is 0"),
        (
            {"upper_strength": 0.0, "lower_strength": 0.0},
            "bound_share",
            "both bounds have strength 0",
        ),
        ({"recurrent": False}, "alpha", "the network is not recurrent"),
        ({"gradient": "steepness", "depth": 2}, "beta", "gradient 'steepness' calibrates it"),
        ({"neuron": "adlif"}, "trace_dtype", "neuron 'adlif' stores no such trace"),
        ({}, "calibration_samples", "nothing is measured before training"),
    ],
)
def test_options_without_effect_are_refused(options, name, reason):
    experiment = Experiment.from_options("randman", **(PAPER | options))
    assert experiment.idle()[name] == reason
    assert name not in experiment.options()
    (own,) = [option.value for option in options_of(experiment) if option.name == name]
    with pytest.raises(ValueError, match=f"{name} has no effect, because {reason}; leave it out"):
        experiment.replace(**{name: own})
    # it has an effect as soon as the reason is gone
    used = Experiment.from_options("randman", **(PAPER | {"init": "data_driven"}), lower_strength=1)
    assert used.replace(**{name: own}).options()[name] == own


def test_options_of_a_task_without_effect_are_refused():
    for task, options, name in (
        ("shd", {"valid_speakers": (1, 2)}, "valid_fraction"),
        ("dvs-gesture", {"stream": False}, "crop"),
        ("dvs-gesture", {"stream": False}, "shard_size"),
    ):
        experiment = Experiment.from_options(task)
        own = experiment.options()[name]
        changed = experiment.replace(**options)
        assert name not in changed.options()
        with pytest.raises(ValueError, match=f"{name} has no effect, because"):
            changed.replace(**{name: own})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sigma": 1.0}, "sigma is not an option of this experiment; did you mean sigma_u"),
        ({"xyzzy": 1}, "xyzzy is not an option of this experiment; options are task, duration,"),
        ({"sigma_w": 1.0}, "sigma_w is an option of init 'normal', got init 'data_driven'"),
        ({"ei_ratio": 2.0}, "ei_ratio is an option of model 'dalian' or 'dalian_csnn', got model"),
        (
            {"model": "csnn", "hidden": (3,)},
            "hidden is an option of model 'dense' or 'dalian', got",
        ),
        ({"gradient": "none", "logit_spread": 1.0}, "logit_spread is an option of gradient 'stee"),
        ({"data": "here"}, "data is an option of task 'shd' or .*, got task 'randman'"),
        ({"model": "mlp"}, "model must be one of 'dense', 'csnn', 'dalian', 'dalian_csnn', got"),
        ({"model": "csnn2"}, "depth must be one of 1, 3, 7, 10, got 2"),
        ({"init": "lognormal"}, "init of model 'dense' must be one of"),
        ({"task": "mnist"}, "task must be one of 'randman', 'shd'"),
        ({"seed": -1}, "seed must be >= 0"),
        ({"sigma_u": 0.0}, "sigma_u must be finite and > 0"),
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"trace_dtype": "float16"}, "trace_dtype must be one of 'bfloat16', 'float32'"),
    ],
)
def test_refusals_say_what_is_allowed(options, match):
    with pytest.raises(ValueError, match=match):
        RANDMAN.replace(**options)


def test_normalization_excludes_biases_and_dale_s_law():
    assert RANDMAN.replace(norm=True).network.norm
    with pytest.raises(ValueError, match="bias must be False with norm"):
        RANDMAN.replace(norm=True, bias=True)
    with pytest.raises(ValueError, match="norm must be False with Dale's law"):
        RANDMAN.replace(norm=True, model="dalian")
