"""The one-cycle schedules and the optimisers that follow them (`keras.ops` alone: any Keras backend)."""
import math

from base.command import quiet_stderr

with quiet_stderr():
    import keras
    from keras import ops


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """Cosine from `start` to `peak` over the first 30 % of `steps` updates, then cosine to `end`, which stays
    (Smith 2018, as in fastai's fit_one_cycle). A pure function of the step: a resumed run goes on exactly."""

    def __init__(self, start, peak, end, steps, pct_start=0.3):
        self.start, self.peak, self.end, self.steps, self.pct_start = start, peak, end, steps, pct_start

    def __call__(self, step):
        part = ops.clip(ops.cast(step, "float32") / max(self.steps - 1, 1), 0.0, 1.0)
        up = self.start + (self.peak - self.start) * (1 - ops.cos(math.pi * part / self.pct_start)) / 2
        past = (part - self.pct_start) / (1 - self.pct_start)
        down = self.peak + (self.end - self.peak) * (1 - ops.cos(math.pi * past)) / 2
        return ops.where(part < self.pct_start, up, down)


class Exponential(keras.optimizers.schedules.LearningRateSchedule):
    """From `start` to `end` by the same factor at each of `steps` updates (range test, Smith 2017)."""

    def __init__(self, start, end, steps):
        self.start, self.end, self.steps = start, end, steps

    def __call__(self, step):
        part = ops.cast(step, "float32") / max(self.steps - 1, 1)
        return self.start * ops.exp(part * math.log(self.end / self.start))


class Steps:
    """How far each variable goes, of the optimisers below: the share `shares` (of its path; 1 where it is not
    named) of a step. Adam does not see the scale of a gradient, so it is the step that is scaled. Kernels,
    and nothing else, decay: before each step by rate * share * decay of themselves (decoupled, Loshchilov &
    Hutter 2019). In the first `rest` updates those of `shares` are not updated at all."""

    def whole(self, variable):
        """Keras's variable, of which this may be one device's."""
        return self._trainable_variables[self._get_variable_index(variable)]

    def rate_of(self, variable, learning_rate):
        return ops.cast(learning_rate * self.shares.get(self.whole(variable).path, 1.0), variable.dtype)

    def count_updates(self, variable):
        """How many a variable has had with this one: running means of gradients are as old."""
        rest = self.rest if self.whole(variable).path in self.shares else 0
        return ops.cast(ops.maximum(self._iterations + 1 - rest, 1), variable.dtype)

    def decay_kernel(self, variable, rate):
        if self.decay and self.whole(variable).name == "kernel":
            self.assign_sub(variable, rate * self.decay * variable)


class ScheduledSGD(Steps, keras.optimizers.SGD):
    """SGD with Nesterov momentum that follows a schedule, too, read in the graph at the optimiser's own step.
    (Keras keeps the momentum as a Python number, fixed once the step is traced.)"""

    def __init__(self, learning_rate, momentum_schedule, decay, shares, rest):
        super().__init__(learning_rate, momentum=0.9, nesterov=True)  # 0.9: makes the slots
        self.momentum_schedule, self.decay, self.shares, self.rest = momentum_schedule, decay, shares, rest

    def update_step(self, gradient, variable, learning_rate):
        rate, gradient = self.rate_of(variable, learning_rate), ops.cast(gradient, variable.dtype)
        momentum = ops.cast(self.momentum_schedule(self._iterations), variable.dtype)
        slot = self.momentums[self._get_variable_index(variable)]
        velocity = momentum * ops.cast(slot, variable.dtype) - rate * gradient
        self.decay_kernel(variable, rate)
        self.assign(slot, velocity)
        self.assign_add(variable, momentum * velocity - rate * gradient)


class ScheduledAdamW(Steps, keras.optimizers.Adam):
    """AdamW (Loshchilov & Hutter 2019) whose beta_1 follows a schedule, as the one-cycle policy asks. The
    bias correction takes the present beta_1 to the power of a variable's updates, as in PyTorch."""

    def __init__(self, learning_rate, momentum_schedule, decay, shares, rest):
        super().__init__(learning_rate=learning_rate)
        self.momentum_schedule, self.decay, self.shares, self.rest = momentum_schedule, decay, shares, rest

    def update_step(self, gradient, variable, learning_rate):
        rate, gradient = self.rate_of(variable, learning_rate), ops.cast(gradient, variable.dtype)
        beta = ops.cast(self.momentum_schedule(self._iterations), variable.dtype)
        step = self.count_updates(variable)
        self.decay_kernel(variable, rate)
        rate = rate * ops.sqrt(1 - ops.power(self.beta_2, step)) / (1 - ops.power(beta, step))
        index = self._get_variable_index(variable)
        mean, square = self._momentums[index], self._velocities[index]
        self.assign_add(mean, (gradient - mean) * (1 - beta))
        self.assign_add(square, (ops.square(gradient) - square) * (1 - self.beta_2))
        self.assign_sub(variable, mean * rate / (ops.sqrt(square) + self.epsilon))


def build_optimizer(optimizer, learning_rate, momentum, weight_decay, shares=None, rest=0):
    """`sgd` or `adamw` with schedules (or constants) for learning rate and momentum (adamw: beta_1). `shares`
    is {path of a variable: the share of each step that it goes}, for those that do not go all of it, nor are
    updated in the first `rest` updates."""
    schedule = momentum if callable(momentum) else lambda step: momentum
    kind = ScheduledAdamW if optimizer == "adamw" else ScheduledSGD
    return kind(learning_rate, schedule, float(weight_decay), shares or {}, rest)


def schedules(train, max_lr, steps):
    """Learning rate (from max/25 to max to max/25,000) and momentum, which falls while the rate rises, as
    functions of the step (Smith 2018; the numbers are fastai's)."""
    high, low = train["momentum"]
    return OneCycle(max_lr / 25, max_lr, max_lr / 25_000, steps), OneCycle(high, low, high, steps)
