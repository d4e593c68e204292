"""Rasters over the workers of a Dask cluster."""
import contextlib
import logging
import os
import re

from base.problem import Problem
from mapping.one_raster import attempt


def check_scheduler(scheduler):
    """Problem (exit 2) where a scheduler, None of none, is named otherwise than Dask's are here."""
    if scheduler and not re.match(r"^(local:[1-9][0-9]?|tcp://.+:[0-9]+)$", scheduler):
        raise Problem(f"option --scheduler {scheduler}: expected local:N, N workers on this machine, or "
                      "tcp://host:port", code=2)


def over_dask(groups, scheduler):
    """Yields what `attempt` returns for the groups, as Dask's workers finish; what a lost one was at, another
    does. `scheduler`: "local:N" starts N workers on this machine; "tcp://..." is a scheduler which, as its
    workers, runs in this folder. Problem (exit 4) where there are none."""
    try:
        from distributed import Client, LocalCluster, as_completed
    except ImportError:
        raise Problem("package distributed: not installed, expected for --scheduler; run make extras",
                      code=4) from None
    logging.getLogger("distributed").setLevel(logging.ERROR)
    count = int(scheduler.removeprefix("local:")) if scheduler.startswith("local:") else 0
    threads = max(1, (os.cpu_count() or 1) // count) if count else 0  # 0: one for each core
    with contextlib.ExitStack() as opened:
        try:
            address = opened.enter_context(LocalCluster(
                n_workers=count, threads_per_worker=1, memory_limit=0, dashboard_address=None,
                silence_logs=logging.CRITICAL)) if count else scheduler  # else late workers show tracebacks
            client = opened.enter_context(Client(address, timeout=60))
            client.wait_for_workers(1, timeout=60)
        except OSError as error:  # a timeout too
            raise Problem(f"option --scheduler {scheduler}: {error}, expected a running Dask scheduler with "
                          "workers, or local:N", code=4) from None
        futures = {client.submit(attempt, group, threads, pure=False): group for group in groups}
        for future in as_completed(list(futures)):
            group = futures.pop(future)  # what has been read here is not done again when its worker is lost
            yield outcome_of(future, group, scheduler)


def outcome_of(future, group, scheduler):
    """What `attempt` returned for a group of jobs, or a Problem where its workers were lost."""
    try:
        return future.result()
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if type(error).__name__ != "KilledWorker":
            raise Problem(f"option --scheduler {scheduler}: {type(error).__name__} {error}, expected "
                          "scheduler and workers that run in this folder, with these packages",
                          code=4) from None
        lost = Problem(f"raster {group[0].path}: worker after worker was lost at it, expected one to "
                       "finish; look at their memory", code=3)
        return [], lost, []
