"""Where a worker's time goes: clocks put around its methods from outside; the code measured knows nothing of it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from streamrec.worker.loop import Worker


class Stopwatch:
    """Adds up the time spent in methods, each without the watched methods it calls."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.cpu_s = 0.0  # of the process while the worker ran, all threads: little moved by busy neighbours
        self._inner_s: list[float] = []  # per watched call that is open: time spent in watched calls inside it

    def watch(self, owner: object, method: str, step: str) -> None:
        """From now on, count what `owner.method` takes as `step`."""
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*arguments: Any, **options: Any) -> Any:
            self._inner_s.append(0.0)
            began = time.perf_counter()
            try:
                return original(*arguments, **options)
            finally:
                took_s = time.perf_counter() - began
                self.seconds[step] += took_s - self._inner_s.pop()
                if self._inner_s:
                    self._inner_s[-1] += took_s

        setattr(owner, method, timed)


def watch_worker(worker: Worker, stopwatch: Stopwatch) -> None:
    """Put a clock around every step of a worker."""
    pipeline, fold = worker.pipeline, worker.fold
    steps = [
        (fold.validator, "read", "decode"),
        (fold, "deduplicated", "deduplicate and count"),
        (fold, "publish", "publish"),
        (worker, "checkpoint", "checkpoint"),
        (worker._source, "poll", "read"),
        (fold, "admit", "load from the store"),
        (pipeline, "remember", "remember"),
        (pipeline, "rank", "retrieve"),
        (pipeline.answers, "slates", "make slates"),
        (pipeline, "learn", "learn, other"),
        (pipeline.fusion, "describe", "fuse"),
        (pipeline.answers.policies, "choose", "choose"),
        (pipeline.fusion, "learn", "learn fusion"),
    ]
    run = worker.run

    def run_counted() -> None:
        began_s = time.process_time()
        run()
        stopwatch.cpu_s = time.process_time() - began_s

    setattr(worker, "run", run_counted)  # noqa: B010
    for owner, method, step in steps:
        stopwatch.watch(owner, method, step)
    for retriever in pipeline.retrievers:
        stopwatch.watch(retriever, "candidates", "retrieve")
    for model in pipeline.models:
        stopwatch.watch(model, "score", f"score {model.name}")
        stopwatch.watch(model, "learn", f"learn {model.name}")
