"""Several trainings in one process that take turns, so that a GPU computes for one while another's steps are launched.

Each runs in a thread of its own, and exactly one of them at a time: it hands over where it says `pause`, to the one
that has waited longest. So what happens, happens in the same order every time. What torch keeps once for the whole
process is put aside and taken up again at each handover: trainings in turns give the numbers that they give one after
the other, on a CPU bit for bit, as long as all random numbers are torch's.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor


_T = TypeVar("_T")
_LOOK = 0.5  # seconds between looks for Ctrl-C, in case the system told another thread of it
_here = threading.local()


class Stopped(BaseException):
    """Ends a call at its next handover since another one failed. No Exception, or it would pass for a head's."""


def pause() -> None:
    """Let each of the others run until its next pause; nothing outside of `together`."""
    seat = _seat()
    if seat is not None:
        seat.pause()


def sleep(seconds: float) -> None:
    """Sleep, and let the others run meanwhile."""
    seat = _seat()
    if seat is None:
        time.sleep(seconds)
    else:
        seat.sleep(seconds)


def settle() -> None:
    """Pause; on a GPU until it has computed what this call launched.

    To be called before a result is read: reading waits for the GPU, and nobody would launch anything meanwhile.
    """
    seat = _seat()
    if seat is not None:
        seat.settle()


def own_time() -> float:
    """Seconds of a clock that stands still while the others run."""
    seat = _seat()
    return time.perf_counter() - (seat.away if seat is not None else 0.0)


def together(calls: Sequence[Callable[[], _T]]) -> list[_T]:
    """Run all calls in turns, the first one first; their results, in order.

    Each begins with the caller's random states, which are afterwards as they were, and has a CUDA stream of its own
    where there is a GPU. An exception of one, or Ctrl-C, ends the others at their next handover; when all have ended
    it is raised here. A second Ctrl-C waits for nobody.
    """
    parent, before = _current_stream(), _Torch.now()
    shared = _Round()
    results: dict[int, _T] = {}

    def seated(number: int, call: Callable[[], _T]) -> _Seat:
        def keep() -> None:
            results[number] = call()

        return _Seat(shared, keep, before.copy(), parent)

    seats = [seated(number, call) for number, call in enumerate(calls)]
    shared.waiting.extend(seats)
    threads = [threading.Thread(target=seat.take, daemon=True) for seat in seats]
    for thread in threads:
        thread.start()
    shared.give()
    try:
        _join(threads)
    except BaseException:
        shared.stopping = True
        _join(threads)
        raise
    finally:
        before.put()
        for seat in seats:
            if parent is not None and seat.stream is not None:
                parent.wait_stream(seat.stream)
    if shared.error is not None:
        raise shared.error
    return [results[number] for number in range(len(calls))]


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        while thread.is_alive():
            thread.join(_LOOK)


def _seat() -> _Seat | None:
    """The place of this thread in its round; None outside of one."""
    return getattr(_here, "seat", None)


@dataclass
class _Torch:
    """What torch keeps once for the whole process, and training changes; grad mode and autocast are a thread's own.

    Attributes:
        cuda: of each GPU. Generators and not their contents: a CUDA graph goes on drawing from the one it was
            captured with.
    """

    cpu: Tensor
    cuda: list[torch.Generator]
    threads: int

    @staticmethod
    def now() -> _Torch:
        import torch

        cuda = [each.graphsafe_get_state() for each in _generators()]
        return _Torch(torch.get_rng_state(), cuda, torch.get_num_threads())

    def copy(self) -> _Torch:
        return _Torch(self.cpu, [each.clone_state() for each in self.cuda], self.threads)

    def put(self) -> None:
        import torch

        torch.set_rng_state(self.cpu)
        for generator, own in zip(_generators(), self.cuda, strict=True):
            generator.graphsafe_set_state(own)
        torch.set_num_threads(self.threads)


def _generators() -> tuple[torch.Generator, ...]:
    """The default generators of all GPUs."""
    import torch

    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return tuple(torch.cuda.default_generators) if started else ()


def _current_stream() -> torch.cuda.Stream | None:
    """The caller's; where there is a GPU it is started, as our random streams do, so that it has its generators."""
    import torch

    if not torch.cuda.is_available():
        return None
    torch.cuda.init()  # type: ignore[no-untyped-call]
    return torch.cuda.current_stream()


@dataclass
class _Round:
    """Who waits for a turn; `lock` guards it against those who come back from sleep.

    Attributes:
        taken: somebody runs.
        error: of the first call that failed.
    """

    waiting: deque[_Seat] = field(default_factory=deque)
    taken: bool = True
    stopping: bool = False
    error: BaseException | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def give(self) -> None:
        """Let the next one run, if any waits."""
        with self.lock:
            self.taken = bool(self.waiting)
            if self.waiting:
                self.waiting.popleft().go.release()

    def queue(self, seat: _Seat) -> None:
        """Line up; where nobody runs it is one's turn at once."""
        with self.lock:
            if self.taken:
                self.waiting.append(seat)
            else:
                self.taken = True
                seat.go.release()


class _Seat:
    """One call's place in a round.

    Attributes:
        go: held until it is this call's turn.
        away: seconds in which it was not.
    """

    def __init__(self, shared: _Round, call: Callable[[], None], own: _Torch, parent: torch.cuda.Stream | None) -> None:
        self.round, self.call, self.own = shared, call, own
        self.parent, self.stream = parent, None if parent is None else _new_stream(parent)
        self.go = threading.Lock()
        self.go.acquire()
        self.away, self.told = 0.0, False

    def take(self) -> None:
        """The whole of its thread."""
        _here.seat = self
        self.go.acquire()
        try:
            self.own.put()
            if not self.round.stopping:
                self._call()
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - raised by `together`
            self.round.error = self.round.error or error
            self.round.stopping = True
        finally:
            self.round.give()

    def _call(self) -> None:
        import torch

        if self.stream is None or self.parent is None:
            self.call()
            return
        torch.cuda.set_device(self.stream.device)
        self.stream.wait_stream(self.parent)
        with torch.cuda.stream(self.stream):
            self.call()

    def pause(self) -> None:
        if self.round.waiting:
            began = self._put_aside()
            self.round.queue(self)
            self.round.give()
            self._take_up(began)
        self._heed()

    def sleep(self, seconds: float) -> None:
        began = self._put_aside()
        self.round.give()
        time.sleep(seconds)
        self.round.queue(self)
        self._take_up(began)
        self._heed()

    def settle(self) -> None:
        self.pause()
        if self.stream is not None:
            computed = self.stream.record_event()
            while self.round.waiting and not computed.query():
                self.pause()

    def _put_aside(self) -> float:
        self.own = _Torch.now()
        return time.perf_counter()

    def _take_up(self, began: float) -> None:
        self.go.acquire()
        self.own.put()
        self.away += time.perf_counter() - began

    def _heed(self) -> None:
        """End if the others are to end; once, or what cleans up after this call would be ended too."""
        if self.round.stopping and not self.told:
            self.told = True
            raise Stopped


def _new_stream(parent: torch.cuda.Stream) -> torch.cuda.Stream:
    import torch

    return torch.cuda.Stream(parent.device)  # type: ignore[no-untyped-call]
