"""Jobs spread over the workers of a Dask cluster, on this machine or on many."""
import contextlib
import importlib
import logging
import os

from files import Problem


def over_dask(module, function, jobs, scheduler):
    """Yields what a module's function, which returns (exit code, lines, row), returns for each of `jobs`, each a tuple
    whose second item is a path, as the workers finish. The function also takes how many threads it may use, 0 for as
    many as there are cores.

    `scheduler`: "local:N" starts N workers on this machine; "tcp://..." is a scheduler which, as its workers, runs in
    this folder. What a lost worker was at, another does. Problem (exit 4) where there is no cluster.
    """
    try:
        from distributed import Client, LocalCluster, as_completed
    except ImportError:
        raise Problem("package distributed: not installed, expected for --scheduler; run make extras", code=4) from None
    work = getattr(importlib.import_module(module), function)  # by a name that the workers know: not __main__'s
    logging.getLogger("distributed").setLevel(logging.ERROR)
    count = int(scheduler.partition(":")[2]) if scheduler.startswith("local:") else 0
    threads = max(1, (os.cpu_count() or 1) // count) if count else 0
    with contextlib.ExitStack() as opened:
        try:
            address = opened.enter_context(LocalCluster(n_workers=count, threads_per_worker=1, memory_limit=0,
                                                        dashboard_address=None)) if count else scheduler
            client = opened.enter_context(Client(address, timeout=20))
            client.wait_for_workers(1, timeout=60)
        except OSError as error:  # a timeout too
            raise Problem(f"option --scheduler {scheduler}: {error}, expected a running Dask scheduler with workers, "
                          "or local:N", code=4) from None
        futures = {client.submit(work, *job, threads, pure=False): job[1] for job in jobs}
        for future in as_completed(list(futures)):
            path = futures.pop(future)  # what has been read here is not done again when its worker is lost
            try:
                yield future.result()
            except Exception as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                if type(error).__name__ != "KilledWorker":
                    raise Problem(f"option --scheduler {scheduler}: {type(error).__name__} {error}, expected scheduler "
                                  "and workers that run in this folder, with these packages", code=4) from None
                yield 3, [f"raster {path}: worker after worker was lost at it, expected one to finish; look at their "
                          "memory"], None
