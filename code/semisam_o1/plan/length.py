"""How long a run takes, and how many iterations and rounds fit into a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

# In units of the time that a training step takes per voxel of its batch, so that they follow the speed of the machine:
FORWARD = 0.3  # per voxel of a window in validation and relabeling
REGISTRATION = 16.0  # per cell at the resolution of registration, in round 0
WARPING, FUSION = 2.0, 1.5  # per cell of the region that labels are carried over to, in round 0 and after each round
START = 10.0  # seconds: reading, checks, figures
RESERVE = 0.05  # of the time, for what is not foreseen
VALIDATIONS, VALIDATION_SHARE = 10, 0.15  # per round, and the share of training time that they may take
# Of a round: with fewer than MIN_ITERATIONS a second one is no use; MAX_ITERATIONS are the published ones.
FEWEST_ITERATIONS, MIN_ITERATIONS, MAX_ITERATIONS = 20, 200, 15000
ROUNDS, VAL_INTERVAL = 3, 200  # as published
FIRST_HOURS, FIRST_ITERATIONS = 1.0, 500  # on a CPU without --hours: at most so long, at most so many per round


@dataclass(frozen=True)
class Workload:
    """Voxels that the stages of a run compute, in one process."""

    batch: int  # of a training step
    validation: int  # of all windows of a validation
    relabeling: int  # of all windows of a relabeling, and of what is predicted for the calibrated decision
    registered: int  # cells of all regions in round 0, at the resolution of registration, 0 without it
    warped: int  # cells of the regions that labels are carried over to in round 0
    fused: int  # cells of the regions whose labels are fused after each round


@dataclass(frozen=True)
class Length:
    """Iterations per round, rounds, iterations between validations, and the seconds that they take."""

    iterations: int
    rounds: int
    val_interval: int
    seconds: float | None = None  # of the whole run, None where nothing was measured


@dataclass(frozen=True)
class Clock:
    """Predicts the seconds of a run's stages from those of a training step."""

    work: Workload
    step: float

    @property
    def validation(self) -> float:
        return self._seconds(FORWARD * self.work.validation)

    @property
    def before(self) -> float:
        """Seconds before the first iteration: reading, registration."""
        return START + self._seconds(REGISTRATION * self.work.registered + WARPING * self.work.warped)

    @property
    def after_round(self) -> float:
        """Seconds of relabeling and refinement after each round."""
        return self._seconds(FORWARD * self.work.relabeling + FUSION * self.work.fused)

    def per_iteration(self, val_interval: int) -> float:
        return self.step + self.validation / val_interval

    def total(self, iterations: int, rounds: int, val_interval: int) -> float:
        """Return the seconds of a whole run."""
        return self.before + rounds * (iterations * self.per_iteration(val_interval) + self.after_round)

    def val_interval(self, iterations: int) -> int:
        """Return the iterations between validations: ten per round, fewer where they would take too long."""
        dear = self.validation / (VALIDATION_SHARE * self.step)
        return min(round_up(max(iterations / VALIDATIONS, dear, 1)), iterations)

    def _seconds(self, voxels: float) -> float:
        """Return the seconds of as many voxels of a training step."""
        return voxels * self.step / self.work.batch


@dataclass(frozen=True)
class Wanted:
    """What was asked for; None leaves it to the plan."""

    hours: float | None = None
    iterations: int | None = None
    rounds: int | None = None
    val_interval: int | None = None


def fit_length(clock: Clock, wanted: Wanted) -> Length:
    """Return the length of a run that fits the hours wanted, else ``FIRST_HOURS``.

    As many rounds as are worth it, up to three, of as many iterations as fit. Where not even one short round fits, it
    is planned nevertheless, and its seconds say so.
    """
    tried = [
        _candidate(clock, wanted, rounds) for rounds in ((wanted.rounds,) if wanted.rounds else range(ROUNDS, 0, -1))
    ]
    seconds = 3600 * (wanted.hours or FIRST_HOURS)
    fitting = (length for length in tried if length.iterations >= MIN_ITERATIONS and length.seconds <= seconds)
    return next(fitting, tried[-1])


def published_length(wanted: Wanted) -> Length:
    """Return the published length of a run, which nothing was measured for."""
    iterations = wanted.iterations or MAX_ITERATIONS
    interval = wanted.val_interval or min(round_up(max(iterations / VALIDATIONS, 1)), VAL_INTERVAL, iterations)
    return Length(iterations, wanted.rounds or ROUNDS, interval)


def _candidate(clock: Clock, wanted: Wanted, rounds: int) -> Length:
    """Return the longest run of so many rounds that fits, or one of the fewest iterations."""
    seconds, most = 3600 * (wanted.hours or FIRST_HOURS), MAX_ITERATIONS if wanted.hours else FIRST_ITERATIONS
    left = ((1 - RESERVE) * seconds - clock.before) / rounds - clock.after_round  # for the training of a round
    iterations = wanted.iterations
    if iterations is None:
        interval = wanted.val_interval or clock.val_interval(max(1, int(left / clock.step)))
        fewest = FEWEST_ITERATIONS if wanted.hours else MIN_ITERATIONS  # a first result is to be a useful one
        iterations = min(max(round_down(left / clock.per_iteration(interval)), fewest), most)
    interval = wanted.val_interval or clock.val_interval(iterations)
    return Length(iterations, rounds, interval, clock.total(iterations, rounds, interval))


def round_down(number: float) -> int:
    """Return the number with two significant digits, not larger; 0 for what is below 1."""
    if number < 1:
        return 0
    unit = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return int(number // unit) * unit


def round_up(number: float) -> int:
    """Return a number from 1 with two significant digits, not smaller."""
    unit = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return math.ceil(number / unit) * unit
