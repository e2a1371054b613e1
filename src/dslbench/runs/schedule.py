"""Make runs, several at once, beside other processes that may want the same ones."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dslbench.errors import DslbenchError, RunError, StoreError
from dslbench.runs import checkpoint, failures, sharing, store
from dslbench.runs.claims import LOOK_AGAIN, Claim, Claims
from dslbench.runs.events import Listeners
from dslbench.runs.local import CancelledError, Event, Executor
from dslbench.runs.progress import Quiet
from dslbench.runs.stock import WantedRun
from dslbench.words import number


@dataclass
class _Active:
    run: WantedRun
    claim: Claim
    thread: threading.Thread
    trainings: dict[str, Claim] = field(default_factory=dict)  # that it makes for others, too


class Schedule:
    """Takes runs in their order, leaves those that others hold for later, and waits for them at the end.

    A student is not begun before its teacher's run is settled, and no run while another makes a training
    that both have, here or in another process.
    """

    def __init__(
        self, missing: Sequence[WantedRun], executor: Executor, claims: Claims, show: Quiet,
        warn: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._pending = list(missing)
        self._kept = sharing.kept_by_plan(missing)
        self._executor, self._claims, self._show, self._warn = executor, claims, show, warn
        self._active: dict[int, _Active] = {}
        self._events: queue.Queue[tuple[int, Event | BaseException | None]] = queue.Queue()
        self._look_at: dict[str, float] = {}  # when to look again at a run held elsewhere
        self._announced: set[str] = set()
        self._failed: dict[str, str] = {}
        self._full: StoreError | None = None
        self._listeners = Listeners(warn)

    def run(self) -> list[str]:
        """Make all; returns a line for each that failed, `TITLE: REASON (HINT)`.

        KeyboardInterrupt stops the runs in progress; what was finished before it is stored.
        Raises `StoreError` where the store cannot be written, after the other runs in progress
        have ended.
        """
        try:
            while self._pending or self._active:
                self._begin_what_can()
                self._wait_for_something()
        finally:
            for slot in self._active:
                self._executor.cancel(slot)
            for active in self._active.values():
                active.thread.join(10)
        if self._full is not None:
            raise self._full
        return list(self._failed.values())

    def _begin_what_can(self) -> None:
        unsettled = {run.id for run in self._pending} | {a.run.id for a in self._active.values()}
        now = time.monotonic()
        for run in list(self._pending):
            if len(self._active) == self._executor.slots:
                return
            if now < self._look_at.get(run.id, now) or run.teacher in unsettled:
                continue
            try:
                self._try(run)
            except StoreError as error:
                self._stop(error)
                return
            except DslbenchError as error:
                self._settle(run, None, error)
        if not self._active:
            self._announce()

    def _try(self, run: WantedRun) -> None:
        if run.teacher in self._failed:
            self._settle(run, None, RunError("the run of its teacher failed"))
            return
        claim = self._claims.take(run.id)
        if claim is None:
            self._look_at[run.id] = time.monotonic() + LOOK_AGAIN
            return
        # It may have been made, or have failed, between our plan and our claim.
        made = store.stamp(run.id) != run.stamp and store.has(run.id, self._warn)
        tried = failures.time_of(run.id) not in (None, run.failed_at)
        if made or tried:
            claim.release()
            failure = None if made else failures.read_or_none(run.id)
            error = RunError(failure.reason, failure.hint) if failure else None
            self._settle(run, None, error, elsewhere=True)
            return
        shared = {
            training.key: sharing.is_stored(training.key)
            for training in run.shares
            if training.key in self._kept or sharing.is_stored(training.key)
        }
        trainings = self._claim_all([key for key, is_there in shared.items() if not is_there])
        if trainings is None:
            claim.release()
            self._look_at[run.id] = time.monotonic() + LOOK_AGAIN
            return
        store.remove_remains(run.id)
        if run.fresh:
            checkpoint.remove(run.id)
        self._pending.remove(run)
        slot = next(n for n in range(self._executor.slots) if n not in self._active)
        thread = threading.Thread(target=self._make, args=(run, slot, shared), daemon=True)
        self._active[slot] = _Active(run, claim, thread, trainings)
        self._show.begin(slot, run.spec)
        self._listeners.start(run.id, run.spec)
        thread.start()

    def _claim_all(self, keys: Sequence[str]) -> dict[str, Claim] | None:
        """Claims of trainings; None, and no claim, where one is being made elsewhere or by another run."""
        found: dict[str, Claim] = {}
        for key in keys:
            if (claim := self._claims.take(key)) is None:
                for own in found.values():
                    own.release()
                return None
            found[key] = claim
        return found

    def _make(self, run: WantedRun, slot: int, shared: dict[str, bool]) -> None:
        """In a thread of its own."""
        try:
            self._executor.make(
                run.id, run.spec, slot, lambda event: self._events.put((slot, event)), shared
            )
        except BaseException as error:
            self._events.put((slot, error))
        else:
            self._events.put((slot, None))

    def _wait_for_something(self) -> None:
        with contextlib.suppress(queue.Empty):
            slot, what = self._events.get(timeout=LOOK_AGAIN / 2)
            if isinstance(what, dict):
                self._show.event(slot, what)
                self._listeners.epoch(self._active[slot].run.id, what)
            else:
                self._end(slot, what)
        for slot, active in self._active.items():
            if active.claim.lost:
                self._executor.cancel(slot)
            for key in [key for key in active.trainings if sharing.is_stored(key)]:
                active.trainings.pop(key).release()

    def _end(self, slot: int, error: BaseException | None) -> None:
        active = self._active.pop(slot)
        run, claim = active.run, active.claim
        try:
            lost = claim.lost and isinstance(error, DslbenchError)
            if lost or isinstance(error, CancelledError):  # another process makes it
                self._show.leave(slot, run.spec, "another process has taken it over")
                self._listeners.end(run.id, None, "another process has taken it over")
                self._pending.append(run)
            elif isinstance(error, StoreError):
                self._show.leave(slot, run.spec, "could not be stored")
                self._listeners.end(run.id, None, "could not be stored")
                self._stop(error)
            elif error is None or isinstance(error, DslbenchError):
                self._settle(run, slot, error)
            else:
                raise error
        finally:
            claim.release()
            for training in active.trainings.values():
                training.release()
            self._look_at.clear()  # what waited for a training of this run need not wait longer

    def _settle(
        self,
        run: WantedRun,
        slot: int | None,
        error: DslbenchError | None,
        elsewhere: bool = False,
    ) -> None:
        if run in self._pending:
            self._pending.remove(run)
        reason = None
        if error is not None:
            reason = error.message + (f" ({error.hint})" if error.hint else "")
            self._failed[run.id] = f"{run.spec.title}: {reason}"
            if slot is not None:
                try:
                    bill = getattr(error, "bill", None)
                    failures.write(run.id, run.spec, error.message, error.hint, bill)
                except (OSError, StoreError) as problem:
                    self._warn(f"the failure of run {run.id} could not be noted: {problem}")
        self._show.end(slot, run.id, run.spec, reason, elsewhere)
        if slot is not None:
            self._listeners.end(run.id, None if reason else store.read(run.id), reason)

    def _stop(self, error: StoreError) -> None:
        """Begin nothing any more."""
        self._full = self._full or error
        self._pending.clear()

    def _announce(self) -> None:
        held = [run for run in self._pending if run.id in self._look_at]
        if {run.id for run in held} <= self._announced:
            return
        self._announced |= {run.id for run in held}
        names = "; ".join(f"{r.spec.title} ({self._claims.holder(r.id)})" for r in held[:3])
        more = f" and {len(held) - 3} more" if len(held) > 3 else ""
        runs = number(len(held), "run")
        self._show.say(f"waiting for {runs} that others are making: {names}{more}")
