"""Schedules as a YAML file describes them, and the same in plain torch."""

from torch.optim import lr_scheduler as torchs

TORCH = "torch.optim.lr_scheduler."


def description(target, **options):
    return {"_target_": TORCH + target, "_partial_": True, **options}


def sequence(optimizer, num_steps, first):
    parts = [
        torchs.LinearLR(optimizer, 0.25, total_iters=first),
        torchs.CosineAnnealingLR(optimizer, num_steps - first),
    ]
    return torchs.SequentialLR(optimizer, parts, [first])


def nested(optimizer, num_steps):
    """Decays all the time, and besides keeps the rate low for two steps and then goes down."""
    parts = [torchs.ConstantLR(optimizer, 0.5, 2), torchs.PolynomialLR(optimizer, num_steps - 2)]
    return torchs.ChainedScheduler(
        [torchs.ExponentialLR(optimizer, 0.9), torchs.SequentialLR(optimizer, parts, [2])], optimizer
    )


def of_two(first):
    return [
        description("LinearLR", start_factor=0.25, total_iters=first),
        description("CosineAnnealingLR", steps_argument="T_max"),
    ]


NESTED = [
    description("ExponentialLR", gamma=0.9),
    description(
        "SequentialLR",
        milestones=[2],
        schedulers=[
            description("ConstantLR", factor=0.5, total_iters=2),
            description("PolynomialLR", steps_argument="total_iters"),
        ],
    ),
]

# Name: the description, whether it steps by the optimizer's steps, and torch's from (optimizer, its number of steps).
SCHEDULES = {
    "StepLR": (description("StepLR", step_size=2), False, lambda o, n: torchs.StepLR(o, 2)),
    "StepLR by the step": (
        description("StepLR", step_size=2, gamma=0.5, interval="step"),
        True,
        lambda o, n: torchs.StepLR(o, 2, 0.5),
    ),
    "MultiStepLR": (description("MultiStepLR", milestones=[1, 3]), False, lambda o, n: torchs.MultiStepLR(o, [1, 3])),
    "ConstantLR": (description("ConstantLR", total_iters=2), False, lambda o, n: torchs.ConstantLR(o, total_iters=2)),
    "LinearLR": (description("LinearLR", total_iters=3), False, lambda o, n: torchs.LinearLR(o, total_iters=3)),
    "ExponentialLR": (description("ExponentialLR", gamma=0.5), False, lambda o, n: torchs.ExponentialLR(o, 0.5)),
    "PolynomialLR": (
        description("PolynomialLR", steps_argument="total_iters", power=2.0),
        True,
        lambda o, n: torchs.PolynomialLR(o, n, 2.0),
    ),
    "CosineAnnealingLR": (
        description("CosineAnnealingLR", steps_argument="T_max"),
        True,
        lambda o, n: torchs.CosineAnnealingLR(o, n),
    ),
    "CosineAnnealingLR by the epoch": (
        description("CosineAnnealingLR", steps_argument="T_max", interval="epoch"),
        False,
        lambda o, n: torchs.CosineAnnealingLR(o, n),
    ),
    "CosineAnnealingWarmRestarts": (
        description("CosineAnnealingWarmRestarts", T_0=3),
        False,
        lambda o, n: torchs.CosineAnnealingWarmRestarts(o, 3),
    ),
    "CyclicLR": (
        description("CyclicLR", base_lr=0.01, max_lr=0.1, step_size_up=3, cycle_momentum=False),
        True,
        lambda o, n: torchs.CyclicLR(o, 0.01, 0.1, 3, cycle_momentum=False),
    ),
    "OneCycleLR": (
        description("OneCycleLR", max_lr=0.1, steps_argument="total_steps"),
        True,
        lambda o, n: torchs.OneCycleLR(o, 0.1, n),
    ),
    "SequentialLR": (
        description("SequentialLR", milestones=[2], schedulers=of_two(2), interval="epoch"),
        False,
        lambda o, n: sequence(o, n, 2),
    ),
    "SequentialLR by the step": (
        description("SequentialLR", milestones=[5], schedulers=of_two(5), interval="step"),
        True,
        lambda o, n: sequence(o, n, 5),
    ),
    "ChainedScheduler": (description("ChainedScheduler", schedulers=NESTED, interval="step"), True, nested),
    "ReduceLROnPlateau": (
        description("ReduceLROnPlateau", patience=0, threshold=0.01),
        False,
        lambda o, n: torchs.ReduceLROnPlateau(o, patience=0, threshold=0.01),
    ),
    "ReduceLROnPlateau of the training's accuracy": (
        description("ReduceLROnPlateau", monitor="train/accuracy", mode="max", patience=1, factor=0.5),
        False,
        lambda o, n: torchs.ReduceLROnPlateau(o, "max", 0.5, 1),
    ),
}
