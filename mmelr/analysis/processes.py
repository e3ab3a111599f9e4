"""Many tasks, each in a process of its own that has nothing left to import; several at a time, shared out over GPUs."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

__all__ = ['Task', 'last_line', 'run_tasks', 'visible_gpus']

#: Seconds that a process has to save what it did, before it is killed.
GRACE = 60


class Task(NamedTuple):
    """A call in a process of its own, for which it is pickled.

    Attributes:
        function (Callable): A function of a module.
        args (tuple): Its arguments.
        log (Path): File that whatever the process prints is added to.
    """

    function: Callable
    args: tuple
    log: Path


def run_tasks(
    tasks: Mapping[Hashable, Task],
    ended: Callable[[Hashable, int], None],
    waiting: Callable[[Mapping[Hashable, int]], None] = lambda running: None,
    jobs: int = 1,
    threads: int = 1,
    gpus: Sequence[str] = (),
    preload: Sequence[str] = (),
) -> None:
    """Run tasks, ``jobs`` at a time, in their order.

    A server process imports what they need, once, and is forked for each. It never touches a GPU, so that its
    children may. Whatever ends this function (Ctrl-C, SIGTERM turned into an exception, an error in a callback) sends
    SIGTERM to the processes that run, and waits for them; should this process be killed, they do so by themselves.

    Args:
        tasks (Mapping): From a name to a :class:`Task`.
        ended (Callable): Called with name and exit status (negative: the signal that killed it) when a task has ended.
        waiting (Callable): Called about once a second with the names of the tasks that run, and their process ids.
        jobs (int): Processes at a time.
        threads (int): CPU threads of each.
        gpus (Sequence[str]): Ids for ``CUDA_VISIBLE_DEVICES``, dealt out to the jobs in turn. None: all see all.
        preload (Sequence[str]): Modules that the server imports; those that cannot be imported are left out.
    """
    # With this torch asks NVML whether there are GPUs. CUDA itself, asked before a fork, is of no use behind it.
    os.environ.setdefault('PYTORCH_NVML_BASED_CUDA_CHECK', '1')
    os.environ['OMP_NUM_THREADS'] = str(threads)
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([__name__, 'torch', *preload])
    left, free = deque(tasks.items()), list(range(jobs))[::-1]
    running: dict = {}  # process -> (name, number of the job)
    try:
        while left or running:
            while left and free:
                (name, task), job = left.popleft(), free.pop()
                environment = {'CUDA_VISIBLE_DEVICES': gpus[job % len(gpus)]} if gpus else {}
                task.log.parent.mkdir(parents=True, exist_ok=True)
                process = context.Process(target=_run, args=(task, environment, threads), name=str(name))
                process.start()
                running[process] = name, job
            wait([process.sentinel for process in running], timeout=1)
            for process in [process for process in running if not process.is_alive()]:
                process.join()
                name, job = running.pop(process)
                free.append(job)
                ended(name, process.exitcode)
            waiting({name: process.pid for process, (name, _) in running.items()})
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join(GRACE)
            if process.is_alive():
                process.kill()
                process.join()


def _run(task: Task, environment: dict[str, str], threads: int) -> None:
    """What the process of a task does."""
    import torch

    log = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which asks for an orderly end
    os.environ.update(environment)
    torch.set_num_threads(threads)
    gc.freeze()  # what was imported before the fork is there for good
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        task.function(*task.args)
    finally:
        # A forked process leaves by os._exit, without them; data workers that outlive SIGTERM wait for one.
        atexit._run_exitfuncs()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)


def visible_gpus() -> list[str]:
    """Ids of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` has them. CUDA is not initialised."""
    import torch

    count = torch.cuda.device_count()  # of NVML
    named = [name for name in os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',') if name]
    return (named or [str(i) for i in range(count)])[:count]


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    lines = log.read_text(encoding='utf-8', errors='replace').splitlines() if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), 'its log is empty')
