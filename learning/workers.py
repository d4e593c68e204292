"""One device, all devices of a machine, or several machines: which train together, and what they agree on.

Every process runs the same script. The first worker reads and writes the run's folder; the others ask it what
it read there, and write where nobody reads. Only the prepared tiles have to be within everyone's reach."""
import contextlib
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from base.command import quiet_stderr
from base.files import only_one
from base.problem import Problem

with quiet_stderr():
    import tensorflow as tf


def slurm_step():
    """What TF_CONFIG would say, from the variables of a SLURM step (srun): worker i is task i, in SLURM's
    block distribution, at ports by the job's number. {} outside of a step of several tasks."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1) == 1:
        return {}
    hosts = subprocess.run(["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]], check=True,
                           capture_output=True, text=True).stdout.split()
    tasks = []
    for part in os.environ["SLURM_STEP_TASKS_PER_NODE"].split(","):  # such as 2(x3),1
        count, times = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part).groups()
        tasks += [int(count)] * int(times or 1)
    port = 20_000 + int(os.environ["SLURM_JOB_ID"]) % 10_000
    workers = [f"{host}:{port + i}" for host, count in zip(hosts, tasks, strict=True) for i in range(count)]
    task = {"type": "worker", "index": int(os.environ["SLURM_PROCID"])}
    return {"cluster": {"worker": workers}, "task": task}


def choose_strategy():
    """Several machines (it waits for them) where TF_CONFIG or a SLURM step of several tasks says so, else
    this one's devices. Has to come before TensorFlow computes. Problem (exit 4) where these are senseless."""
    try:
        config = json.loads(os.environ.get("TF_CONFIG") or "{}") or slurm_step()
        if len(sum(config.get("cluster", {}).values(), [])) > 1:
            config["cluster"][config["task"]["type"]][config["task"]["index"]]  # or TensorFlow waits for ever
            os.environ["TF_CONFIG"] = json.dumps(config)
            return tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, OSError,
            subprocess.CalledProcessError) as error:
        found = " ".join(str(error).split())
        raise Problem(f"environment, TF_CONFIG or SLURM: {found}, expected the addresses of all workers and "
                      'the number of this one, {"cluster": {"worker": [...]}, "task": {"type": "worker", '
                      '"index": 0}}; unset TF_CONFIG to train on this machine alone', code=4) from None
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def several(strategy):
    """True where other processes train along."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def leads(strategy):
    """True in the process that works in the run's folder: the only one, or the first of several workers."""
    if not several(strategy):
        return True
    resolver = strategy.cluster_resolver
    chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (resolver.task_id == 0 and not chief)


@contextlib.contextmanager
def working_in(run, strategy):
    """Yields the folder to write in: the run's, held, for the first worker; for the others one that nobody
    reads, and they do not speak. All end with Problem (exit 4) where one of them is lost."""
    try:
        if leads(strategy):
            with only_one(run):
                yield run
        else:
            with (tempfile.TemporaryDirectory() as unread, open(os.devnull, "w") as silence,
                  contextlib.redirect_stdout(silence)):
                yield Path(unread)
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
            tf.errors.InternalError, tf.errors.DeadlineExceededError) as error:
        if not several(strategy):
            raise
        raise Problem(f"workers: another one is gone ({' '.join(error.message.split())[:120]}), expected all "
                      f"{strategy.num_replicas_in_sync} devices; start all workers again, they go on from "
                      "the last whole epoch", code=4) from None


def agree(strategy, arrays):
    """The first worker's arrays (a list of NumPy arrays, of the same shapes everywhere) on every worker."""
    if not several(strategy):
        return arrays
    mine = leads(strategy)

    def on_device(values):
        context = tf.distribute.get_replica_context()
        first = tf.equal(context.replica_id_in_sync_group, 0)
        return [context.all_reduce("SUM", tf.where(first, value, tf.zeros_like(value)) if mine else
                                   tf.zeros_like(value)) for value in values]  # one by one: types may differ

    @tf.function
    def together(values):
        return [strategy.experimental_local_results(value)[0] for value in strategy.run(on_device, (values,))]

    return [value.numpy() for value in together([tf.constant(array) for array in arrays])]


def first_says(strategy, answer):
    """The number that `answer()` gives on the first worker, on every worker; only the first calls it."""
    return agree(strategy, [np.float64(answer() if leads(strategy) else 0)])[0]
